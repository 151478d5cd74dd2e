#include "substrate/isa.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace fastreenact {

#define FASTREENACT_DECLARE(op, Params) void op(const Params&, int64_t, int64_t);
#define FASTREENACT_DECLARE_ISA(isa)                                             \
    namespace isa {                                                              \
    FASTREENACT_KERNELS(FASTREENACT_DECLARE)                                     \
    constexpr Kernels kTable = {#isa, FASTREENACT_KERNELS(FASTREENACT_ADDRESS)}; \
    }
#define FASTREENACT_ADDRESS(op, Params) op,

// The build says which there are, slowest first: ISA(plain) ISA(avx2) and so on.
#define ISA(name) FASTREENACT_DECLARE_ISA(name)
FASTREENACT_ISAS
#undef ISA

namespace {

struct Candidate {
    Kernels table;
    bool (*supported)();
};

[[maybe_unused]] bool has_plain() {
    return true;
}
#ifdef FASTREENACT_X86
[[maybe_unused]] bool has_avx2() {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
[[maybe_unused]] bool has_avx512() {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
[[maybe_unused]] bool has_avx512_bf16() {
    return has_avx512() && __builtin_cpu_supports("avx512bf16");
}
#endif

#define ISA(name) {name::kTable, has_##name},
const Candidate kCandidates[] = {FASTREENACT_ISAS};
#undef ISA

const Kernels& choose() {
    const char* wanted = std::getenv("FASTREENACT_ISA");
    const bool forced = wanted != nullptr && *wanted != '\0';
    const Candidate* best = nullptr;
    std::string usable;
    for (const Candidate& candidate : kCandidates) {
        const bool supported = candidate.supported();
        if (forced && std::string(wanted) == candidate.table.name) {
            if (supported) return candidate.table;
            throw std::invalid_argument(std::string("FASTREENACT_ISA=") + wanted +
                                        ": this processor does not have it; unset the variable to choose by itself");
        }
        if (!supported) continue;
        best = &candidate;
        usable += (usable.empty() ? "" : ", ") + std::string(candidate.table.name);
    }
    if (forced) {
        throw std::invalid_argument(std::string("FASTREENACT_ISA=") + wanted + " is unknown; usable here: " + usable);
    }
    if (best == nullptr) throw std::invalid_argument("this processor has none of the instruction sets built in");
    return best->table;
}

}  // namespace

const Kernels& kernels() {
    static const Kernels& chosen = choose();  // an exception leaves it unset, so the next call tells again
    return chosen;
}

void visit_isas(void (*visit)(void* context, const char* name, bool supported), void* context) {
    for (const Candidate& candidate : kCandidates) visit(context, candidate.table.name, candidate.supported());
}

}  // namespace fastreenact
