// rasterize_landmarks: keypoints to coloured line drawings, pixel for pixel what OpenCV draws with LINE_4, thickness 1,
// and for a single point with a filled circle of radius 1. Specs and checks: face2face_rho.md, 3.5.
#pragma once
#include "common.h"

namespace fastreenact {

struct RasterizeLandmarksParams {
    const float* keypoints;   // [N, K, 2]: (x, y), -1 and 1 are the borders of the drawing
    uint8_t* out;             // [N, size, size, 3], channels contiguous
    const int32_t* segments;  // [S, 2] keypoints of the two ends, drawn in this order; second -1: a circle at the first
    const uint8_t* colours;   // [S, 3]
    int64_t n;                // pictures
    int64_t segment_count;    // S
    int64_t size;             // height and width of a drawing
    int64_t keypoint_stride_n;  // elements from picture to picture
    int64_t keypoint_stride_k;  // elements from point to point
    int64_t keypoint_stride_c;  // elements from x to y
    int64_t out_stride_n;       // bytes from picture to picture
    int64_t out_stride_y;       // bytes from row to row
    int64_t out_stride_x;       // bytes from pixel to pixel, at least 3
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

// Calls plot(x, y) for each pixel of a clipped line: 4-connected, from the left end to the right one.
template <typename Plot>
FASTREENACT_INLINE void trace(const Line& line, Plot plot) {
    const bool swap = line.x2 < line.x1;
    int64_t x = swap ? line.x2 : line.x1, y = swap ? line.y2 : line.y1;
    const int64_t dx = swap ? line.x1 - line.x2 : line.x2 - line.x1;
    const int64_t rise = swap ? line.y1 - line.y2 : line.y2 - line.y1;
    const int64_t dy = rise < 0 ? -rise : rise, step_y = rise < 0 ? -1 : 1;
    const bool steep = dy > dx;
    const int64_t major = steep ? dy : dx, minor = steep ? dx : dy;
    int64_t error = 0;
    for (int64_t i = 0; i <= major + minor; ++i) {
        plot(x, y);
        const bool sideways = error < 0;
        error += sideways ? 2 * major : -2 * minor;
        if (sideways == steep) {
            x += 1;
        } else {
            y += step_y;
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

void rasterize_landmarks(const RasterizeLandmarksParams& params, int64_t begin, int64_t end);  // pictures
void rasterize_lines(const RasterizeLinesParams& params, int64_t begin, int64_t end);          // lines

}  // namespace fastreenact
