#include "schedule.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <stdexcept>
#include <thread>

#include "conv_tiles.h"
#include "mbconv_plan.h"
#include "substrate/isa.h"
#include "substrate/recording.h"

namespace fastreenact {
namespace {

void check_index(const char* name, const int32_t* index, int64_t count, int64_t size,
                 const char* meaning = "size of the tables") {
    for (int64_t i = 0; index != nullptr && i < count; ++i) {
        if (index[i] >= 0 && index[i] < size) continue;
        throw std::invalid_argument(std::string(name) + ": got " + std::to_string(index[i]) + " at position " +
                                    std::to_string(i) + ", needs values from 0 to " + std::to_string(size - 1) +
                                    ", one less than the " + meaning);
    }
}

// C++'s name of an instance of a kernel.
template <typename... Numbers>
std::string instance(const char* kernel, int32_t first, Numbers... others) {
    std::string name = std::string(kernel) + "<" + std::to_string(first);
    ((name += std::is_same_v<Numbers, bool> ? (others ? ", true" : ", false") : ", " + std::to_string(others)), ...);
    return name + ">";
}

template <typename Params>
std::vector<Launch> one_launch(const std::string& kernel, const Params& p, const LaunchShape& s) {
    if (s.grid_x == 0 || s.grid_y == 0 || s.grid_z == 0) return {};
    return {launch_of(kernel, p, s)};
}

}  // namespace

void run(WarpCall& p) {
    check_index("source_index", p.source_index, p.n, p.sources, "number of pictures in features");
    if (p.scale.data != nullptr) {
        check_index("index_y", p.index_y, p.out_height, p.rows);
        check_index("index_x", p.index_x, p.out_width, p.columns);
    }
    // Four taps a pixel, and about 16 bytes' worth of work to find them.
    run_rows<WarpParams>(p, kernels().warp, p.n * p.out_height, p.out_width * (16 + 8 * p.channels));
}

void run(SpadeCall& p) {
    check_index("index_y", p.index_y, p.height, p.rows);
    check_index("index_x", p.index_x, p.width, p.columns);
    run_rows<SpadeParams>(p, kernels().spade, p.n * p.height, p.width * p.channels * 8);
}

void run(GridSample3dParams& p) {
    // Eight corners a point, and about 64 bytes' worth of work to find them.
    const int64_t bytes_per_row = p.out_width * (64 + 16 * p.channels);
    if (p.sum_depth != 0) {
        run_rows(p, kernels().grid_sample_3d, p.n * p.out_height, bytes_per_row * p.out_depth);
    } else {
        run_rows(p, kernels().grid_sample_3d, p.n * p.out_depth * p.out_height, bytes_per_row);
    }
}

void run(ConvCall& p) {
    check_index("source_index", p.source_index, p.n, p.addends, "number of pictures of add");
    constexpr int64_t kFewPixels = 256;  // every thread would read all weights for a few rows
    const int64_t outputs = conv_row_outputs(p);
    const int64_t rows = p.n * ((p.out_height + outputs - 1) / outputs);
    const int64_t panels = (p.channels_out + 15) / 16;
    if (p.n * p.out_height * p.out_width <= kFewPixels * (p.winograd ? 4 : 1) && panels > 1) {
        p.groups = static_cast<int32_t>(std::min<int64_t>(panels, num_threads()));
        run_blocks<ConvParams>(p, kernels().conv, rows * p.groups, rows);
    } else {
        const int64_t pixels = std::max<int64_t>(p.out_width * outputs, 1);
        run_blocks<ConvParams>(p, kernels().conv, rows, rows_for_threads(rows, std::max<int64_t>(512 / pixels, 8)));
    }
}

std::vector<Launch> launches(const std::vector<ConvCall>& convs) {
    ConvBatch batch = {};
    if (convs.empty() || convs.size() > kMaxConvs) throw std::invalid_argument("conv: needs 1 to 4 at once");
    for (size_t i = 0; i < convs.size(); ++i) {
        if (convs[i].dtype != convs[0].dtype) throw std::invalid_argument("conv: needs one dtype of weights");
        batch.convs[i] = convs[i];
    }
    batch.count = static_cast<int32_t>(convs.size());
    const int32_t tile = plan_convs(batch);
    if (tile < 0) throw std::invalid_argument("conv: more pixels than one launch can number");
    return one_launch(instance("conv_kernel", convs[0].dtype, tile), batch,
                      conv_shape(batch, tile, convs[0].architecture));
}

std::vector<Launch> launches(const ConvCall& p) {
    return launches(std::vector<ConvCall>{p});
}

void run(MbconvParams& p) {
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

std::vector<Launch> launches(const MbconvParams& p) {
    static const char* const kNames[] = {"mbconv_narrow_kernel", "mbconv_wide_kernel", "mbconv_expand_kernel",
                                         "mbconv_project_kernel"};
    const MbconvPlan plan = mbconv_plan(p);
    std::vector<Launch> all;
    for (int i = 0; i < plan.launches; ++i) {
        all.push_back(launch_of(instance(kNames[plan.kernel[i]], p.dtype, p.half_sums != 0), p, plan.shape[i]));
    }
    return all;
}

int64_t workspace_bytes_of(const MbconvParams& p) {
    return mbconv_plan(p).workspace_bytes;
}

void run(TailParams& p) {
    const int64_t rows = p.n * p.height;
    run_blocks(p, kernels().tail, rows, rows_for_threads(rows, 32));
}

std::vector<Launch> launches(const TailParams& p) {
    return one_launch(instance("tail_kernel", p.dtype), p, tail_shape(p));
}

// Sums, factors, sweep, each over all threads.
void run(NormActParams& p) {
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
    p.moments = work.get();
    p.sums = reinterpret_cast<float*>(p.moments + moments);
    p.factors = p.sums + sums;
    NormActParams folded = p;
    folded.width /= p.fold;
    folded.channels *= p.fold;
    folded.x_stride_x *= p.fold;
    folded.residual_stride_x *= p.fold;
    folded.out_stride_x *= p.fold;
    run_blocks(folded, kernels().norm_act_sums, p.n * p.blocks, 1, work);
    run_blocks(folded, kernels().norm_act_factors, p.n, 1, work);
    run_rows(fold_sweep ? folded : p, kernels().norm_act, p.n * p.depth * p.height, folded.width * pixel_bytes);
}

void run(DictionaryReadParams& p) {
    const DictionaryPanels panels = dictionary_panels(p);
    const int64_t size = panels.keys * panels.key_size + p.samples * panels.values * panels.value_size;
    const std::shared_ptr<float[]> work(new float[static_cast<size_t>(size)]);
    p.panels = work.get();
    run_blocks(p, kernels().dictionary_pack, panels.keys + p.samples * panels.values, 8, work);
    const int64_t rows = p.n * p.rows;
    run_blocks(p, kernels().dictionary_read, rows, rows_for_threads(rows, 64), work);
}

static void run_one(const ComposeFrameParams& p) {
    if (p.width == 0 || p.height == 0) return;
    // Each block activates anew what its first row needs: where the square is enlarged, blocks of at least eight of its
    // rows.
    const double times = std::min(p.size / static_cast<double>(p.side), static_cast<double>(p.height));
    const int64_t enlarged = 8 * static_cast<int64_t>(times);
    run_blocks(p, kernels().compose_frame, p.height, std::max(rows_per_block(p.height, p.width * 24), enlarged));
}

void run(ComposeFrameParams& p) {
    for (int64_t n = 0; n < p.n; ++n) run_one(compose_frame_of(p, n));
}

std::vector<Launch> launches(const ComposeFrameParams& p) {
    const bool whole = p.boxes != nullptr;  // each frame's rectangle is known on the device alone
    return one_launch("compose_frame_kernel", p,
                      picture_shape(whole ? p.picture_width : p.width, whole ? p.picture_height : p.height, p.n));
}

void run(ToFrameParams& p) {
    run_rows(p, kernels().to_frame, p.n * p.height, p.width * 16);
}

std::vector<Launch> launches(const ToFrameParams& p) {
    return one_launch("to_frame_kernel", p, to_frame_shape(p));
}

void run(RasterizeLandmarksParams& p) {
    int64_t bytes = 0;
    for (int64_t i = 0; i < p.drawing_count; ++i) bytes += 3 * p.drawings[i].size * p.drawings[i].size;
    if (p.drawing_count > 0) run_rows(p, &rasterize_landmarks, p.n * p.drawing_count, bytes / p.drawing_count);
}

std::vector<Launch> launches(const RasterizeLandmarksParams& p) {
    return one_launch("rasterize_landmarks_kernel", p, rasterize_shape(p));
}

void run(RasterizeLinesParams& p) {
    run_rows(p, &rasterize_lines, p.m, p.height * p.width);
}

void run(ShrinkParams& p) {
    for (int64_t n = 0; n < p.n; ++n) {
        run_rows(shrink_frame(p, n), kernels().shrink, p.side, p.side * 16 * p.samples * p.samples);
    }
}

std::vector<Launch> launches(const ShrinkParams& p) {
    return one_launch("shrink_kernel", p, picture_shape(p.side, p.side, p.n));
}

void run(LandmarkCoversParams& p) {
    run_rows(p, &landmark_covers, p.n * p.height, p.width);
}

std::vector<Launch> launches(const LandmarkCoversParams& p) {
    constexpr int64_t kColumns = 512, kRows = 256;  // about what eyes and mouth take of a large picture
    return one_launch("landmark_covers_kernel", p,
                      picture_shape(std::min(p.width, kColumns), std::min(p.height, kRows), p.n));
}

void run(SlitCoverParams& p) {
    run_rows(p, kernels().slit_cover, p.height, p.width * 32);
}

void run(LayCoverParams& p) {
    run_rows(p, kernels().lay_cover, p.height, p.width * 64);
}

void run(LandmarkPlaceParams& p) {
    check_index("source_index", p.index, p.n, p.count, "number of heads");
    run_blocks(p, &landmark_place, p.n, 1);
}

std::vector<Launch> launches(const LandmarkPlaceParams& p) {
    return one_launch("landmark_place_kernel", p, landmark_place_shape(p));
}

void run(LandmarkNodesParams& p) {
    run_blocks(p, &landmark_nodes, p.n * landmark_tiles(p, p.height), 1);
}

std::vector<Launch> launches(const LandmarkNodesParams& p) {
    return one_launch("landmark_nodes_kernel", p, landmark_nodes_shape(p));
}

void run(FitFaceParams& p) {
    run_blocks(p, kernels().fit_face, 1, 1);
}

namespace {

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

}  // namespace

void run(LandmarkFieldCall& p) {
    if (p.own > kMostOwn) throw std::invalid_argument("landmark_field: more own unknowns than it has room for");
    thread_local std::vector<double> memory;
    Scratch size(nullptr);
    landmark_scratch(p, size);
    if (memory.size() < size.used()) memory.resize(size.used());
    Scratch scratch(memory.data());
    landmark_scratch(p, scratch);
    run_blocks<LandmarkFieldParams>(p, kernels().landmark_solve, 1, 1);
    run_blocks<LandmarkFieldParams>(p, kernels().landmark_nodes,
                                    (*p.moving_count + kNodesPerBlock - 1) / kNodesPerBlock, 8);
    run_rows<LandmarkFieldParams>(p, kernels().landmark_rows, p.fine_rows, p.columns * 64);
}

void run(RenderMeshParams& p) {
    check_index("triangles", p.triangles, 3 * p.triangle_count, p.vertex_count, "number of vertices");
    struct Pictures {
        const RenderMeshParams& params;
        void (*kernel)(const RenderMeshParams&, int64_t, int64_t);
        Workspaces workspaces;
    };
    const int64_t threads = num_threads();
    Pictures all{p, kernels().render_mesh, {std::min(p.n, threads), workspace_bytes(p)}};
    parallel_for(
        p.n, 1,
        [](void* context, int64_t begin, int64_t end) {
            Pictures& it = *static_cast<Pictures*>(context);
            RenderMeshParams mine = it.params;
            const size_t slot = it.workspaces.take();
            mine.workspace = it.workspaces.at(slot);
            it.kernel(mine, begin, end);
            it.workspaces.give(slot);
        },
        &all);
}

}  // namespace fastreenact
