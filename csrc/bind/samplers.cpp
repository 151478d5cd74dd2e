// Bindings of the ops that sample feature maps or modulate them by tables.
#include "bind/bind.h"
#include "grid_sample_3d.h"
#include "spade.h"
#include "warp.h"

namespace fastreenact {
namespace {

void warp(Keywords& k) {
    WarpParams p = {};
    int64_t sources = 0, rows = 0, columns = 0;
    p.features = k.address<const void>("features");
    p.field = k.address<const float>("field");
    p.source_index = k.address<const int32_t>("source_index");
    p.out = k.address<void>("out");
    p.scale = k.table("scale", "scale_stride");
    p.shift = k.table("shift", "shift_stride");
    p.index_y = k.address<const int32_t>("index_y");
    p.index_x = k.address<const int32_t>("index_x");
    k.integers("features_shape", {&sources, &p.height, &p.width, &p.channels});
    k.integers("out_shape", {&p.n, &p.out_height, &p.out_width, nullptr});
    k.integers("field_shape", {nullptr, &p.field_height, &p.field_width, nullptr});
    k.integers("table_shape", {nullptr, &rows, &columns, nullptr});
    k.integers("features_stride", {&p.feature_stride_n, &p.feature_stride_y, &p.feature_stride_x, nullptr});
    k.integers("field_stride", {&p.field_stride_n, &p.field_stride_y, &p.field_stride_x, &p.field_stride_c});
    k.integers("out_stride", {&p.out_stride_n, &p.out_stride_y, &p.out_stride_x, nullptr});
    p.dtype = k.number("dtype");
    p.table_dtype = k.number("table_dtype");
    p.activation = k.number("activation");
    p.border = k.flag("border");
    p.field_bilinear = k.flag("field_bilinear");
    k.end();
    check_index("source_index", p.source_index, p.n, sources, "number of pictures in features");
    if (p.scale.data != nullptr) {
        check_index("index_y", p.index_y, p.out_height, rows);
        check_index("index_x", p.index_x, p.out_width, columns);
    }
    // Four taps a pixel, and about 16 bytes' worth of work to find them.
    run_rows(p, kernels().warp, p.n * p.out_height, p.out_width * (16 + 8 * p.channels));
}

void spade(Keywords& k) {
    SpadeParams p = {};
    int64_t rows = 0, columns = 0;
    p.x = k.address<const void>("x");
    p.out = k.address<void>("out");
    p.gamma = k.table("gamma", "gamma_stride");
    p.beta = k.table("beta", "beta_stride");
    p.index_y = k.address<const int32_t>("index_y");
    p.index_x = k.address<const int32_t>("index_x");
    p.mean = k.address<const float>("mean");
    p.inv_std = k.address<const float>("inv_std");
    k.integers("shape", {&p.n, &p.height, &p.width, &p.channels});
    k.integers("table_shape", {nullptr, &rows, &columns, nullptr});
    k.integers("x_stride", {&p.x_stride_n, &p.x_stride_y, &p.x_stride_x, nullptr});
    k.integers("out_stride", {&p.out_stride_n, &p.out_stride_y, &p.out_stride_x, nullptr});
    p.dtype = k.number("dtype");
    p.table_dtype = k.number("table_dtype");
    p.activation = k.number("activation");
    p.half = k.flag("half");
    k.end();
    check_index("index_y", p.index_y, p.height, rows);
    check_index("index_x", p.index_x, p.width, columns);
    run_rows(p, kernels().spade, p.n * p.height, p.width * p.channels * 8);
}

void grid_sample_3d(Keywords& k) {
    GridSample3dParams p = {};
    p.volume = k.address<const void>("volume");
    p.grid = k.address<const float>("grid");
    p.out = k.address<void>("out");
    k.integers("volume_shape", {&p.n, &p.depth, &p.height, &p.width, &p.channels});
    k.integers("grid_shape", {nullptr, &p.out_depth, &p.out_height, &p.out_width, nullptr});
    k.integers("volume_stride",
               {&p.volume_stride_n, &p.volume_stride_z, &p.volume_stride_y, &p.volume_stride_x, nullptr});
    k.integers("grid_stride",
               {&p.grid_stride_n, &p.grid_stride_z, &p.grid_stride_y, &p.grid_stride_x, &p.grid_stride_c});
    k.integers("out_stride", {&p.out_stride_n, &p.out_stride_z, &p.out_stride_y, &p.out_stride_x, nullptr});
    p.dtype = k.number("dtype");
    p.border = k.flag("border");
    p.align_corners = k.flag("align_corners");
    p.sum_depth = k.flag("sum_depth");
    k.end();
    // Eight corners a point, and about 64 bytes' worth of work to find them.
    const int64_t bytes_per_row = p.out_width * (64 + 16 * p.channels);
    if (p.sum_depth != 0) {
        run_rows(p, kernels().grid_sample_3d, p.n * p.out_height, bytes_per_row * p.out_depth);
    } else {
        run_rows(p, kernels().grid_sample_3d, p.n * p.out_depth * p.out_height, bytes_per_row);
    }
}

}  // namespace

void bind_samplers(py::module_& m) {
    define(m, "warp", warp);
    define(m, "spade", spade);
    define(m, "grid_sample_3d", grid_sample_3d);
}

}  // namespace fastreenact
