// What every op's header needs, for the host compiler, nvcc and NVRTC alike.
#pragma once

#ifdef __CUDACC_RTC__  // NVRTC brings no standard headers
typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;
#else
#include <cstdint>
#endif

// Internal linkage on purpose: the same header is compiled for several instruction sets, and an inline function with
// external linkage would let the linker keep the AVX-512 copy for everybody.
#ifdef __CUDACC__
#define FASTREENACT_INLINE static __host__ __device__ __forceinline__
#define FASTREENACT_INLINE_MEMBER __host__ __device__ __forceinline__
#else
#define FASTREENACT_INLINE static inline __attribute__((always_inline))
#define FASTREENACT_INLINE_MEMBER inline __attribute__((always_inline))
#endif

namespace fastreenact {

enum Dtype : int32_t { kFloat32 = 0, kBFloat16 = 1, kFloat16 = 2, kUint8 = 3 };
enum Activation : int32_t { kNone = 0, kRelu = 1, kTanh = 2, kLeakyRelu = 3 };

// A per-pixel, per-channel factor or summand: [N, Ty, Tx, C] with channels contiguous; a stride of 0 broadcasts.
struct Table {
    const void* data;  // null: there is none
    int64_t stride_n;  // elements from picture to picture
    int64_t stride_y;  // elements from row to row
    int64_t stride_x;  // elements from column to column
};

// How a CUDA kernel is launched. Reckoned in the op's header, once for nvcc's host code and for NVRTC's in Python.
struct LaunchShape {
    uint32_t grid_x, grid_y, grid_z;
    uint32_t threads;        // of a block, along x
    uint32_t shared_bytes;   // beyond what the kernel declares
    uint32_t threads_y = 1;  // of a block, along y
};

}  // namespace fastreenact
