// tail on the CPU. Compiled once per instruction set.
//
// Three rows of the doubled, depthwise convolved map are kept. Of the last convolution's few outputs four pixels are
// one matrix row, so that 12 or 16 of a panel's 16 lanes are used; its weights hold each tap at four places.
#include "tail.h"

#include <cstring>

#include "substrate/gemm.h"
#include "substrate/isa.h"

namespace fastreenact {
namespace FASTREENACT_ISA {
namespace {

constexpr int64_t kChannels = 8;
constexpr int64_t kTogether = 4;  // pixels
constexpr int64_t kWindow = (kTogether + 2) * kChannels;

// Of three taps over a map doubled by nearest, those that see the same value, summed: for an even output, an odd one,
// and an even one whose right neighbour is cropped away.
struct Parities {
    float weights[3][3][2][2][kChannels];  // [y][x][tap y][tap x]
};

void sum_parities(const float* depthwise, Parities& sums) {
    // [parity][tap]: first and last of the three taps that fall on each of the two inputs
    static const int kFirst[3][2] = {{0, 1}, {0, 2}, {0, 1}}, kLast[3][2] = {{0, 2}, {1, 2}, {0, 1}};
    for (int y = 0; y < 3; ++y) {
        for (int x = 0; x < 3; ++x) {
            for (int ty = 0; ty < 2; ++ty) {
                for (int tx = 0; tx < 2; ++tx) {
                    for (int64_t c = 0; c < kChannels; ++c) {
                        float sum = 0.0f;
                        for (int i = kFirst[y][ty]; i <= kLast[y][ty]; ++i) {
                            for (int j = kFirst[x][tx]; j <= kLast[x][tx]; ++j) {
                                sum += depthwise[(3 * i + j) * kChannels + c];
                            }
                        }
                        sums.weights[y][x][ty][tx][c] = sum;
                    }
                }
            }
        }
    }
}

// The pixels (2j, 2j + 1) of a doubled, convolved row see inputs (j - 1, j) times the first tap, (j, j + 1) times the
// second: 16 neighbouring values each.
struct PairWeights {
    float first[2][2 * kChannels];  // [tap y]
    float second[2][2 * kChannels];
    float bias[2 * kChannels];
};

PairWeights pair_weights(const Parities& sums, int parity_y, const float* bias) {
    PairWeights pair;
    for (int64_t i = 0; i < 2 * kChannels; ++i) pair.bias[i] = bias[i % kChannels];
    for (int ty = 0; ty < 2; ++ty) {
        for (int px = 0; px < 2; ++px) {
            for (int64_t c = 0; c < kChannels; ++c) {
                pair.first[ty][px * kChannels + c] = sums.weights[parity_y][px][ty][0][c];
                pair.second[ty][px * kChannels + c] = sums.weights[parity_y][px][ty][1][c];
            }
        }
    }
    return pair;
}

// `lines` are the two input rows, [1 + w + 1][8] with zeros at both ends; `to` is the first pixel of the result.
template <typename T>
void convolve_row(const TailParams& p, const Parities& sums, int parity_y, const float* const (&lines)[2], T* to) {
    const int64_t half_width = (p.width + 1) / 2;
    const PairWeights pair = pair_weights(sums, parity_y, p.depthwise_bias);
    for (int64_t part = 0; part < 2 * kChannels; part += kWidth) {
        Vec first[2], second[2];
        for (int ty = 0; ty < 2; ++ty) {
            first[ty] = load(pair.first[ty] + part);
            second[ty] = load(pair.second[ty] + part);
        }
        const Vec bias = load(pair.bias + part);
        for (int64_t j = 0; j < half_width; ++j) {
            Vec sum = bias;
            for (int ty = 0; ty < 2; ++ty) {
                const float* line = lines[ty] + j * kChannels + part;
                sum += load(line) * first[ty] + load(line + kChannels) * second[ty];
            }
            store(to + j * 2 * kChannels + part, relu(sum));
        }
    }
    if (p.width % 2 == 0) return;
    const int64_t last = half_width - 1;
    float values[2 * kChannels] = {};  // the pixel beyond the last is a zero of the next convolution
    for (int64_t c = 0; c < kChannels; ++c) {
        float sum = p.depthwise_bias[c];
        for (int ty = 0; ty < 2; ++ty) {
            for (int tx = 0; tx < 2; ++tx) {
                sum += lines[ty][(last + tx) * kChannels + c] * sums.weights[parity_y][2][ty][tx][c];
            }
        }
        values[c] = sum <= 0.0f ? 0.0f : sum;
    }
    for (int64_t part = 0; part < 2 * kChannels; part += kWidth) {
        store(to + last * 2 * kChannels + part, load(values + part));
    }
}

// Biases of four pixels: of the first, an inner and the last of a row's groups, the last being also the first if alone.
void group_biases(const TailParams& p, int64_t groups, int64_t y, float (&biases)[3][kPanel]) {
    const float* row = p.bias + (y == 0 ? 0 : y + 1 < p.height ? 1 : 2) * 3 * kPanel;
    std::memset(biases, 0, sizeof(biases));
    for (int which = 0; which < 3; ++which) {
        for (int64_t q = 0; q < kTogether; ++q) {
            const bool first = q == 0 && (which == 0 || (which == 2 && groups == 1));
            const bool last = which == 2 && (groups - 1) * kTogether + q == p.width - 1;
            const float* bias = row + (first ? 0 : last ? 2 : 1) * kPanel;
            for (int64_t o = 0; o < p.channels_out; ++o) biases[which][q * p.channels_out + o] = bias[o];
        }
    }
}

// `kRows` groups of four pixels of one row, from `group` on.
template <typename T, typename Ring, bool kPairs, int kRows>
FASTREENACT_INLINE void some_groups(const TailParams& p, const Ring* const (&rows)[3], const float (&biases)[3][kPanel],
                                    int64_t groups, int64_t group, T* to) {
    Vec sums[kRows][1][kParts];
    for (int i = 0; i < kRows; ++i) {
        const float* bias = biases[group + i == groups - 1 ? 2 : group + i == 0 ? 0 : 1];
        for (int part = 0; part < kParts; ++part) sums[i][0][part] = load(bias + part * kWidth);
    }
    for (int row = 0; row < 3; ++row) {
        const char* weights = static_cast<const char*>(p.weights) + row * kWindow * kPanel * (kPairs ? 2 : 4);
        multiply<Ring, kPairs, kRows, 1>(sums, rows[row] + group * kTogether * kChannels, kTogether * kChannels,
                                         weights, kWindow * kPanel, kWindow);
    }
    for (int i = 0; i < kRows; ++i) {
        const int64_t x = (group + i) * kTogether;
        const int64_t present = (p.width - x < kTogether ? p.width - x : kTogether) * p.channels_out;
        for (int part = 0; part < kParts; ++part) {
            const int64_t left = present - part * kWidth;
            T* at = to + x * p.channels_out + part * kWidth;
            if (left >= kWidth) {
                store(at, sums[i][0][part]);
            } else if (left > 0) {
                store_part(at, sums[i][0][part], static_cast<int>(left));
            }
        }
    }
}

template <typename T, typename Ring, bool kPairs>
void work(const TailParams& p, int64_t begin, int64_t end) {
    const int64_t half_height = (p.height + 1) / 2, half_width = (p.width + 1) / 2;
    const int64_t groups = (p.width + kTogether - 1) / kTogether;
    const int64_t line_size = (half_width + 2) * kChannels, ring_size = (groups * kTogether + 4) * kChannels;
    const int64_t line_bytes = whole_lines(line_size * static_cast<int64_t>(sizeof(float)));
    const int64_t ring_bytes = whole_lines(ring_size * static_cast<int64_t>(sizeof(Ring)));
    char* memory = scratch.need(3 * line_bytes + 4 * ring_bytes);
    std::memset(memory, 0, static_cast<size_t>(3 * line_bytes + 4 * ring_bytes));  // ends of rows, and rows outside
    const auto line_at = [&](int64_t i) { return reinterpret_cast<float*>(memory + i * line_bytes); };
    const auto ring_at = [&](int64_t i) { return reinterpret_cast<Ring*>(memory + 3 * line_bytes + i * ring_bytes); };
    Parities sums;
    sum_parities(p.depthwise, sums);
    int64_t n = -1, line_made = -1, ring_made = -1;
    for (int64_t row = begin; row < end; ++row) {
        if (row / p.height != n) line_made = ring_made = -1;
        n = row / p.height;
        const int64_t y = row % p.height;
        const T* picture = static_cast<const T*>(p.x) + n * p.x_stride_n;
        const Ring* rows[3];
        for (int tap = 0; tap < 3; ++tap) {
            const int64_t at = y + tap - 1;
            rows[tap] = ring_at(at < 0 || at >= p.height ? 3 : at % 3);
            if (at < 0 || at >= p.height || at <= ring_made) continue;
            const float* lines[2];
            for (int ty = 0; ty < 2; ++ty) {
                const int64_t sy = (at + 1) / 2 - 1 + ty;
                lines[ty] = line_at(sy < 0 || sy >= half_height ? 2 : sy % 2);
                if (sy < 0 || sy >= half_height || sy <= line_made) continue;
                float* line = line_at(sy % 2) + kChannels;
                for (int64_t x = 0; x < half_width; ++x) {
                    const T* from = picture + sy * p.x_stride_y + x * p.x_stride_x;
                    for (int64_t c = 0; c < kChannels; c += kWidth) {
                        // Beyond the eighth channel lies the next pixel, which comes next, or the zeros at the end.
                        store(line + x * kChannels + c,
                              kWidth > kChannels ? load_part(from, kChannels) : load(from + c));
                    }
                }
                line_made = sy;
            }
            convolve_row(p, sums, at % 2 != 0 ? 1 : at + 1 == p.height ? 2 : 0, lines, ring_at(at % 3) + kChannels);
            ring_made = at;
        }
        float biases[3][kPanel];
        group_biases(p, groups, y, biases);
        T* to = static_cast<T*>(p.out) + n * p.out_stride_n + y * p.out_stride_y;
        int64_t group = 0;
        constexpr int kRows = pixels_at_once(1);
        for (; group + kRows <= groups; group += kRows) {
            some_groups<T, Ring, kPairs, kRows>(p, rows, biases, groups, group, to);
        }
        for (; group < groups; ++group) some_groups<T, Ring, kPairs, 1>(p, rows, biases, groups, group, to);
    }
}

}  // namespace

void tail(const TailParams& p, int64_t begin, int64_t end) {
    if (p.dtype == kFloat32) {
        work<float, float, false>(p, begin, end);
        return;
    }
#if defined(__AVX512BF16__)
    work<BFloat16, BFloat16, true>(p, begin, end);
#else
    work<BFloat16, float, false>(p, begin, end);
#endif
}

}  // namespace FASTREENACT_ISA
}  // namespace fastreenact
