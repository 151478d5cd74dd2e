// The second half of landmark_place: a frame's layers behind lids and lips, and its splines, solved by a team of
// threads.
#pragma once
#include "landmark_head.h"
#ifndef __CUDACC_RTC__
#include <cmath>
#endif

namespace fastreenact {

constexpr int kPlaceThreads = 256;

// A block's threads do the work of landmark_place together; on the host there is one.
struct LandmarkAlone {
    FASTREENACT_INLINE_MEMBER int rank() const { return 0; }
    FASTREENACT_INLINE_MEMBER int size() const { return 1; }
    FASTREENACT_INLINE_MEMBER int lanes() const { return 1; }
    FASTREENACT_INLINE_MEMBER bool takes(int) const { return true; }
    FASTREENACT_INLINE_MEMBER void sync() const {}
};

FASTREENACT_INLINE double landmark_ramp(double x) {
    const double t = x < 0.0 ? 0.0 : x > 1.0 ? 1.0 : x;
    return t * t * (3.0 - 2.0 * t);
}

// Where a layer's pixels come from: the inverse of the flat motion about its anchor, in the layer's -1 to 1.
FASTREENACT_INLINE void landmark_layer(const LandmarkSlit& s, const double flat[4], const double moved[2],
                                       float layer[6]) {
    const double det = flat[0] * flat[3] - flat[1] * flat[2];
    for (int c = 0; c < 2; ++c) {
        const double first = (c == 0 ? flat[3] : -flat[2]) / det, second = (c == 0 ? -flat[1] : flat[0]) / det;
        const double edge = static_cast<double>(c == 0 ? s.x0 : s.y0),
                     side = static_cast<double>(c == 0 ? s.width : s.height);
        layer[3 * c] = static_cast<float>(2.0 / side * first);
        layer[3 * c + 1] = static_cast<float>(2.0 / side * second);
        layer[3 * c + 2] =
            static_cast<float>(2.0 / side * (s.anchor[c] - edge - first * moved[0] - second * moved[1]) - 1.0);
    }
}

// The edges of a slit of this frame: their curves in its frame, its window in the picture; gives its mean height, px.
FASTREENACT_INLINE double landmark_edges(const LandmarkHead& h, const LandmarkWork& w, const LandmarkSlit& s,
                                         double frame[6], LandmarkCover& cover) {
    const double *left = w.at[s.upper[0]], *right = w.at[s.upper[kSlitPoints - 1]];
    const double x = right[0] - left[0], y = right[1] - left[1], span = sqrt(x * x + y * y);
    const double length = span > 1e-6 ? span : 1e-6;
    frame[0] = (left[0] + right[0]) / 2, frame[1] = (left[1] + right[1]) / 2;
    frame[2] = x / length, frame[3] = y / length, frame[4] = -frame[3], frame[5] = frame[2];
    double low[2] = {1e300, 1e300}, high[2] = {-1e300, -1e300}, gap[2] = {0.0, 0.0};
    for (int edge = 0; edge < 2; ++edge) {
        double before = 0.0;
        for (int i = 0; i < kCurvePoints; ++i) {
            double at[2] = {0.0, 0.0};
            for (int k = 0; k < kSlitPoints; ++k) {
                const double* point = w.at[edge == 0 ? s.upper[k] : s.lower[k]];
                for (int c = 0; c < 2; ++c) at[c] += h.curve[i][k] * point[c];
            }
            for (int c = 0; c < 2; ++c) {
                low[c] = at[c] < low[c] ? at[c] : low[c];
                high[c] = at[c] > high[c] ? at[c] : high[c];
            }
            const double dx = at[0] - frame[0], dy = at[1] - frame[1], along = dx * frame[2] + dy * frame[3];
            before = i > 0 && before > along ? before : along;
            float* to = edge == 0 ? cover.upper[i] : cover.lower[i];
            to[0] = static_cast<float>(before), to[1] = static_cast<float>(dx * frame[4] + dy * frame[5]);
        }
        for (int k = 1; k + 1 < kSlitPoints; ++k) {
            for (int c = 0; c < 2; ++c)
                gap[c] += (edge == 0 ? -w.at[s.upper[k]][c] : w.at[s.lower[k]][c]) / (kSlitPoints - 2);
        }
    }
    int32_t window[4];
    for (int c = 0; c < 2; ++c) {
        const double a = floor(low[c]), b = ceil(high[c]), size = h.size[c];
        window[c] = static_cast<int32_t>(a > 0.0 ? (a < size ? a : size) : 0.0);
        window[2 + c] = static_cast<int32_t>(b > 0.0 ? (b < size ? b : size) : 0.0);
    }
    cover.left = window[0], cover.top = window[1], cover.right = window[2], cover.low = window[3];
    return gap[1] * frame[2] - gap[0] * frame[3];
}

// One layer of one frame.
FASTREENACT_INLINE void landmark_cover(const LandmarkHead& h, const LandmarkWork& w, const LandmarkSlit& s,
                                       LandmarkCover& cover) {
    cover.left = cover.right = 0;
    if (s.height == 0) return;
    double frame[6];
    const double *turned = w.held.flat, det = turned[0] * turned[3] - turned[1] * turned[2], unit = h.unit * sqrt(det);
    const double gap = landmark_edges(h, w, s, frame, cover);
    const double gain = s.shown >= 1.0 ? 1.0 : landmark_ramp(((gap - s.gap) / unit - 0.004) / 0.03);
    const double* linear = w.held.linear;
    double flat[4] = {linear[0], linear[1], linear[3], linear[4]};
    if (flat[0] * flat[3] - flat[1] * flat[2] < 0.3 * det) {  // nearly from the side: do not magnify
        for (int i = 0; i < 4; ++i) flat[i] = turned[i];
    }
    double moved[2] = {frame[0], frame[1]};
    if (s.is_mouth) {
        const double up[2] = {-frame[4], -frame[5]};
        double lip = 0.0, still = 0.0;
        for (int c = 0; c < 2; ++c) {
            const double* row = linear + 3 * c;
            moved[c] = row[0] * s.anchor[0] + row[1] * s.anchor[1] + row[2] * s.anchor[2] + w.held.shift[c];
            lip += (w.at[s.upper[2]][c] - moved[c]) * up[c];
            still += (h.face[s.upper[2]][c] - s.anchor[c]) * up[c];
        }
        // The gums end somewhere: an upper lip that rises further takes the layer along.
        const double raised = lip - still - h.gums * unit;
        for (int c = 0; c < 2; ++c) moved[c] += h.raised_share * (raised > 0.0 ? raised : 0.0) * up[c];
    }
    landmark_layer(s, flat, moved, cover.layer);
    for (int i = 0; i < 6; ++i) cover.frame[i] = static_cast<float>(frame[i]);
    cover.image = reinterpret_cast<const uint8_t*>(s.image);
    cover.height = static_cast<int32_t>(s.height), cover.width = static_cast<int32_t>(s.width);
    cover.inset = static_cast<float>(s.inset * unit), cover.soft = static_cast<float>(s.soft * unit);
    cover.gain = static_cast<float>(gain);
    if (!(gain > 0.0)) cover.right = cover.left;
}

// An entry of the splines' system, of unknowns a and b of n points: radial, constant, x, y.
FASTREENACT_INLINE double landmark_entry(const LandmarkHead& h, const LandmarkPlan& p, const LandmarkWork& w, int64_t a,
                                         int64_t b) {
    const int64_t n = p.count, high = a > b ? a : b, low = a > b ? b : a;
    if (low >= n) return 0.0;
    if (high == n) return 1.0;
    if (high > n) return (w.at[low][high - n - 1] - w.origin[high - n - 1]) / h.unit;
    if (a == b) return h.slack[a];
    const double dx = (w.at[a][0] - w.at[b][0]) / h.unit, dy = (w.at[a][1] - w.at[b][1]) / h.unit;
    const double square = dx * dx + dy * dy;
    return square * log(square + 1e-12);
}

template <typename Team>
FASTREENACT_INLINE void landmark_build(const LandmarkHead& h, LandmarkPlan& p, LandmarkWork& w, const Team& team) {
    const int n = p.count, unknowns = n + 3;
    if (team.takes(0)) {
        for (int c = 0; c < 2; ++c) {
            double sum = 0.0;
            for (int i = 0; i < n; ++i) sum += w.at[i][c] / n;
            w.origin[c] = sum, p.origin[c] = static_cast<float>(sum);
        }
        p.inverse = static_cast<float>(1.0 / h.unit);
    }
    team.sync();
    for (int i = team.rank(); i < unknowns; i += team.size()) {
        w.rows[i] = i;
        const int64_t a = h.order[i];
        for (int c = 0; c < 2; ++c) {
            const double still = a < h.control_points ? h.controls[a][c] : w.at[a < n ? a : 0][c];
            w.system[i][unknowns + c] = a < n ? still - w.at[a][c] : 0.0;
            if (i < n) p.points[i][c] = static_cast<float>((w.at[i][c] - w.origin[c]) / h.unit);
        }
    }
    for (int e = team.rank(); e < unknowns * unknowns; e += team.size()) {
        const int i = e / unknowns, j = e - i * unknowns;
        w.system[i][j] = landmark_entry(h, p, w, h.order[i], h.order[j]);
    }
    team.sync();
}

// Elimination of the unknowns that all splines share. Only their own rows are pivots: a spline that lacks one of the
// other unknowns lacks its row too.
template <typename Team>
FASTREENACT_INLINE void landmark_eliminate(LandmarkWork& w, int unknowns, int shared, const Team& team) {
    const int lanes = team.lanes(), lane = team.rank() % lanes, warps = team.size() / lanes,
              first = team.rank() / lanes;
    for (int k = 0; k < shared; ++k) {
        for (int s = team.rank(); s < 32; s += team.size()) {
            int best = k + s < shared ? k + s : k;
            for (int i = best + 32; i < shared; i += 32) {
                if (fabs(w.system[w.rows[i]][k]) > fabs(w.system[w.rows[best]][k])) best = i;
            }
            w.scouts[s] = best;
        }
        team.sync();
        int best = w.scouts[0];
        for (int s = 1; s < 32; ++s) {
            if (fabs(w.system[w.rows[w.scouts[s]]][k]) > fabs(w.system[w.rows[best]][k])) best = w.scouts[s];
        }
        const int pivot = w.rows[best], replaced = w.rows[k];
        const double inverse = 1.0 / w.system[pivot][k];
        for (int i = k + 1 + first; i < unknowns; i += warps) {
            double* row = w.system[i == best ? replaced : w.rows[i]];
            const double factor = row[k] * inverse;  // this column is not written again
            for (int j = k + 1 + lane; j < unknowns + 2; j += lanes) row[j] -= factor * w.system[pivot][j];
        }
        team.sync();
        if (team.takes(0)) w.rows[best] = replaced, w.rows[k] = pivot;
        team.sync();
    }
}

// One spline's unknowns among those that not all splines have, by one thread.
FASTREENACT_INLINE void landmark_solve_own(const LandmarkHead& h, LandmarkWork& w, int unknowns, int spline) {
    const int own = static_cast<int>(h.own), shared = unknowns - own;
    double (*a)[kMostOwnPoints + 2] = w.own[spline];
    int index[kMostOwnPoints], size = 0;
    for (int i = 0; i < own; ++i) {
        for (int c = 0; c < 2; ++c) w.found[shared + i][2 * spline + c] = 0.0;
        if (h.members[spline][i]) index[size++] = i;
    }
    for (int i = 0; i < size; ++i) {
        const double* row = w.system[shared + index[i]];
        for (int j = 0; j < size; ++j) a[i][j] = row[shared + index[j]];
        for (int c = 0; c < 2; ++c) a[i][size + c] = row[unknowns + c];
    }
    for (int k = 0; k < size; ++k) {
        int best = k;
        for (int i = k + 1; i < size; ++i) best = fabs(a[i][k]) > fabs(a[best][k]) ? i : best;
        for (int j = k; j < size + 2; ++j) {
            const double other = a[best][j];
            a[best][j] = a[k][j], a[k][j] = other;
        }
        for (int i = k + 1; i < size; ++i) {
            const double factor = a[i][k] / a[k][k];
            for (int j = k; j < size + 2; ++j) a[i][j] -= factor * a[k][j];
        }
    }
    for (int i = size - 1; i >= 0; --i) {
        for (int c = 0; c < 2; ++c) {
            double sum = a[i][size + c];
            for (int j = i + 1; j < size; ++j) sum -= a[i][j] * w.found[shared + index[j]][2 * spline + c];
            w.found[shared + index[i]][2 * spline + c] = sum / a[i][i];
        }
    }
}

// The splines' weights.
template <typename Team>
FASTREENACT_INLINE void landmark_solve_team(const LandmarkHead& h, LandmarkPlan& p, LandmarkWork& w, const Team& team) {
    constexpr int kSides = 2 * kSplines;
    const int unknowns = p.count + 3, shared = unknowns - static_cast<int>(h.own);
    landmark_build(h, p, w, team);
    landmark_eliminate(w, unknowns, shared, team);
    for (int s = 0; s < kSplines; ++s) {
        if (team.takes(s)) landmark_solve_own(h, w, unknowns, s);
    }
    team.sync();
    // From the last shared unknown to the first; `found` holds the right sides until their turn comes.
    for (int e = team.rank(); e < kSides * shared; e += team.size()) {
        const double* row = w.system[w.rows[e / kSides]];
        double sum = row[unknowns + e % 2];
        for (int j = shared; j < unknowns; ++j) sum -= row[j] * w.found[j][e % kSides];
        w.found[e / kSides][e % kSides] = sum;
    }
    for (int k = shared - 1; k >= 0; --k) {
        team.sync();
        const double inverse = 1.0 / w.system[w.rows[k]][k];
        for (int e = team.rank(); e < kSides * k; e += team.size()) {
            w.found[e / kSides][e % kSides] -= w.system[w.rows[e / kSides]][k] * (w.found[k][e % kSides] * inverse);
        }
    }
    team.sync();
    for (int e = team.rank(); e < unknowns * kSplineStride; e += team.size()) {
        const int i = e / kSplineStride, q = e % kSplineStride;
        const double pivot = i < shared ? w.system[w.rows[i]][i] : 1.0;
        p.weights[h.order[i]][q] = q < kSides ? static_cast<float>(w.found[i][q] / pivot) : 0.0f;
    }
}

}  // namespace fastreenact
