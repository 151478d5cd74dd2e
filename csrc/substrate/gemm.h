// Matrix products of the convolutions: pixels by output channels, the weights in panels of 16 channels.
#pragma once
#include <cstdlib>

#include "substrate/vec.h"

namespace fastreenact {

// Weights come in panels of 16 output channels: float32 [panel][K][16], or, for the instruction that multiplies pairs
// of bfloat16, bfloat16 [panel][K / 2][16][2]. What is padded is 0.
constexpr int kPanel = 16;

namespace FASTREENACT_ISA {
namespace {

constexpr int kParts = kPanel / kWidth;  // vectors of a panel
#if defined(__AVX512F__)
constexpr int kPanels = 4;  // at once
#else
constexpr int kPanels = 1;
#endif

// Pixels at once: as many as the registers hold beside the weights.
constexpr int pixels_at_once(int panels) {
#if defined(__AVX512F__)
    return panels == 4 ? 6 : panels == 1 ? 16 : 8;
#elif defined(__AVX2__)
    return panels == 1 ? 6 : 1;
#else
    return panels == 1 ? 3 : 1;
#endif
}

FASTREENACT_INLINE float value_of(float x) {
    return x;
}
FASTREENACT_INLINE float value_of(BFloat16 x) {
    const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
    float value;
    __builtin_memcpy(&value, &bits, sizeof(value));
    return value;
}

// sums[pixel][panel] += a[pixel][k] b[panel][k] over k.
template <typename T, bool kPairs, int kRows, int kCount>
FASTREENACT_INLINE void multiply(Vec (&sums)[kRows][kCount][kParts], const T* a, int64_t stride, const void* panels,
                                 int64_t panel_stride, int64_t depth) {
    if constexpr (kPairs) {
#if defined(__AVX512BF16__)
        const BFloat16* b = static_cast<const BFloat16*>(panels);
        for (int64_t k = 0; k < depth; k += 2, b += 2 * kPanel) {
            __m512bh weights[kCount];
            for (int j = 0; j < kCount; ++j) weights[j] = (__m512bh)_mm512_loadu_si512(b + j * panel_stride);
            for (int i = 0; i < kRows; ++i) {
                int32_t pair;
                __builtin_memcpy(&pair, a + i * stride + k, sizeof(pair));
                const __m512bh both = (__m512bh)_mm512_set1_epi32(pair);
                for (int j = 0; j < kCount; ++j) {
                    sums[i][j][0] = (Vec)_mm512_dpbf16_ps((__m512)sums[i][j][0], both, weights[j]);
                }
            }
        }
#endif
    } else {
        const float* b = static_cast<const float*>(panels);
        for (int64_t k = 0; k < depth; ++k, b += kPanel) {
            Vec weights[kCount][kParts];
            for (int j = 0; j < kCount; ++j) {
                for (int part = 0; part < kParts; ++part) {
                    weights[j][part] = load(b + j * panel_stride + part * kWidth);
                }
            }
            for (int i = 0; i < kRows; ++i) {
                const Vec value = splat(value_of(a[i * stride + k]));
                for (int j = 0; j < kCount; ++j) {
                    for (int part = 0; part < kParts; ++part) sums[i][j][part] += value * weights[j][part];
                }
            }
        }
    }
}

// What of the pixels is multiplied: `segments` runs of `depth` values each, a pixel's `stride` behind the one before
// it.
template <typename T>
struct Pixels {
    const T* segment[16];
    int64_t segments;
    int64_t stride;
    int64_t depth;
    int64_t count;
};

// A product for some pixels and panels. begin(pixel, panel, part) gives a sum's first value, take(pixel, panel, part,
// sum) gets it.
template <typename T, bool kPairs, int kRows, int kCount, typename Begin, typename Take>
FASTREENACT_INLINE void some_pixels(const Pixels<T>& a, const void* panels, int64_t panel_stride, int64_t pixel,
                                    int64_t panel, const Begin& begin, const Take& take) {
    Vec sums[kRows][kCount][kParts];
    for (int i = 0; i < kRows; ++i) {
        for (int j = 0; j < kCount; ++j) {
            for (int part = 0; part < kParts; ++part) sums[i][j][part] = begin(pixel + i, panel + j, part);
        }
    }
    const char* b = static_cast<const char*>(panels);
    for (int64_t s = 0; s < a.segments; ++s, b += a.depth * kPanel * (kPairs ? 2 : 4)) {
        multiply<T, kPairs, kRows, kCount>(sums, a.segment[s] + pixel * a.stride, a.stride, b, panel_stride, a.depth);
    }
    for (int i = 0; i < kRows; ++i) {
        for (int j = 0; j < kCount; ++j) {
            for (int part = 0; part < kParts; ++part) take(pixel + i, panel + j, part, sums[i][j][part]);
        }
    }
}

template <typename T, bool kPairs, int kCount, typename Begin, typename Take>
void some_panels(const Pixels<T>& a, const void* panels, int64_t panel_stride, int64_t panel, const Begin& begin,
                 const Take& take) {
    constexpr int kRows = pixels_at_once(kCount);
    int64_t i = 0;
    // 16, 32 or 64 pixels are sixes and fives without a rest.
    const int64_t fives = kRows == 6 && a.count > 11 ? (6 - a.count % 6) % 6 : 0;
    for (int64_t five = 0; five < fives && i + 5 <= a.count; ++five, i += 5) {
        if constexpr (kRows == 6) some_pixels<T, kPairs, 5, kCount>(a, panels, panel_stride, i, panel, begin, take);
    }
    for (; i + kRows <= a.count; i += kRows) {
        some_pixels<T, kPairs, kRows, kCount>(a, panels, panel_stride, i, panel, begin, take);
    }
    if constexpr (kRows > 4) {
        for (; i + 4 <= a.count; i += 4) {
            some_pixels<T, kPairs, 4, kCount>(a, panels, panel_stride, i, panel, begin, take);
        }
    }
    for (; i < a.count; ++i) some_pixels<T, kPairs, 1, kCount>(a, panels, panel_stride, i, panel, begin, take);
}

// `first` is the first of `count` panels' weights; panel_stride in elements.
template <typename T, bool kPairs, typename Begin, typename Take>
void product(const Pixels<T>& a, const void* first, int64_t panel_stride, int64_t count, const Begin& begin,
             const Take& take) {
    const int64_t bytes = panel_stride * (kPairs ? 2 : 4);
    int64_t panel = 0;
    while (panel < count) {
        const int64_t left = count - panel;
        // Five are three and two, not four and one: few panels waste the loads of the pixels.
        const int64_t now = kPanels == 1 ? 1 : left == 5 ? 3 : left < kPanels ? left : kPanels;
        const void* b = static_cast<const char*>(first) + panel * bytes;
        if (now == 1) some_panels<T, kPairs, 1>(a, b, panel_stride, panel, begin, take);
        if constexpr (kPanels > 1) {
            if (now == 2) some_panels<T, kPairs, 2>(a, b, panel_stride, panel, begin, take);
            if (now == 3) some_panels<T, kPairs, 3>(a, b, panel_stride, panel, begin, take);
            if (now == 4) some_panels<T, kPairs, 4>(a, b, panel_stride, panel, begin, take);
        }
        panel += now;
    }
}

struct Scratch {
    char* memory = nullptr;
    int64_t size = 0;
    ~Scratch() { std::free(memory); }
    char* need(int64_t bytes) {
        if (bytes > size) {
            std::free(memory);
            size = (bytes + 4095) / 4096 * 4096;
            memory = static_cast<char*>(std::aligned_alloc(64, size));
        }
        return memory;
    }
};
thread_local Scratch scratch;

int64_t whole_lines(int64_t bytes) {
    return (bytes + 63) / 64 * 64;
}

}  // namespace
}  // namespace FASTREENACT_ISA
}  // namespace fastreenact
