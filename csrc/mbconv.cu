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

// What two hidden channels are convolved with.
struct DepthwiseWeights {
    Pair taps[9];
    Pair bias;
};
__device__ __forceinline__ DepthwiseWeights load_depthwise(const MbconvParams& p, int c) {
    const char* first = reinterpret_cast<const char*>(p.depthwise + c);
    const int64_t tap_bytes = padded_hidden(p) * int64_t(sizeof(float));
    DepthwiseWeights w;
#pragma unroll
    for (int tap = 0; tap < 9; ++tap) w.taps[tap] = load_pair<kFloat32>(first + tap * tap_bytes);
    w.bias = load_pair<kFloat32>(reinterpret_cast<const char*>(p.depthwise_bias + c));
    return w;
}

// Two channels of `kOutputs` outputs in a row with stride 1. fetch(row, i) reads them of tap row `row` at tap column i,
// counted from the first output's left one, 0 outside the picture; put(output, values) takes the result.
template <int kOutputs, typename Fetch, typename Put>
__device__ __forceinline__ void depthwise_row(const DepthwiseWeights& w, const Fetch& fetch, const Put& put) {
    // A column is right of one output, in the middle of the next and left of the one after.
    Pair one = w.bias, next = w.bias;
#pragma unroll 2
    for (int i = 0; i < kOutputs + 2; ++i) {
        Pair after = w.bias;
#pragma unroll
        for (int row = 0; row < 3; ++row) {
            const Pair value = fetch(row, i);
            one = multiply_add(value, w.taps[3 * row + 2], one);
            next = multiply_add(value, w.taps[3 * row + 1], next);
            after = multiply_add(value, w.taps[3 * row], after);
        }
        if (i >= 2) put(i - 2, relu(one));
        one = next;
        next = after;
    }
}

// The same with any stride.
template <int kOutputs, typename Fetch, typename Put>
__device__ __forceinline__ void depthwise_strided_row(const DepthwiseWeights& w, int stride, const Fetch& fetch,
                                                      const Put& put) {
#pragma unroll 1
    for (int output = 0; output < kOutputs; ++output) {
        Pair sum = w.bias;
#pragma unroll
        for (int tap = 0; tap < 9; ++tap) {
            sum = multiply_add(fetch(tap / 3, output * stride + tap % 3), w.taps[tap], sum);
        }
        put(output, relu(sum));
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
            const int y = tile.y + pixel / kColumns, x = tile.x + pixel % kColumns;
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
    const int top = first_input(p, tile.y), left = first_input(p, tile.x);
    for (int item = threadIdx.x; item < l.in_rows * chunks; item += kMbconvThreads) {
        const int pixel = item / chunks, chunk = item % chunks;
        const int y = top + pixel / l.in_columns, x = left + pixel % l.in_columns;
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
        for (int n = 0; n < kN; ++n) {
            if (n >= tiles) continue;
            const int c = column + n * kTileN + d_column(lane, 0);
            const Pair bias = load_pair<kFloat32>(reinterpret_cast<const char*>(p.expand_bias + c0 + c));
#pragma unroll
            for (int i = 0; i < kExpandTiles * 2; ++i) {
                const int pixel = first + i / 2 * kTileM + d_row(lane, i % 2 * 2);
                const Pair value = {sums[i / 2][n][i % 2 * 2] + bias.first,
                                    sums[i / 2][n][i % 2 * 2 + 1] + bias.second};
                store_pair<kType>(hidden + pixel * l.pitch + c * element_bytes(kType), relu(value));
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
    const TapsInside down = taps_inside(p, tile.y, convolved_height(p));
    const TapsInside across = taps_inside(p, tile.x, convolved_width(p));
    for (int item = threadIdx.x; item < kFusedRows * pairs; item += kMbconvThreads) {
        const int pair = item % pairs, output_row = item / pairs;
        const char* rows[3];
        bool inside[3];
#pragma unroll
        for (int row = 0; row < 3; ++row) {
            const int tap = output_row + row;
            rows[row] = from + tap_place(p, tap) * l.in_columns * pitch + pair * kPairBytes;
            inside[row] = tap >= down.begin && tap < down.end;
        }
        char* out = to + output_row * kFusedColumns * l.pitch + pair * kPairBytes;
        depthwise_row<kFusedColumns>(
            load_depthwise(p, c0 + 2 * pair),
            [&](int row, int i) {
                return load_pair<kType>(rows[row] + tap_place(p, i) * pitch,
                                        inside[row] && i >= across.begin && i < across.end);
            },
            [&](int output, Pair value) { store_pair<kType>(out + output * l.pitch, value); });
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

// A block's part of the hidden map where there is no expansion: x itself, with zeros up to whole packed blocks.
template <int32_t kType>
__device__ __forceinline__ void copy_to_map(const MbconvParams& p, int64_t first_pixel, int c0) {
    const int hidden = padded_hidden(p);
    for (int item = threadIdx.x; item < kExpandPixels * kExpandOutputs; item += kMbconvThreads) {
        const int64_t pixel = first_pixel + item / kExpandOutputs, y = pixel / p.width, n = y / p.height;
        const int c = c0 + item % kExpandOutputs;
        if (pixel >= p.n * p.height * p.width || c >= hidden) continue;
        const char* from = pixel_of_x<kType>(p, n, y - n * p.height, pixel - y * p.width);
        store<kType>(p.workspace, pixel * hidden + c, c < p.hidden ? load<kType>(from, c) : 0.0f);
    }
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

    if (p.expand == nullptr) {
        copy_to_map<kType>(p, first_pixel, c0);
        return;
    }

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
    for (int n = 0; n < kN; ++n) {
        if (n >= tiles) continue;
        const int c = my_channels + n * kTileN + d_column(lane, 0);
        const Pair bias = load_pair<kFloat32>(reinterpret_cast<const char*>(p.expand_bias + c));
#pragma unroll
        for (int i = 0; i < kM * 2; ++i) {
            const int64_t pixel = first_pixel + my_pixels + i / 2 * kTileM + d_row(lane, i % 2 * 2);
            if (pixel >= pixels) continue;
            const Pair value = {sums[i / 2][n][i % 2 * 2] + bias.first, sums[i / 2][n][i % 2 * 2 + 1] + bias.second};
            store_pair<kType>(static_cast<char*>(p.workspace) + (pixel * hidden + c) * kBytes, relu(value));
        }
    }
}

// Channels c0 to c0 + channels of the depthwise map of a tile.
template <int32_t kType>
__device__ __forceinline__ void depthwise_from_map(const MbconvParams& p, const MbconvTile& tile, char* to, int c0,
                                                   int channels) {
    constexpr int kBytes = element_bytes(kType), kPitch = kDeepBytes + kChunkBytes;
    const int pairs = channels / 2;
    const int64_t pixel_bytes = int64_t(padded_hidden(p)) * kBytes, row_bytes = p.width * pixel_bytes;
    const char* first = static_cast<const char*>(p.workspace) +  // of the first tap's pixel, which may lie outside
                        (tile.n * p.height + first_input(p, tile.y)) * row_bytes + first_input(p, tile.x) * pixel_bytes;
    const TapsInside down = taps_inside(p, tile.y, convolved_height(p));
    const TapsInside across = taps_inside(p, tile.x, convolved_width(p));
    for (int item = threadIdx.x; item < kProjectRows * pairs; item += kMbconvThreads) {
        const int pair = item % pairs, output_row = item / pairs;
        const char* rows[3];
        bool inside[3];
#pragma unroll
        for (int row = 0; row < 3; ++row) {
            const int tap = output_row * p.stride + row;
            rows[row] = first + tap_place(p, tap) * row_bytes + (c0 + 2 * pair) * kBytes;
            inside[row] = tap >= down.begin && tap < down.end;
        }
        const auto fetch = [&](int row, int i) {
            return load_pair<kType>(rows[row] + tap_place(p, i) * pixel_bytes,
                                    inside[row] && i >= across.begin && i < across.end);
        };
        char* out = to + output_row * kProjectColumns * kPitch + 2 * pair * kBytes;
        const auto put = [&](int output, Pair value) { store_pair<kType>(out + output * kPitch, value); };
        const DepthwiseWeights weights = load_depthwise(p, c0 + 2 * pair);
        if (p.stride == 1) {
            depthwise_row<kProjectColumns>(weights, fetch, put);
        } else {
            depthwise_strided_row<kProjectColumns>(weights, p.stride, fetch, put);
        }
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
    const auto place = [&](int step) { return memory + step % 2 * kProjectPixels * kPitch; };
    float sums[1][kN][4] = {};
    for (int step = 0; (step - 1) * kChunk < hidden; ++step) {
        const int c0 = step * kChunk, before = c0 - kChunk;
        if (c0 < hidden) depthwise_from_map<kType>(p, tile, place(step), c0, channels_from(c0));
        if (step > 0) {
            const int64_t block =
                (int64_t((first_output / kTileN + share.first) / 2) * blocks + before / kTileK) * kBlockWeights;
            multiply_steps<kType, kHalf>(sums, place(step - 1) + first_pixel * kPitch, kPitch,
                                         static_cast<const char*>(p.project) + block * kBytes,
                                         int64_t(blocks) * kBlockWeights, channels_from(before) / kTileK, share.tiles);
        }
        // This chunk is there, and nobody multiplies the one before any more, whose place the next one takes.
        __syncthreads();
    }
    store_outputs<kType, kProjectColumns>(p, tile, sums, first_pixel, first_output + share.first * kTileN, share.tiles);
}

}  // namespace fastreenact

#ifndef __CUDACC_RTC__
#include "substrate/launch.h"

namespace fastreenact {

#define KINDS(dtype, half_sums)                                     \
    FASTREENACT_KERNEL(mbconv_narrow_kernel<dtype, half_sums>),     \
        FASTREENACT_KERNEL(mbconv_wide_kernel<dtype, half_sums>),   \
        FASTREENACT_KERNEL(mbconv_expand_kernel<dtype, half_sums>), \
        FASTREENACT_KERNEL(mbconv_project_kernel<dtype, half_sums>)
static const CompiledKernels kMbconvKernels({KINDS(0, false), KINDS(1, false), KINDS(2, false), KINDS(2, true)});

}  // namespace fastreenact
#endif
