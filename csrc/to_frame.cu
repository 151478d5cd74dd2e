// to_frame on the GPU. Compiled by nvcc into the extension, or by NVRTC from this same text (fastreenact/ops/nvrtc.py):
// host code stands apart under __CUDACC_RTC__, and no CUDA header beyond the built-in ones is needed.
#include "substrate/device.h"
#include "to_frame.h"

namespace fastreenact {

constexpr int kPixels = kFramePixels;

// Four values that lie side by side; their address is a multiple of four elements.
template <int32_t kType>
__device__ __forceinline__ void load_vector(const void* image, int64_t element, float values[4]) {
    if (kType == kFloat32) {
        const float4 v = *reinterpret_cast<const float4*>(static_cast<const float*>(image) + element);
        values[0] = v.x, values[1] = v.y, values[2] = v.z, values[3] = v.w;
    } else {
        const ushort4 v = *reinterpret_cast<const ushort4*>(static_cast<const uint16_t*>(image) + element);
        values[0] = from_bits<kType>(v.x), values[1] = from_bits<kType>(v.y);
        values[2] = from_bits<kType>(v.z), values[3] = from_bits<kType>(v.w);
    }
}

// Reads `count` pixels from element `first` on, in the order of the output (r g b, r g b, ...); the rest is 0.
template <int32_t kType>
__device__ __forceinline__ void load_pixels(const ToFrameParams& p, int64_t first, int count,
                                            float values[3 * kPixels]) {
    const uint64_t vector_bytes = kType == kFloat32 ? 16 : 8;
    const bool aligned = count == kPixels && first % 4 == 0 && reinterpret_cast<uint64_t>(p.image) % vector_bytes == 0;
    if (aligned && p.image_stride_x == 1 && p.image_stride_c % 4 == 0) {  // planes
#pragma unroll
        for (int c = 0; c < 3; ++c) {
            float plane[kPixels];
            load_vector<kType>(p.image, first + c * p.image_stride_c, plane);
#pragma unroll
            for (int i = 0; i < kPixels; ++i) values[3 * i + c] = plane[i];
        }
    } else if (aligned && p.image_stride_x == 3 && p.image_stride_c == 1) {  // pixels
#pragma unroll
        for (int k = 0; k < 3; ++k) load_vector<kType>(p.image, first + 4 * k, values + 4 * k);
    } else {
#pragma unroll
        for (int i = 0; i < kPixels; ++i) {
#pragma unroll
            for (int c = 0; c < 3; ++c) {
                values[3 * i + c] =
                    i < count ? load<kType>(p.image, first + i * p.image_stride_x + c * p.image_stride_c) : 0.0f;
            }
        }
    }
}

// Writes `count` pixels, packed as three words where the address allows it.
__device__ __forceinline__ void store_pixels(uint8_t* out, int64_t stride_x, int count, const uint32_t words[3]) {
    if (count == kPixels && stride_x == 3 && reinterpret_cast<uint64_t>(out) % 4 == 0) {
#pragma unroll
        for (int k = 0; k < 3; ++k) reinterpret_cast<uint32_t*>(out)[k] = words[k];
        return;
    }
#pragma unroll
    for (int k = 0; k < 3 * kPixels; ++k) {
        if (k / 3 < count) out[k / 3 * stride_x + k % 3] = uint8_t(words[k / 4] >> (k % 4 * 8));
    }
}

// One thread makes four pixels of one row; any grid covers any picture.
template <int32_t kType>
__device__ __forceinline__ void rows(const ToFrameParams& p) {
    const int64_t all_rows = p.n * p.height;
    const int64_t step = int64_t(gridDim.x) * blockDim.x * kPixels;
    float doubt = 0.0f;  // NaN once a value was not finite
    for (int64_t row = int64_t(blockIdx.y) * blockDim.y + threadIdx.y; row < all_rows;
         row += int64_t(gridDim.y) * blockDim.y) {
        const int64_t n = row / p.height;
        const int64_t y = row - n * p.height;
        for (int64_t x = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) * kPixels; x < p.width; x += step) {
            const int count = p.width - x < kPixels ? int(p.width - x) : kPixels;
            float values[3 * kPixels];
            load_pixels<kType>(p, n * p.image_stride_n + y * p.image_stride_y + x * p.image_stride_x, count, values);
#pragma unroll
            for (int k = 0; k < 3 * kPixels; ++k) doubt += values[k] * 0.0f;
            if (p.apply_tanh) {
#pragma unroll
                for (int k = 0; k < 3 * kPixels; ++k) values[k] = level_tanh(values[k]);
            }
            uint32_t words[3];
#pragma unroll
            for (int k = 0; k < 3; ++k) {
                words[k] = 0;
#pragma unroll
                for (int i = 0; i < 4; ++i) words[k] |= uint32_t(frame_level(values[4 * k + i])) << (8 * i);
            }
            store_pixels(p.out + n * p.out_stride_n + y * p.out_stride_y + x * p.out_stride_x, p.out_stride_x, count,
                         words);
        }
    }
    if (p.flag != nullptr && doubt != doubt) *p.flag = 1;  // whoever else writes, writes the same
}

// Not a template: NVRTC's caller finds it by this name.
extern "C" __global__ void __launch_bounds__(kPictureThreadsX* kPictureThreadsY)
    to_frame_kernel(const ToFrameParams p) {
    FASTREENACT_BY_DTYPE(p.dtype, rows, p);
}

}  // namespace fastreenact

#ifndef __CUDACC_RTC__
#include "substrate/launch.h"

namespace fastreenact {

static const CompiledKernels kToFrameKernels({FASTREENACT_KERNEL(to_frame_kernel)});

}  // namespace fastreenact
#endif
