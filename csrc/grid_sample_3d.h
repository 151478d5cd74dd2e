// grid_sample_3d: trilinear sampling of channels-last volumes by a grid, summed over the depth where wanted.
#pragma once
#include "substrate/common.h"

namespace fastreenact {

struct GridSample3dParams {
    const void* volume;  // [N, D, H, W, C] in `dtype`, channels contiguous
    const float* grid;   // [N, d, h, w, 3]: (x, y, z)
    void* out;           // [N, d, h, w, C], or [N, h, w, C] with sum_depth, channels contiguous; overlaps nothing
    int64_t n;           // volumes
    int64_t depth;       // D, H, W: voxels of the volume
    int64_t height;
    int64_t width;
    int64_t channels;   // C
    int64_t out_depth;  // d, h, w: voxels of the grid
    int64_t out_height;
    int64_t out_width;
    int64_t volume_stride_n;  // elements from volume to volume, and so on
    int64_t volume_stride_z;
    int64_t volume_stride_y;
    int64_t volume_stride_x;
    int64_t grid_stride_n;
    int64_t grid_stride_z;
    int64_t grid_stride_y;
    int64_t grid_stride_x;
    int64_t grid_stride_c;  // elements from x to y to z of one voxel
    int64_t out_stride_n;
    int64_t out_stride_z;  // not used with sum_depth
    int64_t out_stride_y;
    int64_t out_stride_x;
    int32_t dtype;          // Dtype: kFloat32 or kBFloat16
    int32_t border;         // 1: coordinates are clamped to the outer voxels' centres; 0: zeros outside
    int32_t align_corners;  // 1: -1 and 1 are the outer voxels' centres; 0: their outer faces
    int32_t sum_depth;      // 1: the samples of one column through the depth are added up
};

}  // namespace fastreenact
