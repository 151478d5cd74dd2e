// What the landmark warp keeps in a device's memory: of each resident portrait its head, of each frame where everything
// goes. Filled in and read by CPU and CUDA alike; fields are named by csrc/bind/arrays.cpp.
#pragma once
#include "landmark_field.h"

namespace fastreenact {

constexpr int kKeypoints = 72;
constexpr int kMostPoints = 128;  // control points and those held at rest
constexpr int kMostUnknowns = kMostPoints + 3;
constexpr int kMostTriangles = 640;  // three Delaunay triangulations of the control points have fewer
constexpr int kRigidPoints = 17, kSolidPoints = 12, kNeckPoints = 6, kMostRing = 24, kMostRim = 24;
constexpr int kCutPoints = 10;                 // keypoints along a cut, at most
constexpr int kSlits = 3, kSlitPoints = 5;     // eyes and mouth; keypoints of a lid or lip
constexpr int kCurvePoints = 17;               // of a lid or lip, drawn through them
constexpr int kMostOwnPoints = 24;             // unknowns that not all splines have
constexpr int kSplines = 3;                    // above, between and below the cuts
constexpr int kSystemRow = kMostUnknowns + 2;  // of the splines' system: the unknowns and two right sides

// One slit of a portrait, and the layer behind it.
struct LandmarkSlit {
    int64_t image;               // address of the layer, uint8 [height, width, 3]
    int64_t height, width;       // 0: the portrait shows none
    int64_t x0, y0;              // px, the layer's corner in the portrait
    int64_t is_mouth;            // the layer goes with the skull; an eye's goes with the lids
    int64_t upper[kSlitPoints];  // keypoints of the edges
    int64_t lower[kSlitPoints];  //
    double anchor[3];            // px and depth: the point that the layer moves with
    double gap, shown;           // px, of the portrait's opening; 1: the portrait shows all of the layer
    double inset, soft;          // units
};

// One portrait. Lengths are px of the portrait where nothing else is said.
struct LandmarkHead {
    double box[3];                 // centre x, y and side of the square that keypoints are in
    double size[2];                // the picture's width and height
    int64_t step, middle, coarse;  // px between fine nodes; fine nodes between those on the face, and around the head
    // The head at rest.
    double turn[9], scale, unit;
    double face[kKeypoints][3], solid[kSolidPoints][3], neck[kNeckPoints][3], centre[3];
    double neck_follows[kNeckPoints], neck_jaw[kNeckPoints];
    double to_radii[4], reach[2];  // from px to head radii; half the outline's width and height
    double ring[kMostRing][2], rim[kMostRim][2];
    double controls[kMostPoints][2], slack[kMostPoints], freedom[kMostPoints];
    double source_yaw, rooms[2];  // rad
    // Its mesh, and for each point the corners (3 triangle + corner) that it is.
    double least[kMostTriangles];
    int64_t corners[kMostTriangles][3];
    int64_t first_corner[kMostPoints + 1], own_corners[3 * kMostTriangles];
    int64_t triangles, ring_points, rim_points, control_points;
    // What all heads share.
    int64_t rigid[kRigidPoints];
    int64_t order[kMostUnknowns], members[kSplines][kMostOwnPoints], own;  // as of LandmarkFieldParams
    int64_t cut_points[2], cut_upper[2][kCutPoints], cut_lower[2][kCutPoints], parts[4];
    double cut_blend[2][kCutPoints], cut_beyond, cut_bridge;
    double curve[kCurvePoints][kSlitPoints];
    double rest_radius, rest_travel, near, far_share;  // of field.py
    double still, free, face_margin, slit_margin;      // of grid.py
    double most_yaw, least_room;                       // of head.py
    double longest_step, least_weight;                 // of unfold.py
    int64_t rounds;
    double gums, raised_share;  // of slits.py
    LandmarkSlit slits[kSlits];
};

// A layer in one frame.
struct LandmarkCover {
    const uint8_t* image;           // of the layer
    int32_t height, width;          //
    int32_t left, top, right, low;  // px, where it may show; empty: nowhere
    float frame[6];                 // the slit's centre (x, y), then its unit vectors along and across
    float layer[6];                 // from px to -1 to 1 of the layer, as of SlitCoverParams
    float inset, soft, gain;        // px, px, on the opacity
    float upper[kCurvePoints][2], lower[kCurvePoints][2];  // the edges in the slit's frame; along never falls
};

// One frame: what is read at nodes and pixels.
struct LandmarkPlan {
    NodeRect rect, face, slits[kSlits];  // as of LandmarkFieldParams; `rect` empty: all is at rest
    int32_t step, middle, coarse, count;
    float size[2];
    float to_head[4], way[4], hold, rest, still, free;
    LandmarkCut cuts[2];
    float origin[2], inverse;  // of the splines' own coordinates
    float points[kMostPoints][2];
    float weights[kMostUnknowns][kSplineStride];
    LandmarkCover covers[kSlits];
};

// How a head moves in a frame: x -> linear x + shift.
struct LandmarkRigid {
    double linear[6], shift[2];  // [2, 3] and [2]
    double flat[4];              // the rotation in the plane and the scale alone
};

// What is needed on the way to a plan.
struct LandmarkWork {
    LandmarkRigid seen, held;  // as the keypoints say, and as far as the portrait can follow
    double centre[2], scale, growth, neck_share, origin[2];
    int32_t turned_back;
    double at[kMostPoints][2];
    double push[kMostTriangles][3][2];
    int32_t bad[kMostTriangles];
    double system[kMostUnknowns][kSystemRow];
    double own[kSplines][kMostOwnPoints][kMostOwnPoints + 2];
    double found[kMostUnknowns][2 * kSplines];
    int32_t rows[kMostUnknowns], scouts[32];
};

struct LandmarkFrame {
    LandmarkPlan plan;
    LandmarkWork work;
};

}  // namespace fastreenact
