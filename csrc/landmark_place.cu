// landmark_place on the GPU: a frame by a block. Compiled by nvcc into the extension, or by NVRTC from this same text
// (fastreenact/ops/nvrtc.py).
#include "landmark_place.h"
#include "substrate/device.h"
#include "substrate/team.h"

namespace fastreenact {

extern "C" __global__ void __launch_bounds__(kPlaceThreads, 1) landmark_place_kernel(const LandmarkPlaceParams p) {
    landmark_place_frame(p, blockIdx.x, BlockTeam<kPlaceThreads>());
}

}  // namespace fastreenact

#ifndef __CUDACC_RTC__
#include "substrate/launch.h"

namespace fastreenact {

static const CompiledKernels kLandmarkPlaceKernels({FASTREENACT_KERNEL(landmark_place_kernel)});

}  // namespace fastreenact
#endif
