// shrink on the CPU. Compiled once per instruction set. A pixel is four lanes; rows and columns without weight are not
// read, which leaves a quarter of the work where samples fall on pixels.
#include "shrink.h"

#include "substrate/isa.h"
#include "substrate/vec.h"

namespace fastreenact {
namespace FASTREENACT_ISA {
namespace {

constexpr int kChunk = 64;  // columns of out whose taps and values wait on the stack

// The weighted columns of one row of the picture that a pixel of out reads.
template <int kSamples>
FASTREENACT_INLINE Pixel row_sum(const uint8_t* row, const ShrinkTap* taps) {
    Pixel sum = {};
    for (int s = 0; s < kSamples; ++s) {
        const uint8_t* from = row + 3 * taps[s].low;
        if (taps[s].lower != 0.0f) sum += load_pixel(from) * taps[s].lower;
        if (taps[s].upper != 0.0f) sum += load_pixel_after(from + 3) * taps[s].upper;
    }
    return sum;
}

template <typename T, int kSamples>
void rows(const ShrinkParams& p, int64_t begin, int64_t end) {
    const int64_t count = p.side * kSamples;
    const float scale = 2.0f / (255.0f * static_cast<float>(kSamples * kSamples));
    ShrinkTap taps[kChunk * kSamples], down[kSamples];
    float values[3 * kChunk + 1];  // four lanes are written of the last pixel too
    for (int64_t first = 0; first < p.side; first += kChunk) {
        const int columns = static_cast<int>(p.side - first < kChunk ? p.side - first : kChunk);
        for (int64_t i = 0; i < columns * kSamples; ++i) {
            taps[i] = shrink_tap(first * kSamples + i, count, p.left, p.size, p.width);
        }
        for (int64_t y = begin; y < end; ++y) {
            for (int s = 0; s < kSamples; ++s) {
                down[s] = shrink_tap(y * kSamples + s, count, p.top, p.size, p.height);
            }
            for (int x = 0; x < columns; ++x) {
                const ShrinkTap* across = taps + x * kSamples;
                Pixel sum = {};
                for (int s = 0; s < kSamples; ++s) {
                    const uint8_t* row = p.picture + down[s].low * p.stride;
                    if (down[s].lower != 0.0f) sum += row_sum<kSamples>(row, across) * down[s].lower;
                    if (down[s].upper != 0.0f) sum += row_sum<kSamples>(row + p.stride, across) * down[s].upper;
                }
                store_pixel<true>(values + 3 * x, sum * scale - 1.0f);
            }
            T* out = static_cast<T*>(p.out) + 3 * (y * p.side + first);
            int i = 0;
            for (; i + kWidth <= 3 * columns; i += kWidth) store(out + i, load(values + i));
            if (i < 3 * columns) store_part(out + i, load_part(values + i, 3 * columns - i), 3 * columns - i);
        }
    }
}

template <typename T>
void with_samples(const ShrinkParams& p, int64_t begin, int64_t end) {
    (p.samples == 1 ? rows<T, 1> : rows<T, 2>)(p, begin, end);
}

}  // namespace

void shrink(const ShrinkParams& p, int64_t begin, int64_t end) {
    (p.dtype == kFloat32 ? with_samples<float> : with_samples<BFloat16>)(p, begin, end);
}

}  // namespace FASTREENACT_ISA
}  // namespace fastreenact
