// to_frame: the network's image in (-1, 1) to 8-bit RGB rows. Parameters, and the arithmetic that CPU and CUDA share.
#pragma once
#include "substrate/picture.h"

namespace fastreenact {

struct ToFrameParams {
    const void* image;       // [N, 3, H, W] or [N, H, W, 3] in `dtype`; the strides say which
    uint8_t* out;            // [N, H, W, 3], channels contiguous
    int32_t* flag;           // becomes 1 where a value of `image` is infinite or NaN; null: nobody asks
    int64_t n;               // pictures
    int64_t height;          // rows
    int64_t width;           // columns
    int64_t image_stride_n;  // elements from picture to picture
    int64_t image_stride_c;  // elements from channel to channel
    int64_t image_stride_y;  // elements from row to row
    int64_t image_stride_x;  // elements from column to column
    int64_t out_stride_n;    // bytes from picture to picture
    int64_t out_stride_y;    // bytes from row to row
    int64_t out_stride_x;    // bytes from pixel to pixel, at least 3
    int32_t dtype;           // Dtype: kFloat32, kBFloat16 (kFloat16 on the GPU only)
    int32_t apply_tanh;      // 1: `image` is before the tanh
};

constexpr int kFramePixels = 4;  // of one row, by one thread of the GPU: 12 bytes, three aligned words

#ifndef __CUDACC_RTC__
FASTREENACT_INLINE LaunchShape to_frame_shape(const ToFrameParams& p) {
    return picture_shape((p.width + kFramePixels - 1) / kFramePixels, p.n * p.height);
}
#endif

// Level of a value in (-1, 1), rounded to nearest, halves up: floor((x + 1) / 2 * 255 + 0.5). NaN gives 0.
FASTREENACT_INLINE float frame_level(float value) {
    float level = value * 127.5f + 128.0f;
    level = level > 0.0f ? level : 0.0f;  // false for NaN
    return level < 255.0f ? level : 255.0f;
}

}  // namespace fastreenact
