// fit_face: pose and expression of the face model on one frame's keypoints, by Gauss-Newton in float64. On the CPU
// alone. fastreenact/face/morphable/fit.py says in NumPy what it computes.
#pragma once
#include "substrate/common.h"

namespace fastreenact {

constexpr int kFacePoints = 72;
constexpr int kFaceModes = 51;  // expressions
constexpr int kFaceLids = 6;    // pairs of points that a blink brings together

struct FitFaceParams {
    const double* base;       // [3, 72] the face at rest, x right, y up, z towards the viewer
    const double* modes;      // [51, 3, 72] the expressions, without what the blinks do to the lids
    const double* target;     // [2, 72] keypoints, y down
    const double* trust;      // [72] weight of each
    const double* stiffness;  // [51] of the priors on the expressions
    const int32_t* lids;      // [3, 6] upper lid, lower lid, the expression that closes the pair
    double meet;              // where lids meet: share of the opening above the lower one
    double noise;             // of the keypoints at scale 1
    double outlier;           // distances beyond so many times the noise count linearly
    double slack;             // prior deviation of what a coefficient is outside of 0 to 1
    double least_doubt;       // least share of the priors that holds
    double enough;            // a step that moves no unknown further is the last
    int64_t steps;            // at most
    double* rotation;         // [3, 3] in and out
    double* camera;           // [3] tx, ty, scale; in and out
    double* expression;       // [51] in and out
    double* residual;         // [2, 72] out: keypoints less the model's
};

}  // namespace fastreenact
