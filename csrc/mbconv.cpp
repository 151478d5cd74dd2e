// mbconv on the CPU. Compiled once per instruction set.
//
// The hidden map, six times as wide as its input, is never whole: a chunk of its channels is expanded row by row into a
// ring of three rows, convolved there, and projected at once. Few hidden channels are one chunk, and the result is
// final; of many, each chunk adds its share to sums of a band of rows, so that its weights are read once a band.
#include "mbconv.h"

#include <cstring>

#include "substrate/gemm.h"
#include "substrate/isa.h"
#include "substrate/vec.h"

namespace fastreenact {
namespace FASTREENACT_ISA {
namespace {

constexpr int64_t kChunk = 64;           // hidden channels at once, where they are many
constexpr int64_t kOneChunk = 96;        // up to so many are few
constexpr int64_t kBandBytes = 2 << 20;  // of sums

// What a depthwise convolution works on at once: the channels of one vector.
template <typename T>
struct Lanes {
    static constexpr int64_t kChannels = kWidth, kVectors = 1;
    FASTREENACT_INLINE void take(const T* from, Vec (&values)[1]) { values[0] = load(from); }
    FASTREENACT_INLINE void give(T* to, const Vec (&values)[1]) { store(to, values[0]); }
};

#if defined(__AVX512BF16__)
// 32 bfloat16 in one load: the even ones and the odd ones are float32 by a shift and a mask. They are stored one half
// after the other: weights of what follows are packed in that order (ops/panels.py).
struct EvenOdd {
    static constexpr int64_t kChannels = 32, kVectors = 2;
    FASTREENACT_INLINE void take(const BFloat16* from, Vec (&values)[2]) {
        const __m512i bits = _mm512_loadu_si512(from);
        values[0] = (Vec)_mm512_slli_epi32(bits, 16);
        values[1] = (Vec)_mm512_and_si512(bits, _mm512_set1_epi32(static_cast<int>(0xffff0000u)));
    }
    FASTREENACT_INLINE void give(BFloat16* to, const Vec (&values)[2]) {
        _mm512_storeu_si512(to, (__m512i)_mm512_cvtne2ps_pbh((__m512)values[1], (__m512)values[0]));
    }
};
#endif

// Depthwise 3x3 and ReLU of one row's channels from `c` on: rows[3] point to the column left of the first,
// [column][channels].
template <typename L, typename T, int kStride>
FASTREENACT_INLINE void some_channels(const T* const (&rows)[3], int64_t columns, int64_t channels, int64_t c,
                                      const float* weights, int64_t weight_stride, const float* bias, T* out) {
    constexpr int kV = static_cast<int>(L::kVectors);
    Vec w[9][kV], first[kV];
    for (int v = 0; v < kV; ++v) {
        for (int tap = 0; tap < 9; ++tap) w[tap][v] = load(weights + tap * weight_stride + c + v * kWidth);
        first[v] = load(bias + c + v * kWidth);
    }
    if constexpr (kStride == 1) {
        // A column is right of one output, in the middle of the next and left of the one after.
        Vec one[kV], next[kV];
        for (int v = 0; v < kV; ++v) one[v] = next[v] = first[v];
        for (int row = 0; row < 3; ++row) {
            Vec left[kV], middle[kV];
            L::take(rows[row] + c, left);
            L::take(rows[row] + channels + c, middle);
            for (int v = 0; v < kV; ++v) {
                one[v] += left[v] * w[3 * row][v] + middle[v] * w[3 * row + 1][v];
                next[v] += middle[v] * w[3 * row][v];
            }
        }
        for (int64_t x = 0; x < columns; ++x) {
            Vec after[kV];
            for (int v = 0; v < kV; ++v) after[v] = first[v];
            for (int row = 0; row < 3; ++row) {
                Vec value[kV];
                L::take(rows[row] + (x + 2) * channels + c, value);
                for (int v = 0; v < kV; ++v) {
                    one[v] += value[v] * w[3 * row + 2][v];
                    next[v] += value[v] * w[3 * row + 1][v];
                    after[v] += value[v] * w[3 * row][v];
                }
            }
            for (int v = 0; v < kV; ++v) one[v] = relu(one[v]);
            L::give(out + x * channels + c, one);
            for (int v = 0; v < kV; ++v) {
                one[v] = next[v];
                next[v] = after[v];
            }
        }
    } else {
        for (int64_t x = 0; x < columns; ++x) {
            Vec sum[kV];
            for (int v = 0; v < kV; ++v) sum[v] = first[v];
            for (int tap = 0; tap < 9; ++tap) {
                Vec value[kV];
                L::take(rows[tap / 3] + (2 * x + tap % 3) * channels + c, value);
                for (int v = 0; v < kV; ++v) sum[v] += value[v] * w[tap][v];
            }
            for (int v = 0; v < kV; ++v) sum[v] = relu(sum[v]);
            L::give(out + x * channels + c, sum);
        }
    }
}

// The same over a map doubled by nearest, from the two rows of it, as they were before, that the output row sees: of
// nine taps those that fall on one value are summed. `parity` is 0 for an even row, 1 for an odd one, 2 for an even one
// whose lower neighbour is cropped away.
template <typename L, typename T>
FASTREENACT_INLINE void some_doubled_channels(const T* const (&rows)[2], int64_t columns, int64_t channels, int64_t c,
                                              const float* weights, int64_t weight_stride, const float* bias,
                                              int parity, T* out) {
    constexpr int kV = static_cast<int>(L::kVectors);
    Vec even[2][2][kV], odd[2][2][kV], cropped[2][kV], first[kV];  // [row][left or right value]
    for (int v = 0; v < kV; ++v) {
        const auto tap = [&](int row, int column) {
            return load(weights + (3 * row + column) * weight_stride + c + v * kWidth);
        };
        for (int row = 0; row < 2; ++row) {
            Vec w[3];
            for (int column = 0; column < 3; ++column) {
                const Vec middle = tap(1, column);
                w[column] = row == 0 ? tap(0, column) : tap(2, column);
                if (parity == 1 && row == 0) w[column] += middle;
                if (parity == 0 && row == 1) w[column] += middle;
                if (parity == 2 && row == 1) w[column] = middle;
            }
            even[row][0][v] = w[0];
            even[row][1][v] = w[1] + w[2];
            cropped[row][v] = w[1];
            odd[row][0][v] = w[0] + w[1];
            odd[row][1][v] = w[2];
        }
        first[v] = load(bias + c + v * kWidth);
    }
    Vec left[2][kV], middle[2][kV];
    for (int row = 0; row < 2; ++row) {
        L::take(rows[row] + c, left[row]);
        L::take(rows[row] + channels + c, middle[row]);
    }
    for (int64_t x = 0; x < columns; x += 2) {
        const bool last = x + 1 == columns;
        Vec one[kV], two[kV];
        for (int v = 0; v < kV; ++v) one[v] = two[v] = first[v];
        for (int row = 0; row < 2; ++row) {
            Vec right[kV];
            L::take(rows[row] + (x / 2 + 2) * channels + c, right);
            for (int v = 0; v < kV; ++v) {
                one[v] += left[row][v] * even[row][0][v] + middle[row][v] * (last ? cropped[row][v] : even[row][1][v]);
                two[v] += middle[row][v] * odd[row][0][v] + right[v] * odd[row][1][v];
                left[row][v] = middle[row][v];
                middle[row][v] = right[v];
            }
        }
        for (int v = 0; v < kV; ++v) {
            one[v] = relu(one[v]);
            two[v] = relu(two[v]);
        }
        L::give(out + x * channels + c, one);
        if (!last) L::give(out + (x + 1) * channels + c, two);
    }
}

// All channels of one output row: of three rows, or, doubled, of two.
template <typename T>
void depthwise(const MbconvParams& p, const T* const (&rows)[3], int parity, int64_t channels, const float* weights,
               int64_t weight_stride, const float* bias, T* out) {
    const auto some = [&](auto lanes, int64_t c) {
        using L = decltype(lanes);
        if (p.upsample) {
            const T* two[2] = {rows[0], rows[1]};
            some_doubled_channels<L>(two, p.out_width, channels, c, weights, weight_stride, bias, parity, out);
        } else if (p.stride == 1) {
            some_channels<L, T, 1>(rows, p.out_width, channels, c, weights, weight_stride, bias, out);
        } else {
            some_channels<L, T, 2>(rows, p.out_width, channels, c, weights, weight_stride, bias, out);
        }
    };
    int64_t c = 0;
#if defined(__AVX512BF16__)
    if constexpr (sizeof(T) == 2) {
        for (; c + EvenOdd::kChannels <= channels; c += EvenOdd::kChannels) some(EvenOdd{}, c);
    }
#endif
    for (; c < channels; c += kWidth) some(Lanes<T>{}, c);
}

// The output rows [begin, end), or, with `partial`, the share that the hidden channels [first_channel, last_channel)
// have in them.
template <typename T, bool kPairs>
void work(const MbconvParams params, int64_t begin, int64_t end, int64_t first_channel, int64_t last_channel,
          float* partial) {
    const MbconvParams p = params;  // a copy: what is stored cannot change it
    const int64_t all = (p.hidden + kPanel - 1) / kPanel * kPanel;
    const int64_t chunk = all <= kOneChunk ? all : kChunk;
    const int64_t panels = (p.channels_out + kPanel - 1) / kPanel;
    const int64_t row_bytes = p.out_width * panels * kPanel * 4;
    const bool one_chunk = chunk == all && partial == nullptr;
    const int64_t band_rows = one_chunk || partial != nullptr ? end - begin
                              : kBandBytes / row_bytes > 1    ? kBandBytes / row_bytes
                                                              : 1;
    const int64_t ring_row = (p.width + 2) * chunk;
    const int64_t ring_bytes = whole_lines(4 * ring_row * static_cast<int64_t>(sizeof(T)));
    const int64_t line_bytes = whole_lines(p.out_width * chunk * static_cast<int64_t>(sizeof(T)));
    const int64_t sum_rows = band_rows < end - begin ? band_rows : end - begin;
    char* memory = scratch.need(ring_bytes + line_bytes + (one_chunk || partial != nullptr ? 0 : sum_rows * row_bytes));
    T* ring = reinterpret_cast<T*>(memory);
    T* line = reinterpret_cast<T*>(memory + ring_bytes);
    float* band = reinterpret_cast<float*>(memory + ring_bytes + line_bytes);
    std::memset(static_cast<void*>(ring), 0,
                static_cast<size_t>(ring_bytes));  // the columns beside each row, and the fourth row, stay 0
    const T* nothing = ring + 3 * ring_row;
    const int64_t expand_stride = kPairs ? (p.channels_in + 1) / 2 * 2 * kPanel : p.channels_in * kPanel;
    const int64_t project_stride = all * kPanel;

    for (int64_t top = begin; top < end;) {
        const int64_t n = top / p.out_height, first = top % p.out_height;
        int64_t bottom = first + band_rows < p.out_height ? first + band_rows : p.out_height;
        if (bottom - first > end - top) bottom = first + end - top;
        const T* picture = static_cast<const T*>(p.x) + n * p.x_stride_n;
        T* result = static_cast<T*>(p.out) + n * p.out_stride_n;

        float* sums = partial == nullptr ? band : partial + top * (row_bytes / 4);
        for (int64_t c0 = first_channel; c0 < last_channel; c0 += chunk) {
            const int64_t channels = c0 + chunk < last_channel ? chunk : last_channel - c0;
            int64_t made = -1;  // the last source row in the ring
            // Row `y` of x expanded into its place in the ring.
            const auto make = [&](int64_t y) {
                T* to = ring + y % 3 * ring_row + channels;
                const T* from = picture + y * p.x_stride_y;
                const auto put = [&](int64_t x, int64_t c, Vec value) { store(to + x * channels + c, value); };
                if (p.expand == nullptr) {
                    for (int64_t x = 0; x < p.width; ++x) {
                        for (int64_t c = 0; c < channels; c += kWidth) {
                            const int64_t left = p.channels_in - c0 - c;
                            const T* at = from + x * p.x_stride_x + c0 + c;
                            put(x, c,
                                left >= kWidth ? load(at)
                                : left > 0     ? load_part(at, static_cast<int>(left))
                                               : Vec{});
                        }
                    }
                    return;
                }
                const float* bias = p.expand_bias + c0;
                const char* weights =
                    static_cast<const char*>(p.expand) + c0 / kPanel * expand_stride * (kPairs ? 2 : 4);
                product<T, kPairs>(
                    {{from}, 1, p.x_stride_x, p.channels_in, p.width}, weights, expand_stride, channels / kPanel,
                    [&](int64_t, int64_t panel, int part) { return load(bias + panel * kPanel + part * kWidth); },
                    [&](int64_t x, int64_t panel, int part, Vec sum) {
                        put(x, panel * kPanel + part * kWidth, relu(sum));
                    });
            };

            for (int64_t y = first; y < bottom; ++y) {
                const int64_t first_row = p.upsample ? (y + 1) / 2 - 1 : y * p.stride - 1;
                const T* rows[3] = {nothing, nothing, nothing};
                for (int row = 0; row < (p.upsample ? 2 : 3); ++row) {
                    const int64_t at = first_row + row;
                    if (at < 0 || at >= p.height) continue;
                    if (at > made) {
                        make(at);
                        made = at;
                    }
                    rows[row] = ring + at % 3 * ring_row;
                }
                const int parity = y % 2 != 0 ? 1 : y + 1 == p.out_height ? 2 : 0;
                depthwise(p, rows, parity, channels, p.depthwise + c0, all, p.depthwise_bias + c0, line);
                const char* weights = static_cast<const char*>(p.project) + c0 * kPanel * (kPairs ? 2 : 4);
                T* to = result + y * p.out_stride_y;
                float* sum_row = sums + (y - first) * (row_bytes / 4);
                const T* added = p.residual ? picture + y * p.x_stride_y : nullptr;
                const bool starts = c0 == first_channel, ends = partial == nullptr && c0 + chunk >= all;
                product<T, kPairs>(
                    {{line}, 1, channels, channels, p.out_width}, weights, project_stride, panels,
                    [&](int64_t x, int64_t panel, int part) {
                        const int64_t c = panel * kPanel + part * kWidth;
                        return !starts              ? load(sum_row + x * panels * kPanel + c)
                               : partial == nullptr ? load(p.project_bias + c)
                                                    : Vec{};
                    },
                    [&](int64_t x, int64_t panel, int part, Vec sum) {
                        const int64_t c = panel * kPanel + part * kWidth, left = p.channels_out - c;
                        if (!ends) {
                            store(sum_row + x * panels * kPanel + c, sum);
                            return;
                        }
                        if (left <= 0) return;
                        T* at = to + x * p.out_stride_x + c;
                        if (left >= kWidth) {
                            if (added != nullptr) sum += load(added + x * p.x_stride_x + c);
                            store(at, sum);
                        } else {
                            const int some = static_cast<int>(left);
                            if (added != nullptr) sum += load_part(added + x * p.x_stride_x + c, some);
                            store_part(at, sum, some);
                        }
                    });
            }
            // The last chunk may be narrower: columns beside its rows lie elsewhere, and must be 0 again.
            if (channels != chunk || c0 + 2 * chunk > last_channel) {
                std::memset(static_cast<void*>(ring), 0, static_cast<size_t>(ring_bytes));
            }
        }
        top += bottom - first;
    }
}

template <typename T, bool kPairs>
void rows_or_groups(const MbconvParams& p, int64_t begin, int64_t end) {
    const int64_t all = (p.hidden + kPanel - 1) / kPanel * kPanel;
    if (p.workspace == nullptr) {
        work<T, kPairs>(p, begin, end, 0, all, nullptr);
        return;
    }
    const int64_t rows = p.n * p.out_height, chunks = (all + kChunk - 1) / kChunk;
    const int64_t size = rows * p.out_width * ((p.channels_out + kPanel - 1) / kPanel * kPanel);
    for (int64_t group = begin; group < end; ++group) {
        const int64_t first = group * chunks / p.groups * kChunk, last = (group + 1) * chunks / p.groups * kChunk;
        work<T, kPairs>(p, 0, rows, first, last < all ? last : all, static_cast<float*>(p.workspace) + group * size);
    }
}

// The rows [begin, end) from all groups' shares.
template <typename T>
void sum_rows_of(const MbconvParams& params, int64_t begin, int64_t end) {
    const MbconvParams p = params;
    const int64_t padded = (p.channels_out + kPanel - 1) / kPanel * kPanel, row_size = p.out_width * padded;
    const int64_t size = p.n * p.out_height * row_size;
    for (int64_t row = begin; row < end; ++row) {
        const int64_t n = row / p.out_height, y = row % p.out_height;
        const T* added = static_cast<const T*>(p.x) + n * p.x_stride_n + y * p.x_stride_y;
        T* to = static_cast<T*>(p.out) + n * p.out_stride_n + y * p.out_stride_y;
        for (int64_t x = 0; x < p.out_width; ++x) {
            const float* shares = static_cast<const float*>(p.workspace) + row * row_size + x * padded;
            for (int64_t c = 0; c < p.channels_out; c += kWidth) {
                const int part = p.channels_out - c < kWidth ? static_cast<int>(p.channels_out - c) : kWidth;
                Vec sum = load(p.project_bias + c);
                for (int32_t group = 0; group < p.groups; ++group) sum += load(shares + group * size + c);
                const T* also = added + x * p.x_stride_x + c;
                if (p.residual) sum += part == kWidth ? load(also) : load_part(also, part);
                if (part == kWidth) {
                    store(to + x * p.out_stride_x + c, sum);
                } else {
                    store_part(to + x * p.out_stride_x + c, sum, part);
                }
            }
        }
    }
}

}  // namespace

void mbconv(const MbconvParams& p, int64_t begin, int64_t end) {
    if (p.dtype == kFloat32) {
        rows_or_groups<float, false>(p, begin, end);
        return;
    }
#if defined(__AVX512BF16__)
    rows_or_groups<BFloat16, true>(p, begin, end);
#else
    rows_or_groups<BFloat16, false>(p, begin, end);
#endif
}

void mbconv_sum(const MbconvParams& p, int64_t begin, int64_t end) {
    (p.dtype == kFloat32 ? sum_rows_of<float> : sum_rows_of<BFloat16>)(p, begin, end);
}

}  // namespace FASTREENACT_ISA
}  // namespace fastreenact
