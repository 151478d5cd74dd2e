// to_frame on the CPU. Compiled once per instruction set.
#include "to_frame.h"

#include <cstddef>

#include "isa.h"
#include "vec.h"

namespace fastreenact {
namespace FASTREENACT_ISA {
namespace {

constexpr int kChunk = 256;  // columns whose channels wait on the stack

// frame_level, a vector at a time, and its whole part.
template <bool kTanhFirst>
FASTREENACT_INLINE ByteVec levels(Vec value) {
    if (kTanhFirst) value = tanh(value);
    Vec level = value * 127.5f + 128.0f;
    level = select(level > 0.0f, level, Vec{});
    level = select(level < 255.0f, level, splat(255.0f));
    return truncate_to_bytes(level);
}

// `count` values, `stride` apart, to as many bytes side by side; whole vectors of them may be written. Gives `doubt`
// with the values in it.
template <typename T, bool kTanhFirst>
FASTREENACT_INLINE Vec to_levels(const T* from, int64_t stride, int count, uint8_t* to, Vec doubt) {
    for (int x = 0; x < count; x += kWidth) {
        const int part = count - x < kWidth ? count - x : kWidth;
        Vec value;
        if (stride == 1) {
            value = part == kWidth ? load(from + x) : load_part(from + x, part);
        } else {
            T gathered[kWidth] = {};
            for (int i = 0; i < part; ++i) gathered[i] = from[(x + i) * stride];
            value = load(gathered);
        }
        doubt = add_doubt(doubt, value);
        const ByteVec bytes = levels<kTanhFirst>(value);
        __builtin_memcpy(to + x, &bytes, sizeof(bytes));
    }
    return doubt;
}

template <typename T, bool kTanhFirst>
void rows(const ToFrameParams& p, int64_t begin, int64_t end) {
    const bool same_order = p.image_stride_c == 1 && p.image_stride_x == 3 && p.out_stride_x == 3;
    uint8_t bytes[3][kChunk];  // kChunk is a multiple of every kWidth
    Vec doubt = {};
    for (int64_t row = begin; row < end; ++row) {
        const int64_t n = row / p.height, y = row % p.height;
        const T* from = static_cast<const T*>(p.image) + n * p.image_stride_n + y * p.image_stride_y;
        uint8_t* to = p.out + n * p.out_stride_n + y * p.out_stride_y;
        if (same_order) {
            const int64_t whole = 3 * p.width / kWidth * kWidth;
            doubt = to_levels<T, kTanhFirst>(from, 1, static_cast<int>(whole), to, doubt);
            doubt = to_levels<T, kTanhFirst>(from + whole, 1, static_cast<int>(3 * p.width - whole), bytes[0], doubt);
            __builtin_memcpy(to + whole, bytes[0], static_cast<size_t>(3 * p.width - whole));
            continue;
        }
        for (int64_t x = 0; x < p.width; x += kChunk) {
            const int count = static_cast<int>(p.width - x < kChunk ? p.width - x : kChunk);
            for (int c = 0; c < 3; ++c) {
                const T* first = from + c * p.image_stride_c + x * p.image_stride_x;
                doubt = to_levels<T, kTanhFirst>(first, p.image_stride_x, count, bytes[c], doubt);
            }
            uint8_t* pixel = to + x * p.out_stride_x;
            if (p.out_stride_x == 3) {  // the same loop with a stride that vectorises
                for (int i = 0; i < count; ++i) {
                    for (int c = 0; c < 3; ++c) pixel[3 * i + c] = bytes[c][i];
                }
                continue;
            }
            for (int i = 0; i < count; ++i, pixel += p.out_stride_x) {
                for (int c = 0; c < 3; ++c) pixel[c] = bytes[c][i];
            }
        }
    }
    raise_flag(p.flag, doubt);
}

}  // namespace

void to_frame(const ToFrameParams& p, int64_t begin, int64_t end) {
    if (p.dtype == kFloat32) {
        (p.apply_tanh ? rows<float, true> : rows<float, false>)(p, begin, end);
    } else {
        (p.apply_tanh ? rows<BFloat16, true> : rows<BFloat16, false>)(p, begin, end);
    }
}

}  // namespace FASTREENACT_ISA
}  // namespace fastreenact
