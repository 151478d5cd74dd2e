// The extension module fastreenact._C. Only it and the files beside it, one for each kind of op, know pybind11.
#include "bind/call.h"
#include "substrate/isa.h"
#include "substrate/recording.h"

namespace fastreenact {

void bind_arrays(py::module_& m);
void bind_tensors(py::module_& m);

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

void bind_call(py::module_& m) {
    py::class_<Call>(m, "Call", "A checked call of an op, to be run with the addresses of its views alone.")
        .def("__call__", &Call::run, "Run it on the CPU: addresses in the order of the views.")
        .def(
            "launches",
            [](const Call& self, uintptr_t workspace, const py::args& addresses) {
                py::list all;
                for (const Launch& it : self.launches(workspace, addresses)) {
                    const LaunchShape& s = it.shape;
                    all.append(py::make_tuple(it.kernel, py::bytes(it.params),
                                              py::make_tuple(s.grid_x, s.grid_y, s.grid_z),
                                              py::make_tuple(s.threads, s.threads_y), s.shared_bytes));
                }
                return all;
            },
            "What it launches on a GPU: [(kernel, bytes of its parameters, grid, block, shared bytes)].")
        .def(
            "launch",
            [](const Call& self, uintptr_t stream, uintptr_t workspace, const py::args& addresses) {
                for (const Launch& it : self.launches(workspace, addresses)) {
                    launch(it, reinterpret_cast<void*>(stream));
                }
            },
            "Launch nvcc's kernels on a stream, an address, of the current device.")
        .def_property_readonly("workspace_bytes", &Call::workspace_bytes, "Of work memory on a GPU.");
}

void bind_recording(py::module_& m) {
    py::class_<Recording>(m, "Recording", "CPU ops that were called between begin() and end(), to be run again.")
        .def(py::init<>())
        .def("begin", [](Recording& self) { recording = &self; })
        .def("end", [](Recording&) { recording = nullptr; })
        .def("mark", &Recording::mark, py::arg("name"), "Name the stretch of ops from here on.")
        .def("replay", &Recording::replay, py::call_guard<py::gil_scoped_release>(),
             "Run them; [(name, milliseconds)] of the marked stretches.")
        .def("__len__", &Recording::size);
}

}  // namespace
}  // namespace fastreenact

PYBIND11_MODULE(_C, m) {
    m.doc() = "CPU kernels of fastreenact, and its CUDA kernels where they were compiled in.";
    fastreenact::bind_runtime(m);
    fastreenact::bind_call(m);
    fastreenact::bind_recording(m);
    fastreenact::bind_tensors(m);
    fastreenact::bind_arrays(m);
}
