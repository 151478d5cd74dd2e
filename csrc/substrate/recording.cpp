#include "substrate/recording.h"

#include <algorithm>

namespace fastreenact {

thread_local Recording* recording = nullptr;

int64_t rows_for_threads(int64_t rows, int64_t least) {
    const int64_t threads = num_threads();
    const int64_t each = (rows + threads - 1) / threads;
    const int64_t blocks = std::max<int64_t>(each / std::max<int64_t>(least, 1), 1);
    return (each + blocks - 1) / blocks;
}

int64_t rows_per_block(int64_t rows, int64_t bytes_per_row) {
    constexpr int64_t kBlockBytes = 32 << 10, kTogether = 32;
    const int64_t bytes = std::max<int64_t>(bytes_per_row, 1);
    return std::max((kBlockBytes + bytes - 1) / bytes, rows_for_threads(rows, kTogether));
}

std::vector<std::pair<std::string, double>> Recording::replay() {
    std::vector<double> ends(stages_.size() + 1);
    parallel_sequence(stages_.data(), static_cast<int64_t>(stages_.size()), ends.data());
    std::vector<std::pair<std::string, double>> times;
    for (size_t i = 0; i < marks_.size(); ++i) {
        const size_t next = i + 1 < marks_.size() ? marks_[i + 1].second : stages_.size();
        times.emplace_back(marks_[i].first, 1e3 * (ends[next] - ends[marks_[i].second]));
    }
    return times;
}

}  // namespace fastreenact
