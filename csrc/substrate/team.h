// The threads of a block as a team, for arithmetic that a single thread of the host does alone.
#pragma once
#include "substrate/common.h"

namespace fastreenact {

template <int kThreads>
struct BlockTeam {
    __device__ __forceinline__ int rank() const { return int(threadIdx.x); }
    __device__ __forceinline__ int size() const { return kThreads; }
    __device__ __forceinline__ int lanes() const { return 32; }
    __device__ __forceinline__ bool takes(int part) const { return rank() == part * 32 % kThreads; }
    __device__ __forceinline__ void sync() const { __syncthreads(); }
};

}  // namespace fastreenact
