// Bindings of the ops that are layers of a network. [N, H, W, C] throughout: shapes and strides are tuples of four (of
// five with D in norm_act), the last stride is 1.
#include <algorithm>
#include <vector>

#include "bind/bind.h"
#include "conv_tiles.h"
#include "dictionary_read.h"
#include "mbconv_plan.h"
#include "norm_act.h"
#include "tail.h"

namespace fastreenact {
#ifdef FASTREENACT_WITH_CUDA
namespace cuda {
cudaError_t mbconv(const MbconvParams& params, cudaStream_t stream);
cudaError_t conv_many(const ConvParams* convs, int count, int architecture, cudaStream_t stream);
cudaError_t tail(const TailParams& params, cudaStream_t stream);
}  // namespace cuda
#endif

namespace {

// (phases, step, offset of each phase, taps of each phase)
ConvAxis conv_axis(const py::tuple& values) {
    ConvAxis axis = {};
    axis.phases = values[0].cast<int32_t>();
    axis.step = values[1].cast<int32_t>();
    const py::tuple offset = values[2].cast<py::tuple>(), taps = values[3].cast<py::tuple>();
    for (int32_t i = 0; i < axis.phases; ++i) {
        axis.offset[i] = offset[static_cast<size_t>(i)].cast<int32_t>();
        axis.taps[i] = taps[static_cast<size_t>(i)].cast<int32_t>();
    }
    return axis;
}

ConvParams conv_params(Keywords& k) {
    ConvParams p = {};
    p.x = k.address<const void>("x");
    p.weights = k.address<const void>("weights");
    p.bias = k.address<const float>("bias");
    p.add = k.address<const void>("add");
    p.residual = k.address<const void>("residual");
    p.out = k.address<void>("out");
    p.source_index = k.address<const int32_t>("source_index");
    p.axis_y = conv_axis(k.value<py::tuple>("axis_y"));
    p.axis_x = conv_axis(k.value<py::tuple>("axis_x"));
    const auto weights_at = k.value<std::vector<int64_t>>("weights_at", true);
    std::copy_n(weights_at.begin(), std::min<size_t>(weights_at.size(), kMaxPhases * kMaxPhases), p.weights_at);
    k.integers("x_shape", {&p.n, &p.height, &p.width, &p.channels_in});
    k.integers("out_shape", {nullptr, &p.out_height, &p.out_width, &p.channels_out});
    k.integers("x_stride", {&p.x_stride_n, &p.x_stride_y, &p.x_stride_x, nullptr});
    k.integers("add_stride", {&p.add_stride_n, &p.add_stride_y, &p.add_stride_x, nullptr});
    k.integers("residual_stride", {&p.residual_stride_n, &p.residual_stride_y, &p.residual_stride_x, nullptr});
    k.integers("out_stride", {&p.out_stride_n, &p.out_stride_y, &p.out_stride_x, nullptr});
    p.x_scale = k.single("x_scale");
    p.x_shift = k.single("x_shift");
    p.x_dtype = k.number("x_dtype");
    p.dtype = k.number("dtype");
    p.out_dtype = k.number("out_dtype");
    p.activation = k.number("activation");
    p.residual_half = k.flag("residual_half");
    p.winograd = k.flag("winograd");
    p.groups = 1;
    return p;
}

void conv(Keywords& k) {
    ConvParams p = conv_params(k);
    k.end();
    constexpr int64_t kFewPixels = 256;  // every thread would read all weights for a few rows
    const int64_t outputs = conv_row_outputs(p);
    const int64_t rows = p.n * ((p.out_height + outputs - 1) / outputs);
    const int64_t panels = (p.channels_out + 15) / 16;
    if (p.n * p.out_height * p.out_width <= kFewPixels * (p.winograd ? 4 : 1) && panels > 1) {
        p.groups = static_cast<int32_t>(std::min<int64_t>(panels, num_threads()));
        run_blocks(p, kernels().conv, rows * p.groups, rows);
    } else {
        const int64_t pixels = std::max<int64_t>(p.out_width * outputs, 1);
        run_blocks(p, kernels().conv, rows, rows_for_threads(rows, std::max<int64_t>(512 / pixels, 8)));
    }
}

// Each of `convs` has the keywords of `conv`.
ConvBatch conv_batch(const py::list& convs) {
    ConvBatch batch = {};
    if (convs.size() < 1 || convs.size() > kMaxConvs) throw py::value_error("convs: needs 1 to 4");
    for (size_t i = 0; i < convs.size(); ++i) {
        const py::dict given = convs[i].cast<py::dict>();
        Keywords k("conv", given);
        batch.convs[i] = conv_params(k);
        k.end();
        if (batch.convs[i].dtype != batch.convs[0].dtype) throw py::value_error("convs: needs one dtype of weights");
    }
    batch.count = static_cast<int32_t>(convs.size());
    return batch;
}

// The index of the tile, and what is launched.
py::tuple conv_launch(Keywords& k) {
    ConvBatch batch = conv_batch(k.value<py::list>("convs"));
    const int architecture = k.number("architecture");
    k.end();
    const int32_t tile = plan_convs(batch);
    if (tile < 0) throw py::value_error("convs: more pixels than one launch can number");
    return py::make_tuple(tile, launch_parts(batch, conv_shape(batch, tile, architecture)));
}

// What decides how mbconv runs.
MbconvParams mbconv_sizes(Keywords& k) {
    MbconvParams p = {};
    k.integers("x_shape", {&p.n, &p.height, &p.width, &p.channels_in});
    k.integers("out_shape", {nullptr, &p.out_height, &p.out_width, &p.channels_out});
    p.hidden = k.integer("hidden");
    p.stride = k.number("stride");
    p.upsample = k.flag("upsample");
    p.dtype = k.number("dtype");
    p.groups = 1;
    return p;
}

MbconvParams mbconv_params(Keywords& k) {
    MbconvParams p = mbconv_sizes(k);
    p.x = k.address<const void>("x");
    p.out = k.address<void>("out");
    p.expand = k.address<const void>("expand");
    p.expand_bias = k.address<const float>("expand_bias");
    p.depthwise = k.address<const float>("depthwise");
    p.depthwise_bias = k.address<const float>("depthwise_bias");
    p.project = k.address<const void>("project");
    p.project_bias = k.address<const float>("project_bias");
    k.integers("x_stride", {&p.x_stride_n, &p.x_stride_y, &p.x_stride_x, nullptr});
    k.integers("out_stride", {&p.out_stride_n, &p.out_stride_y, &p.out_stride_x, nullptr});
    p.residual = k.flag("residual");
    return p;
}

MbconvParams mbconv_gpu_params(Keywords& k) {
    MbconvParams p = mbconv_params(k);
    p.workspace = k.address<void>("workspace");
    p.half_sums = k.flag("half_sums");
    p.architecture = k.number("architecture");
    return p;
}

void mbconv(Keywords& k) {
    MbconvParams p = mbconv_params(k);
    k.end();
    const int64_t rows = p.n * p.out_height, threads = num_threads();
    // Shared out by rows, each thread expands two rows that another has as well. Where that is much, and channels are
    // many, they are shared out instead.
    constexpr int64_t kMuch = 2 << 20;  // multiplications: about what adding up the shares costs
    if (threads > 1 && p.hidden >= 128 * threads && 2 * p.width * p.channels_in * p.hidden >= kMuch &&
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
}

int64_t mbconv_workspace(Keywords& k) {
    MbconvParams p = mbconv_sizes(k);
    static const char kSome = 0;
    p.expand = k.value<bool>("expanded") ? &kSome : nullptr;  // asked whether it is there
    p.architecture = k.number("architecture");
    k.end();
    return mbconv_plan(p).workspace_bytes;
}

py::list mbconv_launch(Keywords& k) {
    const MbconvParams p = mbconv_gpu_params(k);
    k.end();
    const MbconvPlan plan = mbconv_plan(p);
    py::list launches;
    for (int i = 0; i < plan.launches; ++i) {
        launches.append(py::make_tuple(static_cast<int>(plan.kernel[i]), launch_parts(p, plan.shape[i])));
    }
    return launches;
}

TailParams tail_params(Keywords& k) {
    TailParams p = {};
    p.x = k.address<const void>("x");
    p.out = k.address<void>("out");
    p.depthwise = k.address<const float>("depthwise");
    p.depthwise_bias = k.address<const float>("depthwise_bias");
    p.weights = k.address<const void>("weights");
    p.bias = k.address<const float>("bias");
    k.integers("out_shape", {&p.n, &p.height, &p.width, &p.channels_out});
    p.channels_in = kTailChannels;
    k.integers("x_stride", {&p.x_stride_n, &p.x_stride_y, &p.x_stride_x, nullptr});
    k.integers("out_stride", {&p.out_stride_n, &p.out_stride_y, &p.out_stride_x, nullptr});
    p.dtype = k.number("dtype");
    return p;
}

void tail(Keywords& k) {
    const TailParams p = tail_params(k);
    k.end();
    const int64_t rows = p.n * p.height;
    run_blocks(p, kernels().tail, rows, rows_for_threads(rows, 32));
}

py::tuple tail_launch(Keywords& k) {
    const TailParams p = tail_params(k);
    k.end();
    return launch_parts(p, tail_shape(p));
}

NormActParams norm_act_params(Keywords& k) {
    NormActParams p = {};
    p.x = k.address<const void>("x");
    p.residual = k.address<const void>("residual");
    p.out = k.address<void>("out");
    p.scale = k.address<const void>("scale");
    p.shift = k.address<const void>("shift");
    k.integers("shape", {&p.n, &p.depth, &p.height, &p.width, &p.channels});
    p.groups = k.integer("groups");
    k.integers("repeat", {&p.repeat_z, &p.repeat_y, &p.repeat_x});
    k.integers("x_stride", {&p.x_stride_n, &p.x_stride_z, &p.x_stride_y, &p.x_stride_x, nullptr});
    k.integers("residual_stride",
               {&p.residual_stride_n, &p.residual_stride_z, &p.residual_stride_y, &p.residual_stride_x, nullptr});
    k.integers("out_stride", {&p.out_stride_n, &p.out_stride_z, &p.out_stride_y, &p.out_stride_x, nullptr});
    p.scale_stride_n = k.integer("scale_stride");
    p.shift_stride_n = k.integer("shift_stride");
    p.eps = k.real("eps");
    p.dtype = k.number("dtype");
    p.affine_dtype = k.number("affine_dtype");
    p.activation = k.number("activation");
    return p;
}

// Sums, factors, sweep, each over all threads.
void norm_act(Keywords& k) {
    NormActParams p = norm_act_params(k);
    k.end();
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

// [N, M, K], [R, K] and [N or 1, R, C]: shapes and strides as they are.
void dictionary_read(Keywords& k) {
    DictionaryReadParams p = {};
    p.q = k.address<const void>("q");
    p.u = k.address<const void>("u");
    p.v = k.address<const void>("v");
    p.out = k.address<void>("out");
    k.integers("q_shape", {&p.n, &p.rows, &p.key});
    k.integers("v_shape", {&p.samples, &p.entries, &p.channels});
    k.integers("q_stride", {&p.q_stride_n, &p.q_stride_m, nullptr});
    k.integers("u_stride", {&p.u_stride_r, nullptr});
    k.integers("v_stride", {&p.v_stride_n, &p.v_stride_r, nullptr});
    k.integers("out_stride", {&p.out_stride_n, &p.out_stride_m, nullptr});
    p.scale = k.single("scale");
    p.dtype = k.number("dtype");
    k.end();
    const DictionaryPanels panels = dictionary_panels(p);
    const int64_t size = panels.keys * panels.key_size + p.samples * panels.values * panels.value_size;
    const std::shared_ptr<float[]> work(new float[static_cast<size_t>(size)]);
    p.panels = work.get();
    run_blocks(p, kernels().dictionary_pack, panels.keys + p.samples * panels.values, 8, work);
    const int64_t rows = p.n * p.rows;
    run_blocks(p, kernels().dictionary_read, rows, rows_for_threads(rows, 64), work);
}

#ifdef FASTREENACT_WITH_CUDA
void conv_cuda(Keywords& k) {
    const ConvBatch batch = conv_batch(k.value<py::list>("convs"));
    const int architecture = k.number("architecture");
    const auto stream = k.address<CUstream_st>("stream");
    k.end();
    check_launch("conv", cuda::conv_many(batch.convs, batch.count, architecture, stream));
}

void mbconv_cuda(Keywords& k) {
    const MbconvParams p = mbconv_gpu_params(k);
    const auto stream = k.address<CUstream_st>("stream");
    k.end();
    check_launch("mbconv", cuda::mbconv(p, stream));
}

void tail_cuda(Keywords& k) {
    const TailParams p = tail_params(k);
    const auto stream = k.address<CUstream_st>("stream");
    k.end();
    check_launch("tail", cuda::tail(p, stream));
}
#endif

}  // namespace

void bind_layers(py::module_& m) {
    define(m, "conv", conv);
    define(m, "conv_launch", conv_launch);
    define(m, "mbconv", mbconv);
    define(m, "mbconv_workspace", mbconv_workspace, "Bytes that mbconv_cuda needs at `workspace`.");
    define(m, "mbconv_launch", mbconv_launch,
           "What NVRTC's caller launches, in order: [(MbconvKernel, (parameters, grid, threads, shared bytes))].");
    define(m, "tail", tail);
    define(m, "tail_launch", tail_launch);
    define(m, "norm_act", norm_act);
    define(m, "dictionary_read", dictionary_read);
#ifdef FASTREENACT_WITH_CUDA
    define(m, "conv_cuda", conv_cuda);
    define(m, "mbconv_cuda", mbconv_cuda);
    define(m, "tail_cuda", tail_cuda);
#endif
}

}  // namespace fastreenact
