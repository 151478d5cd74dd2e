// mma: what the kernels that multiply matrices on the GPU share: who holds what of a 16 x 8 x 16 product among the 32
// lanes of a warp, where a weight lies, and the instructions. The index functions also compile for the host, where the
// tests multiply through them.
//
// D[16 x 8] += A[16 x 16] B[16 x 8]. A is pixels by channels in, row by row in shared memory; B is weights, packed in
// global memory by fastreenact/ops/fragments.py; D is pixels by channels out, float32, in registers.
// sm_80 and later have one instruction for it, sm_75 takes two of half the depth, whose registers are the first and the
// second half of the same ones. (PTX ISA, "Matrix Fragments for mma.m16n8k16" and "mma.m16n8k8".)
#pragma once
#include "common.h"

namespace fastreenact {

constexpr int kTileM = 16;
constexpr int kTileN = 8;
constexpr int kTileK = 16;
constexpr int kBlockN = 16;         // outputs of a packed block of weights: two tiles
constexpr int kBlockWeights = 256;  // kBlockN * kTileK
constexpr int kChunkBytes = 16;     // what a lane loads at once

// 16-bit A: register 0 to 3 of a lane holds two neighbours in k, `which` 0 and 1.
FASTREENACT_INLINE int a_row(int lane, int reg) {
    return lane / 4 + reg % 2 * 8;
}
FASTREENACT_INLINE int a_k(int lane, int reg, int which) {
    return lane % 4 * 2 + reg / 2 * 8 + which;
}

// 16-bit B: register 0 and 1, likewise.
FASTREENACT_INLINE int b_k(int lane, int reg, int which) {
    return lane % 4 * 2 + reg * 8 + which;
}
FASTREENACT_INLINE int b_column(int lane) {
    return lane / 4;
}

// D: value 0 to 3 of a lane, also where float32 is multiplied without tensor cores. Values 2 i and 2 i + 1 are
// neighbours in a row.
FASTREENACT_INLINE int d_row(int lane, int value) {
    return lane / 4 + value / 2 * 8;
}
FASTREENACT_INLINE int d_column(int lane, int value) {
    return lane % 4 * 2 + value % 2;
}

// ldmatrix loads four 8 x 8 matrices of 16 bits at once; these are row and first k of the 16 bytes that each lane
// points to, so that matrix i arrives as register i of A.
FASTREENACT_INLINE int matrix_row(int lane) {
    return lane % 16;
}
FASTREENACT_INLINE int matrix_k(int lane) {
    return lane / 16 * 8;
}

// Where weight (output n, input k) lies, in elements. Blocks [N / 16][K / 16], both rounded up, what is padded is 0.
// 16-bit: each lane's registers of both tiles side by side, 16 bytes. float32: [16 k][16 n].
FASTREENACT_INLINE int64_t packed_index(bool is_float32, int64_t n, int64_t k, int64_t blocks_k) {
    const int64_t block = (n / kBlockN * blocks_k + k / kTileK) * kBlockWeights;
    const int in_n = static_cast<int>(n % kBlockN), in_k = static_cast<int>(k % kTileK);
    if (is_float32) return block + in_k * kBlockN + in_n;
    const int lane = in_n % kTileN * 4 + in_k % 8 / 2;
    return block + lane * 8 + in_n / kTileN * 4 + in_k / 8 * 2 + in_k % 2;
}

// Bytes from row to row of A in shared memory for `bytes` of values: an odd number of 16-byte chunks, so that eight
// rows (what one phase of ldmatrix reads) lie in different banks.
FASTREENACT_INLINE int row_pitch(int bytes) {
    return ((bytes + kChunkBytes - 1) / kChunkBytes | 1) * kChunkBytes;
}

FASTREENACT_INLINE constexpr int element_bytes(int32_t dtype) {
    return dtype == kFloat32 ? 4 : 2;
}

}  // namespace fastreenact

#ifdef __CUDACC__
#include "device.h"

namespace fastreenact {

__device__ __forceinline__ int lane_id() {
    return static_cast<int>(threadIdx.x % 32);  // blocks are one-dimensional
}

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// 16 bytes from global to shared memory, 0 where `valid` is false; both addresses are multiples of 16. From sm_80 on it
// has arrived after wait_copies(); on sm_75 at once. Either way a barrier must follow before other threads read it.
__device__ __forceinline__ void copy_chunk(void* to, const void* from, bool valid) {
#if __CUDA_ARCH__ >= 800
    const int bytes = valid ? kChunkBytes : 0;  // where it is 0 nothing is read
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(bytes)
                 : "memory");
#else
    *static_cast<uint4*>(to) = valid ? *static_cast<const uint4*>(from) : make_uint4(0, 0, 0, 0);
#endif
}

// Ends a group of copies. At most kPending groups are still under way after wait_copies<kPending>().
__device__ __forceinline__ void commit_copies() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
template <int kPending>
__device__ __forceinline__ void wait_copies() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#endif
}

// A's registers of a lane; `at` is the address of row matrix_row(lane), channel matrix_k(lane) in shared memory.
__device__ __forceinline__ void load_a(uint32_t (&a)[4], uint32_t at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3])
                 : "r"(at)
                 : "memory");
}

// bfloat16 on sm_75, which has no such instruction: each lane asks the others for its rows and columns. Right, but
// slow.
__device__ __forceinline__ void multiply_by_shuffles(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    const int lane = lane_id();
#pragma unroll
    for (int deep = 0; deep < 2; ++deep) {
#pragma unroll 1
        for (int pair = 0; pair < 4; ++pair) {
            const int row_holder = lane / 4 * 4 + pair;
            const uint32_t upper = __shfl_sync(0xffffffffu, a[2 * deep], row_holder);
            const uint32_t lower = __shfl_sync(0xffffffffu, a[2 * deep + 1], row_holder);
#pragma unroll
            for (int column = 0; column < 2; ++column) {
                const uint32_t b = __shfl_sync(0xffffffffu, deep ? b1 : b0, d_column(lane, column) * 4 + pair);
                const float low = __uint_as_float(b << 16), high = __uint_as_float(b & 0xffff0000u);
                d[column] = fmaf(__uint_as_float(upper << 16), low, d[column]);
                d[column] = fmaf(__uint_as_float(upper & 0xffff0000u), high, d[column]);
                d[column + 2] = fmaf(__uint_as_float(lower << 16), low, d[column + 2]);
                d[column + 2] = fmaf(__uint_as_float(lower & 0xffff0000u), high, d[column + 2]);
            }
        }
    }
}

// D += A B, 16-bit values, float32 sums. All 32 lanes must come here together.
template <int32_t kType>
__device__ __forceinline__ void multiply_tile(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if __CUDA_ARCH__ >= 800
    if constexpr (kType == kFloat16) {
        asm volatile(
            "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
            "{%0, %1, %2, %3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    } else {
        asm volatile(
            "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
            "{%0, %1, %2, %3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    }
#else
    if constexpr (kType == kFloat16) {
        asm volatile(
            "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, "
            "{%0, %1, %2, %3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(a[0]), "r"(a[1]), "r"(b0));
        asm volatile(
            "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, "
            "{%0, %1, %2, %3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(a[2]), "r"(a[3]), "r"(b1));
    } else {
        multiply_by_shuffles(d, a, b0, b1);
    }
#endif
}

// The same with float16 sums, twice as fast on sm_75: d[0] is the pair of values 0 and 1, d[1] of 2 and 3. Only a few
// products may be added so (PERFORMANCE: 32 to 64 deep), then promote() adds them to float32 sums.
__device__ __forceinline__ void multiply_tile_half(uint32_t (&d)[2], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 {%0, %1}, {%2, %3, %4, %5}, {%6, %7}, {%0, %1};"
                 : "+r"(d[0]), "+r"(d[1])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f16.f16.f16.f16 {%0, %1}, {%2, %3}, {%4}, {%0, %1};"
                 : "+r"(d[0]), "+r"(d[1])
                 : "r"(a[0]), "r"(a[1]), "r"(b0));
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f16.f16.f16.f16 {%0, %1}, {%2, %3}, {%4}, {%0, %1};"
                 : "+r"(d[0]), "+r"(d[1])
                 : "r"(a[2]), "r"(a[3]), "r"(b1));
#endif
}
__device__ __forceinline__ void promote(float (&sums)[4], uint32_t (&d)[2]) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        sums[2 * i] += from_bits<kFloat16>(static_cast<uint16_t>(d[i]));
        sums[2 * i + 1] += from_bits<kFloat16>(static_cast<uint16_t>(d[i] >> 16));
        d[i] = 0;
    }
}

// One step of depth 16 of a product of kM * 16 pixels by kN * 8 outputs, in float32 without tensor cores.
template <int kM, int kN>
__device__ __forceinline__ void multiply_step_float32(float (&sums)[kM][kN][4], const char* a, int pitch,
                                                      const float* weights, int64_t block_stride) {
    const int lane = lane_id();
#pragma unroll
    for (int k = 0; k < kTileK; k += 4) {
        float rows[kM][2][4];
#pragma unroll
        for (int m = 0; m < kM; ++m) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const float4 v = *reinterpret_cast<const float4*>(a + (m * kTileM + d_row(lane, 2 * half)) * pitch +
                                                                  k * int(sizeof(float)));
                rows[m][half][0] = v.x, rows[m][half][1] = v.y, rows[m][half][2] = v.z, rows[m][half][3] = v.w;
            }
        }
#pragma unroll
        for (int deep = 0; deep < 4; ++deep) {
#pragma unroll
            for (int n = 0; n < kN; ++n) {
                const float2 b = *reinterpret_cast<const float2*>(
                    weights + n / 2 * block_stride + (k + deep) * kBlockN + n % 2 * kTileN + d_column(lane, 0));
#pragma unroll
                for (int m = 0; m < kM; ++m) {
#pragma unroll
                    for (int half = 0; half < 2; ++half) {
                        sums[m][n][2 * half] = fmaf(rows[m][half][deep], b.x, sums[m][n][2 * half]);
                        sums[m][n][2 * half + 1] = fmaf(rows[m][half][deep], b.y, sums[m][n][2 * half + 1]);
                    }
                }
            }
        }
    }
}

// sums[m][n] += A[rows 16 m on][16 k] B[16 k][outputs 8 n on], by one warp, all lanes together.
//
// `a` is row 0 and the first k of this step in shared memory, its rows `pitch` bytes apart (a multiple of 16; see
// row_pitch). `weights` is the packed block of the first 16 outputs and of this k, aligned to 16 bytes; the block of
// the next 16 outputs is `block_stride` elements on. An odd kN reads, and ignores, the second half of the last block.
template <int32_t kType, int kM, int kN>
__device__ __forceinline__ void multiply_step(float (&sums)[kM][kN][4], const void* a, int pitch, const void* weights,
                                              int64_t block_stride) {
    if constexpr (kType == kFloat32) {
        multiply_step_float32(sums, static_cast<const char*>(a), pitch, static_cast<const float*>(weights),
                              block_stride);
    } else {
        const int lane = lane_id();
        const uint32_t at = shared_address(a) + matrix_row(lane) * pitch + matrix_k(lane) * 2;
        uint32_t values[kM][4];
#pragma unroll
        for (int m = 0; m < kM; ++m) load_a(values[m], at + m * kTileM * pitch);
#pragma unroll
        for (int n = 0; n < kN; n += 2) {
            const uint4 b = *reinterpret_cast<const uint4*>(static_cast<const uint16_t*>(weights) +
                                                            n / 2 * block_stride + lane * 8);
#pragma unroll
            for (int m = 0; m < kM; ++m) {
                multiply_tile<kType>(sums[m][n], values[m], b.x, b.y);
                if (n + 1 < kN) multiply_tile<kType>(sums[m][n + 1], values[m], b.z, b.w);
            }
        }
    }
}

}  // namespace fastreenact
#endif
