#include "isa.h"

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

FASTREENACT_DECLARE_ISA(plain)
#ifdef FASTREENACT_X86
FASTREENACT_DECLARE_ISA(avx2)
FASTREENACT_DECLARE_ISA(avx512)
FASTREENACT_DECLARE_ISA(avx512_bf16)
#endif

namespace {

struct Candidate {
    Kernels table;
    bool (*supported)();
};

bool always() {
    return true;
}
#ifdef FASTREENACT_X86
bool has_avx2() {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
bool has_avx512() {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
bool has_avx512_bf16() {
    return has_avx512() && __builtin_cpu_supports("avx512bf16");
}
#endif

// Slowest first.
const Candidate kCandidates[] = {
    {plain::kTable, always},
#ifdef FASTREENACT_X86
    {avx2::kTable, has_avx2},
    {avx512::kTable, has_avx512},
    {avx512_bf16::kTable, has_avx512_bf16},
#endif
};

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
