// tail on the GPU: a block makes 8 x 64 pixels. It convolves the doubled map depthwise, with one pixel around, into
// shared memory, and that by the last 3x3, which has too few outputs for tensor cores. Compiled by nvcc into the
// extension, or by NVRTC from this same text (fastreenact/ops/nvrtc.py).
#include "substrate/device.h"
#include "tail.h"

namespace fastreenact {

// Rows and columns of the map between the two convolutions, and quads of it: two pixels each way that see the same four
// inputs, the first of them at an odd place.
constexpr int kMiddleRows = kTailRows + 2;
constexpr int kMiddleColumns = kTailColumns + 2;
constexpr int kMiddlePitch = kMiddleColumns + 2;  // 16-byte rows
constexpr int kMiddlePlane = kMiddleRows * kMiddlePitch;
constexpr int kQuadsAcross = kMiddleColumns / 2;
constexpr int kQuads = kMiddleRows / 2 * kQuadsAcross;
static_assert(kTailRows % 2 == 0 && kTailColumns % 2 == 0, "tiles begin at even places");

// Shared memory, in floats: the map between [8][kMiddleRows][kMiddlePitch], the last weights, and the depthwise ones as
// kernels of 2 x 2 taps [y][x][tap y][tap x][8], where y and x are 0 at an even place, 1 at an odd one, and 2 at an
// even one whose next neighbour is cropped away.
constexpr int kTailWeights = kTailChannels * kMiddlePlane;
constexpr int kTailSums = kTailWeights + kTailChannels * 9 * 4;
static_assert((kTailSums + 9 * 4 * kTailChannels) * int(sizeof(float)) == kTailSharedBytes, "tail.h says so too");

// The first and the last of three taps that fall on the first or second input of an axis.
__device__ __forceinline__ int first_tap(int place, int tap) {
    return tap == 0 ? 0 : place == 1 ? 2 : 1;
}
__device__ __forceinline__ int last_tap(int place, int tap) {
    return tap == 0 ? (place == 1 ? 1 : 0) : place == 2 ? 1 : 2;
}

__device__ __forceinline__ void load_weights(const TailParams& p, float* memory) {
    const float* weights = static_cast<const float*>(p.weights);
    for (int i = threadIdx.x; i < kTailChannels * 9 * 4; i += kTailThreads) memory[kTailWeights + i] = weights[i];
    for (int i = threadIdx.x; i < 9 * 4 * kTailChannels; i += kTailThreads) {
        const int c = i % kTailChannels, tap_x = i / 8 % 2, tap_y = i / 16 % 2, x = i / 32 % 3, y = i / 96;
        float sum = 0.0f;
        for (int row = first_tap(y, tap_y); row <= last_tap(y, tap_y); ++row) {
            for (int column = first_tap(x, tap_x); column <= last_tap(x, tap_x); ++column) {
                sum += p.depthwise[(3 * row + column) * kTailChannels + c];
            }
        }
        memory[kTailSums + i] = sum;
    }
}

// The eight channels of input (y, x), 0 outside; `whole`: they may be read 16 bytes at a time.
template <int32_t kType>
__device__ __forceinline__ void load_input(const TailParams& p, int64_t n, int32_t y, int32_t x, bool whole,
                                           float (&values)[kTailChannels]) {
    const int32_t height = static_cast<int32_t>((p.height + 1) / 2), width = static_cast<int32_t>((p.width + 1) / 2);
    const bool there = y >= 0 && y < height && x >= 0 && x < width;
    const int64_t element = there ? n * p.x_stride_n + y * p.x_stride_y + x * p.x_stride_x : 0;
    if (!there) {
#pragma unroll
        for (int c = 0; c < kTailChannels; ++c) values[c] = 0.0f;
    } else if (!whole) {
#pragma unroll
        for (int c = 0; c < kTailChannels; ++c) values[c] = load<kType>(p.x, element + c);
    } else if constexpr (kType == kFloat32) {
        const float4* from = reinterpret_cast<const float4*>(static_cast<const float*>(p.x) + element);
        const float4 low = from[0], high = from[1];
        values[0] = low.x, values[1] = low.y, values[2] = low.z, values[3] = low.w;
        values[4] = high.x, values[5] = high.y, values[6] = high.z, values[7] = high.w;
    } else {
        const uint4 v = *reinterpret_cast<const uint4*>(static_cast<const uint16_t*>(p.x) + element);
        const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            values[2 * i] = from_bits<kType>(static_cast<uint16_t>(words[i]));
            values[2 * i + 1] = from_bits<kType>(static_cast<uint16_t>(words[i] >> 16));
        }
    }
}

// One row of a quad, two pixels of eight channels, from its four inputs. NaN stays NaN.
__device__ __forceinline__ void convolve_pair(const TailParams& p, const float (&inputs)[4][kTailChannels],
                                              const float* sums, int32_t y, int32_t x, float* to) {
    const bool row_there = y >= 0 && y < p.height;
    const int place_y = y % 2 != 0 ? 1 : y + 1 == p.height ? 2 : 0;
    float2 pair[kTailChannels];
#pragma unroll
    for (int dx = 0; dx < 2; ++dx) {
        const int place_x = dx == 0 ? 1 : x + dx + 1 == p.width ? 2 : 0;
        const bool there = row_there && x + dx >= 0 && x + dx < p.width;
        const float* weights = sums + (place_y * 3 + place_x) * 4 * kTailChannels;
#pragma unroll
        for (int c = 0; c < kTailChannels; c += 4) {
            float values[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) values[i] = p.depthwise_bias[c + i];
#pragma unroll
            for (int tap = 0; tap < 4; ++tap) {
                const float4 w = *reinterpret_cast<const float4*>(weights + tap * kTailChannels + c);
                values[0] = fmaf(inputs[tap][c], w.x, values[0]);
                values[1] = fmaf(inputs[tap][c + 1], w.y, values[1]);
                values[2] = fmaf(inputs[tap][c + 2], w.z, values[2]);
                values[3] = fmaf(inputs[tap][c + 3], w.w, values[3]);
            }
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const float value = !there || values[i] <= 0.0f ? 0.0f : values[i];
                (dx == 0 ? pair[c + i].x : pair[c + i].y) = value;
            }
        }
    }
#pragma unroll
    for (int c = 0; c < kTailChannels; ++c) *reinterpret_cast<float2*>(to + c * kMiddlePlane) = pair[c];
}

// The map between the two convolutions for the tile at (top, left), 0 outside the picture.
template <int32_t kType>
__device__ __forceinline__ void make_middle(const TailParams& p, int64_t n, int32_t top, int32_t left, float* memory) {
    const uint64_t strides = p.x_stride_n | p.x_stride_y | p.x_stride_x;
    const bool whole = reinterpret_cast<uint64_t>(p.x) % 16 == 0 && strides % (kType == kFloat32 ? 4 : 8) == 0;
#pragma unroll 1
    for (int quad = threadIdx.x; quad < kQuads; quad += kTailThreads) {
        const int down = quad / kQuadsAcross, across = quad % kQuadsAcross;
        const int32_t input_y = top / 2 - 1 + down, input_x = left / 2 - 1 + across;
        float inputs[4][kTailChannels];
#pragma unroll
        for (int tap = 0; tap < 4; ++tap) {
            load_input<kType>(p, n, input_y + tap / 2, input_x + tap % 2, whole, inputs[tap]);
        }
#pragma unroll 1
        for (int dy = 0; dy < 2; ++dy) {
            convolve_pair(p, inputs, memory + kTailSums, top - 1 + 2 * down + dy, left - 1 + 2 * across,
                          memory + (2 * down + dy) * kMiddlePitch + 2 * across);
        }
    }
}

// Four pixels of a row, `count` of which the picture has.
template <int32_t kType, int kOutputs>
__device__ __forceinline__ void store_four(const TailParams& p, int64_t element, int32_t count,
                                           const float (&sums)[4][4]) {
    constexpr int kBytes = kType == kFloat32 ? 4 : 2;
    char* to = static_cast<char*>(p.out) + element * kBytes;
    if (count == 4 && p.channels_out == kOutputs && reinterpret_cast<uint64_t>(to) % 8 == 0) {
#pragma unroll
        for (int i = 0; i < kOutputs * kBytes / 2; ++i) {  // 8 bytes each
            uint2 word;
            if constexpr (kType == kFloat32) {
                const int e = 2 * i;
                word.x = __float_as_uint(sums[e / kOutputs][e % kOutputs]);
                word.y = __float_as_uint(sums[(e + 1) / kOutputs][(e + 1) % kOutputs]);
            } else {
                const int e = 4 * i;
                word.x = uint32_t(to_bits<kType>(sums[(e + 1) / kOutputs][(e + 1) % kOutputs])) << 16 |
                         to_bits<kType>(sums[e / kOutputs][e % kOutputs]);
                word.y = uint32_t(to_bits<kType>(sums[(e + 3) / kOutputs][(e + 3) % kOutputs])) << 16 |
                         to_bits<kType>(sums[(e + 2) / kOutputs][(e + 2) % kOutputs]);
            }
            reinterpret_cast<uint2*>(to)[i] = word;
        }
        return;
    }
#pragma unroll
    for (int pixel = 0; pixel < 4; ++pixel) {
#pragma unroll
        for (int o = 0; o < kOutputs; ++o) {
            if (pixel < count && o < p.channels_out) store<kType>(to, pixel * p.channels_out + o, sums[pixel][o]);
        }
    }
}

// Four neighbouring pixels of the last convolution by one thread.
template <int32_t kType, int kOutputs>
__device__ __forceinline__ void convolve_four(const TailParams& p, int64_t n, int32_t top, int32_t left,
                                              const float* memory) {
    const int row = threadIdx.x / (kTailColumns / 4), column = threadIdx.x % (kTailColumns / 4) * 4;
    const int32_t y = top + row, x = left + column;
    if (y >= p.height || x >= p.width) return;
    float sums[4][4];
    const int bias_row = y == 0 ? 0 : y + 1 < p.height ? 1 : 2;
#pragma unroll
    for (int pixel = 0; pixel < 4; ++pixel) {
        const int bias_column = x + pixel == 0 ? 0 : x + pixel + 1 < p.width ? 1 : 2;
        const float* bias = p.bias + (bias_row * 3 + bias_column) * kTailBiases;
#pragma unroll
        for (int o = 0; o < kOutputs; ++o) sums[pixel][o] = bias[o];
    }
#pragma unroll 1
    for (int c = 0; c < kTailChannels; ++c) {
#pragma unroll
        for (int tap_y = 0; tap_y < 3; ++tap_y) {
            const float* from = memory + c * kMiddlePlane + (row + tap_y) * kMiddlePitch + column;
            const float4 low = *reinterpret_cast<const float4*>(from);
            const float2 high = *reinterpret_cast<const float2*>(from + 4);
            const float seen[6] = {low.x, low.y, low.z, low.w, high.x, high.y};
#pragma unroll
            for (int tap_x = 0; tap_x < 3; ++tap_x) {
                const float4 v =
                    *reinterpret_cast<const float4*>(memory + kTailWeights + (c * 9 + tap_y * 3 + tap_x) * 4);
                const float weights[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
                for (int pixel = 0; pixel < 4; ++pixel) {
#pragma unroll
                    for (int o = 0; o < kOutputs; ++o) {
                        sums[pixel][o] = fmaf(seen[pixel + tap_x], weights[o], sums[pixel][o]);
                    }
                }
            }
        }
    }
    const int32_t count = p.width - x < 4 ? static_cast<int32_t>(p.width) - x : 4;
    store_four<kType, kOutputs>(p, n * p.out_stride_n + y * p.out_stride_y + x * p.out_stride_x, count, sums);
}

template <int32_t kType>
__global__ void __launch_bounds__(kTailThreads, 4) tail_kernel(const TailParams p) {
    extern __shared__ uint4 shared_memory[];
    float* memory = reinterpret_cast<float*>(shared_memory);
    const int32_t across = tail_tiles(p.width, kTailColumns), down = tail_tiles(p.height, kTailRows);
    const int32_t tile = static_cast<int32_t>(blockIdx.x), line = tile / across;
    const int64_t n = line / down;
    const int32_t top = line % down * kTailRows, left = tile % across * kTailColumns;
    load_weights(p, memory);
    __syncthreads();
    make_middle<kType>(p, n, top, left, memory);
    __syncthreads();
    if (p.channels_out == 3) {
        convolve_four<kType, 3>(p, n, top, left, memory);
    } else {
        convolve_four<kType, 4>(p, n, top, left, memory);
    }
}

}  // namespace fastreenact

#ifndef __CUDACC_RTC__
#include "substrate/launch.h"

namespace fastreenact {

static const CompiledKernels kTailKernels({FASTREENACT_KERNEL(tail_kernel<0>), FASTREENACT_KERNEL(tail_kernel<1>),
                                           FASTREENACT_KERNEL(tail_kernel<2>)});

}  // namespace fastreenact
#endif
