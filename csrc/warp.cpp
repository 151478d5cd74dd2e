// warp on the CPU. Compiled once per instruction set. Per chunk of a row: the field, then taps and weights, all
// vectorised over columns; then each pixel, vectorised over channels.
#include "warp.h"

#include "substrate/isa.h"
#include "substrate/place.h"
#include "substrate/vec.h"

namespace fastreenact {
namespace FASTREENACT_ISA {
namespace {

constexpr int kChunk = 64;         // columns whose taps wait on the stack
constexpr int kSpan = kChunk + 4;  // field columns that such a chunk needs when the field is not wider than the output

// Coordinates are float64: in float32 a column near 1440 is known to 6e-5 of a pixel only, and the weights with it.
struct Taps {
    double x[kChunk], y[kChunk];               // the field's values
    int32_t low_x[kChunk], low_y[kChunk];      // left and upper tap; -2 or size + 1 where all taps are outside
    float weight_x[kChunk], weight_y[kChunk];  // of the right and of the lower tap
};

// Field values of the columns [first, first + count): sample floor(i * w / W) of row floor(y * h / H).
void field_nearest(const WarpParams& p, const float* field, int64_t y, int64_t first, int count, Taps& taps) {
    const float* row = field + y * p.field_height / p.out_height * p.field_stride_y;
    if (p.field_width == p.out_width) {
        const float* from = row + first * p.field_stride_x;
        if (p.field_stride_x == 2 && p.field_stride_c == 1) {  // the same loop with strides that vectorise
            for (int i = 0; i < count; ++i) {
                taps.x[i] = from[2 * i];
                taps.y[i] = from[2 * i + 1];
            }
            return;
        }
        for (int i = 0; i < count; ++i) {
            taps.x[i] = from[i * p.field_stride_x];
            taps.y[i] = from[i * p.field_stride_x + p.field_stride_c];
        }
        return;
    }
    const int64_t step = p.field_width / p.out_width, rest = p.field_width % p.out_width;
    int64_t index = first * p.field_width / p.out_width, remainder = first * p.field_width % p.out_width;
    for (int i = 0; i < count; ++i) {
        taps.x[i] = row[index * p.field_stride_x];
        taps.y[i] = row[index * p.field_stride_x + p.field_stride_c];
        index += step;
        remainder += rest;
        if (remainder >= p.out_width) {
            remainder -= p.out_width;
            ++index;
        }
    }
}

// Lower of the two samples around output `i` and the weight of the upper one, which leaves [0, 1] at the rim: the field
// is extended linearly there, so that the identity stays the identity.
FASTREENACT_INLINE int32_t around(double i, double ratio, int64_t size, double& weight) {
    const double at = (i + 0.5) * ratio - 0.5;
    int32_t low = static_cast<int32_t>(at);
    const int32_t last = static_cast<int32_t>(size) - 2;
    low = low < last ? low : last;
    low = low > 0 ? low : 0;
    weight = size > 1 ? at - low : 0.0;
    return low;
}

void field_bilinear(const WarpParams& p, const float* field, int64_t y, int64_t first, int count, Taps& taps) {
    double weight_y;
    const double ratio_y = static_cast<double>(p.field_height) / static_cast<double>(p.out_height);
    const double ratio_x = static_cast<double>(p.field_width) / static_cast<double>(p.out_width);
    const int64_t low_y = around(static_cast<double>(y), ratio_y, p.field_height, weight_y);
    const float* upper = field + low_y * p.field_stride_y;
    const float* lower = p.field_height > 1 ? upper + p.field_stride_y : upper;
    int32_t low[kChunk];
    double weight[kChunk];
    const double first_x = static_cast<double>(first);
    for (int i = 0; i < count; ++i) low[i] = around(first_x + i, ratio_x, p.field_width, weight[i]);
    const int64_t next = p.field_width > 1 ? 1 : 0;
    auto between_rows = [&](int64_t column, int64_t c) {
        const int64_t at = column * p.field_stride_x + c * p.field_stride_c;
        const double a = upper[at], b = lower[at];
        return a + weight_y * (b - a);
    };
    const int32_t span = low[count - 1] - low[0] + 2;
    if (span > kSpan) {  // the field is finer than the output
        for (int i = 0; i < count; ++i) {
            const double x = between_rows(low[i], 0), y0 = between_rows(low[i], 1);
            taps.x[i] = x + weight[i] * (between_rows(low[i] + next, 0) - x);
            taps.y[i] = y0 + weight[i] * (between_rows(low[i] + next, 1) - y0);
        }
        return;
    }
    double row_x[kSpan], row_y[kSpan];
    const int32_t present = static_cast<int32_t>(span < p.field_width - low[0] ? span : p.field_width - low[0]);
    for (int32_t i = 0; i < present; ++i) {
        row_x[i] = between_rows(low[0] + i, 0);
        row_y[i] = between_rows(low[0] + i, 1);
    }
    for (int i = 0; i < count;) {  // columns between the same two samples: one straight line
        const int32_t a = low[i] - low[0], b = a + static_cast<int32_t>(next);
        const double x = row_x[a], slope_x = row_x[b] - x, y0 = row_y[a], slope_y = row_y[b] - y0;
        int end = i + 1;
        while (end < count && low[end] == low[i]) ++end;
        for (; i < end; ++i) {
            taps.x[i] = x + weight[i] * slope_x;
            taps.y[i] = y0 + weight[i] * slope_y;
        }
    }
}

constexpr int kAhead = 8;           // pixels between the one that is worked on and the one whose memory is asked for
constexpr int64_t kNear = 1 << 20;  // bytes: features of so many are in a core's cache

// What a pixel's channels are multiplied by and added to.
template <typename TableT>
struct Affine {
    const TableT* scale;
    const TableT* shift;
};

template <typename T, typename TableT, int kActivation, bool kAffine, bool kPart>
FASTREENACT_INLINE void finish(Vec value, T* out, Affine<TableT> affine, int64_t c, int part) {
    if (kAffine) {
        auto at = [&](const TableT* from) { return kPart ? load_part(from + c, part) : load(from + c); };
        value = value * at(affine.scale) + at(affine.shift);
    }
    value = activate<kActivation>(value);
    if (kPart) {
        store_part(out + c, value, part);
    } else {
        store(out + c, value);
    }
}

// A pixel with all four taps inside.
template <typename T, typename TableT, int kActivation, bool kAffine, bool kPart>
FASTREENACT_INLINE void sample_inside(const T* a, const T* b, const T* c, const T* d, Vec wa, Vec wb, Vec wc, Vec wd,
                                      T* out, Affine<TableT> affine, int64_t k, int part) {
    auto at = [&](const T* from) { return kPart ? load_part(from + k, part) : load(from + k); };
    const Vec value = (at(a) * wa + at(b) * wb) + (at(c) * wc + at(d) * wd);
    finish<T, TableT, kActivation, kAffine, kPart>(value, out, affine, k, part);
}

// A pixel with taps outside: those are not read, so that 0 * infinity does not come in.
template <typename T, typename TableT, int kActivation, bool kAffine>
void sample_rim(const WarpParams& p, const T* features, int64_t x, int64_t y, float wx, float wy, T* out,
                Affine<TableT> affine) {
    const T* from[4];
    float weight[4];
    int taps = 0;
    for (int k = 0; k < 4; ++k) {
        const int64_t column = x + (k & 1), row = y + (k >> 1);
        if (column < 0 || column >= p.width || row < 0 || row >= p.height) continue;
        from[taps] = features + row * p.feature_stride_y + column * p.feature_stride_x;
        weight[taps++] = ((k & 1) ? wx : 1.0f - wx) * ((k >> 1) ? wy : 1.0f - wy);
    }
    for (int64_t c = 0; c < p.channels; c += kWidth) {
        const int part = static_cast<int>(p.channels - c);
        Vec value = {};
        for (int k = 0; k < taps; ++k) {
            value += (part >= kWidth ? load(from[k] + c) : load_part(from[k] + c, part)) * weight[k];
        }
        if (part >= kWidth) {
            finish<T, TableT, kActivation, kAffine, false>(value, out, affine, c, kWidth);
        } else {
            finish<T, TableT, kActivation, kAffine, true>(value, out, affine, c, part);
        }
    }
}

template <typename T, typename TableT, int kActivation, bool kAffine>
void pixels(const WarpParams& p, const T* features, const Taps& taps, int count, int64_t first, T* out,
            Affine<TableT> row_affine) {
    const int64_t whole = p.channels / kWidth * kWidth;
    const int part = static_cast<int>(p.channels - whole);
    const uintptr_t pixel_bytes = static_cast<uintptr_t>(p.channels) * sizeof(T);
    const uintptr_t next_row = static_cast<uintptr_t>(p.feature_stride_y) * 2 * sizeof(T);
    const bool is_far = p.height * p.feature_stride_y * static_cast<int64_t>(sizeof(T)) > kNear;
    for (int i = 0; i < count; ++i, out += p.out_stride_x) {
        Affine<TableT> affine = row_affine;
        if (kAffine) {
            const int64_t column = p.index_x != nullptr ? p.index_x[first + i] : first + i;
            affine.scale += column * p.scale.stride_x;
            affine.shift += column * p.shift.stride_x;
        }
        const int64_t x = taps.low_x[i], y = taps.low_y[i];
        const float wx = taps.weight_x[i], wy = taps.weight_y[i];
        if (i + kAhead < count) {  // the lower right tap, which no pixel before has seen; outside nothing happens
            const int64_t ahead =
                (taps.low_y[i + kAhead] + 1) * p.feature_stride_y + (taps.low_x[i + kAhead] + 1) * p.feature_stride_x;
            const uintptr_t at = reinterpret_cast<uintptr_t>(features) + static_cast<uintptr_t>(ahead) * sizeof(T);
            for (uintptr_t line = 0; line < pixel_bytes; line += 64) {
                __builtin_prefetch(reinterpret_cast<const void*>(at + line));
            }
        }
        if (x < 0 || x >= p.width - 1 || y < 0 || y >= p.height - 1) {
            sample_rim<T, TableT, kActivation, kAffine>(p, features, x, y, wx, wy, out, affine);
            continue;
        }
        const T* a = features + y * p.feature_stride_y + x * p.feature_stride_x;
        const T *b = a + p.feature_stride_x, *c = a + p.feature_stride_y, *d = c + p.feature_stride_x;
        if (is_far) {  // what the next row of the output will need below this pixel, where the field is smooth
            for (uintptr_t line = 0; line < pixel_bytes; line += 64) {
                __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(a) + next_row + line), 0,
                                   2);
            }
        }
        const Vec wa = splat((1.0f - wx) * (1.0f - wy)), wb = splat(wx * (1.0f - wy));
        const Vec wc = splat((1.0f - wx) * wy), wd = splat(wx * wy);
        for (int64_t k = 0; k < whole; k += kWidth) {
            sample_inside<T, TableT, kActivation, kAffine, false>(a, b, c, d, wa, wb, wc, wd, out, affine, k, kWidth);
        }
        if (part > 0) {
            sample_inside<T, TableT, kActivation, kAffine, true>(a, b, c, d, wa, wb, wc, wd, out, affine, whole, part);
        }
    }
}

// Pictures: three channels and no epilogue. A pixel of 12 or 3 bytes wastes most of a wide vector, so each is one of
// four lanes, read and written a fourth element too far where that one is known to be there. `last` is the last of its
// row.
template <typename T>
void rgb_pixels(const WarpParams& p, const T* features, const Taps& taps, int count, bool last, T* out) {
    const bool packed = p.out_stride_x == 3;
    for (int i = 0; i < count; ++i, out += p.out_stride_x) {
        const int64_t x = taps.low_x[i], y = taps.low_y[i];
        const float wx = taps.weight_x[i], wy = taps.weight_y[i];
        if (x < 0 || x >= p.width - 1 || y < 0 || y >= p.height - 1) {
            sample_rim<T, float, kNone, false>(p, features, x, y, wx, wy, out, {nullptr, nullptr});
            continue;
        }
        const T* a = features + y * p.feature_stride_y + x * p.feature_stride_x;
        const T *b = a + p.feature_stride_x, *c = a + p.feature_stride_y, *d = c + p.feature_stride_x;
        const Pixel upper = load_pixel(a) * (1.0f - wx) + load_pixel_after(b) * wx;
        const Pixel lower = load_pixel(c) * (1.0f - wx) + load_pixel_after(d) * wx;
        const Pixel value = upper * (1.0f - wy) + lower * wy;
        if (packed && !(last && i == count - 1)) {
            store_pixel<true>(out, value);  // the fourth element belongs to the next pixel, which is written next
        } else {
            store_pixel<false>(out, value);
        }
    }
}
FASTREENACT_INLINE void rgb_pixels(const WarpParams&, const BFloat16*, const Taps&, int, bool, BFloat16*) {}

// Fields: two float32 channels with an affine. Two pixels side by side are four lanes.
template <typename TableT>
void pair_pixels(const WarpParams& p, const float* features, const Taps& taps, int count, int64_t first, float* out,
                 Affine<TableT> row_affine) {
    for (int i = 0; i < count; ++i, out += p.out_stride_x) {
        const int64_t column = p.index_x != nullptr ? p.index_x[first + i] : first + i;
        const Affine<TableT> affine = {row_affine.scale + column * p.scale.stride_x,
                                       row_affine.shift + column * p.shift.stride_x};
        const int64_t x = taps.low_x[i], y = taps.low_y[i];
        const float wx = taps.weight_x[i], wy = taps.weight_y[i];
        if (x < 0 || x >= p.width - 1 || y < 0 || y >= p.height - 1) {
            sample_rim<float, TableT, kNone, true>(p, features, x, y, wx, wy, out, affine);
            continue;
        }
        const float* from = features + y * p.feature_stride_y + 2 * x;
        const Pixel both = load_pixel(from) * (1.0f - wy) + load_pixel(from + p.feature_stride_y) * wy;
        const Pixel right = __builtin_shufflevector(both, both, 2, 3, 2, 3);
        const Pixel value = both * (1.0f - wx) + right * wx;
        for (int c = 0; c < 2; ++c) out[c] = value[c] * affine.scale[c] + affine.shift[c];
    }
}
template <typename T, typename TableT>
FASTREENACT_INLINE void pair_pixels(const WarpParams&, const T*, const Taps&, int, int64_t, T*, Affine<TableT>) {}

template <typename T, typename TableT, int kActivation, bool kAffine>
void rows(const WarpParams& p, int64_t begin, int64_t end) {
    const bool resized = p.field_bilinear && (p.field_width != p.out_width || p.field_height != p.out_height);
    // An element before or behind a tap that is read along lies in its neighbour.
    const bool rgb = !kAffine && kActivation == kNone && sizeof(T) != 2 && p.channels == 3 && p.feature_stride_x >= 3;
    const bool pairs = kAffine && kActivation == kNone && sizeof(T) == 4 && p.channels == 2 && p.feature_stride_x == 2;
    const double half_x = 0.5 * static_cast<double>(p.width), half_y = 0.5 * static_cast<double>(p.height);
    Taps taps;
    for (int64_t row = begin; row < end; ++row) {
        const int64_t n = row / p.out_height, y = row % p.out_height;
        const int64_t picture = p.source_index != nullptr ? p.source_index[n] : n;
        const T* features = static_cast<const T*>(p.features) + picture * p.feature_stride_n;
        const float* field = p.field + n * p.field_stride_n;
        T* out = static_cast<T*>(p.out) + n * p.out_stride_n + y * p.out_stride_y;
        Affine<TableT> affine = {nullptr, nullptr};
        if (kAffine) {
            const int64_t table_row = p.index_y != nullptr ? p.index_y[y] : y;
            affine.scale =
                static_cast<const TableT*>(p.scale.data) + n * p.scale.stride_n + table_row * p.scale.stride_y;
            affine.shift =
                static_cast<const TableT*>(p.shift.data) + n * p.shift.stride_n + table_row * p.shift.stride_y;
        }
        for (int64_t first = 0; first < p.out_width; first += kChunk) {
            const int count = static_cast<int>(p.out_width - first < kChunk ? p.out_width - first : kChunk);
            (resized ? field_bilinear : field_nearest)(p, field, y, first, count, taps);
            if (p.border) {
                place<true>(taps.x, count, p.width, half_x, taps.low_x, taps.weight_x);
                place<true>(taps.y, count, p.height, half_y, taps.low_y, taps.weight_y);
            } else {
                place<false>(taps.x, count, p.width, half_x, taps.low_x, taps.weight_x);
                place<false>(taps.y, count, p.height, half_y, taps.low_y, taps.weight_y);
            }
            T* to = out + first * p.out_stride_x;
            if (rgb) {
                rgb_pixels(p, features, taps, count, first + count == p.out_width, to);
            } else if (pairs) {
                pair_pixels(p, features, taps, count, first, to, affine);
            } else {
                pixels<T, TableT, kActivation, kAffine>(p, features, taps, count, first, to, affine);
            }
        }
    }
}

template <typename T, typename TableT, int kActivation>
void with_affine(const WarpParams& p, int64_t begin, int64_t end) {
    (p.scale.data != nullptr ? rows<T, TableT, kActivation, true> : rows<T, TableT, kActivation, false>)(p, begin, end);
}

template <typename T, typename TableT>
void with_types(const WarpParams& p, int64_t begin, int64_t end) {
    (p.activation == kRelu   ? with_affine<T, TableT, kRelu>
     : p.activation == kTanh ? with_affine<T, TableT, kTanh>
                             : with_affine<T, TableT, kNone>)(p, begin, end);
}

}  // namespace

void warp(const WarpParams& p, int64_t begin, int64_t end) {
    if (p.dtype == kUint8) {
        rows<uint8_t, float, kNone, false>(p, begin, end);
    } else if (p.dtype == kFloat32) {
        with_types<float, float>(p, begin, end);
    } else if (p.table_dtype == kFloat32) {
        with_types<BFloat16, float>(p, begin, end);
    } else {
        with_types<BFloat16, BFloat16>(p, begin, end);
    }
}

}  // namespace FASTREENACT_ISA
}  // namespace fastreenact
