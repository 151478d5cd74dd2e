// Bindings of the ops on faces as points and meshes: the fit, the landmark warp's field, the renderer of meshes.
#include <atomic>
#include <memory>
#include <stdexcept>
#include <thread>
#include <vector>

#include "bind/bind.h"
#include "fit_face.h"
#include "landmark_field.h"
#include "render_mesh.h"

namespace fastreenact {
namespace {

void fit_face(Keywords& k) {
    FitFaceParams p = {};
    p.base = k.address<const double>("base");
    p.modes = k.address<const double>("modes");
    p.target = k.address<const double>("target");
    p.trust = k.address<const double>("trust");
    p.stiffness = k.address<const double>("stiffness");
    p.lids = k.address<const int32_t>("lids");
    p.meet = k.real("meet");
    p.noise = k.real("noise");
    p.outlier = k.real("outlier");
    p.slack = k.real("slack");
    p.least_doubt = k.real("least_doubt");
    p.enough = k.real("enough");
    p.steps = k.integer("steps");
    p.rotation = k.address<double>("rotation");
    p.camera = k.address<double>("camera");
    p.expression = k.address<double>("expression");
    p.residual = k.address<double>("residual");
    k.end();
    run_blocks(p, kernels().fit_face, 1, 1);
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

LandmarkFieldParams landmark_params(Keywords& k) {
    LandmarkFieldParams p = {};
    p.at = k.address<const double>("at");
    p.displacement = k.address<const double>("displacement");
    p.slack = k.address<const double>("slack");
    p.order = k.address<const int32_t>("order");
    p.members = k.address<const uint8_t>("members");
    p.count = k.integer("count");
    p.own = k.integer("own");
    p.unit = k.real("unit");
    p.to_head = k.address<const float>("head");
    p.way = p.to_head + 4;
    p.hold = k.single("hold");
    p.rest = k.single("rest");
    p.still = k.single("still");
    p.free = k.single("free");
    p.cuts = k.address<const LandmarkCut>("cuts");
    p.size[0] = k.single("width");
    p.size[1] = k.single("height");
    p.step = k.integer("step");
    p.middle = k.integer("middle");
    p.coarse = k.integer("coarse");
    const auto* rects = k.address<const NodeRect>("rects");
    p.rect = rects[0];
    p.face = rects[1];
    p.slits = rects + 2;
    p.out = k.address<float>("out");
    p.out_stride = k.integer("out_stride");
    p.left = k.integer("left");
    p.top = k.integer("top");
    p.columns = k.integer("columns");
    return p;
}

void landmark_field(Keywords& k) {
    LandmarkFieldParams p = landmark_params(k);
    const int64_t rows = k.integer("rows");
    k.end();
    if (p.own > kMostOwn) throw std::invalid_argument("landmark_field: more own unknowns than it has room for");
    thread_local std::vector<double> memory;
    Scratch size(nullptr);
    landmark_scratch(p, size);
    if (memory.size() < size.used()) memory.resize(size.used());
    Scratch scratch(memory.data());
    landmark_scratch(p, scratch);
    run_blocks(p, kernels().landmark_solve, 1, 1);
    run_blocks(p, kernels().landmark_nodes, (*p.moving_count + kNodesPerBlock - 1) / kNodesPerBlock, 8);
    run_rows(p, kernels().landmark_rows, rows, p.columns * 64);
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

void render_mesh(Keywords& k) {
    RenderMeshParams p = {};
    p.vertices = k.address<const float>("vertices");
    p.triangles = k.address<const int32_t>("triangles");
    p.attributes = k.address<const float>("attributes");
    p.background = k.address<const float>("background");
    p.image = k.address<float>("image");
    p.alpha = k.address<float>("alpha");
    p.ids = k.address<int32_t>("ids");
    p.barycentrics = k.address<float>("barycentrics");
    p.n = k.integer("n");
    p.vertex_count = k.integer("vertex_count");
    p.triangle_count = k.integer("triangle_count");
    p.channels = k.integer("channels");
    p.height = k.integer("height");
    p.width = k.integer("width");
    p.supersample = k.integer("supersample");
    p.attribute_stride_n = k.integer("attribute_stride_n");
    p.background_stride_n = k.integer("background_stride_n");
    p.cull = k.flag("cull");
    k.end();
    check_index("triangles", p.triangles, 3 * p.triangle_count, p.vertex_count, "number of vertices");
    run_pictures(p);
}

}  // namespace

void bind_faces(py::module_& m) {
    define(m, "fit_face", fit_face);
    define(m, "landmark_field", landmark_field);
    define(m, "render_mesh", render_mesh);
}

}  // namespace fastreenact
