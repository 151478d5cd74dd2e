// shrink on the GPU. Compiled by nvcc into the extension, or by NVRTC from this same text (fastreenact/ops/nvrtc.py).
#include "shrink.h"
#include "substrate/device.h"

namespace fastreenact {

// The weighted columns of one row of the picture, of one colour.
__device__ __forceinline__ float row_sum(const uint8_t* row, const ShrinkTap* taps, int samples) {
    float sum = 0.0f;
    for (int s = 0; s < samples; ++s)
        sum += row[3 * taps[s].low] * taps[s].lower + row[3 * taps[s].low + 3] * taps[s].upper;
    return sum;
}

template <int32_t kType>
__device__ __forceinline__ void rows(const ShrinkParams& p) {
    const int samples = int(p.samples);
    const float scale = 2.0f / (255.0f * float(samples * samples));
    const ShrinkParams q = shrink_frame(p, blockIdx.z);
    for (int64_t y = int64_t(blockIdx.y) * blockDim.y + threadIdx.y; y < p.side; y += int64_t(gridDim.y) * blockDim.y) {
        for (int64_t x = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; x < p.side;
             x += int64_t(gridDim.x) * blockDim.x) {
            ShrinkTap across[2], down[2];
            for (int s = 0; s < samples; ++s) {
                across[s] = shrink_tap(x * samples + s, p.side * samples, q.left, q.size, p.width);
                down[s] = shrink_tap(y * samples + s, p.side * samples, q.top, q.size, p.height);
            }
            for (int c = 0; c < 3; ++c) {
                float sum = 0.0f;
                for (int s = 0; s < samples; ++s) {
                    const uint8_t* row = q.picture + down[s].low * p.stride + c;
                    sum += row_sum(row, across, samples) * down[s].lower;
                    sum += row_sum(row + p.stride, across, samples) * down[s].upper;
                }
                store<kType>(q.out, 3 * (y * p.side + x) + c, sum * scale - 1.0f);
            }
        }
    }
}

extern "C" __global__ void __launch_bounds__(kPictureThreadsX* kPictureThreadsY) shrink_kernel(const ShrinkParams p) {
    FASTREENACT_BY_DTYPE(p.dtype, rows, p);
}

}  // namespace fastreenact

#ifndef __CUDACC_RTC__
#include "substrate/launch.h"

namespace fastreenact {

static const CompiledKernels kShrinkKernels({FASTREENACT_KERNEL(shrink_kernel)});

}  // namespace fastreenact
#endif
