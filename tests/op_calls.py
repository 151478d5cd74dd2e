"""Every op with small valid arguments and the outputs it fills: one table for canaries, wrong arguments and more."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor

from fastreenact import ops
from fastreenact.face.crop import Box
from fastreenact.face.morphable.model import default_model
from fastreenact.models.landmark_warp.device import pack_head
from fastreenact.models.landmark_warp.warp import LandmarkWarp, State
from fastreenact.ops.landmark_place import FRAME_BYTES

BFLOAT16, FLOAT, BYTE = torch.bfloat16, torch.float32, torch.uint8


class Call(NamedTuple):
    """One valid call: `op(**arguments, **outputs)` fills the outputs."""

    op: Callable[..., Any]
    arguments: dict[str, Any]
    outputs: dict[str, Tensor]  # contiguous; what is in them counts where the op changes it


class Draw:
    """Random numbers of one case."""

    def __init__(self, generator: Generator) -> None:
        self._generator = generator

    def whole(self, least: int, most: int) -> int:
        """A whole number, both ends included."""
        return int(torch.randint(least, most + 1, (1,), generator=self._generator))

    def one(self, *choices: Any) -> Any:
        """One of the choices."""
        return choices[self.whole(0, len(choices) - 1)]

    def normal(self, *shape: int, dtype: torch.dtype = FLOAT) -> Tensor:
        """Normal values, or levels of uint8."""
        values = torch.randn(shape, generator=self._generator)
        return (values * 40 + 128).clamp(0, 255).to(BYTE) if dtype == BYTE else values.to(dtype)

    def places(self, *shape: int) -> Tensor:
        """Coordinates in and around [-1, 1]."""
        return torch.rand(shape, generator=self._generator) * 2.6 - 1.3

    def index(self, count: int, below: int) -> Tensor:
        """int32 [count] below a number."""
        return torch.randint(0, below, (count,), generator=self._generator, dtype=torch.int32)

    def channels(self) -> int:
        """Few, odd, whole vectors of every instruction set and a little more."""
        return self.one(1, 2, 3, 4, 7, 8, 15, 16, 17, 31, 32, 33)


def _warp(draw: Draw) -> Call:
    dtype, n, c = draw.one(FLOAT, BFLOAT16, BYTE), draw.whole(1, 2), draw.channels()
    height, width = draw.whole(1, 9), draw.whole(1, 9)
    size = draw.whole(1, 9), draw.one(1, 5, 63, 64, 65)
    resize, padding = draw.one("nearest", "bilinear"), draw.one("zeros", "border")
    arguments = {
        "features": draw.normal(n, height, width, c, dtype=dtype),
        "field": draw.places(n, draw.whole(1, 4), draw.whole(1, 70), 2),
        "size": size,
        "padding": padding,
        "field_resize": resize,
    }
    if dtype != BYTE:
        table = draw.one(FLOAT, dtype)
        arguments |= {
            "source_index": draw.index(n, n),
            "scale": draw.normal(n, 3, 4, c, dtype=table),
            "shift": draw.normal(n, 3, 4, c, dtype=table),
            "index_y": draw.index(size[0], 3),
            "index_x": draw.index(size[1], 4),
            "activation": draw.one(None, "relu", "tanh"),
        }
    return Call(ops.warp, arguments, {"out": draw.normal(n, *size, c, dtype=dtype)})


def _grid_sample_3d(draw: Draw) -> Call:
    dtype, n, c, sum_depth = draw.one(FLOAT, BFLOAT16), draw.whole(1, 2), draw.channels(), draw.one(False, True)
    shape = draw.whole(1, 3), draw.whole(1, 4), draw.one(1, 5, 65)
    arguments = {
        "volume": draw.normal(n, draw.whole(1, 4), draw.whole(1, 5), draw.whole(1, 6), c, dtype=dtype),
        "grid": draw.places(n, *shape, 3),
        "padding": draw.one("zeros", "border"),
        "align_corners": draw.one(False, True),
        "sum_depth": sum_depth,
    }
    out = draw.normal(n, *shape[1 if sum_depth else 0 :], c, dtype=dtype)
    return Call(ops.grid_sample_3d, arguments, {"out": out})


def _spade(draw: Draw) -> Call:
    dtype, n, c = draw.one(FLOAT, BFLOAT16), draw.whole(1, 2), draw.channels()
    height, width, half = draw.whole(2, 9), draw.whole(2, 9), draw.one(False, True)
    seen = (-(-height // 2), -(-width // 2)) if half else (height, width)
    table = draw.one(FLOAT, dtype)
    arguments = {
        "x": draw.normal(n, *seen, c, dtype=dtype),
        "gamma_table": draw.normal(1, 3, 4, c, dtype=table),
        "beta_table": draw.normal(n, 3, 4, c, dtype=table),
        "index_y": draw.index(height, 3),
        "index_x": draw.index(width, 4),
        "mean": draw.normal(c),
        "inv_std": draw.normal(c),
        "activation": draw.one(None, "relu", "tanh"),
    }
    return Call(ops.spade, arguments, {"out": draw.normal(n, height, width, c, dtype=dtype)})


def _norm_act(draw: Draw) -> Call:
    dtype, n, c = draw.one(FLOAT, BFLOAT16), draw.whole(1, 2), draw.channels()
    space = [draw.whole(1, 6) for _ in range(draw.one(2, 3))]
    factors = [draw.one(1, 2) for _ in space]
    table = draw.one(FLOAT, dtype)
    arguments = {
        "x": draw.normal(n, *space, c, dtype=dtype),
        "groups": draw.one(1, c),
        "scale": draw.normal(c, dtype=table),
        "shift": draw.normal(n, c, dtype=table),
        "residual": draw.normal(n, *space, c, dtype=dtype),
        "activation": draw.one(None, "relu", "leaky_relu"),
        "upsample": factors,
        "eps": 1e-5,
    }
    out = draw.normal(n, *(a * b for a, b in zip(space, factors, strict=True)), c, dtype=dtype)
    return Call(ops.norm_act, arguments, {"out": out})


def _conv(draw: Draw) -> Call:
    dtype, n, c_in, c_out = draw.one(FLOAT, BFLOAT16), draw.whole(1, 2), draw.channels(), draw.channels()
    side, stride = draw.one(1, 3, 5), draw.one(1, 2)
    height, width = draw.whole(side, 12), draw.whole(side, 12)
    weight, bias = draw.normal(c_out, c_in, side, side), draw.normal(c_out)
    kernel = ops.plain_kernel(weight, bias, stride=stride, padding=side // 2)
    shape = n, -(-height // stride), -(-width // stride), c_out
    kind, half = draw.one(FLOAT, dtype), draw.one(False, True)
    seen = (-(-shape[1] // 2), -(-shape[2] // 2)) if half else shape[1:3]
    arguments = {
        "x": draw.normal(n, height, width, c_in, dtype=draw.one(BYTE, FLOAT, dtype)),
        "weights": ops.pack_conv(kernel, dtype),
        "add": draw.normal(3, *shape[1:], dtype=kind),
        "source_index": draw.index(n, 3),
        "residual": draw.normal(n, *seen, c_out, dtype=kind),
        "activation": draw.one(None, "relu"),
        "x_scale": 0.5,
        "x_shift": -0.25,
    }
    return Call(ops.conv, arguments, {"out": draw.normal(*shape, dtype=kind)})


def _mbconv(draw: Draw) -> Call:
    dtype, n = draw.one(FLOAT, BFLOAT16), draw.whole(1, 2)
    c_in, hidden, c_out = 2 * draw.whole(1, 9), draw.channels(), draw.channels()
    upsample, stride = draw.one(False, True), draw.one(1, 2)
    height, width = draw.whole(1, 9), draw.whole(1, 9)
    kernel = ops.MbconvKernel(
        draw.normal(hidden, c_in),
        draw.normal(hidden),
        draw.normal(hidden, 3, 3),
        draw.normal(hidden),
        draw.normal(c_out, hidden),
        draw.normal(c_out),
        1 if upsample else stride,
    )
    size = (2 * height - draw.whole(0, 1), 2 * width) if upsample else (-(-height // stride), -(-width // stride))
    arguments = {
        "x": draw.normal(n, height, width, c_in, dtype=dtype),
        "weights": ops.pack_mbconv(kernel, dtype),
        "upsample": size if upsample else None,
    }
    return Call(ops.mbconv, arguments, {"out": draw.normal(n, *size, c_out, dtype=dtype)})


def _tail(draw: Draw) -> Call:
    dtype, n, c = draw.one(FLOAT, BFLOAT16), draw.whole(1, 2), draw.whole(1, 4)
    height, width = draw.whole(2, 12), draw.whole(2, 21)
    kernel = ops.TailKernel(draw.normal(8, 3, 3), draw.normal(8), draw.normal(c, 8, 3, 3), draw.normal(3, 3, c))
    arguments = {
        "x": draw.normal(n, -(-height // 2), -(-width // 2), 8, dtype=dtype),
        "weights": ops.pack_tail(kernel, dtype),
        "size": (height, width),
    }
    return Call(ops.tail, arguments, {"out": draw.normal(n, height, width, c, dtype=dtype)})


def _to_frame(draw: Draw) -> Call:
    n, height, width = draw.whole(1, 2), draw.whole(1, 7), draw.one(1, 5, 21, 70)
    layout = draw.one("nchw", "nhwc")
    shape = (n, 3, height, width) if layout == "nchw" else (n, height, width, 3)
    arguments = {
        "image": draw.normal(*shape, dtype=draw.one(FLOAT, BFLOAT16)),
        "layout": layout,
        "tanh": draw.one(False, True),
    }
    flag = torch.zeros(1, dtype=torch.int32)
    return Call(ops.to_frame, arguments, {"out": draw.normal(n, height, width, 3, dtype=BYTE), "flag": flag})


def _compose_frame(draw: Draw) -> Call:
    height, width, side = draw.whole(1, 30), draw.whole(1, 90), draw.whole(1, 9)
    arguments = {
        "raw": draw.normal(side, side, 4, dtype=draw.one(FLOAT, BFLOAT16)),
        "box": (draw.whole(0, width), draw.whole(0, height), draw.whole(1, 60)),
        "most_gain": 1.5,
        "fade": draw.one(0.0, 0.2),
    }
    flag = torch.zeros(1, dtype=torch.int32)
    return Call(ops.compose_frame, arguments, {"surface": draw.normal(height, width, 3, dtype=BYTE), "flag": flag})


def _shrink(draw: Draw) -> Call:
    height, width = draw.whole(2, 30), draw.whole(2, 30)
    arguments = {
        "picture": draw.normal(height, width, 3, dtype=BYTE),
        "box": (draw.whole(-5, 35), draw.whole(-5, 35), draw.whole(1, 50)),
        "side": draw.one(1, 5, 22, 64, 65),
        "samples": draw.one(1, 2),
        "dtype": draw.one(FLOAT, BFLOAT16),
    }
    return Call(ops.shrink, arguments, {})


def _rasterize_landmarks(draw: Draw) -> Call:
    n, size = draw.whole(1, 2), draw.whole(1, 40)
    arguments = {"keypoints": draw.places(n, 72, 2), "size": size, "layout": draw.whole(0, 2)}
    return Call(ops.rasterize_landmarks, arguments, {"out": draw.normal(n, size, size, 3, dtype=BYTE)})


def _rasterize_landmarks_all(draw: Draw) -> Call:
    n, sizes = draw.whole(1, 2), [draw.whole(1, 30) for _ in range(3)]

    def op(out_small: Any, out_middle: Any, out_large: Any, **arguments: Any) -> Any:
        return ops.rasterize_landmarks_all(**arguments, outs=(out_small, out_middle, out_large))

    names = ("out_small", "out_middle", "out_large")
    outputs = {name: draw.normal(n, size, size, 3, dtype=BYTE) for name, size in zip(names, sizes, strict=True)}
    return Call(op, {"keypoints": draw.places(n, 72, 2), "sizes": sizes}, outputs)


def _rasterize_lines(draw: Draw) -> Call:
    lines = (draw.places(draw.whole(1, 5), 4) * 40).long()
    return Call(ops.rasterize_lines, {"lines": lines, "height": draw.whole(1, 30), "width": draw.whole(1, 30)}, {})


def _mesh(draw: Draw, height: int, width: int) -> dict[str, Any]:
    n, count = draw.whole(1, 2), draw.whole(3, 20)
    vertices = (draw.places(n, count, 3) + 1) / 2 * torch.tensor([float(width), float(height), 1.0])
    return {
        "vertices": vertices,
        "triangles": draw.index(3 * draw.whole(1, 12), count).view(-1, 3),
        "size": (height, width),
        "cull": draw.one(False, True),
    }


def _render_mesh(draw: Draw) -> Call:
    height, width, c = draw.whole(1, 12), draw.whole(1, 40), draw.channels()
    arguments = _mesh(draw, height, width)
    n, count, _ = arguments["vertices"].shape
    arguments |= {
        "attributes": draw.normal(n, count, c),
        "background": draw.normal(height, width, c),
        "supersample": draw.whole(1, 3),
    }

    def op(image: Any, alpha: Any, **arguments: Any) -> Any:
        return ops.render_mesh(**arguments, out=(image, alpha))

    return Call(op, arguments, {"image": draw.normal(n, height, width, c), "alpha": draw.normal(n, height, width)})


def _render_mesh_ids(draw: Draw) -> Call:
    return Call(ops.render_mesh_ids, _mesh(draw, draw.whole(1, 12), draw.whole(1, 40)), {})


def _dictionary_read(draw: Draw) -> Call:
    dtype, n, rows, key, c = draw.one(FLOAT, BFLOAT16), draw.whole(1, 2), draw.whole(1, 9), draw.whole(1, 9), 5
    count = draw.whole(1, 7)
    arguments = {
        "q": draw.normal(n, rows, key, dtype=dtype),
        "u": draw.normal(count, key, dtype=dtype),
        "v": draw.normal(n, count, c, dtype=dtype),
        "scale": 0.5,
    }
    return Call(ops.dictionary_read, arguments, {"out": draw.normal(n, rows, c, dtype=dtype)})


def _placed(draw: Draw) -> tuple[State, Tensor]:
    """A portrait of 40 x 50 px and two frames of it, of which the first has its mouth open."""
    rest = np.array((0, 0, 0, 0, 0, 0.45), np.float32)
    expression = np.zeros((2, 51), np.float32)
    expression[0, 24:28] = 0.6
    poses = rest + draw.normal(2, 6).numpy() * np.float32((0.2, 0.3, 0.2, 0.1, 0.1, 0.02))
    model, box = default_model(), Box(24.0, 20.0, 44.0)
    portrait = draw.normal(40, 50, 3, dtype=BYTE).numpy()
    state = LandmarkWarp(40, 50).encode(portrait, model.project(np.zeros(50), np.zeros(51), rest), rest, box)
    points = torch.from_numpy(model.project(np.zeros(50), expression, poses)).float().contiguous()
    index, frames = torch.zeros(2, dtype=torch.int32), torch.zeros(2, FRAME_BYTES, dtype=BYTE)
    ops.landmark_place(pack_head(state)[None], index, points, torch.from_numpy(poses), frames)
    return state, frames


def _landmark_nodes(draw: Draw) -> Call:
    state, frames = _placed(draw)
    step = state.grid.step
    arguments = {"frames": frames, "step": step, "coarse": state.grid.coarse, "size": (40, 50)}
    return Call(ops.landmark_nodes, arguments, {"out": draw.normal(2, -(-40 // step), -(-50 // step), 2)})


_KEPT: list[State] = []  # whose layers frames point to


def _landmark_covers(draw: Draw) -> Call:
    state, frames = _placed(draw)
    _KEPT.append(state)
    return Call(ops.landmark_covers, {"frames": frames}, {"surface": draw.normal(2, 40, 50, 3, dtype=BYTE)})


FAMILIES: dict[str, Callable[[Draw], Call]] = {
    "warp": _warp,
    "grid_sample_3d": _grid_sample_3d,
    "spade": _spade,
    "norm_act": _norm_act,
    "conv": _conv,
    "mbconv": _mbconv,
    "tail": _tail,
    "to_frame": _to_frame,
    "compose_frame": _compose_frame,
    "shrink": _shrink,
    "rasterize_landmarks": _rasterize_landmarks,
    "rasterize_landmarks_all": _rasterize_landmarks_all,
    "rasterize_lines": _rasterize_lines,
    "render_mesh": _render_mesh,
    "render_mesh_ids": _render_mesh_ids,
    "dictionary_read": _dictionary_read,
    "landmark_nodes": _landmark_nodes,
    "landmark_covers": _landmark_covers,
}


def make_call(family: str, seed: int) -> Call:
    """The call number `seed` of an op."""
    return FAMILIES[family](Draw(Generator().manual_seed(seed)))
