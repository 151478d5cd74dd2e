// compose_frame on the GPU. Compiled by nvcc into the extension, or by NVRTC from this same text
// (fastreenact/ops/nvrtc.py): host code stands apart under __CUDACC_RTC__.
#include "compose_frame.h"
#include "substrate/device.h"

namespace fastreenact {

// Three colours in levels and the gain less 1.
struct Change {
    float value[4];
};

template <int32_t kType>
__device__ __forceinline__ Change read_change(const ComposeFrameParams& p, int64_t row, int64_t column, float& doubt) {
    const int64_t first = row * p.raw_stride_y + column * p.raw_stride_x;
    float values[4];
#pragma unroll
    for (int c = 0; c < 4; ++c) values[c] = load<kType>(p.raw, first + c), doubt += values[c] * 0.0f;
    Change change;
#pragma unroll
    for (int c = 0; c < 3; ++c) change.value[c] = 255.0f * level_tanh(values[c]);
    const float gain = level_tanh(0.5f * (values[3] - p.gain_middle));
    change.value[3] = gain * p.gain_scale + p.gain_shift;
    return change;
}

// From `a` towards `b`; at 0 it is `a` whatever `b` is.
__device__ __forceinline__ Change between(const Change& a, const Change& b, float weight) {
    Change change;
#pragma unroll
    for (int c = 0; c < 4; ++c) change.value[c] = a.value[c] + weight * (b.value[c] - a.value[c]);
    return change;
}

template <int32_t kType>
__device__ __forceinline__ void compose_pixel(const ComposeFrameParams& p, const ComposeTap& y, const ComposeTap& x,
                                              uint8_t* pixel) {
    float doubt = 0.0f;  // NaN once a value was not finite
    const Change upper =
        between(read_change<kType>(p, y.low, x.low, doubt), read_change<kType>(p, y.low, x.high, doubt), x.weight);
    const Change lower =
        between(read_change<kType>(p, y.high, x.low, doubt), read_change<kType>(p, y.high, x.high, doubt), x.weight);
    if (p.flag != nullptr && doubt != doubt) *p.flag = 1;  // whoever else writes, writes the same
    const Change change = between(upper, lower, y.weight);
    const float say = y.say * x.say;
#pragma unroll
    for (int c = 0; c < 3; ++c) {
        const float base = pixel[c];
        float level = base + say * (change.value[3] * base + change.value[c]) + 0.5f;
        level = level > 0.0f ? level : 0.0f;  // false for NaN
        pixel[c] = uint8_t(level < 255.0f ? level : 255.0f);
    }
}

// Any grid covers any rectangle.
template <int32_t kType>
__device__ __forceinline__ void rows(const ComposeFrameParams& all) {
    const ComposeFrameParams p = compose_frame_of(all, blockIdx.z);
    for (int64_t column = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; column < p.width;
         column += int64_t(gridDim.x) * blockDim.x) {
        const ComposeTap x = compose_tap(p.left + column, p.centre_x, p.size, p.side, p.fade);
        for (int64_t row = int64_t(blockIdx.y) * blockDim.y + threadIdx.y; row < p.height;
             row += int64_t(gridDim.y) * blockDim.y) {
            const ComposeTap y = compose_tap(p.top + row, p.centre_y, p.size, p.side, p.fade);
            compose_pixel<kType>(p, y, x, p.surface + (p.top + row) * p.surface_stride + 3 * (p.left + column));
        }
    }
}

// Not a template: NVRTC's caller finds it by this name.
extern "C" __global__ void __launch_bounds__(kPictureThreadsX* kPictureThreadsY)
    compose_frame_kernel(const ComposeFrameParams p) {
    FASTREENACT_BY_DTYPE(p.dtype, rows, p);
}

}  // namespace fastreenact

#ifndef __CUDACC_RTC__
#include "substrate/launch.h"

namespace fastreenact {

static const CompiledKernels kComposeFrameKernels({FASTREENACT_KERNEL(compose_frame_kernel)});

}  // namespace fastreenact
#endif
