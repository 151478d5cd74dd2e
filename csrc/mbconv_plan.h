// mbconv on the GPU: which kernels run for a block, and which pixel and channel each part of a tile is. For the host as
// well, which has to know the size of the hidden map, and where the tests run the kernels.
#pragma once
#include "mbconv.h"
#include "substrate/mma.h"

namespace fastreenact {

// narrow and wide: all of a block at once, for at most 32 and 96 outputs. expand and project: one after the other, with
// the hidden map between them in global memory.
enum MbconvKernel : int32_t { kNarrowKernel = 0, kWideKernel = 1, kExpandKernel = 2, kProjectKernel = 3 };

constexpr int kMbconvThreads = 256;
constexpr int kMbconvWarps = kMbconvThreads / 32;
constexpr int kDeepBytes = 128;  // of a row of a tile in the unfused kernels: 64 16-bit channels or 32 float32 ones

// Fused: outputs of a block. Even, so that a doubled picture's tiles begin at whole pixels of the smaller one.
constexpr int kFusedRows = 8;
constexpr int kFusedColumns = 16;
constexpr int kFusedPixels = kFusedRows * kFusedColumns;
constexpr int kExpandTiles = 3;  // tiles of 16 pixels that a warp expands at once
constexpr int kNarrowOutputs = 32;
constexpr int kWideOutputs = 96;

// Expand: pixels and hidden channels of a block.
constexpr int kExpandPixels = 64;
constexpr int kExpandOutputs = 128;

// Project: outputs of a block.
constexpr int kProjectRows = 8;
constexpr int kProjectColumns = 8;
constexpr int kProjectPixels = kProjectRows * kProjectColumns;
constexpr int kProjectOutputs = 160;

FASTREENACT_INLINE constexpr int64_t divide_up(int64_t value, int64_t by) {
    return (value + by - 1) / by;
}

// Hidden channels that a fused block has in shared memory at once: 64 KB of it are all there is on sm_75.
FASTREENACT_INLINE constexpr int fused_chunk(int32_t dtype, int architecture) {
    return dtype == kFloat32 || architecture < 80 ? 32 : 64;
}

// Hidden channels of the unfused kernels' tiles, likewise input channels.
FASTREENACT_INLINE constexpr int deep_chunk(int32_t dtype) {
    return kDeepBytes / element_bytes(dtype);
}

// Hidden channels as the weights have them.
FASTREENACT_INLINE int padded_hidden(const MbconvParams& p) {
    return static_cast<int>(divide_up(p.hidden, kBlockN)) * kBlockN;
}

// Along an axis: the first input that outputs from `first` on see; -1 is the border. Doubled: of the smaller picture.
FASTREENACT_INLINE int first_input(const MbconvParams& p, int first) {
    return p.upsample ? first / 2 - 1 : first * p.stride - 1;
}
// The inputs that `outputs` neighbours see.
FASTREENACT_INLINE int inputs_of(const MbconvParams& p, int outputs) {
    return p.upsample ? outputs / 2 + 2 : (outputs - 1) * p.stride + 3;
}
// The place from first_input on of tap `i`, counted from the first output's left one. Doubled: every input twice.
FASTREENACT_INLINE int tap_place(const MbconvParams& p, int i) {
    return p.upsample ? (i + 1) / 2 : i;
}
// The taps i, from `begin` up to `end`, of outputs from `first` on that lie inside the picture that is convolved, which
// is `extent` long. A doubled picture may be cropped, so that its last tap is outside where the smaller one has a
// pixel.
struct TapsInside {
    int begin;
    int end;
};
FASTREENACT_INLINE TapsInside taps_inside(const MbconvParams& p, int first, int64_t extent) {
    return {first == 0 ? 1 : 0, static_cast<int>(extent) + 1 - first * p.stride};
}
FASTREENACT_INLINE int64_t convolved_height(const MbconvParams& p) {
    return p.upsample ? p.out_height : p.height;
}
FASTREENACT_INLINE int64_t convolved_width(const MbconvParams& p) {
    return p.upsample ? p.out_width : p.width;
}

// A tile of outputs: its picture and its first row and column.
struct MbconvTile {
    int n;
    int y;
    int x;
};
FASTREENACT_INLINE MbconvTile tile_at(const MbconvParams& p, unsigned index, int rows, int columns) {
    const unsigned across = static_cast<unsigned>(divide_up(p.out_width, columns));
    const unsigned down = static_cast<unsigned>(divide_up(p.out_height, rows));
    const unsigned row = index / across;
    return {static_cast<int>(row / down), static_cast<int>(row % down) * rows,
            static_cast<int>(index % across) * columns};
}

// Shared memory of a fused block, in bytes: pixels of x with their border, the hidden map of them, the depthwise map.
struct FusedLayout {
    int in_columns;  // of the tile with its border
    int in_pixels;   // of it
    int in_rows;     // the same, rounded up to what the warps expand at once
    int x_pitch;     // from pixel to pixel
    int pitch;       // of the other two
    int hidden;      // where it begins; without an expansion there is none
    int depthwise;
    int total;
};
FASTREENACT_INLINE FusedLayout fused_layout(const MbconvParams& p, int chunk) {
    FusedLayout l;
    const int bytes = element_bytes(p.dtype), step = kExpandTiles * kTileM;
    l.in_columns = inputs_of(p, kFusedColumns);
    l.in_pixels = inputs_of(p, kFusedRows) * l.in_columns;
    l.in_rows = static_cast<int>(divide_up(l.in_pixels, step)) * step;
    l.x_pitch = row_pitch(static_cast<int>(divide_up(p.channels_in, kTileK)) * kTileK * bytes);
    l.pitch = row_pitch(chunk * bytes);
    l.hidden = l.in_rows * l.x_pitch;
    l.depthwise = l.hidden + (p.expand == nullptr ? 0 : l.in_rows * l.pitch);
    l.total = l.depthwise + kFusedPixels * l.pitch;
    return l;
}

#ifndef __CUDACC_RTC__
// One kernel or two, in order. A grid of more than 2^31 blocks would be of more memory than there is.
struct MbconvPlan {
    int64_t workspace_bytes;
    int32_t launches;
    MbconvKernel kernel[2];
    LaunchShape shape[2];
};

// What a compute capability has of shared memory for one block (CUDA programming guide, "Technical Specifications per
// Compute Capability"), and up to how many input channels a block of kernels is fused. Modelled, not measured: for its
// border a fused block computes half of the hidden map again, channels_in * hidden operations a pixel, where the others
// write and read it, 4 * hidden bytes. At 27 TFLOP/s and 505 GB/s (2080 Ti) that is even at 213 inputs, at half the
// rate, where one block takes all the shared memory, at 107; at 300 TFLOP/s and 4 TB/s (H200) at 300. What stands here
// is the widest block of Face2Face^rho below that.
struct MbconvLimits {
    int architecture;  // this one and those up to the next
    int shared_bytes;
    int fused_inputs;
};
constexpr MbconvLimits kMbconvLimits[] = {
    {75, 64 << 10, 64}, {80, 163 << 10, 168}, {86, 99 << 10, 96}, {90, 227 << 10, 168}, {120, 99 << 10, 96},
};

inline MbconvLimits mbconv_limits(int architecture) {
    MbconvLimits found = kMbconvLimits[0];
    for (const MbconvLimits& limits : kMbconvLimits) {
        if (architecture >= limits.architecture) found = limits;
    }
    return found;
}

inline void add_launch(MbconvPlan& plan, MbconvKernel kernel, int64_t grid_x, int64_t grid_y, int64_t shared_bytes) {
    plan.kernel[plan.launches] = kernel;
    plan.shape[plan.launches++] = {static_cast<uint32_t>(grid_x), static_cast<uint32_t>(grid_y), 1, kMbconvThreads,
                                   static_cast<uint32_t>(shared_bytes)};
}

// Only sizes, types, `expand` being null or not, and the architecture are looked at.
inline MbconvPlan mbconv_plan(const MbconvParams& p) {
    MbconvPlan plan{};
    if (p.n * p.out_height * p.out_width * p.channels_out == 0) return plan;
    const MbconvLimits limits = mbconv_limits(p.architecture);
    const auto tiles = [&](int rows, int columns) {
        return p.n * divide_up(p.out_height, rows) * divide_up(p.out_width, columns);
    };
    if (p.stride == 1 && p.channels_in <= limits.fused_inputs && p.channels_out <= kWideOutputs) {
        const int total = fused_layout(p, fused_chunk(p.dtype, p.architecture)).total;
        if (total <= limits.shared_bytes) {
            add_launch(plan, p.channels_out <= kNarrowOutputs ? kNarrowKernel : kWideKernel,
                       tiles(kFusedRows, kFusedColumns), 1, total);
            return plan;
        }
    }
    constexpr int kPitch = kDeepBytes + kChunkBytes;
    const int64_t pixels = p.n * p.height * p.width;
    plan.workspace_bytes = pixels * padded_hidden(p) * element_bytes(p.dtype);
    add_launch(plan, kExpandKernel, divide_up(pixels, kExpandPixels) * divide_up(padded_hidden(p), kExpandOutputs), 1,
               2 * kExpandPixels * kPitch);
    add_launch(plan, kProjectKernel, tiles(kProjectRows, kProjectColumns), divide_up(p.channels_out, kProjectOutputs),
               2 * kProjectPixels * kPitch);
    return plan;
}
#endif

}  // namespace fastreenact
