// A float32 vector of the width of the instruction set this file is compiled for, with loads and stores of part of one.
// Everything lives in the namespace of that instruction set: two of them never share a symbol.
#pragma once
#include "substrate/common.h"

#ifdef FASTREENACT_X86
#include <immintrin.h>
#endif

namespace fastreenact {
namespace FASTREENACT_ISA {

#if defined(__AVX512F__)
constexpr int kWidth = 16;
#elif defined(__AVX2__)
constexpr int kWidth = 8;
#else
constexpr int kWidth = 4;
#endif

typedef float Vec __attribute__((vector_size(kWidth * 4)));
typedef int32_t IntVec __attribute__((vector_size(kWidth * 4)));
typedef uint32_t UintVec __attribute__((vector_size(kWidth * 4)));
typedef uint16_t HalfVec __attribute__((vector_size(kWidth * 2)));
typedef uint8_t ByteVec __attribute__((vector_size(kWidth)));
struct BFloat16 {
    uint16_t bits;
};

FASTREENACT_INLINE Vec splat(float value) {
    return value - Vec{};
}

FASTREENACT_INLINE Vec widen(HalfVec bits) {
#if defined(__AVX512F__)
    return (Vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)bits), 16);
#elif defined(__AVX2__)
    return (Vec)_mm256_slli_epi32(_mm256_cvtepu16_epi32((__m128i)bits), 16);
#else
    return (Vec)__builtin_shufflevector(HalfVec{}, bits, 0, 4, 1, 5, 2, 6, 3, 7);  // little-endian
#endif
}

// Rounded to nearest even; NaN stays NaN.
FASTREENACT_INLINE HalfVec narrow(Vec value) {
#if defined(__AVX512BF16__)
    return (HalfVec)_mm512_cvtneps_pbh((__m512)value);
#else
    const UintVec bits = (UintVec)value;
    const UintVec rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const UintVec quiet = (bits >> 16) | 0x40u;
    const UintVec ordered = (UintVec)(value == value);
    const UintVec half = (rounded & ordered) | (quiet & ~ordered);
#if defined(__AVX512F__)
    return (HalfVec)_mm512_cvtepi32_epi16((__m512i)half);
#elif defined(__AVX2__)
    const __m256i packed = _mm256_packus_epi32((__m256i)half, (__m256i)half);  // per 128-bit lane
    return (HalfVec)_mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x08));
#else
    const uint16_t __attribute__((vector_size(16))) words = (uint16_t __attribute__((vector_size(16))))half;
    return __builtin_shufflevector(words, words, 0, 2, 4, 6);
#endif
#endif
}

FASTREENACT_INLINE Vec load(const float* from) {
    Vec value;
    __builtin_memcpy(&value, from, sizeof(value));
    return value;
}
FASTREENACT_INLINE Vec load(const BFloat16* from) {
    HalfVec bits;
    __builtin_memcpy(&bits, from, sizeof(bits));
    return widen(bits);
}
FASTREENACT_INLINE Vec load(const uint8_t* from) {
#if defined(__AVX512F__)
    return (Vec)_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
#elif defined(__AVX2__)
    return (Vec)_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))));
#else
    ByteVec bytes;
    __builtin_memcpy(&bytes, from, sizeof(bytes));
    return __builtin_convertvector(__builtin_convertvector(bytes, IntVec), Vec);
#endif
}
FASTREENACT_INLINE void store(float* to, Vec value) {
    __builtin_memcpy(to, &value, sizeof(value));
}
FASTREENACT_INLINE void store(BFloat16* to, Vec value) {
    const HalfVec bits = narrow(value);
    __builtin_memcpy(to, &bits, sizeof(bits));
}

// Without the fraction; the value must lie in [0, 256).
FASTREENACT_INLINE ByteVec truncate_to_bytes(Vec value) {
    const IntVec whole = __builtin_convertvector(value, IntVec);
#if defined(__AVX512F__)
    return (ByteVec)_mm512_cvtepi32_epi8((__m512i)whole);
#elif defined(__AVX2__)
    const __m256i words = _mm256_packs_epi32((__m256i)whole, (__m256i)whole);  // per 128-bit lane, as is the next
    const __m256i bytes = _mm256_packus_epi16(words, words);
    const __m128i both = _mm_unpacklo_epi32(_mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1));
    ByteVec result;
    __builtin_memcpy(&result, &both, sizeof(result));
    return result;
#else
    return __builtin_convertvector(whole, ByteVec);
#endif
}
// Rounded to nearest, halves up; the value must lie in [0, 255.5).
FASTREENACT_INLINE void store(uint8_t* to, Vec value) {
    const ByteVec bytes = truncate_to_bytes(value + 0.5f);
    __builtin_memcpy(to, &bytes, sizeof(bytes));
}

// Copies 1 to kWidth - 1 elements by halves, because a call to memcpy costs more than the rest of the pixel.
template <typename Element>
FASTREENACT_INLINE void copy_part(Element* to, const Element* from, int count) {
    int done = 0;
    if (kWidth > 8 && (count & 8)) {
        __builtin_memcpy(to, from, 8 * sizeof(Element));
        done = 8;
    }
    if (kWidth > 4 && (count & 4)) {
        __builtin_memcpy(to + done, from + done, 4 * sizeof(Element));
        done += 4;
    }
    if (count & 2) {
        __builtin_memcpy(to + done, from + done, 2 * sizeof(Element));
        done += 2;
    }
    if (count & 1) to[done] = from[done];
}

// Up to 8 bytes' worth of elements as one number, the first lowest. Through a buffer in memory it would cost 15 cycles:
// a load does not see several smaller stores before they have reached the cache.
template <typename Element>
FASTREENACT_INLINE uint64_t gather_part(const Element* from, int count) {
    constexpr int kBits = 8 * sizeof(Element), kHalf = 4 / sizeof(Element);
    uint64_t bits = 0;
    int done = 0;
    if (count >= 2 * kHalf) {
        __builtin_memcpy(&bits, from, 8);
        return bits;
    }
    if (count >= kHalf) {
        uint32_t half;
        __builtin_memcpy(&half, from, 4);
        bits = half;
        done = kHalf;
    }
    for (; done < count; ++done) {
        Element one;
        __builtin_memcpy(&one, from + done, sizeof(one));
        bits |= static_cast<uint64_t>(one) << (kBits * done);
    }
    return bits;
}

// The first `count` (1 to kWidth - 1) elements: nothing beyond them is read or written, the rest of the vector is 0.
#if defined(__AVX512F__)
FASTREENACT_INLINE Vec load_part(const float* from, int count) {
    return (Vec)_mm512_maskz_loadu_ps((__mmask16)((1u << count) - 1u), from);
}
FASTREENACT_INLINE void store_part(float* to, Vec value, int count) {
    _mm512_mask_storeu_ps(to, (__mmask16)((1u << count) - 1u), (__m512)value);
}
FASTREENACT_INLINE Vec load_part(const BFloat16* from, int count) {
    return widen((HalfVec)_mm256_maskz_loadu_epi16((__mmask16)((1u << count) - 1u), from));
}
FASTREENACT_INLINE void store_part(BFloat16* to, Vec value, int count) {
    _mm256_mask_storeu_epi16(to, (__mmask16)((1u << count) - 1u), (__m256i)narrow(value));
}
FASTREENACT_INLINE Vec load_part(const uint8_t* from, int count) {
    const __m128i bytes = _mm_maskz_loadu_epi8((__mmask16)((1u << count) - 1u), from);
    return (Vec)_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes));
}
#else
FASTREENACT_INLINE Vec load_part(const float* from, int count) {
#if defined(__AVX2__)
    const IntVec lane = {0, 1, 2, 3, 4, 5, 6, 7};
    return (Vec)_mm256_maskload_ps(from, (__m256i)(lane < count));
#else
    return Vec{from[0], count > 1 ? from[1] : 0.0f, count > 2 ? from[2] : 0.0f, 0.0f};
#endif
}
FASTREENACT_INLINE void store_part(float* to, Vec value, int count) {
    float part[kWidth];
    store(part, value);
    copy_part(to, part, count);
}
FASTREENACT_INLINE Vec load_part(const BFloat16* from, int count) {
    const uint16_t* bits = &from->bits;
    const uint64_t parts[2] = {gather_part(bits, count), count > 4 ? gather_part(bits + 4, count - 4) : 0};
#if defined(__AVX2__)
    return widen((HalfVec)_mm_set_epi64x(static_cast<long long>(parts[1]), static_cast<long long>(parts[0])));
#else
    HalfVec half;
    __builtin_memcpy(&half, parts, sizeof(half));
    return widen(half);
#endif
}
FASTREENACT_INLINE void store_part(BFloat16* to, Vec value, int count) {
    BFloat16 part[kWidth];
    store(part, value);
    copy_part(to, part, count);
}
FASTREENACT_INLINE Vec load_part(const uint8_t* from, int count) {
    const uint64_t bits = gather_part(from, count);
#if defined(__AVX2__)
    return (Vec)_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<long long>(bits))));
#else
    ByteVec bytes;
    __builtin_memcpy(&bytes, &bits, sizeof(bytes));
    return __builtin_convertvector(__builtin_convertvector(bytes, IntVec), Vec);
#endif
}
#endif
FASTREENACT_INLINE void store_part(uint8_t* to, Vec value, int count) {
    uint8_t part[kWidth];
    store(part, value);
    copy_part(to, part, count);
}

FASTREENACT_INLINE Vec select(IntVec mask, Vec yes, Vec no) {
    return (Vec)(((IntVec)yes & mask) | ((IntVec)no & ~mask));
}

// The larger of each pair; `x` where either is NaN.
FASTREENACT_INLINE Vec at_least(Vec least, Vec x) {
#if defined(__AVX512F__)
    return (Vec)_mm512_max_ps((__m512)least, (__m512)x);
#else
    return select(x < least, least, x);
#endif
}

// NaN passes through, as in PyTorch.
FASTREENACT_INLINE Vec relu(Vec x) {
    return at_least(Vec{}, x);
}

// Four vectors side by side, without their fractions: below 0 and NaN are 0, above 255 is 255.
FASTREENACT_INLINE void store_levels(uint8_t* to, const Vec (&values)[4]) {
#ifdef FASTREENACT_X86
    // Conversion makes NaN, and what an int does not hold, the smallest int; packing saturates.
#if defined(__AVX512F__)
    __m512i whole[4];
    for (int i = 0; i < 4; ++i) {
        whole[i] = _mm512_cvttps_epi32(_mm512_min_ps(_mm512_set1_ps(255.0f), (__m512)values[i]));
    }
    const __m512i bytes =
        _mm512_packus_epi16(_mm512_packs_epi32(whole[0], whole[1]), _mm512_packs_epi32(whole[2], whole[3]));
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    _mm512_storeu_si512(to, _mm512_permutexvar_epi32(order, bytes));
#elif defined(__AVX2__)
    __m256i whole[4];
    for (int i = 0; i < 4; ++i) {
        whole[i] = _mm256_cvttps_epi32(_mm256_min_ps(_mm256_set1_ps(255.0f), (__m256)values[i]));
    }
    const __m256i bytes =
        _mm256_packus_epi16(_mm256_packs_epi32(whole[0], whole[1]), _mm256_packs_epi32(whole[2], whole[3]));
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_permutevar8x32_epi32(bytes, order));
#else
    __m128i whole[4];
    for (int i = 0; i < 4; ++i) whole[i] = _mm_cvttps_epi32(_mm_min_ps(_mm_set1_ps(255.0f), (__m128)values[i]));
    const __m128i bytes = _mm_packus_epi16(_mm_packs_epi32(whole[0], whole[1]), _mm_packs_epi32(whole[2], whole[3]));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), bytes);
#endif
#else
    for (int i = 0; i < 4; ++i) {
        const Vec level = select(values[i] > 0.0f, values[i], Vec{});
        const ByteVec bytes = truncate_to_bytes(select(level < 255.0f, level, splat(255.0f)));
        __builtin_memcpy(to + i * kWidth, &bytes, sizeof(bytes));
    }
#endif
}

// `doubt` stays 0 while all that was added is finite, and is NaN from then on.
FASTREENACT_INLINE Vec add_doubt(Vec doubt, Vec x) {
    return doubt + x * 0.0f;
}

FASTREENACT_INLINE float largest_of(Vec x) {
#if defined(__AVX512F__)
    return _mm512_reduce_max_ps((__m512)x);
#else
    float largest = x[0];
    for (int lane = 1; lane < kWidth; ++lane) largest = x[lane] > largest ? x[lane] : largest;
    return largest;
#endif
}
FASTREENACT_INLINE float sum_of(Vec x) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps((__m512)x);
#else
    float sum = 0.0f;
    for (int lane = 0; lane < kWidth; ++lane) sum += x[lane];
    return sum;
#endif
}

// Sets the flag if any lane of `doubt` says so. Several threads may.
FASTREENACT_INLINE void raise_flag(int32_t* flag, Vec doubt) {
    const float sum = sum_of(doubt);
    if (flag != nullptr && sum != sum) __atomic_store_n(flag, 1, __ATOMIC_RELAXED);
}

// exp(x) for x <= 0: 2^n by the exponent's bits, the rest by the Taylor series on [-ln2/2, ln2/2] (error below 1e-7).
// NaN passes through.
FASTREENACT_INLINE Vec exp_negative(Vec x) {
    x = at_least(splat(-80.0f), x);
    const Vec shifted = x * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: the sum's low bits are round(x / ln2)
    const Vec n = shifted - 12582912.0f;
    const Vec r = (x - n * 0.693145752f) - n * 1.42860677e-6f;  // ln2 in two parts
    constexpr float kFactors[] = {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 1.0f / 2, 1.0f, 1.0f};
    Vec series = splat(1.0f / 5040);
    for (const float factor : kFactors) series = series * r + factor;
    return (Vec)((IntVec)series + (__builtin_convertvector(n, IntVec) << 23));
}

// Within 2e-7 relative: the odd Taylor series below 0.25, where 1 - exp(-2|x|) would cancel. NaN passes through.
FASTREENACT_INLINE Vec tanh(Vec x) {
    const Vec magnitude = (Vec)((IntVec)x & 0x7fffffff);
    const Vec e = exp_negative(-2.0f * magnitude);
    const Vec large = (1.0f - e) / (1.0f + e);
    const Vec x2 = x * x;
    const Vec small =
        magnitude * (1.0f + x2 * (-1.0f / 3 + x2 * (2.0f / 15 + x2 * (-17.0f / 315 + x2 * (62.0f / 2835)))));
    const Vec result = select(magnitude < 0.25f, small, large);
    const Vec with_sign = (Vec)((IntVec)result | ((IntVec)x & (int32_t)0x80000000));
    return select(x == x, with_sign, x);
}

// One RGB pixel. The fourth lane is whatever lies beside it.
typedef float Pixel __attribute__((vector_size(16)));

FASTREENACT_INLINE Pixel pixel_of_bytes(uint32_t bytes) {
#if defined(__AVX2__)
    return (Pixel)_mm_cvtepi32_ps(_mm_cvtepu8_epi32(_mm_cvtsi32_si128((int)bytes)));
#else
    return Pixel{(float)(bytes & 255u), (float)(bytes >> 8 & 255u), (float)(bytes >> 16 & 255u), 0.0f};
#endif
}
// Three channels from `from` on; four elements from there are readable.
FASTREENACT_INLINE Pixel load_pixel(const float* from) {
    Pixel pixel;
    __builtin_memcpy(&pixel, from, sizeof(pixel));
    return pixel;
}
FASTREENACT_INLINE Pixel load_pixel(const uint8_t* from) {
    uint32_t bytes;
    __builtin_memcpy(&bytes, from, sizeof(bytes));
    return pixel_of_bytes(bytes);
}
// The same where the element before `from` is readable instead of the fourth.
FASTREENACT_INLINE Pixel load_pixel_after(const float* from) {
    const Pixel shifted = load_pixel(from - 1);
    return __builtin_shufflevector(shifted, shifted, 1, 2, 3, 3);
}
FASTREENACT_INLINE Pixel load_pixel_after(const uint8_t* from) {
    uint32_t bytes;
    __builtin_memcpy(&bytes, from - 1, sizeof(bytes));
    return pixel_of_bytes(bytes >> 8);
}
// Writes three elements, or (kFour) a fourth that means nothing.
template <bool kFour>
FASTREENACT_INLINE void store_pixel(float* to, Pixel value) {
    __builtin_memcpy(to, &value, kFour ? 16 : 12);
}
// Rounded to nearest, halves up.
template <bool kFour>
FASTREENACT_INLINE void store_pixel(uint8_t* to, Pixel value) {
#if defined(__AVX2__)
    const __m128i words = _mm_cvttps_epi32((__m128)(value + 0.5f));
    const __m128i bytes = _mm_packus_epi16(_mm_packs_epi32(words, words), words);
    const uint32_t packed = (uint32_t)_mm_cvtsi128_si32(bytes);
#else
    uint32_t packed = 0;
    for (int c = 2; c >= 0; --c) packed = packed << 8 | (uint32_t)(int32_t)(value[c] + 0.5f);
#endif
    __builtin_memcpy(to, &packed, kFour ? 4 : 3);
}

// Slope 0.2. NaN passes through.
FASTREENACT_INLINE Vec leaky_relu(Vec x) {
    return select(x < 0.0f, 0.2f * x, x);
}

template <int kActivation>
FASTREENACT_INLINE Vec activate(Vec x) {
    return kActivation == kRelu        ? relu(x)
           : kActivation == kTanh      ? tanh(x)
           : kActivation == kLeakyRelu ? leaky_relu(x)
                                       : x;
}

}  // namespace FASTREENACT_ISA
}  // namespace fastreenact
