// dictionary_read on the CPU. Compiled once per instruction set.
//
// Some rows at a time: their scores stay in a core's cache between the product with the keys, the softmax and the
// product with the values.
#include "dictionary_read.h"

#include <cstring>

#include "substrate/gemm.h"
#include "substrate/isa.h"
#include "substrate/vec.h"

namespace fastreenact {
namespace FASTREENACT_ISA {
namespace {

constexpr int64_t kScoresBytes = 64 << 10;  // of the rows at once
constexpr float kNoEntry = -3.4028235e38f;  // the score of an entry that only fills a panel: none is lower

template <bool kPairs>
struct Panel {
    using Element = float;
};
template <>
struct Panel<true> {
    using Element = BFloat16;
};

// One panel: [depth][16], or [depth / 2][16][2]; value k of column j lies at k * stride_k + j * stride_j.
template <typename T, bool kPairs>
void pack_panel(const T* from, int64_t stride_k, int64_t stride_j, int64_t depth, int64_t columns,
                typename Panel<kPairs>::Element* to, int64_t padded) {
    using Element = typename Panel<kPairs>::Element;
    std::memset(static_cast<void*>(to), 0, static_cast<size_t>(padded * kPanel) * sizeof(*to));
    if constexpr (kPairs) {
        for (int64_t k = 0; k < depth; ++k) {
            Element* at = to + k / 2 * 2 * kPanel + k % 2;
            for (int64_t j = 0; j < columns; ++j) at[2 * j] = from[k * stride_k + j * stride_j];
        }
    } else {
        for (int64_t k = 0; k < depth; ++k, to += kPanel) {
            for (int64_t j = 0; j < columns; ++j) to[j] = value_of(from[k * stride_k + j * stride_j]);
        }
    }
}

template <typename T, bool kPairs>
void pack(const DictionaryReadParams& p, int64_t begin, int64_t end) {
    using Element = typename Panel<kPairs>::Element;
    const DictionaryPanels panels = dictionary_panels(p);
    for (int64_t index = begin; index < end; ++index) {
        if (index < panels.keys) {
            const int64_t first = index * kPanel;
            pack_panel<T, kPairs>(static_cast<const T*>(p.u) + first * p.u_stride_r, 1, p.u_stride_r, p.key,
                                  p.entries - first < kPanel ? p.entries - first : kPanel,
                                  static_cast<Element*>(p.panels) + index * panels.key_size, panels.key_depth);
            continue;
        }
        const int64_t at = index - panels.keys, first = at % panels.values * kPanel;
        pack_panel<T, kPairs>(static_cast<const T*>(p.v) + at / panels.values * p.v_stride_n + first, p.v_stride_r, 1,
                              p.entries, p.channels - first < kPanel ? p.channels - first : kPanel,
                              static_cast<Element*>(p.panels) + panels.keys * panels.key_size + at * panels.value_size,
                              panels.value_depth);
    }
}

// Scores to weights, the largest of them 1, and one over their sum. NaN makes both NaN.
template <typename Weight>
FASTREENACT_INLINE float softmax(const float* scores, int64_t count, Weight* weights) {
    Vec lanes = load(scores);
    for (int64_t i = kWidth; i < count; i += kWidth) lanes = at_least(load(scores + i), lanes);
    const float largest = largest_of(lanes);
    Vec sums = {};
    for (int64_t i = 0; i < count; i += kWidth) {
        const Vec weight = exp_negative(load(scores + i) - largest);
        sums += weight;
        store(weights + i, weight);
    }
    return 1.0f / sum_of(sums);
}

template <typename T, bool kPairs>
void rows(const DictionaryReadParams& p, int64_t begin, int64_t end) {
    using Element = typename Panel<kPairs>::Element;
    const DictionaryPanels panels = dictionary_panels(p);
    const int64_t entries = panels.value_depth, key = panels.key_depth, row_bytes = entries * 4;
    const int64_t most = kScoresBytes / row_bytes > 12 ? kScoresBytes / row_bytes : 12;
    const int64_t scores_bytes = whole_lines(most * row_bytes), weights_bytes = kPairs ? scores_bytes / 2 : 0;
    const int64_t queries_bytes = whole_lines(most * key * static_cast<int64_t>(sizeof(T)));
    char* memory = scratch.need(scores_bytes + whole_lines(weights_bytes) + queries_bytes + whole_lines(most * 4));
    float* scores = reinterpret_cast<float*>(memory);
    Element* weights = reinterpret_cast<Element*>(kPairs ? memory + scores_bytes : memory);
    T* queries = reinterpret_cast<T*>(memory + scores_bytes + whole_lines(weights_bytes));
    float* factors = reinterpret_cast<float*>(memory + scores_bytes + whole_lines(weights_bytes) + queries_bytes);
    std::memset(static_cast<void*>(queries), 0, static_cast<size_t>(queries_bytes));
    float missing[kPanel];  // added to the last panel's scores
    for (int64_t j = 0; j < kPanel; ++j) missing[j] = entries - kPanel + j < p.entries ? 0.0f : kNoEntry;
    const Vec scale = splat(p.scale);

    for (int64_t row = begin; row < end;) {
        const int64_t n = row / p.rows, m = row % p.rows;
        const int64_t left_here = p.rows - m < end - row ? p.rows - m : end - row;
        const int64_t count = left_here < most ? left_here : most;
        const T* from = static_cast<const T*>(p.q) + n * p.q_stride_n + m * p.q_stride_m;
        for (int64_t i = 0; i < count; ++i) {
            std::memcpy(static_cast<void*>(queries + i * key), from + i * p.q_stride_m,
                        static_cast<size_t>(p.key) * sizeof(T));
        }
        product<T, kPairs>(
            {{queries}, 1, key, key, count}, p.panels, panels.key_size, panels.keys,
            [&](int64_t, int64_t, int) { return Vec{}; },
            [&](int64_t i, int64_t panel, int part, Vec sum) {
                sum *= scale;
                if (panel + 1 == panels.keys) sum += load(missing + part * kWidth);
                store(scores + i * entries + panel * kPanel + part * kWidth, sum);
            });
        for (int64_t i = 0; i < count; ++i) {
            factors[i] = softmax(scores + i * entries, entries, weights + i * entries);
        }
        const int64_t sample = p.samples == 1 ? 0 : n;
        const Element* values = static_cast<const Element*>(p.panels) + panels.keys * panels.key_size +
                                sample * panels.values * panels.value_size;
        T* to = static_cast<T*>(p.out) + n * p.out_stride_n + m * p.out_stride_m;
        product<Element, kPairs>(
            {{weights}, 1, entries, entries, count}, values, panels.value_size, panels.values,
            [&](int64_t, int64_t, int) { return Vec{}; },
            [&](int64_t i, int64_t panel, int part, Vec sum) {
                const int64_t c = panel * kPanel + part * kWidth, left = p.channels - c;
                T* at = to + i * p.out_stride_m + c;
                sum *= factors[i];
                if (left >= kWidth) {
                    store(at, sum);
                } else if (left > 0) {
                    store_part(at, sum, static_cast<int>(left));
                }
            });
        row += count;
    }
}

}  // namespace

void dictionary_pack(const DictionaryReadParams& p, int64_t begin, int64_t end) {
    if (p.dtype == kFloat32) {
        pack<float, false>(p, begin, end);
        return;
    }
#if defined(__AVX512BF16__)
    pack<BFloat16, true>(p, begin, end);
#else
    pack<BFloat16, false>(p, begin, end);
#endif
}

void dictionary_read(const DictionaryReadParams& p, int64_t begin, int64_t end) {
    if (p.dtype == kFloat32) {
        rows<float, false>(p, begin, end);
        return;
    }
#if defined(__AVX512BF16__)
    rows<BFloat16, true>(p, begin, end);
#else
    rows<BFloat16, false>(p, begin, end);
#endif
}

}  // namespace FASTREENACT_ISA
}  // namespace fastreenact
