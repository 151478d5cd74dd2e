// landmark_nodes: a frame's plan -> its motion field at the fine nodes of the whole picture, by tiles: the nodes of the
// coarse and the middle grid that a tile needs, then the fine ones between them. What landmark_field.cpp does with
// vectors on the CPU, in float32 as there.
#pragma once
#include "landmark_head.h"
#ifndef __CUDACC_RTC__
#include <cmath>
#endif

namespace fastreenact {

constexpr int kNodeThreads = 128;
constexpr int kTileCells = 4;                   // coarse cells of a tile, and axis
constexpr int kTileNodes = 2 * kTileCells + 1;  // nodes of the middle grid, and axis

struct LandmarkNodesParams {
    const LandmarkFrame* frames;  // [N]
    float* nodes;                 // [N, h, w, 2] where each fine node reads, -1 and 1 the picture's edges
    int64_t n, height, width;     // N, h, w
    double size[2];               // px, the picture's width and height
    int64_t step, coarse;         // of all frames
};

// The nodes that a tile needs.
struct LandmarkTile {
    float points[kMostPoints][2];
    float weights[kMostUnknowns][kSplineStride];
    float splines[kTileNodes * kTileNodes][2 * kSplines];  // displacement, px
    float places[kTileNodes * kTileNodes][2];              // where they read
};

FASTREENACT_INLINE float unit_ramp(float x) {
    const float t = x < 0.0f ? 0.0f : x > 1.0f ? 1.0f : x;
    return t * t * (3.0f - 2.0f * t);
}

FASTREENACT_INLINE float fine_px(int64_t fine, int64_t step) {
    return static_cast<float>((static_cast<double>(fine) + 0.5) * static_cast<double>(step));
}

// A node at rest.
FASTREENACT_INLINE float rest_place(int64_t fine, int64_t step, double size) {
    return static_cast<float>((static_cast<double>(fine) + 0.5) * (2.0 * static_cast<double>(step) / size) - 1.0);
}

FASTREENACT_INLINE float way_radius(const LandmarkPlan& p, float px, float py) {
    const float x = p.to_head[0] * px + p.to_head[1] * py - p.way[0],
                y = p.to_head[2] * px + p.to_head[3] * py - p.way[1];
    const float way_x = p.way[2] - p.way[0], way_y = p.way[3] - p.way[1], length = way_x * way_x + way_y * way_y;
    float along = length > 1e-12f ? (x * way_x + y * way_y) / length : 0.0f;
    along = along < 0.0f ? 0.0f : along > 1.0f ? 1.0f : along;
    const float dx = x - along * way_x, dy = y - along * way_y;
    return sqrtf(dx * dx + dy * dy);
}

// Share of the upper side of a cut at a place in px.
FASTREENACT_INLINE float cut_above(const LandmarkCut& cut, float px, float py) {
    const float dx = px - cut.origin[0], dy = py - cut.origin[1], x = dx * cut.along[0] + dy * cut.along[1];
    float line = cut.y[0], width = cut.width[0];
    for (int k = 0; k + 1 < kCutKnots; ++k) {
        const float length = cut.x[k + 1] - cut.x[k];
        float t = (x - cut.x[k]) * (1.0f / (length > 1e-20f ? length : 1e-20f));
        t = t > 0.0f ? t : 0.0f;
        t = t < 1.0f ? t : 1.0f;
        line += t * (cut.y[k + 1] - cut.y[k]);
        width += t * (cut.width[k + 1] - cut.width[k]);
    }
    line -= dx * cut.across[0] + dy * cut.across[1];
    return unit_ramp(line / (2.0f * width) + 0.5f);
}

// Where a place in px reads, of the three splines' displacements there.
FASTREENACT_INLINE void join_splines(const LandmarkPlan& p, const float at[2], const float splines[2 * kSplines],
                                     float place[2]) {
    const float upper = cut_above(p.cuts[0], at[0], at[1]), lower = 1.0f - cut_above(p.cuts[1], at[0], at[1]);
    for (int c = 0; c < 2; ++c) {
        const float between = splines[2 + c];
        const float move = between + upper * (splines[c] - between) + lower * (splines[4 + c] - between);
        place[c] = (at[c] + move) * (2.0f / p.size[c]) - 1.0f;
    }
}

// The three splines' displacements at a place: at rest outside, not beyond the picture, still where small.
FASTREENACT_INLINE void evaluate_splines(const LandmarkPlan& p, const LandmarkTile& tile, const float at[2],
                                         float splines[2 * kSplines]) {
    const float x = (at[0] - p.origin[0]) * p.inverse, y = (at[1] - p.origin[1]) * p.inverse;
    for (int q = 0; q < 2 * kSplines; ++q) {
        splines[q] = tile.weights[p.count][q] + x * tile.weights[p.count + 1][q] + y * tile.weights[p.count + 2][q];
    }
    for (int k = 0; k < p.count; ++k) {
        const float dx = x - tile.points[k][0], dy = y - tile.points[k][1];
        float square = dx * dx + dy * dy;
        square = square > 1e-12f ? square : 1e-12f;
        const float radial = square * logf(square);
        for (int q = 0; q < 2 * kSplines; ++q) splines[q] += radial * tile.weights[k][q];
    }
    const float holds = 1.0f - unit_ramp((way_radius(p, at[0], at[1]) - p.hold) * (1.0f / (p.rest - p.hold)));
    for (int s = 0; s < kSplines; ++s) {
        float square = 0.0f;
        for (int c = 0; c < 2; ++c) {
            float move = splines[2 * s + c] * holds;
            float room = move < 0.0f ? at[c] : p.size[c] - at[c];
            room = room > 1e-3f ? room : 1e-3f;
            const float share = fabsf(move) / room;
            if (share > p.free) {  // what goes far to an edge of the picture never quite reaches it
                move *= (p.free + (1.0f - p.free) * (1.0f - expf((p.free - share) * (1.0f / (1.0f - p.free))))) / share;
            }
            splines[2 * s + c] = move;
            square += move * move;
        }
        for (int c = 0; c < 2; ++c) splines[2 * s + c] *= square / (square + p.still * p.still);
    }
}

FASTREENACT_INLINE bool within_rect(const NodeRect& rect, int64_t times, int64_t x, int64_t y) {
    return x >= rect.x0 * times && x <= rect.x1 * times && y >= rect.y0 * times && y <= rect.y1 * times;
}

// Node (i, j) of a tile's middle grid, whose first is at (left, top) of it.
FASTREENACT_INLINE void tile_node(const LandmarkPlan& p, LandmarkTile& tile, int64_t left, int64_t top, int node) {
    const int i = node % kTileNodes, j = node / kTileNodes;
    const int64_t x = left + i, y = top + j;
    const bool face = !(p.face.x1 <= p.face.x0 || p.face.y1 <= p.face.y0) && within_rect(p.face, 2, x, y);
    if (!face && (i % 2 != 0 || j % 2 != 0 || !within_rect(p.rect, 2, x, y))) return;
    const float at[2] = {fine_px(x * p.middle, p.step), fine_px(y * p.middle, p.step)};
    if (way_radius(p, at[0], at[1]) < p.rest) {
        evaluate_splines(p, tile, at, tile.splines[node]);
        join_splines(p, at, tile.splines[node], tile.places[node]);
        return;
    }
    for (int q = 0; q < 2 * kSplines; ++q) tile.splines[node][q] = 0.0f;
    for (int c = 0; c < 2; ++c) tile.places[node][c] = at[c] * (2.0f / p.size[c]) - 1.0f;
}

// `values` [nodes, count] at a fine node between four, `apart` nodes of the middle grid from each other.
FASTREENACT_INLINE void between_nodes(const float* values, int count, int first, int right, int low, float tx, float ty,
                                      float* out) {
    for (int q = 0; q < count; ++q) {
        const float *a = values + int64_t(first) * count + q, *b = a + int64_t(right) * count;
        const float *c = a + int64_t(low) * count, *d = b + int64_t(low) * count;
        const float left = a[0] + ty * (c[0] - a[0]), other = b[0] + ty * (d[0] - b[0]);
        out[q] = left + tx * (other - left);
    }
}

// Fine node (x, y) of a tile whose first node of the middle grid is at (left, top).
FASTREENACT_INLINE void tile_fine(const LandmarkNodesParams& params, const LandmarkPlan& p, const LandmarkTile& tile,
                                  int64_t left, int64_t top, int64_t x, int64_t y, float* out) {
    if (p.rect.x1 <= p.rect.x0 || !within_rect(p.rect, p.coarse, x, y)) {
        out[0] = rest_place(x, params.step, params.size[0]), out[1] = rest_place(y, params.step, params.size[1]);
        return;
    }
    const bool face = p.face.x1 > p.face.x0 && p.face.y1 > p.face.y0 && within_rect(p.face, p.coarse, x, y);
    const int64_t every = face ? p.middle : p.coarse, nodes = face ? 1 : 2;  // of the middle grid, from one to the next
    const NodeRect& rect = face ? p.face : p.rect;
    const int64_t i = x / every, j = y / every, times = 2 / nodes;
    const int first = static_cast<int>((j * nodes - top) * kTileNodes + i * nodes - left);
    const int right = i < rect.x1 * times ? static_cast<int>(nodes) : 0;
    const int low = j < rect.y1 * times ? static_cast<int>(nodes) * kTileNodes : 0;
    const float tx = static_cast<float>(x - i * every) / static_cast<float>(every);
    const float ty = static_cast<float>(y - j * every) / static_cast<float>(every);
    for (int s = 0; face && s < kSlits; ++s) {
        const NodeRect& slit = p.slits[s];
        if (slit.x1 <= slit.x0 || slit.y1 <= slit.y0) continue;
        if (!within_rect(slit, p.middle, x - p.face.x0 * p.coarse, y - p.face.y0 * p.coarse)) continue;
        const float at[2] = {fine_px(x, p.step), fine_px(y, p.step)};
        float splines[2 * kSplines];
        between_nodes(tile.splines[0], 2 * kSplines, first, right, low, tx, ty, splines);
        join_splines(p, at, splines, out);
        return;
    }
    between_nodes(tile.places[0], 2, first, right, low, tx, ty, out);
}

// The tile (tile_x, tile_y) of a frame, by a team of threads.
template <typename Team>
FASTREENACT_INLINE void landmark_tile(const LandmarkNodesParams& params, int64_t n, int64_t tile_x, int64_t tile_y,
                                      LandmarkTile& tile, const Team& team) {
    const LandmarkPlan& p = params.frames[n].plan;
    const int64_t side = kTileCells * params.coarse, left = 2 * kTileCells * tile_x, top = 2 * kTileCells * tile_y;
    const int64_t x0 = tile_x * side, y0 = tile_y * side;
    const bool moves = p.rect.x1 * params.coarse >= x0 && p.rect.x0 * params.coarse < x0 + side &&
                       p.rect.y1 * params.coarse >= y0 && p.rect.y0 * params.coarse < y0 + side &&
                       p.rect.x1 > p.rect.x0;
    if (moves) {
        for (int e = team.rank(); e < kSplineStride * (p.count + 3); e += team.size()) {
            tile.weights[e / kSplineStride][e % kSplineStride] = p.weights[e / kSplineStride][e % kSplineStride];
            if (e < 2 * p.count) tile.points[e / 2][e % 2] = p.points[e / 2][e % 2];
        }
        team.sync();
        for (int node = team.rank(); node < kTileNodes * kTileNodes; node += team.size()) {
            tile_node(p, tile, left, top, node);
        }
        team.sync();
    }
    for (int64_t e = team.rank(); e < side * side; e += team.size()) {
        const int64_t x = x0 + e % side, y = y0 + e / side;
        if (x >= params.width || y >= params.height) continue;
        tile_fine(params, p, tile, left, top, x, y, params.nodes + 2 * ((n * params.height + y) * params.width + x));
    }
    team.sync();
}

FASTREENACT_INLINE int64_t landmark_tiles(const LandmarkNodesParams& p, int64_t length) {
    const int64_t side = kTileCells * p.coarse;
    return (length + side - 1) / side;
}

#ifndef __CUDACC_RTC__
void landmark_nodes(const LandmarkNodesParams& params, int64_t begin, int64_t end);  // rows of tiles of all frames

FASTREENACT_INLINE LaunchShape landmark_nodes_shape(const LandmarkNodesParams& p) {
    const int64_t rows = landmark_tiles(p, p.height), most = 32 * 1024;
    return {static_cast<uint32_t>(landmark_tiles(p, p.width)), static_cast<uint32_t>(rows < most ? rows : most),
            static_cast<uint32_t>(p.n < most ? p.n : most), kNodeThreads, sizeof(LandmarkTile)};
}
#endif

}  // namespace fastreenact
