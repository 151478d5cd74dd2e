// What the bindings of all ops share: keywords read by name, an op's rows on the threads, ops recorded to run again.
#pragma once
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <initializer_list>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "substrate/common.h"
#include "substrate/isa.h"
#include "substrate/thread_pool.h"
#ifdef FASTREENACT_WITH_CUDA
#include <cuda_runtime_api.h>
#endif

namespace fastreenact {

namespace py = pybind11;

// The keywords of one call. An address is a plain integer; each keyword has to be there and read once, none may be left
// over. Shapes, strides and dtypes were checked by the Python functions in fastreenact/ops.
class Keywords {
  public:
    Keywords(const char* op, const py::dict& given) : op_(op), given_(given) {}

    template <typename T>
    T value(const char* name, bool convert = false) {
        PyObject* found = PyDict_GetItemString(given_.ptr(), name);
        if (found == nullptr) throw py::type_error(std::string(op_) + ": needs the keyword " + name);
        ++read_;
        py::detail::make_caster<T> caster;
        if (!caster.load(found, convert)) {
            throw py::type_error(std::string(op_) + ": keyword " + name + " is of a type that does not fit");
        }
        return py::detail::cast_op<T>(std::move(caster));
    }
    template <typename T>
    T* address(const char* name) {
        return reinterpret_cast<T*>(value<uintptr_t>(name));
    }
    int64_t integer(const char* name) { return value<int64_t>(name); }
    int32_t number(const char* name) { return value<int32_t>(name); }
    int32_t flag(const char* name) { return value<bool>(name) ? 1 : 0; }
    double real(const char* name) { return value<double>(name, true); }  // whole numbers too
    float single(const char* name) { return static_cast<float>(real(name)); }
    // A tuple of as many integers as there are places for; null: not needed.
    void integers(const char* name, std::initializer_list<int64_t*> places) {
        const auto values = value<py::tuple>(name);
        if (values.size() != places.size()) {
            throw py::type_error(std::string(op_) + ": keyword " + name + " needs " + std::to_string(places.size()) +
                                 " integers");
        }
        size_t i = 0;
        for (int64_t* place : places) {
            if (place != nullptr) *place = values[i].cast<int64_t>();
            ++i;
        }
    }
    // The table at `name`, [N, H, W, C] with the strides `stride`; null: there is none.
    Table table(const char* name, const char* stride) {
        Table table = {address<const void>(name), 0, 0, 0};
        integers(stride, {&table.stride_n, &table.stride_y, &table.stride_x, nullptr});
        return table;
    }
    // After the last.
    void end() const {
        if (read_ != given_.size()) throw py::type_error(std::string(op_) + ": keywords that it does not know");
    }

  private:
    const char* op_;
    const py::dict& given_;
    size_t read_ = 0;
};

// m.def of an op that is called with keywords alone: function(Keywords&).
template <typename Function>
void define(py::module_& m, const char* name, Function function, const char* doc = "") {
    m.def(
        name,
        [name, function](const py::kwargs& given) {
            Keywords keywords(name, given);
            return function(keywords);
        },
        doc);
}

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
    // Work memory that the ops share lives as long as they do.
    void keep(std::shared_ptr<void> memory) { jobs_.push_back(std::move(memory)); }
    void mark(const std::string& name) { marks_.emplace_back(name, stages_.size()); }
    // Milliseconds of each marked stretch.
    py::list replay();
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

// Runs one op's kernel over its rows, without the GIL.
template <typename Params>
void run_blocks(const Params& params, void (*kernel)(const Params&, int64_t, int64_t), int64_t rows,
                int64_t rows_of_block, std::shared_ptr<void> workspace = nullptr) {
    Job<Params> job{params, kernel, std::move(workspace)};
    if (recording != nullptr) recording->add(job, rows, rows_of_block);
    py::gil_scoped_release nogil;
    parallel_for(rows, rows_of_block, Job<Params>::run, &job);
}

template <typename Params>
void run_rows(const Params& params, void (*kernel)(const Params&, int64_t, int64_t), int64_t rows,
              int64_t bytes_per_row) {
    run_blocks(params, kernel, rows, rows_per_block(rows, bytes_per_row));
}

// An index that leaves its table would read foreign memory: the one check that needs the values, so it is done here.
void check_index(const char* name, const int32_t* index, int64_t count, int64_t size,
                 const char* meaning = "size of the tables");

// What NVRTC's caller launches: the packed parameters, the grid, the threads of a block and its shared memory in bytes.
template <typename Params>
py::tuple launch_parts(const Params& params, const LaunchShape& shape) {
    return py::make_tuple(py::bytes(reinterpret_cast<const char*>(&params), sizeof(Params)),
                          py::make_tuple(shape.grid_x, shape.grid_y, shape.grid_z), shape.threads, shape.shared_bytes);
}

#ifdef FASTREENACT_WITH_CUDA
void check_launch(const char* name, cudaError_t error);
#endif

void bind_faces(py::module_& m);
void bind_frames(py::module_& m);
void bind_layers(py::module_& m);
void bind_samplers(py::module_& m);

}  // namespace fastreenact
