// shrink: a square of a picture as the networks see it: smaller, in [-1, 1]. Parameters, and where a sample lies.
#pragma once
#include "substrate/picture.h"

namespace fastreenact {

struct ShrinkParams {
    const uint8_t* picture;  // [N, H, W, 3], packed pixels; height and width at least 2
    void* out;               // [N, S, S, 3] in `dtype`, contiguous
    const double* boxes;     // [N, 4] centre x, centre y and side of each square, px; null: what stands below, for all
    int64_t n;               // N
    int64_t stride_n;        // bytes from picture to picture
    int64_t height;          // H
    int64_t width;           // W
    int64_t stride;          // bytes from row to row of the picture
    int64_t side;            // S
    int64_t samples;         // per pixel of `out` and axis: 1 or 2
    double left;             // of the square, px
    double top;              // px
    double size;             // its side, px
    int32_t dtype;           // Dtype: kFloat32, kBFloat16 (kFloat16 on the GPU only)
};

// The two rows or columns around sample `i` of `count` along a side of the square, the edge repeated outside.
struct ShrinkTap {
    int64_t low;
    float lower, upper;  // weights of `low` and `low` + 1
};

FASTREENACT_INLINE ShrinkTap shrink_tap(int64_t i, int64_t count, double first, double size, int64_t present) {
    const double last = static_cast<double>(present - 1);
    double at = first + (static_cast<double>(i) + 0.5) * size / static_cast<double>(count) - 0.5;
    at = at > 0.0 ? at : 0.0;
    at = at < last ? at : last;
    ShrinkTap tap;
    tap.low = static_cast<int64_t>(at);
    tap.low = tap.low < present - 2 ? tap.low : present - 2;
    tap.upper = static_cast<float>(at - static_cast<double>(tap.low));
    tap.lower = 1.0f - tap.upper;
    return tap;
}

// Picture n alone.
FASTREENACT_INLINE ShrinkParams shrink_frame(const ShrinkParams& p, int64_t n) {
    ShrinkParams one = p;
    one.picture += n * p.stride_n;
    one.out = static_cast<char*>(p.out) + n * 3 * p.side * p.side * (p.dtype == kFloat32 ? 4 : 2);
    if (p.boxes != nullptr) {
        one.size = p.boxes[4 * n + 2];
        one.left = p.boxes[4 * n] - one.size / 2, one.top = p.boxes[4 * n + 1] - one.size / 2;
    }
    return one;
}

}  // namespace fastreenact
