"""landmark_place: keypoints and poses of N frames -> where everything of the landmark warp goes, in device memory."""

from typing import Any

import torch
from torch import Tensor

from fastreenact import _C
from fastreenact.ops import checks
from fastreenact.ops.define import Op

HEAD_BYTES: int = _C.LANDMARK_HEAD_BYTES
FRAME_BYTES: int = _C.LANDMARK_FRAME_BYTES


def landmark_head(**given: Any) -> Tensor:
    """A portrait's head as `landmark_place` reads it, of arrays and numbers by the names in csrc/landmark_head.h.

    Returns:
        uint8 [HEAD_BYTES] on the CPU.

    Raises:
        TypeError: a name that is missing or not known; an array of another type, or larger than there is room for.
    """
    return torch.frombuffer(bytearray(_C.landmark_head(**given)), dtype=torch.uint8)


def landmark_place(heads: Tensor, source_index: Tensor, keypoints: Tensor, poses: Tensor, frames: Tensor) -> Tensor:
    """Move portraits' heads: control points kept from folding, splines solved, layers of eyes and mouth placed.

    What models.landmark_warp does for one frame in NumPy, which is its meaning: head.follow, field.Controls,
    slits.cover, and the splines of `landmark_field_reference`.

    Args:
        heads: uint8 [A, HEAD_BYTES], contiguous: resident portraits, of models.landmark_warp.device.pack_head.
        source_index: int32 [N], which head each frame moves. On the CPU it must be in [0, A); on a GPU all of a frame
            whose head is not there is at rest.
        keypoints: float32 [N, 72, 2], contiguous: the moved portrait's, -1 and 1 on the edges of its box.
        poses: float32 [N, 6], contiguous: rx, ry, rz (rad), tx, ty, scale.
        frames: uint8 [N, FRAME_BYTES], contiguous, for `landmark_nodes` and `landmark_covers`; written.

    Returns:
        `frames`.

    Raises:
        TypeError: an argument is no tensor or has a dtype that is not listed.
        ValueError: a shape, a stride, a device or an index that does not fit.
    """
    _LANDMARK_PLACE.into(heads, source_index, keypoints, poses, frames)
    return frames


def _check(a: Any) -> None:
    """Raise what `landmark_place` raises."""
    checks.need_no_gradient("landmark_place", keypoints=a.keypoints, poses=a.poses)
    n = a.source_index.shape[0] if a.source_index.dim() == 1 else None
    for name, dtype, shape, words in (
        ("heads", torch.uint8, (None, HEAD_BYTES), "[A, HEAD_BYTES]"),
        ("source_index", torch.int32, (n,), "[N]"),
        ("keypoints", torch.float32, (n, 72, 2), "[N, 72, 2]"),
        ("poses", torch.float32, (n, 6), "[N, 6]"),
        ("frames", torch.uint8, (n, FRAME_BYTES), "[N, FRAME_BYTES]"),
    ):
        tensor = getattr(a, name)
        checks.need_dtype(name, tensor, (dtype,))
        checks.need_shape(name, tensor, shape, words)
        checks.need_contiguous(name, tensor)
        checks.need_same_device(a.heads, **{name: tensor})


_LANDMARK_PLACE = Op(landmark_place, _check, outs=(), mutates=("frames",), cuda=True)
