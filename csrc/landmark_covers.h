// landmark_covers: the layers of eyes and mouth laid over pictures, where landmark_place has put them: per pixel what
// slit_cover.cpp does by vectors.
#pragma once
#include "landmark_head.h"
#include "substrate/picture.h"

namespace fastreenact {

struct LandmarkCoversParams {
    const LandmarkFrame* frames;  // [N]
    uint8_t* surface;             // [N, H, W, 3], packed pixels
    int64_t n, height, width;     // N, H, W
    int64_t stride_n, stride_y;   // bytes from picture to picture, and from row to row
};

// Across the slit, the height of an edge at a place along it; level beyond its ends.
FASTREENACT_INLINE float cover_edge(const float (*edge)[2], float along) {
    float height = edge[0][1];
    for (int k = 0; k + 1 < kCurvePoints; ++k) {
        const float length = edge[k + 1][0] - edge[k][0];
        float t = (along - edge[k][0]) * (1.0f / (length > 1e-20f ? length : 1e-20f));
        t = t > 0.0f ? t : 0.0f;
        t = t < 1.0f ? t : 1.0f;
        height += t * (edge[k + 1][1] - edge[k][1]);
    }
    return height;
}

FASTREENACT_INLINE float cover_opacity(const LandmarkCover& c, float px, float py) {
    const float dx = px - c.frame[0], dy = py - c.frame[1];
    const float along = dx * c.frame[2] + dy * c.frame[3], across = dx * c.frame[4] + dy * c.frame[5];
    const float above = across - cover_edge(c.upper, along), below = cover_edge(c.lower, along) - across;
    float t = ((above < below ? above : below) - c.inset) * (1.0f / c.soft);
    t = t > 0.0f ? t : 0.0f;
    t = t < 1.0f ? t : 1.0f;
    return t * t * (3.0f - 2.0f * t) * c.gain;
}

// Two taps along an axis of the layer, and the weight of the second.
struct CoverTap {
    int32_t low, high;
    float weight;
};

FASTREENACT_INLINE CoverTap cover_tap(float coordinate, int32_t size) {
    const float most = static_cast<float>(size - 1);
    float at = (coordinate + 1.0f) * (0.5f * static_cast<float>(size)) - 0.5f;
    at = at > 0.0f ? at : 0.0f;
    at = at < most ? at : most;
    const int32_t low = static_cast<int32_t>(at);
    return {low, low + 1 < size ? low + 1 : low, at - static_cast<float>(low)};
}

// One layer over one pixel.
FASTREENACT_INLINE void cover_pixel(const LandmarkCover& c, int32_t x, int32_t y, uint8_t* pixel) {
    if (x < c.left || x >= c.right || y < c.top || y >= c.low) return;
    const float px = static_cast<float>(x) + 0.5f, py = static_cast<float>(y) + 0.5f;
    const float opacity = cover_opacity(c, px, py);
    if (!(opacity > 0.0f)) return;
    const CoverTap across = cover_tap(px * c.layer[0] + (py * c.layer[1] + c.layer[2]), c.width);
    const CoverTap down = cover_tap(px * c.layer[3] + (py * c.layer[4] + c.layer[5]), c.height);
    const int64_t row = 3 * int64_t(c.width);
    const uint8_t *upper = c.image + down.low * row, *lower = c.image + down.high * row;
    for (int k = 0; k < 3; ++k) {
        const float a = upper[3 * across.low + k], b = lower[3 * across.low + k];
        const float above = a + (upper[3 * across.high + k] - a) * across.weight;
        const float below = b + (lower[3 * across.high + k] - b) * across.weight;
        const float skin = pixel[k], inside = above + (below - above) * down.weight;
        pixel[k] = static_cast<uint8_t>(skin + (inside - skin) * opacity + 0.5f);
    }
}

#ifndef __CUDACC_RTC__
void landmark_covers(const LandmarkCoversParams& params, int64_t begin, int64_t end);  // rows of all pictures
#endif

}  // namespace fastreenact
