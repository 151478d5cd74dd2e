// render_mesh: triangles in screen space to anti-aliased attributes, or to triangle numbers and barycentric weights.
// Parameters, the grid that corners are rounded to, and the scratch memory that one picture needs.
#pragma once
#include "substrate/common.h"

namespace fastreenact {

// A sample is kGrid units wide and high, and corners lie on whole units: which samples a triangle covers is integer
// arithmetic, exact, so triangles with a common edge share its samples out without overlap or gap.
constexpr int64_t kGridBits = 12, kGrid = int64_t{1} << kGridBits;
// A corner further than this from the origin, in pixels, counts as infinite. With it, kMaxSupersample and pictures of
// at most kMaxSide pixels every product below stays within 63 bits.
constexpr int64_t kFarthest = 32767, kMaxSupersample = 8, kMaxSide = 16384;
constexpr int32_t kNoCorner = INT32_MIN;
// Scratch rows are this much longer than the samples: the last vector of a span ends in there.
constexpr int64_t kScratchMargin = 16;

struct RenderMeshParams {
    const float* vertices;        // [N, V, 3] contiguous: x and y in pixels, z larger is nearer
    const int32_t* triangles;     // [F, 3] contiguous, each from 0 to V - 1
    const float* attributes;      // [N or 1, V, A] contiguous; unused where `ids` is given
    const float* background;      // [N or 1, H, W, A] contiguous; null: zeros
    float* image;                 // [N, H, W, A] contiguous; unused where `ids` is given
    float* alpha;                 // [N, H, W] contiguous: share of the samples that are covered
    int32_t* ids;                 // [N, H, W] contiguous: triangle at the pixel's centre, -1: none; null: draw
    float* barycentrics;          // [N, H, W, 3] contiguous: weights of its corners there, 0 where there is none
    void* workspace;              // workspace_bytes(), aligned to 64; one picture at a time uses it
    int64_t n;                    // pictures
    int64_t vertex_count;         // V
    int64_t triangle_count;       // F
    int64_t channels;             // A
    int64_t height;               // rows, 1 to kMaxSide
    int64_t width;                // columns, 1 to kMaxSide
    int64_t supersample;          // samples along a pixel's side, 1 to kMaxSupersample; 1 for `ids`
    int64_t attribute_stride_n;   // elements from picture to picture; 0: shared
    int64_t background_stride_n;  // elements from picture to picture; 0: shared
    int32_t cull;                 // 1: only triangles whose corners run counter-clockwise on the screen
};

// A vertex on the grid.
struct Corner {
    int32_t x, y;  // units of the grid; x is kNoCorner where a coordinate is NaN, infinite or too far
    float z;
};

FASTREENACT_INLINE int64_t scratch_pitch(const RenderMeshParams& p) {
    return p.width * p.supersample + kScratchMargin;
}
FASTREENACT_INLINE int64_t scratch_samples(const RenderMeshParams& p) {
    return scratch_pitch(p) * p.height * p.supersample;
}
// Depths, triangle numbers, corners.
FASTREENACT_INLINE int64_t workspace_bytes(const RenderMeshParams& p) {
    return scratch_samples(p) * 8 + p.vertex_count * static_cast<int64_t>(sizeof(Corner));
}

}  // namespace fastreenact
