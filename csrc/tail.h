// tail: nearest x2, depthwise 3x3, ReLU, then the decoder's last 1x1 and 3x3 as one 3x3, in one pass.
//
// Zero padding meets the 1x1's bias: at the border the taps outside lack it, so that there are nine biases.
#pragma once
#include "common.h"

namespace fastreenact {

struct TailParams {
    const void* x;                // [N, ceil(H / 2), ceil(W / 2), C] in `dtype`, channels contiguous
    void* out;                    // [N, H, W, Cout] in `dtype`, channels contiguous
    const float* depthwise;       // [9][C]
    const float* depthwise_bias;  // [C]
    const void* weights;          // 3x3, C to Cout, in the layout of the device
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

}  // namespace fastreenact
