"""compose_frame: a square of colours and gains, enlarged bilinearly and applied to a picture in place."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastreenact.ops import checks
from fastreenact.ops.define import Op, named


def compose_frame(
    raw: Tensor,
    surface: Tensor,
    box: Sequence[float] | None,
    *,
    most_gain: float,
    fade: float = 0.0,
    flag: Tensor | None = None,
    boxes: Tensor | None = None,
) -> Tensor:
    """Give every pixel of a square of a picture a gain and a colour, in place.

    level = base + say ((gain - 1) base + 255 tanh(colour)), gain = most_gain sigmoid(value - ln(most_gain - 1))

    Args:
        raw: [R, R, 4] or [N, R, R, 4] float32, bfloat16 or float16 (GPU only), channels contiguous: three colours and
            the value of the gain, before activations. They are enlarged (or shrunk) bilinearly after them, pixel
            centres on pixel centres (align_corners=False), the edge repeated.
        surface: uint8 [H, W, 3] or [N, H, W, 3] RGB, pixels packed, any distance of rows: `base`, replaced by the
            levels, rounded to nearest. NaN gives 0.
        box: centre x, centre y and side (px, more than 0) of the square of the picture that `raw` covers; its edges are
            rounded to whole pixels, and it may reach beyond the picture. None with `boxes`.
        most_gain: the gain's upper limit, more than 1; a value of 0 is a gain of 1.
        fade: share of the side, 0 to 0.5: over this width `say` rises from 0 on the edges of the box to 1, smoothly; 0:
            it is 1 everywhere.
        boxes: float64 [N, 4] where the pictures lie: centre x, centre y, side and fade of each, in place of `box` and
            `fade`; so that a graph can hold what changes with the portrait. Nobody looks at them.
        flag: int32 [1]: becomes 1 if a value that is read of `raw` is infinite or NaN, and stays as it is if none.

    Returns:
        `surface`.

    Raises:
        TypeError: an argument is no tensor or has a dtype that is not listed.
        ValueError: a shape, stride, device or number that does not fit; an input requires grad.
    """
    square = None if box is None else [float(value) for value in box]
    _COMPOSE_FRAME.into(raw, surface, square, float(most_gain), float(fade), flag, boxes)
    return surface


def compose_frame_reference(
    raw: Tensor,
    surface: Tensor,
    box: Sequence[float] | None,
    *,
    most_gain: float,
    fade: float = 0.0,
    flag: Tensor | None = None,
    boxes: Tensor | None = None,
) -> Tensor:
    """What `compose_frame` means, in plain PyTorch: any device, float64 too."""
    if raw.dim() == 4:
        squares = [(box, fade)] * len(raw) if boxes is None else [(row[:3], row[3]) for row in boxes.tolist()]
        for one, picture, (square, own) in zip(raw, surface, squares, strict=True):
            compose_frame_reference(one, picture, square, most_gain=most_gain, fade=own, flag=flag)
        return surface
    assert box is not None  # noqa: S101
    height, width = surface.shape[:2]
    left, right = _inside(box[0], box[2], width)
    top, low = _inside(box[1], box[2], height)
    if right <= left or low <= top:
        return surface
    value = raw.to(torch.promote_types(raw.dtype, torch.float32))
    gain = most_gain * (value[..., 3:] - math.log(most_gain - 1)).sigmoid() - 1
    maps = torch.cat([255 * value[..., :3].tanh(), gain], -1)
    # Where the lower or right one has no weight it is not read: NaN beside a pixel stays beside it.
    y0, y1, wy, say_y = _taps(top, low, box[1], box[2], len(raw), fade, maps)
    x0, x1, wx, say_x = _taps(left, right, box[0], box[2], len(raw), fade, maps)
    maps = torch.lerp(maps[y0], maps[y1], wy[:, None, None])
    maps = torch.lerp(maps[:, x0], maps[:, x1], wx[:, None])
    if flag is not None:
        rows, columns = torch.cat([y0, y1]), torch.cat([x0, x1])
        flag.masked_fill_(~raw[rows][:, columns].isfinite().all(), 1)
    part = surface[top:low, left:right]
    base, say = part.to(maps.dtype), say_y[:, None, None] * say_x[:, None]
    level = base + say * (maps[..., 3:] * base + maps[..., :3])
    part.copy_((level + 0.5).clamp(0, 255).nan_to_num(0.0))
    return surface


def _inside(centre: float, size: float, length: int) -> tuple[int, int]:
    """First pixel of the box along one axis, and the one after its last, within the picture."""
    # Clamped first: a sum beyond float64 is infinite, which round() refuses.
    low, high = centre - size / 2, centre + size / 2
    return round(max(low, 0.0)) if low < length else length, round(min(high, length)) if high > 0 else 0


def _taps(
    first: int, end: int, centre: float, size: float, side: int, fade: float, like: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """For pixels [first, end): the two rows or columns of the square around each, the second's weight, and say."""
    from_centre = torch.arange(first, end, dtype=torch.float64, device=like.device) + 0.5 - centre
    at = ((from_centre / size + 0.5) * side - 0.5).clamp(0, side - 1)
    low = at.long()
    weight = at - low
    t = ((0.5 - from_centre.abs() / size) / fade).clamp(0, 1) if fade > 0 else torch.ones_like(at)
    say = t * t * (3 - 2 * t)
    return low, low + (weight > 0), weight.to(like.dtype), say.to(like.dtype)


def _check(a: Any) -> None:
    """Raise what `compose_frame` raises for tensors and numbers."""
    raw, surface, box, most_gain, fade, flag, boxes = a
    checks.need_forward_only("compose_frame", raw=raw)
    checks.need_activation_dtype("raw", raw)
    if raw.dim() == 4:
        checks.need_shape("raw", raw, (None, None, None, 4), "[N, R, R, 4]")
        checks.need_shape("surface", surface, (raw.shape[0], None, None, 3), "[N, H, W, 3]")
    else:
        checks.need_shape("raw", raw, (None, None, 4), "[R, R, 4]")
        checks.need_shape("surface", surface, (None, None, 3), "[H, W, 3]")
    checks.need_pictures("surface", surface)
    checks.need_same_device(raw, surface=surface)
    checks.need_channels_last("raw", raw)
    if raw.shape[-3] != raw.shape[-2] or raw.shape[-2] < 1:
        raise ValueError(f"raw: got shape {list(raw.shape)}, needs a square of at least 1 x 1")
    checks.need_box(box, boxes, raw)
    if not 1 < most_gain < math.inf:
        raise ValueError(f"most_gain: got {most_gain}, needs more than 1")
    if not 0 <= fade <= 0.5:
        raise ValueError(f"fade: got {fade}, needs a share of the side from 0 to 0.5")
    if flag is not None:
        checks.need_flag(raw, flag)


def _numbers(a: Any) -> dict[str, Any] | None:
    """The part of the picture, and what the op got; None where the box lies beside the picture."""
    numbers = {"fade": a.fade, "most_gain": a.most_gain}
    if a.boxes is not None:  # where they lie is known on their device alone
        return numbers | dict.fromkeys(("left", "top", "width", "height"), 0) | _square((0.0, 0.0, 1.0))
    (left, right), (top, low) = (
        _inside(a.box[i], a.box[2], size) for i, size in ((0, a.surface.shape[-2]), (1, a.surface.shape[-3]))
    )
    if right <= left or low <= top:
        return None
    return numbers | {"left": left, "top": top, "width": right - left, "height": low - top} | _square(a.box)


def _square(box: Sequence[float]) -> dict[str, float]:
    return dict(zip(("centre_x", "centre_y", "size"), box, strict=True))


_COMPOSE_FRAME = Op(
    compose_frame,
    _check,
    outs=(),
    mutates=("surface", "flag"),
    numbers=_numbers,
    cuda=True,
    fallback=lambda a: compose_frame_reference(*a[:3], **named(a, 3)),
)
