// tail: nearest x2, depthwise 3x3, ReLU, then the decoder's last 1x1 and 3x3 as one 3x3, in one pass.
//
// Zero padding meets the 1x1's bias: at the border the taps outside lack it, so that there are nine biases.
#pragma once
#include "substrate/common.h"

namespace fastreenact {

struct TailParams {
    const void* x;                // [N, ceil(H / 2), ceil(W / 2), C] in `dtype`, channels contiguous
    void* out;                    // [N, H, W, Cout] in `dtype`, channels contiguous
    const float* depthwise;       // [9][C]
    const float* depthwise_bias;  // [C]
    const void* weights;          // 3x3, C to Cout, in the layout of the device; the GPU's is float32 [C][3][3][4]
    const float* bias;            // [3][3][kPanel]: first, inner, last row; first, inner, last column
    int64_t n;
    int64_t height;  // of out
    int64_t width;
    int64_t channels_in;
    int64_t channels_out;
    int64_t x_stride_n;  // elements from picture to picture, and so on
    int64_t x_stride_y;
    int64_t x_stride_x;
    int64_t out_stride_n;
    int64_t out_stride_y;
    int64_t out_stride_x;
    int32_t dtype;  // Dtype
};

// The GPU's tiles.
constexpr int kTailChannels = 8;
constexpr int kTailRows = 8;
constexpr int kTailColumns = 64;
constexpr int kTailThreads = kTailRows * kTailColumns / 4;
constexpr int kTailBiases = 16;  // from bias to bias: kPanel
constexpr int kTailSharedBytes = 24064;

FASTREENACT_INLINE int32_t tail_tiles(int64_t length, int32_t side) {
    return static_cast<int32_t>((length + side - 1) / side);
}

#ifndef __CUDACC_RTC__
FASTREENACT_INLINE LaunchShape tail_shape(const TailParams& p) {
    const int64_t tiles = p.n * tail_tiles(p.width, kTailColumns) * tail_tiles(p.height, kTailRows);
    return {static_cast<uint32_t>(tiles), 1, 1, kTailThreads, kTailSharedBytes};
}
#endif

}  // namespace fastreenact
