// rasterize_landmarks: keypoints to coloured line drawings, pixel for pixel what OpenCV draws with LINE_4, thickness 1,
// and for a single point with a filled circle of radius 1. Specs and checks: face2face_rho.md, 3.5.
#pragma once
#include "substrate/common.h"

namespace fastreenact {

constexpr int kMaxDrawings = 3;

// One of the drawings that are made of each picture's keypoints.
struct Drawing {
    uint8_t* out;             // [N, size, size, 3], channels contiguous
    const int32_t* segments;  // [S, 2] keypoints of the two ends, drawn in this order; second -1: a circle at the first
    const uint8_t* colours;   // [S, 3]
    int64_t segment_count;    // S
    int64_t size;             // height and width
    int64_t out_stride_n;     // bytes from picture to picture
    int64_t out_stride_y;     // bytes from row to row
    int64_t out_stride_x;     // bytes from pixel to pixel, at least 3
};

struct RasterizeLandmarksParams {
    const float* keypoints;  // [N, K, 2]: (x, y), -1 and 1 are the borders of the drawing
    Drawing drawings[kMaxDrawings];
    int64_t drawing_count;
    int64_t n;                  // pictures
    int64_t keypoint_stride_n;  // elements from picture to picture
    int64_t keypoint_stride_k;  // elements from point to point
    int64_t keypoint_stride_c;  // elements from x to y
};

struct RasterizeLinesParams {
    const int64_t* lines;  // [M, 4] contiguous: x1, y1, x2, y2 in pixels, each within +-2^31
    uint8_t* out;          // [M, height, width] contiguous, one drawing per line; drawn pixels become 255
    int64_t m;             // lines
    int64_t height;        // rows of a drawing
    int64_t width;         // columns of a drawing
};

// A line between whole pixels. Coordinates are 64-bit, as OpenCV's are, and may lie far outside the picture.
struct Line {
    int64_t x1, y1, x2, y2;
};

FASTREENACT_INLINE int outside_code(int64_t x, int64_t y, int64_t right, int64_t bottom) {
    return (x < 0 ? 1 : 0) + (x > right ? 2 : 0) + (y < 0 ? 4 : 0) + (y > bottom ? 8 : 0);
}

// part * run / rise towards zero. In double, as OpenCV does it: the product may leave 64 bits.
FASTREENACT_INLINE int64_t along(int64_t part, int64_t run, int64_t rise) {
    return static_cast<int64_t>(static_cast<double>(part) * static_cast<double>(run) / static_cast<double>(rise));
}

// Moves the ends of a line onto the picture. False: nothing of it is drawn. Clipping changes which pixels the rest
// hits.
FASTREENACT_INLINE bool clip(Line& line, int64_t width, int64_t height) {
    const int64_t right = width - 1, bottom = height - 1;
    int code1 = outside_code(line.x1, line.y1, right, bottom);
    int code2 = outside_code(line.x2, line.y2, right, bottom);
    if ((code1 & code2) == 0 && (code1 | code2) != 0) {
        if (code1 & 12) {
            const int64_t edge = code1 < 8 ? 0 : bottom;
            line.x1 += along(edge - line.y1, line.x2 - line.x1, line.y2 - line.y1);
            line.y1 = edge;
            code1 = outside_code(line.x1, 0, right, bottom);
        }
        if (code2 & 12) {
            const int64_t edge = code2 < 8 ? 0 : bottom;
            line.x2 += along(edge - line.y2, line.x2 - line.x1, line.y2 - line.y1);
            line.y2 = edge;
            code2 = outside_code(line.x2, 0, right, bottom);
        }
        if ((code1 & code2) == 0 && (code1 | code2) != 0) {
            if (code1 != 0) {
                const int64_t edge = code1 == 1 ? 0 : right;
                line.y1 += along(edge - line.x1, line.y2 - line.y1, line.x2 - line.x1);
                line.x1 = edge;
                code1 = 0;
            }
            if (code2 != 0) {
                const int64_t edge = code2 == 1 ? 0 : right;
                line.y2 += along(edge - line.x2, line.y2 - line.y1, line.x2 - line.x1);
                line.x2 = edge;
                code2 = 0;
            }
        }
    }
    return (code1 | code2) == 0;
}

// A clipped line from its left end: `major` steps along its longer axis, `minor` across.
struct Walk {
    int64_t x, y, step_y, major, minor;
    bool steep;
};

FASTREENACT_INLINE Walk walk(const Line& line) {
    const bool swap = line.x2 < line.x1;
    const int64_t dx = swap ? line.x1 - line.x2 : line.x2 - line.x1;
    const int64_t rise = swap ? line.y1 - line.y2 : line.y2 - line.y1;
    const int64_t dy = rise < 0 ? -rise : rise;
    const bool steep = dy > dx;
    return {swap ? line.x2 : line.x1, swap ? line.y2 : line.y1, rise < 0 ? -1 : 1,
            steep ? dy : dx,          steep ? dx : dy,          steep};
}

// Calls plot(x, y) for each pixel of a clipped line: 4-connected, from the left end to the right one.
template <typename Plot>
FASTREENACT_INLINE void trace(const Line& line, Plot plot) {
    Walk w = walk(line);
    int64_t error = 0;
    for (int64_t i = 0; i <= w.major + w.minor; ++i) {
        plot(w.x, w.y);
        const bool sideways = error < 0;
        error += sideways ? 2 * w.major : -2 * w.minor;
        if (sideways == w.steep) {
            w.x += 1;
        } else {
            w.y += w.step_y;
        }
    }
}

// The pixels of `trace`, the share-th of `shares` parts of them. After a steps along the line `trace` stands at the one
// across that step a - 1 asked for, ceil(minor * (a - 1) / major), and goes on to ceil(minor * a / major) before it
// takes the next step along. A side is at most 2^15 pixels: 32 bits hold the product.
template <typename Plot>
FASTREENACT_INLINE void trace_share(const Line& line, int32_t share, int32_t shares, Plot plot) {
    const Walk w = walk(line);
    const int32_t major = static_cast<int32_t>(w.major), minor = static_cast<int32_t>(w.minor);
    const int32_t left = static_cast<int32_t>(w.x), start = static_cast<int32_t>(w.y);
    const int32_t step_y = static_cast<int32_t>(w.step_y);
    for (int32_t a = share; a <= major; a += shares) {
        const int32_t from = a > 0 ? (minor * (a - 1) + major - 1) / major : 0;
        const int32_t to = a > 0 ? (minor * a + major - 1) / major : 0;
        for (int32_t b = from; b <= to; ++b) {
            plot(left + (w.steep ? b : a), start + step_y * (w.steep ? a : b));
        }
    }
}

// Pixel of a coordinate in [-1, 1], truncated towards zero. False for NaN and infinity. Far outside it saturates at
// 2^30, where a drawing of at most 2^15 pixels no longer sees the difference.
FASTREENACT_INLINE bool to_pixel(float coordinate, int64_t size, int64_t& pixel) {
    const float limit = 1073741824.0f;
    float at = (coordinate + 1.0f) / 2.0f * static_cast<float>(size - 1);
    if (!(at - at == 0.0f)) {
        if (!(coordinate - coordinate == 0.0f)) return false;
        at = coordinate;  // finite, but the product was not
    }
    at = at < limit ? at : limit;
    at = at > -limit ? at : -limit;
    pixel = static_cast<int64_t>(at);
    return true;
}

// What is left of a segment in a drawing: nothing, a line between pixels of the drawing, or a circle about (x1, y1),
// which may lie anywhere.
struct Stroke {
    int32_t x1, y1, x2, y2;
    enum Kind : int32_t { kNothing, kLine, kCircle } kind;
};

FASTREENACT_INLINE Stroke stroke_of(const RasterizeLandmarksParams& p, const Drawing& d, int64_t n, int64_t segment) {
    const float* keypoints = p.keypoints + n * p.keypoint_stride_n;
    const int32_t second = d.segments[2 * segment + 1];
    const float* from = keypoints + d.segments[2 * segment] * p.keypoint_stride_k;
    const float* to = second < 0 ? from : keypoints + second * p.keypoint_stride_k;
    const int64_t c = p.keypoint_stride_c;
    Line line;
    const bool finite = to_pixel(from[0], d.size, line.x1) && to_pixel(from[c], d.size, line.y1) &&
                        to_pixel(to[0], d.size, line.x2) && to_pixel(to[c], d.size, line.y2);
    if (!finite || (second >= 0 && !clip(line, d.size, d.size))) return {0, 0, 0, 0, Stroke::kNothing};
    return {static_cast<int32_t>(line.x1), static_cast<int32_t>(line.y1), static_cast<int32_t>(line.x2),
            static_cast<int32_t>(line.y2), second < 0 ? Stroke::kCircle : Stroke::kLine};
}

// Calls plot(x, y) for the i-th of a circle's five pixels where it lies in the drawing.
template <typename Plot>
FASTREENACT_INLINE void circle_pixel(const Stroke& circle, int32_t i, int64_t size, Plot plot) {
    const int32_t x = circle.x1 + (i == 2) - (i == 1), y = circle.y1 + (i == 4) - (i == 3);
    if (x >= 0 && x < size && y >= 0 && y < size) plot(x, y);
}

// The GPU draws tiles, each by one block: whole rows as far as they fit, else a part of one row.
constexpr int32_t kTilePixels = 4096;

struct Tile {
    int32_t left, top, width, height;
};

FASTREENACT_INLINE int32_t tile_count(int32_t size) {
    if (size > kTilePixels) return (size + kTilePixels - 1) / kTilePixels * size;
    const int32_t rows = kTilePixels / size;
    return (size + rows - 1) / rows;
}

FASTREENACT_INLINE Tile tile_at(int32_t size, int32_t index) {
    if (size > kTilePixels) {
        const int32_t across = (size + kTilePixels - 1) / kTilePixels;
        const int32_t left = index % across * kTilePixels;
        return {left, index / across, size - left < kTilePixels ? size - left : kTilePixels, 1};
    }
    const int32_t rows = kTilePixels / size, top = index * rows;
    return {0, top, size, size - top < rows ? size - top : rows};
}

// Calls mark(pixel of the tile) for the share-th of `shares` parts of a stroke.
template <typename Mark>
FASTREENACT_INLINE void draw_share(const Stroke& stroke, const Tile& tile, int64_t size, int32_t share, int32_t shares,
                                   Mark mark) {
    auto plot = [&](int32_t x, int32_t y) {
        const int32_t column = x - tile.left, row = y - tile.top;
        if (column >= 0 && column < tile.width && row >= 0 && row < tile.height) mark(row * tile.width + column);
    };
    if (stroke.kind == Stroke::kCircle) {
        for (int32_t i = share; i < 5; i += shares) circle_pixel(stroke, i, size, plot);
    } else if (stroke.kind == Stroke::kLine) {
        const int32_t end = tile.top + tile.height;
        if ((stroke.y1 < tile.top && stroke.y2 < tile.top) || (stroke.y1 >= end && stroke.y2 >= end)) return;
        trace_share(Line{stroke.x1, stroke.y1, stroke.x2, stroke.y2}, share, shares, plot);
    }
}

constexpr int kRasterizeThreads = 256;

#ifndef __CUDACC_RTC__
FASTREENACT_INLINE LaunchShape rasterize_shape(const RasterizeLandmarksParams& p) {
    int32_t tiles = 0;
    for (int64_t i = 0; i < p.drawing_count; ++i) {
        const int32_t count = tile_count(static_cast<int32_t>(p.drawings[i].size));
        tiles = count > tiles ? count : tiles;
    }
    constexpr int64_t kMostPictures = 32 * 1024;  // below the hardware's 65535; the others are drawn in further turns
    return {static_cast<uint32_t>(tiles), static_cast<uint32_t>(p.drawing_count),
            static_cast<uint32_t>(p.n < kMostPictures ? p.n : kMostPictures), kRasterizeThreads, 0};
}

void rasterize_landmarks(const RasterizeLandmarksParams& params, int64_t begin, int64_t end);  // pictures x drawings
void rasterize_lines(const RasterizeLinesParams& params, int64_t begin, int64_t end);          // lines
#endif

}  // namespace fastreenact
