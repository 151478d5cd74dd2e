"""landmark_nodes: the landmark warp's field at the nodes of whole pictures, of frames from `landmark_place`."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastreenact.ops import checks
from fastreenact.ops.define import Op
from fastreenact.ops.landmark_place import FRAME_BYTES


def landmark_nodes(frames: Tensor, step: int, coarse: int, size: Sequence[int], out: Tensor) -> Tensor:
    """Evaluate the splines of N frames, as `landmark_field` does for one; everywhere else the nodes are at rest.

    Args:
        frames: uint8 [N, FRAME_BYTES] of `landmark_place`, contiguous.
        step: px between fine nodes, 1 or more: of all frames.
        coarse: fine nodes from one to the next around the head, an even number.
        size: height and width of the pictures, px.
        out: float32 [N, ceil(H / step), ceil(W / step), 2], contiguous: where each node reads, -1 and 1 the picture's
            edges.

    Returns:
        `out`.

    Raises:
        TypeError: an argument is no tensor or has a dtype that is not listed.
        ValueError: a shape, a stride, a device or a number that does not fit.
    """
    checks.need_whole("step", step, 1, 1 << 20)
    checks.need_whole("coarse", coarse, 2, 1 << 10)
    _LANDMARK_NODES.into(frames, step, coarse, checks.need_size("size", size), out)
    return out


def _check(a: Any) -> None:
    """Raise what `landmark_nodes` raises for tensors and numbers."""
    if a.coarse % 2:
        raise ValueError(f"coarse: got {a.coarse}, needs an even number")
    checks.need_no_gradient("landmark_nodes", out=a.out)
    checks.need_dtype("frames", a.frames, (torch.uint8,))
    checks.need_shape("frames", a.frames, (None, FRAME_BYTES), "[N, FRAME_BYTES]")
    checks.need_contiguous("frames", a.frames)
    nodes = [-(-side // a.step) for side in a.size]
    checks.need_dtype("out", a.out, (torch.float32,))
    checks.need_shape("out", a.out, (a.frames.shape[0], *nodes, 2), "[N, ceil(H / step), ceil(W / step), 2]")
    checks.need_contiguous("out", a.out)
    checks.need_same_device(a.frames, out=a.out)


def _numbers(a: Any) -> dict[str, Any]:
    return {"step": a.step, "coarse": a.coarse, "height": a.size[0], "width": a.size[1]}


_LANDMARK_NODES = Op(
    landmark_nodes,
    _check,
    arguments="Tensor frames, int step, int coarse, int[] size, Tensor out",
    outs=(),
    mutates=("out",),
    numbers=_numbers,
    cuda=True,
)
