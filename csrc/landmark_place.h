// landmark_place: keypoints and poses of a number of frames -> where everything of the landmark warp goes. What
// fastreenact/models/landmark_warp does in NumPy for one frame, here by a block of threads or, on the host, by one.
// In float64, but for what is read per pixel.
#pragma once
#include "landmark_solve.h"

namespace fastreenact {

struct LandmarkPlaceParams {
    const LandmarkHead* heads;  // [A]
    const int32_t* index;       // [N] which head; one that is not there is at rest
    const float* points;        // [N, 72, 2] the moved portrait's keypoints, -1 and 1 on the edges of its box
    const float* poses;         // [N, 6] rx, ry, rz (rad), tx, ty, scale
    LandmarkFrame* frames;      // [N]
    int64_t n, count;           // N, A
};

// A head turned about the picture's vertical: rows of the rotation of a vector, y down.
FASTREENACT_INLINE void landmark_rotation(const float* pose, double turn[9]) {
    const double x = pose[0], y = pose[1], z = pose[2], square = x * x + y * y + z * z;
    double first, second;
    if (square < 1e-8) {
        first = 1.0 - square / 6.0, second = 0.5 - square / 24.0;
    } else {
        const double angle = sqrt(square);
        first = sin(angle) / angle, second = (1.0 - cos(angle)) / square;
    }
    const double up[9] = {
        1.0 - second * (y * y + z * z), second * x * y - first * z,     second * x * z + first * y,
        second * x * y + first * z,     1.0 - second * (x * x + z * z), second * y * z - first * x,
        second * x * z - first * y,     second * y * z + first * x,     1.0 - second * (x * x + y * y)};
    for (int i = 0; i < 9; ++i) turn[i] = (i / 3 == 1) != (i % 3 == 1) ? -up[i] : up[i];
}

FASTREENACT_INLINE void landmark_times(const double* a, const double* b, bool transposed, double out[9]) {
    for (int i = 0; i < 9; ++i) {
        out[i] = 0.0;
        for (int k = 0; k < 3; ++k) out[i] += a[i / 3 * 3 + k] * (transposed ? b[i % 3 * 3 + k] : b[k * 3 + i % 3]);
    }
}

FASTREENACT_INLINE void landmark_moved(const LandmarkRigid& rigid, const double point[3], double out[2]) {
    for (int c = 0; c < 2; ++c) {
        const double* row = rigid.linear + 3 * c;
        out[c] = row[0] * point[0] + row[1] * point[1] + row[2] * point[2] + rigid.shift[c];
    }
}

// The linear part of a turn [3, 3] times a scale; the shift is left at 0.
FASTREENACT_INLINE LandmarkRigid landmark_rigid(double scale, const double turn[9]) {
    LandmarkRigid rigid;
    for (int i = 0; i < 6; ++i) rigid.linear[i] = scale * turn[i];
    const double* m = rigid.linear;
    const double angle = atan2(m[3] - m[1], m[0] + m[4]), c = scale * cos(angle), s = scale * sin(angle);
    rigid.flat[0] = rigid.flat[3] = c, rigid.flat[1] = -s, rigid.flat[2] = s;
    rigid.shift[0] = rigid.shift[1] = 0.0;
    return rigid;
}

// `wanted` yaw, held back softly.
FASTREENACT_INLINE double landmark_allowed_yaw(const LandmarkHead& h, double wanted) {
    const bool right = wanted >= h.source_yaw;
    const double sign = right ? 1.0 : -1.0, most = h.most_yaw - sign * h.source_yaw;
    const double beyond = most > h.least_room ? most : h.least_room, own = h.rooms[right ? 1 : 0];
    const double room = own < beyond ? own : beyond, free = 0.5;
    double share = fabs(wanted - h.source_yaw) / room;
    if (share > free) share = free + (1.0 - free) * (1.0 - exp((free - share) / (1.0 - free)));
    return h.source_yaw + sign * room * share;
}

// How the head moves, from the pose and the rigid keypoints among `at`.
FASTREENACT_INLINE void landmark_follow(const LandmarkHead& h, const float* pose, LandmarkWork& w) {
    double turn[9], all[9], back[9] = {1, 0, 0, 0, 1, 0, 0, 0, 1}, other[9];
    landmark_rotation(pose, turn);
    const double scale = static_cast<double>(pose[5]) / h.scale;
    landmark_times(turn, h.turn, true, all);
    w.seen = landmark_rigid(scale, all);
    double shift[2] = {0.0, 0.0};
    for (int i = 0; i < kRigidPoints; ++i) {
        double moved[2];
        landmark_moved(w.seen, h.face[h.rigid[i]], moved);
        for (int c = 0; c < 2; ++c) shift[c] += (w.at[h.rigid[i]][c] - moved[c]) / kRigidPoints;
    }
    for (int c = 0; c < 2; ++c) w.seen.shift[c] = shift[c];
    w.held = w.seen;
    const double yaw = atan2(turn[2], turn[8]), more = landmark_allowed_yaw(h, yaw) - yaw;
    w.turned_back = fabs(more) >= 1e-6;
    if (!w.turned_back) return;
    back[0] = back[8] = cos(more), back[2] = sin(more), back[6] = -back[2];
    landmark_times(back, turn, false, other);
    landmark_times(other, h.turn, true, all);
    w.held = landmark_rigid(scale, all);
    double at[2], moved[2];
    landmark_moved(w.seen, h.centre, at);
    landmark_moved(w.held, h.centre, moved);
    for (int c = 0; c < 2; ++c) w.held.shift[c] = at[c] - moved[c];
}

// What all control points need to know, and the plan's numbers of rest.
FASTREENACT_INLINE void landmark_numbers(const LandmarkHead& h, LandmarkPlan& p, LandmarkWork& w) {
    landmark_moved(w.held, h.centre, w.centre);
    const double* flat = w.held.flat;
    w.scale = sqrt(flat[0] * flat[3] - flat[1] * flat[2]);
    w.growth = w.scale > 1.0 ? w.scale : 1.0;
    double travel = 0.0;
    for (int64_t i = 0; i < h.ring_points; ++i) {
        double way[2];
        for (int c = 0; c < 2; ++c) {
            way[c] =
                flat[2 * c] * h.ring[i][0] + flat[2 * c + 1] * h.ring[i][1] + w.centre[c] - h.ring[i][c] - h.centre[c];
        }
        const double x = h.to_radii[0] * way[0] + h.to_radii[1] * way[1];
        const double y = h.to_radii[2] * way[0] + h.to_radii[3] * way[1], square = x * x + y * y;
        travel = square > travel ? square : travel;
    }
    travel = sqrt(travel);
    const double band = h.rest_travel * travel;
    const double rest = w.growth + (band > h.rest_radius ? band : h.rest_radius);
    w.neck_share = h.far_share * landmark_ramp((travel - h.near) / h.near);
    p.hold = static_cast<float>(1.1 * w.growth), p.rest = static_cast<float>(rest);
    p.still = static_cast<float>(h.still * h.unit), p.free = static_cast<float>(h.free);
    for (int c = 0; c < 2; ++c) {
        p.size[c] = static_cast<float>(h.size[c]);
        for (int i = 0; i < 2; ++i) {
            const double* end = i == 0 ? h.centre : w.centre;
            p.to_head[2 * c + i] = static_cast<float>(h.to_radii[2 * c + i]);
            p.way[2 * i + c] = static_cast<float>(h.to_radii[2 * c] * end[0] + h.to_radii[2 * c + 1] * end[1]);
        }
    }
    p.step = static_cast<int32_t>(h.step), p.middle = static_cast<int32_t>(h.middle);
    p.coarse = static_cast<int32_t>(h.coarse), p.count = static_cast<int32_t>(h.control_points + h.rim_points);
    // In float64 as the edge is made of it.
    w.origin[0] = rest;
}

// Control point i of the solid head, its outline and its neck, before anything is unfolded.
FASTREENACT_INLINE void landmark_control(const LandmarkHead& h, const LandmarkWork& w, int64_t i, double out[2]) {
    const int64_t ring = kKeypoints + kSolidPoints, neck = ring + h.ring_points;
    if (i < ring) {
        landmark_moved(w.held, h.solid[i - kKeypoints], out);
    } else if (i < neck) {
        const double* at = h.ring[i - ring];
        for (int c = 0; c < 2; ++c) out[c] = w.held.flat[2 * c] * at[0] + w.held.flat[2 * c + 1] * at[1] + w.centre[c];
    } else {
        const int64_t k = i - neck;
        const double share = h.neck_follows[k] + (1.0 - h.neck_follows[k]) * w.neck_share;
        double moved[2], chin[2];
        landmark_moved(w.held, h.neck[k], moved);
        landmark_moved(w.held, h.face[8], chin);
        for (int c = 0; c < 2; ++c) {
            out[c] = h.neck[k][c] + share * (moved[c] - h.neck[k][c]) + h.neck_jaw[k] * (w.at[8][c] - chin[c]);
        }
    }
}

// What a triangle that has become too small asks of its corners.
FASTREENACT_INLINE void landmark_push(const LandmarkHead& h, LandmarkWork& w, int64_t t) {
    const double* at[3];
    for (int k = 0; k < 3; ++k) at[k] = w.at[h.corners[t][k]];
    const double area =
        0.5 * ((at[1][0] - at[0][0]) * (at[2][1] - at[0][1]) - (at[1][1] - at[0][1]) * (at[2][0] - at[0][0]));
    const double least = h.least[t] * w.scale * w.scale, missing = least - area;
    w.bad[t] = missing > 0.0;
    if (!w.bad[t]) return;
    double slope[3][2], weight = 0.0;
    for (int k = 0; k < 3; ++k) {
        const double *a = at[(k + 2) % 3], *b = at[(k + 1) % 3];
        slope[k][0] = -0.5 * (a[1] - b[1]), slope[k][1] = 0.5 * (a[0] - b[0]);
        weight += h.freedom[h.corners[t][k]] * (slope[k][0] * slope[k][0] + slope[k][1] * slope[k][1]);
    }
    const double push = missing / (weight + h.least_weight * least);
    for (int k = 0; k < 3; ++k) {
        for (int c = 0; c < 2; ++c) w.push[t][k][c] = push * h.freedom[h.corners[t][k]] * slope[k][c];
    }
}

// Moves a control point as its triangles ask.
FASTREENACT_INLINE void landmark_give_way(const LandmarkHead& h, LandmarkWork& w, int64_t i) {
    double sum[2] = {0.0, 0.0};
    int32_t asked = 0;
    for (int64_t k = h.first_corner[i]; k < h.first_corner[i + 1]; ++k) {
        const int64_t corner = h.own_corners[k], t = corner / 3;
        if (!w.bad[t]) continue;
        ++asked;
        for (int c = 0; c < 2; ++c) sum[c] += w.push[t][corner % 3][c];
    }
    if (asked == 0) return;
    const double gain = 1.5 / (0.5 + 0.5 * asked), limit = h.longest_step * h.unit * w.scale;
    const double x = gain * sum[0], y = gain * sum[1], share = limit / (limit + sqrt(x * x + y * y));
    w.at[i][0] += x * share, w.at[i][1] += y * share;
}

// A cut through the moved keypoints.
FASTREENACT_INLINE void landmark_cut(const LandmarkHead& h, const LandmarkWork& w, int which, LandmarkCut& cut) {
    const double unit = h.unit * w.growth, beyond = h.cut_beyond * unit;
    const int64_t n = h.cut_points[which];
    const double *first = w.at[h.cut_upper[which][0]], *last = w.at[h.cut_upper[which][n - 1]];
    const double origin[2] = {(first[0] + last[0]) / 2, (first[1] + last[1]) / 2};
    double x = last[0] - first[0], y = last[1] - first[1];
    const double span = sqrt(x * x + y * y), length = span > 1e-6 ? span : 1e-6;
    x /= length, y /= length;
    double along[kCutKnots], across[kCutKnots], width[kCutKnots];
    int64_t knots = 1;
    for (int64_t i = 0; i < n; ++i) {
        if (n > kSlitPoints && i == kSlitPoints) ++knots;  // the bridge of the nose, filled in below
        const double *a = w.at[h.cut_upper[which][i]], *b = w.at[h.cut_lower[which][i]];
        const double dx = (a[0] + b[0]) / 2 - origin[0], dy = (a[1] + b[1]) / 2 - origin[1];
        along[knots] = dx * x + dy * y, across[knots] = dy * x - dx * y;
        const int64_t before = n > kSlitPoints && i == kSlitPoints ? knots - 2 : knots - 1;
        if (i > 0 && along[before] > along[knots]) along[knots] = along[before];
        width[knots++] = h.cut_blend[which][i] * unit;
    }
    if (n > kSlitPoints) {
        constexpr int b = kSlitPoints + 1;
        along[b] = (along[b - 1] + along[b + 1]) / 2, across[b] = (across[b - 1] + across[b + 1]) / 2;
        width[b] = h.cut_bridge * unit;
    }
    along[0] = along[1] - beyond, across[0] = across[1], width[0] = beyond;
    const double end = along[knots - 1] + beyond, height = across[knots - 1];
    for (; knots < kCutKnots; ++knots) along[knots] = end, across[knots] = height, width[knots] = beyond;
    for (int i = 0; i < kCutKnots; ++i) {
        cut.x[i] = static_cast<float>(along[i]), cut.y[i] = static_cast<float>(across[i]);
        cut.width[i] = static_cast<float>(width[i]);
    }
    for (int c = 0; c < 2; ++c) cut.origin[c] = static_cast<float>(origin[c]);
    cut.along[0] = cut.across[1] = static_cast<float>(x), cut.along[1] = static_cast<float>(y);
    cut.across[0] = static_cast<float>(-y);
}

// The whole numbers around a number, within limits; NaN is the lower one.
FASTREENACT_INLINE int64_t landmark_whole(double x, double least, double most) {
    x = x > least ? x : least;
    return static_cast<int64_t>(x < most ? x : most);
}

// Coarse nodes around a rectangle of pixels.
FASTREENACT_INLINE NodeRect landmark_around(const double low[2], const double high[2], double cell,
                                            const NodeRect& within) {
    NodeRect r;
    const double x0 = static_cast<double>(within.x0), y0 = static_cast<double>(within.y0);
    const double x1 = static_cast<double>(within.x1), y1 = static_cast<double>(within.y1);
    r.x0 = landmark_whole(floor(low[0] / cell), x0, x1), r.y0 = landmark_whole(floor(low[1] / cell), y0, y1);
    r.x1 = landmark_whole(ceil(high[0] / cell), x0, x1), r.y1 = landmark_whole(ceil(high[1] / cell), y0, y1);
    return r;
}

FASTREENACT_INLINE bool is_empty_rect(const NodeRect& rect) {
    return rect.x1 <= rect.x0 || rect.y1 <= rect.y0;
}

// The rectangles of nodes, coarse to finest.
FASTREENACT_INLINE void landmark_rects(const LandmarkHead& h, const LandmarkWork& w, double rest, LandmarkPlan& p) {
    const int64_t cell = h.coarse * h.step;
    const NodeRect none = {0, 0, 0, 0};
    const NodeRect whole = {-1, -1, static_cast<int64_t>(h.size[0]) / cell + 1,
                            static_cast<int64_t>(h.size[1]) / cell + 1};
    double low[kSlits + 2][2], high[kSlits + 2][2];
    for (int c = 0; c < 2; ++c) {
        const double half = rest * h.reach[c], a = h.centre[c], b = w.centre[c];
        low[0][c] = (a < b ? a : b) - half, high[0][c] = (a > b ? a : b) + half;
        for (int part = 0; part <= kSlits; ++part) {
            const int64_t first = h.parts[part], end = part < kSlits ? h.parts[part + 1] : kKeypoints;
            low[part + 1][c] = high[part + 1][c] = w.at[first][c];
            for (int64_t k = first; k < end; ++k) {
                const double at = w.at[k][c];
                if (at < low[part + 1][c]) low[part + 1][c] = at;
                if (at > high[part + 1][c]) high[part + 1][c] = at;
            }
        }
    }
    p.rect = landmark_around(low[0], high[0], static_cast<double>(cell), whole);
    p.face = none;
    for (int s = 0; s < kSlits; ++s) p.slits[s] = none;
    if (is_empty_rect(p.rect)) {
        p.rect = none;
        return;
    }
    double least[2], most[2];
    for (int c = 0; c < 2; ++c) {
        least[c] = low[1][c], most[c] = high[1][c];
        for (int part = 2; part <= kSlits + 1; ++part) {
            if (low[part][c] < least[c]) least[c] = low[part][c];
            if (high[part][c] > most[c]) most[c] = high[part][c];
        }
        least[c] -= h.face_margin * h.unit, most[c] += h.face_margin * h.unit;
    }
    p.face = landmark_around(least, most, static_cast<double>(cell), p.rect);
    if (is_empty_rect(p.face)) {
        p.face = none;
        return;
    }
    const double spacing = static_cast<double>(h.middle * h.step), margin = h.slit_margin * h.unit;
    const int64_t start[2] = {p.face.x0, p.face.y0};
    const double wide[2] = {static_cast<double>((p.face.x1 - p.face.x0) * 2),
                            static_cast<double>((p.face.y1 - p.face.y0) * 2)};
    for (int s = 0; s < kSlits; ++s) {
        int64_t ends[2][2];
        for (int c = 0; c < 2; ++c) {
            const double first = (static_cast<double>(start[c] * h.coarse) + 0.5) * static_cast<double>(h.step);
            const double a = floor((low[s + 2][c] - margin - first) / spacing);
            const double b = ceil((high[s + 2][c] + margin - first) / spacing);
            ends[0][c] = landmark_whole(a, 0.0, wide[c]), ends[1][c] = landmark_whole(b, 0.0, wide[c]);
        }
        p.slits[s] = {ends[0][0], ends[0][1], ends[1][0], ends[1][1]};
    }
}

// One frame's plan, by a team of threads.
template <typename Team>
FASTREENACT_INLINE void landmark_place_frame(const LandmarkPlaceParams& params, int64_t n, const Team& team) {
    LandmarkFrame& f = params.frames[n];
    LandmarkPlan& p = f.plan;
    LandmarkWork& w = f.work;
    const int32_t index = params.index[n];
    if (index < 0 || index >= params.count) {
        if (team.rank() == 0) p.rect = {0, 0, 0, 0}, p.face = p.rect, p.coarse = 0;
        if (team.rank() < kSlits) {
            for (int s = team.rank(); s < kSlits; s += team.size()) p.covers[s].right = p.covers[s].left = 0;
        }
        return;
    }
    const LandmarkHead& h = params.heads[index];
    const float *points = params.points + n * 2 * kKeypoints, *pose = params.poses + n * 6;
    for (int i = team.rank(); i < 2 * kKeypoints; i += team.size()) {
        w.at[i / 2][i % 2] = static_cast<float>(static_cast<double>(points[i]) * (h.box[2] / 2.0) + h.box[i % 2]);
    }
    team.sync();
    if (team.rank() == 0) {
        landmark_follow(h, pose, w);
        landmark_numbers(h, p, w);
    }
    team.sync();
    const double rest = w.origin[0];
    for (int i = team.rank(); w.turned_back && i < kKeypoints; i += team.size()) {
        double seen[2], held[2];
        landmark_moved(w.seen, h.face[i], seen);
        landmark_moved(w.held, h.face[i], held);
        for (int c = 0; c < 2; ++c) w.at[i][c] += held[c] - seen[c];
    }
    team.sync();
    for (int64_t i = kKeypoints + team.rank(); i < h.control_points; i += team.size())
        landmark_control(h, w, i, w.at[i]);
    for (int64_t round = 0; round < h.rounds; ++round) {
        team.sync();
        for (int64_t t = team.rank(); t < h.triangles; t += team.size()) landmark_push(h, w, t);
        team.sync();
        for (int64_t i = team.rank(); i < h.control_points; i += team.size()) landmark_give_way(h, w, i);
    }
    team.sync();
    const double way[2] = {w.centre[0] - h.centre[0], w.centre[1] - h.centre[1]};
    for (int64_t i = team.rank(); i < h.rim_points; i += team.size()) {
        const double edge[2] = {rest * h.rim[i][0], rest * h.rim[i][1]};
        const bool ahead = edge[0] * way[0] + edge[1] * way[1] > 0.0;
        for (int c = 0; c < 2; ++c) w.at[h.control_points + i][c] = edge[c] + (ahead ? w.centre[c] : h.centre[c]);
    }
    if (team.takes(0)) landmark_rects(h, w, rest, p);
    for (int i = 0; i < 2; ++i) {
        if (team.takes(1 + i)) landmark_cut(h, w, i, p.cuts[i]);
    }
    for (int s = 0; s < kSlits; ++s) {
        if (team.takes(3 + s)) landmark_cover(h, w, h.slits[s], p.covers[s]);
    }
    team.sync();
    landmark_solve_team(h, p, w, team);
}

#ifndef __CUDACC_RTC__
void landmark_place(const LandmarkPlaceParams& params, int64_t begin, int64_t end);  // frames

FASTREENACT_INLINE LaunchShape landmark_place_shape(const LandmarkPlaceParams& p) {
    return {static_cast<uint32_t>(p.n), 1, 1, kPlaceThreads, 0};
}
#endif

}  // namespace fastreenact
