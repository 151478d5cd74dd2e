// Stands in for csrc/substrate/device.h and csrc/substrate/instructions.h where a test runs a kernel on the host: the same functions, and a
// scheduler that runs the threads of a block in turn, one at a time. What a warp does together (ldmatrix, mma, shuffles)
// is written here from the PTX ISA, apart from the index functions of csrc/substrate/mma.h. Shared memory begins as NaN, and
// copies arrive as late as they may.
#pragma once
#include <ucontext.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

struct float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct uchar4 {
    unsigned char x, y, z, w;
};
struct ushort4 {
    unsigned short x, y, z, w;
};
struct uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
inline float2 make_float2(float x, float y) {
    return {x, y};
}
inline float4 make_float4(float x, float y, float z, float w) {
    return {x, y, z, w};
}
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) {
    return {x, y, z, w};
}

#include "substrate/common.h"

namespace host {

struct Index {
    unsigned x = 0, y = 0, z = 0;
};
struct Copy {
    void* to;
    const void* from;
    bool valid;
};
struct Meeting {  // of the threads of a block or a warp
    int arrived = 0;
    int turn = 0;
};
struct Fiber {
    ucontext_t context;
    std::vector<char> stack = std::vector<char>(128 << 10);
    bool done = false;
    std::vector<std::vector<Copy>> groups = std::vector<std::vector<Copy>>(1);
};
struct Warp {
    Meeting meeting;
    uint32_t words[2][32][8];  // what the lanes show each other, in two buffers taken in turn
    int turns[32] = {};
};

constexpr int kMaxShared = 232448, kGuard = 4096;
inline ucontext_t scheduler;
inline std::vector<std::unique_ptr<Fiber>> fibers;
inline std::vector<Warp> warps;
inline Meeting block;
inline std::function<void()> body;
inline int current, moved, shared_bytes;

}  // namespace host

inline host::Index threadIdx, blockIdx, blockDim, gridDim;

namespace fastreenact {
alignas(128) inline uint4 shared_memory[(host::kMaxShared + host::kGuard) / sizeof(uint4)];
}

namespace host {

[[noreturn]] inline void fail(const char* what) {
    std::fprintf(stderr, "cuda_on_host: %s (thread %d of block %u, %u)\n", what, current, blockIdx.x, blockIdx.y);
    std::abort();
}

// Waits for all `size` threads of a meeting.
inline void meet(Meeting& meeting, int size) {
    const int turn = meeting.turn;
    ++moved;
    if (++meeting.arrived == size) {
        meeting.arrived = 0;
        ++meeting.turn;
        return;
    }
    while (meeting.turn == turn) swapcontext(&fibers[size_t(current)]->context, &scheduler);
}

// Shows `count` words to the warp, and gives the words of all its lanes.
inline const uint32_t (*show(const uint32_t* words, int count))[8] {
    Warp& warp = warps[size_t(current / 32)];
    const int lane = current % 32, buffer = warp.turns[lane]++ % 2;
    std::memcpy(warp.words[buffer][lane], words, size_t(count) * 4);
    meet(warp.meeting, 32);
    return warp.words[buffer];
}

inline void start() {
    body();
    fibers[size_t(current)]->done = true;
    ++moved;
    swapcontext(&fibers[size_t(current)]->context, &scheduler);
}

// Runs all blocks of a kernel, one after another; `backwards`: the last thread goes first.
inline void launch(const std::function<void()>& kernel, const fastreenact::LaunchShape& shape, bool backwards) {
    const int64_t grid_x = shape.grid_x, grid_y = shape.grid_y;
    const int threads = int(shape.threads * shape.threads_y), bytes = int(shape.shared_bytes);
    body = kernel;
    shared_bytes = bytes;
    blockDim.x = shape.threads, blockDim.y = shape.threads_y;
    gridDim.x = shape.grid_x, gridDim.y = shape.grid_y, gridDim.z = shape.grid_z;
    if (bytes > kMaxShared) fail("too much shared memory");
    fibers.resize(size_t(threads));
    for (int64_t index = 0; index < grid_x * grid_y * shape.grid_z; ++index) {
        blockIdx.x = unsigned(index % grid_x), blockIdx.y = unsigned(index / grid_x % grid_y);
        blockIdx.z = unsigned(index / grid_x / grid_y);
        std::memset(fastreenact::shared_memory, 0xff, size_t(kMaxShared + kGuard));
        warps.assign(size_t(threads / 32), Warp());
        block = Meeting();
        for (auto& fiber : fibers) {
            if (!fiber) fiber = std::make_unique<Fiber>();
            fiber->done = false;
            fiber->groups.assign(1, {});
            getcontext(&fiber->context);
            fiber->context.uc_stack.ss_sp = fiber->stack.data();
            fiber->context.uc_stack.ss_size = fiber->stack.size();
            makecontext(&fiber->context, start, 0);
        }
        for (int left = threads; left > 0;) {
            moved = left = 0;
            for (int i = 0; i < threads; ++i) {
                current = backwards ? threads - 1 - i : i;
                if (fibers[size_t(current)]->done) continue;
                threadIdx.x = unsigned(current) % shape.threads, threadIdx.y = unsigned(current) / shape.threads;
                swapcontext(&scheduler, &fibers[size_t(current)]->context);
                left += !fibers[size_t(current)]->done;
            }
            if (moved == 0 && left > 0) fail("threads wait for others that do not come");
        }
        const unsigned char* memory = reinterpret_cast<const unsigned char*>(fastreenact::shared_memory);
        for (int i = bytes; i < kMaxShared + kGuard; ++i) {
            if (memory[i] != 0xff) fail("written beyond the shared memory");
        }
    }
}

inline void launch(const std::function<void()>& kernel, int64_t grid_x, int64_t grid_y, int threads, int bytes,
                   bool backwards) {
    launch(kernel, {unsigned(grid_x), unsigned(grid_y), 1, unsigned(threads), unsigned(bytes)}, backwards);
}

}  // namespace host

inline void __syncthreads() {
    host::meet(host::block, static_cast<int>(host::fibers.size()));
}
inline float __uint_as_float(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}
inline uint32_t __float_as_uint(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}
inline uint32_t __shfl_sync(unsigned, uint32_t value, int lane) {
    return host::show(&value, 1)[lane][0];
}

namespace fastreenact {

constexpr int kArchitecture = FASTREENACT_ARCHITECTURE;

template <int32_t kType>
inline float from_bits(uint16_t bits) {
    if (kType == kBFloat16) return __uint_as_float(uint32_t(bits) << 16);
    _Float16 half;
    std::memcpy(&half, &bits, 2);
    return static_cast<float>(half);
}
template <int32_t kType>
inline uint16_t to_bits(float value) {
    if (kType == kBFloat16) {
        const uint32_t wide = __float_as_uint(value);
        return value != value ? 0x7fff : uint16_t((wide + 0x7fffu + (wide >> 16 & 1)) >> 16);
    }
    const _Float16 half = static_cast<_Float16>(value);
    uint16_t bits;
    std::memcpy(&bits, &half, 2);
    return bits;
}
template <int32_t kType>
inline float load(const void* image, int64_t element) {
    if (kType == kFloat32) return static_cast<const float*>(image)[element];
    return from_bits<kType>(static_cast<const uint16_t*>(image)[element]);
}
template <int32_t kType>
inline void store(void* image, int64_t element, float value) {
    if (kType == kFloat32) {
        static_cast<float*>(image)[element] = value;
    } else {
        static_cast<uint16_t*>(image)[element] = to_bits<kType>(value);
    }
}
inline float level_tanh(float x) {
    return std::tanh(x);
}

inline int lane_id() {
    return host::current % 32;
}
inline uint32_t shared_address(const void* pointer) {
    return uint32_t(static_cast<const char*>(pointer) - reinterpret_cast<const char*>(shared_memory));
}

inline void arrive(const host::Copy& copy) {
    if (copy.valid) {
        std::memcpy(copy.to, copy.from, 16);
    } else {
        std::memset(copy.to, 0, 16);
    }
}
inline void copy_chunk(void* to, const void* from, bool valid) {
    if ((reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from)) % 16 != 0) host::fail("odd copy");
    if (kArchitecture < 80) {
        arrive({to, from, valid});
    } else {
        host::fibers[size_t(host::current)]->groups.back().push_back({to, from, valid});
    }
}
inline void commit_copies() {
    host::fibers[size_t(host::current)]->groups.emplace_back();
}
template <int kPending>
inline void wait_copies() {
    auto& groups = host::fibers[size_t(host::current)]->groups;  // the last one is not committed
    while (int(groups.size()) > kPending + 1) {
        for (const host::Copy& copy : groups.front()) arrive(copy);
        groups.erase(groups.begin());
    }
}

// ldmatrix x4: lanes 8 i to 8 i + 7 point to the rows of matrix i, of which lane l gets columns 2 (l % 4) and the next of
// row l / 4.
inline void load_a(uint32_t (&a)[4], uint32_t at) {
    if (at % 16 != 0 || int64_t(at) + 16 > host::shared_bytes) host::fail("ldmatrix at an odd or foreign address");
    const auto* rows = host::show(&at, 1);
    const int lane = lane_id();
    for (int i = 0; i < 4; ++i) {
        std::memcpy(&a[i], reinterpret_cast<const char*>(shared_memory) + rows[8 * i + lane / 4][0] + lane % 4 * 4, 4);
    }
}

// mma m16n8k16. A: registers 0 and 2 are of row g, 1 and 3 of row g + 8; columns 2 t and the next, 8 more in 2 and 3.
// B: rows 2 t and the next of column g, 8 more in 1. C: values 0 and 1 of row g, 2 and 3 of g + 8, columns 2 t and the
// next. Lane 4 g + t.
template <int32_t kType>
inline void warp_product(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    const uint32_t mine[6] = {a[0], a[1], a[2], a[3], b0, b1};
    const auto* all = host::show(mine, 6);
    const int group = lane_id() / 4, t = lane_id() % 4;
    const auto half = [](uint32_t word, int which) { return from_bits<kType>(uint16_t(word >> 16 * which)); };
    for (int value = 0; value < 4; ++value) {
        for (int k = 0; k < 16; ++k) {
            const float left = half(all[4 * group + k % 8 / 2][value / 2 + k / 8 * 2], k % 2);
            const float right = half(all[4 * (2 * t + value % 2) + k % 8 / 2][4 + k / 8], k % 2);
            d[value] += left * right;
        }
    }
}
template <int32_t kType>
inline void tensor_product(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    warp_product<kType>(d, a, b0, b1);
}
inline void tensor_product_half(uint32_t (&d)[2], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    float sums[4];
    for (int i = 0; i < 4; ++i) sums[i] = from_bits<kFloat16>(uint16_t(d[i / 2] >> 16 * (i % 2)));
    warp_product<kFloat16>(sums, a, b0, b1);
    for (int i = 0; i < 2; ++i) d[i] = to_bits<kFloat16>(sums[2 * i]) | uint32_t(to_bits<kFloat16>(sums[2 * i + 1])) << 16;
}

}  // namespace fastreenact
