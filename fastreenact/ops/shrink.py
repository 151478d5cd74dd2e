"""shrink: a square of a picture as the networks see it."""

import functools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastreenact.ops import checks
from fastreenact.ops.define import Op, Out

_MOST_SIDE = 16384


def shrink(
    picture: Tensor,
    box: Sequence[float] | None,
    side: int,
    *,
    samples: int = 1,
    dtype: torch.dtype = torch.float32,
    boxes: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Sample a square of 8-bit pictures at side x side places, in [-1, 1].

    out[n, y, x] = 2 / 255 * mean over samples x samples places of bilinear(picture[n], place) - 1; edges go on outside

    Args:
        picture: uint8 [H, W, 3] or [N, H, W, 3], packed pixels, at least 2 x 2.
        box: centre x, centre y and side of the square, px (pixel (0, 0) covers 0 to 1); None with `boxes`.
        side: of the result, px, 1 to 16384.
        samples: 1 or 2, per pixel of the result and axis, evenly spread over it.
        dtype: of the result: float32, bfloat16 or float16 (GPU only).
        boxes: float64 [N, 4] where the pictures lie: centre x, centre y and side of each one's square, and a fourth
            number that is not read; so that a graph can hold what changes with the portrait.
        out: [N, side, side, 3] of `dtype`, contiguous, to write into.

    Returns:
        [N, side, side, 3], N = 1 of a single picture: `out` if given.

    Raises:
        TypeError: no tensor, or a dtype that is not listed.
        ValueError: a shape, a stride or a number that does not fit.
    """
    checks.need_whole("side", side, 1, _MOST_SIDE)
    checks.need_whole("samples", samples, 1, 2)
    if not isinstance(dtype, torch.dtype):
        raise TypeError(f"dtype: got {dtype!r}, needs a torch.dtype")
    square = None if box is None else [float(value) for value in box]
    return _SHRINK(picture, square, side, samples, dtype, boxes, out=out)


def shrink_reference(
    picture: Tensor,
    box: Sequence[float] | None,
    side: int,
    *,
    samples: int = 1,
    dtype: torch.dtype = torch.float32,
    boxes: Tensor | None = None,
) -> Tensor:
    """What `shrink` means, in plain PyTorch: any device, float64 too."""
    pictures = picture if picture.dim() == 4 else picture[None]
    squares = [box] * len(pictures) if boxes is None else boxes.tolist()
    seen = [_shrunk(one, square, side, samples, dtype) for one, square in zip(pictures, squares, strict=True)]
    return torch.cat(seen)


def _shrunk(picture: Tensor, box: Sequence[float], side: int, samples: int, dtype: torch.dtype) -> Tensor:
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


def _check(a: Any) -> Out:
    """Raise what `shrink` raises."""
    picture, box, side, _, dtype, boxes, out = a
    checks.need_pictures("picture", picture)
    if min(picture.shape[-3:-1]) < 2:
        raise ValueError(f"picture: got shape {list(picture.shape)}, needs at least 2 x 2")
    checks.need_box(box, boxes, picture)
    half = () if picture.device.type == "cpu" else (torch.float16,)
    if dtype not in (torch.float32, torch.bfloat16, *half):
        raise TypeError(f"dtype: got {dtype} on {picture.device.type}, needs float32, bfloat16 or, on a GPU, float16")
    shape = (picture.shape[0] if picture.dim() == 4 else 1, side, side, 3)
    if out is not None:
        checks.need_dtype("out", out, (dtype,))
        checks.need_shape("out", out, shape, "[N, side, side, 3]")
        checks.need_contiguous("out", out)
        checks.need_same_device(picture, out=out)
    return Out(shape, dtype)


def _numbers(a: Any) -> dict[str, Any]:
    cx, cy, size = a.box or (0.0, 0.0, 1.0)
    return {"samples": a.samples, "left": cx - size / 2, "top": cy - size / 2, "size": size}


_SHRINK = Op(
    shrink,
    _check,
    numbers=_numbers,
    cuda=True,
    fallback=lambda a: a.out.copy_(shrink_reference(*a[:3], samples=a.samples, dtype=a.dtype, boxes=a.boxes)),
)
