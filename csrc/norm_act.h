// norm_act: group, instance or adaptive normalisation, affine, residual, activation, nearest x2; 2-D as depth 1.
//
// Three steps: sums of blocks of pixels, one factor and summand per channel from them, then one sweep that normalises.
#pragma once
#include "substrate/common.h"

namespace fastreenact {

struct NormActParams {
    const void* x;         // [N, D, H, W, C] in `dtype`, channels contiguous
    const void* residual;  // the same shape and dtype, or null: added before the activation
    void* out;             // [N, rd * D, ry * H, rx * W, C] in `dtype`; overlaps nothing
    const void* scale;     // [N, C] in `affine_dtype`, or null for 1
    const void* shift;     // [N, C] in `affine_dtype`, or null for 0
    float* sums;           // work: [N, blocks, 3, row]: a centre near the mean, sums of x - centre and of its square
    double* moments;       // work: [N, 2, row]
    float* factors;        // work: [N, 3, row]: centre, factor, summand of the sweep
    int64_t n;             // samples
    int64_t depth;         // D
    int64_t height;        // H
    int64_t width;         // W
    int64_t channels;      // C; or fold * C, where `width` counts so many pixels that lie side by side as one
    int64_t fold;          // 1, or how many: few channels fill no vector
    int64_t row;           // elements of a row of the work arrays: fold * C rounded up to whole vectors
    int64_t groups;        // divides C
    int64_t block;         // pixels of one block of the sums
    int64_t blocks;        // blocks of one sample, the last perhaps smaller
    int64_t repeat_z;      // rd: 1 or 2, and so on
    int64_t repeat_y;
    int64_t repeat_x;
    int64_t x_stride_n;  // elements from sample to sample, and so on
    int64_t x_stride_z;
    int64_t x_stride_y;
    int64_t x_stride_x;
    int64_t residual_stride_n;
    int64_t residual_stride_z;
    int64_t residual_stride_y;
    int64_t residual_stride_x;
    int64_t out_stride_n;
    int64_t out_stride_z;
    int64_t out_stride_y;
    int64_t out_stride_x;
    int64_t scale_stride_n;  // 0 where all samples share one
    int64_t shift_stride_n;
    double eps;            // added to the variance
    int32_t dtype;         // Dtype: kFloat32 or kBFloat16
    int32_t affine_dtype;  // Dtype: kFloat32, or kBFloat16 with a kBFloat16 x
    int32_t activation;    // Activation: kNone, kRelu or kLeakyRelu
};

}  // namespace fastreenact
