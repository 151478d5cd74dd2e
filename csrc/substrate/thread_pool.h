// Our own worker threads: started at the first use, quick to wake between two ops of a frame, usable after fork.
#pragma once
#include "substrate/common.h"

namespace fastreenact {

// Calls body(context, begin, end) over [0, count) in blocks of `grain`, on the caller and the workers, and returns when
// all is done. Runs inline when there is one block, when called from a worker, or when another thread has the pool.
// `body` must not throw.
void parallel_for(int64_t count, int64_t grain, void (*body)(void* context, int64_t begin, int64_t end), void* context);

// One parallel_for of a sequence: body(context, begin, end) over [0, count) in blocks of `grain`.
struct Stage {
    int64_t count;
    int64_t grain;
    void (*body)(void* context, int64_t begin, int64_t end);
    void* context;
};

// Runs `count` stages, each after the one before is done, on the caller and the workers, which are woken once.
// ends[0] is the time of the beginning, ends[i + 1] that of stage i's end, in seconds of one clock.
void parallel_sequence(const Stage* stages, int64_t count, double* ends);

// Threads that work on one call, the caller included. From FASTREENACT_NUM_THREADS, else the processors this process
// may use. Throws std::invalid_argument when the variable is not a whole number from 1 to 1024.
int num_threads();

// Takes effect at the next parallel_for; the present workers end. Throws std::invalid_argument outside 1 to 1024.
void set_num_threads(int count);

// Workers alive now (0 before the first use): for tests and `doctor`.
int num_workers();

}  // namespace fastreenact
