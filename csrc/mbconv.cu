// mbconv on the GPU: whole blocks fused, or expand and project one after the other with the depthwise convolution in
// the loader of project; csrc/mbconv_plan.h says which. 16-bit types are multiplied by tensor cores, float32 is not.
// Compiled by nvcc into the extension, or by NVRTC from this same text (fastreenact/ops/nvrtc.py).
#include "mbconv_plan.h"

namespace fastreenact {

// The first channel of picture n, row y, column x.
template <int32_t kType>
__device__ __forceinline__ const char* pixel_of_x(const MbconvParams& p, int64_t n, int64_t y, int64_t x) {
    return static_cast<const char*>(p.x) +
           (n * p.x_stride_n + y * p.x_stride_y + x * p.x_stride_x) * element_bytes(kType);
}

// What divides the addresses of all pixels of x and the bytes of their channels; see load_chunk.
template <int32_t kType>
__device__ __forceinline__ int unit_of_x(const MbconvParams& p) {
    const uint64_t strides = p.x_stride_n | p.x_stride_y | p.x_stride_x | p.channels_in;
    return chunk_unit(reinterpret_cast<uint64_t>(p.x), strides * element_bytes(kType));
}

// Two channels of `kOutputs` outputs in a row, from `c` on. rows[] are those of the three taps at the inputs from
// first_input on, null outside the picture; place(i) is how many bytes tap column `i` lies on, counted from the first
// output's left one, negative outside the picture; fetch(address) reads two channels, put(output, values) takes two.
template <int kOutputs, typename Place, typename Fetch, typename Put>
__device__ __forceinline__ void depthwise_row(const MbconvParams& p, int c, const char* const (&rows)[3],
                                              const Place& place, const Fetch& fetch, const Put& put) {
    const char* first_weight = reinterpret_cast<const char*>(p.depthwise + c);
    const int64_t tap_bytes = padded_hidden(p) * int64_t(sizeof(float));
    Pair weights[9];
#pragma unroll
    for (int tap = 0; tap < 9; ++tap) weights[tap] = load_pair<kFloat32>(first_weight + tap * tap_bytes);
    const Pair bias = load_pair<kFloat32>(reinterpret_cast<const char*>(p.depthwise_bias + c));
    if (p.stride == 1) {
        // A column is right of one output, in the middle of the next and left of the one after.
        Pair one = bias, next = bias;
#pragma unroll 1
        for (int i = 0; i < kOutputs + 2; ++i) {
            Pair after = bias;
            const int64_t at = place(i);
#pragma unroll
            for (int row = 0; row < 3; ++row) {
                const Pair value = at < 0 || rows[row] == nullptr ? Pair{0.0f, 0.0f} : fetch(rows[row] + at);
                one = multiply_add(value, weights[3 * row + 2], one);
                next = multiply_add(value, weights[3 * row + 1], next);
                after = multiply_add(value, weights[3 * row], after);
            }
            if (i >= 2) put(i - 2, relu(one));
            one = next;
            next = after;
        }
    } else {
#pragma unroll 1
        for (int output = 0; output < kOutputs; ++output) {
            Pair sum = bias;
#pragma unroll
            for (int column = 0; column < 3; ++column) {
                const int64_t at = place(output * p.stride + column);
#pragma unroll
                for (int row = 0; row < 3; ++row) {
                    const Pair value = at < 0 || rows[row] == nullptr ? Pair{0.0f, 0.0f} : fetch(rows[row] + at);
                    sum = multiply_add(value, weights[3 * row + column], sum);
                }
            }
            put(output, relu(sum));
        }
    }
}

// The first tile of 8 outputs and the number of tiles of a warp that shares `outputs` (of a block of kernels) with
// others; whole packed blocks, so that the first is even.
struct OutputShare {
    int first;
    int tiles;
};
template <int kN>
__device__ __forceinline__ OutputShare share_of(int outputs, int warp, int warps) {
    const int tiles = (outputs + kTileN - 1) / kTileN;
    const int each = warps == 1 ? kN : (tiles + 2 * warps - 1) / (2 * warps) * 2;
    const int first = warp * each, left = tiles - first;
    return {first, left < 0 ? 0 : left < each ? left : each};
}

// Bias, the residual, and out to the pixels of a tile that the picture has. `first_pixel` and `first_channel` are what
// sums[0][0] begins with.
template <int32_t kType, int kColumns, int kM, int kN>
__device__ __forceinline__ void store_outputs(const MbconvParams& p, const MbconvTile& tile,
                                              const float (&sums)[kM][kN][4], int first_pixel, int first_channel,
                                              int tiles) {
    constexpr int kBytes = element_bytes(kType);
    const int lane = lane_id();
    const bool pairs =
        (reinterpret_cast<uint64_t>(p.out) | (p.out_stride_n | p.out_stride_y | p.out_stride_x) * kBytes) %
            (2 * kBytes) ==
        0;
#pragma unroll
    for (int m = 0; m < kM; ++m) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int pixel = first_pixel + m * kTileM + d_row(lane, 2 * half);
            const int64_t y = tile.y + pixel / kColumns, x = tile.x + pixel % kColumns;
            if (y >= p.out_height || x >= p.out_width) continue;
            char* out = static_cast<char*>(p.out) +
                        (tile.n * p.out_stride_n + y * p.out_stride_y + x * p.out_stride_x) * kBytes;
#pragma unroll
            for (int n = 0; n < kN; ++n) {
                const int c = first_channel + n * kTileN + d_column(lane, 0);
                if (n >= tiles || c >= p.channels_out) continue;
                const bool both = c + 1 < p.channels_out;
                Pair value = {sums[m][n][2 * half] + p.project_bias[c],
                              sums[m][n][2 * half + 1] + p.project_bias[c + 1]};
                if (p.residual) {
                    const char* x_pixel = pixel_of_x<kType>(p, tile.n, y, x);
                    value.first += load<kType>(x_pixel, c);
                    if (both) value.second += load<kType>(x_pixel, c + 1);
                }
                if (both && pairs) {
                    store_pair<kType>(out + c * kBytes, value);
                } else {
                    store<kType>(out, c, value.first);
                    if (both) store<kType>(out, c + 1, value.second);
                }
            }
        }
    }
}

// The tile's pixels of x with their border into shared memory; 0 outside the picture and beyond the last channel, which
// a product would else meet as NaN.
template <int32_t kType>
__device__ __forceinline__ void load_tile(const MbconvParams& p, const FusedLayout& l, const MbconvTile& tile,
                                          char* to) {
    constexpr int kBytes = element_bytes(kType);
    const int chunks = static_cast<int>(divide_up(p.channels_in, kTileK)) * kTileK * kBytes / kChunkBytes;
    const int unit = unit_of_x<kType>(p);
    const int64_t top = first_input(p, tile.y), left = first_input(p, tile.x);
    for (int item = threadIdx.x; item < l.in_rows * chunks; item += kMbconvThreads) {
        const int pixel = item / chunks, chunk = item % chunks;
        const int64_t y = top + pixel / l.in_columns, x = left + pixel % l.in_columns;
        const bool inside = pixel < l.in_pixels && y >= 0 && y < p.height && x >= 0 && x < p.width;
        const int left_bytes = inside ? static_cast<int>(p.channels_in) * kBytes - chunk * kChunkBytes : 0;
        const char* from = pixel_of_x<kType>(p, tile.n, inside ? y : 0, inside ? x : 0) + chunk * kChunkBytes;
        char* at = to + pixel * l.x_pitch + chunk * kChunkBytes;
        if (unit == kChunkBytes) {
            copy_chunk(at, left_bytes > 0 ? from : static_cast<const char*>(p.x), left_bytes > 0);
        } else {
            *reinterpret_cast<uint4*>(at) = load_chunk(from, left_bytes, unit);
        }
    }
    commit_copies();
}

// Hidden channels c0 to c0 + channels of every pixel of the tile, 0 outside the picture: there the depthwise
// convolution sees zeros, not a bias.
template <int32_t kType, bool kHalf, int kChunk>
__device__ __forceinline__ void expand_tile(const MbconvParams& p, const FusedLayout& l, const char* x_tile,
                                            char* hidden, int c0, int channels) {
    constexpr int kN = kChunk / 2 / kTileN;  // a warp takes one half of the channels
    const int lane = lane_id(), steps = static_cast<int>(divide_up(p.channels_in, kTileK));
    const int items = l.in_rows / (kExpandTiles * kTileM) * 2;
    for (int item = threadIdx.x / 32; item < items; item += kMbconvWarps) {
        const int first = item / 2 * kExpandTiles * kTileM, column = item % 2 * (kChunk / 2);
        const int tiles = (channels - column) / kTileN;
        if (tiles <= 0) continue;  // the same for the whole warp
        float sums[kExpandTiles][kN][4] = {};
        const int64_t block = int64_t((c0 + column) / kBlockN) * steps * kBlockWeights;
        multiply_steps<kType, kHalf>(sums, x_tile + first * l.x_pitch, l.x_pitch,
                                     static_cast<const char*>(p.expand) + block * element_bytes(kType),
                                     int64_t(steps) * kBlockWeights, steps, tiles);
#pragma unroll
        for (int m = 0; m < kExpandTiles; ++m) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int pixel = first + m * kTileM + d_row(lane, 2 * half);
#pragma unroll
                for (int n = 0; n < kN; ++n) {
                    const int c = column + n * kTileN + d_column(lane, 0);
                    if (n >= tiles) continue;
                    const Pair bias = {p.expand_bias[c0 + c], p.expand_bias[c0 + c + 1]};
                    const Pair value = {sums[m][n][2 * half] + bias.first, sums[m][n][2 * half + 1] + bias.second};
                    store_pair<kType>(hidden + pixel * l.pitch + c * element_bytes(kType), relu(value));
                }
            }
        }
    }
}

// The depthwise map of a tile, channels c0 to c0 + channels; `from` is the hidden map of it, `pitch` from pixel to
// pixel.
template <int32_t kType>
__device__ __forceinline__ void depthwise_tile(const MbconvParams& p, const FusedLayout& l, const MbconvTile& tile,
                                               const char* from, int pitch, char* to, int c0, int channels) {
    constexpr int kPairBytes = 2 * element_bytes(kType);
    const int pairs = channels / 2;
    for (int item = threadIdx.x; item < kFusedRows * pairs; item += kMbconvThreads) {
        const int pair = item % pairs, output_row = item / pairs;
        const char* rows[3];
#pragma unroll
        for (int row = 0; row < 3; ++row) {
            rows[row] = tap_inside(p, tile.y, output_row + row, convolved_height(p))
                            ? from + tap_place(p, output_row + row) * l.in_columns * pitch + pair * kPairBytes
                            : nullptr;
        }
        depthwise_row<kFusedColumns>(
            p, c0 + 2 * pair, rows,
            [&](int i) { return tap_inside(p, tile.x, i, convolved_width(p)) ? tap_place(p, i) * pitch : -1; },
            [](const char* at) { return load_pair<kType>(at); },
            [&](int output, Pair value) {
                store_pair<kType>(to + (output_row * kFusedColumns + output) * l.pitch + pair * kPairBytes, value);
            });
    }
}

// One block makes a tile of outputs with all their channels, in sums that stay in registers while it goes over the
// hidden channels chunk by chunk. Its eight warps take kM tiles of 16 pixels each, and share the outputs where that is
// less than all pixels.
template <int32_t kType, bool kHalf, int kM, int kN>
__device__ __forceinline__ void fused_block(const MbconvParams& p) {
    constexpr int kBytes = element_bytes(kType), kChunk = fused_chunk(kType, kArchitecture);
    constexpr int kWarpsOfPixels = kFusedPixels / kTileM / kM;
    extern __shared__ uint4 shared_memory[];
    char* memory = reinterpret_cast<char*>(shared_memory);
    const FusedLayout l = fused_layout(p, kChunk);
    const MbconvTile tile = tile_at(p, blockIdx.x, kFusedRows, kFusedColumns);
    load_tile<kType>(p, l, tile, memory);
    wait_copies<0>();
    __syncthreads();

    const int warp = threadIdx.x / 32, first_pixel = warp % kWarpsOfPixels * kM * kTileM;
    const OutputShare share =
        share_of<kN>(static_cast<int>(p.channels_out), warp / kWarpsOfPixels, kMbconvWarps / kWarpsOfPixels);
    const int hidden = padded_hidden(p), blocks = hidden / kTileK;
    float sums[kM][kN][4] = {};
    for (int c0 = 0; c0 < hidden; c0 += kChunk) {
        const int channels = hidden - c0 < kChunk ? hidden - c0 : kChunk;
        const char* from = memory + c0 * kBytes;
        int pitch = l.x_pitch;
        if (p.expand != nullptr) {
            // The depthwise convolution of the chunk before has read the hidden map: the barrier after it is passed.
            expand_tile<kType, kHalf, kChunk>(p, l, memory, memory + l.hidden, c0, channels);
            from = memory + l.hidden;
            pitch = l.pitch;
        }
        __syncthreads();  // the hidden map is there, and nobody multiplies the chunk before any more
        depthwise_tile<kType>(p, l, tile, from, pitch, memory + l.depthwise, c0, channels);
        __syncthreads();
        const int64_t block = (int64_t(share.first / 2) * blocks + c0 / kTileK) * kBlockWeights;
        multiply_steps<kType, kHalf>(sums, memory + l.depthwise + first_pixel * l.pitch, l.pitch,
                                     static_cast<const char*>(p.project) + block * kBytes,
                                     int64_t(blocks) * kBlockWeights, channels / kTileK, share.tiles);
    }
    store_outputs<kType, kFusedColumns>(p, tile, sums, first_pixel, share.first * kTileN, share.tiles);
}

template <int32_t kType, bool kHalf>
__global__ void __launch_bounds__(kMbconvThreads, kHalf ? 1 : 2) mbconv_narrow_kernel(const MbconvParams p) {
    fused_block<kType, kHalf, 1, kNarrowOutputs / kTileN>(p);
}

template <int32_t kType, bool kHalf>
__global__ void __launch_bounds__(kMbconvThreads, 1) mbconv_wide_kernel(const MbconvParams p) {
    fused_block<kType, kHalf, 2, kWideOutputs / 2 / kTileN>(p);
}

// The hidden map: pixels by hidden channels, all pictures' pixels in a row. Two warps share the pixels, four the
// channels. While a step of the depth is multiplied the next one is on its way: from sm_80 on to shared memory, else
// to registers.
template <int32_t kType, bool kHalf>
__global__ void __launch_bounds__(kMbconvThreads, 2) mbconv_expand_kernel(const MbconvParams p) {
    constexpr int kBytes = element_bytes(kType), kDepth = deep_chunk(kType), kPitch = kDeepBytes + kChunkBytes;
    constexpr int kChunks = kDeepBytes / kChunkBytes, kEach = kExpandPixels * kChunks / kMbconvThreads;
    constexpr int kM = kExpandPixels / 2 / kTileM, kN = kExpandOutputs / 4 / kTileN;
    extern __shared__ uint4 shared_memory[];
    char* memory = reinterpret_cast<char*>(shared_memory);
    const int hidden = padded_hidden(p), parts = (hidden + kExpandOutputs - 1) / kExpandOutputs;
    const int64_t first_pixel = int64_t(blockIdx.x / unsigned(parts)) * kExpandPixels;
    const int c0 = static_cast<int>(blockIdx.x % unsigned(parts)) * kExpandOutputs;
    const int64_t pixels = p.n * p.height * p.width;
    const int chunk = threadIdx.x % kChunks, unit = unit_of_x<kType>(p);
    const bool by_copies = unit == kChunkBytes && kArchitecture >= 80;

    const char* rows[kEach];  // what this thread loads of each step; null: zeros
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
        const int64_t pixel = first_pixel + threadIdx.x / kChunks + i * (kMbconvThreads / kChunks);
        const int64_t y = pixel / p.width, n = y / p.height;
        rows[i] = pixel < pixels ? pixel_of_x<kType>(p, n, y - n * p.height, pixel - y * p.width) + chunk * kChunkBytes
                                 : nullptr;
    }
    uint4 staged[kEach];
    const auto bytes_left = [&](int i, int step) {
        return rows[i] == nullptr ? 0
                                  : static_cast<int>(p.channels_in) * kBytes - step * kDeepBytes - chunk * kChunkBytes;
    };
    const auto place = [&](int i, int step) {
        return memory + (step % 2 * kExpandPixels + threadIdx.x / kChunks + i * (kMbconvThreads / kChunks)) * kPitch +
               chunk * kChunkBytes;
    };
    const auto fetch = [&](int step) {
#pragma unroll
        for (int i = 0; i < kEach; ++i) {
            const bool valid = bytes_left(i, step) > 0;
            const char* from = valid ? rows[i] + step * kDeepBytes : static_cast<const char*>(p.x);
            if (by_copies) {
                copy_chunk(place(i, step), from, valid);
            } else {
                staged[i] = load_chunk(from, bytes_left(i, step), unit);
            }
        }
        commit_copies();
    };
    const auto put = [&](int step) {
        if (by_copies) return;
#pragma unroll
        for (int i = 0; i < kEach; ++i) *reinterpret_cast<uint4*>(place(i, step)) = staged[i];
    };

    const int warp = threadIdx.x / 32, my_pixels = warp % 2 * kM * kTileM;
    const int my_channels = c0 + warp / 2 * kN * kTileN, left = hidden - my_channels;
    const int tiles = left < 0 ? 0 : left < kN * kTileN ? left / kTileN : kN;
    const int depth = static_cast<int>(divide_up(p.channels_in, kTileK)) * kTileK;
    const int blocks = depth / kTileK;
    float sums[kM][kN][4] = {};
    fetch(0);
    put(0);
    for (int step = 0; step * kDepth < depth; ++step) {
        wait_copies<0>();
        // This step's rows are there, and nobody multiplies those of the step before, where the next ones go.
        __syncthreads();
        const bool more = (step + 1) * kDepth < depth;
        if (more) fetch(step + 1);
        const int now = depth - step * kDepth < kDepth ? depth - step * kDepth : kDepth;
        const int64_t block = (int64_t(my_channels / kBlockN) * blocks + step * (kDepth / kTileK)) * kBlockWeights;
        multiply_steps<kType, kHalf>(sums, memory + (step % 2 * kExpandPixels + my_pixels) * kPitch, kPitch,
                                     static_cast<const char*>(p.expand) + block * kBytes,
                                     int64_t(blocks) * kBlockWeights, now / kTileK, tiles);
        if (more) put(step + 1);
    }
    const int lane = lane_id();
#pragma unroll
    for (int m = 0; m < kM; ++m) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int64_t pixel = first_pixel + my_pixels + m * kTileM + d_row(lane, 2 * half);
            if (pixel >= pixels) continue;
#pragma unroll
            for (int n = 0; n < kN; ++n) {
                if (n >= tiles) continue;
                const int c = my_channels + n * kTileN + d_column(lane, 0);
                const Pair value = {sums[m][n][2 * half] + p.expand_bias[c],
                                    sums[m][n][2 * half + 1] + p.expand_bias[c + 1]};
                store_pair<kType>(static_cast<char*>(p.workspace) + (pixel * hidden + c) * kBytes, relu(value));
            }
        }
    }
}

// Channels c0 to c0 + channels of the depthwise map of a tile, read from the hidden map, or from x where there is no
// expansion.
template <int32_t kType>
__device__ __forceinline__ void depthwise_from_map(const MbconvParams& p, const MbconvTile& tile, char* to, int c0,
                                                   int channels) {
    constexpr int kBytes = element_bytes(kType), kPitch = kDeepBytes + kChunkBytes;
    const int pairs = channels / 2;
    const bool expanded = p.expand != nullptr;
    const int64_t hidden = padded_hidden(p), top = first_input(p, tile.y), left = first_input(p, tile.x);
    const int64_t step = (expanded ? hidden : p.x_stride_x) * kBytes;
    for (int item = threadIdx.x; item < kProjectRows * pairs; item += kMbconvThreads) {
        const int pair = item % pairs, output_row = item / pairs;
        const int c = c0 + 2 * pair;
        const int count = p.hidden - c >= 2 ? 2 : int(p.hidden) - c;  // channels that x has here
        const char* rows[3];
#pragma unroll
        for (int row = 0; row < 3; ++row) {
            const int tap = output_row * p.stride + row;
            const int64_t y = top + tap_place(p, tap);
            const char* map = static_cast<const char*>(p.workspace) + (tile.n * p.height + y) * p.width * step;
            const char* first = (expanded ? map : pixel_of_x<kType>(p, tile.n, y, 0)) + left * step + c * kBytes;
            rows[row] = tap_inside(p, tile.y, tap, convolved_height(p)) ? first : nullptr;
        }
        depthwise_row<kProjectColumns>(
            p, c, rows,
            [&](int i) { return tap_inside(p, tile.x, i, convolved_width(p)) ? tap_place(p, i) * step : -1; },
            [&](const char* at) {
                if (expanded) return load_pair<kType>(at);
                return Pair{count > 0 ? load<kType>(at, 0) : 0.0f, count > 1 ? load<kType>(at, 1) : 0.0f};
            },
            [&](int output, Pair value) {
                store_pair<kType>(to + (output_row * kProjectColumns + output) * kPitch + 2 * pair * kBytes, value);
            });
    }
}

// A tile of outputs from the hidden map. Four warps share the pixels, two the outputs. The depthwise convolution of a
// chunk of hidden channels is computed while the one before it is multiplied.
template <int32_t kType, bool kHalf>
__global__ void __launch_bounds__(kMbconvThreads, 2) mbconv_project_kernel(const MbconvParams p) {
    constexpr int kBytes = element_bytes(kType), kChunk = deep_chunk(kType), kPitch = kDeepBytes + kChunkBytes;
    constexpr int kWarpsOfPixels = kProjectPixels / kTileM, kN = kProjectOutputs / 2 / kTileN;
    extern __shared__ uint4 shared_memory[];
    char* memory = reinterpret_cast<char*>(shared_memory);
    const MbconvTile tile = tile_at(p, blockIdx.x, kProjectRows, kProjectColumns);
    const int first_output = static_cast<int>(blockIdx.y) * kProjectOutputs;
    const int left = static_cast<int>(p.channels_out) - first_output;
    const int warp = threadIdx.x / 32, first_pixel = warp % kWarpsOfPixels * kTileM;
    const OutputShare share = share_of<kN>(left < kProjectOutputs ? left : kProjectOutputs, warp / kWarpsOfPixels,
                                           kMbconvWarps / kWarpsOfPixels);
    const int hidden = padded_hidden(p), blocks = hidden / kTileK;
    const auto channels_from = [&](int c0) { return hidden - c0 < kChunk ? hidden - c0 : kChunk; };
    float sums[1][kN][4] = {};
    depthwise_from_map<kType>(p, tile, memory, 0, channels_from(0));
    int turn = 0;
    for (int c0 = 0; c0 < hidden; c0 += kChunk, turn ^= 1) {
        // This chunk is there, and nobody multiplies the one before, where the next one goes.
        __syncthreads();
        if (c0 + kChunk < hidden) {
            depthwise_from_map<kType>(p, tile, memory + (turn ^ 1) * kProjectPixels * kPitch, c0 + kChunk,
                                      channels_from(c0 + kChunk));
        }
        const int64_t block =
            (int64_t((first_output / kTileN + share.first) / 2) * blocks + c0 / kTileK) * kBlockWeights;
        multiply_steps<kType, kHalf>(sums, memory + (turn * kProjectPixels + first_pixel) * kPitch, kPitch,
                                     static_cast<const char*>(p.project) + block * kBytes,
                                     int64_t(blocks) * kBlockWeights, channels_from(c0) / kTileK, share.tiles);
    }
    store_outputs<kType, kProjectColumns>(p, tile, sums, first_pixel, first_output + share.first * kTileN, share.tiles);
}

}  // namespace fastreenact

#ifndef __CUDACC_RTC__
#include <cuda_runtime_api.h>

namespace fastreenact::cuda {
namespace {

template <int32_t kType, bool kHalf>
cudaError_t launch(const MbconvParams& p, MbconvKernel which, const LaunchShape& shape, cudaStream_t stream) {
    void (*const kernels[])(MbconvParams) = {mbconv_narrow_kernel<kType, kHalf>, mbconv_wide_kernel<kType, kHalf>,
                                             mbconv_expand_kernel<kType, kHalf>, mbconv_project_kernel<kType, kHalf>};
    const auto kernel = kernels[which];
    constexpr uint32_t kPlain = 48 << 10;  // more has to be asked for
    if (shape.shared_bytes > kPlain) {
        const cudaError_t error =
            cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(shape.shared_bytes));
        if (error != cudaSuccess) return error;
    }
    kernel<<<dim3(shape.grid_x, shape.grid_y), shape.threads, shape.shared_bytes, stream>>>(p);
    return cudaGetLastError();
}

}  // namespace

// Launches on `stream` and returns at once; cudaSuccess, or why a launch failed.
cudaError_t mbconv(const MbconvParams& p, cudaStream_t stream) {
    const MbconvPlan plan = mbconv_plan(p);
    for (int i = 0; i < plan.launches; ++i) {
        const auto run = p.dtype == kFloat32    ? launch<kFloat32, false>
                         : p.dtype == kBFloat16 ? launch<kBFloat16, false>
                         : p.half_sums          ? launch<kFloat16, true>
                                                : launch<kFloat16, false>;
        const cudaError_t error = run(p, plan.kernel[i], plan.shape[i], stream);
        if (error != cudaSuccess) return error;
    }
    return cudaSuccess;
}

}  // namespace fastreenact::cuda
#endif
