// How the kernels are launched whose threads go over the rows and columns of pictures.
#pragma once
#include "substrate/common.h"

namespace fastreenact {

// Blocks of 64 x 4 threads over rows of columns; kernels take any grid, so what lies beyond is taken in further turns.
constexpr uint32_t kPictureThreadsX = 64, kPictureThreadsY = 4;

#ifndef __CUDACC_RTC__
FASTREENACT_INLINE LaunchShape picture_shape(int64_t columns, int64_t rows, int64_t pictures = 1) {
    constexpr int64_t kMostBlocks = 32 * 1024;  // along an axis, below the hardware's 65535
    const int64_t x = (columns + kPictureThreadsX - 1) / kPictureThreadsX;
    const int64_t y = (rows + kPictureThreadsY - 1) / kPictureThreadsY;
    return {uint32_t(x < kMostBlocks ? x : kMostBlocks),
            uint32_t(y < kMostBlocks ? y : kMostBlocks),
            uint32_t(pictures),
            kPictureThreadsX,
            0,
            kPictureThreadsY};
}
#endif

}  // namespace fastreenact

// work<kType>(...) of a dtype that is known at run time.
#define FASTREENACT_BY_DTYPE(dtype, work, ...) \
    if ((dtype) == kFloat32) {                 \
        work<kFloat32>(__VA_ARGS__);           \
    } else if ((dtype) == kFloat16) {          \
        work<kFloat16>(__VA_ARGS__);           \
    } else {                                   \
        work<kBFloat16>(__VA_ARGS__);          \
    }
