// slit_cover and lay_cover on the CPU. Compiled once per instruction set, vectorised over columns.
#include "slit_cover.h"

#include "substrate/isa.h"
#include "substrate/vec.h"

namespace fastreenact {
namespace FASTREENACT_ISA {
namespace {

// Across the slit, the height of an edge at places along it; level beyond its ends.
FASTREENACT_INLINE Vec edge_at(const float* edge, int64_t knots, Vec along) {
    Vec height = splat(edge[1]);
    for (int64_t k = 0; k + 1 < knots; ++k) {
        const float length = edge[2 * k + 2] - edge[2 * k];
        Vec t = (along - edge[2 * k]) * (1.0f / (length > 1e-20f ? length : 1e-20f));
        t = select(t > 0.0f, t, Vec{});
        t = select(t < 1.0f, t, splat(1.0f));
        height += t * (edge[2 * k + 3] - edge[2 * k + 1]);
    }
    return height;
}

FASTREENACT_INLINE Pixel load_bytes(const uint8_t* from) {
    uint32_t bytes = 0;
    __builtin_memcpy(&bytes, from, 3);
    return pixel_of_bytes(bytes);
}

// Two taps along an axis.
struct Tap {
    int64_t low, high;
    float weight;  // of `high`
};

FASTREENACT_INLINE Tap tap(float coordinate, int64_t size) {
    const float most = static_cast<float>(size - 1);
    float at = (coordinate + 1.0f) * (0.5f * static_cast<float>(size)) - 0.5f;
    at = at > 0.0f ? at : 0.0f;
    at = at < most ? at : most;
    const int64_t low = static_cast<int64_t>(at);
    return {low, low + 1 < size ? low + 1 : low, at - static_cast<float>(low)};
}

}  // namespace

void lay_cover(const LayCoverParams& p, int64_t begin, int64_t end) {
    for (int64_t y = begin; y < end; ++y) {
        const float* field = p.field + 2 * y * p.width;
        uint8_t* surface = p.surface + y * p.surface_stride;
        for (int64_t x = 0; x < p.width; ++x, surface += 3) {
            const float opacity = p.opacity[y * p.width + x];
            if (opacity == 0.0f) continue;
            const Tap across = tap(field[2 * x], p.layer_width), down = tap(field[2 * x + 1], p.layer_height);
            const uint8_t *upper = p.layer + 3 * down.low * p.layer_width,
                          *lower = p.layer + 3 * down.high * p.layer_width;
            const Pixel a = load_bytes(upper + 3 * across.low), b = load_bytes(upper + 3 * across.high);
            const Pixel c = load_bytes(lower + 3 * across.low), d = load_bytes(lower + 3 * across.high);
            const Pixel above = a + (b - a) * across.weight, below = c + (d - c) * across.weight;
            const Pixel inside = above + (below - above) * down.weight, skin = load_bytes(surface);
            store_pixel<false>(surface, skin + (inside - skin) * opacity);
        }
    }
}

void slit_cover(const SlitCoverParams& p, int64_t begin, int64_t end) {
    float lanes[kWidth];
    for (int i = 0; i < kWidth; ++i) lanes[i] = static_cast<float>(i) + 0.5f;
    const Vec lane = load(lanes);
    for (int64_t row = begin; row < end; ++row) {
        const float y = static_cast<float>(p.top + row) + 0.5f;
        for (int64_t column = 0; column < p.width; column += kWidth) {
            const int part = static_cast<int>(p.width - column < kWidth ? p.width - column : kWidth);
            const Vec x = lane + static_cast<float>(p.left + column);
            const Vec dx = x - p.frame[0];
            const float dy = y - p.frame[1];
            const Vec along = dx * p.frame[2] + dy * p.frame[3], across = dx * p.frame[4] + dy * p.frame[5];
            const Vec above = across - edge_at(p.upper, p.knots, along);
            const Vec below = edge_at(p.lower, p.knots, along) - across;
            Vec t = (select(above < below, above, below) - p.inset) * (1.0f / p.soft);
            t = select(t > 0.0f, t, Vec{});
            t = select(t < 1.0f, t, splat(1.0f));
            float opacity[kWidth], places[2][kWidth];
            store(opacity, t * t * (3.0f - 2.0f * t) * p.gain);
            for (int c = 0; c < 2; ++c) {
                store(places[c], x * p.layer[3 * c] + (y * p.layer[3 * c + 1] + p.layer[3 * c + 2]));
            }
            const int64_t first = row * p.width + column;
            for (int i = 0; i < part; ++i) {
                p.opacity[first + i] = opacity[i];
                p.field[2 * (first + i)] = places[0][i];
                p.field[2 * (first + i) + 1] = places[1][i];
            }
        }
    }
}

}  // namespace FASTREENACT_ISA
}  // namespace fastreenact
