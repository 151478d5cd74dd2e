// landmark_place and landmark_nodes on the CPU: what a block of a GPU does together, by one thread.
#include "landmark_place.h"

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

}  // namespace fastreenact
