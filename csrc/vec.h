// A float32 vector of the width of the instruction set this file is compiled for, with loads and stores of part of one.
// Everything lives in the namespace of that instruction set: two of them never share a symbol.
#pragma once
#include "common.h"

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
    return (Vec)(__builtin_convertvector(bits, UintVec) << 16);
}

// Rounded to nearest even; NaN stays NaN.
FASTREENACT_INLINE HalfVec narrow(Vec value) {
#if defined(__AVX512BF16__)
    return (HalfVec)_mm512_cvtneps_pbh((__m512)value);
#else
    const UintVec bits = (UintVec)value;
    const UintVec rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const UintVec quiet = (bits >> 16) | 0x40u;
    const IntVec ordered = value == value;
    return __builtin_convertvector((rounded & (UintVec)ordered) | (quiet & ~(UintVec)ordered), HalfVec);
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
    ByteVec bytes;
    __builtin_memcpy(&bytes, from, sizeof(bytes));
    return __builtin_convertvector(__builtin_convertvector(bytes, IntVec), Vec);
}
FASTREENACT_INLINE void store(float* to, Vec value) {
    __builtin_memcpy(to, &value, sizeof(value));
}
FASTREENACT_INLINE void store(BFloat16* to, Vec value) {
    const HalfVec bits = narrow(value);
    __builtin_memcpy(to, &bits, sizeof(bits));
}

// Rounded to nearest, halves up; the value must lie in [0, 255.5).
FASTREENACT_INLINE ByteVec to_bytes(Vec value) {
    const IntVec rounded = __builtin_convertvector(value + 0.5f, IntVec);
#if defined(__AVX512F__)
    return (ByteVec)_mm512_cvtepi32_epi8((__m512i)rounded);
#else
    return __builtin_convertvector(rounded, ByteVec);
#endif
}
FASTREENACT_INLINE void store(uint8_t* to, Vec value) {
    const ByteVec bytes = to_bytes(value);
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
    float part[kWidth] = {};
    copy_part(part, from, count);
    return load(part);
#endif
}
FASTREENACT_INLINE void store_part(float* to, Vec value, int count) {
    float part[kWidth];
    store(part, value);
    copy_part(to, part, count);
}
FASTREENACT_INLINE Vec load_part(const BFloat16* from, int count) {
    BFloat16 part[kWidth] = {};
    copy_part(part, from, count);
    return load(part);
}
FASTREENACT_INLINE void store_part(BFloat16* to, Vec value, int count) {
    BFloat16 part[kWidth];
    store(part, value);
    copy_part(to, part, count);
}
FASTREENACT_INLINE Vec load_part(const uint8_t* from, int count) {
    uint8_t part[kWidth] = {};
    copy_part(part, from, count);
    return load(part);
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

// NaN passes through, as in PyTorch.
FASTREENACT_INLINE Vec relu(Vec x) {
    return select(x <= 0.0f, Vec{}, x);
}

// exp(x) for x <= 0: 2^n by the exponent's bits, the rest by the Taylor series on [-ln2/2, ln2/2] (error below 1e-7).
FASTREENACT_INLINE Vec exp_negative(Vec x) {
    x = select(x < -80.0f, splat(-80.0f), x);
    const Vec shifted = x * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: the sum's low bits are round(x / ln2)
    const Vec n = shifted - 12582912.0f;
    const Vec r = (x - n * 0.693145752f) - n * 1.42860677e-6f;  // ln2 in two parts
    Vec series = 1.0f + r * (1.0f / 7.0f);
    series = 1.0f + r * (1.0f / 6.0f) * series;
    series = 1.0f + r * (1.0f / 5.0f) * series;
    series = 1.0f + r * (1.0f / 4.0f) * series;
    series = 1.0f + r * (1.0f / 3.0f) * series;
    series = 1.0f + r * (1.0f / 2.0f) * series;
    series = 1.0f + r * series;
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

template <int kActivation>
FASTREENACT_INLINE Vec activate(Vec x) {
    return kActivation == kRelu ? relu(x) : kActivation == kTanh ? tanh(x) : x;
}

}  // namespace FASTREENACT_ISA
}  // namespace fastreenact
