// Which instruction set the CPU kernels run on: chosen once, at the first use.
#pragma once
#include "common.h"

namespace fastreenact {

struct ComposeFrameParams;
struct ConvParams;
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
// norm_act the input rows after norm_act_sums of all blocks and norm_act_factors of all samples; landmark_rows the rows
// after landmark_solve of all splines and landmark_nodes of all blocks of nodes.
struct Kernels {
    const char* name;
    void (*compose_frame)(const ComposeFrameParams&, int64_t begin, int64_t end);
    void (*conv)(const ConvParams&, int64_t begin, int64_t end);
    void (*fit_face)(const FitFaceParams&, int64_t begin, int64_t end);
    void (*grid_sample_3d)(const GridSample3dParams&, int64_t begin, int64_t end);  // rows at every depth
    void (*landmark_solve)(const LandmarkFieldParams&, int64_t begin, int64_t end);
    void (*landmark_nodes)(const LandmarkFieldParams&, int64_t begin, int64_t end);
    void (*landmark_rows)(const LandmarkFieldParams&, int64_t begin, int64_t end);
    void (*lay_cover)(const LayCoverParams&, int64_t begin, int64_t end);
    void (*mbconv)(const MbconvParams&, int64_t begin, int64_t end);
    void (*mbconv_sum)(const MbconvParams&, int64_t begin, int64_t end);
    void (*norm_act_sums)(const NormActParams&, int64_t begin, int64_t end);
    void (*norm_act_factors)(const NormActParams&, int64_t begin, int64_t end);
    void (*norm_act)(const NormActParams&, int64_t begin, int64_t end);
    void (*render_mesh)(const RenderMeshParams&, int64_t begin, int64_t end);
    void (*shrink)(const ShrinkParams&, int64_t begin, int64_t end);
    void (*slit_cover)(const SlitCoverParams&, int64_t begin, int64_t end);
    void (*spade)(const SpadeParams&, int64_t begin, int64_t end);
    void (*tail)(const TailParams&, int64_t begin, int64_t end);
    void (*to_frame)(const ToFrameParams&, int64_t begin, int64_t end);
    void (*warp)(const WarpParams&, int64_t begin, int64_t end);
};

// The table of the fastest instruction set here, or of the one that FASTREENACT_ISA names.
// Throws std::invalid_argument when that one is unknown, not built in, or not supported by this processor.
const Kernels& kernels();

// Calls visit(name, supported) for each instruction set built in, slowest first.
void visit_isas(void (*visit)(void* context, const char* name, bool supported), void* context);

}  // namespace fastreenact
