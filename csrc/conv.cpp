// conv on the CPU. Compiled once per instruction set.
//
// The inputs that an output pixel sees are gathered into one row of a matrix, which is multiplied by the weights. The
// copies cost little beside the products: each gathered value meets every output channel. (Rows multiplied where they
// lie, without copies, were slower up to 64 pixels and no faster beyond: their borders go apart, and their pixels are
// no multiple of what the registers hold.)
#include "conv.h"

#include <cstring>

#include "substrate/gemm.h"
#include "substrate/isa.h"

namespace fastreenact {
namespace FASTREENACT_ISA {
namespace {

constexpr int64_t kTileBytes = 192 << 10;  // of gathered pixels: they stay in the second-level cache

// Where a pixel's results go, and what is added to them: elements from the first of each map.
struct Place {
    int64_t out;
    int64_t add;
    int64_t residual;
};

template <typename A, typename X>
FASTREENACT_INLINE void copy_run(A* to, const X* from, int64_t count, float scale, float shift) {
    int64_t i = 0;
    for (; i + kWidth <= count; i += kWidth) store(to + i, load(from + i) * scale + shift);
    if (i < count) {
        const int part = static_cast<int>(count - i);
        store_part(to + i, load_part(from + i, part) * scale + shift, part);
    }
}
FASTREENACT_INLINE void copy_run(float* to, const float* from, int64_t count, float, float) {
    std::memcpy(to, from, static_cast<size_t>(count) * sizeof(float));
}
FASTREENACT_INLINE void copy_run(BFloat16* to, const BFloat16* from, int64_t count, float, float) {
    std::memcpy(static_cast<void*>(to), from, static_cast<size_t>(count) * sizeof(BFloat16));
}

// What the output at cell (cell_y, cell_x) of a phase sees: [taps y][taps x][Cin], zeros beyond the picture.
template <typename A, typename X>
void gather(const ConvParams& p, int64_t n, int64_t y0, int64_t x0, int64_t taps_y, int64_t taps_x, void* row) {
    const X* picture = static_cast<const X*>(p.x) + n * p.x_stride_n;
    A* to = static_cast<A*>(row);
    const int64_t channels = p.channels_in, run = taps_x * channels;
    const int64_t first = x0 < 0 ? -x0 : 0;
    const int64_t last = x0 + taps_x > p.width ? p.width - x0 : taps_x;  // of the taps inside
    for (int64_t y = y0; y < y0 + taps_y; ++y, to += run) {
        if (y < 0 || y >= p.height || first >= last) {
            std::memset(static_cast<void*>(to), 0, static_cast<size_t>(run) * sizeof(A));
            continue;
        }
        if (first > 0) std::memset(static_cast<void*>(to), 0, static_cast<size_t>(first * channels) * sizeof(A));
        const X* from = picture + y * p.x_stride_y + (x0 + first) * p.x_stride_x;
        if (p.x_stride_x == channels) {
            copy_run(to + first * channels, from, (last - first) * channels, p.x_scale, p.x_shift);
        } else {
            for (int64_t tap = first; tap < last; ++tap, from += p.x_stride_x) {
                copy_run(to + tap * channels, from, channels, p.x_scale, p.x_shift);
            }
        }
        if (last < taps_x) {
            std::memset(static_cast<void*>(to + last * channels), 0,
                        static_cast<size_t>((taps_x - last) * channels) * sizeof(A));
        }
    }
}

// What happens to a sum. Fields of its own, because what is stored could change the parameters for all a compiler
// knows.
template <typename Out>
struct Finish {
    Out* out;
    const Out* add;
    const Out* residual;
    int64_t channels;
    bool relu;

    FASTREENACT_INLINE Vec value(const Out* from, int part) {
        return part == kWidth ? load(from) : load_part(from, part);
    }
    __attribute__((always_inline)) void operator()(Vec sum, const Place& place, int64_t c) const {
        const int64_t left = channels - c;
        if (left <= 0) return;
        const int part = left < kWidth ? static_cast<int>(left) : kWidth;
        if (add != nullptr) sum += value(add + place.add + c, part);
        if (relu) sum = FASTREENACT_ISA::relu(sum);
        if (residual != nullptr) sum += value(residual + place.residual + c, part);
        if (part == kWidth) {
            store(out + place.out + c, sum);
        } else {
            store_part(out + place.out + c, sum, part);
        }
    }
};

FASTREENACT_INLINE Place place_of(const ConvParams& p, int64_t n, int64_t y, int64_t x) {
    const int64_t half = p.residual_half;
    const int64_t picture = p.source_index != nullptr ? p.source_index[n] : n;
    return {n * p.out_stride_n + y * p.out_stride_y + x * p.out_stride_x,
            picture * p.add_stride_n + y * p.add_stride_y + x * p.add_stride_x,
            n * p.residual_stride_n + (y >> half) * p.residual_stride_y + (x >> half) * p.residual_stride_x};
}

// The rows of cells [begin, end) of one phase, for the panels [panel, panel + panels).
template <typename A, bool kPairs, typename Out>
void phase(const ConvParams& p, int phase_y, int phase_x, int64_t begin, int64_t end, int64_t panel, int64_t panels) {
    const auto gather_pixel = p.x_dtype == kUint8     ? gather<A, uint8_t>
                              : p.x_dtype == kFloat32 ? gather<A, float>
                                                      : gather<A, BFloat16>;
    const ConvAxis &ay = p.axis_y, &ax = p.axis_x;
    const int64_t cells_y = (p.out_height + ay.phases - 1) / ay.phases;
    const int64_t columns = (p.out_width - phase_x + ax.phases - 1) / ax.phases;
    const int64_t taps_y = ay.taps[phase_y], taps_x = ax.taps[phase_x], run = taps_x * p.channels_in;
    const int64_t seen = taps_y * run, depth = kPairs ? (seen + 1) / 2 * 2 : seen;
    const int64_t panel_stride = depth * kPanel;
    const char* weights = static_cast<const char*>(p.weights) +
                          (p.weights_at[phase_y * kMaxPhases + phase_x] + panel * panel_stride) * (kPairs ? 2 : 4);
    int64_t most = kTileBytes / (depth * static_cast<int64_t>(sizeof(A)));
    most = most < 24 ? 24 : most > 1024 ? 1024 : most;
    const int64_t matrix_bytes = whole_lines(most * depth * static_cast<int64_t>(sizeof(A)) + 64);
    char* memory = scratch.need(matrix_bytes + most * static_cast<int64_t>(sizeof(Place)));
    A* matrix = reinterpret_cast<A*>(memory);
    Place* places = reinterpret_cast<Place*>(memory + matrix_bytes);
    const Finish<Out> finish{static_cast<Out*>(p.out), static_cast<const Out*>(p.add),
                             static_cast<const Out*>(p.residual), p.channels_out, p.activation == kRelu};
    const float* bias = p.bias + panel * kPanel;
    const auto begin_sum = [&](int64_t, int64_t j, int part) { return load(bias + j * kPanel + part * kWidth); };
    const auto take_sum = [&](int64_t i, int64_t j, int part, Vec sum) {
        finish(sum, places[i], (panel + j) * kPanel + part * kWidth);
    };
    int64_t count = 0;
    const auto multiply_tile = [&] {
        if (count > 0) {
            product<A, kPairs>({{matrix}, 1, depth, depth, count}, weights, panel_stride, panels, begin_sum, take_sum);
        }
        count = 0;
    };
    for (int64_t row = begin; row < end; ++row) {
        const int64_t n = row / cells_y, cell_y = row % cells_y, y = cell_y * ay.phases + phase_y;
        if (y >= p.out_height) continue;
        const int64_t y0 = ay.step * cell_y + ay.offset[phase_y];
        for (int64_t cell = 0; cell < columns; ++cell) {
            A* to = matrix + count * depth;
            gather_pixel(p, n, y0, ax.step * cell + ax.offset[phase_x], taps_y, taps_x, to);
            if (depth > seen) to[seen] = A{};
            places[count] = place_of(p, n, y, cell * ax.phases + phase_x);
            if (++count == most) multiply_tile();
        }
    }
    multiply_tile();
}

// Winograd's F(2x2, 3x3): tiles of 2x2 outputs see 4x4 inputs, transformed along both axes by
//     1  0 -1  0 |  0  1  1  0 |  0 -1  1  0 |  0  1  0 -1,
// are multiplied by the transformed weights, 16 products in place of 36, and go back along both axes by
//     1  1  1  0 |  0  1 -1 -1.
// Source: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, 2016, section 4.1.
constexpr int64_t kTiles = 64;  // at once

FASTREENACT_INLINE void transform_input(const Vec (&d)[4][4], Vec (&v)[4][4]) {
    Vec t[4][4];
    for (int x = 0; x < 4; ++x) {
        t[0][x] = d[0][x] - d[2][x];
        t[1][x] = d[1][x] + d[2][x];
        t[2][x] = d[2][x] - d[1][x];
        t[3][x] = d[1][x] - d[3][x];
    }
    for (int y = 0; y < 4; ++y) {
        v[y][0] = t[y][0] - t[y][2];
        v[y][1] = t[y][1] + t[y][2];
        v[y][2] = t[y][2] - t[y][1];
        v[y][3] = t[y][1] - t[y][3];
    }
}

FASTREENACT_INLINE void transform_output(const Vec (&m)[4][4], Vec (&out)[2][2]) {
    Vec t[2][4];
    for (int x = 0; x < 4; ++x) {
        t[0][x] = m[0][x] + m[1][x] + m[2][x];
        t[1][x] = m[1][x] - m[2][x] - m[3][x];
    }
    for (int y = 0; y < 2; ++y) {
        out[y][0] = t[y][0] + t[y][1] + t[y][2];
        out[y][1] = t[y][1] - t[y][2] - t[y][3];
    }
}

// The transformed inputs of a tile whose first input is (y0, x0): `to` [16], `step` elements from one to the next.
template <typename A, typename X>
void transform_tile(const ConvParams& p, int64_t n, int64_t y0, int64_t x0, A* to, int64_t step) {
    const X* picture = static_cast<const X*>(p.x) + n * p.x_stride_n;
    for (int64_t c = 0; c < p.channels_in; c += kWidth) {
        Vec d[4][4], v[4][4];
        for (int64_t y = 0; y < 4; ++y) {
            for (int64_t x = 0; x < 4; ++x) {
                const bool inside = y0 + y >= 0 && y0 + y < p.height && x0 + x >= 0 && x0 + x < p.width;
                const X* from = picture + (y0 + y) * p.x_stride_y + (x0 + x) * p.x_stride_x + c;
                d[y][x] = inside ? load(from) * p.x_scale + p.x_shift : Vec{};
            }
        }
        transform_input(d, v);
        for (int i = 0; i < 16; ++i) store(to + i * step + c, v[i / 4][i % 4]);
    }
}

// The rows of tiles [begin, end), for the panels [panel, panel + panels).
template <typename A, bool kPairs, typename Out>
void winograd(const ConvParams& p, int64_t begin, int64_t end, int64_t panel, int64_t panels) {
    const auto transform = p.x_dtype == kUint8     ? transform_tile<A, uint8_t>
                           : p.x_dtype == kFloat32 ? transform_tile<A, float>
                                                   : transform_tile<A, BFloat16>;
    const int64_t rows_of_picture = (p.out_height + 1) / 2, columns = (p.out_width + 1) / 2;
    const int64_t panel_stride = p.channels_in * kPanel, element = kPairs ? 2 : 4;
    const int64_t matrix_stride = (p.channels_out + kPanel - 1) / kPanel * panel_stride;
    const char* weights = static_cast<const char*>(p.weights) + (p.weights_at[0] + panel * panel_stride) * element;
    // A line more than a power of two: sixteen lines at such a distance would share one set of the cache.
    const int64_t input_step = kTiles * p.channels_in + 64 / static_cast<int64_t>(sizeof(A));
    const int64_t input_bytes = whole_lines(16 * input_step * static_cast<int64_t>(sizeof(A)) + 64);
    constexpr int64_t kSumsStep = kTiles * kPanels * kPanel + kPanel;
    char* memory = scratch.need(input_bytes + 16 * kSumsStep * static_cast<int64_t>(sizeof(float)));
    A* inputs = reinterpret_cast<A*>(memory);
    float* sums = reinterpret_cast<float*>(memory + input_bytes);
    const Finish<Out> finish{static_cast<Out*>(p.out), static_cast<const Out*>(p.add),
                             static_cast<const Out*>(p.residual), p.channels_out, p.activation == kRelu};
    struct Tile {
        int64_t n, y, x;
    } tiles[kTiles];
    int64_t count = 0;
    const auto begin_sum = [](int64_t, int64_t, int) { return Vec{}; };
    const auto some = [&](int64_t first, int64_t now) {  // panels
        for (int64_t i = 0; i < 16; ++i) {
            float* to = sums + i * kSumsStep;
            product<A, kPairs>({{inputs + i * input_step}, 1, p.channels_in, p.channels_in, count},
                               weights + (i * matrix_stride + first * panel_stride) * element, panel_stride, now,
                               begin_sum, [&](int64_t tile, int64_t j, int part, Vec sum) {
                                   store(to + (tile * kPanels + j) * kPanel + part * kWidth, sum);
                               });
        }
        for (int64_t tile = 0; tile < count; ++tile) {
            const Tile& at = tiles[tile];
            for (int64_t c = 0; c < now * kPanel; c += kWidth) {
                Vec m[4][4], out[2][2];
                for (int i = 0; i < 16; ++i) m[i / 4][i % 4] = load(sums + i * kSumsStep + tile * kPanels * kPanel + c);
                transform_output(m, out);
                const int64_t channel = (panel + first) * kPanel + c;
                const Vec bias = load(p.bias + channel);
                for (int64_t i = 0; i < 4; ++i) {
                    const int64_t y = at.y + i / 2, x = at.x + i % 2;
                    if (y < p.out_height && x < p.out_width) {
                        finish(out[i / 2][i % 2] + bias, place_of(p, at.n, y, x), channel);
                    }
                }
            }
        }
    };
    for (int64_t row = begin; row < end; ++row) {
        for (int64_t column = 0; column < columns; ++column) {
            const Tile tile = {row / rows_of_picture, row % rows_of_picture * 2, column * 2};
            transform(p, tile.n, tile.y + p.axis_y.offset[0], tile.x + p.axis_x.offset[0],
                      inputs + count * p.channels_in, input_step);
            tiles[count++] = tile;
            if (count == kTiles || (row == end - 1 && column == columns - 1)) {
                for (int64_t first = 0; first < panels; first += kPanels) {
                    some(first, panels - first < kPanels ? panels - first : kPanels);
                }
                count = 0;
            }
        }
    }
}

template <typename A, bool kPairs, typename Out>
void blocks(const ConvParams& p, int64_t begin, int64_t end) {
    const int64_t outputs = conv_row_outputs(p), rows = p.n * ((p.out_height + outputs - 1) / outputs);
    const int64_t panels = (p.channels_out + kPanel - 1) / kPanel;
    while (begin < end) {
        const int64_t group = begin / rows, first = begin % rows;
        const int64_t last = end - begin < rows - first ? first + end - begin : rows;
        const int64_t panel = group * panels / p.groups, next = (group + 1) * panels / p.groups;
        if (p.winograd) winograd<A, kPairs, Out>(p, first, last, panel, next - panel);
        for (int y = 0; y < p.axis_y.phases && !p.winograd; ++y) {
            for (int x = 0; x < p.axis_x.phases && x < p.out_width; ++x) {
                phase<A, kPairs, Out>(p, y, x, first, last, panel, next - panel);
            }
        }
        begin += last - first;
    }
}

}  // namespace

void conv(const ConvParams& p, int64_t begin, int64_t end) {
#if defined(__AVX512BF16__)
    if (p.dtype == kBFloat16) {
        (p.out_dtype == kFloat32 ? blocks<BFloat16, true, float> : blocks<BFloat16, true, BFloat16>)(p, begin, end);
        return;
    }
#endif
    (p.out_dtype == kFloat32 ? blocks<float, false, float> : blocks<float, false, BFloat16>)(p, begin, end);
}

}  // namespace FASTREENACT_ISA
}  // namespace fastreenact
