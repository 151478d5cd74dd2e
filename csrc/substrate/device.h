// What the CUDA kernels share: values of any dtype, and tanh. For nvcc and NVRTC only.
#pragma once
#include "substrate/common.h"

namespace fastreenact {

template <int32_t kType>
__device__ __forceinline__ float from_bits(uint16_t bits) {
    if (kType == kBFloat16) return __uint_as_float(uint32_t(bits) << 16);
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));  // what cuda_fp16.h does, which NVRTC would have to find
    return value;
}

template <int32_t kType>
__device__ __forceinline__ float load(const void* image, int64_t element) {
    if (kType == kFloat32) return static_cast<const float*>(image)[element];
    return from_bits<kType>(static_cast<const uint16_t*>(image)[element]);
}

// A value rounded to the nearest, ties to even; what is too large is infinite, NaN stays NaN.
template <int32_t kType>
__device__ __forceinline__ uint16_t to_bits(float value) {
    static_assert(kType == kFloat16 || kType == kBFloat16, "16-bit types only");
    uint16_t bits;
    if (kType == kFloat16) {
        asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    } else {
#if __CUDA_ARCH__ >= 800
        asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
#else
        const uint32_t wide = __float_as_uint(value);
        bits = value != value ? 0x7fff : uint16_t((wide + 0x7fffu + (wide >> 16 & 1)) >> 16);
#endif
    }
    return bits;
}

template <int32_t kType>
__device__ __forceinline__ void store(void* image, int64_t element, float value) {
    if constexpr (kType == kFloat32) {
        static_cast<float*>(image)[element] = value;
    } else {
        static_cast<uint16_t*>(image)[element] = to_bits<kType>(value);
    }
}

// tanh for 8-bit levels: within 2e-6 of it, and twelve of them fit where twelve tanhf spill registers. 1 and -1 at the
// infinities, NaN for NaN.
__device__ __forceinline__ float level_tanh(float x) {
    return 1.0f - __fdividef(2.0f, __expf(2.0f * x) + 1.0f);
}

}  // namespace fastreenact
