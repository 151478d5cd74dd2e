// The extension module fastreenact._C: the only file that knows pybind11. Keyword-only; an address is a plain integer,
// and the Python shims in fastreenact/ops have checked shapes, strides and types before they get here.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "compose_frame.h"
#include "conv_tiles.h"
#include "fit_face.h"
#include "grid_sample_3d.h"
#include "isa.h"
#include "landmark_field.h"
#include "mbconv_plan.h"
#include "norm_act.h"
#include "rasterize_landmarks.h"
#include "render_mesh.h"
#include "shrink.h"
#include "slit_cover.h"
#include "spade.h"
#include "tail.h"
#include "thread_pool.h"
#include "to_frame.h"
#include "warp.h"
#ifdef FASTREENACT_WITH_CUDA
#include <cuda_runtime_api.h>
#endif

namespace py = pybind11;
namespace fastreenact {
#ifdef FASTREENACT_WITH_CUDA
namespace cuda {
cudaError_t compose_frame(const ComposeFrameParams& params, cudaStream_t stream);
cudaError_t mbconv(const MbconvParams& params, cudaStream_t stream);
cudaError_t conv_many(const ConvParams* convs, int count, int architecture, cudaStream_t stream);
cudaError_t rasterize_landmarks(const RasterizeLandmarksParams& params, cudaStream_t stream);
cudaError_t tail(const TailParams& params, cudaStream_t stream);
cudaError_t to_frame(const ToFrameParams& params, cudaStream_t stream);
}  // namespace cuda
#endif

namespace {

// Rows of one block: enough of them that a block is worth about 32 KB of work, so that small pictures stay on few
// threads.
int64_t rows_per_block(int64_t bytes_per_row) {
    constexpr int64_t kBlockBytes = 32 << 10;
    return bytes_per_row >= kBlockBytes ? 1
                                        : (kBlockBytes + bytes_per_row - 1) / (bytes_per_row > 0 ? bytes_per_row : 1);
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
    py::list replay() {
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
    size_t size() const { return stages_.size(); }

  private:
    std::vector<std::shared_ptr<void>> jobs_;
    std::vector<Stage> stages_;
    std::vector<std::pair<std::string, size_t>> marks_;  // name, first stage
};

thread_local Recording* recording = nullptr;

// Runs one op's kernel over its rows, without the GIL.
template <typename Params>
void run_blocks(const Params& params, void (*kernel)(const Params&, int64_t, int64_t), int64_t rows,
                int64_t rows_of_block, std::shared_ptr<void> workspace = nullptr) {
    Job<Params> job{params, kernel, std::move(workspace)};
    if (recording != nullptr) recording->add(job, rows, rows_of_block);
    py::gil_scoped_release nogil;
    parallel_for(rows, rows_of_block, Job<Params>::run, &job);
}

// Rows for which a kernel has much to do before the first: one block a thread, more of them where each keeps `least`.
int64_t rows_for_threads(int64_t rows, int64_t least) {
    const int64_t threads = num_threads();
    const int64_t each = (rows + threads - 1) / threads;
    const int64_t blocks = std::max<int64_t>(each / std::max<int64_t>(least, 1), 1);
    return (each + blocks - 1) / blocks;
}

template <typename Params>
void run_rows(const Params& params, void (*kernel)(const Params&, int64_t, int64_t), int64_t rows,
              int64_t bytes_per_row) {
    run_blocks(params, kernel, rows, rows_per_block(bytes_per_row));
}

template <typename T>
T* address(uintptr_t value) {
    return reinterpret_cast<T*>(value);
}

int64_t at(const py::tuple& values, size_t i) {
    return values[i].cast<int64_t>();
}

// Shape and stride of an [N, H, W, C] tensor are tuples of four; the last stride is 1.
Table table(uintptr_t data, const py::tuple& stride) {
    if (data == 0) return {nullptr, 0, 0, 0};
    return {address<const void>(data), at(stride, 0), at(stride, 1), at(stride, 2)};
}

#ifdef FASTREENACT_WITH_CUDA
void check_launch(const char* name, cudaError_t error) {
    if (error != cudaSuccess) {
        throw std::runtime_error(std::string(name) + ": CUDA says " + cudaGetErrorString(error));
    }
}
#endif

// What NVRTC's caller launches: the packed parameters, the grid, the threads of a block and its shared memory in bytes.
template <typename Params>
py::tuple launch_parts(const Params& params, const LaunchShape& shape) {
    return py::make_tuple(py::bytes(reinterpret_cast<const char*>(&params), sizeof(Params)),
                          py::make_tuple(shape.grid_x, shape.grid_y, shape.grid_z), shape.threads, shape.shared_bytes);
}

// An index that leaves its table would read foreign memory: the one check that needs the values, so it is done here.
void check_index(const char* name, const int32_t* index, int64_t count, int64_t size,
                 const char* meaning = "size of the tables") {
    for (int64_t i = 0; index != nullptr && i < count; ++i) {
        if (index[i] < 0 || index[i] >= size) {
            throw py::value_error(std::string(name) + ": got " + std::to_string(index[i]) + " at position " +
                                  std::to_string(i) + ", needs values from 0 to " + std::to_string(size - 1) +
                                  ", one less than the " + meaning);
        }
    }
}

ToFrameParams to_frame_params(uintptr_t image, uintptr_t out, uintptr_t flag, int64_t n, int64_t height, int64_t width,
                              int64_t image_stride_n, int64_t image_stride_c, int64_t image_stride_y,
                              int64_t image_stride_x, int64_t out_stride_n, int64_t out_stride_y, int64_t out_stride_x,
                              int dtype, bool apply_tanh) {
    ToFrameParams p;
    p.image = address<const void>(image);
    p.out = address<uint8_t>(out);
    p.flag = address<int32_t>(flag);
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

ComposeFrameParams compose_frame_params(uintptr_t raw, uintptr_t surface, uintptr_t flag, int64_t side,
                                        int64_t raw_stride_y, int64_t raw_stride_x, int64_t surface_stride,
                                        int64_t left, int64_t top, int64_t width, int64_t height, double centre_x,
                                        double centre_y, double size, double fade, double most_gain, int dtype) {
    ComposeFrameParams p;
    p.raw = address<const void>(raw);
    p.surface = address<uint8_t>(surface);
    p.flag = address<int32_t>(flag);
    p.side = side;
    p.raw_stride_y = raw_stride_y;
    p.raw_stride_x = raw_stride_x;
    p.surface_stride = surface_stride;
    p.left = left;
    p.top = top;
    p.width = width;
    p.height = height;
    p.centre_x = centre_x;
    p.centre_y = centre_y;
    p.size = size;
    p.fade = fade;
    // most_gain * sigmoid(value - gain_middle) - 1, by sigmoid(x) = (1 + tanh(x / 2)) / 2
    p.gain_scale = static_cast<float>(0.5 * most_gain);
    p.gain_shift = static_cast<float>(0.5 * most_gain - 1.0);
    p.gain_middle = static_cast<float>(std::log(most_gain - 1.0));
    p.dtype = dtype;
    return p;
}

void bind_compose_frame(py::module_& m) {
    using py::arg;
    m.def(
        "compose_frame",
        [](uintptr_t raw, uintptr_t surface, uintptr_t flag, int64_t side, int64_t raw_stride_y, int64_t raw_stride_x,
           int64_t surface_stride, int64_t left, int64_t top, int64_t width, int64_t height, double centre_x,
           double centre_y, double size, double fade, double most_gain, int dtype) {
            const ComposeFrameParams p =
                compose_frame_params(raw, surface, flag, side, raw_stride_y, raw_stride_x, surface_stride, left, top,
                                     width, height, centre_x, centre_y, size, fade, most_gain, dtype);
            // Each block activates anew what its first row needs: where the square is enlarged, blocks of at least
            // eight of its rows.
            const int64_t enlarged = 8 * static_cast<int64_t>(size / static_cast<double>(side));
            run_blocks(p, kernels().compose_frame, height, std::max(rows_per_block(width * 24), enlarged));
        },
        py::kw_only(), arg("raw"), arg("surface"), arg("flag"), arg("side"), arg("raw_stride_y"), arg("raw_stride_x"),
        arg("surface_stride"), arg("left"), arg("top"), arg("width"), arg("height"), arg("centre_x"), arg("centre_y"),
        arg("size"), arg("fade"), arg("most_gain"), arg("dtype"));
#ifdef FASTREENACT_WITH_CUDA
    m.def(
        "compose_frame_cuda",
        [](uintptr_t raw, uintptr_t surface, uintptr_t flag, int64_t side, int64_t raw_stride_y, int64_t raw_stride_x,
           int64_t surface_stride, int64_t left, int64_t top, int64_t width, int64_t height, double centre_x,
           double centre_y, double size, double fade, double most_gain, int dtype, uintptr_t stream) {
            const ComposeFrameParams p =
                compose_frame_params(raw, surface, flag, side, raw_stride_y, raw_stride_x, surface_stride, left, top,
                                     width, height, centre_x, centre_y, size, fade, most_gain, dtype);
            check_launch("compose_frame", cuda::compose_frame(p, reinterpret_cast<cudaStream_t>(stream)));
        },
        py::kw_only(), arg("raw"), arg("surface"), arg("flag"), arg("side"), arg("raw_stride_y"), arg("raw_stride_x"),
        arg("surface_stride"), arg("left"), arg("top"), arg("width"), arg("height"), arg("centre_x"), arg("centre_y"),
        arg("size"), arg("fade"), arg("most_gain"), arg("dtype"), arg("stream"));
#endif
}

void bind_warp(py::module_& m) {
    using py::arg;
    m.def(
        "warp",
        [](uintptr_t features, const py::tuple& features_shape, const py::tuple& features_stride, uintptr_t field,
           const py::tuple& field_shape, const py::tuple& field_stride, uintptr_t pictures, uintptr_t out,
           const py::tuple& out_shape, const py::tuple& out_stride, uintptr_t scale, const py::tuple& scale_stride,
           uintptr_t shift, const py::tuple& shift_stride, const py::tuple& table_shape, uintptr_t index_y,
           uintptr_t index_x, int dtype, int table_dtype, int activation, bool border, bool field_bilinear) {
            WarpParams p;
            p.features = address<const void>(features);
            p.field = address<const float>(field);
            p.pictures = address<const int32_t>(pictures);
            p.out = address<void>(out);
            p.scale = table(scale, scale_stride);
            p.shift = table(shift, shift_stride);
            p.index_y = address<const int32_t>(index_y);
            p.index_x = address<const int32_t>(index_x);
            p.n = at(out_shape, 0);
            p.height = at(features_shape, 1);
            p.width = at(features_shape, 2);
            p.channels = at(features_shape, 3);
            p.out_height = at(out_shape, 1);
            p.out_width = at(out_shape, 2);
            p.field_height = at(field_shape, 1);
            p.field_width = at(field_shape, 2);
            p.feature_stride_n = at(features_stride, 0);
            p.feature_stride_y = at(features_stride, 1);
            p.feature_stride_x = at(features_stride, 2);
            p.field_stride_n = at(field_stride, 0);
            p.field_stride_y = at(field_stride, 1);
            p.field_stride_x = at(field_stride, 2);
            p.field_stride_c = at(field_stride, 3);
            p.out_stride_n = at(out_stride, 0);
            p.out_stride_y = at(out_stride, 1);
            p.out_stride_x = at(out_stride, 2);
            p.dtype = dtype;
            p.table_dtype = table_dtype;
            p.activation = activation;
            p.border = border ? 1 : 0;
            p.field_bilinear = field_bilinear ? 1 : 0;
            check_index("pictures", p.pictures, p.n, at(features_shape, 0), "number of pictures in features");
            if (p.scale.data != nullptr) {
                check_index("index_y", p.index_y, p.out_height, at(table_shape, 1));
                check_index("index_x", p.index_x, p.out_width, at(table_shape, 2));
            }
            // Four taps a pixel, and about 16 bytes' worth of work to find them.
            run_rows(p, kernels().warp, p.n * p.out_height, p.out_width * (16 + 8 * p.channels));
        },
        py::kw_only(), arg("features"), arg("features_shape"), arg("features_stride"), arg("field"), arg("field_shape"),
        arg("field_stride"), arg("pictures"), arg("out"), arg("out_shape"), arg("out_stride"), arg("scale"),
        arg("scale_stride"), arg("shift"), arg("shift_stride"), arg("table_shape"), arg("index_y"), arg("index_x"),
        arg("dtype"), arg("table_dtype"), arg("activation"), arg("border"), arg("field_bilinear"));
}

void bind_fit_face(py::module_& m) {
    using py::arg;
    m.def(
        "fit_face",
        [](uintptr_t base, uintptr_t modes, uintptr_t target, uintptr_t trust, uintptr_t stiffness, uintptr_t lids,
           double meet, double noise, double outlier, double slack, double least_doubt, double enough, int64_t steps,
           uintptr_t rotation, uintptr_t camera, uintptr_t expression, uintptr_t residual) {
            FitFaceParams p;
            p.base = address<const double>(base);
            p.modes = address<const double>(modes);
            p.target = address<const double>(target);
            p.trust = address<const double>(trust);
            p.stiffness = address<const double>(stiffness);
            p.lids = address<const int32_t>(lids);
            p.meet = meet;
            p.noise = noise;
            p.outlier = outlier;
            p.slack = slack;
            p.least_doubt = least_doubt;
            p.enough = enough;
            p.steps = steps;
            p.rotation = address<double>(rotation);
            p.camera = address<double>(camera);
            p.expression = address<double>(expression);
            p.residual = address<double>(residual);
            run_blocks(p, kernels().fit_face, 1, 1);
        },
        py::kw_only(), arg("base"), arg("modes"), arg("target"), arg("trust"), arg("stiffness"), arg("lids"),
        arg("meet"), arg("noise"), arg("outlier"), arg("slack"), arg("least_doubt"), arg("enough"), arg("steps"),
        arg("rotation"), arg("camera"), arg("expression"), arg("residual"));
}

void bind_slit_cover(py::module_& m) {
    using py::arg;
    m.def(
        "slit_cover",
        [](uintptr_t upper, uintptr_t lower, int64_t knots, const std::array<float, 6>& frame, int64_t left,
           int64_t top, int64_t width, int64_t height, float inset, float soft, float gain,
           const std::array<float, 6>& layer, uintptr_t opacity, uintptr_t field) {
            SlitCoverParams p;
            p.upper = address<const float>(upper);
            p.lower = address<const float>(lower);
            p.knots = knots;
            std::copy(frame.begin(), frame.end(), p.frame);
            p.left = left;
            p.top = top;
            p.width = width;
            p.height = height;
            p.inset = inset;
            p.soft = soft;
            p.gain = gain;
            std::copy(layer.begin(), layer.end(), p.layer);
            p.opacity = address<float>(opacity);
            p.field = address<float>(field);
            run_rows(p, kernels().slit_cover, height, width * 32);
        },
        py::kw_only(), arg("upper"), arg("lower"), arg("knots"), arg("frame"), arg("left"), arg("top"), arg("width"),
        arg("height"), arg("inset"), arg("soft"), arg("gain"), arg("layer"), arg("opacity"), arg("field"));
}

void bind_lay_cover(py::module_& m) {
    using py::arg;
    m.def(
        "lay_cover",
        [](uintptr_t layer, int64_t layer_height, int64_t layer_width, uintptr_t opacity, uintptr_t field,
           int64_t height, int64_t width, uintptr_t surface, int64_t surface_stride) {
            LayCoverParams p;
            p.layer = address<const uint8_t>(layer);
            p.layer_height = layer_height;
            p.layer_width = layer_width;
            p.opacity = address<const float>(opacity);
            p.field = address<const float>(field);
            p.height = height;
            p.width = width;
            p.surface = address<uint8_t>(surface);
            p.surface_stride = surface_stride;
            run_rows(p, kernels().lay_cover, height, width * 64);
        },
        py::kw_only(), arg("layer"), arg("layer_height"), arg("layer_width"), arg("opacity"), arg("field"),
        arg("height"), arg("width"), arg("surface"), arg("surface_stride"));
}

// Doubles of scratch, each part beginning at a multiple of 64 bytes.
class Scratch {
  public:
    template <typename T>
    T* take(int64_t count) {
        const size_t begin = used_;
        used_ += (static_cast<size_t>(count) * sizeof(T) + 63) / 64 * 8;
        return memory_ == nullptr ? nullptr : reinterpret_cast<T*>(memory_ + begin);
    }
    size_t used() const { return used_; }
    explicit Scratch(double* memory) : memory_(memory) {}

  private:
    double* memory_;
    size_t used_ = 0;
};

void landmark_scratch(LandmarkFieldParams& p, Scratch& scratch) {
    const int64_t unknowns = p.count + 3, cells = p.coarse / p.middle;
    const NodeRect &r = p.rect, &f = p.face;
    const bool face = f.x1 > f.x0 && f.y1 > f.y0;
    const int64_t nodes =
        (r.x1 - r.x0 + 1) * (r.y1 - r.y0 + 1) + (face ? ((f.x1 - f.x0) * cells + 1) * ((f.y1 - f.y0) * cells + 1) : 0);
    p.system = scratch.take<double>(unknowns * system_row(p.count));
    p.found = scratch.take<double>(unknowns * kSplineStride);
    p.rows = scratch.take<double*>(unknowns);
    p.origin = scratch.take<double>(2);
    p.weights = scratch.take<float>(unknowns * kSplineStride);
    p.points = scratch.take<float>(2 * p.count);
    p.splines = scratch.take<float>(nodes * kSplineStride);
    p.places = scratch.take<float>(2 * nodes);
    p.moving = scratch.take<int32_t>(nodes);
    p.moving_count = scratch.take<int64_t>(1);
}

void bind_landmark_field(py::module_& m) {
    using py::arg;
    m.def(
        "landmark_field",
        [](uintptr_t at, uintptr_t displacement, uintptr_t slack, uintptr_t order, uintptr_t members, int64_t count,
           int64_t own, double unit, uintptr_t head, float hold, float rest, float still, float free, uintptr_t cuts,
           float width, float height, int64_t step, int64_t middle, int64_t coarse, uintptr_t rects, uintptr_t out,
           int64_t out_stride, int64_t left, int64_t top, int64_t columns, int64_t rows) {
            if (own > kMostOwn) throw std::invalid_argument("landmark_field: more own unknowns than it has room for");
            LandmarkFieldParams p;
            p.at = address<const double>(at);
            p.displacement = address<const double>(displacement);
            p.slack = address<const double>(slack);
            p.order = address<const int32_t>(order);
            p.members = address<const uint8_t>(members);
            p.count = count;
            p.own = own;
            p.unit = unit;
            p.to_head = address<const float>(head);
            p.way = p.to_head + 4;
            p.hold = hold;
            p.rest = rest;
            p.still = still;
            p.free = free;
            p.cuts = address<const LandmarkCut>(cuts);
            p.size[0] = width;
            p.size[1] = height;
            p.step = step;
            p.middle = middle;
            p.coarse = coarse;
            const NodeRect* all = address<const NodeRect>(rects);
            p.rect = all[0];
            p.face = all[1];
            p.slits = all + 2;
            p.out = address<float>(out);
            p.out_stride = out_stride;
            p.left = left;
            p.top = top;
            p.columns = columns;
            thread_local std::vector<double> memory;
            Scratch size(nullptr);
            landmark_scratch(p, size);
            if (memory.size() < size.used()) memory.resize(size.used());
            Scratch scratch(memory.data());
            landmark_scratch(p, scratch);
            run_blocks(p, kernels().landmark_solve, 1, 1);
            run_blocks(p, kernels().landmark_nodes, (*p.moving_count + kNodesPerBlock - 1) / kNodesPerBlock, 8);
            run_rows(p, kernels().landmark_rows, rows, columns * 64);
        },
        py::kw_only(), arg("at"), arg("displacement"), arg("slack"), arg("order"), arg("members"), arg("count"),
        arg("own"), arg("unit"), arg("head"), arg("hold"), arg("rest"), arg("still"), arg("free"), arg("cuts"),
        arg("width"), arg("height"), arg("step"), arg("middle"), arg("coarse"), arg("rects"), arg("out"),
        arg("out_stride"), arg("left"), arg("top"), arg("columns"), arg("rows"));
}

void bind_shrink(py::module_& m) {
    using py::arg;
    m.def(
        "shrink",
        [](uintptr_t picture, uintptr_t out, int64_t height, int64_t width, int64_t stride, int64_t side,
           int64_t samples, double left, double top, double size, int dtype) {
            ShrinkParams p;
            p.picture = address<const uint8_t>(picture);
            p.out = address<void>(out);
            p.height = height;
            p.width = width;
            p.stride = stride;
            p.side = side;
            p.samples = samples;
            p.left = left;
            p.top = top;
            p.size = size;
            p.dtype = dtype;
            run_rows(p, kernels().shrink, side, side * 16 * samples * samples);
        },
        py::kw_only(), arg("picture"), arg("out"), arg("height"), arg("width"), arg("stride"), arg("side"),
        arg("samples"), arg("left"), arg("top"), arg("size"), arg("dtype"));
}

void bind_grid_sample_3d(py::module_& m) {
    using py::arg;
    m.def(
        "grid_sample_3d",
        [](uintptr_t volume, const py::tuple& volume_shape, const py::tuple& volume_stride, uintptr_t grid,
           const py::tuple& grid_shape, const py::tuple& grid_stride, uintptr_t out, const py::tuple& out_stride,
           int dtype, bool border, bool align_corners, bool sum_depth) {
            GridSample3dParams p;
            p.volume = address<const void>(volume);
            p.grid = address<const float>(grid);
            p.out = address<void>(out);
            p.n = at(volume_shape, 0);
            p.depth = at(volume_shape, 1);
            p.height = at(volume_shape, 2);
            p.width = at(volume_shape, 3);
            p.channels = at(volume_shape, 4);
            p.out_depth = at(grid_shape, 1);
            p.out_height = at(grid_shape, 2);
            p.out_width = at(grid_shape, 3);
            p.volume_stride_n = at(volume_stride, 0);
            p.volume_stride_z = at(volume_stride, 1);
            p.volume_stride_y = at(volume_stride, 2);
            p.volume_stride_x = at(volume_stride, 3);
            p.grid_stride_n = at(grid_stride, 0);
            p.grid_stride_z = at(grid_stride, 1);
            p.grid_stride_y = at(grid_stride, 2);
            p.grid_stride_x = at(grid_stride, 3);
            p.grid_stride_c = at(grid_stride, 4);
            p.out_stride_n = at(out_stride, 0);
            p.out_stride_z = at(out_stride, 1);
            p.out_stride_y = at(out_stride, 2);
            p.out_stride_x = at(out_stride, 3);
            p.dtype = dtype;
            p.border = border ? 1 : 0;
            p.align_corners = align_corners ? 1 : 0;
            p.sum_depth = sum_depth ? 1 : 0;
            // Eight corners a point, and about 64 bytes' worth of work to find them.
            const int64_t bytes_per_row = p.out_width * (64 + 16 * p.channels);
            if (sum_depth) {
                run_rows(p, kernels().grid_sample_3d, p.n * p.out_height, bytes_per_row * p.out_depth);
            } else {
                run_rows(p, kernels().grid_sample_3d, p.n * p.out_depth * p.out_height, bytes_per_row);
            }
        },
        py::kw_only(), arg("volume"), arg("volume_shape"), arg("volume_stride"), arg("grid"), arg("grid_shape"),
        arg("grid_stride"), arg("out"), arg("out_stride"), arg("dtype"), arg("border"), arg("align_corners"),
        arg("sum_depth"));
}

void bind_spade(py::module_& m) {
    using py::arg;
    m.def(
        "spade",
        [](uintptr_t x, const py::tuple& shape, const py::tuple& x_stride, uintptr_t out, const py::tuple& out_stride,
           uintptr_t gamma, const py::tuple& gamma_stride, uintptr_t beta, const py::tuple& beta_stride,
           const py::tuple& table_shape, uintptr_t index_y, uintptr_t index_x, uintptr_t mean, uintptr_t inv_std,
           int dtype, int table_dtype, int activation, bool half) {
            SpadeParams p;
            p.x = address<const void>(x);
            p.out = address<void>(out);
            p.gamma = table(gamma, gamma_stride);
            p.beta = table(beta, beta_stride);
            p.index_y = address<const int32_t>(index_y);
            p.index_x = address<const int32_t>(index_x);
            p.mean = address<const float>(mean);
            p.inv_std = address<const float>(inv_std);
            p.n = at(shape, 0);
            p.height = at(shape, 1);
            p.width = at(shape, 2);
            p.channels = at(shape, 3);
            p.x_stride_n = at(x_stride, 0);
            p.x_stride_y = at(x_stride, 1);
            p.x_stride_x = at(x_stride, 2);
            p.out_stride_n = at(out_stride, 0);
            p.out_stride_y = at(out_stride, 1);
            p.out_stride_x = at(out_stride, 2);
            p.dtype = dtype;
            p.table_dtype = table_dtype;
            p.activation = activation;
            p.half = half ? 1 : 0;
            check_index("index_y", p.index_y, p.height, at(table_shape, 1));
            check_index("index_x", p.index_x, p.width, at(table_shape, 2));
            run_rows(p, kernels().spade, p.n * p.height, p.width * p.channels * 8);
        },
        py::kw_only(), arg("x"), arg("shape"), arg("x_stride"), arg("out"), arg("out_stride"), arg("gamma"),
        arg("gamma_stride"), arg("beta"), arg("beta_stride"), arg("table_shape"), arg("index_y"), arg("index_x"),
        arg("mean"), arg("inv_std"), arg("dtype"), arg("table_dtype"), arg("activation"), arg("half"));
}

ConvAxis conv_axis(const py::tuple& values) {
    ConvAxis axis;
    axis.phases = static_cast<int32_t>(at(values, 0));
    axis.step = static_cast<int32_t>(at(values, 1));
    const py::tuple offset = values[2].cast<py::tuple>(), taps = values[3].cast<py::tuple>();
    for (int32_t i = 0; i < kMaxPhases; ++i) {
        axis.offset[i] = i < axis.phases ? static_cast<int32_t>(at(offset, static_cast<size_t>(i))) : 0;
        axis.taps[i] = i < axis.phases ? static_cast<int32_t>(at(taps, static_cast<size_t>(i))) : 0;
    }
    return axis;
}

ConvParams conv_params(uintptr_t x, const py::tuple& x_shape, const py::tuple& x_stride, uintptr_t weights,
                       const py::tuple& weights_at, uintptr_t bias, uintptr_t add, const py::tuple& add_stride,
                       uintptr_t residual, const py::tuple& residual_stride, uintptr_t out, const py::tuple& out_shape,
                       const py::tuple& out_stride, uintptr_t pictures, const py::tuple& axis_y,
                       const py::tuple& axis_x, double x_scale, double x_shift, int x_dtype, int dtype, int out_dtype,
                       int activation, bool residual_half) {
    ConvParams p;
    p.x = address<const void>(x);
    p.weights = address<const void>(weights);
    p.bias = address<const float>(bias);
    p.add = address<const void>(add);
    p.residual = address<const void>(residual);
    p.out = address<void>(out);
    p.pictures = address<const int32_t>(pictures);
    p.axis_y = conv_axis(axis_y);
    p.axis_x = conv_axis(axis_x);
    for (size_t i = 0; i < kMaxPhases * kMaxPhases; ++i) p.weights_at[i] = at(weights_at, i);
    p.n = at(x_shape, 0);
    p.height = at(x_shape, 1);
    p.width = at(x_shape, 2);
    p.channels_in = at(x_shape, 3);
    p.out_height = at(out_shape, 1);
    p.out_width = at(out_shape, 2);
    p.channels_out = at(out_shape, 3);
    p.x_stride_n = at(x_stride, 0);
    p.x_stride_y = at(x_stride, 1);
    p.x_stride_x = at(x_stride, 2);
    p.add_stride_n = at(add_stride, 0);
    p.add_stride_y = at(add_stride, 1);
    p.add_stride_x = at(add_stride, 2);
    p.residual_stride_n = at(residual_stride, 0);
    p.residual_stride_y = at(residual_stride, 1);
    p.residual_stride_x = at(residual_stride, 2);
    p.out_stride_n = at(out_stride, 0);
    p.out_stride_y = at(out_stride, 1);
    p.out_stride_x = at(out_stride, 2);
    p.x_scale = static_cast<float>(x_scale);
    p.x_shift = static_cast<float>(x_shift);
    p.x_dtype = x_dtype;
    p.dtype = dtype;
    p.out_dtype = out_dtype;
    p.activation = activation;
    p.residual_half = residual_half ? 1 : 0;
    p.groups = 1;
    return p;
}

// Each of `convs` has the keywords of `conv`.
ConvBatch conv_batch(const py::list& convs) {
    ConvBatch batch = {};
    if (convs.size() < 1 || convs.size() > kMaxConvs) throw py::value_error("convs: needs 1 to 4");
    for (size_t i = 0; i < convs.size(); ++i) {
        const py::dict c = convs[i].cast<py::dict>();
        const auto address_of = [&](const char* name) { return c[name].cast<uintptr_t>(); };
        const auto tuple_of = [&](const char* name) { return c[name].cast<py::tuple>(); };
        const auto number_of = [&](const char* name) { return c[name].cast<int>(); };
        batch.convs[i] = conv_params(
            address_of("x"), tuple_of("x_shape"), tuple_of("x_stride"), address_of("weights"), tuple_of("weights_at"),
            address_of("bias"), address_of("add"), tuple_of("add_stride"), address_of("residual"),
            tuple_of("residual_stride"), address_of("out"), tuple_of("out_shape"), tuple_of("out_stride"),
            address_of("pictures"), tuple_of("axis_y"), tuple_of("axis_x"), c["x_scale"].cast<double>(),
            c["x_shift"].cast<double>(), number_of("x_dtype"), number_of("dtype"), number_of("out_dtype"),
            number_of("activation"), c["residual_half"].cast<bool>());
        if (batch.convs[i].dtype != batch.convs[0].dtype) throw py::value_error("convs: needs one dtype of weights");
    }
    batch.count = static_cast<int32_t>(convs.size());
    return batch;
}

// The index of the tile, and what is launched.
py::tuple conv_launch(const py::list& convs, int architecture) {
    ConvBatch batch = conv_batch(convs);
    const int32_t tile = plan_convs(batch);
    if (tile < 0) throw py::value_error("convs: more pixels than one launch can number");
    return py::make_tuple(tile, launch_parts(batch, conv_shape(batch, tile, architecture)));
}

void bind_conv(py::module_& m) {
    using py::arg;
    m.def(
        "conv",
        [](uintptr_t x, const py::tuple& x_shape, const py::tuple& x_stride, uintptr_t weights,
           const py::tuple& weights_at, uintptr_t bias, uintptr_t add, const py::tuple& add_stride, uintptr_t residual,
           const py::tuple& residual_stride, uintptr_t out, const py::tuple& out_shape, const py::tuple& out_stride,
           uintptr_t pictures, const py::tuple& axis_y, const py::tuple& axis_x, double x_scale, double x_shift,
           int x_dtype, int dtype, int out_dtype, int activation, bool residual_half) {
            ConvParams p = conv_params(x, x_shape, x_stride, weights, weights_at, bias, add, add_stride, residual,
                                       residual_stride, out, out_shape, out_stride, pictures, axis_y, axis_x, x_scale,
                                       x_shift, x_dtype, dtype, out_dtype, activation, residual_half);
            constexpr int64_t kFewPixels = 256;  // every thread would read all weights for a few rows
            const int64_t rows = p.n * ((p.out_height + p.axis_y.phases - 1) / p.axis_y.phases);
            const int64_t panels = (p.channels_out + 15) / 16;
            if (p.n * p.out_height * p.out_width <= kFewPixels && panels > 1) {
                p.groups = static_cast<int32_t>(std::min<int64_t>(panels, num_threads()));
                run_blocks(p, kernels().conv, rows * p.groups, rows);
            } else {
                const int64_t pixels = std::max<int64_t>(p.out_width * p.axis_y.phases, 1);
                run_blocks(p, kernels().conv, rows, rows_for_threads(rows, 512 / pixels));
            }
        },
        py::kw_only(), arg("x"), arg("x_shape"), arg("x_stride"), arg("weights"), arg("weights_at"), arg("bias"),
        arg("add"), arg("add_stride"), arg("residual"), arg("residual_stride"), arg("out"), arg("out_shape"),
        arg("out_stride"), arg("pictures"), arg("axis_y"), arg("axis_x"), arg("x_scale"), arg("x_shift"),
        arg("x_dtype"), arg("dtype"), arg("out_dtype"), arg("activation"), arg("residual_half"));
    m.def("conv_launch", &conv_launch, py::kw_only(), arg("convs"), arg("architecture"));
#ifdef FASTREENACT_WITH_CUDA
    m.def(
        "conv_cuda",
        [](const py::list& convs, int architecture, uintptr_t stream) {
            const ConvBatch batch = conv_batch(convs);
            check_launch("conv", cuda::conv_many(batch.convs, batch.count, architecture,
                                                 reinterpret_cast<cudaStream_t>(stream)));
        },
        py::kw_only(), arg("convs"), arg("architecture"), arg("stream"));
#endif
}

MbconvParams mbconv_params(uintptr_t x, const py::tuple& x_shape, const py::tuple& x_stride, uintptr_t out,
                           const py::tuple& out_shape, const py::tuple& out_stride, uintptr_t expand,
                           uintptr_t expand_bias, uintptr_t depthwise, uintptr_t depthwise_bias, uintptr_t project,
                           uintptr_t project_bias, int64_t hidden, int stride, bool upsample, bool residual,
                           int dtype) {
    MbconvParams p{};
    p.x = address<const void>(x);
    p.out = address<void>(out);
    p.expand = address<const void>(expand);
    p.expand_bias = address<const float>(expand_bias);
    p.depthwise = address<const float>(depthwise);
    p.depthwise_bias = address<const float>(depthwise_bias);
    p.project = address<const void>(project);
    p.project_bias = address<const float>(project_bias);
    p.n = at(x_shape, 0);
    p.height = at(x_shape, 1);
    p.width = at(x_shape, 2);
    p.out_height = at(out_shape, 1);
    p.out_width = at(out_shape, 2);
    p.channels_in = at(x_shape, 3);
    p.hidden = hidden;
    p.channels_out = at(out_shape, 3);
    p.x_stride_n = at(x_stride, 0);
    p.x_stride_y = at(x_stride, 1);
    p.x_stride_x = at(x_stride, 2);
    p.out_stride_n = at(out_stride, 0);
    p.out_stride_y = at(out_stride, 1);
    p.out_stride_x = at(out_stride, 2);
    p.dtype = dtype;
    p.stride = stride;
    p.upsample = upsample ? 1 : 0;
    p.residual = residual ? 1 : 0;
    p.workspace = nullptr;
    p.half_sums = 0;
    p.architecture = 0;
    p.groups = 1;
    return p;
}

void bind_mbconv(py::module_& m) {
    using py::arg;
    m.def(
        "mbconv",
        [](uintptr_t x, const py::tuple& x_shape, const py::tuple& x_stride, uintptr_t out, const py::tuple& out_shape,
           const py::tuple& out_stride, uintptr_t expand, uintptr_t expand_bias, uintptr_t depthwise,
           uintptr_t depthwise_bias, uintptr_t project, uintptr_t project_bias, int64_t hidden, int stride,
           bool upsample, bool residual, int dtype) {
            MbconvParams p =
                mbconv_params(x, x_shape, x_stride, out, out_shape, out_stride, expand, expand_bias, depthwise,
                              depthwise_bias, project, project_bias, hidden, stride, upsample, residual, dtype);
            const int64_t rows = p.n * p.out_height, threads = num_threads();
            // Shared out by rows, each thread expands two rows that another has as well. Where that is much, and
            // channels are many, they are shared out instead.
            constexpr int64_t kMuch = 2 << 20;  // multiplications: about what adding up the shares costs
            if (threads > 1 && hidden >= 128 * threads && 2 * p.width * p.channels_in * hidden >= kMuch &&
                rows < 32 * threads) {
                p.groups = static_cast<int32_t>(threads);
                const auto shares = std::make_shared<std::vector<float>>(
                    static_cast<size_t>(threads * rows * p.out_width * ((p.channels_out + 15) / 16 * 16)));
                p.workspace = shares->data();
                run_blocks(p, kernels().mbconv, threads, 1, shares);
                run_blocks(p, kernels().mbconv_sum, rows, rows_for_threads(rows, 4), shares);
                return;
            }
            // At most a sixteenth too much.
            run_blocks(p, kernels().mbconv, rows, rows_for_threads(rows, 32));
        },
        py::kw_only(), arg("x"), arg("x_shape"), arg("x_stride"), arg("out"), arg("out_shape"), arg("out_stride"),
        arg("expand"), arg("expand_bias"), arg("depthwise"), arg("depthwise_bias"), arg("project"), arg("project_bias"),
        arg("hidden"), arg("stride"), arg("upsample"), arg("residual"), arg("dtype"));
    m.def(
        "mbconv_workspace",
        [](const py::tuple& x_shape, const py::tuple& out_shape, bool expanded, int64_t hidden, int stride,
           bool upsample, int dtype, int architecture) {
            const py::tuple none = py::make_tuple(0, 0, 0, 1);
            MbconvParams p = mbconv_params(0, x_shape, none, 0, out_shape, none, expanded ? 1 : 0, 0, 0, 0, 0, 0,
                                           hidden, stride, upsample, false, dtype);
            p.architecture = architecture;
            return mbconv_plan(p).workspace_bytes;
        },
        "Bytes that mbconv_cuda needs at `workspace`.", py::kw_only(), arg("x_shape"), arg("out_shape"),
        arg("expanded"), arg("hidden"), arg("stride"), arg("upsample"), arg("dtype"), arg("architecture"));
    m.def(
        "mbconv_launch",
        [](uintptr_t x, const py::tuple& x_shape, const py::tuple& x_stride, uintptr_t out, const py::tuple& out_shape,
           const py::tuple& out_stride, uintptr_t expand, uintptr_t expand_bias, uintptr_t depthwise,
           uintptr_t depthwise_bias, uintptr_t project, uintptr_t project_bias, int64_t hidden, int stride,
           bool upsample, bool residual, int dtype, uintptr_t workspace, bool half_sums, int architecture) {
            MbconvParams p =
                mbconv_params(x, x_shape, x_stride, out, out_shape, out_stride, expand, expand_bias, depthwise,
                              depthwise_bias, project, project_bias, hidden, stride, upsample, residual, dtype);
            p.workspace = address<void>(workspace);
            p.half_sums = half_sums ? 1 : 0;
            p.architecture = architecture;
            const MbconvPlan plan = mbconv_plan(p);
            py::list launches;
            for (int i = 0; i < plan.launches; ++i) {
                launches.append(py::make_tuple(static_cast<int>(plan.kernel[i]), launch_parts(p, plan.shape[i])));
            }
            return launches;
        },
        "What NVRTC's caller launches, in order: [(MbconvKernel, (parameters, grid, threads, shared bytes))].",
        py::kw_only(), arg("x"), arg("x_shape"), arg("x_stride"), arg("out"), arg("out_shape"), arg("out_stride"),
        arg("expand"), arg("expand_bias"), arg("depthwise"), arg("depthwise_bias"), arg("project"), arg("project_bias"),
        arg("hidden"), arg("stride"), arg("upsample"), arg("residual"), arg("dtype"), arg("workspace"),
        arg("half_sums"), arg("architecture"));
#ifdef FASTREENACT_WITH_CUDA
    m.def(
        "mbconv_cuda",
        [](uintptr_t x, const py::tuple& x_shape, const py::tuple& x_stride, uintptr_t out, const py::tuple& out_shape,
           const py::tuple& out_stride, uintptr_t expand, uintptr_t expand_bias, uintptr_t depthwise,
           uintptr_t depthwise_bias, uintptr_t project, uintptr_t project_bias, int64_t hidden, int stride,
           bool upsample, bool residual, int dtype, uintptr_t workspace, bool half_sums, int architecture,
           uintptr_t stream) {
            MbconvParams p =
                mbconv_params(x, x_shape, x_stride, out, out_shape, out_stride, expand, expand_bias, depthwise,
                              depthwise_bias, project, project_bias, hidden, stride, upsample, residual, dtype);
            p.workspace = address<void>(workspace);
            p.half_sums = half_sums ? 1 : 0;
            p.architecture = architecture;
            check_launch("mbconv", cuda::mbconv(p, reinterpret_cast<cudaStream_t>(stream)));
        },
        py::kw_only(), arg("x"), arg("x_shape"), arg("x_stride"), arg("out"), arg("out_shape"), arg("out_stride"),
        arg("expand"), arg("expand_bias"), arg("depthwise"), arg("depthwise_bias"), arg("project"), arg("project_bias"),
        arg("hidden"), arg("stride"), arg("upsample"), arg("residual"), arg("dtype"), arg("workspace"),
        arg("half_sums"), arg("architecture"), arg("stream"));
#endif
}

TailParams tail_params(uintptr_t x, const py::tuple& x_stride, uintptr_t out, const py::tuple& out_shape,
                       const py::tuple& out_stride, uintptr_t depthwise, uintptr_t depthwise_bias, uintptr_t weights,
                       uintptr_t bias, int dtype) {
    TailParams p;
    p.x = address<const void>(x);
    p.out = address<void>(out);
    p.depthwise = address<const float>(depthwise);
    p.depthwise_bias = address<const float>(depthwise_bias);
    p.weights = address<const void>(weights);
    p.bias = address<const float>(bias);
    p.n = at(out_shape, 0);
    p.height = at(out_shape, 1);
    p.width = at(out_shape, 2);
    p.channels_in = 8;
    p.channels_out = at(out_shape, 3);
    p.x_stride_n = at(x_stride, 0);
    p.x_stride_y = at(x_stride, 1);
    p.x_stride_x = at(x_stride, 2);
    p.out_stride_n = at(out_stride, 0);
    p.out_stride_y = at(out_stride, 1);
    p.out_stride_x = at(out_stride, 2);
    p.dtype = dtype;
    return p;
}

void bind_tail(py::module_& m) {
    using py::arg;
    m.def(
        "tail",
        [](uintptr_t x, const py::tuple& x_stride, uintptr_t out, const py::tuple& out_shape,
           const py::tuple& out_stride, uintptr_t depthwise, uintptr_t depthwise_bias, uintptr_t weights,
           uintptr_t bias, int dtype) {
            const TailParams p =
                tail_params(x, x_stride, out, out_shape, out_stride, depthwise, depthwise_bias, weights, bias, dtype);
            const int64_t rows = p.n * p.height;
            run_blocks(p, kernels().tail, rows, rows_for_threads(rows, 32));
        },
        py::kw_only(), arg("x"), arg("x_stride"), arg("out"), arg("out_shape"), arg("out_stride"), arg("depthwise"),
        arg("depthwise_bias"), arg("weights"), arg("bias"), arg("dtype"));
    m.def(
        "tail_launch",
        [](uintptr_t x, const py::tuple& x_stride, uintptr_t out, const py::tuple& out_shape,
           const py::tuple& out_stride, uintptr_t depthwise, uintptr_t depthwise_bias, uintptr_t weights,
           uintptr_t bias, int dtype) {
            const TailParams p =
                tail_params(x, x_stride, out, out_shape, out_stride, depthwise, depthwise_bias, weights, bias, dtype);
            return launch_parts(p, tail_shape(p));
        },
        py::kw_only(), arg("x"), arg("x_stride"), arg("out"), arg("out_shape"), arg("out_stride"), arg("depthwise"),
        arg("depthwise_bias"), arg("weights"), arg("bias"), arg("dtype"));
#ifdef FASTREENACT_WITH_CUDA
    m.def(
        "tail_cuda",
        [](uintptr_t x, const py::tuple& x_stride, uintptr_t out, const py::tuple& out_shape,
           const py::tuple& out_stride, uintptr_t depthwise, uintptr_t depthwise_bias, uintptr_t weights,
           uintptr_t bias, int dtype, uintptr_t stream) {
            const TailParams p =
                tail_params(x, x_stride, out, out_shape, out_stride, depthwise, depthwise_bias, weights, bias, dtype);
            check_launch("tail", cuda::tail(p, reinterpret_cast<cudaStream_t>(stream)));
        },
        py::kw_only(), arg("x"), arg("x_stride"), arg("out"), arg("out_shape"), arg("out_stride"), arg("depthwise"),
        arg("depthwise_bias"), arg("weights"), arg("bias"), arg("dtype"), arg("stream"));
#endif
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

// Each of `drawings` is (out, out_stride, segments, colours, segment_count, size).
RasterizeLandmarksParams rasterize_landmarks_params(uintptr_t keypoints, const py::tuple& keypoints_stride, int64_t n,
                                                    const py::list& drawings) {
    RasterizeLandmarksParams p = {};
    if (drawings.size() > kMaxDrawings) throw py::value_error("drawings: needs at most 3");
    p.keypoints = address<const float>(keypoints);
    p.drawing_count = static_cast<int64_t>(drawings.size());
    p.n = n;
    p.keypoint_stride_n = at(keypoints_stride, 0);
    p.keypoint_stride_k = at(keypoints_stride, 1);
    p.keypoint_stride_c = at(keypoints_stride, 2);
    for (size_t i = 0; i < drawings.size(); ++i) {
        const py::tuple values = drawings[i].cast<py::tuple>();
        const py::tuple out_stride = values[1].cast<py::tuple>();
        Drawing& d = p.drawings[i];
        d.out = address<uint8_t>(values[0].cast<uintptr_t>());
        d.out_stride_n = at(out_stride, 0);
        d.out_stride_y = at(out_stride, 1);
        d.out_stride_x = at(out_stride, 2);
        d.segments = address<const int32_t>(values[2].cast<uintptr_t>());
        d.colours = address<const uint8_t>(values[3].cast<uintptr_t>());
        d.segment_count = at(values, 4);
        d.size = at(values, 5);
    }
    return p;
}

// Sums, factors, sweep, each over all threads.
void run_norm_act(NormActParams p) {
    // Few channels fill no vector: pixels that lie side by side count as one, in the sums and, where everything
    // lies so, in the sweep.
    const int64_t channels = p.channels;
    p.fold = 1;
    if (channels < 64 && p.x_stride_x == channels) {
        while (p.fold * channels % 16 != 0 && p.width % (2 * p.fold) == 0) p.fold *= 2;
    }
    p.row = (p.fold * channels + 15) / 16 * 16;
    const bool fold_sweep =
        p.repeat_x == 1 && p.out_stride_x == channels && (p.residual == nullptr || p.residual_stride_x == channels);
    const int64_t pixel_bytes = p.fold * channels * (p.dtype == kFloat32 ? 4 : 2);
    // Blocks of 128 KB, but of enough pixels that their sums, 12 bytes a channel, are little beside them, and of so
    // few that float32 sums stay exact to 3e-7. They do not depend on the threads, so the result does not.
    p.block = std::min<int64_t>(std::max<int64_t>((128 << 10) / pixel_bytes, 128), 4096);
    p.blocks = (p.depth * p.height * (p.width / p.fold) + p.block - 1) / p.block;
    const int64_t moments = 2 * p.n * p.row, sums = 3 * p.n * p.row * p.blocks, factors = 3 * p.n * p.row;
    const std::shared_ptr<double[]> work(new double[static_cast<size_t>(moments + (sums + factors) / 2)]);
    if (recording != nullptr) recording->keep(work);
    p.moments = work.get();
    p.sums = reinterpret_cast<float*>(p.moments + moments);
    p.factors = p.sums + sums;
    NormActParams folded = p;
    folded.width /= p.fold;
    folded.channels *= p.fold;
    folded.x_stride_x *= p.fold;
    folded.residual_stride_x *= p.fold;
    folded.out_stride_x *= p.fold;
    run_blocks(folded, kernels().norm_act_sums, p.n * p.blocks, 1);
    run_blocks(folded, kernels().norm_act_factors, p.n, 1);
    run_rows(fold_sweep ? folded : p, kernels().norm_act, p.n * p.depth * p.height, folded.width * pixel_bytes);
}

// Shapes and strides are [N, D, H, W, C].
void bind_norm_act(py::module_& m) {
    using py::arg;
    m.def(
        "norm_act",
        [](uintptr_t x, const py::tuple& shape, const py::tuple& x_stride, uintptr_t residual,
           const py::tuple& residual_stride, uintptr_t out, const py::tuple& out_stride, const py::tuple& repeat,
           uintptr_t scale, int64_t scale_stride, uintptr_t shift, int64_t shift_stride, int64_t groups, double eps,
           int dtype, int affine_dtype, int activation) {
            NormActParams p;
            p.x = address<const void>(x);
            p.residual = address<const void>(residual);
            p.out = address<void>(out);
            p.scale = address<const void>(scale);
            p.shift = address<const void>(shift);
            p.n = at(shape, 0);
            p.depth = at(shape, 1);
            p.height = at(shape, 2);
            p.width = at(shape, 3);
            p.channels = at(shape, 4);
            p.groups = groups;
            p.repeat_z = at(repeat, 0);
            p.repeat_y = at(repeat, 1);
            p.repeat_x = at(repeat, 2);
            p.x_stride_n = at(x_stride, 0);
            p.x_stride_z = at(x_stride, 1);
            p.x_stride_y = at(x_stride, 2);
            p.x_stride_x = at(x_stride, 3);
            p.residual_stride_n = at(residual_stride, 0);
            p.residual_stride_z = at(residual_stride, 1);
            p.residual_stride_y = at(residual_stride, 2);
            p.residual_stride_x = at(residual_stride, 3);
            p.out_stride_n = at(out_stride, 0);
            p.out_stride_z = at(out_stride, 1);
            p.out_stride_y = at(out_stride, 2);
            p.out_stride_x = at(out_stride, 3);
            p.scale_stride_n = scale_stride;
            p.shift_stride_n = shift_stride;
            p.eps = eps;
            p.dtype = dtype;
            p.affine_dtype = affine_dtype;
            p.activation = activation;
            run_norm_act(p);
        },
        py::kw_only(), arg("x"), arg("shape"), arg("x_stride"), arg("residual"), arg("residual_stride"), arg("out"),
        arg("out_stride"), arg("repeat"), arg("scale"), arg("scale_stride"), arg("shift"), arg("shift_stride"),
        arg("groups"), arg("eps"), arg("dtype"), arg("affine_dtype"), arg("activation"));
}

void bind_rasterize_landmarks(py::module_& m) {
    using py::arg;
    m.def(
        "rasterize_landmarks",
        [](uintptr_t keypoints, const py::tuple& keypoints_stride, int64_t n, const py::list& drawings) {
            const RasterizeLandmarksParams p = rasterize_landmarks_params(keypoints, keypoints_stride, n, drawings);
            int64_t bytes = 0;
            for (int64_t i = 0; i < p.drawing_count; ++i) bytes += 3 * p.drawings[i].size * p.drawings[i].size;
            if (p.drawing_count > 0) run_rows(p, &rasterize_landmarks, n * p.drawing_count, bytes / p.drawing_count);
        },
        py::kw_only(), arg("keypoints"), arg("keypoints_stride"), arg("n"), arg("drawings"));
    m.def(
        "rasterize_landmarks_launch",
        [](uintptr_t keypoints, const py::tuple& keypoints_stride, int64_t n, const py::list& drawings) {
            const RasterizeLandmarksParams p = rasterize_landmarks_params(keypoints, keypoints_stride, n, drawings);
            return launch_parts(p, rasterize_shape(p));
        },
        py::kw_only(), arg("keypoints"), arg("keypoints_stride"), arg("n"), arg("drawings"));
#ifdef FASTREENACT_WITH_CUDA
    m.def(
        "rasterize_landmarks_cuda",
        [](uintptr_t keypoints, const py::tuple& keypoints_stride, int64_t n, const py::list& drawings,
           uintptr_t stream) {
            const RasterizeLandmarksParams p = rasterize_landmarks_params(keypoints, keypoints_stride, n, drawings);
            check_launch("rasterize_landmarks", cuda::rasterize_landmarks(p, reinterpret_cast<cudaStream_t>(stream)));
        },
        py::kw_only(), arg("keypoints"), arg("keypoints_stride"), arg("n"), arg("drawings"), arg("stream"));
#endif
    m.def(
        "rasterize_lines",
        [](uintptr_t lines, uintptr_t out, int64_t m, int64_t height, int64_t width) {
            const RasterizeLinesParams p = {address<const int64_t>(lines), address<uint8_t>(out), m, height, width};
            run_rows(p, &rasterize_lines, m, height * width);
        },
        py::kw_only(), arg("lines"), arg("out"), arg("m"), arg("height"), arg("width"));
}

// Scratch memory of the pictures that are drawn at the same time: a block of work takes a free one and gives it
// back.
class Workspaces {
  public:
    Workspaces(int64_t count, int64_t bytes_each)
        : stride_((bytes_each + 63) / 64 * 64),
          taken_(static_cast<size_t>(count)),
          memory_(new char[static_cast<size_t>(stride_ * count + 64)]) {}

    // Waits where more threads came than there were at the start.
    size_t take() {
        for (;;) {
            for (size_t i = 0; i < taken_.size(); ++i) {
                if (!taken_[i].exchange(true, std::memory_order_acquire)) return i;
            }
            std::this_thread::yield();
        }
    }
    void give(size_t i) { taken_[i].store(false, std::memory_order_release); }
    void* at(size_t i) const {
        const uintptr_t first = (reinterpret_cast<uintptr_t>(memory_.get()) + 63) / 64 * 64;
        return reinterpret_cast<void*>(first + i * static_cast<size_t>(stride_));
    }

  private:
    int64_t stride_;
    std::vector<std::atomic<bool>> taken_;
    std::unique_ptr<char[]> memory_;
};

// Runs render_mesh over its pictures, without the GIL.
void run_pictures(const RenderMeshParams& params) {
    struct Job {
        const RenderMeshParams& params;
        void (*kernel)(const RenderMeshParams&, int64_t, int64_t);
        Workspaces workspaces;
    };
    const int64_t threads = num_threads();
    Job job{params, kernels().render_mesh, {params.n < threads ? params.n : threads, workspace_bytes(params)}};
    py::gil_scoped_release nogil;
    parallel_for(
        params.n, 1,
        [](void* context, int64_t begin, int64_t end) {
            Job& it = *static_cast<Job*>(context);
            RenderMeshParams mine = it.params;
            const size_t slot = it.workspaces.take();
            mine.workspace = it.workspaces.at(slot);
            it.kernel(mine, begin, end);
            it.workspaces.give(slot);
        },
        &job);
}

void bind_render_mesh(py::module_& m) {
    using py::arg;
    m.def(
        "render_mesh",
        [](uintptr_t vertices, uintptr_t triangles, uintptr_t attributes, uintptr_t background, uintptr_t image,
           uintptr_t alpha, uintptr_t ids, uintptr_t barycentrics, int64_t n, int64_t vertex_count,
           int64_t triangle_count, int64_t channels, int64_t height, int64_t width, int64_t supersample,
           int64_t attribute_stride_n, int64_t background_stride_n, bool cull) {
            RenderMeshParams p;
            p.vertices = address<const float>(vertices);
            p.triangles = address<const int32_t>(triangles);
            p.attributes = address<const float>(attributes);
            p.background = address<const float>(background);
            p.image = address<float>(image);
            p.alpha = address<float>(alpha);
            p.ids = address<int32_t>(ids);
            p.barycentrics = address<float>(barycentrics);
            p.workspace = nullptr;
            p.n = n;
            p.vertex_count = vertex_count;
            p.triangle_count = triangle_count;
            p.channels = channels;
            p.height = height;
            p.width = width;
            p.supersample = supersample;
            p.attribute_stride_n = attribute_stride_n;
            p.background_stride_n = background_stride_n;
            p.cull = cull ? 1 : 0;
            check_index("triangles", p.triangles, 3 * triangle_count, vertex_count, "number of vertices");
            run_pictures(p);
        },
        py::kw_only(), arg("vertices"), arg("triangles"), arg("attributes"), arg("background"), arg("image"),
        arg("alpha"), arg("ids"), arg("barycentrics"), arg("n"), arg("vertex_count"), arg("triangle_count"),
        arg("channels"), arg("height"), arg("width"), arg("supersample"), arg("attribute_stride_n"),
        arg("background_stride_n"), arg("cull"));
}

void bind_to_frame(py::module_& m) {
    using py::arg;
    m.def(
        "to_frame",
        [](uintptr_t image, uintptr_t out, uintptr_t flag, int64_t n, int64_t height, int64_t width,
           int64_t image_stride_n, int64_t image_stride_c, int64_t image_stride_y, int64_t image_stride_x,
           int64_t out_stride_n, int64_t out_stride_y, int64_t out_stride_x, int dtype, bool apply_tanh) {
            const ToFrameParams p =
                to_frame_params(image, out, flag, n, height, width, image_stride_n, image_stride_c, image_stride_y,
                                image_stride_x, out_stride_n, out_stride_y, out_stride_x, dtype, apply_tanh);
            run_rows(p, kernels().to_frame, n * height, width * 16);
        },
        py::kw_only(), arg("image"), arg("out"), arg("flag"), arg("n"), arg("height"), arg("width"),
        arg("image_stride_n"), arg("image_stride_c"), arg("image_stride_y"), arg("image_stride_x"), arg("out_stride_n"),
        arg("out_stride_y"), arg("out_stride_x"), arg("dtype"), arg("apply_tanh"));
#ifdef FASTREENACT_WITH_CUDA
    m.def(
        "to_frame_cuda",
        [](uintptr_t image, uintptr_t out, uintptr_t flag, int64_t n, int64_t height, int64_t width,
           int64_t image_stride_n, int64_t image_stride_c, int64_t image_stride_y, int64_t image_stride_x,
           int64_t out_stride_n, int64_t out_stride_y, int64_t out_stride_x, int dtype, bool apply_tanh,
           uintptr_t stream) {
            const ToFrameParams p =
                to_frame_params(image, out, flag, n, height, width, image_stride_n, image_stride_c, image_stride_y,
                                image_stride_x, out_stride_n, out_stride_y, out_stride_x, dtype, apply_tanh);
            check_launch("to_frame", cuda::to_frame(p, reinterpret_cast<cudaStream_t>(stream)));
        },
        py::kw_only(), arg("image"), arg("out"), arg("flag"), arg("n"), arg("height"), arg("width"),
        arg("image_stride_n"), arg("image_stride_c"), arg("image_stride_y"), arg("image_stride_x"), arg("out_stride_n"),
        arg("out_stride_y"), arg("out_stride_x"), arg("dtype"), arg("apply_tanh"), arg("stream"));
#endif
}

}  // namespace
}  // namespace fastreenact

PYBIND11_MODULE(_C, m) {
    m.doc() = "CPU kernels of fastreenact, and its CUDA kernels where they were compiled in.";
    fastreenact::bind_runtime(m);
    fastreenact::bind_compose_frame(m);
    fastreenact::bind_conv(m);
    fastreenact::bind_mbconv(m);
    fastreenact::bind_recording(m);
    fastreenact::bind_tail(m);
    fastreenact::bind_warp(m);
    fastreenact::bind_fit_face(m);
    fastreenact::bind_landmark_field(m);
    fastreenact::bind_lay_cover(m);
    fastreenact::bind_slit_cover(m);
    fastreenact::bind_shrink(m);
    fastreenact::bind_grid_sample_3d(m);
    fastreenact::bind_spade(m);
    fastreenact::bind_norm_act(m);
    fastreenact::bind_rasterize_landmarks(m);
    fastreenact::bind_render_mesh(m);
    fastreenact::bind_to_frame(m);
}
