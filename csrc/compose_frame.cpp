// compose_frame on the CPU. Compiled once per instruction set. Per chunk of columns: the taps; a row of the square is
// activated and enlarged sideways when a row of the picture first needs it; then each row of the picture is a weighted
// sum of two such rows, vectorised over values (r g b, r g b, ...).
#include "compose_frame.h"

#include "substrate/isa.h"
#include "substrate/vec.h"

namespace fastreenact {
namespace FASTREENACT_ISA {
namespace {

constexpr int kChunk = 256;                       // columns whose colours and gains wait on the stack
constexpr int kSpan = 272;                        // columns of the square that a chunk may need
constexpr int kValues = 3 * kChunk + 2 * kWidth;  // whole vectors are written and read at the end

// The columns [first, first + count) of the composed rectangle.
struct Columns {
    int count;
    int64_t source;                     // first column of the square that they need
    int span;                           // and how many
    int32_t low[kChunk], high[kChunk];  // taps, in floats from `source` on
    float weight[kChunk], say[kChunk];  // of the right tap; how much is applied
};

// One row of the square, enlarged to a chunk's columns and times their say, each pixel's three values side by side.
struct Row {
    int64_t index;  // of the square; -1: none yet
    float colour[kValues];
    float gain[kValues];  // less 1
};

void place(const ComposeFrameParams& p, int64_t first, Columns& columns) {
    const int64_t most = p.width - first < kChunk ? p.width - first : kChunk;
    columns.count = 0;
    for (int64_t i = 0; i < most; ++i) {
        const ComposeTap tap = compose_tap(p.left + first + i, p.centre_x, p.size, p.side, p.fade);
        if (i == 0) columns.source = tap.low;
        if (tap.high - columns.source >= kSpan) break;  // the square is being shrunk
        columns.low[i] = static_cast<int32_t>(4 * (tap.low - columns.source));
        columns.high[i] = static_cast<int32_t>(4 * (tap.high - columns.source));
        columns.weight[i] = tap.weight;
        columns.say[i] = tap.say;
        columns.span = static_cast<int>(tap.high - columns.source) + 1;
        columns.count = static_cast<int>(i) + 1;
    }
}

// Colours (in levels) and gains of a part of one row of the square: tanh(value * inner + offset) * outer + shift. The
// values come into `doubt`.
template <typename T>
void activate(const ComposeFrameParams& p, int64_t row, int64_t column, int count, float* to, Vec& doubt) {
    float inner[kWidth], offset[kWidth], outer[kWidth], shift[kWidth];
    for (int i = 0; i < kWidth; ++i) {
        const bool gain = i % 4 == 3;
        inner[i] = gain ? 0.5f : 1.0f;
        offset[i] = gain ? -0.5f * p.gain_middle : 0.0f;
        outer[i] = gain ? p.gain_scale : 255.0f;
        shift[i] = gain ? p.gain_shift : 0.0f;
    }
    const Vec a = load(inner), b = load(offset), c = load(outer), d = load(shift);
    const T* from = static_cast<const T*>(p.raw) + row * p.raw_stride_y + column * p.raw_stride_x;
    for (int i = 0; i < 4 * count; i += kWidth) {
        const int part = 4 * count - i < kWidth ? 4 * count - i : kWidth;
        Vec value;
        if (p.raw_stride_x == 4) {
            value = part == kWidth ? load(from + i) : load_part(from + i, part);
        } else {
            T gathered[kWidth] = {};
            for (int k = 0; k < part; ++k) gathered[k] = from[(i + k) / 4 * p.raw_stride_x + (i + k) % 4];
            value = load(gathered);
        }
        doubt = add_doubt(doubt, value);
        store(to + i, tanh(value * a + b) * c + d);
    }
}

template <typename T>
void enlarge(const ComposeFrameParams& p, const Columns& columns, int64_t index, Row& row, Vec& doubt) {
    float maps[4 * kSpan + kWidth];
    activate<T>(p, index, columns.source, columns.span, maps, doubt);
    row.index = index;
    for (int i = 0; i < columns.count; ++i) {
        const Pixel low = load_pixel(maps + columns.low[i]), high = load_pixel(maps + columns.high[i]);
        const Pixel value = (low + (high - low) * columns.weight[i]) * columns.say[i];
        // The fourth lane belongs to the next pixel, which is written next.
        store_pixel<true>(row.colour + 3 * i, value);
        store_pixel<true>(row.gain + 3 * i, __builtin_shufflevector(value, value, 3, 3, 3, 3));
    }
}

// One row of the picture; `upper` and `lower` are the weights of the two rows.
void apply(const Row& a, const Row& b, float upper, float lower, int count, uint8_t* surface) {
    for (int i = 0; i < count; i += kWidth) {
        const int part = count - i < kWidth ? count - i : kWidth;
        const Vec base = part == kWidth ? load(surface + i) : load_part(surface + i, part);
        const Vec gain = load(a.gain + i) * upper + load(b.gain + i) * lower;
        const Vec colour = load(a.colour + i) * upper + load(b.colour + i) * lower;
        Vec level = base + (gain * base + colour) + 0.5f;
        level = select(level > 0.0f, level, Vec{});  // NaN too
        level = select(level < 255.0f, level, splat(255.0f));
        const ByteVec bytes = truncate_to_bytes(level);
        if (part == kWidth) {
            __builtin_memcpy(surface + i, &bytes, sizeof(bytes));
        } else {
            uint8_t last[kWidth];
            __builtin_memcpy(last, &bytes, sizeof(bytes));
            copy_part(surface + i, last, part);
        }
    }
}

template <typename T>
void rows(const ComposeFrameParams& p, int64_t begin, int64_t end) {
    Columns columns;
    Row buffers[2] = {};  // also beyond what a chunk fills, whole vectors are read
    Vec doubt = {};
    for (int64_t first = 0; first < p.width; first += columns.count) {
        place(p, first, columns);
        Row *a = &buffers[0], *b = &buffers[1];
        a->index = b->index = -1;
        for (int64_t y = begin; y < end; ++y) {
            const ComposeTap tap = compose_tap(p.top + y, p.centre_y, p.size, p.side, p.fade);
            if (b->index == tap.low) {
                Row* other = a;
                a = b;
                b = other;
            }
            if (a->index != tap.low) enlarge<T>(p, columns, tap.low, *a, doubt);
            if (tap.high != tap.low && b->index != tap.high) enlarge<T>(p, columns, tap.high, *b, doubt);
            uint8_t* to = p.surface + (p.top + y) * p.surface_stride + 3 * (p.left + first);
            const Row& lower = tap.high == tap.low ? *a : *b;
            apply(*a, lower, (1.0f - tap.weight) * tap.say, tap.weight * tap.say, 3 * columns.count, to);
        }
    }
    raise_flag(p.flag, doubt);
}

}  // namespace

void compose_frame(const ComposeFrameParams& p, int64_t begin, int64_t end) {
    (p.dtype == kFloat32 ? rows<float> : rows<BFloat16>)(p, begin, end);
}

}  // namespace FASTREENACT_ISA
}  // namespace fastreenact
