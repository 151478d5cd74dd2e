// mma: what the kernels that multiply matrices on the GPU share: who holds what of a 16 x 8 x 16 product among the 32
// lanes of a warp, where a weight lies, and the loops. The index functions also compile for the host, where the
// tests multiply through them.
//
// D[16 x 8] += A[16 x 16] B[16 x 8]. A is pixels by channels in, row by row in shared memory; B is weights, packed in
// global memory by fastreenact/ops/packing.py; D is pixels by channels out, float32, in registers.
// sm_80 and later have one instruction for it, sm_75 takes two of half the depth, whose registers are the first and the
// second half of the same ones. (PTX ISA, "Matrix Fragments for mma.m16n8k16" and "mma.m16n8k8".)
#pragma once
#include "substrate/common.h"

namespace fastreenact {

constexpr int kTileM = 16;
constexpr int kTileN = 8;
constexpr int kTileK = 16;
constexpr int kBlockN = 16;         // outputs of a packed block of weights: two tiles
constexpr int kBlockWeights = 256;  // kBlockN * kTileK
constexpr int kChunkBytes = 16;     // what a lane loads at once

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

#ifndef __CUDACC_RTC__  // what the instructions and the packed order do by themselves
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

// Where weight (output n, input k) lies, in elements. Blocks [N / 16][K / 16], both rounded up, what is padded is 0.
// 16-bit: each lane's registers of both tiles side by side, 16 bytes. float32: [16 k][16 n].
FASTREENACT_INLINE int64_t packed_index(bool is_float32, int64_t n, int64_t k, int64_t blocks_k) {
    const int64_t block = (n / kBlockN * blocks_k + k / kTileK) * kBlockWeights;
    const int in_n = static_cast<int>(n % kBlockN), in_k = static_cast<int>(k % kTileK);
    if (is_float32) return block + in_k * kBlockN + in_n;
    const int lane = in_n % kTileN * 4 + in_k % 8 / 2;
    return block + lane * 8 + in_n / kTileN * 4 + in_k / 8 * 2 + in_k % 2;
}
#endif

// Bytes from row to row of A in shared memory for `bytes` of values: an odd number of 16-byte chunks, so that eight
// rows (what one phase of ldmatrix reads) lie in different banks.
FASTREENACT_INLINE constexpr int row_pitch(int bytes) {
    return ((bytes + kChunkBytes - 1) / kChunkBytes | 1) * kChunkBytes;
}

FASTREENACT_INLINE constexpr int element_bytes(int32_t dtype) {
    return dtype == kFloat32 ? 4 : 2;
}

}  // namespace fastreenact

#ifdef __CUDACC__
#include "substrate/instructions.h"

namespace fastreenact {

// Two neighbouring channels.
struct Pair {
    float first;
    float second;
};

// 0 where `valid` is false: then nothing is read.
template <int32_t kType>
__device__ __forceinline__ Pair load_pair(const char* from, bool valid = true) {
    if constexpr (kType == kFloat32) {
        float2 v = make_float2(0.0f, 0.0f);
        if (valid) v = *reinterpret_cast<const float2*>(from);
        return {v.x, v.y};
    } else {
        uint32_t bits = 0;
        if (valid) bits = *reinterpret_cast<const uint32_t*>(from);
        return {from_bits<kType>(static_cast<uint16_t>(bits)), from_bits<kType>(static_cast<uint16_t>(bits >> 16))};
    }
}

template <int32_t kType>
__device__ __forceinline__ void store_pair(char* to, Pair values) {
    if constexpr (kType == kFloat32) {
        *reinterpret_cast<float2*>(to) = make_float2(values.first, values.second);
    } else {
        *reinterpret_cast<uint32_t*>(to) = to_bits<kType>(values.first) | uint32_t(to_bits<kType>(values.second)) << 16;
    }
}

__device__ __forceinline__ Pair multiply_add(Pair a, Pair b, Pair sum) {
    return {fmaf(a.first, b.first, sum.first), fmaf(a.second, b.second, sum.second)};
}

// NaN stays NaN: what overflowed has to be noticed.
__device__ __forceinline__ Pair relu(Pair v) {
    return {v.first < 0.0f ? 0.0f : v.first, v.second < 0.0f ? 0.0f : v.second};
}

// 16 bytes of a row in global memory, of which the first `bytes` count (none if negative) and the rest is 0. `unit`
// (16, 8, 4 or 2) divides the address and `bytes`: channels that are no multiple of eight leave pixels at odd
// addresses.
__device__ __forceinline__ uint4 load_chunk(const char* from, int bytes, int unit) {
    uint32_t words[4] = {0, 0, 0, 0};
    if (unit == 16) return bytes > 0 ? *reinterpret_cast<const uint4*>(from) : make_uint4(0, 0, 0, 0);
    if (unit == 8) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            if (8 * i >= bytes) break;
            const uint2 v = reinterpret_cast<const uint2*>(from)[i];
            words[2 * i] = v.x, words[2 * i + 1] = v.y;
        }
    } else if (unit == 4) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            if (4 * i < bytes) words[i] = reinterpret_cast<const uint32_t*>(from)[i];
        }
    } else {
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            if (2 * i < bytes) words[i / 2] |= uint32_t(reinterpret_cast<const uint16_t*>(from)[i]) << (i % 2 * 16);
        }
    }
    return make_uint4(words[0], words[1], words[2], words[3]);
}

// The greatest unit of load_chunk for rows that begin at multiples of these numbers of bytes.
__device__ __forceinline__ int chunk_unit(uint64_t address, uint64_t bytes) {
    const uint64_t bits = address | bytes | kChunkBytes;
    return static_cast<int>(bits & (~bits + 1));
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
    if constexpr (kType == kBFloat16 && kArchitecture < 80) {
        multiply_by_shuffles(d, a, b0, b1);
    } else {
        tensor_product<kType>(d, a, b0, b1);
    }
}

// d[0] holds the pair of values 0 and 1, d[1] of 2 and 3.
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
                                                      const float* weights, int64_t block_stride, int tiles) {
    const int lane = lane_id();
#pragma unroll 1
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
                if (n >= tiles) continue;
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

// One step of depth 16 with 16-bit values: take(m, n, registers of A, two of B) for every tile.
template <int kM, int kN, typename Take>
__device__ __forceinline__ void each_tile(const void* a, int pitch, const void* weights, int64_t block_stride,
                                          int tiles, const Take& take) {
    const int lane = lane_id();
    const uint32_t at = shared_address(a) + matrix_row(lane) * pitch + matrix_k(lane) * 2;
    uint32_t values[kM][4];
#pragma unroll
    for (int m = 0; m < kM; ++m) load_a(values[m], at + m * kTileM * pitch);
    constexpr int kAhead = 6;  // tiles whose weights are loaded before they are needed: more want too many registers
#pragma unroll
    for (int first = 0; first < kN; first += kAhead) {
        uint4 b[kAhead / 2];
#pragma unroll
        for (int i = 0; i < kAhead && first + i < kN; i += 2) {
            if (first + i < tiles) {  // the same for the whole warp
                b[i / 2] = *reinterpret_cast<const uint4*>(static_cast<const uint16_t*>(weights) +
                                                           (first + i) / 2 * block_stride + lane * 8);
            }
        }
#pragma unroll
        for (int i = 0; i < kAhead && first + i < kN; i += 2) {
            const int n = first + i;
            if (n >= tiles) continue;
#pragma unroll
            for (int m = 0; m < kM; ++m) {
                take(m, n, values[m], b[i / 2].x, b[i / 2].y);
                if (n + 1 < kN && n + 1 < tiles) take(m, n + 1, values[m], b[i / 2].z, b[i / 2].w);
            }
        }
    }
}

// One step of depth 16 of multiply_steps.
template <int32_t kType, int kM, int kN>
__device__ __forceinline__ void multiply_step(float (&sums)[kM][kN][4], const void* a, int pitch, const void* weights,
                                              int64_t block_stride, int tiles = kN) {
    if constexpr (kType == kFloat32) {
        multiply_step_float32(sums, static_cast<const char*>(a), pitch, static_cast<const float*>(weights),
                              block_stride, tiles);
    } else {
        each_tile<kM, kN>(a, pitch, weights, block_stride, tiles,
                          [&](int m, int n, const uint32_t (&values)[4], uint32_t b0, uint32_t b1) {
                              multiply_tile<kType>(sums[m][n], values, b0, b1);
                          });
    }
}

// sums[m][n] += A[rows 16 m on][16 steps k] B[k][outputs 8 n on], by one warp, all lanes together.
//
// `a` is row 0 and the first k in shared memory, its rows `pitch` bytes apart (see row_pitch). `weights` is the packed
// block of the first 16 outputs and of this k, aligned to 16 bytes; the block of the next 16 outputs is `block_stride`
// elements on. Only the first `tiles` of kN are multiplied. With kHalf float16 is summed in float16 over four steps,
// then in float32: twice as fast on sm_75.
template <int32_t kType, bool kHalf, int kM, int kN>
__device__ __forceinline__ void multiply_steps(float (&sums)[kM][kN][4], const void* a, int pitch, const void* weights,
                                               int64_t block_stride, int steps, int tiles) {
    static_assert(!kHalf || kType == kFloat16, "sums in float16 are for float16");
    const char* row = static_cast<const char*>(a);
    const char* block = static_cast<const char*>(weights);
    constexpr int kStepBytes = kTileK * element_bytes(kType), kBlockBytes = kBlockWeights * element_bytes(kType);
    if constexpr (!kHalf) {
#pragma unroll 1
        for (int step = 0; step < steps; ++step, row += kStepBytes, block += kBlockBytes) {
            multiply_step<kType>(sums, row, pitch, block, block_stride, tiles);
        }
    } else {
        for (int done = 0; done < steps; done += 4) {
            uint32_t halves[kM][kN][2] = {};
            const int now = steps - done < 4 ? steps - done : 4;
#pragma unroll 1
            for (int step = 0; step < now; ++step, row += kStepBytes, block += kBlockBytes) {
                each_tile<kM, kN>(row, pitch, block, block_stride, tiles,
                                  [&](int m, int n, const uint32_t (&values)[4], uint32_t b0, uint32_t b1) {
                                      tensor_product_half(halves[m][n], values, b0, b1);
                                  });
            }
#pragma unroll
            for (int i = 0; i < kM * kN; ++i) promote(sums[i / kN][i % kN], halves[i / kN][i % kN]);
        }
    }
}

}  // namespace fastreenact
#endif
