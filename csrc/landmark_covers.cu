// landmark_covers on the GPU: a thread keeps its pixels through all layers, which may overlap. Compiled by nvcc into
// the extension, or by NVRTC from this same text (fastreenact/ops/nvrtc.py).
#include "landmark_covers.h"
#include "substrate/device.h"

namespace fastreenact {

extern "C" __global__ void __launch_bounds__(kPictureThreadsX* kPictureThreadsY, 2)
    landmark_covers_kernel(const LandmarkCoversParams p) {
    for (int64_t n = blockIdx.z; n < p.n; n += gridDim.z) {
        const LandmarkCover* covers = p.frames[n].plan.covers;
        int32_t left = int32_t(p.width), top = int32_t(p.height), right = 0, low = 0;  // around all layers
        for (int s = 0; s < kSlits; ++s) {
            if (covers[s].right <= covers[s].left) continue;
            left = covers[s].left < left ? covers[s].left : left, top = covers[s].top < top ? covers[s].top : top;
            right = covers[s].right > right ? covers[s].right : right, low = covers[s].low > low ? covers[s].low : low;
        }
        right = right < p.width ? right : int32_t(p.width), low = low < p.height ? low : int32_t(p.height);
        for (int32_t y = top + blockIdx.y * blockDim.y + threadIdx.y; y < low; y += gridDim.y * blockDim.y) {
            for (int32_t x = left + blockIdx.x * blockDim.x + threadIdx.x; x < right; x += gridDim.x * blockDim.x) {
                uint8_t* pixel = p.surface + n * p.stride_n + y * p.stride_y + 3 * x;
                for (int s = 0; s < kSlits; ++s) cover_pixel(covers[s], x, y, pixel);
            }
        }
    }
}

}  // namespace fastreenact

#ifndef __CUDACC_RTC__
#include "substrate/launch.h"

namespace fastreenact {

static const CompiledKernels kLandmarkCoversKernels({FASTREENACT_KERNEL(landmark_covers_kernel)});

}  // namespace fastreenact
#endif
