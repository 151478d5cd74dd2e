// landmark_nodes on the GPU: a tile of nodes by a block. Compiled by nvcc into the extension, or by NVRTC from this
// same text (fastreenact/ops/nvrtc.py).
#include "landmark_nodes.h"
#include "substrate/device.h"
#include "substrate/team.h"

namespace fastreenact {

// Not a template: NVRTC's caller finds it by this name.
extern "C" __global__ void __launch_bounds__(kNodeThreads, 1) landmark_nodes_kernel(const LandmarkNodesParams p) {
    extern __shared__ uint4 shared_memory[];
    LandmarkTile& tile = *reinterpret_cast<LandmarkTile*>(shared_memory);
    const int64_t rows = landmark_tiles(p, p.height);
    for (int64_t n = blockIdx.z; n < p.n; n += gridDim.z) {
        for (int64_t row = blockIdx.y; row < rows; row += gridDim.y) {
            landmark_tile(p, n, blockIdx.x, row, tile, BlockTeam<kNodeThreads>());
        }
    }
}

}  // namespace fastreenact

#ifndef __CUDACC_RTC__
#include "substrate/launch.h"

namespace fastreenact {

static const CompiledKernels kLandmarkNodesKernels({FASTREENACT_KERNEL(landmark_nodes_kernel)});

}  // namespace fastreenact
#endif
