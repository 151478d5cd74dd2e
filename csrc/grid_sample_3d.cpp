// grid_sample_3d on the CPU. Compiled once per instruction set. For up to 64 grid points of a row: taps and weights,
// vectorised over points; then each point, vectorised over channels.
#include "grid_sample_3d.h"

#include "substrate/isa.h"
#include "substrate/place.h"
#include "substrate/vec.h"

namespace fastreenact {
namespace FASTREENACT_ISA {
namespace {

constexpr int kChunk = 64;   // points whose taps wait on the stack
constexpr int kAhead = 4;    // points from one to the one whose corners are fetched meanwhile; 2 and 8 are slower
constexpr int kSums = 4096;  // values whose sums over the depth wait on the stack

struct Taps {
    int32_t low[3][kChunk];   // x, y, z of the lower tap; -2 or size + 1 where both are outside
    float weight[3][kChunk];  // of the upper tap
};

// Taps of `count` points of a row of the grid.
void find(const GridSample3dParams& p, const float* grid, int count, Taps& taps) {
    const int64_t sizes[3] = {p.width, p.height, p.depth};
    double coordinate[3][kChunk];
    for (int i = 0; i < count; ++i) {
        for (int axis = 0; axis < 3; ++axis) coordinate[axis][i] = grid[i * p.grid_stride_x + axis * p.grid_stride_c];
    }
    for (int axis = 0; axis < 3; ++axis) {
        const int64_t size = sizes[axis];
        const double half = 0.5 * static_cast<double>(size - (p.align_corners ? 1 : 0));
        if (p.border) {
            place<true>(coordinate[axis], count, size, half, taps.low[axis], taps.weight[axis]);
        } else {
            place<false>(coordinate[axis], count, size, half, taps.low[axis], taps.weight[axis]);
        }
    }
}

// Writes a vector of channels, or (kPart) `part` of them; kAdd: to what is there.
template <bool kAdd, bool kPart, typename Out>
FASTREENACT_INLINE void finish(Out* out, Vec value, int part) {
    if (kPart) {
        store_part(out, kAdd ? load_part(out, part) + value : value, part);
    } else {
        store(out, kAdd ? load(out) + value : value);
    }
}

// A point with taps outside: those are not read, so that 0 * infinity does not come in.
template <typename T, bool kAdd, typename Out>
void sample_rim(const GridSample3dParams& p, const T* volume, const Taps& taps, int i, int64_t channels, Out* out) {
    const int64_t sizes[3] = {p.width, p.height, p.depth};
    const int64_t strides[3] = {p.volume_stride_x, p.volume_stride_y, p.volume_stride_z};
    const T* from[8];
    float weight[8];
    int count = 0;
    for (int k = 0; k < 8; ++k) {
        const T* tap = volume;
        float product = 1.0f;
        bool inside = true;
        for (int axis = 2; axis >= 0; --axis) {
            const int upper = k >> axis & 1;
            const int64_t at = taps.low[axis][i] + upper;
            inside = inside && at >= 0 && at < sizes[axis];
            tap += inside ? at * strides[axis] : 0;
            product *= upper ? taps.weight[axis][i] : 1.0f - taps.weight[axis][i];
        }
        if (!inside) continue;
        from[count] = tap;
        weight[count++] = product;
    }
    for (int64_t c = 0; c < channels; c += kWidth) {
        const int part = static_cast<int>(channels - c);
        Vec value = {};
        for (int k = 0; k < count; ++k) {
            value += (part >= kWidth ? load(from[k] + c) : load_part(from[k] + c, part)) * weight[k];
        }
        if (part >= kWidth) {
            finish<kAdd, false>(out + c, value, kWidth);
        } else {
            finish<kAdd, true>(out + c, value, part);
        }
    }
}

// Fetches a point's corners into the cache, or nonsense where they lie outside: a prefetch never faults.
template <typename T>
FASTREENACT_INLINE void prefetch(const GridSample3dParams& p, const T* volume, const Taps& taps, int i,
                                 int64_t channels) {
    const T* first = volume + (taps.low[2][i] * p.volume_stride_z + taps.low[1][i] * p.volume_stride_y +
                               taps.low[0][i] * p.volume_stride_x);
    constexpr int64_t kLine = 64 / sizeof(T);
    for (int64_t k = 0; k < channels; k += kLine) {
        for (int corner = 0; corner < 8; ++corner) {
            __builtin_prefetch(first + k + (corner >> 2) * p.volume_stride_z + (corner >> 1 & 1) * p.volume_stride_y +
                               (corner & 1) * p.volume_stride_x);
        }
    }
}

template <typename T, bool kAdd, typename Out>
FASTREENACT_INLINE void sample(const GridSample3dParams& p, const T* volume, const Taps& taps, int i, int64_t channels,
                               Out* out) {
    const int64_t x = taps.low[0][i], y = taps.low[1][i], z = taps.low[2][i];
    if (x < 0 || x >= p.width - 1 || y < 0 || y >= p.height - 1 || z < 0 || z >= p.depth - 1) {
        sample_rim<T, kAdd>(p, volume, taps, i, channels, out);
        return;
    }
    const float wx = taps.weight[0][i], wy = taps.weight[1][i], wz = taps.weight[2][i];
    const float upper_front = (1.0f - wz) * (1.0f - wy), lower_front = (1.0f - wz) * wy;
    const float upper_back = wz * (1.0f - wy), lower_back = wz * wy;
    const Vec wa = splat(upper_front * (1.0f - wx)), wb = splat(upper_front * wx);
    const Vec wc = splat(lower_front * (1.0f - wx)), wd = splat(lower_front * wx);
    const Vec we = splat(upper_back * (1.0f - wx)), wf = splat(upper_back * wx);
    const Vec wg = splat(lower_back * (1.0f - wx)), wh = splat(lower_back * wx);
    const T* a = volume + z * p.volume_stride_z + y * p.volume_stride_y + x * p.volume_stride_x;
    const T *b = a + p.volume_stride_x, *c = a + p.volume_stride_y, *d = c + p.volume_stride_x;
    const T *e = a + p.volume_stride_z, *f = b + p.volume_stride_z, *g = c + p.volume_stride_z;
    const T* h = d + p.volume_stride_z;
    int64_t k = 0;
    for (; k + kWidth <= channels; k += kWidth) {
        const Vec front = load(a + k) * wa + load(b + k) * wb + load(c + k) * wc + load(d + k) * wd;
        const Vec back = load(e + k) * we + load(f + k) * wf + load(g + k) * wg + load(h + k) * wh;
        finish<kAdd, false>(out + k, front + back, kWidth);
    }
    if (k < channels) {
        const int part = static_cast<int>(channels - k);
        auto at = [&](const T* from) { return load_part(from + k, part); };
        const Vec front = at(a) * wa + at(b) * wb + at(c) * wc + at(d) * wd;
        const Vec back = at(e) * we + at(f) * wf + at(g) * wg + at(h) * wh;
        finish<kAdd, true>(out + k, front + back, part);
    }
}

template <typename T, bool kAdd, typename Out>
void sample_points(const GridSample3dParams& p, const T* volume, const Taps& taps, int count, int64_t channels,
                   Out* out, int64_t out_stride) {
    for (int i = 0; i < count; ++i) {
        if (i + kAhead < count) prefetch(p, volume, taps, i + kAhead, channels);
        sample<T, kAdd>(p, volume, taps, i, channels, out + i * out_stride);
    }
}

// `count` columns of a row, some of their channels, added up over the depth.
template <typename T>
void sum_columns(const GridSample3dParams& p, const T* volume, const float* grid, int64_t channels, int count,
                 Taps& taps, T* out) {
    float sums[kSums];
    for (int64_t k = 0; k < count * channels; ++k) sums[k] = 0.0f;
    for (int64_t z = 0; z < p.out_depth; ++z) {
        find(p, grid + z * p.grid_stride_z, count, taps);
        sample_points<T, true>(p, volume, taps, count, channels, sums, channels);
    }
    for (int i = 0; i < count; ++i, out += p.out_stride_x) {
        const float* sum = sums + i * channels;
        int64_t k = 0;
        for (; k + kWidth <= channels; k += kWidth) store(out + k, load(sum + k));
        const int part = static_cast<int>(channels - k);
        if (part > 0) store_part(out + k, load_part(sum + k, part), part);
    }
}

template <typename T>
void rows(const GridSample3dParams& p, int64_t begin, int64_t end) {
    const int64_t out_depth = p.sum_depth ? 1 : p.out_depth;
    const int64_t channels = p.sum_depth && p.channels > kSums ? kSums : p.channels;  // at a time
    const int64_t columns = p.sum_depth && channels * kChunk > kSums ? kSums / channels : kChunk;
    Taps taps;
    for (int64_t row = begin; row < end; ++row) {
        // All depths of a row one after the other: what their neighbourhoods share is still in the cache.
        const int64_t z = row % out_depth, y = row / out_depth % p.out_height, n = row / out_depth / p.out_height;
        const T* volume = static_cast<const T*>(p.volume) + n * p.volume_stride_n;
        const float* grid = p.grid + n * p.grid_stride_n + z * p.grid_stride_z + y * p.grid_stride_y;
        T* out = static_cast<T*>(p.out) + n * p.out_stride_n + z * p.out_stride_z + y * p.out_stride_y;
        for (int64_t x = 0; x < p.out_width; x += columns) {
            const int count = static_cast<int>(p.out_width - x < columns ? p.out_width - x : columns);
            const float* from = grid + x * p.grid_stride_x;
            T* to = out + x * p.out_stride_x;
            if (!p.sum_depth) {
                find(p, from, count, taps);
                sample_points<T, false>(p, volume, taps, count, channels, to, p.out_stride_x);
                continue;
            }
            for (int64_t c = 0; c < p.channels; c += channels) {
                const int64_t present = p.channels - c < channels ? p.channels - c : channels;
                sum_columns(p, volume + c, from, present, count, taps, to + c);
            }
        }
    }
}

}  // namespace

void grid_sample_3d(const GridSample3dParams& p, int64_t begin, int64_t end) {
    (p.dtype == kFloat32 ? rows<float> : rows<BFloat16>)(p, begin, end);
}

}  // namespace FASTREENACT_ISA
}  // namespace fastreenact
