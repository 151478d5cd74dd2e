// warp: bilinear sampling of channels-last maps by a motion field, with an affine and an activation on the way out.
#pragma once
#include "substrate/common.h"

namespace fastreenact {

struct WarpParams {
    const void* features;  // [A, H, W, C] in `dtype`, channels contiguous
    const float* field;    // [N, h, w, 2]: (x, y), -1 and 1 are the outer pixel edges
    const int32_t*
        source_index;          // [N] in [0, A): the features' picture that each output samples; null: A is N, its own
    void* out;                 // [N, out_height, out_width, C] in `dtype`, channels contiguous; overlaps nothing
    Table scale;               // [N, Ty, Tx, C] in `table_dtype`, or none
    Table shift;               // the same, and none exactly when scale is none
    const int32_t* index_y;    // [out_height] row of the tables for each row; null: the row itself
    const int32_t* index_x;    // [out_width] column of the tables for each column; null: the column itself
    int64_t n;                 // N, outputs
    int64_t height;            // H, rows of features
    int64_t width;             // W, columns of features
    int64_t channels;          // C
    int64_t out_height;        // rows of out
    int64_t out_width;         // columns of out
    int64_t field_height;      // h
    int64_t field_width;       // w
    int64_t feature_stride_n;  // elements from picture to picture, and so on
    int64_t feature_stride_y;
    int64_t feature_stride_x;
    int64_t field_stride_n;
    int64_t field_stride_y;
    int64_t field_stride_x;
    int64_t field_stride_c;  // elements from x to y of one sample
    int64_t out_stride_n;
    int64_t out_stride_y;
    int64_t out_stride_x;
    int32_t dtype;           // Dtype: kFloat32, kBFloat16, or kUint8 (no affine, no activation)
    int32_t table_dtype;     // Dtype: kFloat32, or kBFloat16 with kBFloat16 features
    int32_t activation;      // Activation
    int32_t border;          // 1: coordinates are clamped to the outer pixel centres; 0: zeros outside
    int32_t field_bilinear;  // 1: the field is resized bilinearly, extended linearly at its rim; 0: nearest
};

}  // namespace fastreenact
