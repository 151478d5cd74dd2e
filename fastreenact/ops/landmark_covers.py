"""landmark_covers: the layers of eyes and mouth laid over pictures, of frames that `landmark_place` has placed."""

from typing import Any

import torch
from torch import Tensor

from fastreenact.ops import checks
from fastreenact.ops.define import Op
from fastreenact.ops.landmark_place import FRAME_BYTES


def landmark_covers(frames: Tensor, surface: Tensor) -> Tensor:
    """Lay each frame's layers over its picture, in place: what `slit_cover` and `lay_cover` do with each of them.

    Args:
        frames: uint8 [N, FRAME_BYTES] of `landmark_place`, contiguous; the images of their layers still exist.
        surface: uint8 [N, H, W, 3] RGB of the portraits' size, packed pixels, rows and pictures any distance apart.

    Returns:
        `surface`.

    Raises:
        TypeError: an argument is no tensor or has a dtype that is not listed.
        ValueError: a shape, a stride or a device that does not fit.
    """
    _LANDMARK_COVERS.into(frames, surface)
    return surface


def _check(a: Any) -> None:
    """Raise what `landmark_covers` raises."""
    checks.need_dtype("frames", a.frames, (torch.uint8,))
    checks.need_shape("frames", a.frames, (None, FRAME_BYTES), "[N, FRAME_BYTES]")
    checks.need_contiguous("frames", a.frames)
    checks.need_shape("surface", a.surface, (a.frames.shape[0], None, None, 3), "[N, H, W, 3]")
    checks.need_pictures("surface", a.surface)
    checks.need_same_device(a.frames, surface=a.surface)


_LANDMARK_COVERS = Op(landmark_covers, _check, outs=(), mutates=("surface",), cuda=True)
