// Normalised coordinates to the two taps of one axis: what the samplers share.
#pragma once
#include "substrate/common.h"

namespace fastreenact {
namespace FASTREENACT_ISA {

// Lower tap and the weight of the upper one; -2 or size + 1 where both are outside. The position is c * half +
// (size - 1) / 2, so `half` says whether 1 is the last centre, (size - 1) / 2, or the edge behind it, size / 2. NaN
// counts as minus infinity: outside with zeros, the first sample with a border.
template <bool kBorder>
FASTREENACT_INLINE void place(const double* coordinate, int count, int64_t size, double half, int32_t* low,
                              float* weight) {
    const double middle = 0.5 * static_cast<double>(size - 1);
    const double least = kBorder ? 0.0 : -2.0;
    const double most = static_cast<double>(kBorder ? size - 1 : size + 1);
    for (int i = 0; i < count; ++i) {
        double at = coordinate[i] * half + middle;
        at = at > least ? at : least;
        at = at < most ? at : most;
        int32_t whole = static_cast<int32_t>(at);
        whole -= static_cast<double>(whole) > at ? 1 : 0;
        low[i] = whole;
        weight[i] = static_cast<float>(at - static_cast<double>(whole));
    }
}

}  // namespace FASTREENACT_ISA
}  // namespace fastreenact
