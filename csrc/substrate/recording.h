// An op's kernel run over its rows on the threads, and ops recorded to be run again.
#pragma once
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "substrate/common.h"
#include "substrate/thread_pool.h"

namespace fastreenact {

// One op's kernel with its parameters.
template <typename Params>
struct Job {
    Params params;
    void (*kernel)(const Params&, int64_t, int64_t);
    std::shared_ptr<void> workspace;  // memory that the parameters point to, if any
    static void run(void* context, int64_t begin, int64_t end) {
        const Job& it = *static_cast<Job*>(context);
        it.kernel(it.params, begin, end);
    }
};

// Ops that were called once, to be run again at the same addresses in one go.
class Recording {
  public:
    template <typename Params>
    void add(const Job<Params>& job, int64_t rows, int64_t rows_of_block) {
        jobs_.push_back(std::make_shared<Job<Params>>(job));
        stages_.push_back({rows, rows_of_block, Job<Params>::run, jobs_.back().get()});
    }
    void mark(const std::string& name) { marks_.emplace_back(name, stages_.size()); }
    // Milliseconds of each marked stretch.
    std::vector<std::pair<std::string, double>> replay();
    size_t size() const { return stages_.size(); }

  private:
    std::vector<std::shared_ptr<void>> jobs_;
    std::vector<Stage> stages_;
    std::vector<std::pair<std::string, size_t>> marks_;  // name, first stage
};

// The one that is being made on this thread, if any.
extern thread_local Recording* recording;

// Rows of one block: enough of them that a block is worth about 32 KB of work, so that small pictures stay on few
// threads, and that neighbours, which read the same memory, stay together.
int64_t rows_per_block(int64_t rows, int64_t bytes_per_row);

// Rows for which a kernel has much to do before the first: one block a thread, more of them where each keeps `least`.
int64_t rows_for_threads(int64_t rows, int64_t least);

// Runs one op's kernel over its rows.
template <typename Params>
void run_blocks(const Params& params, void (*kernel)(const Params&, int64_t, int64_t), int64_t rows,
                int64_t rows_of_block, std::shared_ptr<void> workspace = nullptr) {
    Job<Params> job{params, kernel, std::move(workspace)};
    if (recording != nullptr) recording->add(job, rows, rows_of_block);
    parallel_for(rows, rows_of_block, Job<Params>::run, &job);
}

template <typename Params>
void run_rows(const Params& params, void (*kernel)(const Params&, int64_t, int64_t), int64_t rows,
              int64_t bytes_per_row) {
    run_blocks(params, kernel, rows, rows_per_block(rows, bytes_per_row));
}

}  // namespace fastreenact
