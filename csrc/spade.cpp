// spade on the CPU. Compiled once per instruction set.
#include "spade.h"

#include "substrate/isa.h"
#include "substrate/vec.h"

namespace fastreenact {
namespace FASTREENACT_ISA {
namespace {

// One pixel's channels from `c` on: `kPart` says that fewer than kWidth of them are left.
template <typename T, typename TableT, int kActivation, bool kFolded, bool kPart>
FASTREENACT_INLINE void some_channels(const SpadeParams& p, const T* x, T* out, const TableT* gamma, const TableT* beta,
                                      int64_t c, int part) {
    auto at = [&](const auto* from) { return kPart ? load_part(from + c, part) : load(from + c); };
    Vec value = at(x);
    if (kFolded) {
        value = value * at(gamma) + at(beta);
    } else {
        value = (value - at(p.mean)) * at(p.inv_std) * (1.0f + at(gamma)) + at(beta);
    }
    value = activate<kActivation>(value);
    if (kPart) {
        store_part(out + c, value, part);
    } else {
        store(out + c, value);
    }
}

template <typename T, typename TableT, int kActivation, bool kFolded>
void rows(const SpadeParams& p, int64_t begin, int64_t end) {
    const int64_t whole = p.channels / kWidth * kWidth;
    const int part = static_cast<int>(p.channels - whole);
    for (int64_t row = begin; row < end; ++row) {
        const int64_t n = row / p.height, y = row % p.height;
        const T* x_row = static_cast<const T*>(p.x) + n * p.x_stride_n + (y >> p.half) * p.x_stride_y;
        T* out = static_cast<T*>(p.out) + n * p.out_stride_n + y * p.out_stride_y;
        const TableT* gamma_row =
            static_cast<const TableT*>(p.gamma.data) + n * p.gamma.stride_n + p.index_y[y] * p.gamma.stride_y;
        const TableT* beta_row =
            static_cast<const TableT*>(p.beta.data) + n * p.beta.stride_n + p.index_y[y] * p.beta.stride_y;
        for (int64_t column = 0; column < p.width; ++column, out += p.out_stride_x) {
            const T* x = x_row + (column >> p.half) * p.x_stride_x;
            const TableT* gamma = gamma_row + p.index_x[column] * p.gamma.stride_x;
            const TableT* beta = beta_row + p.index_x[column] * p.beta.stride_x;
            for (int64_t c = 0; c < whole; c += kWidth) {
                some_channels<T, TableT, kActivation, kFolded, false>(p, x, out, gamma, beta, c, kWidth);
            }
            if (part > 0) some_channels<T, TableT, kActivation, kFolded, true>(p, x, out, gamma, beta, whole, part);
        }
    }
}

template <typename T, typename TableT, int kActivation>
void with_activation(const SpadeParams& p, int64_t begin, int64_t end) {
    (p.mean == nullptr ? rows<T, TableT, kActivation, true> : rows<T, TableT, kActivation, false>)(p, begin, end);
}

template <typename T, typename TableT>
void with_types(const SpadeParams& p, int64_t begin, int64_t end) {
    (p.activation == kRelu   ? with_activation<T, TableT, kRelu>
     : p.activation == kTanh ? with_activation<T, TableT, kTanh>
                             : with_activation<T, TableT, kNone>)(p, begin, end);
}

}  // namespace

void spade(const SpadeParams& p, int64_t begin, int64_t end) {
    if (p.dtype == kFloat32) {
        with_types<float, float>(p, begin, end);
    } else if (p.table_dtype == kFloat32) {
        with_types<BFloat16, float>(p, begin, end);
    } else {
        with_types<BFloat16, BFloat16>(p, begin, end);
    }
}

}  // namespace FASTREENACT_ISA
}  // namespace fastreenact
