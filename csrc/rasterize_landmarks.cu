// rasterize_landmarks on the GPU: all drawings of a frame in one launch, from 576 bytes of keypoints. Compiled by nvcc
// into the extension, or by NVRTC from this same text (fastreenact/ops/nvrtc.py).
#include "rasterize_landmarks.h"
#include "substrate/device.h"

namespace fastreenact {

constexpr int kLanes = 32;  // a segment is drawn by one warp

// A block draws one tile of drawing blockIdx.y. Who draws over whom is settled in shared memory by the greatest segment
// number, in whatever order they are drawn.
extern "C" __global__ void __launch_bounds__(kRasterizeThreads)
    rasterize_landmarks_kernel(const __grid_constant__ RasterizeLandmarksParams p) {
    __shared__ int32_t tops[kTilePixels];  // 1 + the segment seen at a pixel; 0: none
    __shared__ Stroke strokes[kRasterizeThreads];
    const Drawing& d = p.drawings[blockIdx.y];
    const int32_t size = static_cast<int32_t>(d.size), segments = static_cast<int32_t>(d.segment_count);
    const int32_t thread = threadIdx.x, warp = thread / kLanes, lane = thread % kLanes;
    if (int32_t(blockIdx.x) >= tile_count(size)) return;  // all of the block
    const Tile tile = tile_at(size, blockIdx.x);
    const int32_t pixels = tile.width * tile.height;
    for (int64_t n = blockIdx.z; n < p.n; n += gridDim.z) {
        for (int32_t i = thread; i < pixels; i += kRasterizeThreads) tops[i] = 0;
        for (int32_t first = 0; first < segments; first += kRasterizeThreads) {
            if (first + thread < segments) strokes[thread] = stroke_of(p, d, n, first + thread);
            __syncthreads();  // strokes are whole, and tops clear
            for (int32_t s = first + warp; s < segments && s < first + kRasterizeThreads;
                 s += kRasterizeThreads / kLanes) {
                draw_share(strokes[s - first], tile, size, lane, kLanes,
                           [&](int32_t pixel) { atomicMax(&tops[pixel], s + 1); });
            }
            __syncthreads();  // all are drawn before the next ones take their place, or are looked at
        }
        for (int32_t i = thread; i < 3 * pixels; i += kRasterizeThreads) {
            const int32_t pixel = i / 3, c = i - 3 * pixel, row = pixel / tile.width;
            const int64_t y = tile.top + row, x = tile.left + pixel - row * tile.width;
            const int32_t top = tops[pixel];
            d.out[n * d.out_stride_n + y * d.out_stride_y + x * d.out_stride_x + c] =
                top > 0 ? d.colours[3 * (top - 1) + c] : uint8_t(0);
        }
        __syncthreads();  // the next picture clears what this one reads
    }
}

}  // namespace fastreenact

#ifndef __CUDACC_RTC__
#include "substrate/launch.h"

namespace fastreenact {

static const CompiledKernels kRasterizeKernels({FASTREENACT_KERNEL(rasterize_landmarks_kernel)});

}  // namespace fastreenact
#endif
