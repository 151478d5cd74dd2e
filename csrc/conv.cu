// conv on the GPU: an implicit matrix product. Compiled by nvcc into the extension, or by NVRTC from this same text
// (fastreenact/ops/nvrtc.py).
//
// A block gathers a stage (some depth of its pixels, and the weights that they meet) into shared memory while it
// multiplies the stage before.
//
// The motion network is 32 of these in a row, each needing the one before: 32 launches a frame, and three more over a
// base. One cooperative kernel for all of them would save the gaps between launches, about 1 us each in a graph,
// but has to wait for all blocks as often, which costs about as much; what it would gain is weights fetched ahead.
// Nobody has measured that.
#include "conv_tiles.h"

namespace fastreenact {

template <int32_t kType, int kTile>
struct ConvShape {
    static constexpr int kPixels = kConvTiles[kTile].pixels;
    static constexpr int kSplits = kConvTiles[kTile].splits;
    static constexpr int kWarps = kConvTiles[kTile].warps;
    static constexpr int kThreads = 32 * kWarps;
    static constexpr int kM = kPixels / kTileM / (kWarps / kSplits);  // tiles of 16 pixels of a warp
    static constexpr int kN = kConvTiles[kTile].outputs / kTileN;     // and of 8 outputs
    static constexpr int kBytes = element_bytes(kType);
    static constexpr int kSteps = stage_steps(kConvTiles[kTile], kType);
    static constexpr int kRowBytes = stage_row_bytes(kConvTiles[kTile], kType);
    static constexpr int kPitch = row_pitch(kRowBytes);
    static constexpr int kPixelBytes = stage_pixel_bytes(kConvTiles[kTile], kType);
    static constexpr int kStageBytes = stage_bytes(kConvTiles[kTile], kType);
    static constexpr int kStages = conv_stages(kConvTiles[kTile], kType, kArchitecture);
    static_assert(kStages >= 2, "one is loaded while the other is multiplied");
    static_assert(kSplits == 1 || (kSplits == kWarps && kSplits == kSteps), "a warp has one step of each stage");
};

// What a block has worked out once.
struct ConvView {
    int32_t depth;
    int32_t blocks_k;  // packed blocks of weights over the depth
    int32_t blocks_n;  // and over the tile's outputs
    int32_t taps_x;
    int32_t group;        // channels that are read at once: whole chunks are copied, 4 and 1 are converted
    const char* weights;  // of the tile's first output
};

// Channels that may be read at once: all of a chunk where nothing is converted, 4, or 1. Whatever is read together lies
// in one pixel and at a multiple of its size.
template <int32_t kType>
__device__ __forceinline__ int32_t group_of(const ConvParams& p) {
    const int32_t bytes = p.x_dtype == kUint8 ? 1 : p.x_dtype == kFloat32 ? 4 : 2;
    const int64_t together = p.channels_in | p.x_stride_n | p.x_stride_y | p.x_stride_x;
    const uint64_t address = reinterpret_cast<uint64_t>(p.x);
    constexpr int32_t kChunk = kChunkBytes / element_bytes(kType);
    const bool as_it_is = p.x_dtype == kType && p.x_scale == 1.0f && p.x_shift == 0.0f;
    if (as_it_is && together % kChunk == 0 && address % kChunkBytes == 0) return kChunkBytes;
    return together % 4 == 0 && address % (4 * bytes) == 0 ? 4 : 1;
}

__device__ __forceinline__ float load_any(const void* x, int32_t dtype, int64_t element) {
    if (dtype == kUint8) return static_cast<const uint8_t*>(x)[element];
    if (dtype == kFloat32) return load<kFloat32>(x, element);
    return dtype == kBFloat16 ? load<kBFloat16>(x, element) : load<kFloat16>(x, element);
}

__device__ __forceinline__ float4 load_four(const void* x, int32_t dtype, int64_t element) {
    if (dtype == kFloat32) return *reinterpret_cast<const float4*>(static_cast<const float*>(x) + element);
    if (dtype == kUint8) {
        const uchar4 v = *reinterpret_cast<const uchar4*>(static_cast<const uint8_t*>(x) + element);
        return make_float4(v.x, v.y, v.z, v.w);
    }
    const ushort4 v = *reinterpret_cast<const ushort4*>(static_cast<const uint16_t*>(x) + element);
    if (dtype == kBFloat16) {
        return make_float4(from_bits<kBFloat16>(v.x), from_bits<kBFloat16>(v.y), from_bits<kBFloat16>(v.z),
                           from_bits<kBFloat16>(v.w));
    }
    return make_float4(from_bits<kFloat16>(v.x), from_bits<kFloat16>(v.y), from_bits<kFloat16>(v.z),
                       from_bits<kFloat16>(v.w));
}

// One chunk of a row, `left` values of which there are, converted.
template <int32_t kType, int kGroup>
__device__ __forceinline__ void convert_chunk(const ConvParams& p, const ConvRow& row, ConvTap tap, int32_t taps_x,
                                              int32_t left, void* to) {
#pragma unroll 1
    for (int32_t i = 0; i < kChunkBytes / element_bytes(kType); i += kGroup) {
        const bool there = i < left && inside(p, row, tap);
        const int64_t element = row.x + tap.y * p.x_stride_y + tap.x * p.x_stride_x + tap.c;
        if constexpr (kGroup == 4) {
            float4 v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            if (there) {
                v = load_four(p.x, p.x_dtype, element);
                v.x = v.x * p.x_scale + p.x_shift, v.y = v.y * p.x_scale + p.x_shift;
                v.z = v.z * p.x_scale + p.x_shift, v.w = v.w * p.x_scale + p.x_shift;
            }
            store<kType>(to, i, v.x), store<kType>(to, i + 1, v.y);
            store<kType>(to, i + 2, v.z), store<kType>(to, i + 3, v.w);
        } else {
            const float v = there ? load_any(p.x, p.x_dtype, element) * p.x_scale + p.x_shift : 0.0f;
            store<kType>(to, i, v);
        }
        tap.c += kGroup;
        if (tap.c == p.channels_in) {
            tap.c = 0;
            if (++tap.x == taps_x) tap.x = 0, ++tap.y;
        }
    }
}

// Fills one stage of shared memory: pixels, then weights. What lies beyond the depth or the picture is 0.
template <int32_t kType, int kTile>
__device__ __forceinline__ void load_stage(const ConvParams& p, const ConvView& view, const ConvRow* rows,
                                           int32_t stage, char* memory) {
    using Shape = ConvShape<kType, kTile>;
    constexpr int32_t kChunk = kChunkBytes / Shape::kBytes, kChunks = Shape::kRowBytes / kChunkBytes;
    static_assert(Shape::kThreads % kChunks == 0, "a thread stays at one depth");
    const int32_t thread = threadIdx.x, at = thread % kChunks;
    const int32_t k = stage * Shape::kSteps * kTileK + at * kChunk;
    const ConvTap tap = conv_tap(k, static_cast<int32_t>(p.channels_in), view.taps_x);
    const int64_t offset = tap.y * p.x_stride_y + tap.x * p.x_stride_x + tap.c;
    for (int32_t r = thread / kChunks; r < Shape::kPixels; r += Shape::kThreads / kChunks) {
        char* to = memory + r * Shape::kPitch + at * kChunkBytes;
        if (view.group == kChunkBytes) {
            const bool there = k < view.depth && inside(p, rows[r], tap);
            const char* from = static_cast<const char*>(p.x);
            copy_chunk(to, there ? from + (rows[r].x + offset) * Shape::kBytes : from, there);
        } else if (view.group == 4) {
            convert_chunk<kType, 4>(p, rows[r], tap, view.taps_x, view.depth - k, to);
        } else {
            convert_chunk<kType, 1>(p, rows[r], tap, view.taps_x, view.depth - k, to);
        }
    }
    constexpr int32_t kBlockChunks = kBlockWeights * Shape::kBytes / kChunkBytes;
    constexpr int32_t kLine = Shape::kSteps * kBlockChunks;  // of 16 outputs, whose blocks lie side by side
    const int32_t first = stage * kLine, end = view.blocks_k * kBlockChunks;
    for (int32_t i = thread; i < view.blocks_n * kLine; i += Shape::kThreads) {
        const int32_t chunk = first + i % kLine;
        const bool there = chunk < end;
        const int64_t from = (i / kLine * int64_t(end) + (there ? chunk : 0)) * kChunkBytes;
        copy_chunk(memory + Shape::kPixelBytes + i * kChunkBytes, view.weights + from, there);
    }
}

// Two neighbouring values of a map; the second is left alone where there is only one.
template <int32_t kType>
__device__ __forceinline__ float2 load_two(const void* map, int64_t element, bool pairs, bool two) {
    if (pairs) {
        if constexpr (kType == kFloat32) {
            return *reinterpret_cast<const float2*>(static_cast<const float*>(map) + element);
        } else {
            const uint32_t v = *reinterpret_cast<const uint32_t*>(static_cast<const uint16_t*>(map) + element);
            return make_float2(from_bits<kType>(uint16_t(v)), from_bits<kType>(uint16_t(v >> 16)));
        }
    }
    return make_float2(load<kType>(map, element), two ? load<kType>(map, element + 1) : 0.0f);
}

template <int32_t kType>
__device__ __forceinline__ void store_two(void* map, int64_t element, float2 v, bool pairs, bool two) {
    if (pairs) {
        if constexpr (kType == kFloat32) {
            *reinterpret_cast<float2*>(static_cast<float*>(map) + element) = v;
        } else {
            const uint32_t bits = uint32_t(to_bits<kType>(v.y)) << 16 | to_bits<kType>(v.x);
            *reinterpret_cast<uint32_t*>(static_cast<uint16_t*>(map) + element) = bits;
        }
        return;
    }
    store<kType>(map, element, v.x);
    if (two) store<kType>(map, element + 1, v.y);
}

// Whether maps may be read and written two channels at a time.
__device__ __forceinline__ bool in_pairs(const ConvParams& p) {
    int64_t together = p.channels_out | p.out_stride_n | p.out_stride_y | p.out_stride_x;
    uint64_t address = reinterpret_cast<uint64_t>(p.out);
    if (p.add != nullptr) {
        together |= p.add_stride_n | p.add_stride_y | p.add_stride_x;
        address |= reinterpret_cast<uint64_t>(p.add);
    }
    if (p.residual != nullptr) {
        together |= p.residual_stride_n | p.residual_stride_y | p.residual_stride_x;
        address |= reinterpret_cast<uint64_t>(p.residual);
    }
    return together % 2 == 0 && address % (p.out_dtype == kFloat32 ? 8 : 4) == 0;
}

// ReLU as everywhere here: NaN stays NaN.
__device__ __forceinline__ float relu(float x) {
    return x <= 0.0f ? 0.0f : x;
}

// Outputs c and c + 1 of one pixel. A residual in place is read and written by this thread alone.
template <int32_t kType>
__device__ __forceinline__ void finish_two(const ConvParams& p, const ConvRow& row, int32_t c, float2 sum, bool pairs) {
    const bool two = c + 1 < p.channels_out;
    const float2 bias = *reinterpret_cast<const float2*>(p.bias + c);  // padded to 16, c is even
    sum.x += bias.x, sum.y += bias.y;
    if (p.add != nullptr) {
        const float2 v = load_two<kType>(p.add, row.add + c, pairs, two);
        sum.x += v.x, sum.y += v.y;
    }
    if (p.activation == kRelu) sum.x = relu(sum.x), sum.y = relu(sum.y);
    if (p.residual != nullptr) {
        const float2 v = load_two<kType>(p.residual, row.residual + c, pairs, two);
        sum.x += v.x, sum.y += v.y;
    }
    store_two<kType>(p.out, row.out + c, sum, pairs, two);
}

// A lane's four values of a 16 x 8 tile whose first pixel is `first_row` and first output `first_output`.
template <int32_t kType>
__device__ __forceinline__ void finish_tile(const ConvParams& p, const ConvRow* rows, int32_t first_row,
                                            int32_t first_output, float4 sum, bool pairs) {
    const int32_t lane = lane_id(), c = first_output + d_column(lane, 0);
    if (c >= p.channels_out) return;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const ConvRow& row = rows[first_row + d_row(lane, 2 * half)];
        if (row.out < 0) continue;
        const float2 two = half == 0 ? make_float2(sum.x, sum.y) : make_float2(sum.z, sum.w);
        if (kType == kFloat32 || p.out_dtype == kFloat32) {
            finish_two<kFloat32>(p, row, c, two, pairs);
        } else {
            finish_two<kType>(p, row, c, two, pairs);
        }
    }
}

template <int32_t kType, int kTile>
__global__ void __launch_bounds__(32 * kConvTiles[kTile].warps, 2)
    conv_kernel(const __grid_constant__ ConvBatch batch) {
    using Shape = ConvShape<kType, kTile>;
    extern __shared__ uint4 shared_memory[];
    ConvRow* rows = reinterpret_cast<ConvRow*>(shared_memory);
    char* memory = reinterpret_cast<char*>(rows + Shape::kPixels);
    constexpr ConvTile tile = kConvTiles[kTile];
    const ConvBlock block = conv_block(batch, tile, static_cast<int32_t>(blockIdx.x));
    const ConvParams& p = batch.convs[block.conv];
    if (block.first_pixel >= pixels_of(p, block.phase_y, block.phase_x)) return;  // all of the block
    for (int32_t r = threadIdx.x; r < Shape::kPixels; r += Shape::kThreads) rows[r] = conv_row(p, block, r);
    const int32_t outputs = static_cast<int32_t>(p.channels_out) - block.first_output;
    const int32_t tiles = outputs < tile.outputs ? (outputs + kTileN - 1) / kTileN : Shape::kN;
    ConvView view;
    view.depth = depth_of(p, block);
    view.blocks_k = (view.depth + kTileK - 1) / kTileK;
    view.blocks_n = (tiles + 1) / 2;
    view.taps_x = p.axis_x.taps[block.phase_x];
    view.group = group_of<kType>(p);
    const int64_t first_weight = p.weights_at[block.phase_y * kMaxPhases + block.phase_x] +
                                 int64_t(block.first_output / kBlockN) * view.blocks_k * kBlockWeights;
    view.weights = static_cast<const char*>(p.weights) + first_weight * Shape::kBytes;
    const int32_t stages = (view.blocks_k + Shape::kSteps - 1) / Shape::kSteps;
    const int32_t warp = threadIdx.x / 32, part = warp % Shape::kSplits;
    const int32_t first_row = warp / Shape::kSplits * Shape::kM * kTileM;
    float sums[Shape::kM][Shape::kN][4] = {};
    __syncthreads();  // rows are there
    for (int32_t stage = 0; stage + 1 < Shape::kStages; ++stage) {
        if (stage < stages) load_stage<kType, kTile>(p, view, rows, stage, memory + stage * Shape::kStageBytes);
        commit_copies();  // empty groups too, so that the count below holds
    }
    for (int32_t stage = 0; stage < stages; ++stage) {
        wait_copies<Shape::kStages - 2>();  // this thread's part of `stage` is there
        __syncthreads();                    // everybody's is, and nobody reads the stage before any more
        const int32_t next = stage + Shape::kStages - 1;
        if (next < stages) {
            load_stage<kType, kTile>(p, view, rows, next, memory + next % Shape::kStages * Shape::kStageBytes);
        }
        commit_copies();
        const char* pixels = memory + stage % Shape::kStages * Shape::kStageBytes;
        const char* weights = pixels + Shape::kPixelBytes;
#pragma unroll
        for (int32_t step = 0; step < Shape::kSteps / Shape::kSplits; ++step) {
            const int32_t at = step * Shape::kSplits + part;
            multiply_step<kType, Shape::kM, Shape::kN>(
                sums, pixels + first_row * Shape::kPitch + at * kTileK * Shape::kBytes, Shape::kPitch,
                weights + at * kBlockWeights * Shape::kBytes, Shape::kSteps * kBlockWeights, tiles);
        }
    }
    const bool pairs = in_pairs(p);
    if constexpr (Shape::kSplits == 1) {
#pragma unroll
        for (int m = 0; m < Shape::kM; ++m) {
#pragma unroll
            for (int n = 0; n < Shape::kN; ++n) {
                finish_tile<kType>(p, rows, first_row + m * kTileM, block.first_output + n * kTileN,
                                   make_float4(sums[m][n][0], sums[m][n][1], sums[m][n][2], sums[m][n][3]), pairs);
            }
        }
    } else {
        constexpr int32_t kTiles = Shape::kM * Shape::kN;
        float4* all = reinterpret_cast<float4*>(memory);  // [part][tile][lane]
        __syncthreads();                                  // the last stage is read, and no copy is under way
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile) {
            const float (&v)[4] = sums[tile / Shape::kN][tile % Shape::kN];
            all[(part * kTiles + tile) * 32 + lane_id()] = make_float4(v[0], v[1], v[2], v[3]);
        }
        __syncthreads();
        for (int32_t tile = part; tile < kTiles; tile += Shape::kSplits) {
            float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            for (int32_t other = 0; other < Shape::kSplits; ++other) {
                const float4 v = all[(other * kTiles + tile) * 32 + lane_id()];
                sum.x += v.x, sum.y += v.y, sum.z += v.z, sum.w += v.w;
            }
            finish_tile<kType>(p, rows, tile / Shape::kN * kTileM, block.first_output + tile % Shape::kN * kTileN, sum,
                               pairs);
        }
    }
}

}  // namespace fastreenact

#ifndef __CUDACC_RTC__
#include "substrate/launch.h"

namespace fastreenact {

#define TILES(dtype)                                                                      \
    FASTREENACT_KERNEL(conv_kernel<dtype, 0>), FASTREENACT_KERNEL(conv_kernel<dtype, 1>), \
        FASTREENACT_KERNEL(conv_kernel<dtype, 2>), FASTREENACT_KERNEL(conv_kernel<dtype, 3>)
static const CompiledKernels kConvKernels({TILES(0), TILES(1), TILES(2)});

}  // namespace fastreenact
#endif
