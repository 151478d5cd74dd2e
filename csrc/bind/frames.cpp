// Bindings of the ops that draw, enlarge, cover and deliver 8-bit pictures.
#include <algorithm>
#include <array>
#include <cmath>

#include "bind/bind.h"
#include "compose_frame.h"
#include "rasterize_landmarks.h"
#include "shrink.h"
#include "slit_cover.h"
#include "to_frame.h"

namespace fastreenact {
#ifdef FASTREENACT_WITH_CUDA
namespace cuda {
cudaError_t compose_frame(const ComposeFrameParams& params, cudaStream_t stream);
cudaError_t rasterize_landmarks(const RasterizeLandmarksParams& params, cudaStream_t stream);
cudaError_t to_frame(const ToFrameParams& params, cudaStream_t stream);
}  // namespace cuda
#endif

namespace {

ComposeFrameParams compose_frame_params(Keywords& k) {
    ComposeFrameParams p = {};
    p.raw = k.address<const void>("raw");
    p.surface = k.address<uint8_t>("surface");
    p.flag = k.address<int32_t>("flag");
    p.side = k.integer("side");
    p.raw_stride_y = k.integer("raw_stride_y");
    p.raw_stride_x = k.integer("raw_stride_x");
    p.surface_stride = k.integer("surface_stride");
    p.left = k.integer("left");
    p.top = k.integer("top");
    p.width = k.integer("width");
    p.height = k.integer("height");
    p.centre_x = k.real("centre_x");
    p.centre_y = k.real("centre_y");
    p.size = k.real("size");
    p.fade = k.real("fade");
    // most_gain * sigmoid(value - gain_middle) - 1, by sigmoid(x) = (1 + tanh(x / 2)) / 2
    const double most_gain = k.real("most_gain");
    p.gain_scale = static_cast<float>(0.5 * most_gain);
    p.gain_shift = static_cast<float>(0.5 * most_gain - 1.0);
    p.gain_middle = static_cast<float>(std::log(most_gain - 1.0));
    p.dtype = k.number("dtype");
    return p;
}

void compose_frame(Keywords& k) {
    const ComposeFrameParams p = compose_frame_params(k);
    k.end();
    // Each block activates anew what its first row needs: where the square is enlarged, blocks of at least eight of its
    // rows.
    const double times = std::min(p.size / static_cast<double>(p.side), static_cast<double>(p.height));
    const int64_t enlarged = 8 * static_cast<int64_t>(times);
    run_blocks(p, kernels().compose_frame, p.height, std::max(rows_per_block(p.height, p.width * 24), enlarged));
}

ToFrameParams to_frame_params(Keywords& k) {
    ToFrameParams p = {};
    p.image = k.address<const void>("image");
    p.out = k.address<uint8_t>("out");
    p.flag = k.address<int32_t>("flag");
    p.n = k.integer("n");
    p.height = k.integer("height");
    p.width = k.integer("width");
    p.image_stride_n = k.integer("image_stride_n");
    p.image_stride_c = k.integer("image_stride_c");
    p.image_stride_y = k.integer("image_stride_y");
    p.image_stride_x = k.integer("image_stride_x");
    p.out_stride_n = k.integer("out_stride_n");
    p.out_stride_y = k.integer("out_stride_y");
    p.out_stride_x = k.integer("out_stride_x");
    p.dtype = k.number("dtype");
    p.apply_tanh = k.flag("apply_tanh");
    return p;
}

void to_frame(Keywords& k) {
    const ToFrameParams p = to_frame_params(k);
    k.end();
    run_rows(p, kernels().to_frame, p.n * p.height, p.width * 16);
}

// Each of `drawings` is (out, out_stride, segments, colours, segment_count, size).
RasterizeLandmarksParams rasterize_landmarks_params(Keywords& k) {
    RasterizeLandmarksParams p = {};
    const auto drawings = k.value<py::list>("drawings");
    if (drawings.size() > kMaxDrawings) throw py::value_error("drawings: needs at most 3");
    p.keypoints = k.address<const float>("keypoints");
    p.drawing_count = static_cast<int64_t>(drawings.size());
    p.n = k.integer("n");
    k.integers("keypoints_stride", {&p.keypoint_stride_n, &p.keypoint_stride_k, &p.keypoint_stride_c});
    for (size_t i = 0; i < drawings.size(); ++i) {
        const py::tuple values = drawings[i].cast<py::tuple>();
        const py::tuple out_stride = values[1].cast<py::tuple>();
        Drawing& d = p.drawings[i];
        d.out = reinterpret_cast<uint8_t*>(values[0].cast<uintptr_t>());
        d.out_stride_n = out_stride[0].cast<int64_t>();
        d.out_stride_y = out_stride[1].cast<int64_t>();
        d.out_stride_x = out_stride[2].cast<int64_t>();
        d.segments = reinterpret_cast<const int32_t*>(values[2].cast<uintptr_t>());
        d.colours = reinterpret_cast<const uint8_t*>(values[3].cast<uintptr_t>());
        d.segment_count = values[4].cast<int64_t>();
        d.size = values[5].cast<int64_t>();
    }
    return p;
}

void rasterize(Keywords& k) {
    const RasterizeLandmarksParams p = rasterize_landmarks_params(k);
    k.end();
    int64_t bytes = 0;
    for (int64_t i = 0; i < p.drawing_count; ++i) bytes += 3 * p.drawings[i].size * p.drawings[i].size;
    if (p.drawing_count > 0) run_rows(p, &rasterize_landmarks, p.n * p.drawing_count, bytes / p.drawing_count);
}

py::tuple rasterize_launch(Keywords& k) {
    const RasterizeLandmarksParams p = rasterize_landmarks_params(k);
    k.end();
    return launch_parts(p, rasterize_shape(p));
}

void lines(Keywords& k) {
    RasterizeLinesParams p = {};
    p.lines = k.address<const int64_t>("lines");
    p.out = k.address<uint8_t>("out");
    p.m = k.integer("m");
    p.height = k.integer("height");
    p.width = k.integer("width");
    k.end();
    run_rows(p, &rasterize_lines, p.m, p.height * p.width);
}

void shrink(Keywords& k) {
    ShrinkParams p = {};
    p.picture = k.address<const uint8_t>("picture");
    p.out = k.address<void>("out");
    p.height = k.integer("height");
    p.width = k.integer("width");
    p.stride = k.integer("stride");
    p.side = k.integer("side");
    p.samples = k.integer("samples");
    p.left = k.real("left");
    p.top = k.real("top");
    p.size = k.real("size");
    p.dtype = k.number("dtype");
    k.end();
    run_rows(p, kernels().shrink, p.side, p.side * 16 * p.samples * p.samples);
}

void slit_cover(Keywords& k) {
    SlitCoverParams p = {};
    p.upper = k.address<const float>("upper");
    p.lower = k.address<const float>("lower");
    p.knots = k.integer("knots");
    const auto frame = k.value<std::array<float, 6>>("frame", true),
               layer = k.value<std::array<float, 6>>("layer", true);
    std::copy(frame.begin(), frame.end(), p.frame);
    std::copy(layer.begin(), layer.end(), p.layer);
    p.left = k.integer("left");
    p.top = k.integer("top");
    p.width = k.integer("width");
    p.height = k.integer("height");
    p.inset = k.single("inset");
    p.soft = k.single("soft");
    p.gain = k.single("gain");
    p.opacity = k.address<float>("opacity");
    p.field = k.address<float>("field");
    k.end();
    run_rows(p, kernels().slit_cover, p.height, p.width * 32);
}

void lay_cover(Keywords& k) {
    LayCoverParams p = {};
    p.layer = k.address<const uint8_t>("layer");
    p.layer_height = k.integer("layer_height");
    p.layer_width = k.integer("layer_width");
    p.opacity = k.address<const float>("opacity");
    p.field = k.address<const float>("field");
    p.height = k.integer("height");
    p.width = k.integer("width");
    p.surface = k.address<uint8_t>("surface");
    p.surface_stride = k.integer("surface_stride");
    k.end();
    run_rows(p, kernels().lay_cover, p.height, p.width * 64);
}

#ifdef FASTREENACT_WITH_CUDA
void compose_frame_cuda(Keywords& k) {
    const ComposeFrameParams p = compose_frame_params(k);
    const auto stream = k.address<CUstream_st>("stream");
    k.end();
    check_launch("compose_frame", cuda::compose_frame(p, stream));
}

void to_frame_cuda(Keywords& k) {
    const ToFrameParams p = to_frame_params(k);
    const auto stream = k.address<CUstream_st>("stream");
    k.end();
    check_launch("to_frame", cuda::to_frame(p, stream));
}

void rasterize_cuda(Keywords& k) {
    const RasterizeLandmarksParams p = rasterize_landmarks_params(k);
    const auto stream = k.address<CUstream_st>("stream");
    k.end();
    check_launch("rasterize_landmarks", cuda::rasterize_landmarks(p, stream));
}
#endif

}  // namespace

void bind_frames(py::module_& m) {
    define(m, "compose_frame", compose_frame);
    define(m, "to_frame", to_frame);
    define(m, "rasterize_landmarks", rasterize);
    define(m, "rasterize_landmarks_launch", rasterize_launch);
    define(m, "rasterize_lines", lines);
    define(m, "shrink", shrink);
    define(m, "slit_cover", slit_cover);
    define(m, "lay_cover", lay_cover);
#ifdef FASTREENACT_WITH_CUDA
    define(m, "compose_frame_cuda", compose_frame_cuda);
    define(m, "to_frame_cuda", to_frame_cuda);
    define(m, "rasterize_landmarks_cuda", rasterize_cuda);
#endif
}

}  // namespace fastreenact
