"""A portrait moved without learned weights: a smooth motion field from the keypoints, sampled at full resolution.

It is the baseline that learned weights have to beat, and what `animate` uses until weights ship.
"""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from fastreenact import ops
from fastreenact.models.landmark_field import Controls, ramp
from fastreenact.models.landmark_head import Head, Rigid, follow, make_head
from fastreenact.models.landmark_slits import EYES, Layer, cover, eye_layer, mouth_layer

_COARSE = 8  # nodes of the fine field per coarse node
_FINE_PER_UNIT = 110  # fine nodes per temple distance: 1 px in a 256 crop
_STILL_PX = 0.004  # displacements below this share of the temple distance are shrunk towards rest


class _Rect(NamedTuple):
    """A rectangle of coarse nodes, both ends included."""

    x0: int
    y0: int
    x1: int
    y1: int


def _cells(low: NDArray[np.float64], high: NDArray[np.float64], cell: int, within: _Rect) -> _Rect:
    """The coarse nodes around a rectangle of pixels."""
    x0, y0 = np.floor(low / cell).astype(int)
    x1, y1 = np.ceil(high / cell).astype(int)
    return _Rect(max(x0, within.x0), max(y0, within.y0), min(x1, within.x1), min(y1, within.y1))


@dataclass(frozen=True)
class State:
    """One resident portrait."""

    image: torch.Tensor  # uint8 [1, H, W, 3]
    box: Any  # the square whose -1..1 the keypoints are in
    head: Head
    step: int  # px between fine nodes
    layers: tuple[tuple[Layer, torch.Tensor], ...]  # eyeballs and mouth, with their images uint8 [1, h, w, 3]


def _finite(name: str, value: Any, shape: tuple[int, ...]) -> NDArray[np.float64]:
    array = np.asarray(value, np.float64)
    if array.shape != shape:
        raise ValueError(f"{name}: got shape {array.shape}, need {shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: some values are NaN or infinite")
    return array


def _upsample(nodes: NDArray[np.float32], every: int) -> NDArray[np.float32]:
    """[h, w, C] at every n-th node -> all nodes between, bilinearly."""
    size = ((nodes.shape[0] - 1) * every + 1, (nodes.shape[1] - 1) * every + 1)
    nchw = torch.from_numpy(nodes).permute(2, 0, 1)[None]
    return F.interpolate(nchw, size, mode="bilinear", align_corners=True)[0].permute(1, 2, 0).contiguous().numpy()


class LandmarkWarp:
    """Moves a portrait of height x width by its keypoints; the background stays at rest."""

    def __init__(
        self, height: int, width: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> None:
        if height < 1 or width < 1:
            raise ValueError(f"height, width: got {height} x {width}, need at least 1 x 1")
        self.height, self.width, self.dtype, self.device = height, width, dtype, torch.device(device)

    def encode(self, image: Any, keypoints: Any, pose: Any, box: Any) -> State:
        """Make a portrait resident."""
        picture = torch.as_tensor(np.array(image))
        if picture.dtype != torch.uint8 or picture.shape != (self.height, self.width, 3):
            raise ValueError(
                f"image: got {picture.dtype} {tuple(picture.shape)}, need uint8 {(self.height, self.width, 3)}"
            )
        points = box.denormalise(_finite("keypoints", keypoints, (72, 2))).astype(np.float64)
        head = make_head(points, _finite("pose", pose, (6,)))
        step = max(1, round(head.unit / _FINE_PER_UNIT))
        pixels = picture.numpy()
        layers = [*(eye_layer(pixels, head, eye) for eye in EYES), mouth_layer(pixels, head)]
        resident = tuple((layer, torch.from_numpy(layer.image)[None].to(self.device)) for layer in layers if layer)
        return State(picture[None].to(self.device), box, head, step, resident)

    def drive(
        self, state: State, keypoints: Any, pose: Any, out: torch.Tensor | None = None, timer: Any = None
    ) -> torch.Tensor:
        """The portrait moved so that its keypoints come to lie at `keypoints`."""
        stage = timer.stage if timer is not None else lambda name: nullcontext()
        points = state.box.denormalise(_finite("keypoints", keypoints, (72, 2))).astype(np.float64)
        turn = _finite("pose", pose, (6,))
        shape = (self.height, self.width, 3)
        if out is None:
            out = torch.empty(shape, dtype=torch.uint8, device=self.device)
        with stage("motion"):
            rigid, points = follow(state.head, points, turn)
            field, rect, points = self._field(state, points, rigid)
        with stage("warp"):
            moved = self._sample(state.image, field, state.step)
        with stage("deliver"):
            out.copy_(state.image[0])
            self._paste(out, moved, rect, state.step)
            for layer, image in state.layers:
                self._lay(out, layer, image, state.head, points, rigid)
        return out

    def _field(self, state: State, points: Any, rigid: Rigid) -> tuple[NDArray[np.float32], _Rect, Any]:
        """Field [h, w, 2] in [-1, 1] at the fine nodes of `rect`, and the keypoints that it reaches, px."""
        controls = Controls(state.head, points, rigid)
        points = controls.keypoints
        cell = _COARSE * state.step
        low, high = controls.bounds()
        rect = _cells(low, high, cell, _Rect(-1, -1, self.width // cell + 1, self.height // cell + 1))
        move = _upsample(self._nodes(state, controls, rect, _COARSE)[1], _COARSE)
        low, high = points.min(axis=0) - 0.15 * state.head.unit, points.max(axis=0) + 0.15 * state.head.unit
        inner = _cells(low, high, cell, rect)
        if inner.x1 > inner.x0 and inner.y1 > inner.y0:
            y, x = (inner.y0 - rect.y0) * _COARSE, (inner.x0 - rect.x0) * _COARSE
            splines = _upsample(self._nodes(state, controls, inner, 4)[0], 4)
            grid = self._grid(inner, state.step)
            fine = controls.join(grid, splines.reshape(-1, 6)).reshape(*splines.shape[:2], 2)
            move[y : y + fine.shape[0], x : x + fine.shape[1]] = fine
        field = move
        field[..., 0] += self._axis(rect.x0, rect.x1, state.step)
        field[..., 1] += self._axis(rect.y0, rect.y1, state.step)[:, None]
        field *= np.array((2.0 / self.width, 2.0 / self.height), np.float32)
        field -= 1.0
        return field, rect, controls.keypoints

    @staticmethod
    def _axis(first: int, last: int, step: int, every: int = 1) -> NDArray[np.float32]:
        return ((np.arange(first * _COARSE, last * _COARSE + 1, every) + 0.5) * step).astype(np.float32)

    def _grid(self, rect: _Rect, step: int, every: int = 1) -> NDArray[np.float32]:
        """Output pixels [M, 2] of every n-th fine node of `rect`, row by row."""
        x, y = self._axis(rect.x0, rect.x1, step, every), self._axis(rect.y0, rect.y1, step, every)
        return np.stack(np.broadcast_arrays(x[None], y[:, None]), axis=-1).reshape(-1, 2)

    def _nodes(
        self, state: State, controls: Controls, rect: _Rect, every: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The splines [h, w, 6] and the displacement joined from them [h, w, 2] at every n-th fine node of `rect`."""
        grid = self._grid(rect, state.step, every)
        splines = controls.splines(grid)
        hold = controls.growth * 1.1
        splines *= (1.0 - ramp((controls.radius(grid) - hold) / (controls.rest - hold)))[:, None]
        for i in (0, 2, 4):
            move = splines[:, i : i + 2]
            self._keep_inside(grid, move)
            square = (move * move).sum(axis=1, keepdims=True)
            move *= square / (square + np.float32((_STILL_PX * state.head.unit) ** 2))
        shape = ((rect.y1 - rect.y0) * _COARSE // every + 1, (rect.x1 - rect.x0) * _COARSE // every + 1)
        return splines.reshape(*shape, 6), controls.join(grid, splines).reshape(*shape, 2)

    def _keep_inside(self, grid: NDArray[np.float32], move: NDArray[np.float32]) -> None:
        """Do not read beyond the picture's edges: what goes more than `free` of the way to an edge never reaches it."""
        free = np.float32(0.6)
        for axis, size in enumerate((self.width, self.height)):
            d = move[:, axis]
            room = np.maximum(np.where(d < 0, grid[:, axis], size - grid[:, axis]), np.float32(1e-3))
            share = np.abs(d) / room
            over = share > free
            if over.any():
                held = free + (1 - free) * (1 - np.exp((free - share[over]) / (1 - free)))
                d[over] *= held / share[over]

    def _sample(self, image: torch.Tensor, field: NDArray[np.float32], step: int) -> torch.Tensor:
        """`image` uint8 [1, H, W, 3] read where `field` [h, w, 2] points: [h * step, w * step, 3]."""
        at = torch.from_numpy(field)[None].to(self.device)
        size = (field.shape[0] * step, field.shape[1] * step)
        return ops.warp(image, at, size=size, padding="border", field_resize="bilinear")[0]

    @staticmethod
    def _paste(out: torch.Tensor, moved: torch.Tensor, rect: _Rect, step: int) -> None:
        """Copy the moved rectangle as far as it lies in the picture."""
        x0, y0 = rect.x0 * _COARSE * step, rect.y0 * _COARSE * step
        left, top = max(x0, 0), max(y0, 0)
        right, low = min(x0 + moved.shape[1], out.shape[1]), min(y0 + moved.shape[0], out.shape[0])
        if right > left and low > top:
            out[top:low, left:right] = moved[top - y0 : low - y0, left - x0 : right - x0]

    def _lay(
        self, out: torch.Tensor, layer: Layer, image: torch.Tensor, head: Head, points: Any, rigid: Rigid
    ) -> None:
        """Blend one layer over the moved skin."""
        found = cover(layer, head, points, rigid, (self.height, self.width))
        if found is None:
            return
        h, w = found.opacity.shape[:2]
        view = out[found.y0 : found.y0 + h, found.x0 : found.x0 + w]
        below = view.to(torch.float32)
        inside = self._sample(image, found.field, 1).to(torch.float32)
        view.copy_(below.add_((inside - below) * torch.from_numpy(found.opacity)).add_(0.5))
