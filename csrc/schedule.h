// A checked call of each op: its parameters with what a run has to know besides, how the CPU's threads share its work,
// and what is launched on a GPU. `run` may set up work memory in the parameters, which are the caller's copy. Throws
// std::invalid_argument where an index leaves its table: the one check that needs the values.
#pragma once
#include <cstdint>
#include <vector>

#include "compose_frame.h"
#include "conv.h"
#include "dictionary_read.h"
#include "fit_face.h"
#include "grid_sample_3d.h"
#include "landmark_covers.h"
#include "landmark_field.h"
#include "landmark_nodes.h"
#include "landmark_place.h"
#include "mbconv.h"
#include "norm_act.h"
#include "rasterize_landmarks.h"
#include "render_mesh.h"
#include "shrink.h"
#include "slit_cover.h"
#include "spade.h"
#include "substrate/launch.h"
#include "tail.h"
#include "to_frame.h"
#include "warp.h"

namespace fastreenact {

// Its indices stay below these.
struct WarpCall : WarpParams {
    int64_t sources, rows, columns;
};
struct SpadeCall : SpadeParams {
    int64_t rows, columns;
};
struct ConvCall : ConvParams {
    int64_t addends;
    int32_t architecture;  // of the GPU, times ten
};
struct LandmarkFieldCall : LandmarkFieldParams {
    int64_t fine_rows;  // of out
};

void run(ComposeFrameParams& p);
void run(ConvCall& p);
void run(DictionaryReadParams& p);
void run(FitFaceParams& p);
void run(GridSample3dParams& p);
void run(LandmarkFieldCall& p);
void run(LandmarkCoversParams& p);
void run(LandmarkNodesParams& p);
void run(LandmarkPlaceParams& p);
void run(LayCoverParams& p);
void run(MbconvParams& p);
void run(NormActParams& p);
void run(RasterizeLandmarksParams& p);
void run(RasterizeLinesParams& p);
void run(RenderMeshParams& p);
void run(ShrinkParams& p);
void run(SlitCoverParams& p);
void run(SpadeCall& p);
void run(TailParams& p);
void run(ToFrameParams& p);
void run(WarpCall& p);

// In order; empty where there is nothing to do, or the op has no CUDA source.
std::vector<Launch> launches(const ComposeFrameParams& p);
std::vector<Launch> launches(const std::vector<ConvCall>& convs);  // as one, of one dtype, on different memory
std::vector<Launch> launches(const ConvCall& p);
std::vector<Launch> launches(const LandmarkCoversParams& p);
std::vector<Launch> launches(const LandmarkNodesParams& p);
std::vector<Launch> launches(const LandmarkPlaceParams& p);
std::vector<Launch> launches(const MbconvParams& p);
std::vector<Launch> launches(const RasterizeLandmarksParams& p);
std::vector<Launch> launches(const ShrinkParams& p);
std::vector<Launch> launches(const TailParams& p);
std::vector<Launch> launches(const ToFrameParams& p);
template <typename Params>
std::vector<Launch> launches(const Params&) {
    return {};
}

// Bytes of work memory that the launches need.
int64_t workspace_bytes_of(const MbconvParams& p);
template <typename Params>
int64_t workspace_bytes_of(const Params&) {
    return 0;
}

}  // namespace fastreenact
