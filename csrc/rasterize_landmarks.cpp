// rasterize_landmarks on the CPU: some hundred pixels a drawing, so one copy for all instruction sets.
#include "rasterize_landmarks.h"

#include <cstring>

namespace fastreenact {

void rasterize_landmarks(const RasterizeLandmarksParams& p, int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
        uint8_t* picture = p.out + n * p.out_stride_n;
        for (int64_t y = 0; y < p.size; ++y) {
            uint8_t* row = picture + y * p.out_stride_y;
            if (p.out_stride_x == 3) {
                std::memset(row, 0, static_cast<size_t>(3 * p.size));
            } else {
                for (int64_t x = 0; x < p.size; ++x) std::memset(row + x * p.out_stride_x, 0, 3);
            }
        }
        const float* keypoints = p.keypoints + n * p.keypoint_stride_n;
        auto point = [&](int64_t k, int64_t& x, int64_t& y) {
            const float* at = keypoints + k * p.keypoint_stride_k;
            return to_pixel(at[0], p.size, x) && to_pixel(at[p.keypoint_stride_c], p.size, y);
        };
        for (int64_t s = 0; s < p.segment_count; ++s) {
            const int32_t first = p.segments[2 * s], second = p.segments[2 * s + 1];
            const uint8_t* colour = p.colours + 3 * s;
            auto plot = [&](int64_t x, int64_t y) {
                std::memcpy(picture + y * p.out_stride_y + x * p.out_stride_x, colour, 3);
            };
            Line line;
            if (!point(first, line.x1, line.y1)) continue;
            if (second < 0) {
                const int64_t offsets[5][2] = {{0, 0}, {-1, 0}, {1, 0}, {0, -1}, {0, 1}};
                for (const auto& offset : offsets) {
                    const int64_t x = line.x1 + offset[0], y = line.y1 + offset[1];
                    if (x >= 0 && x < p.size && y >= 0 && y < p.size) plot(x, y);
                }
                continue;
            }
            if (!point(second, line.x2, line.y2)) continue;
            if (clip(line, p.size, p.size)) trace(line, plot);
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
