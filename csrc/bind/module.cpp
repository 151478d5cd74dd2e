// The extension module fastreenact._C. Only it and the files beside it, one for each kind of op, know pybind11.
#include "bind/bind.h"

#include <algorithm>
#include <stdexcept>

namespace fastreenact {

thread_local Recording* recording = nullptr;

int64_t rows_for_threads(int64_t rows, int64_t least) {
    const int64_t threads = num_threads();
    const int64_t each = (rows + threads - 1) / threads;
    const int64_t blocks = std::max<int64_t>(each / std::max<int64_t>(least, 1), 1);
    return (each + blocks - 1) / blocks;
}

int64_t rows_per_block(int64_t rows, int64_t bytes_per_row) {
    constexpr int64_t kBlockBytes = 32 << 10, kTogether = 32;
    const int64_t bytes = std::max<int64_t>(bytes_per_row, 1);
    return std::max((kBlockBytes + bytes - 1) / bytes, rows_for_threads(rows, kTogether));
}

void check_index(const char* name, const int32_t* index, int64_t count, int64_t size, const char* meaning) {
    for (int64_t i = 0; index != nullptr && i < count; ++i) {
        if (index[i] < 0 || index[i] >= size) {
            throw py::value_error(std::string(name) + ": got " + std::to_string(index[i]) + " at position " +
                                  std::to_string(i) + ", needs values from 0 to " + std::to_string(size - 1) +
                                  ", one less than the " + meaning);
        }
    }
}

#ifdef FASTREENACT_WITH_CUDA
void check_launch(const char* name, cudaError_t error) {
    if (error != cudaSuccess) {
        throw std::runtime_error(std::string(name) + ": CUDA says " + cudaGetErrorString(error));
    }
}
#endif

py::list Recording::replay() {
    std::vector<double> ends(stages_.size() + 1);
    {
        py::gil_scoped_release nogil;
        parallel_sequence(stages_.data(), static_cast<int64_t>(stages_.size()), ends.data());
    }
    py::list times;
    for (size_t i = 0; i < marks_.size(); ++i) {
        const size_t next = i + 1 < marks_.size() ? marks_[i + 1].second : stages_.size();
        times.append(py::make_tuple(marks_[i].first, 1e3 * (ends[next] - ends[marks_[i].second])));
    }
    return times;
}

namespace {

void bind_runtime(py::module_& m) {
#ifdef FASTREENACT_WITH_CUDA
    m.attr("WITH_CUDA") = true;
    m.attr("CUDA_ARCHITECTURES") = FASTREENACT_CUDA_ARCHITECTURES;
#else
    m.attr("WITH_CUDA") = false;
    m.attr("CUDA_ARCHITECTURES") = "";
#endif
    m.def("isa", [] { return kernels().name; }, "Name of the instruction set in use; FASTREENACT_ISA forces one.");
    m.def(
        "isas",
        [] {
            py::dict found;
            visit_isas([](void* dict, const char* name, bool ok) { (*static_cast<py::dict*>(dict))[name] = ok; },
                       &found);
            return found;
        },
        "Instruction sets built in, slowest first, and whether this processor has them.");
    m.def("num_threads", &num_threads, "Threads that work on one op, the caller included.");
    m.def("set_num_threads", &set_num_threads, py::arg("count").noconvert(), "Change them, from the next op on.",
          py::call_guard<py::gil_scoped_release>());
    m.def("num_workers", &num_workers, "Worker threads alive now; 0 before the first op.");
}

void bind_recording(py::module_& m) {
    py::class_<Recording>(m, "Recording", "CPU ops that were called between begin() and end(), to be run again.")
        .def(py::init<>())
        .def("begin", [](Recording& self) { recording = &self; })
        .def("end", [](Recording&) { recording = nullptr; })
        .def("mark", &Recording::mark, py::arg("name"), "Name the stretch of ops from here on.")
        .def("replay", &Recording::replay, "Run them; [(name, milliseconds)] of the marked stretches.")
        .def("__len__", &Recording::size);
}

}  // namespace
}  // namespace fastreenact

PYBIND11_MODULE(_C, m) {
    m.doc() = "CPU kernels of fastreenact, and its CUDA kernels where they were compiled in.";
    fastreenact::bind_runtime(m);
    fastreenact::bind_recording(m);
    fastreenact::bind_layers(m);
    fastreenact::bind_samplers(m);
    fastreenact::bind_frames(m);
    fastreenact::bind_faces(m);
}
