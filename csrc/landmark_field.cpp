// landmark_field on the CPU. Compiled once per instruction set. First the splines are solved, in float64; then they are
// evaluated at the nodes that may move, vectorised over nodes; then each row of fine nodes is filled in.
#include "landmark_field.h"

#include "substrate/isa.h"
#include "substrate/vec.h"

namespace fastreenact {
namespace FASTREENACT_ISA {
namespace {

constexpr int kSplines = 3;
constexpr int kSpan = 64;  // fine nodes of a row whose blend waits on the stack

// Gaussian elimination of the unknowns [0, steps) from all rows, with the largest of these rows as the next pivot.
// Whole vectors are subtracted, `length` is a multiple of them: what becomes of the eliminated columns means nothing.
void eliminate(double** rows, int64_t count, int64_t length, int64_t steps) {
    for (int64_t k = 0; k < steps; ++k) {
        int64_t best = k;
        for (int64_t i = k + 1; i < steps; ++i) {
            if (__builtin_fabs(rows[i][k]) > __builtin_fabs(rows[best][k])) best = i;
        }
        double* pivot = rows[best];
        rows[best] = rows[k];
        rows[k] = pivot;
        const double inverse = 1.0 / pivot[k];
        for (int64_t i = k + 1; i < count; ++i) {
            double* __restrict row = rows[i];
            const double* __restrict from = pivot;
            const double factor = row[k] * inverse;
            for (int64_t j = (k + 1) / kDoubles * kDoubles; j < length; j += kDoubles) {
                for (int q = 0; q < kDoubles; ++q) row[j + q] -= factor * from[j + q];
            }
        }
    }
}

// The unknowns of all splines in the elimination's order: radial, constant, x, y; then the two right sides.
void build(const LandmarkFieldParams& p) {
    const int64_t n = p.count, length = system_row(n);
    double *origin = p.origin, **rows = p.rows;
    origin[0] = origin[1] = 0.0;
    for (int64_t i = 0; i < n; ++i) {
        for (int c = 0; c < 2; ++c) origin[c] += p.at[2 * i + c] / static_cast<double>(n);
    }
    double* x = p.found;
    for (int64_t i = 0; i < n; ++i) {
        for (int c = 0; c < 2; ++c) {
            x[2 * i + c] = (p.at[2 * i + c] - origin[c]) / p.unit;
            p.points[2 * i + c] = static_cast<float>(x[2 * i + c]);
        }
    }
    auto entry = [&](int64_t a, int64_t b) {  // a >= b
        if (b >= n) return 0.0;
        if (a >= n) return a == n ? 1.0 : x[2 * b + a - n - 1];
        if (a == b) return p.slack[a];
        const double dx = x[2 * a] - x[2 * b], dy = x[2 * a + 1] - x[2 * b + 1], square = dx * dx + dy * dy;
        return square * __builtin_log(square + 1e-12);
    };
    for (int64_t i = 0; i < n + 3; ++i) rows[i] = p.system + i * length;
    for (int64_t i = 0; i < n + 3; ++i) {
        const int64_t a = p.order[i];
        for (int64_t j = 0; j <= i; ++j) {
            const int64_t b = p.order[j];
            rows[i][j] = rows[j][i] = a >= b ? entry(a, b) : entry(b, a);
        }
        for (int c = 0; c < 2; ++c) rows[i][n + 3 + c] = a < n ? p.displacement[2 * a + c] : 0.0;
        for (int64_t j = n + 5; j < length; ++j) rows[i][j] = 0.0;
    }
}

// One spline's unknowns among those that not all splines have, from what the elimination has left of their rows.
void solve_own(const LandmarkFieldParams& p, const uint8_t* members, double* found) {
    const int64_t n = p.count, shared = n + 3 - p.own;
    double small[kMostOwn][kMostOwn + kDoubles] = {}, *order[kMostOwn];
    int64_t index[kMostOwn], size = 0;
    for (int64_t i = 0; i < p.own; ++i) {
        if (members[i]) index[size++] = i;
    }
    for (int64_t i = 0; i < size; ++i) {
        order[i] = small[i];
        const double* row = p.rows[shared + index[i]];
        for (int64_t j = 0; j < size; ++j) small[i][j] = row[shared + index[j]];
        for (int c = 0; c < 2; ++c) small[i][size + c] = row[n + 3 + c];
    }
    eliminate(order, size, (size + 2 + kDoubles - 1) / kDoubles * kDoubles, size);
    for (int64_t i = size - 1; i >= 0; --i) {
        for (int c = 0; c < 2; ++c) {
            double sum = order[i][size + c];
            for (int64_t j = i + 1; j < size; ++j) sum -= order[i][j] * found[kSplineStride * index[j] + c];
            found[kSplineStride * index[i] + c] = sum / order[i][i];
        }
    }
}

// The splines' weights. `found` is in the elimination's order.
void solve(const LandmarkFieldParams& p) {
    const int64_t n = p.count, shared = n + 3 - p.own;
    double *found = p.found, **rows = p.rows;
    build(p);
    eliminate(rows, n + 3, system_row(n), shared);
    for (int64_t i = 0; i < kSplineStride * (n + 3); ++i) found[i] = 0.0;
    for (int s = 0; s < kSplines; ++s) {
        solve_own(p, p.members + s * p.own, found + kSplineStride * shared + 2 * s);
    }
    for (int64_t k = shared - 1; k >= 0; --k) {
        double sum[kSplineStride];
        for (int q = 0; q < kSplineStride; ++q) sum[q] = q < 2 * kSplines ? rows[k][n + 3 + q % 2] : 0.0;
        for (int64_t j = k + 1; j < n + 3; ++j) {
            for (int q = 0; q < kSplineStride; ++q) sum[q] -= rows[k][j] * found[kSplineStride * j + q];
        }
        for (int q = 0; q < kSplineStride; ++q) found[kSplineStride * k + q] = sum[q] / rows[k][k];
    }
    for (int64_t i = 0; i < n + 3; ++i) {
        for (int q = 0; q < kSplineStride; ++q) {
            p.weights[kSplineStride * p.order[i] + q] = static_cast<float>(found[kSplineStride * i + q]);
        }
    }
}

// One of the two grids of nodes.
struct NodeGrid {
    NodeRect rect;   // coarse nodes
    int64_t every;   // fine nodes between its nodes
    int64_t width;   // nodes
    int64_t height;  //
    int64_t first;   // of its nodes in the scratch
};

FASTREENACT_INLINE NodeGrid node_grid(const LandmarkFieldParams& p, bool face) {
    NodeGrid grid;
    grid.rect = face ? p.face : p.rect;
    grid.every = face ? p.middle : p.coarse;
    const int64_t nodes = p.coarse / grid.every;  // per coarse cell
    grid.width = (grid.rect.x1 - grid.rect.x0) * nodes + 1;
    grid.height = (grid.rect.y1 - grid.rect.y0) * nodes + 1;
    grid.first = face ? (p.rect.x1 - p.rect.x0 + 1) * (p.rect.y1 - p.rect.y0 + 1) : 0;
    return grid;
}

FASTREENACT_INLINE float middle_of(const LandmarkFieldParams& p, int64_t fine) {
    return static_cast<float>((static_cast<double>(fine) + 0.5) * static_cast<double>(p.step));
}

FASTREENACT_INLINE float node_px(const LandmarkFieldParams& p, const NodeGrid& grid, int64_t node, int axis) {
    return middle_of(p, (axis == 0 ? grid.rect.x0 : grid.rect.y0) * p.coarse + node * grid.every);
}

FASTREENACT_INLINE bool is_empty(const NodeRect& rect) {
    return rect.x1 <= rect.x0 || rect.y1 <= rect.y0;
}

// Distance of a place from the way of the head's centre, in head radii.
FASTREENACT_INLINE float radius(const LandmarkFieldParams& p, float px, float py) {
    const float x = p.to_head[0] * px + p.to_head[1] * py - p.way[0];
    const float y = p.to_head[2] * px + p.to_head[3] * py - p.way[1];
    const float way_x = p.way[2] - p.way[0], way_y = p.way[3] - p.way[1], length = way_x * way_x + way_y * way_y;
    float along = length > 1e-12f ? (x * way_x + y * way_y) / length : 0.0f;
    along = along < 0.0f ? 0.0f : along > 1.0f ? 1.0f : along;
    const float dx = x - along * way_x, dy = y - along * way_y;
    return __builtin_sqrtf(dx * dx + dy * dy);
}

// Sets all nodes of a grid to rest, and lists those that may move.
void list_nodes(const LandmarkFieldParams& p, const NodeGrid& grid) {
    const bool covered = grid.first == 0 && !is_empty(p.face);  // by the face's grid, strictly inside
    for (int64_t j = 0; j < grid.height; ++j) {
        const float py = node_px(p, grid, j, 1);
        const int64_t row = grid.rect.y0 + j;
        for (int64_t i = 0; i < grid.width; ++i) {
            const float px = node_px(p, grid, i, 0);
            const int64_t node = grid.first + j * grid.width + i, column = grid.rect.x0 + i;
            p.places[2 * node] = px * (2.0f / p.size[0]) - 1.0f;
            p.places[2 * node + 1] = py * (2.0f / p.size[1]) - 1.0f;
            for (int q = 0; q < kSplineStride; ++q) p.splines[kSplineStride * node + q] = 0.0f;
            if (covered && column > p.face.x0 && column < p.face.x1 && row > p.face.y0 && row < p.face.y1) continue;
            if (radius(p, px, py) < p.rest) p.moving[(*p.moving_count)++] = static_cast<int32_t>(node);
        }
    }
}

// The natural logarithm of a normal x > 0: the exponent, and a Chebyshev fit on [sqrt(1/2), sqrt(2)], good to 6e-8.
FASTREENACT_INLINE Vec log_positive(Vec x) {
    const IntVec exponent = ((IntVec)x - 0x3f3504f3) >> 23;
    const Vec f = (Vec)((IntVec)x - (exponent << 23)) - 1.0f;
    Vec series = 0.0927221403f * f - 0.141184255f;
    series = series * f + 0.146763965f;
    series = series * f - 0.165928558f;
    series = series * f + 0.199851274f;
    series = series * f - 0.250009209f;
    series = series * f + 0.333334088f;
    const Vec square = f * f;
    return (square * (f * series - 0.5f) + f) + __builtin_convertvector(exponent, Vec) * 0.693147181f;
}

FASTREENACT_INLINE Vec clamp_to_one(Vec x) {
    x = select(x > 0.0f, x, Vec{});
    return select(x < 1.0f, x, splat(1.0f));
}

// 0 up to 0, 1 from 1 on, smooth between.
FASTREENACT_INLINE Vec ramp(Vec x) {
    const Vec t = clamp_to_one(x);
    return t * t * (3.0f - 2.0f * t);
}

// Share of the upper side of a cut at places in px.
FASTREENACT_INLINE Vec above(const LandmarkCut& cut, Vec px, Vec py) {
    const Vec dx = px - cut.origin[0], dy = py - cut.origin[1];
    const Vec x = dx * cut.along[0] + dy * cut.along[1];
    Vec line = splat(cut.y[0]), width = splat(cut.width[0]);
    for (int k = 0; k + 1 < kCutKnots; ++k) {
        const float length = cut.x[k + 1] - cut.x[k];
        const Vec t = clamp_to_one((x - cut.x[k]) * (1.0f / (length > 1e-20f ? length : 1e-20f)));
        line += t * (cut.y[k + 1] - cut.y[k]);
        width += t * (cut.width[k + 1] - cut.width[k]);
    }
    line -= dx * cut.across[0] + dy * cut.across[1];
    return ramp(line / (2.0f * width) + 0.5f);
}

FASTREENACT_INLINE Vec magnitude(Vec x) {
    return (Vec)((IntVec)x & 0x7fffffff);
}

// What goes more than `free` of the way to an edge of the picture never quite reaches it.
FASTREENACT_INLINE Vec keep_inside(Vec move, Vec at, float size, float free) {
    Vec room = select(move < 0.0f, at, size - at);
    room = select(room > 1e-3f, room, splat(1e-3f));
    const Vec share = magnitude(move) / room;
    const Vec far = free + (1.0f - free) * (1.0f - exp_negative((free - share) * (1.0f / (1.0f - free))));
    return select(share > free, move * far / share, move);
}

// The three splines at kWidth listed nodes: what they are after rest, edges and stillness, and where the nodes read.
void evaluate(const LandmarkFieldParams& p, const NodeGrid& coarse, const NodeGrid& face, const int32_t* nodes,
              int count) {
    float px[kWidth], py[kWidth], away[kWidth];
    for (int i = 0; i < kWidth; ++i) {
        const int64_t node = nodes[i < count ? i : 0];
        const NodeGrid& grid = face.first > 0 && node >= face.first ? face : coarse;
        px[i] = node_px(p, grid, (node - grid.first) % grid.width, 0);
        py[i] = node_px(p, grid, (node - grid.first) / grid.width, 1);
        away[i] = radius(p, px[i], py[i]);
    }
    const Vec at[2] = {load(px), load(py)};
    const float inverse = static_cast<float>(1.0 / p.unit);
    const Vec x = (at[0] - static_cast<float>(p.origin[0])) * inverse;
    const Vec y = (at[1] - static_cast<float>(p.origin[1])) * inverse;
    const float* affine = p.weights + kSplineStride * p.count;
    Vec sum[2 * kSplines];
    for (int q = 0; q < 2 * kSplines; ++q) {
        sum[q] = affine[q] + x * affine[kSplineStride + q] + y * affine[2 * kSplineStride + q];
    }
    for (int64_t k = 0; k < p.count; ++k) {
        const Vec dx = x - p.points[2 * k], dy = y - p.points[2 * k + 1];
        Vec square = dx * dx + dy * dy;
        square = select(square > 1e-12f, square, splat(1e-12f));
        const Vec radial = square * log_positive(square);
        const float* weight = p.weights + kSplineStride * k;
        for (int q = 0; q < 2 * kSplines; ++q) sum[q] += radial * weight[q];
    }
    const Vec holds = 1.0f - ramp((load(away) - p.hold) * (1.0f / (p.rest - p.hold)));
    float values[2 * kSplines][kWidth];
    for (int s = 0; s < kSplines; ++s) {
        Vec move[2], square = {};
        for (int c = 0; c < 2; ++c) {
            move[c] = keep_inside(sum[2 * s + c] * holds, at[c], p.size[c], p.free);
            square += move[c] * move[c];
        }
        const Vec steady = square / (square + p.still * p.still);
        for (int c = 0; c < 2; ++c) {
            sum[2 * s + c] = move[c] * steady;
            store(values[2 * s + c], sum[2 * s + c]);
        }
    }
    const Vec upper = above(p.cuts[0], at[0], at[1]), lower = 1.0f - above(p.cuts[1], at[0], at[1]);
    float places[2][kWidth];
    for (int c = 0; c < 2; ++c) {
        const Vec between = sum[2 + c];
        const Vec move = between + upper * (sum[c] - between) + lower * (sum[4 + c] - between);
        store(places[c], (at[c] + move) * (2.0f / p.size[c]) - 1.0f);
    }
    for (int i = 0; i < count; ++i) {
        for (int q = 0; q < 2 * kSplines; ++q) p.splines[kSplineStride * nodes[i] + q] = values[q][i];
        for (int c = 0; c < 2; ++c) p.places[2 * nodes[i] + c] = places[c][i];
    }
}

// Nodes [first, last) of a row of a grid, enlarged to the fine nodes that lie in the output's columns [begin, end),
// counted from the grid's first; `to` is the output's column 0 in this count.
void enlarge(const float* upper, const float* lower, float weight, int64_t every, int64_t nodes, int64_t begin,
             int64_t end, float* to) {
    for (int64_t j = begin / every; j * every < end; ++j) {
        const int64_t next = j + 1 < nodes ? j + 1 : j;
        float a[2], slope[2];
        for (int c = 0; c < 2; ++c) {
            const float* u = upper + c;
            const float* l = lower + c;
            a[c] = u[2 * j] + weight * (l[2 * j] - u[2 * j]);
            slope[c] = (u[2 * next] + weight * (l[2 * next] - u[2 * next]) - a[c]) / static_cast<float>(every);
        }
        const int64_t from = j * every > begin ? j * every : begin,
                      most = (j + 1) * every < end ? (j + 1) * every : end;
        for (int64_t i = from; i < most; ++i) {
            const float t = static_cast<float>(i - j * every);
            to[2 * i] = a[0] + t * slope[0];
            to[2 * i + 1] = a[1] + t * slope[1];
        }
    }
}

// A row of fine nodes around a slit: the splines joined anew at each. Columns [begin, end) as in `enlarge`.
void sharpen(const LandmarkFieldParams& p, const NodeGrid& face, int64_t fine_row, int64_t begin, int64_t end,
             float* to) {
    const int64_t node_row = fine_row / p.middle, next_row = node_row + 1 < face.height ? node_row + 1 : node_row;
    const float ty = static_cast<float>(fine_row % p.middle) / static_cast<float>(p.middle);
    const float* upper = p.splines + kSplineStride * (face.first + node_row * face.width);
    const float* lower = p.splines + kSplineStride * (face.first + next_row * face.width);
    const float py = middle_of(p, face.rect.y0 * p.coarse + fine_row);
    float px[kSpan], shares[2][kSpan];
    for (; begin < end; begin += kSpan) {
        const int count = static_cast<int>(end - begin < kSpan ? end - begin : kSpan);
        for (int i = 0; i < kSpan; ++i) px[i] = middle_of(p, face.rect.x0 * p.coarse + begin + i);
        for (int i = 0; i < count; i += kWidth) {
            store(shares[0] + i, above(p.cuts[0], load(px + i), splat(py)));
            store(shares[1] + i, 1.0f - above(p.cuts[1], load(px + i), splat(py)));
        }
        for (int i = 0; i < count; ++i) {
            const int64_t node = (begin + i) / p.middle, next = node + 1 < face.width ? node + 1 : node;
            const float tx = static_cast<float>((begin + i) % p.middle) / static_cast<float>(p.middle);
            float value[2 * kSplines];
            for (int q = 0; q < 2 * kSplines; ++q) {
                const float *u = upper + q, *l = lower + q;
                const int64_t a = kSplineStride * node, b = kSplineStride * next;
                const float left = u[a] + ty * (l[a] - u[a]), right = u[b] + ty * (l[b] - u[b]);
                value[q] = left + tx * (right - left);
            }
            const float at[2] = {px[i], py};
            for (int c = 0; c < 2; ++c) {
                const float between = value[2 + c];
                const float move =
                    between + shares[0][i] * (value[c] - between) + shares[1][i] * (value[4 + c] - between);
                to[2 * (begin + i) + c] = (at[c] + move) * (2.0f / p.size[c]) - 1.0f;
            }
        }
    }
}

// The output's part of a row of a grid, between the columns [begin, end) counted from the grid's first.
void fill(const LandmarkFieldParams& p, const NodeGrid& grid, int64_t fine_row, int64_t begin, int64_t end, float* to) {
    const int64_t row = fine_row / grid.every, next = row + 1 < grid.height ? row + 1 : row;
    const float weight = static_cast<float>(fine_row % grid.every) / static_cast<float>(grid.every);
    const float* places = p.places + 2 * grid.first;
    enlarge(places + 2 * row * grid.width, places + 2 * next * grid.width, weight, grid.every, grid.width, begin, end,
            to);
}

FASTREENACT_INLINE int64_t at_least(int64_t x, int64_t least) {
    return x > least ? x : least;
}
FASTREENACT_INLINE int64_t at_most(int64_t x, int64_t most) {
    return x < most ? x : most;
}

}  // namespace

void landmark_solve(const LandmarkFieldParams& p, int64_t, int64_t) {
    solve(p);
    *p.moving_count = 0;
    list_nodes(p, node_grid(p, false));
    if (!is_empty(p.face)) list_nodes(p, node_grid(p, true));
}

void landmark_nodes(const LandmarkFieldParams& p, int64_t begin, int64_t end) {
    const NodeGrid coarse = node_grid(p, false), face = node_grid(p, true);
    const int64_t first = begin * kNodesPerBlock, last = at_most(end * kNodesPerBlock, *p.moving_count);
    for (int64_t i = first; i < last; i += kWidth) {
        evaluate(p, coarse, face, p.moving + i, static_cast<int>(at_most(last - i, kWidth)));
    }
}

void landmark_rows(const LandmarkFieldParams& p, int64_t begin, int64_t end) {
    const NodeGrid coarse = node_grid(p, false), face = node_grid(p, true);
    const int64_t face_x = (p.face.x0 - p.rect.x0) * p.coarse, face_y = (p.face.y0 - p.rect.y0) * p.coarse;
    const int64_t right = p.left + p.columns;
    for (int64_t y = p.top + begin; y < p.top + end; ++y) {
        float* to = p.out + (y - p.top) * p.out_stride - 2 * p.left;
        const int64_t row = y - face_y;
        if (is_empty(p.face) || row < 0 || row > (face.height - 1) * face.every) {
            fill(p, coarse, y, p.left, right, to);
            continue;
        }
        const int64_t face_end = face_x + (face.width - 1) * face.every + 1;
        fill(p, coarse, y, p.left, at_most(face_x, right), to);
        fill(p, coarse, y, at_least(face_end, p.left), right, to);
        const int64_t first = at_least(p.left - face_x, 0), last = at_most(right, face_end) - face_x;
        fill(p, face, row, first, last, to + 2 * face_x);
        for (int s = 0; s < 3; ++s) {
            const NodeRect& slit = p.slits[s];
            if (is_empty(slit) || row < slit.y0 * p.middle || row > slit.y1 * p.middle) continue;
            const int64_t slit_first = at_least(slit.x0 * p.middle, first);
            sharpen(p, face, row, slit_first, at_most(slit.x1 * p.middle + 1, last), to + 2 * face_x);
        }
    }
}

}  // namespace FASTREENACT_ISA
}  // namespace fastreenact
