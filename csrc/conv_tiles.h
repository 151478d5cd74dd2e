// conv on the GPU: which block computes what, and where it finds it. Also compiled for the host, which plans launches.
//
// Each phase is a matrix product: pixels of the phase by outputs, over depth = taps y, taps x, Cin. Weights are packed
// per phase as mma.h has them. A block computes a tile of pixels by outputs. Where that makes too few blocks for the
// GPU, tiles are smaller and the depth is shared out among the block's warps, whose sums are added in a fixed order.
#pragma once
#include "conv.h"
#include "substrate/mma.h"

namespace fastreenact {

constexpr int kMaxConvs = 4;  // SPADE's tables

// Convolutions that have nothing to do with each other, in one launch.
struct ConvBatch {
    ConvParams convs[kMaxConvs];
    int32_t first_block[kMaxConvs + 1];  // of each of them, then the number of all
    int32_t count;
};

struct ConvTile {
    int32_t pixels;   // a multiple of 16
    int32_t outputs;  // a multiple of 16
    int32_t warps;
    int32_t splits;  // parts that the depth is shared out in: 1, or as many as warps
};

// From the one that reads its inputs least often to the one that makes most blocks.
constexpr int kConvTileCount = 4;
constexpr ConvTile kConvTiles[kConvTileCount] = {{128, 64, 4, 1}, {128, 32, 4, 1}, {32, 32, 4, 4}, {16, 16, 8, 8}};

constexpr int32_t kNowhere = -(1 << 30);  // a row that no picture has

// What a block computes.
struct ConvBlock {
    int32_t conv;
    int32_t phase_y;
    int32_t phase_x;
    int32_t first_pixel;  // of the phase
    int32_t first_output;
};

// Where a pixel of a tile begins to look, and where its results go: elements from the first of each map.
struct ConvRow {
    int64_t x;
    int64_t out;  // -1: there is no such pixel
    int64_t add;
    int64_t residual;
    int32_t y0;
    int32_t x0;
};

// What lies at one depth.
struct ConvTap {
    int32_t y;
    int32_t x;
    int32_t c;
};

// Shared memory of a block, in bytes: the rows, then stages (pixels and the weights that they meet over some depth),
// in whose place the warps' sums come last.
FASTREENACT_INLINE constexpr int stage_steps(ConvTile tile, int32_t dtype) {  // each 16 deep
    return tile.splits > 1 ? tile.splits : 4 / element_bytes(dtype);
}
FASTREENACT_INLINE constexpr int stage_row_bytes(ConvTile tile, int32_t dtype) {
    return stage_steps(tile, dtype) * kTileK * element_bytes(dtype);
}
FASTREENACT_INLINE constexpr int stage_pixel_bytes(ConvTile tile, int32_t dtype) {
    return tile.pixels * row_pitch(stage_row_bytes(tile, dtype));
}
FASTREENACT_INLINE constexpr int stage_bytes(ConvTile tile, int32_t dtype) {
    return stage_pixel_bytes(tile, dtype) +
           tile.outputs / kBlockN * stage_steps(tile, dtype) * kBlockWeights * element_bytes(dtype);
}
FASTREENACT_INLINE constexpr int conv_stages(ConvTile tile, int32_t dtype, int architecture) {
    const int fit = (42 << 10) / stage_bytes(tile, dtype);  // with the rows below 48 KB, which every device has
    const int most = architecture < 80 ? 2 : 4;             // sm_75 copies nothing in the background
    return fit < most ? fit : most;
}
FASTREENACT_INLINE int64_t cells_of(const ConvAxis& axis, int64_t length, int32_t phase) {
    return length > phase ? (length - phase + axis.phases - 1) / axis.phases : 0;
}

FASTREENACT_INLINE int64_t pixels_of(const ConvParams& p, int32_t phase_y, int32_t phase_x) {
    return p.n * cells_of(p.axis_y, p.out_height, phase_y) * cells_of(p.axis_x, p.out_width, phase_x);
}

FASTREENACT_INLINE int32_t depth_of(const ConvParams& p, const ConvBlock& block) {
    return p.axis_y.taps[block.phase_y] * p.axis_x.taps[block.phase_x] * static_cast<int32_t>(p.channels_in);
}

FASTREENACT_INLINE int64_t output_tiles(const ConvParams& p, ConvTile tile) {
    return (p.channels_out + tile.outputs - 1) / tile.outputs;
}

FASTREENACT_INLINE int64_t pixel_tiles(const ConvParams& p, ConvTile tile) {
    return (pixels_of(p, 0, 0) + tile.pixels - 1) / tile.pixels;  // no phase has more pixels than the first
}

// Blocks next to each other share pixels, which are more than the weights.
FASTREENACT_INLINE ConvBlock conv_block(const ConvBatch& batch, ConvTile tile, int32_t index) {
    ConvBlock block;
    block.conv = 0;
    while (block.conv + 1 < batch.count && index >= batch.first_block[block.conv + 1]) ++block.conv;
    const ConvParams& p = batch.convs[block.conv];
    index -= batch.first_block[block.conv];
    const int32_t across = static_cast<int32_t>(output_tiles(p, tile));
    const int32_t down = static_cast<int32_t>(pixel_tiles(p, tile));
    const int32_t phase = index / across / down;
    block.phase_y = phase / p.axis_x.phases;
    block.phase_x = phase % p.axis_x.phases;
    block.first_pixel = index / across % down * tile.pixels;
    block.first_output = index % across * tile.outputs;
    return block;
}

FASTREENACT_INLINE ConvRow conv_row(const ConvParams& p, const ConvBlock& block, int32_t row) {
    const int32_t pixel = block.first_pixel + row;
    if (pixel >= pixels_of(p, block.phase_y, block.phase_x)) return {0, -1, 0, 0, kNowhere, kNowhere};
    const int32_t cells_y = static_cast<int32_t>(cells_of(p.axis_y, p.out_height, block.phase_y));
    const int32_t cells_x = static_cast<int32_t>(cells_of(p.axis_x, p.out_width, block.phase_x));
    const int32_t line = pixel / cells_x, cell_x = pixel % cells_x, cell_y = line % cells_y;
    const int64_t n = line / cells_y;
    const int64_t y = int64_t(cell_y) * p.axis_y.phases + block.phase_y;
    const int64_t x = int64_t(cell_x) * p.axis_x.phases + block.phase_x;
    const int64_t picture = p.source_index != nullptr ? p.source_index[n] : n;
    ConvRow found;
    found.y0 = p.axis_y.step * cell_y + p.axis_y.offset[block.phase_y];
    found.x0 = p.axis_x.step * cell_x + p.axis_x.offset[block.phase_x];
    found.x = n * p.x_stride_n + found.y0 * p.x_stride_y + found.x0 * p.x_stride_x;
    found.out = n * p.out_stride_n + y * p.out_stride_y + x * p.out_stride_x;
    found.add = picture * p.add_stride_n + y * p.add_stride_y + x * p.add_stride_x;
    found.residual = n * p.residual_stride_n + (y >> p.residual_half) * p.residual_stride_y +
                     (x >> p.residual_half) * p.residual_stride_x;
    return found;
}

FASTREENACT_INLINE ConvTap conv_tap(int32_t depth, int32_t channels, int32_t taps_x) {
    const int32_t tap = depth / channels;
    return {tap / taps_x, tap % taps_x, depth - tap * channels};
}

FASTREENACT_INLINE bool inside(const ConvParams& p, const ConvRow& row, const ConvTap& tap) {
    const int32_t y = row.y0 + tap.y, x = row.x0 + tap.x;
    return y >= 0 && y < p.height && x >= 0 && x < p.width;
}

#ifndef __CUDACC_RTC__
constexpr int64_t kEnoughBlocks = 96;  // between the multiprocessors of an RTX 2080 Ti (68) and of an H200 (132)

static inline int conv_shared_bytes(ConvTile tile, int32_t dtype, int architecture) {
    const int stages = conv_stages(tile, dtype, architecture) * stage_bytes(tile, dtype);
    const int sums = tile.splits > 1 ? tile.splits * tile.pixels * tile.outputs * int(sizeof(float)) : 0;
    return tile.pixels * int(sizeof(ConvRow)) + (stages > sums ? stages : sums);
}

static inline int64_t conv_blocks(const ConvParams& p, ConvTile tile) {
    return int64_t(p.axis_y.phases) * p.axis_x.phases * pixel_tiles(p, tile) * output_tiles(p, tile);
}

// Chooses the tile for convs[0 .. count) and counts their blocks: the first that makes enough of them, or else the
// last; the widest only where that does not leave half of it idle. Its index; negative where there are more pixels than
// a launch can number.
static inline int32_t plan_convs(ConvBatch& batch) {
    for (int32_t t = 0;; ++t) {
        bool busy = true;
        int64_t blocks = 0;
        for (int32_t i = 0; i < batch.count; ++i) {
            const ConvParams& p = batch.convs[i];
            busy = busy && (t > 0 || p.channels_out > kConvTiles[t].outputs / 2);
            batch.first_block[i] = static_cast<int32_t>(blocks);
            blocks += conv_blocks(p, kConvTiles[t]);
            // The last tile numbers pixels beyond the last one.
            if (pixels_of(p, 0, 0) > INT32_MAX - kConvTiles[t].pixels || blocks > INT32_MAX) return -1;
        }
        batch.first_block[batch.count] = static_cast<int32_t>(blocks);
        if ((busy && blocks >= kEnoughBlocks) || t + 1 == kConvTileCount) return t;
    }
}

// Of one tile for all, whose blocks are counted.
static inline LaunchShape conv_shape(const ConvBatch& batch, int32_t tile, int architecture) {
    const int32_t dtype = batch.convs[0].dtype, threads = 32 * kConvTiles[tile].warps;
    return {static_cast<uint32_t>(batch.first_block[batch.count]), 1, 1, static_cast<uint32_t>(threads),
            static_cast<uint32_t>(conv_shared_bytes(kConvTiles[tile], dtype, architecture))};
}
#endif

}  // namespace fastreenact
