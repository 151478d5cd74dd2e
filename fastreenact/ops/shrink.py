"""shrink: a square of a picture as the networks see it."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastreenact.ops import checks
from fastreenact.ops.define import Op, Out
from fastreenact.ops.warp import warp

_MOST_SIDE = 16384


def shrink(
    picture: Tensor, box: Sequence[float], side: int, *, samples: int = 1, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Sample a square of an 8-bit picture at side x side places, in [-1, 1].

    out[0, y, x] = 2 / 255 * mean over samples x samples places of bilinear(picture, place) - 1; edges go on outside

    Args:
        picture: uint8 [H, W, 3], packed pixels, at least 2 x 2.
        box: centre x, centre y and side of the square, px (pixel (0, 0) covers 0 to 1).
        side: of the result, px, 1 to 16384.
        samples: 1 or 2, per pixel of the result and axis, evenly spread over it.
        dtype: of the result: float32, bfloat16 or float16 (GPU only).

    Returns:
        [1, side, side, 3], the caller's. On a GPU the samples are rounded to 8 bit before their mean.

    Raises:
        TypeError: no tensor, or a dtype that is not listed.
        ValueError: a shape, a stride or a number that does not fit.
    """
    checks.need_whole("side", side, 1, _MOST_SIDE)
    checks.need_whole("samples", samples, 1, 2)
    if not isinstance(dtype, torch.dtype):
        raise TypeError(f"dtype: got {dtype!r}, needs a torch.dtype")
    return _SHRINK(picture, [float(value) for value in box], side, samples, dtype)


def shrink_reference(
    picture: Tensor, box: Sequence[float], side: int, *, samples: int = 1, dtype: torch.dtype = torch.float32
) -> Tensor:
    """What `shrink` means, in plain PyTorch: any device, float64 too."""
    work = torch.promote_types(dtype, torch.float32)
    grid = _places(tuple(box), side * samples, *picture.shape[:2], picture.device).to(work)
    levels = picture.permute(2, 0, 1)[None].to(grid.dtype)
    seen = F.avg_pool2d(F.grid_sample(levels, grid, padding_mode="border", align_corners=False), samples)
    return (seen.permute(0, 2, 3, 1) * (2 / 255) - 1).to(dtype).contiguous()


@functools.lru_cache(maxsize=64)
def _places(box: tuple[float, ...], count: int, height: int, width: int, device: torch.device) -> Tensor:
    """[1, count, count, 2] float64 places in a picture, -1 and 1 its edges."""
    at = (torch.arange(count, dtype=torch.float64, device=device) + 0.5) / count - 0.5
    x, y = ((at * box[2] + centre) * (2 / length) - 1 for centre, length in ((box[0], width), (box[1], height)))
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)[None]


def _warped(picture: Tensor, box: Sequence[float], side: int, samples: int, dtype: torch.dtype) -> Tensor:
    """The same by `warp`, whose samples are rounded to 8 bit."""
    count = side * samples
    places = _places(tuple(box), count, *picture.shape[:2], picture.device).to(torch.float32)
    seen = warp(picture[None], places, size=(count, count), padding="border").float()
    return (seen.view(side, samples, side, samples, 3).mean((1, 3))[None] * (2 / 255) - 1).to(dtype)


def _check(a: Any) -> Out:
    """Raise what `shrink` raises."""
    picture, box, side, _, dtype, out = a
    checks.need_dtype("picture", picture, (torch.uint8,))
    checks.need_shape("picture", picture, (None, None, 3), "[H, W, 3]")
    (height, width, _), (stride_y, stride_x, stride_c) = picture.shape, picture.stride()
    if min(height, width) < 2:
        raise ValueError(f"picture: got shape {list(picture.shape)}, needs at least 2 x 2")
    if stride_c != 1 or stride_x != 3 or stride_y < 3 * width:
        raise ValueError(f"picture: got strides {list(picture.stride())}, needs packed pixels in rows that lie apart")
    if len(box) != 3 or not all(map(math.isfinite, box)) or box[2] <= 0:
        raise ValueError(f"box: got {list(box)}, needs centre x, centre y and a side of more than 0, in px")
    half = () if picture.device.type == "cpu" else (torch.float16,)
    if dtype not in (torch.float32, torch.bfloat16, *half):
        raise TypeError(f"dtype: got {dtype} on {picture.device.type}, needs float32, bfloat16 or, on a GPU, float16")
    if out is not None:
        checks.need_dtype("out", out, (dtype,))
        checks.need_shape("out", out, (1, side, side, 3), "[1, side, side, 3]")
        checks.need_contiguous("out", out)
    return Out((1, side, side, 3), dtype)


def _numbers(a: Any) -> dict[str, Any]:
    cx, cy, size = a.box
    return {"samples": a.samples, "left": cx - size / 2, "top": cy - size / 2, "size": size}


_SHRINK = Op(shrink, _check, numbers=_numbers, fallback=lambda a: a.out.copy_(_warped(*a[:5])))
