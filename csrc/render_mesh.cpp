// render_mesh on the CPU. Compiled once per instruction set. A picture is drawn in two passes: the nearest triangle of
// each sample first, vectorised along the rows; then each pixel's attributes, vectorised over channels. An attribute is
// affine over a triangle, so the mean over the samples of one triangle is its value at their mean position.
#include "render_mesh.h"

#include <cmath>
#include <initializer_list>
#include <limits>

#include "substrate/isa.h"
#include "substrate/vec.h"

namespace fastreenact {
namespace FASTREENACT_ISA {
namespace {

constexpr int64_t kHalf = kGrid / 2;

struct Scratch {
    float* depth;      // [samples of a column, pitch]
    int32_t* nearest;  // the same: triangle, -1: none
    Corner* corners;   // [V]
    int64_t pitch;
};

Scratch scratch_of(const RenderMeshParams& p) {
    const int64_t samples = scratch_samples(p);
    float* depth = static_cast<float*>(p.workspace);
    int32_t* nearest = reinterpret_cast<int32_t*>(depth + samples);
    return {depth, nearest, reinterpret_cast<Corner*>(nearest + samples), scratch_pitch(p)};
}

// The vertices of picture n on the grid, rounded to nearest.
void place_corners(const RenderMeshParams& p, int64_t n, const Scratch& scratch) {
    const float* vertex = p.vertices + n * p.vertex_count * 3;
    const double units = static_cast<double>(p.supersample * kGrid);
    const float most = static_cast<float>(kFarthest);
    for (int64_t v = 0; v < p.vertex_count; ++v, vertex += 3) {
        Corner& corner = scratch.corners[v];
        const bool near = std::fabs(vertex[0]) <= most && std::fabs(vertex[1]) <= most;  // false for NaN
        if (!near || !(vertex[2] - vertex[2] == 0.0f)) {
            corner.x = kNoCorner;
            continue;
        }
        corner.x = static_cast<int32_t>(std::lrint(vertex[0] * units));
        corner.y = static_cast<int32_t>(std::lrint(vertex[1] * units));
        corner.z = vertex[2];
    }
}

// First row or column of samples whose centre lies at or beyond a coordinate.
FASTREENACT_INLINE int64_t first_sample(int64_t coordinate) {
    return (coordinate + kHalf - 1) >> kGridBits;
}

FASTREENACT_INLINE int64_t floor_div(int64_t a, int64_t b) {  // b > 0
    const int64_t quotient = a / b;
    return quotient - (a - quotient * b < 0);
}

// The first sample of a row whose centre lies at or right of an edge, kept from row to row without division. A span
// from its left edge's to its right edge's is the top-left rule: what one triangle leaves out begins the next.
struct Edge {
    int64_t at, rest, step, rest_step, divisor;

    void begin(const Corner& top, const Corner& bottom, int64_t row) {
        const int64_t dx = int64_t{bottom.x} - top.x, dy = int64_t{bottom.y} - top.y;
        divisor = dy * kGrid;
        const int64_t along = (top.x - kHalf) * dy + dx * (row * kGrid + kHalf - top.y) + divisor - 1;
        at = floor_div(along, divisor);
        rest = along - at * divisor;
        step = floor_div(dx, dy);
        rest_step = (dx - step * dy) * kGrid;
    }
    void next() {
        rest += rest_step;
        const bool carry = rest >= divisor;
        rest -= carry ? divisor : 0;
        at += step + (carry ? 1 : 0);
    }
};

// Twice the signed area; positive where the corners run clockwise on the screen.
FASTREENACT_INLINE int64_t doubled_area(const Corner& a, const Corner& b, const Corner& c) {
    return (int64_t{b.x} - a.x) * (int64_t{c.y} - a.y) - (int64_t{b.y} - a.y) * (int64_t{c.x} - a.x);
}

// The depth of a triangle as a plane over the grid.
struct Plane {
    double x, y, z, slope_x, slope_y;  // the plane passes through (x, y, z)
    float step;                        // from sample to sample

    Plane(const Corner& a, const Corner& b, const Corner& c, int64_t area) : x(a.x), y(a.y), z(a.z) {
        const double inverse = 1.0 / static_cast<double>(area);
        const double bx = b.x - x, by = b.y - y, bz = b.z - z, cx = c.x - x, cy = c.y - y, cz = c.z - z;
        slope_x = (bz * cy - cz * by) * inverse;
        slope_y = (cz * bx - bz * cx) * inverse;
        const double greatest = std::numeric_limits<float>::max(), wanted = slope_x * kGrid;
        step = static_cast<float>(wanted > greatest ? greatest : wanted < -greatest ? -greatest : wanted);
    }
    float at(int64_t column, int64_t row) const {
        const double right = static_cast<double>(column * kGrid + kHalf) - x;
        const double down = static_cast<double>(row * kGrid + kHalf) - y;
        return static_cast<float>(z + (slope_x * right + slope_y * down));
    }
};

FASTREENACT_INLINE IntVec lanes() {
    IntVec lane;
    for (int i = 0; i < kWidth; ++i) lane[i] = i;
    return lane;
}

// Depth test along a row. The last vector reaches into the margin, where it changes nothing.
FASTREENACT_INLINE void draw_span(float* depth, int32_t* nearest, int64_t count, float z, float step, int32_t id) {
    const IntVec lane = lanes();
    const Vec offsets = __builtin_convertvector(lane, Vec);
    for (int64_t i = 0; i < count; i += kWidth) {
        const int64_t left = count - i;
        const Vec here = splat(z) + step * (offsets + static_cast<float>(i));
        const Vec before = load(depth + i);
        const IntVec wins = (here > before) & (lane < static_cast<int32_t>(left < kWidth ? left : kWidth));
        store(depth + i, select(wins, here, before));
        IntVec ids;
        __builtin_memcpy(&ids, nearest + i, sizeof(ids));
        ids = (wins & id) | (~wins & ids);
        __builtin_memcpy(nearest + i, &ids, sizeof(ids));
    }
}

void draw_triangle(const RenderMeshParams& p, const Scratch& scratch, int32_t id) {
    const int32_t* triangle = p.triangles + 3 * int64_t{id};
    const Corner& a = scratch.corners[triangle[0]];
    const Corner& b = scratch.corners[triangle[1]];
    const Corner& c = scratch.corners[triangle[2]];
    if (a.x == kNoCorner || b.x == kNoCorner || c.x == kNoCorner) return;
    const int64_t area = doubled_area(a, b, c);
    if (area == 0 || (p.cull && area > 0)) return;

    const Corner *top = &a, *middle = &b, *bottom = &c;
    bool middle_is_right = area > 0;  // of the edge from top to bottom; each swap turns the triangle over
    const auto order = [&middle_is_right](const Corner*& first, const Corner*& second) {
        if (first->y <= second->y) return;
        const Corner* other = first;
        first = second;
        second = other;
        middle_is_right = !middle_is_right;
    };
    order(top, middle);
    order(middle, bottom);
    order(top, middle);

    const int64_t rows = p.height * p.supersample, columns = p.width * p.supersample;
    int64_t row = first_sample(top->y), turn = first_sample(middle->y), end = first_sample(bottom->y);
    row = row < 0 ? 0 : row;
    end = end > rows ? rows : end;
    if (row >= end) return;
    const Plane plane(a, b, c, area);
    Edge along, across;
    along.begin(*top, *bottom, row);
    for (const bool upper : {true, false}) {
        const int64_t stop = upper ? (turn < end ? turn : end) : end;
        if (row >= stop) continue;
        across.begin(upper ? *top : *middle, upper ? *middle : *bottom, row);
        for (; row < stop; ++row, along.next(), across.next()) {
            int64_t left = middle_is_right ? along.at : across.at, right = middle_is_right ? across.at : along.at;
            left = left < 0 ? 0 : left;
            right = right > columns ? columns : right;
            if (left >= right) continue;
            const int64_t start = row * scratch.pitch + left;
            draw_span(scratch.depth + start, scratch.nearest + start, right - left, plane.at(left, row), plane.step,
                      id);
        }
    }
}

// Weights of a triangle's corners at a place in units of the grid.
struct Weights {
    const int32_t* triangle;
    float weight[3];

    void set(const RenderMeshParams& p, const Corner* corners, int32_t id, double x, double y) {
        triangle = p.triangles + 3 * int64_t{id};
        const Corner &a = corners[triangle[0]], &b = corners[triangle[1]], &c = corners[triangle[2]];
        const double bx = double(b.x) - a.x, by = double(b.y) - a.y, cx = double(c.x) - a.x, cy = double(c.y) - a.y;
        const double inverse = 1.0 / static_cast<double>(doubled_area(a, b, c));
        x -= a.x;
        y -= a.y;
        const double second = (x * cy - y * cx) * inverse, third = (bx * y - by * x) * inverse;
        weight[0] = static_cast<float>(1.0 - second - third);
        weight[1] = static_cast<float>(second);
        weight[2] = static_cast<float>(third);
    }
};

// Triangles over the samples of one pixel: their weights, times their share of the samples. Gives how many they are.
FASTREENACT_INLINE int mix_pixel(const RenderMeshParams& p, const Scratch& scratch, int64_t x, int64_t y,
                                 Weights* parts, float& coverage) {
    const int side = static_cast<int>(p.supersample), count = side * side;
    const int64_t column = x * side, row = y * side;
    int32_t ids[kMaxSupersample * kMaxSupersample];
    bool same = true;
    for (int j = 0; j < side; ++j) {
        const int32_t* from = scratch.nearest + (row + j) * scratch.pitch + column;
        for (int i = 0; i < side; ++i) {
            ids[j * side + i] = from[i];
            same &= from[i] == ids[0];
        }
    }
    if (same) {
        coverage = ids[0] < 0 ? 0.0f : 1.0f;
        if (ids[0] < 0) return 0;
        const double middle = static_cast<double>(side * kHalf);
        const double left = static_cast<double>(column * kGrid), top = static_cast<double>(row * kGrid);
        parts[0].set(p, scratch.corners, ids[0], left + middle, top + middle);
        return 1;
    }
    int found = 0, covered = 0;
    for (int k = 0; k < count; ++k) {
        const int32_t id = ids[k];
        if (id < 0) continue;
        int hits = 0, sum_x = 0, sum_y = 0;
        for (int other = k; other < count; ++other) {
            if (ids[other] != id) continue;
            ids[other] = -1;
            ++hits;
            sum_x += other % side;
            sum_y += other / side;
        }
        const double inverse = 1.0 / hits;
        Weights& part = parts[found++];
        part.set(p, scratch.corners, id, (static_cast<double>(column) + sum_x * inverse + 0.5) * kGrid,
                 (static_cast<double>(row) + sum_y * inverse + 0.5) * kGrid);
        const float share = static_cast<float>(hits) / static_cast<float>(count);
        for (float& weight : part.weight) weight *= share;
        covered += hits;
    }
    coverage = static_cast<float>(covered) / static_cast<float>(count);
    return found;
}

void resolve(const RenderMeshParams& p, int64_t n, const Scratch& scratch) {
    const float* attributes = p.attributes + n * p.attribute_stride_n;
    const float* background = p.background == nullptr ? nullptr : p.background + n * p.background_stride_n;
    float* out = p.image + n * p.height * p.width * p.channels;
    float* alpha = p.alpha + n * p.height * p.width;
    Weights parts[kMaxSupersample * kMaxSupersample];
    for (int64_t y = 0; y < p.height; ++y) {
        for (int64_t x = 0; x < p.width; ++x, out += p.channels, ++alpha) {
            float coverage;
            const int found = mix_pixel(p, scratch, x, y, parts, coverage);
            *alpha = coverage;
            for (int64_t c = 0; c < p.channels; c += kWidth) {
                const int count = static_cast<int>(p.channels - c < kWidth ? p.channels - c : kWidth);
                const auto get = [count](const float* from) {
                    return count == kWidth ? load(from) : load_part(from, count);
                };
                Vec sum = {};
                if (background != nullptr && coverage < 1.0f) {
                    sum = get(background + (y * p.width + x) * p.channels + c) * (1.0f - coverage);
                }
                for (int k = 0; k < found; ++k) {
                    for (int corner = 0; corner < 3; ++corner) {
                        const float* from = attributes + parts[k].triangle[corner] * p.channels + c;
                        sum += parts[k].weight[corner] * get(from);
                    }
                }
                if (count == kWidth) {
                    store(out + c, sum);
                } else {
                    store_part(out + c, sum, count);
                }
            }
        }
    }
}

// Triangle and weights at the pixels' centres, which are the samples.
void locate(const RenderMeshParams& p, int64_t n, const Scratch& scratch) {
    int32_t* id = p.ids + n * p.height * p.width;
    float* weights = p.barycentrics + n * p.height * p.width * 3;
    for (int64_t y = 0; y < p.height; ++y) {
        for (int64_t x = 0; x < p.width; ++x, ++id, weights += 3) {
            *id = scratch.nearest[y * scratch.pitch + x];
            Weights at = {nullptr, {0.0f, 0.0f, 0.0f}};
            if (*id >= 0) {
                at.set(p, scratch.corners, *id, static_cast<double>(x * kGrid + kHalf),
                       static_cast<double>(y * kGrid + kHalf));
            }
            __builtin_memcpy(weights, at.weight, sizeof(at.weight));
        }
    }
}

}  // namespace

void render_mesh(const RenderMeshParams& p, int64_t begin, int64_t end) {
    const Scratch scratch = scratch_of(p);
    const int64_t samples = scratch_samples(p);
    for (int64_t n = begin; n < end; ++n) {
        for (int64_t i = 0; i < samples; ++i) scratch.depth[i] = -std::numeric_limits<float>::infinity();
        for (int64_t i = 0; i < samples; ++i) scratch.nearest[i] = -1;
        place_corners(p, n, scratch);
        for (int64_t f = 0; f < p.triangle_count; ++f) draw_triangle(p, scratch, static_cast<int32_t>(f));
        (p.ids == nullptr ? resolve : locate)(p, n, scratch);
    }
}

}  // namespace FASTREENACT_ISA
}  // namespace fastreenact
