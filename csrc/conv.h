// conv: a dense convolution whose kernel may differ from output to output by a repeating pattern of phases.
//
// Along an axis, output o = phases * cell + phase sees `taps[phase]` inputs from step * cell + offset[phase] on. A
// plain convolution has one phase (step = stride, offset = -padding). Nearest x2 followed by 3x3 has two phases of two
// taps: the taps that see the same input are summed beforehand. SPADE's second convolution over cells has five.
#pragma once
#include "substrate/common.h"

namespace fastreenact {

constexpr int kMaxPhases = 5;

struct ConvAxis {
    int32_t phases;
    int32_t step;
    int32_t offset[kMaxPhases];
    int32_t taps[kMaxPhases];
};

struct ConvParams {
    const void* x;                // [N, H, W, Cin] in x_dtype, channels contiguous; beyond it are zeros
    const void* weights;          // of all phases, one after another, in the layout of the device
    const float* bias;            // [Cout], padded to whole panels
    const void* add;              // [A, Ho, Wo, Cout] in out_dtype, added before the activation; null: nothing
    const void* residual;         // [N, Ho, Wo, Cout] in out_dtype, added after it, may be `out`; null: nothing
    void* out;                    // [N, Ho, Wo, Cout] in out_dtype, channels contiguous
    const int32_t* source_index;  // [N], the picture of `add` that each output takes; null: its own, or the only one
    ConvAxis axis_y;
    ConvAxis axis_x;
    int64_t
        weights_at[kMaxPhases * kMaxPhases];  // where those of phase (y, x) begin, in elements: [y * kMaxPhases + x]
    int64_t n;
    int64_t height;  // of x
    int64_t width;
    int64_t channels_in;
    int64_t out_height;
    int64_t out_width;
    int64_t channels_out;
    int64_t x_stride_n;  // elements from picture to picture, and so on
    int64_t x_stride_y;
    int64_t x_stride_x;
    int64_t add_stride_n;  // 0: one for all
    int64_t add_stride_y;
    int64_t add_stride_x;
    int64_t residual_stride_n;
    int64_t residual_stride_y;
    int64_t residual_stride_x;
    int64_t out_stride_n;
    int64_t out_stride_y;
    int64_t out_stride_x;
    float x_scale;  // x * x_scale + x_shift is convolved; for uint8 pictures
    float x_shift;
    int32_t x_dtype;        // Dtype
    int32_t dtype;          // what is multiplied: kFloat32, kBFloat16, kFloat16 (GPU)
    int32_t out_dtype;      // `dtype` or kFloat32
    int32_t activation;     // kNone or kRelu, before the residual
    int32_t residual_half;  // 1: the residual is [N, ceil(Ho / 2), ceil(Wo / 2), Cout], doubled by nearest
    int32_t winograd;       // CPU: 1: a plain 3x3 with stride 1, its weights transformed: [16][Cout][Cin]
    int32_t groups;         // CPU: parts that the panels of output channels are shared out in, where pixels are few
};

#ifndef __CUDACC__
// Output rows of one row of cells, or of Winograd's tiles.
inline int64_t conv_row_outputs(const ConvParams& p) {
    return p.winograd ? 2 : p.axis_y.phases;
}
#endif

}  // namespace fastreenact
