// to_frame on the CPU. Compiled once per instruction set.
#include "to_frame.h"

#include "isa.h"
#include "vec.h"

namespace fastreenact {
namespace FASTREENACT_ISA {
namespace {

constexpr int kChunk = 256;  // columns whose three channels wait on the stack

// One channel of up to kChunk columns, as levels in `out` (every third byte of it).
template <typename T, bool kTanhFirst>
void channel(const T* from, int64_t stride, int count, float* levels) {
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
        if (kTanhFirst) value = tanh(value);
        Vec level = value * 127.5f + 128.0f;  // frame_level, a vector at a time
        level = select(level > 0.0f, level, Vec{});
        level = select(level < 255.0f, level, splat(255.0f));
        store(levels + x, level);
    }
}

template <typename T, bool kTanhFirst>
void rows(const ToFrameParams& p, int64_t begin, int64_t end) {
    float levels[3][kChunk];
    for (int64_t row = begin; row < end; ++row) {
        const int64_t n = row / p.height, y = row % p.height;
        const T* from = static_cast<const T*>(p.image) + n * p.image_stride_n + y * p.image_stride_y;
        uint8_t* to = p.out + n * p.out_stride_n + y * p.out_stride_y;
        for (int64_t x = 0; x < p.width; x += kChunk) {
            const int count = static_cast<int>(p.width - x < kChunk ? p.width - x : kChunk);
            for (int c = 0; c < 3; ++c) {
                channel<T, kTanhFirst>(from + c * p.image_stride_c + x * p.image_stride_x, p.image_stride_x, count,
                                       levels[c]);
            }
            uint8_t* pixel = to + x * p.out_stride_x;
            for (int i = 0; i < count; ++i, pixel += p.out_stride_x) {
                for (int c = 0; c < 3; ++c) pixel[c] = static_cast<uint8_t>(static_cast<int32_t>(levels[c][i]));
            }
        }
    }
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
