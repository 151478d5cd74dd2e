// mbconv: an inverted residual: expand 1x1, ReLU, depthwise 3x3, ReLU, project 1x1; BatchNorm is folded in.
#pragma once
#include "substrate/common.h"

namespace fastreenact {

struct MbconvParams {
    const void* x;  // [N, H, W, Cin] in `dtype`, channels contiguous
    void* out;      // [N, Ho, Wo, Cout] in `dtype`, channels contiguous
    const void*
        expand;  // panels (csrc/substrate/gemm.h; GPU: csrc/substrate/mma.h), K = Cin; null: the hidden map is x itself
    const float* expand_bias;     // [hidden], padded to whole panels
    const float* depthwise;       // [9][hidden], padded
    const float* depthwise_bias;  // [hidden], padded
    const void* project;          // panels, K = hidden, padded to whole panels
    const float* project_bias;    // [Cout], padded
    int64_t n;                    // pictures
    int64_t height;               // of x
    int64_t width;
    int64_t out_height;
    int64_t out_width;
    int64_t channels_in;
    int64_t hidden;
    int64_t channels_out;
    int64_t x_stride_n;  // elements from picture to picture, and so on
    int64_t x_stride_y;
    int64_t x_stride_x;
    int64_t out_stride_n;
    int64_t out_stride_y;
    int64_t out_stride_x;
    // GPU: where mbconv_plan asks for one, the hidden map [N, H, W, hidden padded] in `dtype`. CPU: where there are
    // groups, their shares [groups][N, Ho, Wo, Cout padded to whole panels] float32; null: the rows are shared out.
    void* workspace;
    int32_t dtype;         // Dtype: kFloat32 or kBFloat16, on a GPU also kFloat16
    int32_t stride;        // of the depthwise convolution, 1 or 2
    int32_t upsample;      // 1: x is doubled by nearest first and cropped to the output's size (stride 1)
    int32_t residual;      // 1: x is added (stride 1, Cin = Cout, no upsample)
    int32_t half_sums;     // GPU: 1: float16 is summed in float16 over 64 products, then in float32
    int32_t architecture;  // GPU: its compute capability times ten, 75 on
    int32_t groups;        // CPU: parts that the hidden channels are shared out in, where rows are few
};

}  // namespace fastreenact
