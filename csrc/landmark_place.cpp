// landmark_place, landmark_nodes and landmark_covers on the CPU: what a block of a GPU does together, by one thread.
#include "landmark_place.h"

#include "landmark_covers.h"
#include "landmark_nodes.h"

namespace fastreenact {

void landmark_place(const LandmarkPlaceParams& p, int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) landmark_place_frame(p, n, LandmarkAlone());
}

void landmark_nodes(const LandmarkNodesParams& p, int64_t begin, int64_t end) {
    const int64_t rows = landmark_tiles(p, p.height);
    LandmarkTile tile;
    for (int64_t row = begin; row < end; ++row) {
        for (int64_t x = 0; x < landmark_tiles(p, p.width); ++x) {
            landmark_tile(p, row / rows, x, row % rows, tile, LandmarkAlone());
        }
    }
}

void landmark_covers(const LandmarkCoversParams& p, int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
        const int64_t n = row / p.height, y = row % p.height;
        uint8_t* first = p.surface + n * p.stride_n + y * p.stride_y;
        for (const LandmarkCover& cover : p.frames[n].plan.covers) {
            for (int32_t x = cover.left; x < cover.right && x < p.width; ++x) {
                cover_pixel(cover, x, static_cast<int32_t>(y), first + 3 * x);
            }
        }
    }
}

}  // namespace fastreenact
