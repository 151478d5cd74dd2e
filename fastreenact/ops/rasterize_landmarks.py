"""rasterize_landmarks: the keypoints of a face as the coloured line drawings that the motion network sees."""

from collections.abc import Sequence
from functools import cache
from itertools import combinations, pairwise
from typing import Any

import torch
from torch import Tensor

from fastreenact import _C
from fastreenact.ops import checks
from fastreenact.ops.define import Op, Out, Views

KEYPOINTS = 72
MAX_SIDE = 32768

# Drawn in this order, later over earlier. Colours in the order of the channels in memory.
COLOURS = {
    "left_eyebrow": (0, 0, 255),
    "right_eyebrow": (0, 255, 0),
    "left_eye": (255, 0, 0),
    "right_eye": (255, 255, 0),
    "nose": (255, 0, 255),
    "mouth": (0, 255, 255),
    "face_contour": (125, 125, 125),
}

# Keypoints of each part, by layout: polylines, and circles where there is one keypoint. 49 is missing from the right
# eye of layout 2 and 48 is there twice: the released weights were trained on that drawing.
LAYOUTS: tuple[dict[str, tuple[tuple[int, ...], ...]], ...] = (
    {
        "left_eye": ((42,),),
        "right_eye": ((50,),),
        "nose": ((30,),),
        "mouth": ((52, 57),),
        "face_contour": ((0, 8, 9),),
    },
    {
        "left_eyebrow": ((17, 21),),
        "right_eyebrow": ((26, 22),),
        "left_eye": ((36, 38, 40, 42, 36),),
        "right_eye": ((48, 46, 44, 50, 48),),
        "nose": ((27, 33, 31), (33, 35)),
        "mouth": ((52, 62, 57, 71, 52), (63,), (70,)),
        "face_contour": ((0, 4, 8, 13, 9),),
    },
    {
        "left_eyebrow": ((17, 18, 19, 20, 21),),
        "right_eyebrow": ((26, 25, 24, 23, 22),),
        "left_eye": ((36, 37, 38, 39, 40, 41, 42, 43, 36),),
        "right_eye": ((48, 47, 46, 45, 44, 51, 50, 48, 48),),
        "nose": ((27, 28, 29, 30, 33), (31, 32, 33), (35, 34, 33)),
        "mouth": ((52, 54, 53, 62, 58, 59, 57, 65, 66, 71, 69, 68, 52), (55, 56, 63, 61, 60, 64, 70, 67, 55)),
        "face_contour": ((0, 1, 2, 3, 4, 5, 6, 7, 8, 16, 15, 14, 13, 12, 11, 10, 9),),
    },
)  # fmt: skip


def rasterize_landmarks(keypoints: Tensor, size: int, layout: int, *, out: Tensor | None = None) -> Tensor:
    """Draw the keypoints, pixel for pixel as OpenCV does (LINE_4, thickness 1; filled circles of radius 1).

    pixel = trunc((c + 1) / 2 * (size - 1)), in float32, towards zero; ends outside the picture are clipped as cv2.line
    does.

    Args:
        keypoints: [N, 72, 2] float32, (x, y), -1 and 1 are the centres of the outer pixels; any strides. A line or
            circle at a NaN or infinite coordinate is left out.
        size: height and width of the drawing in pixels, 1 to 32768.
        layout: 0 (8 points, drawn at S/16), 1 (27 points, S/8) or 2 (72 points, S/4).
        out: uint8 [N, size, size, 3] to write into, channels contiguous.

    Returns:
        uint8 [N, size, size, 3]: `out` if given. Black where nothing is drawn.

    Raises:
        TypeError: an argument is no tensor or has a dtype that is not listed.
        ValueError: a shape, stride, device or number that does not fit; an input requires grad.

    Source: the released code of Face2Face^rho, util/landmark_image_generation.py.
    """
    checks.need_whole("size", size, 1, MAX_SIDE)
    checks.need_whole("layout", layout, 0, len(LAYOUTS) - 1)
    return _RASTERIZE(keypoints, size, layout, out=out)


def rasterize_landmarks_all(
    keypoints: Tensor, sizes: Sequence[int], *, outs: Sequence[Tensor] | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The drawings of all three layouts in one call: on a GPU one launch.

    out[layout] = rasterize_landmarks(keypoints, sizes[layout], layout)

    Args:
        keypoints: [N, 72, 2] float32, as of `rasterize_landmarks`.
        sizes: of the three drawings, 1 to 32768 each: S/16, S/8, S/4.
        outs: three uint8 tensors [N, size, size, 3] to write into, channels contiguous, sharing no memory.

    Returns:
        Three uint8 tensors [N, size, size, 3]: `outs` if given.

    Raises:
        TypeError, ValueError: as `rasterize_landmarks`, or a number of sizes or outs other than three.

    Source: the released code of Face2Face^rho, util/landmark_image_generation.py.
    """
    small, middle, large = _three("sizes", sizes)
    for size in (small, middle, large):
        checks.need_whole("sizes", size, 1, MAX_SIDE)
    if outs is None:
        return _RASTERIZE_ALL(keypoints, small, middle, large)
    out_small, out_middle, out_large = _three("outs", outs)
    for out in (out_small, out_middle, out_large):
        checks.need_tensor("outs", out)
    for out, other in combinations((out_small, out_middle, out_large), 2):
        checks.need_apart("outs", out, "another", other)
    _RASTERIZE_ALL.into(keypoints, small, middle, large, out_small, out_middle, out_large)
    return out_small, out_middle, out_large


def rasterize_lines(lines: Tensor, height: int, width: int) -> Tensor:
    """Draw each line on a picture of its own, as cv2.line does with LINE_4 and thickness 1.

    Args:
        lines: [M, 4] int64 on the CPU, contiguous: x1, y1, x2, y2 in pixels, within +-2^31, anywhere around the
            picture.
        height, width: size of a picture, 1 to 32768.

    Returns:
        uint8 [M, height, width], 255 where the line is.

    Raises:
        TypeError: `lines` is not an int64 tensor.
        ValueError: a shape, stride, device or number that does not fit.
    """
    checks.need_tensor("lines", lines)
    checks.need_dtype("lines", lines, (torch.int64,))
    checks.need_shape("lines", lines, (None, 4), "[M, 4]")
    if lines.device.type != "cpu" or not lines.is_contiguous():
        raise ValueError(f"lines: got device {lines.device}, strides {lines.stride()}, needs a contiguous CPU tensor")
    for name, value in (("height", height), ("width", width)):
        checks.need_whole(name, value, 1, MAX_SIDE)
    # Not abs(): of the least int64 that is negative.
    if lines.numel() and not -(2**31) <= int(lines.min()) <= int(lines.max()) <= 2**31:
        raise ValueError("lines: got a coordinate beyond +-2^31")
    out = torch.empty((len(lines), height, width), dtype=torch.uint8)
    _C.rasterize_lines(lines=lines.numpy(), out=out.numpy())
    return out


def _three(name: str, values: Sequence[Any]) -> Sequence[Any]:
    if not isinstance(values, Sequence) or len(values) != len(LAYOUTS):
        raise ValueError(f"{name}: got {values!r}, needs one for each of the three layouts")
    return values


@cache
def segments(layout: int) -> tuple[Tensor, Tensor]:
    """int32 [S, 2] keypoints of both ends (second -1: a circle) and uint8 [S, 3] colours, in drawing order."""
    ends, colours = [], []
    for part, colour in COLOURS.items():
        for line in LAYOUTS[layout].get(part, ()):
            pairs = [(line[0], -1)] if len(line) == 1 else list(pairwise(line))
            ends += pairs
            colours += [colour] * len(pairs)
    return torch.tensor(ends, dtype=torch.int32), torch.tensor(colours, dtype=torch.uint8)


@cache
def _segments_on(layout: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """`segments` in the memory of `device`, where they stay: a graph captures their addresses."""
    ends, colours = segments(layout)
    return ends.to(device), colours.to(device)


def rasterize_landmarks_reference(keypoints: Tensor, size: int, layout: int, *, out: Tensor | None = None) -> Tensor:
    """What `rasterize_landmarks` means, point by point in Python."""
    pictures = torch.zeros((len(keypoints), size, size, 3), dtype=torch.uint8)
    ends, colours = segments(layout)
    pixels = (keypoints.detach().cpu().float() + 1) / 2 * (size - 1)
    finite = keypoints.isfinite().all(2)
    pixels = pixels.nan_to_num().clamp(-(2.0**30), 2.0**30).trunc().to(torch.int64)
    for n in range(len(keypoints)):
        for (first, second), colour in zip(ends.tolist(), colours, strict=True):
            if not finite[n, first] or not finite[n, second]:
                continue
            x, y = pixels[n, first].tolist()
            if second < 0:
                points = [(x, y), (x - 1, y), (x + 1, y), (x, y - 1), (x, y + 1)]
                points = [(a, b) for a, b in points if 0 <= a < size and 0 <= b < size]
            else:
                end_x, end_y = pixels[n, second].tolist()
                points = line_points(x, y, end_x, end_y, size, size)
            for a, b in points:
                pictures[n, b, a] = colour
    pictures = pictures.to(keypoints.device)
    return pictures if out is None else out.copy_(pictures)


def line_points(x1: int, y1: int, x2: int, y2: int, width: int, height: int) -> list[tuple[int, int]]:
    """Pixels of a LINE_4 line of thickness 1 on a picture of this size: clip, then Bresenham with single steps."""
    right, bottom = width - 1, height - 1

    def code(x: int, y: int) -> int:
        return (x < 0) + 2 * (x > right) + 4 * (y < 0) + 8 * (y > bottom)

    c1, c2 = code(x1, y1), code(x2, y2)
    if not c1 & c2 and c1 | c2:
        if c1 & 12:
            edge = 0 if c1 < 8 else bottom
            x1, y1 = x1 + int(float(edge - y1) * (x2 - x1) / (y2 - y1)), edge
            c1 = code(x1, 0)
        if c2 & 12:
            edge = 0 if c2 < 8 else bottom
            x2, y2 = x2 + int(float(edge - y2) * (x2 - x1) / (y2 - y1)), edge
            c2 = code(x2, 0)
        if not c1 & c2 and c1 | c2:
            if c1:
                edge = 0 if c1 == 1 else right
                x1, y1, c1 = edge, y1 + int(float(edge - x1) * (y2 - y1) / (x2 - x1)), 0
            if c2:
                edge = 0 if c2 == 1 else right
                x2, y2, c2 = edge, y2 + int(float(edge - x2) * (y2 - y1) / (x2 - x1)), 0
    if c1 | c2:
        return []
    if x2 < x1:
        x1, y1, x2, y2 = x2, y2, x1, y1
    dx, dy, step = x2 - x1, abs(y2 - y1), 1 if y2 > y1 else -1
    steep = dy > dx
    major, minor = max(dx, dy), min(dx, dy)
    error, points = 0, []
    for _ in range(major + minor + 1):
        points.append((x1, y1))
        sideways = error < 0
        error += 2 * major if sideways else -2 * minor
        if sideways == steep:
            x1 += 1
        else:
            y1 += step
    return points


def _check_one(keypoints: Tensor, size: int, out: Tensor | None) -> Out:
    """Raise what `rasterize_landmarks` raises for tensors."""
    checks.need_forward_only("rasterize_landmarks", keypoints=keypoints)
    checks.need_dtype("keypoints", keypoints, (torch.float32,))
    checks.need_shape("keypoints", keypoints, (None, KEYPOINTS, 2), "[N, 72, 2]")
    shape = (keypoints.shape[0], size, size, 3)
    if out is not None:
        checks.need_dtype("out", out, (torch.uint8,))
        checks.need_shape("out", out, shape, "[N, size, size, 3]")
        checks.need_same_device(keypoints, out=out)
        checks.need_writable("out", out)
    return Out(shape, torch.uint8)


def _check(a: Any) -> Out:
    return _check_one(a.keypoints, a.size, a.out)


def _check_all(a: Any) -> list[Out]:
    return [_check_one(a.keypoints, a[i], a[i + 3]) for i in (1, 2, 3)]


def _drawings(keypoints: Tensor, outs: dict[int, Tensor]) -> Views:
    """The views of some layouts' drawings."""
    views: Views = {"keypoints": keypoints}
    for i, (layout, out) in enumerate(outs.items()):
        ends, colours = _segments_on(layout, keypoints.device)
        views |= {f"out{i}": out, f"segments{i}": ends, f"colours{i}": colours}
    return views


def _on_the_cpu(keypoints: Tensor, outs: dict[int, Tensor]) -> None:
    """Not PyTorch: without our kernels this one draws on the CPU."""
    for layout, out in outs.items():
        out.copy_(_RASTERIZE(keypoints.cpu(), out.shape[1], layout))


def _three_outs(a: Any) -> dict[int, Tensor]:
    return {layout: a[4 + layout] for layout in range(len(LAYOUTS))}


_RASTERIZE = Op(
    rasterize_landmarks,
    _check,
    views=lambda a, _: _drawings(a.keypoints, {a.layout: a.out}),
    cuda=True,
    fallback=lambda a: _on_the_cpu(a.keypoints, {a.layout: a.out}),
)
_RASTERIZE_ALL = Op(
    rasterize_landmarks_all,
    _check_all,
    arguments="Tensor keypoints, SymInt small, SymInt middle, SymInt large",
    outs=("out_small", "out_middle", "out_large"),
    kernel="rasterize_landmarks",
    views=lambda a, _: _drawings(a.keypoints, _three_outs(a)),
    cuda=True,
    fallback=lambda a: _on_the_cpu(a.keypoints, _three_outs(a)),
)
