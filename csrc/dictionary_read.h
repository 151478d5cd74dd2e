// dictionary_read: each row asks a small dictionary and gets the mean of its values, weighted by a softmax.
#pragma once
#include "substrate/common.h"

namespace fastreenact {

struct DictionaryReadParams {
    const void* q;       // [N, M, K] in `dtype`, keys contiguous
    const void* u;       // [R, K] in `dtype`, keys contiguous
    const void* v;       // [N or 1, R, C] in `dtype`, channels contiguous
    void* out;           // [N, M, C] in `dtype`, channels contiguous
    void* panels;        // work memory: keys and values as the matrix products read them; see dictionary_panels
    int64_t n;           // samples of q and out
    int64_t samples;     // of v: n or 1
    int64_t rows;        // M
    int64_t key;         // K
    int64_t entries;     // R
    int64_t channels;    // C
    int64_t q_stride_n;  // elements from sample to sample
    int64_t q_stride_m;  // elements from row to row
    int64_t u_stride_r;  // elements from entry to entry
    int64_t v_stride_n;  // and so on
    int64_t v_stride_r;
    int64_t out_stride_n;
    int64_t out_stride_m;
    float scale;    // factor on the scores
    int32_t dtype;  // Dtype: kFloat32 or kBFloat16
};

// What `panels` holds: panels of 16 entries with their keys, then, for each sample of v, panels of 16 channels of all
// entries; float32, or bfloat16 where pairs of it are multiplied.
struct DictionaryPanels {
    int64_t keys;         // panels of keys
    int64_t values;       // panels of values, of one sample
    int64_t key_depth;    // K, even
    int64_t value_depth;  // R, a multiple of 16
    int64_t key_size;     // elements of one panel
    int64_t value_size;   // elements of one panel
};

FASTREENACT_INLINE DictionaryPanels dictionary_panels(const DictionaryReadParams& p) {
    const int64_t keys = (p.entries + 15) / 16, depth = (p.key + 1) / 2 * 2;
    return {keys, (p.channels + 15) / 16, depth, keys * 16, depth * 16, keys * 16 * 16};
}

}  // namespace fastreenact
