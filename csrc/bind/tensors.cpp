// What the ops on tensors read of their views and numbers. [N, H, W, C] throughout, unless a view says otherwise.
#include <algorithm>
#include <cmath>

#include "bind/call.h"

namespace fastreenact {

static void read(Arguments& a, WarpCall& p) {
    p.dtype = a.view("features", p.features, {&p.sources, &p.height, &p.width, &p.channels},
                     {&p.feature_stride_n, &p.feature_stride_y, &p.feature_stride_x})
                  .dtype;
    a.view("field", p.field, {nullptr, &p.field_height, &p.field_width},
           {&p.field_stride_n, &p.field_stride_y, &p.field_stride_x, &p.field_stride_c});
    a.view("out", p.out, {&p.n, &p.out_height, &p.out_width}, {&p.out_stride_n, &p.out_stride_y, &p.out_stride_x});
    p.table_dtype = a.table("scale", p.scale).sizes({nullptr, &p.rows, &p.columns}).dtype;
    a.table("shift", p.shift);
    a.view("source_index", p.source_index);
    a.view("index_y", p.index_y);
    a.view("index_x", p.index_x);
    p.activation = a.number("activation");
    p.border = a.flag("border");
    p.field_bilinear = a.flag("field_bilinear");
}

static void read(Arguments& a, SpadeCall& p) {
    int64_t height = 0, width = 0;
    p.dtype = a.view("x", p.x, {nullptr, &height, &width}, {&p.x_stride_n, &p.x_stride_y, &p.x_stride_x}).dtype;
    a.view("out", p.out, {&p.n, &p.height, &p.width, &p.channels}, {&p.out_stride_n, &p.out_stride_y, &p.out_stride_x});
    p.table_dtype = a.table("gamma_table", p.gamma).sizes({nullptr, &p.rows, &p.columns}).dtype;
    a.table("beta_table", p.beta);
    a.view("index_y", p.index_y);
    a.view("index_x", p.index_x);
    a.view("mean", p.mean);
    a.view("inv_std", p.inv_std);
    p.half = height != p.height || width != p.width;
    p.activation = a.number("activation");
}

static void read(Arguments& a, GridSample3dParams& p) {
    p.dtype = a.view("volume", p.volume, {&p.n, &p.depth, &p.height, &p.width, &p.channels},
                     {&p.volume_stride_n, &p.volume_stride_z, &p.volume_stride_y, &p.volume_stride_x})
                  .dtype;
    a.view("grid", p.grid, {nullptr, &p.out_depth, &p.out_height, &p.out_width},
           {&p.grid_stride_n, &p.grid_stride_z, &p.grid_stride_y, &p.grid_stride_x, &p.grid_stride_c});
    const View out = a.view("out", p.out);
    p.sum_depth = out.rank == 4;
    out.volume().strides({&p.out_stride_n, &p.out_stride_z, &p.out_stride_y, &p.out_stride_x});
    p.border = a.flag("border");
    p.align_corners = a.flag("align_corners");
}

// (phases, step, offset of each phase, taps of each phase)
static ConvAxis conv_axis(const py::tuple& values) {
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

static void read(Arguments& a, ConvCall& p) {
    p.x_dtype =
        a.view("x", p.x, {&p.n, &p.height, &p.width, &p.channels_in}, {&p.x_stride_n, &p.x_stride_y, &p.x_stride_x})
            .dtype;
    p.out_dtype = a.view("out", p.out, {nullptr, &p.out_height, &p.out_width, &p.channels_out},
                         {&p.out_stride_n, &p.out_stride_y, &p.out_stride_x})
                      .dtype;
    a.view("add", p.add, {&p.addends}).broadcast().strides({&p.add_stride_n, &p.add_stride_y, &p.add_stride_x});
    const View residual = a.view("residual", p.residual).broadcast();
    residual.strides({&p.residual_stride_n, &p.residual_stride_y, &p.residual_stride_x});
    p.residual_half = residual.there && (residual.size[1] != p.out_height || residual.size[2] != p.out_width);
    a.view("packed", p.weights);
    a.view("bias", p.bias);
    a.view("source_index", p.source_index);
    p.axis_y = conv_axis(a.value<py::tuple>("axis_y"));
    p.axis_x = conv_axis(a.value<py::tuple>("axis_x"));
    const auto weights_at = a.value<std::vector<int64_t>>("weights_at", true);
    std::copy_n(weights_at.begin(), std::min<size_t>(weights_at.size(), kMaxPhases * kMaxPhases), p.weights_at);
    p.x_scale = a.single("x_scale");
    p.x_shift = a.single("x_shift");
    p.dtype = a.number("dtype");
    p.activation = a.number("activation");
    p.winograd = a.flag("winograd");
    p.architecture = a.number("architecture");
    p.groups = 1;
}

// Several calls of conv with their addresses as one, on a GPU.
class ConvMany : public Call {
  public:
    explicit ConvMany(const std::vector<std::pair<const Call*, py::tuple>>& calls) {
        for (const auto& [call, addresses] : calls) {
            const auto* conv = dynamic_cast<const CallOf<ConvCall>*>(call);
            if (conv == nullptr) throw py::type_error("conv_many: needs calls of conv");
            convs_.push_back(conv->at(py::args(addresses)));
        }
    }
    void run(const py::args&) const override { throw py::type_error("conv_many: is for a GPU"); }
    std::vector<Launch> launches(uintptr_t, const py::args&) const override { return fastreenact::launches(convs_); }
    int64_t workspace_bytes() const override { return 0; }

  private:
    std::vector<ConvCall> convs_;
};

static void read(Arguments& a, MbconvParams& p) {
    p.dtype =
        a.view("x", p.x, {&p.n, &p.height, &p.width, &p.channels_in}, {&p.x_stride_n, &p.x_stride_y, &p.x_stride_x})
            .dtype;
    a.view("out", p.out, {nullptr, &p.out_height, &p.out_width, &p.channels_out},
           {&p.out_stride_n, &p.out_stride_y, &p.out_stride_x});
    a.view("expand", p.expand);
    a.view("expand_bias", p.expand_bias);
    a.view("depthwise", p.depthwise);
    a.view("depthwise_bias", p.depthwise_bias);
    a.view("project", p.project);
    a.view("project_bias", p.project_bias);
    p.hidden = a.integer("hidden");
    p.stride = a.number("stride");
    p.upsample = a.flag("upsample");
    p.residual = a.flag("residual");
    p.half_sums = a.flag("half_sums");
    p.architecture = a.number("architecture");
    p.groups = 1;
    a.workspace(p.workspace);
}

static void read(Arguments& a, TailParams& p) {
    p.dtype = a.view("x", p.x, {}, {&p.x_stride_n, &p.x_stride_y, &p.x_stride_x}).dtype;
    a.view("out", p.out, {&p.n, &p.height, &p.width, &p.channels_out},
           {&p.out_stride_n, &p.out_stride_y, &p.out_stride_x});
    a.view("depthwise", p.depthwise);
    a.view("depthwise_bias", p.depthwise_bias);
    a.view("packed", p.weights);
    a.view("bias", p.bias);
    p.channels_in = kTailChannels;
}

static void read(Arguments& a, NormActParams& p) {
    const View x = a.view("x", p.x).volume();
    x.sizes({&p.n, &p.depth, &p.height, &p.width, &p.channels});
    x.strides({&p.x_stride_n, &p.x_stride_z, &p.x_stride_y, &p.x_stride_x});
    a.view("residual", p.residual)
        .volume()
        .strides({&p.residual_stride_n, &p.residual_stride_z, &p.residual_stride_y, &p.residual_stride_x});
    int64_t depth = 0, height = 0, width = 0;
    a.view("out", p.out)
        .volume()
        .sizes({nullptr, &depth, &height, &width})
        .strides({&p.out_stride_n, &p.out_stride_z, &p.out_stride_y, &p.out_stride_x});
    p.repeat_z = depth / p.depth, p.repeat_y = height / p.height, p.repeat_x = width / p.width;
    const View scale = a.view("scale", p.scale), shift = a.view("shift", p.shift);
    p.scale_stride_n = scale.rank == 2 ? scale.stride[0] : 0;
    p.shift_stride_n = shift.rank == 2 ? shift.stride[0] : 0;
    p.affine_dtype = scale.there ? scale.dtype : shift.dtype;
    p.groups = a.integer("groups");
    p.eps = a.real("eps");
    p.dtype = x.dtype;
    p.activation = a.number("activation");
}

static void read(Arguments& a, DictionaryReadParams& p) {
    p.dtype = a.view("q", p.q, {&p.n, &p.rows, &p.key}, {&p.q_stride_n, &p.q_stride_m}).dtype;
    a.view("u", p.u, {}, {&p.u_stride_r});
    a.view("v", p.v, {&p.samples, &p.entries, &p.channels}, {&p.v_stride_n, &p.v_stride_r});
    a.view("out", p.out, {}, {&p.out_stride_n, &p.out_stride_m});
    p.scale = a.single("scale");
}

static void read(Arguments& a, ComposeFrameParams& p) {
    const View raw = a.view("raw", p.raw).batch(4);
    raw.sizes({&p.n, &p.side}).strides({&p.raw_stride_n, &p.raw_stride_y, &p.raw_stride_x});
    const View surface = a.view("surface", p.surface).batch(4);
    surface.sizes({nullptr, &p.picture_height, &p.picture_width}).strides({&p.surface_stride_n, &p.surface_stride});
    a.view("boxes", p.boxes);
    a.view("flag", p.flag);
    p.dtype = raw.dtype;
    p.left = a.integer("left");
    p.top = a.integer("top");
    p.width = a.integer("width");
    p.height = a.integer("height");
    p.centre_x = a.real("centre_x");
    p.centre_y = a.real("centre_y");
    p.size = a.real("size");
    p.fade = a.real("fade");
    // most_gain * sigmoid(value - gain_middle) - 1, by sigmoid(x) = (1 + tanh(x / 2)) / 2
    const double most_gain = a.real("most_gain");
    p.gain_scale = static_cast<float>(0.5 * most_gain);
    p.gain_shift = static_cast<float>(0.5 * most_gain - 1.0);
    p.gain_middle = static_cast<float>(std::log(most_gain - 1.0));
}

static void read(Arguments& a, ToFrameParams& p) {
    const View image = a.view("image", p.image);
    if (a.flag("channels_first")) {
        image.strides({&p.image_stride_n, &p.image_stride_c, &p.image_stride_y, &p.image_stride_x});
    } else {
        image.strides({&p.image_stride_n, &p.image_stride_y, &p.image_stride_x, &p.image_stride_c});
    }
    a.view("out", p.out, {&p.n, &p.height, &p.width}, {&p.out_stride_n, &p.out_stride_y, &p.out_stride_x});
    a.view("flag", p.flag);
    p.dtype = image.dtype;
    p.apply_tanh = a.flag("tanh");
}

// Up to three drawings: views out0, segments0, colours0, and so on.
static void read(Arguments& a, RasterizeLandmarksParams& p) {
    a.view("keypoints", p.keypoints, {&p.n}, {&p.keypoint_stride_n, &p.keypoint_stride_k, &p.keypoint_stride_c});
    for (; p.drawing_count < kMaxDrawings; ++p.drawing_count) {
        const std::string number = std::to_string(p.drawing_count);
        Drawing& d = p.drawings[p.drawing_count];
        const View out = a.view(("out" + number).c_str(), d.out, {nullptr, &d.size},
                                {&d.out_stride_n, &d.out_stride_y, &d.out_stride_x});
        if (!out.there) break;
        a.view(("segments" + number).c_str(), d.segments, {&d.segment_count});
        a.view(("colours" + number).c_str(), d.colours);
    }
}

static void read(Arguments& a, ShrinkParams& p) {
    const View picture = a.view("picture", p.picture).batch(4);
    picture.sizes({&p.n, &p.height, &p.width}).strides({&p.stride_n, &p.stride});
    p.dtype = a.view("out", p.out, {nullptr, &p.side}).dtype;
    a.view("boxes", p.boxes);
    p.samples = a.integer("samples");
    p.left = a.real("left");
    p.top = a.real("top");
    p.size = a.real("size");
}

// Either image and alpha, or ids and barycentrics.
static void read(Arguments& a, RenderMeshParams& p) {
    a.view("vertices", p.vertices, {&p.n, &p.vertex_count});
    a.view("triangles", p.triangles, {&p.triangle_count});
    const View attributes = a.view("attributes", p.attributes), background = a.view("background", p.background);
    a.view("image", p.image);
    a.view("alpha", p.alpha);
    a.view("ids", p.ids);
    a.view("barycentrics", p.barycentrics);
    p.channels = attributes.there ? attributes.size[attributes.rank - 1] : 0;
    p.attribute_stride_n = attributes.rank == 3 ? attributes.stride[0] : 0;
    p.background_stride_n = background.rank == 4 ? background.stride[0] : 0;
    p.height = a.integer("height");
    p.width = a.integer("width");
    p.supersample = a.integer("supersample");
    p.cull = a.flag("cull");
}

static void read(Arguments& a, LandmarkPlaceParams& p) {
    a.view("heads", p.heads, {&p.count});
    a.view("source_index", p.index, {&p.n});
    a.view("keypoints", p.points);
    a.view("poses", p.poses);
    a.view("frames", p.frames);
}

static void read(Arguments& a, LandmarkNodesParams& p) {
    a.view("frames", p.frames);
    a.view("out", p.nodes, {&p.n, &p.height, &p.width});
    p.size[0] = a.real("width");
    p.size[1] = a.real("height");
    p.step = a.integer("step");
    p.coarse = a.integer("coarse");
}

static void read(Arguments& a, LandmarkCoversParams& p) {
    a.view("frames", p.frames);
    a.view("surface", p.surface, {&p.n, &p.height, &p.width}, {&p.stride_n, &p.stride_y});
}

void bind_tensors(py::module_& m) {
    define<WarpCall>(m, "warp");
    define<SpadeCall>(m, "spade");
    define<GridSample3dParams>(m, "grid_sample_3d");
    define<ConvCall>(m, "conv");
    define<MbconvParams>(m, "mbconv");
    define<TailParams>(m, "tail");
    define<NormActParams>(m, "norm_act");
    define<DictionaryReadParams>(m, "dictionary_read");
    define<ComposeFrameParams>(m, "compose_frame");
    define<ToFrameParams>(m, "to_frame");
    define<RasterizeLandmarksParams>(m, "rasterize_landmarks");
    define<ShrinkParams>(m, "shrink");
    define<LandmarkCoversParams>(m, "landmark_covers");
    define<LandmarkPlaceParams>(m, "landmark_place");
    define<LandmarkNodesParams>(m, "landmark_nodes");
    define<RenderMeshParams>(m, "render_mesh");
    m.def("conv_many", [](const std::vector<std::pair<const Call*, py::tuple>>& calls) {
        return std::unique_ptr<Call>(new ConvMany(calls));
    });
}

}  // namespace fastreenact
