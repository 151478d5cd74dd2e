#include "isa.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace fastreenact {

#define FASTREENACT_DECLARE_ISA(isa)                                   \
    namespace isa {                                                    \
    void compose_frame(const ComposeFrameParams&, int64_t, int64_t);   \
    void conv(const ConvParams&, int64_t, int64_t);                    \
    void fit_face(const FitFaceParams&, int64_t, int64_t);             \
    void grid_sample_3d(const GridSample3dParams&, int64_t, int64_t);  \
    void landmark_solve(const LandmarkFieldParams&, int64_t, int64_t); \
    void landmark_nodes(const LandmarkFieldParams&, int64_t, int64_t); \
    void landmark_rows(const LandmarkFieldParams&, int64_t, int64_t);  \
    void lay_cover(const LayCoverParams&, int64_t, int64_t);           \
    void mbconv(const MbconvParams&, int64_t, int64_t);                \
    void mbconv_sum(const MbconvParams&, int64_t, int64_t);            \
    void norm_act_sums(const NormActParams&, int64_t, int64_t);        \
    void norm_act_factors(const NormActParams&, int64_t, int64_t);     \
    void norm_act(const NormActParams&, int64_t, int64_t);             \
    void render_mesh(const RenderMeshParams&, int64_t, int64_t);       \
    void shrink(const ShrinkParams&, int64_t, int64_t);                \
    void slit_cover(const SlitCoverParams&, int64_t, int64_t);         \
    void spade(const SpadeParams&, int64_t, int64_t);                  \
    void tail(const TailParams&, int64_t, int64_t);                    \
    void to_frame(const ToFrameParams&, int64_t, int64_t);             \
    void warp(const WarpParams&, int64_t, int64_t);                    \
    }
#define FASTREENACT_TABLE(isa) \
    {#isa,                     \
     isa::compose_frame,       \
     isa::conv,                \
     isa::fit_face,            \
     isa::grid_sample_3d,      \
     isa::landmark_solve,      \
     isa::landmark_nodes,      \
     isa::landmark_rows,       \
     isa::lay_cover,           \
     isa::mbconv,              \
     isa::mbconv_sum,          \
     isa::norm_act_sums,       \
     isa::norm_act_factors,    \
     isa::norm_act,            \
     isa::render_mesh,         \
     isa::shrink,              \
     isa::slit_cover,          \
     isa::spade,               \
     isa::tail,                \
     isa::to_frame,            \
     isa::warp}

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
    {FASTREENACT_TABLE(plain), always},
#ifdef FASTREENACT_X86
    {FASTREENACT_TABLE(avx2), has_avx2},
    {FASTREENACT_TABLE(avx512), has_avx512},
    {FASTREENACT_TABLE(avx512_bf16), has_avx512_bf16},
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
