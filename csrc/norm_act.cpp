// norm_act on the CPU. Compiled once per instruction set.
#include "norm_act.h"

#include <cmath>

#include "substrate/isa.h"
#include "substrate/vec.h"

namespace fastreenact {
namespace FASTREENACT_ISA {
namespace {

constexpr int kVecs = 4;  // vectors of channels whose sums are in registers at once

// Adds the sums over some pixels to [3, row] `sums`: into the centre itself (kCentre), or of x - centre and its square.
template <typename T, int kCount, bool kCentre, bool kPart>
FASTREENACT_INLINE void add_some_channels(const NormActParams& p, const T* x, int64_t pixels, float* sums, int64_t c,
                                          int part) {
    const int64_t row = p.row, stride = p.x_stride_x;
    Vec first[kCount], second[kCount], centre[kCount];
    for (int v = 0; v < kCount; ++v) {
        first[v] = second[v] = Vec{};
        centre[v] = load(sums + c + v * kWidth);
    }
    for (int64_t i = 0; i < pixels; ++i) {
        for (int v = 0; v < kCount; ++v) {
            const T* from = x + i * stride + c + v * kWidth;
            Vec value = kPart ? load_part(from, part) : load(from);
            if (!kCentre) {
                value = value - centre[v];
                second[v] = second[v] + value * value;
            }
            first[v] = first[v] + value;
        }
    }
    for (int v = 0; v < kCount; ++v) {
        float* to = sums + c + v * kWidth;
        if (kCentre) {
            store(to, centre[v] + first[v]);
        } else {
            store(to + row, load(to + row) + first[v]);
            store(to + 2 * row, load(to + 2 * row) + second[v]);
        }
    }
}

template <typename T, bool kCentre>
FASTREENACT_INLINE void add_pixels(const NormActParams& p, const T* x, int64_t pixels, float* sums) {
    const int64_t whole = p.channels / kWidth * kWidth;
    const int part = static_cast<int>(p.channels - whole);
    int64_t c = 0;
    for (; c + kVecs * kWidth <= whole; c += kVecs * kWidth) {
        add_some_channels<T, kVecs, kCentre, false>(p, x, pixels, sums, c, kWidth);
    }
    for (; c + 2 * kWidth <= whole; c += 2 * kWidth) {
        add_some_channels<T, 2, kCentre, false>(p, x, pixels, sums, c, kWidth);
    }
    if (c < whole) add_some_channels<T, 1, kCentre, false>(p, x, pixels, sums, c, kWidth);
    if (part > 0) add_some_channels<T, 1, kCentre, true>(p, x, pixels, sums, whole, part);
}

// Adds the pixels [begin, end) of sample n, counted through depth, rows and columns.
template <typename T, bool kCentre>
void add_range(const NormActParams& p, int64_t n, int64_t begin, int64_t end, float* sums) {
    // Rows that follow each other in memory are one long row.
    int64_t width = p.width, height = p.height, depth = p.depth;
    if (p.x_stride_y == width * p.x_stride_x) {
        width *= height;
        height = 1;
        if (p.x_stride_z == width * p.x_stride_x) {
            width *= depth;
            depth = 1;
        }
    }
    // Pixels added up in registers: many only where one pass over them takes all their channels (measured).
    const int64_t tile = p.channels <= kVecs * kWidth ? 64 : 16;
    const T* sample = static_cast<const T*>(p.x) + n * p.x_stride_n;
    while (begin < end) {
        const int64_t column = begin % width, line = begin / width;
        const int64_t count = end - begin < width - column ? end - begin : width - column;
        const T* x = sample + line / height * p.x_stride_z + line % height * p.x_stride_y + column * p.x_stride_x;
        for (int64_t i = 0; i < count; i += tile) {
            add_pixels<T, kCentre>(p, x + i * p.x_stride_x, tile < count - i ? tile : count - i, sums);
        }
        begin += count;
    }
}

// The centre is the mean of the block's first eighth. With a share f of the data in it, (centre - mean)^2 is at most
// variance * (1 - f) / f, so sums about it lose no more than three bits however large the mean is.
template <typename T>
void sums_of_blocks(const NormActParams& p, int64_t begin, int64_t end) {
    const int64_t row = p.row, pixels = p.depth * p.height * p.width;
    for (int64_t index = begin; index < end; ++index) {
        const int64_t n = index / p.blocks, first = index % p.blocks * p.block;
        const int64_t last = first + p.block < pixels ? first + p.block : pixels;
        const int64_t lead = (last - first + 7) / 8;
        float* sums = p.sums + index * 3 * row;
        for (int64_t c = 0; c < 3 * row; ++c) sums[c] = 0.0f;
        add_range<T, true>(p, n, first, first + lead, sums);
        for (int64_t c = 0; c < row; ++c) sums[c] /= static_cast<float>(lead);
        add_range<T, false>(p, n, first, last, sums);
    }
}

template <typename T>
float affine_value(const void* values, int64_t index, float missing) {
    if (values == nullptr) return missing;
    const T* at = static_cast<const T*>(values) + index;
    return load_part(at, 1)[0];
}

// Sums of x - centre of block 0 and of its square over all pixels of one sample, for each channel: [2, row] moments.
void add_blocks(const NormActParams& p, const float* sums, double* moments) {
    const int64_t row = p.row, pixels = p.depth * p.height * p.width;
    for (int64_t c = 0; c < 2 * row; ++c) moments[c] = 0.0;
    for (int64_t block = 0; block < p.blocks; ++block) {
        const float* mine = sums + block * 3 * row;
        const int64_t left = pixels - block * p.block;
        const double count = static_cast<double>(left < p.block ? left : p.block);
        for (int64_t c = 0; c < row; ++c) {
            const double moved = static_cast<double>(mine[c]) - sums[c], first = mine[row + c];
            moments[c] += first + count * moved;
            moments[row + c] += mine[2 * row + c] + moved * (2.0 * first + count * moved);
        }
    }
}

// What the sweep reads, for the samples [begin, end): y = (x - centre) * factor + summand. The centre is the group's
// mean rounded to float32; what the rounding left is in the summand.
template <typename AffineT>
void factors_of_samples(const NormActParams& p, int64_t begin, int64_t end) {
    const int64_t row = p.row, channels = p.channels / p.fold, members = channels / p.groups;
    const double pixels = static_cast<double>(p.depth * p.height * p.width);
    for (int64_t n = begin; n < end; ++n) {
        const float* sums = p.sums + n * p.blocks * 3 * row;
        double* moments = p.moments + n * 2 * row;
        float* factors = p.factors + n * 3 * row;
        add_blocks(p, sums, moments);
        for (int64_t first = 0; first < channels; first += members) {
            // Calls visit(c, i) for each channel c of the group and each place i that a row has for it.
            auto each = [&](auto&& visit) {
                for (int64_t c = first; c < first + members; ++c) {
                    for (int64_t i = c; i < p.channels; i += channels) visit(c, i);
                }
            };
            const double total = pixels * static_cast<double>(members * p.fold);
            double mean = 0.0, squares = 0.0;
            each([&](int64_t, int64_t i) { mean += (moments[i] + pixels * sums[i]) / total; });
            each([&](int64_t, int64_t i) {
                const double moved = sums[i] - mean;
                squares += moments[row + i] + moved * (2.0 * moments[i] + pixels * moved);
            });
            const double variance = squares < 0.0 ? 0.0 : squares / total;  // NaN stays NaN
            const double inv_std = 1.0 / std::sqrt(variance + p.eps);
            const float centre = static_cast<float>(mean);
            each([&](int64_t c, int64_t i) {
                const double factor = inv_std * affine_value<AffineT>(p.scale, n * p.scale_stride_n + c, 1.0f);
                const double summand = affine_value<AffineT>(p.shift, n * p.shift_stride_n + c, 0.0f);
                factors[i] = centre;
                factors[row + i] = static_cast<float>(factor);
                factors[2 * row + i] = static_cast<float>(summand - (mean - centre) * factor);
            });
        }
    }
}

// Where one input pixel goes: elements from its first place in the output. Past the caches where the output is larger
// than they are: its old lines are then not read first.
struct Places {
    int64_t offset[8];
    int count;
    bool past_caches;
};

FASTREENACT_INLINE void store_past_caches(float* to, Vec value) {
#if defined(__AVX512F__)
    _mm512_stream_ps(to, (__m512)value);
#elif defined(__AVX2__)
    _mm256_stream_ps(to, (__m256)value);
#else
    store(to, value);
#endif
}
FASTREENACT_INLINE void store_past_caches(BFloat16* to, Vec value) {
#if defined(__AVX512F__)
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to), (__m256i)narrow(value));
#elif defined(__AVX2__)
    _mm_stream_si128(reinterpret_cast<__m128i*>(to), (__m128i)narrow(value));
#else
    store(to, value);
#endif
}

// Whether the output is larger than the caches and its pixels are whole lines of them; part of one costs a read.
template <typename T>
bool is_past_caches(const NormActParams& p) {
    constexpr int64_t kLine = 64, kCaches = 32 << 20, kSize = sizeof(T);
    const int64_t pixels = p.n * p.depth * p.height * p.width * p.repeat_z * p.repeat_y * p.repeat_x;
    const int64_t all = p.channels | p.out_stride_n | p.out_stride_z | p.out_stride_y | p.out_stride_x;
    return pixels * p.channels * kSize > kCaches && all * kSize % kLine == 0 &&
           reinterpret_cast<uintptr_t>(p.out) % kLine == 0;
}

template <typename T, int kActivation, bool kResidual, bool kRepeat, bool kPart>
FASTREENACT_INLINE void some_channels(const NormActParams& p, const T* x, const T* residual, T* out,
                                      const float* factors, const Places& places, int64_t c, int part) {
    const int64_t row = p.row;
    auto at = [&](const T* from) { return kPart ? load_part(from + c, part) : load(from + c); };
    Vec value = (at(x) - load(factors + c)) * load(factors + row + c) + load(factors + 2 * row + c);
    if (kResidual) value = value + at(residual);
    value = activate<kActivation>(value);
    for (int i = 0; i < (kRepeat ? places.count : 1); ++i) {
        T* to = out + (kRepeat ? places.offset[i] : 0) + c;
        if (kPart) {
            store_part(to, value, part);
        } else if (places.past_caches) {
            store_past_caches(to, value);
        } else {
            store(to, value);
        }
    }
}

template <typename T, int kActivation, bool kResidual, bool kRepeat>
void rows(const NormActParams& p, int64_t begin, int64_t end) {
    const int64_t whole = p.channels / kWidth * kWidth;
    const int part = static_cast<int>(p.channels - whole);
    Places places{{}, 0, is_past_caches<T>(p)};
    for (int64_t z = 0; z < p.repeat_z; ++z) {
        for (int64_t y = 0; y < p.repeat_y; ++y) {
            for (int64_t i = 0; i < p.repeat_x; ++i) {
                places.offset[places.count++] = z * p.out_stride_z + y * p.out_stride_y + i * p.out_stride_x;
            }
        }
    }
    for (int64_t i = begin; i < end; ++i) {
        const int64_t index = i;
        const int64_t n = index / (p.depth * p.height), z = index / p.height % p.depth, y = index % p.height;
        const T* x = static_cast<const T*>(p.x) + n * p.x_stride_n + z * p.x_stride_z + y * p.x_stride_y;
        const T* residual = static_cast<const T*>(p.residual);
        if (kResidual) residual += n * p.residual_stride_n + z * p.residual_stride_z + y * p.residual_stride_y;
        T* out = static_cast<T*>(p.out) + n * p.out_stride_n + z * p.repeat_z * p.out_stride_z +
                 y * p.repeat_y * p.out_stride_y;
        const float* factors = p.factors + n * 3 * p.row;
        for (int64_t column = 0; column < p.width; ++column) {
            for (int64_t c = 0; c < whole; c += kWidth) {
                some_channels<T, kActivation, kResidual, kRepeat, false>(p, x, residual, out, factors, places, c,
                                                                         kWidth);
            }
            if (part > 0) {
                some_channels<T, kActivation, kResidual, kRepeat, true>(p, x, residual, out, factors, places, whole,
                                                                        part);
            }
            x += p.x_stride_x;
            if (kResidual) residual += p.residual_stride_x;
            out += p.repeat_x * p.out_stride_x;
        }
    }
#ifdef FASTREENACT_X86
    if (places.past_caches) _mm_sfence();
#endif
}

template <typename T, int kActivation>
void with_activation(const NormActParams& p, int64_t begin, int64_t end) {
    const bool repeat = p.repeat_z * p.repeat_y * p.repeat_x > 1;
    if (p.residual == nullptr) {
        (repeat ? rows<T, kActivation, false, true> : rows<T, kActivation, false, false>)(p, begin, end);
    } else {
        (repeat ? rows<T, kActivation, true, true> : rows<T, kActivation, true, false>)(p, begin, end);
    }
}

template <typename T>
void with_type(const NormActParams& p, int64_t begin, int64_t end) {
    (p.activation == kRelu        ? with_activation<T, kRelu>
     : p.activation == kLeakyRelu ? with_activation<T, kLeakyRelu>
                                  : with_activation<T, kNone>)(p, begin, end);
}

}  // namespace

void norm_act_sums(const NormActParams& p, int64_t begin, int64_t end) {
    (p.dtype == kFloat32 ? sums_of_blocks<float> : sums_of_blocks<BFloat16>)(p, begin, end);
}

void norm_act_factors(const NormActParams& p, int64_t begin, int64_t end) {
    (p.affine_dtype == kFloat32 ? factors_of_samples<float> : factors_of_samples<BFloat16>)(p, begin, end);
}

void norm_act(const NormActParams& p, int64_t begin, int64_t end) {
    (p.dtype == kFloat32 ? with_type<float> : with_type<BFloat16>)(p, begin, end);
}

}  // namespace FASTREENACT_ISA
}  // namespace fastreenact
