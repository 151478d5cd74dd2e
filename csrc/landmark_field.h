// landmark_field: three thin-plate splines through a face's control points, solved, and evaluated at the nodes of a
// motion field: coarse around the head, finer on the face, finest along lids and lips. On the CPU alone.
#pragma once
#include "substrate/common.h"

namespace fastreenact {

constexpr int kCutKnots = 13;     // of a line that separates two splines
constexpr int kSplineStride = 8;  // floats per node: x and y of the splines above, between and below, then nothing
#ifndef __CUDACC_RTC__
constexpr int kDoubles = 8;  // of the widest vector
constexpr int kNodesPerBlock = 16;
constexpr int kMostOwn = 32;  // unknowns that not all splines share
#endif

// A line across the face, in a frame of its own, and the width over which the sides blend.
struct LandmarkCut {
    float origin[2];         // px
    float along[2];          // unit vector
    float across[2];         // unit vector, to the lower side
    float x[kCutKnots];      // px along, never falling
    float y[kCutKnots];      // px across
    float width[kCutKnots];  // px
};

// A rectangle of nodes, both ends included.
struct NodeRect {
    int64_t x0, y0, x1, y1;
};

struct LandmarkFieldParams {
    // The control points.
    const double* at;            // [P, 2] px
    const double* displacement;  // [P, 2] px
    const double* slack;         // [P] ridge of the splines there
    const int32_t* order;        // [P + 3] points and the three affine unknowns: what all splines share, then the rest
    const uint8_t* members;      // [3, own] whether a spline has one of the rest
    int64_t count;               // P
    int64_t own;                 // how many the rest are
    double unit;                 // px: the splines' own unit
    // Rest.
    const float* to_head;     // [2, 2] from px to head radii
    const float* way;         // [2, 2] ends of the way that the head's centre goes, in head radii
    float hold, rest;         // head radii: full motion up to here, none from there on
    float still;              // px: displacements below it are shrunk
    float free;               // share of the way to the picture's edge that a displacement may go untouched
    const LandmarkCut* cuts;  // [2] along the eyes and along the lips
    // Nodes: fine ones are `step` px apart, those on the face `middle` fine ones, coarse ones `coarse`.
    float size[2];  // px, the picture's width and height
    int64_t step, middle, coarse;
    NodeRect rect;          // coarse nodes of the field
    NodeRect face;          // coarse nodes around the face, empty if x1 <= x0
    const NodeRect* slits;  // [3] nodes of the face's grid, counted from its first; empty if x1 <= x0
    // Output: fine nodes [top, top + rows) x [left, left + columns), counted from the first of `rect`.
    float* out;          // the first of them, (x, y) side by side
    int64_t out_stride;  // floats from row to row
    int64_t left, top, columns;
    // Scratch.
    double* system;   // [P + 3, system_row(P)]
    double* found;    // [P + 3, kSplineStride]
    double** rows;    // [P + 3]
    double* origin;   // [2] px, of the splines
    float* weights;   // [P + 3, kSplineStride]
    float* points;    // [P, 2]
    float* splines;   // [nodes of rect and face, kSplineStride]
    float* places;    // [nodes of rect and face, 2] where they read
    int32_t* moving;  // [nodes of rect and face] those that may move
    int64_t* moving_count;
};

#ifndef __CUDACC_RTC__
// Doubles per row of the splines' system: the unknowns and two right sides.
FASTREENACT_INLINE int64_t system_row(int64_t count) {
    return (count + 5 + kDoubles - 1) / kDoubles * kDoubles;
}
#endif

}  // namespace fastreenact
