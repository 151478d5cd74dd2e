// compose_frame: a square of colours and gains, enlarged bilinearly and applied to a picture in place. Parameters, and
// the arithmetic that CPU and CUDA share.
#pragma once
#include "substrate/picture.h"
#ifndef __CUDACC_RTC__
#include <cmath>
#endif

namespace fastreenact {

struct ComposeFrameParams {
    const void* raw;       // [N, R, R, 4] in `dtype`, channels contiguous: colour and gain before their activations
    uint8_t* surface;      // [N, H, W, 3], packed pixels, read and written
    const double* boxes;   // [N, 4] centre x, centre y, size and fade of each frame; null: what stands below, for all
    int64_t n;             // N
    int64_t raw_stride_n;  // elements from picture to picture
    int64_t surface_stride_n;  // bytes from picture to picture
    int64_t picture_width;     // W
    int64_t picture_height;    // H
    int32_t* flag;             // becomes 1 where a value that is read of `raw` is infinite or NaN; null: nobody asks
    int64_t side;              // R
    int64_t raw_stride_y;      // elements from row to row
    int64_t raw_stride_x;      // elements from column to column
    int64_t surface_stride;    // bytes from row to row
    int64_t left;              // first column that is composed
    int64_t top;               // first row
    int64_t width;             // columns that are composed
    int64_t height;            // rows
    double centre_x;           // of the square in the picture, px
    double centre_y;           // px
    double size;               // its side, px
    double fade;               // share of the side over which what is applied rises from 0 to 1; 0: 1 everywhere
    float gain_scale;          // gain - 1 = gain_scale * tanh((value - gain_middle) / 2) + gain_shift
    float gain_shift;          //
    float gain_middle;         //
    int32_t dtype;             // Dtype: kFloat32, kBFloat16 (kFloat16 on the GPU only)
};

// Between which two of the square's rows or columns a pixel lies.
struct ComposeTap {
    int64_t low;   // the upper or left one
    int64_t high;  // the other; `low` itself where that has all the weight, so that nothing comes in from beside it
    float weight;  // of the other
    float say;     // how much of the change is applied
};

// Tap of row or column `pixel`. Coordinates are float64: in float32 a column near 1440 is known to 6e-5 of a pixel
// only.
FASTREENACT_INLINE ComposeTap compose_tap(int64_t pixel, double centre, double size, int64_t side, double fade) {
    const double from_centre = static_cast<double>(pixel) + 0.5 - centre;  // px
    const double last = static_cast<double>(side - 1);
    double at = (from_centre / size + 0.5) * static_cast<double>(side) - 0.5;
    at = at > 0.0 ? at : 0.0;  // the edge is repeated
    at = at < last ? at : last;
    ComposeTap tap;
    tap.low = static_cast<int64_t>(at);
    tap.weight = static_cast<float>(at - static_cast<double>(tap.low));
    tap.high = tap.weight > 0.0f ? tap.low + 1 : tap.low;
    double t = 1.0;
    if (fade > 0.0) {
        const double inwards = 0.5 - (from_centre < 0.0 ? -from_centre : from_centre) / size;  // shares of the side
        t = inwards / fade;
        t = t > 0.0 ? t : 0.0;
        t = t < 1.0 ? t : 1.0;
    }
    tap.say = static_cast<float>(t * t * (3.0 - 2.0 * t));
    return tap;
}

// First pixel of a square along one axis of a picture of that length, and the one after its last.
FASTREENACT_INLINE void compose_range(double centre, double size, int64_t length, int64_t& first, int64_t& end) {
    const double most = static_cast<double>(length), low = centre - size / 2.0, high = centre + size / 2.0;
    first = low < most ? static_cast<int64_t>(rint(low > 0.0 ? low : 0.0)) : length;
    end = high > 0.0 ? static_cast<int64_t>(rint(high < most ? high : most)) : 0;
    if (end < first) end = first;
}

// Frame n alone.
FASTREENACT_INLINE ComposeFrameParams compose_frame_of(const ComposeFrameParams& p, int64_t n) {
    ComposeFrameParams one = p;
    one.raw = static_cast<const char*>(p.raw) + n * p.raw_stride_n * (p.dtype == kFloat32 ? 4 : 2);
    one.surface += n * p.surface_stride_n;
    if (p.boxes != nullptr) {
        const double* box = p.boxes + 4 * n;
        one.centre_x = box[0], one.centre_y = box[1], one.size = box[2], one.fade = box[3];
        int64_t right = 0, low = 0;
        compose_range(box[0], box[2], p.picture_width, one.left, right);
        compose_range(box[1], box[2], p.picture_height, one.top, low);
        one.width = right - one.left, one.height = low - one.top;
    }
    return one;
}

}  // namespace fastreenact
