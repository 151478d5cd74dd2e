// The extension module fastreenact._C: the only file that knows pybind11. Keyword-only; an address is a plain integer,
// and the Python shims in fastreenact/ops have checked shapes, strides and types before they get here.
#include <pybind11/pybind11.h>

#include "isa.h"
#include "thread_pool.h"
#include "to_frame.h"
#ifdef FASTREENACT_WITH_CUDA
#include <cuda_runtime_api.h>
#endif

namespace py = pybind11;
namespace fastreenact {
#ifdef FASTREENACT_WITH_CUDA
namespace cuda {
cudaError_t to_frame(const ToFrameParams& params, cudaStream_t stream);
}
#endif

namespace {

// Rows of one block: enough of them that a block is worth about 32 KB of work, so that small pictures stay on few
// threads.
int64_t rows_per_block(int64_t bytes_per_row) {
    constexpr int64_t kBlockBytes = 32 << 10;
    return bytes_per_row >= kBlockBytes ? 1
                                        : (kBlockBytes + bytes_per_row - 1) / (bytes_per_row > 0 ? bytes_per_row : 1);
}

// Runs one op's kernel over its rows, without the GIL.
template <typename Params>
void run_rows(const Params& params, void (*kernel)(const Params&, int64_t, int64_t), int64_t rows,
              int64_t bytes_per_row) {
    struct Job {
        const Params& params;
        void (*kernel)(const Params&, int64_t, int64_t);
    } job{params, kernel};
    py::gil_scoped_release nogil;
    parallel_for(
        rows, rows_per_block(bytes_per_row),
        [](void* context, int64_t begin, int64_t end) {
            const Job& it = *static_cast<Job*>(context);
            it.kernel(it.params, begin, end);
        },
        &job);
}

template <typename T>
T* address(uintptr_t value) {
    return reinterpret_cast<T*>(value);
}

ToFrameParams to_frame_params(uintptr_t image, uintptr_t out, int64_t n, int64_t height, int64_t width,
                              int64_t image_stride_n, int64_t image_stride_c, int64_t image_stride_y,
                              int64_t image_stride_x, int64_t out_stride_n, int64_t out_stride_y, int64_t out_stride_x,
                              int dtype, bool apply_tanh) {
    ToFrameParams p;
    p.image = address<const void>(image);
    p.out = address<uint8_t>(out);
    p.n = n;
    p.height = height;
    p.width = width;
    p.image_stride_n = image_stride_n;
    p.image_stride_c = image_stride_c;
    p.image_stride_y = image_stride_y;
    p.image_stride_x = image_stride_x;
    p.out_stride_n = out_stride_n;
    p.out_stride_y = out_stride_y;
    p.out_stride_x = out_stride_x;
    p.dtype = dtype;
    p.apply_tanh = apply_tanh ? 1 : 0;
    return p;
}

void bind_runtime(py::module_& m) {
    m.attr("WITH_CUDA") = py::bool_(
#ifdef FASTREENACT_WITH_CUDA
        true
#else
        false
#endif
    );
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

void bind_to_frame(py::module_& m) {
    using py::arg;
    m.def(
        "to_frame",
        [](uintptr_t image, uintptr_t out, int64_t n, int64_t height, int64_t width, int64_t image_stride_n,
           int64_t image_stride_c, int64_t image_stride_y, int64_t image_stride_x, int64_t out_stride_n,
           int64_t out_stride_y, int64_t out_stride_x, int dtype, bool apply_tanh) {
            const ToFrameParams p =
                to_frame_params(image, out, n, height, width, image_stride_n, image_stride_c, image_stride_y,
                                image_stride_x, out_stride_n, out_stride_y, out_stride_x, dtype, apply_tanh);
            run_rows(p, kernels().to_frame, n * height, width * 16);
        },
        py::kw_only(), arg("image"), arg("out"), arg("n"), arg("height"), arg("width"), arg("image_stride_n"),
        arg("image_stride_c"), arg("image_stride_y"), arg("image_stride_x"), arg("out_stride_n"), arg("out_stride_y"),
        arg("out_stride_x"), arg("dtype"), arg("apply_tanh"));
#ifdef FASTREENACT_WITH_CUDA_TO_FRAME
    m.def(
        "to_frame_cuda",
        [](uintptr_t image, uintptr_t out, int64_t n, int64_t height, int64_t width, int64_t image_stride_n,
           int64_t image_stride_c, int64_t image_stride_y, int64_t image_stride_x, int64_t out_stride_n,
           int64_t out_stride_y, int64_t out_stride_x, int dtype, bool apply_tanh, uintptr_t stream) {
            const ToFrameParams p =
                to_frame_params(image, out, n, height, width, image_stride_n, image_stride_c, image_stride_y,
                                image_stride_x, out_stride_n, out_stride_y, out_stride_x, dtype, apply_tanh);
            const cudaError_t error = cuda::to_frame(p, reinterpret_cast<cudaStream_t>(stream));
            if (error != cudaSuccess) {
                throw std::runtime_error(std::string("to_frame: CUDA says ") + cudaGetErrorString(error));
            }
        },
        py::kw_only(), arg("image"), arg("out"), arg("n"), arg("height"), arg("width"), arg("image_stride_n"),
        arg("image_stride_c"), arg("image_stride_y"), arg("image_stride_x"), arg("out_stride_n"), arg("out_stride_y"),
        arg("out_stride_x"), arg("dtype"), arg("apply_tanh"), arg("stream"));
#endif
}

}  // namespace
}  // namespace fastreenact

PYBIND11_MODULE(_C, m) {
    m.doc() = "CPU kernels of fastreenact, and its CUDA kernels where they were compiled in.";
    fastreenact::bind_runtime(m);
    fastreenact::bind_to_frame(m);
}
