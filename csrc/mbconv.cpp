// mbconv on the CPU. Compiled once per instruction set.
//
// The hidden map, six times as wide as its input, is never whole: a chunk of its channels is expanded row by row into a
// ring of three rows, convolved there, and projected at once. Few hidden channels are one chunk, and the result is
// final; of many, each chunk adds its share to sums of a band of rows, so that its weights are read once a band.
#include "mbconv.h"

#include <cstring>

#include "gemm.h"
#include "isa.h"
#include "vec.h"

namespace fastreenact {
namespace FASTREENACT_ISA {
namespace {

constexpr int64_t kChunk = 64;           // hidden channels at once, where they are many
constexpr int64_t kOneChunk = 96;        // up to so many are few
constexpr int64_t kBandBytes = 2 << 20;  // of sums

// Depthwise 3x3 and ReLU of one row: rows[3] point to the column left of the first, [column][channels].
template <typename T, int kStride>
void depthwise(const T* const (&rows)[3], int64_t columns, int64_t channels, const float* weights,
               int64_t weight_stride, const float* bias, T* out) {
    for (int64_t c = 0; c < channels; c += kWidth) {
        Vec w[9];
        for (int tap = 0; tap < 9; ++tap) w[tap] = load(weights + tap * weight_stride + c);
        const Vec first = load(bias + c);
        if constexpr (kStride == 1) {
            // A column is right of one output, in the middle of the next and left of the one after.
            Vec one = first, next = first;
            for (int row = 0; row < 3; ++row) {
                const Vec left = load(rows[row] + c), middle = load(rows[row] + channels + c);
                one += left * w[3 * row] + middle * w[3 * row + 1];
                next += middle * w[3 * row];
            }
            for (int64_t x = 0; x < columns; ++x) {
                Vec after = first;
                for (int row = 0; row < 3; ++row) {
                    const Vec value = load(rows[row] + (x + 2) * channels + c);
                    one += value * w[3 * row + 2];
                    next += value * w[3 * row + 1];
                    after += value * w[3 * row];
                }
                store(out + x * channels + c, relu(one));
                one = next;
                next = after;
            }
        } else {
            for (int64_t x = 0; x < columns; ++x) {
                Vec sum = first;
                for (int tap = 0; tap < 9; ++tap) {
                    sum += load(rows[tap / 3] + (2 * x + tap % 3) * channels + c) * w[tap];
                }
                store(out + x * channels + c, relu(sum));
            }
        }
    }
}

template <typename T, bool kPairs>
void work(const MbconvParams& p, int64_t begin, int64_t end) {
    const int64_t all = (p.hidden + kPanel - 1) / kPanel * kPanel;
    const int64_t chunk = all <= kOneChunk ? all : kChunk;
    const int64_t panels = (p.channels_out + kPanel - 1) / kPanel;
    const int64_t width = p.upsample ? p.out_width : p.width, height = p.upsample ? p.out_height : p.height;
    const int64_t row_bytes = p.out_width * panels * kPanel * 4;
    const bool one_chunk = chunk == all;
    const int64_t band_rows = one_chunk ? end - begin : kBandBytes / row_bytes > 1 ? kBandBytes / row_bytes : 1;
    const int64_t ring_row = (width + 2) * chunk;
    const int64_t ring_bytes = whole_lines(4 * ring_row * static_cast<int64_t>(sizeof(T)));
    const int64_t line_bytes = whole_lines(p.out_width * chunk * static_cast<int64_t>(sizeof(T)));
    const int64_t sum_rows = band_rows < end - begin ? band_rows : end - begin;
    char* memory = scratch.need(ring_bytes + line_bytes + (one_chunk ? 0 : sum_rows * row_bytes));
    T* ring = reinterpret_cast<T*>(memory);
    T* line = reinterpret_cast<T*>(memory + ring_bytes);
    float* sums = reinterpret_cast<float*>(memory + ring_bytes + line_bytes);
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

        for (int64_t c0 = 0; c0 < all; c0 += chunk) {
            const int64_t channels = c0 + chunk < all ? chunk : all - c0;
            int64_t made = -1;  // the last source row in the ring
            // Source row `y` expanded into its place in the ring; with `upsample` every pixel twice.
            const auto make = [&](int64_t y) {
                T* to = ring + y % 3 * ring_row + channels;
                const T* from = picture + y * p.x_stride_y;
                const auto put = [&](int64_t x, int64_t c, Vec value) {
                    if (p.upsample) {
                        store(to + 2 * x * channels + c, value);
                        if (2 * x + 1 < width) store(to + (2 * x + 1) * channels + c, value);
                    } else {
                        store(to + x * channels + c, value);
                    }
                };
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
                pointwise<T, kPairs>(
                    from, p.x_stride_x, p.width, weights, expand_stride, p.channels_in, channels / kPanel,
                    [&](int64_t, int64_t panel, int part) { return load(bias + panel * kPanel + part * kWidth); },
                    [&](int64_t x, int64_t panel, int part, Vec sum) {
                        put(x, panel * kPanel + part * kWidth, relu(sum));
                    });
            };

            for (int64_t y = first; y < bottom; ++y) {
                const T* rows[3];
                for (int row = 0; row < 3; ++row) {
                    const int64_t at = y * p.stride + row - 1;
                    if (at < 0 || at >= height) {
                        rows[row] = nothing;
                        continue;
                    }
                    const int64_t source = p.upsample ? at / 2 : at;
                    if (made < 0 || source > made) {
                        make(source);
                        made = source;
                    }
                    rows[row] = ring + source % 3 * ring_row;
                }
                (p.stride == 1 ? depthwise<T, 1> : depthwise<T, 2>)(rows, p.out_width, channels, p.depthwise + c0, all,
                                                                    p.depthwise_bias + c0, line);
                const char* weights = static_cast<const char*>(p.project) + c0 * kPanel * (kPairs ? 2 : 4);
                T* to = result + y * p.out_stride_y;
                float* sum_row = sums + (y - first) * (row_bytes / 4);
                const T* added = p.residual ? picture + y * p.x_stride_y : nullptr;
                const bool starts = c0 == 0, ends = c0 + chunk >= all;
                pointwise<T, kPairs>(
                    line, channels, p.out_width, weights, project_stride, channels, panels,
                    [&](int64_t x, int64_t panel, int part) {
                        const int64_t c = panel * kPanel + part * kWidth;
                        return starts ? load(p.project_bias + c) : load(sum_row + x * panels * kPanel + c);
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
            if (channels != chunk || c0 + 2 * chunk > all) {
                std::memset(static_cast<void*>(ring), 0, static_cast<size_t>(ring_bytes));
            }
        }
        top += bottom - first;
    }
}

}  // namespace

void mbconv(const MbconvParams& p, int64_t begin, int64_t end) {
    if (p.dtype == kFloat32) {
        work<float, false>(p, begin, end);
        return;
    }
#if defined(__AVX512BF16__)
    work<BFloat16, true>(p, begin, end);
#else
    work<BFloat16, false>(p, begin, end);
#endif
}

}  // namespace FASTREENACT_ISA
}  // namespace fastreenact
