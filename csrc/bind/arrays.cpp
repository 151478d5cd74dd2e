// What the ops on NumPy arrays read: contiguous, of the types and shapes that stand here.
#include <algorithm>
#include <array>

#include "bind/call.h"

namespace fastreenact {

static void read(Arguments& a, FitFaceParams& p) {
    p.base = a.array<const double>("base", {3, kFacePoints});
    p.modes = a.array<const double>("modes", {kFaceModes, 3, kFacePoints});
    p.target = a.array<const double>("target", {2, kFacePoints});
    p.trust = a.array<const double>("trust", {kFacePoints});
    p.stiffness = a.array<const double>("stiffness", {kFaceModes});
    p.lids = a.array<const int32_t>("lids", {3, kFaceLids});
    p.meet = a.real("meet");
    p.noise = a.real("noise");
    p.outlier = a.real("outlier");
    p.slack = a.real("slack");
    p.least_doubt = a.real("least_doubt");
    p.enough = a.real("enough");
    p.steps = a.integer("steps");
    p.rotation = a.array<double>("rotation", {3, 3});
    p.camera = a.array<double>("camera", {3});
    p.expression = a.array<double>("expression", {kFaceModes});
    p.residual = a.array<double>("residual", {2, kFacePoints});
}

// `out` is a window of the nodes of a picture: rows that lie apart.
static void read(Arguments& a, LandmarkFieldCall& p) {
    p.at = a.array<const double>("at", {0, 2}, {&p.count});
    p.displacement = a.array<const double>("displacement", {p.count, 2});
    p.slack = a.array<const double>("slack", {p.count});
    p.order = a.array<const int32_t>("order", {p.count + 3});
    p.members = a.array<const uint8_t>("members", {3, 0}, {&p.own});
    p.unit = a.real("unit");
    p.to_head = a.array<const float>("head", {4, 2});
    p.way = p.to_head + 4;
    p.hold = a.single("hold");
    p.rest = a.single("rest");
    p.still = a.single("still");
    p.free = a.single("free");
    p.cuts = reinterpret_cast<const LandmarkCut*>(a.array<const float>("cuts", {2, sizeof(LandmarkCut) / 4}));
    const auto size = a.value<std::array<float, 2>>("size", true);
    std::copy(size.begin(), size.end(), p.size);
    p.step = a.integer("step");
    p.middle = a.integer("middle");
    p.coarse = a.integer("coarse");
    const auto* rects = reinterpret_cast<const NodeRect*>(a.array<const int64_t>("rects", {5, 4}));
    p.rect = rects[0];
    p.face = rects[1];
    p.slits = rects + 2;
    p.out = a.window<float>("out", 2, p.fine_rows, p.columns, p.out_stride);
    p.left = a.integer("left");
    p.top = a.integer("top");
}

static void read(Arguments& a, SlitCoverParams& p) {
    p.upper = a.array<const float>("upper", {0, 2}, {&p.knots});
    p.lower = a.array<const float>("lower", {p.knots, 2});
    const auto frame = a.value<std::array<float, 6>>("frame", true),
               layer = a.value<std::array<float, 6>>("layer", true);
    std::copy(frame.begin(), frame.end(), p.frame);
    std::copy(layer.begin(), layer.end(), p.layer);
    p.left = a.integer("left");
    p.top = a.integer("top");
    p.inset = a.single("inset");
    p.soft = a.single("soft");
    p.gain = a.single("gain");
    p.opacity = a.array<float>("opacity", {0, 0, 1}, {&p.height, &p.width});
    p.field = a.array<float>("field", {p.height, p.width, 2});
}

static void read(Arguments& a, LayCoverParams& p) {
    p.layer = a.array<const uint8_t>("layer", {0, 0, 3}, {&p.layer_height, &p.layer_width});
    p.opacity = a.array<const float>("opacity", {0, 0, 1}, {&p.height, &p.width});
    p.field = a.array<const float>("field", {p.height, p.width, 2});
    int64_t height = 0, width = 0;
    p.surface = a.window<uint8_t>("surface", 3, height, width, p.surface_stride);
    if (height != p.height || width != p.width) throw py::value_error("lay_cover: surface needs the size of opacity");
}

static void read(Arguments& a, RasterizeLinesParams& p) {
    p.lines = a.array<const int64_t>("lines", {0, 4}, {&p.m});
    p.out = a.array<uint8_t>("out", {p.m, 0, 0}, {&p.height, &p.width});
}

static void read(Arguments& a, LandmarkSlit& s) {
    s.image = a.integer("image");
    s.height = a.integer("height");
    s.width = a.integer("width");
    s.x0 = a.integer("x0");
    s.y0 = a.integer("y0");
    s.is_mouth = a.flag("is_mouth");
    a.copy("upper", s.upper);
    a.copy("lower", s.lower);
    a.copy("anchor", s.anchor);
    s.gap = a.real("gap");
    s.shown = a.real("shown");
    s.inset = a.real("inset");
    s.soft = a.real("soft");
}

static void read_shared(Arguments& a, LandmarkHead& h) {
    a.copy("rigid", h.rigid);
    a.copy("order", h.order);
    a.copy("members", h.members);
    h.own = a.integer("own");
    a.copy("cut_points", h.cut_points);
    a.copy("cut_upper", h.cut_upper);
    a.copy("cut_lower", h.cut_lower);
    a.copy("cut_blend", h.cut_blend);
    a.copy("parts", h.parts);
    h.cut_beyond = a.real("cut_beyond");
    h.cut_bridge = a.real("cut_bridge");
    a.copy("curve", h.curve);
    h.rest_radius = a.real("rest_radius");
    h.rest_travel = a.real("rest_travel");
    h.near = a.real("near");
    h.far_share = a.real("far_share");
    h.still = a.real("still");
    h.free = a.real("free");
    h.face_margin = a.real("face_margin");
    h.slit_margin = a.real("slit_margin");
    h.most_yaw = a.real("most_yaw");
    h.least_room = a.real("least_room");
    h.longest_step = a.real("longest_step");
    h.least_weight = a.real("least_weight");
    h.rounds = a.integer("rounds");
    h.gums = a.real("gums");
    h.raised_share = a.real("raised_share");
}

static void read(Arguments& a, LandmarkHead& h) {
    a.copy("box", h.box);
    a.copy("size", h.size);
    h.step = a.integer("step");
    h.middle = a.integer("middle");
    h.coarse = a.integer("coarse");
    a.copy("turn", h.turn);
    h.scale = a.real("scale");
    h.unit = a.real("unit");
    a.copy("face", h.face);
    a.copy("solid", h.solid);
    a.copy("neck", h.neck);
    a.copy("centre", h.centre);
    a.copy("neck_follows", h.neck_follows);
    a.copy("neck_jaw", h.neck_jaw);
    a.copy("to_radii", h.to_radii);
    a.copy("reach", h.reach);
    a.copy("ring", h.ring);
    a.copy("rim", h.rim);
    a.copy("controls", h.controls);
    a.copy("slack", h.slack);
    a.copy("freedom", h.freedom);
    h.source_yaw = a.real("source_yaw");
    a.copy("rooms", h.rooms);
    a.copy("least", h.least);
    a.copy("corners", h.corners);
    a.copy("first_corner", h.first_corner);
    a.copy("own_corners", h.own_corners);
    h.triangles = a.integer("triangles");
    h.ring_points = a.integer("ring_points");
    h.rim_points = a.integer("rim_points");
    h.control_points = a.integer("control_points");
    read_shared(a, h);
    const auto slits = a.value<py::list>("slits");
    for (size_t i = 0; i < std::min<size_t>(slits.size(), kSlits); ++i) {
        const auto given = slits[i].cast<py::dict>();
        Arguments slit("landmark_head: slits", py::dict(), given, &h.slits[i]);
        read(slit, h.slits[i]);
        slit.end();
    }
}

static py::bytes landmark_head(const py::kwargs& given) {
    const auto head = std::make_unique<LandmarkHead>();
    Arguments arguments("landmark_head", py::dict(), given, head.get());
    read(arguments, *head);
    arguments.end();
    return py::bytes(reinterpret_cast<const char*>(head.get()), sizeof(LandmarkHead));
}

void bind_arrays(py::module_& m) {
    define_direct<FitFaceParams>(m, "fit_face");
    define_direct<LandmarkFieldCall>(m, "landmark_field");
    m.def("landmark_head", &landmark_head, "A head as landmark_place reads it, of arrays and numbers by name.");
    m.attr("LANDMARK_HEAD_BYTES") = sizeof(LandmarkHead);
    m.attr("LANDMARK_FRAME_BYTES") = sizeof(LandmarkFrame);
    define_direct<SlitCoverParams>(m, "slit_cover");
    define_direct<LayCoverParams>(m, "lay_cover");
    define_direct<RasterizeLinesParams>(m, "rasterize_lines");
}

}  // namespace fastreenact
