// spade: normalise, scale and shift by tables that are read through an index per row and column, activate.
#pragma once
#include "substrate/common.h"

namespace fastreenact {

struct SpadeParams {
    const void* x;           // [N, H, W, C] in `dtype`, channels contiguous, or half of it (see `half`)
    void* out;               // [N, H, W, C] in `dtype`, channels contiguous; may be x itself
    Table gamma;             // [N, Ty, Tx, C] in `table_dtype`; with mean: factor 1 + gamma, without: factor gamma
    Table beta;              // [N, Ty, Tx, C] in `table_dtype`
    const int32_t* index_y;  // [H] row of the tables for each row, in [0, Ty)
    const int32_t* index_x;  // [W] column of the tables for each column, in [0, Tx)
    const float* mean;       // [C]; null when mean and inv_std are folded into the tables
    const float* inv_std;    // [C]; null with mean
    int64_t n;               // pictures
    int64_t height;          // rows of out
    int64_t width;           // columns of out
    int64_t channels;        // C
    int64_t x_stride_n;      // elements from picture to picture, and so on
    int64_t x_stride_y;
    int64_t x_stride_x;
    int64_t out_stride_n;
    int64_t out_stride_y;
    int64_t out_stride_x;
    int32_t dtype;        // Dtype: kFloat32 or kBFloat16
    int32_t table_dtype;  // Dtype: kFloat32, or kBFloat16 with a kBFloat16 x
    int32_t activation;   // Activation
    int32_t half;         // 1: x is [N, ceil(H / 2), ceil(W / 2), C] and doubled by nearest
};

}  // namespace fastreenact
