// rasterize_landmarks on the CPU: some hundred pixels a drawing, so one copy for all instruction sets.
#include "rasterize_landmarks.h"

#include <cstring>

namespace fastreenact {

void rasterize_landmarks(const RasterizeLandmarksParams& p, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
        const int64_t n = i / p.drawing_count;
        const Drawing& d = p.drawings[i % p.drawing_count];
        uint8_t* picture = d.out + n * d.out_stride_n;
        for (int64_t y = 0; y < d.size; ++y) {
            uint8_t* row = picture + y * d.out_stride_y;
            if (d.out_stride_x == 3) {
                std::memset(row, 0, static_cast<size_t>(3 * d.size));
            } else {
                for (int64_t x = 0; x < d.size; ++x) std::memset(row + x * d.out_stride_x, 0, 3);
            }
        }
        for (int64_t s = 0; s < d.segment_count; ++s) {
            const uint8_t* colour = d.colours + 3 * s;
            auto plot = [&](int64_t x, int64_t y) {
                std::memcpy(picture + y * d.out_stride_y + x * d.out_stride_x, colour, 3);
            };
            const Stroke stroke = stroke_of(p, d, n, s);
            if (stroke.kind == Stroke::kCircle) {
                for (int32_t i = 0; i < 5; ++i) circle_pixel(stroke, i, d.size, plot);
            } else if (stroke.kind == Stroke::kLine) {
                trace(Line{stroke.x1, stroke.y1, stroke.x2, stroke.y2}, plot);
            }
        }
    }
}

void rasterize_lines(const RasterizeLinesParams& p, int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; ++m) {
        uint8_t* picture = p.out + m * p.height * p.width;
        std::memset(picture, 0, static_cast<size_t>(p.height * p.width));
        Line line = {p.lines[4 * m], p.lines[4 * m + 1], p.lines[4 * m + 2], p.lines[4 * m + 3]};
        if (clip(line, p.width, p.height)) trace(line, [&](int64_t x, int64_t y) { picture[y * p.width + x] = 255; });
    }
}

}  // namespace fastreenact
