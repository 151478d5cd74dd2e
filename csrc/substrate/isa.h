// Which instruction set the CPU kernels run on: chosen once, at the first use.
#pragma once
#include "substrate/common.h"

namespace fastreenact {

struct ComposeFrameParams;
struct ConvParams;
struct DictionaryReadParams;
struct FitFaceParams;
struct GridSample3dParams;
struct LandmarkFieldParams;
struct LayCoverParams;
struct MbconvParams;
struct NormActParams;
struct RenderMeshParams;
struct ShrinkParams;
struct SlitCoverParams;
struct SpadeParams;
struct TailParams;
struct ToFrameParams;
struct WarpParams;

// One entry per op: computes the output rows [begin, end), rows counted through the batch (n * H + y); compose_frame
// those of its rectangle, conv rows of cells, once for each group of channels, mbconv
// groups of channels where it has them, which mbconv_sum adds up, render_mesh the pictures [begin, end),
// dictionary_read after dictionary_pack of all panels, norm_act the input rows after norm_act_sums of all blocks and
// norm_act_factors of all samples; landmark_rows the rows after landmark_solve of all splines and landmark_nodes of all
// blocks of nodes.
#define FASTREENACT_KERNELS(X)               \
    X(compose_frame, ComposeFrameParams)     \
    X(conv, ConvParams)                      \
    X(dictionary_pack, DictionaryReadParams) \
    X(dictionary_read, DictionaryReadParams) \
    X(fit_face, FitFaceParams)               \
    X(grid_sample_3d, GridSample3dParams)    \
    X(landmark_solve, LandmarkFieldParams)   \
    X(landmark_nodes, LandmarkFieldParams)   \
    X(landmark_rows, LandmarkFieldParams)    \
    X(lay_cover, LayCoverParams)             \
    X(mbconv, MbconvParams)                  \
    X(mbconv_sum, MbconvParams)              \
    X(norm_act_sums, NormActParams)          \
    X(norm_act_factors, NormActParams)       \
    X(norm_act, NormActParams)               \
    X(render_mesh, RenderMeshParams)         \
    X(shrink, ShrinkParams)                  \
    X(slit_cover, SlitCoverParams)           \
    X(spade, SpadeParams)                    \
    X(tail, TailParams)                      \
    X(to_frame, ToFrameParams)               \
    X(warp, WarpParams)

struct Kernels {
    const char* name;
#define FASTREENACT_ENTRY(op, Params) void (*op)(const Params&, int64_t begin, int64_t end);
    FASTREENACT_KERNELS(FASTREENACT_ENTRY)
#undef FASTREENACT_ENTRY
};

// The table of the fastest instruction set here, or of the one that FASTREENACT_ISA names.
// Throws std::invalid_argument when that one is unknown, not built in, or not supported by this processor.
const Kernels& kernels();

// Calls visit(name, supported) for each instruction set built in, slowest first.
void visit_isas(void (*visit)(void* context, const char* name, bool supported), void* context);

}  // namespace fastreenact
