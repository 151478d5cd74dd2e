"""What shows between lids and lips in the landmark warp: a layer that stays with the skull under the moving skin.

Where the portrait shows it (eyeballs, an open mouth) the layer is the portrait's own; beyond, eyeballs are extended and
the inside of a closed mouth is painted: dark, with upper teeth and a tongue in soft focus.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastreenact.models.landmark_warp.head import Head, Rigid, determinant
from fastreenact.ops.landmark_field import ramp
from fastreenact.ops.slit_cover import SlitShape, slit_cover

Array = NDArray[np.float64]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Part:
    """Keypoints of a slit from its left to its right corner; lengths in units (temple distances)."""

    upper: tuple[int, ...]
    lower: tuple[int, ...]
    inset: float  # the layer begins this far inside the edges: lashes stay with the lid
    soft: float  # and is opaque this much further in
    margin: tuple[float, float, float]  # how far the layer reaches beside, above and below the portrait's slit

    @functools.cached_property
    def edges(self) -> NDArray[np.intp]:
        """[2, 5] the keypoints of both edges."""
        return np.array((self.upper, self.lower))


EYES = (
    Part((36, 37, 38, 39, 40), (36, 43, 42, 41, 40), 0.008, 0.016, (0.04, 0.06, 0.06)),
    Part((44, 45, 46, 47, 48), (44, 51, 50, 49, 48), 0.008, 0.016, (0.04, 0.06, 0.06)),
)  # fmt: skip
MOUTH = Part((55, 56, 63, 61, 60), (55, 67, 70, 64, 60), -0.002, 0.014, (0.12, 0.15, 0.45))
_MOUTH_AT = np.array((0.0, 0.45, 0.48))  # in the head frame; its depth decides how the teeth move when the head turns

GUMS = 0.06  # from here on, an upper lip that rises takes the layer along in part, in units
RAISED = 0.55  # that part
_DENSE = 17  # points per curve


def _catmull_rom() -> Array:
    """Weights [17, 5] of the curve through five points."""
    weights = np.zeros((_DENSE, 5))
    padded = np.zeros((7, 5))
    padded[1:6] = np.eye(5)
    padded[0, :2], padded[6, 3:] = (2, -1), (-1, 2)
    for row, t in enumerate(np.linspace(0, 4, _DENSE)):
        i = min(int(t), 3)
        f = t - i
        basis = 0.5 * np.array((-f + 2 * f**2 - f**3, 2 - 5 * f**2 + 3 * f**3, f + 4 * f**2 - 3 * f**3, -(f**2) + f**3))
        weights[row] = basis @ padded[i : i + 4]
    return weights


CURVE = _catmull_rom()


class Slit:
    """The opening between two curves in one picture."""

    def __init__(self, keypoints: Array, part: Part) -> None:
        points = keypoints[part.edges]
        (x0, y0), (x1, y1) = points[0, (0, -1)].tolist()
        length = max(math.hypot(x1 - x0, y1 - y0), 1e-6)
        along = (x1 - x0) / length, (y1 - y0) / length
        self.centre = np.array(((x0 + x1) / 2, (y0 + y1) / 2))
        self.axes = np.array((along, (-along[1], along[0])))
        self.curves = CURVE @ points  # [2, 17, 2]
        self.edges = (self.curves - self.centre) @ self.axes.T  # the same in the slit's frame, never falling along it
        np.maximum.accumulate(self.edges[..., 0], axis=1, out=self.edges[..., 0])
        x, y = (points[1, 1:-1] - points[0, 1:-1]).mean(axis=0).tolist()
        self.gap = y * along[0] - x * along[1]  # px, mean height

    def depth(self, x: Floats, y: Floats) -> Floats:
        """Distance [h, w] (px) to the nearer edge of the opening at pixels x [w], y [h]; negative outside."""
        dx, dy = x - np.float32(self.centre[0]), (y - np.float32(self.centre[1]))[:, None]
        axes = self.axes.astype(np.float32)
        along, across = axes[0, 0] * dx + axes[0, 1] * dy, axes[1, 0] * dx + axes[1, 1] * dy
        edges = [np.interp(along, edge[:, 0], edge[:, 1]).astype(np.float32) for edge in self.edges]
        return np.minimum(across - edges[0], edges[1] - across)


@dataclass(frozen=True)
class Layer:
    """What one slit of the portrait hides: resident, in pixels of the portrait."""

    part: Part
    image: NDArray[np.uint8]  # [h, w, 3]
    x0: int
    y0: int
    anchor: Array  # [3] px and depth: the point the layer moves with
    gap: float  # px, of the portrait's opening
    shown: float  # 1: the portrait shows all of it, 0: painted, so it appears only as the slit opens


def _pixels(first: int, count: int) -> Floats:
    return (np.arange(first, first + count) + 0.5).astype(np.float32)


def _window(image: NDArray[np.uint8], slit: Slit, part: Part, unit: float) -> tuple[Floats, int, int]:
    """The part of the portrait around a slit, its edge repeated outside: float32 [h, w, 3], x0, y0."""
    points = slit.curves.reshape(-1, 2)
    beside, above, below = (m * unit for m in part.margin)
    low = np.floor(points.min(axis=0) - (beside, above)).astype(int)
    high = np.ceil(points.max(axis=0) + np.array((beside, below))).astype(int)
    y = np.clip(np.arange(low[1], high[1]), 0, image.shape[0] - 1)
    x = np.clip(np.arange(low[0], high[0]), 0, image.shape[1] - 1)
    return image[y[:, None], x].astype(np.float32), int(low[0]), int(low[1])


def _extend(image: Floats, weight: Floats) -> Floats:
    """Fill [h, w, 3] where `weight` [h, w] is 0 from where it is 1, smoothly: averages of ever coarser levels."""
    if min(weight.shape) < 2 or not weight.any():
        total = max(float(weight.sum()), 1e-6)
        mean = (image * weight[..., None]).sum(axis=(0, 1)) / total
        return weight[..., None] * image + (1 - weight[..., None]) * mean
    h, w = weight.shape
    pad = ((0, h % 2), (0, w % 2))
    share = np.pad(weight, pad).reshape((h + 1) // 2, 2, (w + 1) // 2, 2)
    colour = np.pad(image * weight[..., None], (*pad, (0, 0))).reshape((h + 1) // 2, 2, (w + 1) // 2, 2, 3)
    total = share.sum(axis=(1, 3))
    coarse = _extend(colour.sum(axis=(1, 3)) / np.maximum(total, 1e-6)[..., None], np.minimum(total, 1.0))
    y = np.clip((np.arange(h) + 0.5) / 2 - 0.5, 0, coarse.shape[0] - 1)
    x = np.clip((np.arange(w) + 0.5) / 2 - 0.5, 0, coarse.shape[1] - 1)
    j, i = (np.minimum(at.astype(int), max(n - 2, 0)) for at, n in zip((y, x), coarse.shape, strict=False))
    j1, i1 = np.minimum(j + 1, coarse.shape[0] - 1), np.minimum(i + 1, coarse.shape[1] - 1)
    fy, fx = (y - j).astype(np.float32)[:, None, None], (x - i).astype(np.float32)[:, None]
    rows = coarse[j] * (1 - fy) + coarse[j1] * fy
    filled = rows[:, i] * (1 - fx) + rows[:, i1] * fx
    return weight[..., None] * image + (1 - weight[..., None]) * filled


def eye_layer(image: NDArray[np.uint8], head: Head, part: Part) -> Layer | None:
    """The eyeball, extended beyond the lids; None where the portrait's eye is closed."""
    slit = Slit(head.keypoints, part)
    if slit.gap < 0.025 * head.unit:
        return None
    window, x0, y0 = _window(image, slit, part, head.unit)
    depth = slit.depth(_pixels(x0, window.shape[1]), _pixels(y0, window.shape[0])) / np.float32(head.unit)
    # Wherever the unmoved eye shows the layer, it has to be the portrait itself.
    own = np.clip((depth - part.inset) / part.soft + 1.0, 0.0, 1.0)
    known = (depth > part.inset).astype(np.float32)
    filled = own[..., None] * window + (1 - own[..., None]) * _extend(window, known)
    depth_px = head.unit * float((head.turn @ (0.0, -0.04, 0.33))[2])
    return Layer(part, _bytes(filled), x0, y0, np.append(slit.centre, depth_px), slit.gap, 1.0)


def mouth_layer(image: NDArray[np.uint8], head: Head) -> Layer:
    """The inside of the mouth: the portrait's as far as it shows, painted beyond."""
    part, unit = MOUTH, head.unit
    slit = Slit(head.keypoints, part)
    window, x0, y0 = _window(image, slit, part, unit)
    x, y = _pixels(x0, window.shape[1]), _pixels(y0, window.shape[0])
    dx, dy = x - slit.centre[0], (y - slit.centre[1])[:, None]
    along, across = ((slit.axes[i, 0] * dx + slit.axes[i, 1] * dy) / unit for i in (0, 1))
    painted = _paint_mouth(image, head, along, across)
    shown = float(ramp(np.float32((slit.gap / unit - 0.02) / 0.03)))
    if shown > 0:
        depth = slit.depth(x, y) / np.float32(unit)
        own = np.clip((depth - part.inset) / part.soft + 1.0, 0.0, 1.0)
        middle = np.float32(slit.gap / unit / 2)
        above = ramp(0.5 - (across - middle) / 0.03)[..., None]  # teeth go on upwards, the dark downwards
        beyond = above * _extend(window, (depth > 0.01).astype(np.float32)) + (1 - above) * painted
        own = own[..., None] * shown
        painted = own * window + (1 - own) * (shown * beyond + (1 - shown) * painted)
    anchor = np.append(slit.centre, unit * float((head.turn @ _MOUTH_AT)[2]))
    return Layer(part, _bytes(painted), x0, y0, anchor, slit.gap, shown)


def _paint_mouth(image: NDArray[np.uint8], head: Head, along: Floats, across: Floats) -> Floats:
    """The inside of a mouth [h, w, 3] at places in units from the middle of the lips, in the portrait's own light."""
    pairs = ((65, 67), (66, 70), (69, 64), (62, 63))  # between outer and inner edge of the lips
    at = np.array([(head.keypoints[a] + head.keypoints[b]) / 2 for a, b in pairs])
    x, y = np.clip(at.astype(int), 0, (image.shape[1] - 1, image.shape[0] - 1)).T
    lip = image[y, x].astype(np.float32).mean(axis=0)
    dark = lip * np.array((0.28, 0.22, 0.21), np.float32) + 3
    tongue = lip * np.array((0.8, 0.6, 0.6), np.float32)
    # Teeth in the light of the face: a white that is as tinted as the lips are, but less.
    enamel = (0.55 * lip + 0.45 * lip.mean()) * np.array((1.12, 1.22, 1.12), np.float32)
    at_tongue = np.exp(-((along / 0.17) ** 2) - ((across - 0.17) / 0.09) ** 2)[..., None] * 0.9
    painted = dark + at_tongue * (tongue - dark)
    # Upper teeth: their edge hangs a little below the line of the closed lips, and rises towards the corners.
    edge = 0.014 - 0.9 * along**2
    tooth = ramp((edge - across) / 0.022 + 0.5) * ramp((0.21 - np.abs(along)) / 0.06)
    shade = 1.0 - 0.6 * np.clip(np.abs(along) / 0.2, 0, 1) ** 2
    for gap_at in (0.0, 0.062, 0.11, 0.155):
        shade = shade * (1.0 - 0.1 * np.exp(-(((np.abs(along) - gap_at) / 0.007) ** 2)))
    shade = shade * (1.0 - 0.25 * ramp((-0.03 - across) / 0.05))  # in the upper lip's shadow
    return painted + tooth[..., None] * (shade[..., None] * enamel - painted)


def _bytes(image: Floats) -> NDArray[np.uint8]:
    return np.clip(image + 0.5, 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Cover:
    """One layer in one frame: where it goes, how opaque, and where in the layer each pixel reads."""

    x0: int
    y0: int
    opacity: Floats  # [h, w, 1]
    field: Floats  # [h, w, 2] in [-1, 1] of the layer's image


def cover(layer: Layer, head: Head, keypoints: Array, rigid: Rigid, size: tuple[int, int]) -> Cover | None:
    """Lay a layer under the slit of this frame; None where the slit is shut or out of the picture."""
    slit, part = Slit(keypoints, layer.part), layer.part
    turned = determinant(rigid.flat)
    unit = head.unit * math.sqrt(turned)
    gain = 1.0 if layer.shown >= 1 else float(ramp(((slit.gap - layer.gap) / unit - 0.004) / 0.03))
    points = slit.curves.reshape(-1, 2)
    left, top = (max(math.floor(edge), 0) for edge in points.min(axis=0).tolist())
    right, low = (math.ceil(edge) for edge in points.max(axis=0).tolist())
    right, low = min(right, size[1]), min(low, size[0])
    if gain <= 0 or right <= left or low <= top:
        return None
    flat = rigid.linear[:, :2]
    if determinant(flat) < 0.3 * turned:  # nearly from the side: do not magnify
        flat = rigid.flat
    if part is MOUTH:
        moved = rigid(layer.anchor[None])[0]
        # The gums end somewhere: an upper lip that rises further takes the layer along.
        up = -slit.axes[1]
        raised = float((keypoints[63] - moved) @ up) - float((head.keypoints[63] - layer.anchor[:2]) @ up)
        moved = moved + RAISED * max(raised - GUMS * unit, 0.0) * up
    else:
        moved = slit.centre
    x, y = moved.tolist()
    (a, b), (c, d) = flat.tolist()
    to_layer = []
    height, width = layer.image.shape[:2]
    for first, second, anchor, edge, side in (
        (d, -b, layer.anchor[0], layer.x0, width),
        (-c, a, layer.anchor[1], layer.y0, height),
    ):
        first, second = first / (a * d - b * c), second / (a * d - b * c)
        to_layer += [2 / side * value for value in (first, second, float(anchor) - edge - first * x - second * y)]
        to_layer[-1] -= 1
    opacity, field = (np.empty((low - top, right - left, values), np.float32) for values in (1, 2))
    upper, lower = np.ascontiguousarray(slit.edges, np.float32)
    frame = (*slit.centre.tolist(), *slit.axes.ravel().tolist())
    inset, soft = part.inset * unit, part.soft * unit
    shape = SlitShape(upper, lower, frame, tuple(to_layer), left, top, inset, soft, gain)
    slit_cover(shape, opacity, field)
    return Cover(left, top, opacity, field) if opacity.any() else None
