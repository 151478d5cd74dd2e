"""A portrait moved without learned weights: a smooth motion field from the keypoints, sampled at full resolution.

It is the baseline that learned weights have to beat, and what `animate` uses until weights ship.
"""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fastreenact import ops
from fastreenact.models.landmark_field import Controls
from fastreenact.models.landmark_grid import Grid
from fastreenact.models.landmark_head import Head, Rigid, follow, make_head
from fastreenact.models.landmark_slits import EYES, Layer, cover, eye_layer, mouth_layer


@dataclass(frozen=True)
class State:
    """One resident portrait."""

    image: torch.Tensor  # uint8 [1, H, W, 3]
    box: Any  # the square whose -1..1 the keypoints are in
    head: Head
    grid: Grid
    layers: tuple[tuple[Layer, torch.Tensor], ...]  # eyeballs and mouth, with their images uint8 [1, h, w, 3]


def _finite(name: str, value: Any, shape: tuple[int, ...]) -> NDArray[np.float64]:
    array = np.asarray(value, np.float64)
    if array.shape != shape:
        raise ValueError(f"{name}: got shape {array.shape}, need {shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: some values are NaN or infinite")
    return array


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
        pixels = picture.numpy()
        layers = [*(eye_layer(pixels, head, eye) for eye in EYES), mouth_layer(pixels, head)]
        resident = tuple((layer, torch.from_numpy(layer.image)[None].to(self.device)) for layer in layers if layer)
        return State(picture[None].to(self.device), box, head, Grid(self.height, self.width, head.unit), resident)

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
            controls = Controls(state.head, points, rigid)
            field, rect = state.grid.field(controls)
        with stage("warp"):
            moved = self._sample(state.image, field, state.grid.step)
        with stage("deliver"):
            out.copy_(state.image[0])
            self._paste(out, moved, *state.grid.corner(rect))
            for layer, image in state.layers:
                self._lay(out, layer, image, state.head, controls.keypoints, rigid)
        return out

    def _sample(self, image: torch.Tensor, field: NDArray[np.float32], step: int) -> torch.Tensor:
        """`image` uint8 [1, H, W, 3] read where `field` [h, w, 2] points: [h * step, w * step, 3]."""
        at = torch.from_numpy(field)[None].to(self.device)
        size = (field.shape[0] * step, field.shape[1] * step)
        return ops.warp(image, at, size=size, padding="border", field_resize="bilinear")[0]

    @staticmethod
    def _paste(out: torch.Tensor, moved: torch.Tensor, x0: int, y0: int) -> None:
        """Copy the moved rectangle as far as it lies in the picture."""
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
