// slit_cover: how opaque a layer is that shows between two curves, lids or lips, and where it is read. On the CPU
// alone.
#pragma once
#include "substrate/common.h"

namespace fastreenact {

struct SlitCoverParams {
    const float* upper;  // [K, 2] the upper edge, (along, across) in the slit's frame, px; along never falls
    const float* lower;  // [K, 2] the lower edge
    int64_t knots;       // K
    float frame[6];      // the slit's centre (x, y), then its unit vectors along and across
    int64_t left, top;   // px, of the window that is computed
    int64_t width, height;
    float inset;     // px: the layer begins so far inside the edges
    float soft;      // px: and is opaque so much further in
    float gain;      // on the opacity
    float layer[6];  // from px to the layer's -1 to 1: x times [0] plus y times [1] plus [2], and so on
    float* opacity;  // [height, width]
    float* field;    // [height, width, 2]
};

// lay_cover: that layer, read and laid over the picture.
struct LayCoverParams {
    const uint8_t* layer;  // [h, w, 3]
    int64_t layer_height;
    int64_t layer_width;
    const float* opacity;  // [height, width]
    const float* field;    // [height, width, 2] where to read: -1 and 1 are the layer's edges, which go on outside
    int64_t height;
    int64_t width;
    uint8_t* surface;        // packed pixels, the window's first
    int64_t surface_stride;  // bytes from row to row
};

}  // namespace fastreenact
