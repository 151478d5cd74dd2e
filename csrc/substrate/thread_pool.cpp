#include "substrate/thread_pool.h"

#include <pthread.h>
#include <sched.h>
#ifdef __x86_64__
#include <cpuid.h>
#endif

#include <atomic>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace fastreenact {
namespace {

constexpr int kMaxThreads = 1024;
// 15 to 50 us of pauses, by processor: two of our ops in a row find the workers awake; while PyTorch computes they
// sleep.
constexpr int kSpins = 1000;
// Added to the gate while no job is open. A worker may enter only when the gate is not negative.
constexpr int64_t kClosed = INT64_MIN / 2;
constexpr double kLongSleep = 0.005, kCareful = 0.05;  // seconds

inline void pause_briefly() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

double seconds_now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

struct Worker {
    struct Generation* generation;
    pthread_t thread;
    // Guarded by the generation's sleep_mutex.
    double asleep_since = HUGE_VAL;  // seconds; while it is awake, no sleep is long
#ifdef __linux__
    bool moved = false;  // to be given back the processors it may use
    cpu_set_t allowed;
#endif
};

// Everything the workers of one generation share. Never freed in a forked child, whose copies of the workers are gone.
struct Generation {
    // The job. Written only while the gate is closed and empty.
    void (*body)(void*, int64_t, int64_t) = nullptr;
    void* context = nullptr;
    int64_t count = 0;
    int64_t grain = 1;
    std::atomic<int64_t> next{0};  // first index that nobody has taken

    std::atomic<int64_t> gate{kClosed};  // workers inside, plus kClosed while closed
    std::atomic<uint64_t> epoch{0};      // raised once per job and at the end
    std::atomic<int> sleepers{0};
    std::atomic<bool> stop{false};
    std::mutex sleep_mutex;
    std::condition_variable wake;
    double careful_until = 0.0;  // seconds; guarded by sleep_mutex
    std::vector<std::unique_ptr<Worker>> workers;
};

std::mutex submit_mutex;           // held by the thread whose job the pool runs
Generation* generation = nullptr;  // guarded by submit_mutex
int wanted_threads = 0;            // guarded by submit_mutex; 0: not read yet
std::atomic<int> alive_workers{0};
thread_local bool inside_pool = false;

void take_blocks(Generation& g) {
    for (;;) {
        const int64_t begin = g.next.fetch_add(g.grain, std::memory_order_relaxed);
        if (begin >= g.count) return;
        const int64_t end = g.count - begin < g.grain ? g.count : begin + g.grain;
        g.body(g.context, begin, end);
    }
}

// Whether this system runs as the guest of another on an x86 processor.
[[maybe_unused]] bool is_guest() {
#ifdef __x86_64__
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c >> 31) != 0;
#else
    return false;
#endif
}

// A guest's kernel takes a processor that has been idle for one that its host has taken away, and wakes a worker beside
// the thread that wakes it: both share one processor for 5 to 20 ms, of which a frame of a 25 fps driver lost 2 to 4.
// So for a while after a long sleep, such as between two frames, a worker is forbidden that processor before it is
// woken; it takes 3 us. With g.sleep_mutex held.
void keep_off_this_processor(Generation& g) {
#ifdef __linux__
    static const bool needed = is_guest();
    const int here = needed ? sched_getcpu() : -1;
    if (here < 0 || here >= CPU_SETSIZE) return;
    const double now = seconds_now();
    for (const std::unique_ptr<Worker>& worker : g.workers) {
        if (now - worker->asleep_since >= kLongSleep) g.careful_until = now + kCareful;
    }
    if (now >= g.careful_until) return;
    for (const std::unique_ptr<Worker>& worker : g.workers) {
        const bool asleep = worker->asleep_since <= now;
        if (!asleep || worker->moved) continue;
        if (pthread_getaffinity_np(worker->thread, sizeof(cpu_set_t), &worker->allowed) != 0) continue;
        cpu_set_t others = worker->allowed;
        CPU_CLR(here, &others);
        if (CPU_COUNT(&others) == 0) continue;
        worker->moved = pthread_setaffinity_np(worker->thread, sizeof(others), &others) == 0;
    }
#else
    (void)g;
#endif
}

void wait_for_epoch(Worker& worker, uint64_t seen) {
    Generation& g = *worker.generation;
    for (int spin = 0; spin < kSpins; ++spin) {
        if (g.epoch.load(std::memory_order_acquire) != seen) return;
        pause_briefly();
    }
    std::unique_lock<std::mutex> lock(g.sleep_mutex);
    g.sleepers.fetch_add(1);  // sequentially consistent, as is the check: the submitter looks in the other order
    worker.asleep_since = seconds_now();
    g.wake.wait(lock, [&] { return g.epoch.load() != seen; });
    worker.asleep_since = HUGE_VAL;
    g.sleepers.fetch_sub(1);
#ifdef __linux__
    if (worker.moved) pthread_setaffinity_np(worker.thread, sizeof(cpu_set_t), &worker.allowed);
    worker.moved = false;
#endif
}

void* worker_main(void* argument) {
    Worker& worker = *static_cast<Worker*>(argument);
    Generation& g = *worker.generation;
    inside_pool = true;
    uint64_t seen = 0;
    for (;;) {
        wait_for_epoch(worker, seen);
        seen = g.epoch.load(std::memory_order_acquire);
        if (g.stop.load(std::memory_order_acquire)) return nullptr;
        // A worker that wakes up late finds the gate closed and waits for the next job: nobody waits for it.
        if (g.gate.fetch_add(1, std::memory_order_acquire) >= 0) take_blocks(g);
        g.gate.fetch_sub(1, std::memory_order_release);
    }
}

int threads_from_environment() {
    const char* text = std::getenv("FASTREENACT_NUM_THREADS");
    if (text != nullptr && *text != '\0') {
        char* end = nullptr;
        const long value = std::strtol(text, &end, 10);
        if (*end != '\0' || value < 1 || value > kMaxThreads) {
            throw std::invalid_argument(std::string("FASTREENACT_NUM_THREADS=") + text +
                                        ": needs a whole number from 1 to 1024");
        }
        return static_cast<int>(value);
    }
#ifdef __linux__
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof(allowed), &allowed) == 0 && CPU_COUNT(&allowed) > 0) return CPU_COUNT(&allowed);
#endif
    const unsigned present = std::thread::hardware_concurrency();
    return present == 0 ? 1 : static_cast<int>(present < kMaxThreads ? present : kMaxThreads);
}

void before_fork() {
    submit_mutex.lock();
}
void after_fork_in_parent() {
    submit_mutex.unlock();
}
void after_fork_in_child() {
    generation = nullptr;  // leaked: its threads do not exist here, and its locks may be held for ever
    alive_workers.store(0);
    inside_pool = false;
    submit_mutex.unlock();
}

// Both with submit_mutex held.
void start_workers() {
    static const int registered = pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
    (void)registered;
    generation = new Generation;
    for (int i = 1; i < wanted_threads; ++i) {
        auto worker = std::make_unique<Worker>();
        worker->generation = generation;
        if (pthread_create(&worker->thread, nullptr, worker_main, worker.get()) != 0) break;  // fewer, same result
        generation->workers.push_back(std::move(worker));
    }
    alive_workers.store(static_cast<int>(generation->workers.size()));
}

void end_workers() {
    if (generation == nullptr) return;
    generation->stop.store(true);
    {
        std::lock_guard<std::mutex> lock(generation->sleep_mutex);
        generation->epoch.fetch_add(1);
    }
    generation->wake.notify_all();
    for (const std::unique_ptr<Worker>& worker : generation->workers) pthread_join(worker->thread, nullptr);
    delete generation;
    generation = nullptr;
    alive_workers.store(0);
}

void run_job(Generation& g, int64_t count, int64_t grain, void (*body)(void*, int64_t, int64_t), void* context) {
    g.body = body;
    g.context = context;
    g.count = count;
    g.grain = grain;
    g.next.store(0, std::memory_order_relaxed);
    g.gate.fetch_sub(kClosed, std::memory_order_release);
    g.epoch.fetch_add(1);
    if (g.sleepers.load() > 0) {
        {
            std::lock_guard<std::mutex> lock(g.sleep_mutex);
            keep_off_this_processor(g);
        }
        g.wake.notify_all();
    }
    inside_pool = true;
    take_blocks(g);
    inside_pool = false;
    g.gate.fetch_add(kClosed, std::memory_order_release);
    for (int spin = 0; g.gate.load(std::memory_order_acquire) != kClosed; ++spin) {
        if (spin < kSpins) {
            pause_briefly();
        } else {
            sched_yield();  // the worker with the last block has lost its processor
        }
    }
}

}  // namespace

void parallel_for(int64_t count, int64_t grain, void (*body)(void* context, int64_t begin, int64_t end),
                  void* context) {
    if (count <= 0) return;
    if (grain < 1) grain = 1;
    if (count <= grain || inside_pool || !submit_mutex.try_lock()) {
        body(context, 0, count);
        return;
    }
    std::lock_guard<std::mutex> lock(submit_mutex, std::adopt_lock);
    if (wanted_threads == 0) wanted_threads = threads_from_environment();
    if (wanted_threads == 1) {
        body(context, 0, count);
        return;
    }
    if (generation == nullptr) start_workers();
    run_job(*generation, count, grain, body, context);
}

namespace {

// How far a stage has got. On a line of its own: all threads write it.
struct alignas(64) Progress {
    std::atomic<int64_t> next{0};  // first index that nobody has taken
    std::atomic<int64_t> done{0};  // how many are finished
};

struct Sequence {
    const Stage* stages;
    int64_t count;
    Progress* progress;
    double* ends;
};

// Goes through the stages, helping where work is left. A thread that comes late skips what is done: nobody waits for a
// thread, only for work.
void join_sequence(void* context, int64_t, int64_t) {
    Sequence& it = *static_cast<Sequence*>(context);
    for (int64_t i = 0; i < it.count; ++i) {
        const Stage& stage = it.stages[i];
        Progress& progress = it.progress[i];
        for (;;) {
            const int64_t begin = progress.next.fetch_add(stage.grain, std::memory_order_relaxed);
            if (begin >= stage.count) break;
            const int64_t end = stage.count - begin < stage.grain ? stage.count : begin + stage.grain;
            stage.body(stage.context, begin, end);
            const int64_t before = progress.done.fetch_add(end - begin, std::memory_order_acq_rel);
            if (before + end - begin == stage.count) it.ends[i + 1] = seconds_now();
        }
        for (int spin = 0; progress.done.load(std::memory_order_acquire) < stage.count; ++spin) {
            if (spin < 20 * kSpins) {
                pause_briefly();
            } else {
                sched_yield();  // the thread with the last block has lost its processor
            }
        }
    }
}

}  // namespace

void parallel_sequence(const Stage* stages, int64_t count, double* ends) {
    std::unique_ptr<Progress[]> progress(new Progress[static_cast<size_t>(count)]);
    Sequence sequence{stages, count, progress.get(), ends};
    ends[0] = seconds_now();
    for (int64_t i = 0; i < count; ++i) ends[i + 1] = ends[0];  // of stages without work
    const int64_t threads = num_threads();
    parallel_for(threads, 1, join_sequence, &sequence);
}

int num_threads() {
    std::lock_guard<std::mutex> lock(submit_mutex);
    if (wanted_threads == 0) wanted_threads = threads_from_environment();
    return wanted_threads;
}

void set_num_threads(int count) {
    if (count < 1 || count > kMaxThreads) {
        throw std::invalid_argument("num_threads: got " + std::to_string(count) +
                                    ", needs a whole number from 1 to 1024");
    }
    std::lock_guard<std::mutex> lock(submit_mutex);
    if (count == wanted_threads) return;
    end_workers();
    wanted_threads = count;
}

int num_workers() {
    return alive_workers.load();
}

}  // namespace fastreenact
