// to_frame on the CPU. Compiled once per instruction set.
#include "to_frame.h"

#include <cstddef>

#include "substrate/isa.h"
#include "substrate/vec.h"

namespace fastreenact {
namespace FASTREENACT_ISA {
namespace {

constexpr int kChunk = 256;  // columns whose channels wait on the stack, a multiple of 4 * kWidth

// frame_level of `count` values, `stride` apart, to as many bytes side by side. Four vectors at a time, and as many
// bytes may be written. Gives `doubt` with the values in it.
template <typename T, bool kTanhFirst>
FASTREENACT_INLINE Vec to_levels(const T* from, int64_t stride, int count, uint8_t* to, Vec doubt) {
    for (int x = 0; x < count; x += 4 * kWidth) {
        Vec values[4];
        for (int i = 0; i < 4; ++i) {
            const int first = x + i * kWidth, part = count - first < kWidth ? count - first : kWidth;
            if (part == kWidth && stride == 1) {
                values[i] = load(from + first);
            } else if (part > 0 && stride == 1) {
                values[i] = load_part(from + first, part);
            } else {
                T gathered[kWidth] = {};
                for (int j = 0; j < part; ++j) gathered[j] = from[(first + j) * stride];
                values[i] = load(gathered);
            }
            doubt = add_doubt(doubt, values[i]);
            if (kTanhFirst) values[i] = tanh(values[i]);
            values[i] = values[i] * 127.5f + 128.0f;
        }
        store_levels(to + x, values);
    }
    return doubt;
}

template <typename T, bool kTanhFirst>
void rows(const ToFrameParams& p, int64_t begin, int64_t end) {
    const bool same_order = p.image_stride_c == 1 && p.image_stride_x == 3 && p.out_stride_x == 3;
    uint8_t bytes[3][kChunk];
    Vec doubt = {};
    for (int64_t row = begin; row < end; ++row) {
        const int64_t n = row / p.height, y = row % p.height;
        const T* from = static_cast<const T*>(p.image) + n * p.image_stride_n + y * p.image_stride_y;
        uint8_t* to = p.out + n * p.out_stride_n + y * p.out_stride_y;
        if (same_order) {
            const int64_t whole = 3 * p.width / (4 * kWidth) * (4 * kWidth);
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
