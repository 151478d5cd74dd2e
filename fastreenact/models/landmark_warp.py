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
from fastreenact.models.landmark_head import Head, follow, make_head
from fastreenact.models.landmark_slits import EYES, Cover, Layer, cover, eye_layer, mouth_layer


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
            # NumPy on the CPU: PyTorch would wake its threads for copies that take microseconds.
            surface, still = (out.numpy(), state.image.numpy()) if self.device.type == "cpu" else (out, state.image)
            surface[:] = still[0]
            _paste(surface, moved, *state.grid.corner(rect))
            for layer, image in state.layers:
                found = cover(layer, state.head, controls.keypoints, rigid, shape[:2])
                if found is not None:
                    _blend(surface, self._sample(image, found.field, 1), found)
        return out

    def _sample(self, image: torch.Tensor, field: NDArray[np.float32], step: int) -> torch.Tensor:
        """`image` uint8 [1, H, W, 3] read where `field` [h, w, 2] points: [h * step, w * step, 3]."""
        at = torch.from_numpy(field)[None].to(self.device)
        size = (field.shape[0] * step, field.shape[1] * step)
        return ops.warp(image, at, size=size, padding="border", field_resize="bilinear")[0]


def _paste(surface: Any, moved: torch.Tensor, x0: int, y0: int) -> None:
    """Copy the moved rectangle as far as it lies in the picture."""
    left, top = max(x0, 0), max(y0, 0)
    right, low = min(x0 + moved.shape[1], surface.shape[1]), min(y0 + moved.shape[0], surface.shape[0])
    if right > left and low > top:
        part = moved[top - y0 : low - y0, left - x0 : right - x0]
        surface[top:low, left:right] = part.numpy() if isinstance(surface, np.ndarray) else part


def _blend(surface: Any, inside: torch.Tensor, cover: Cover) -> None:
    """Lay `inside` over the moved skin as far as it is opaque."""
    h, w = cover.opacity.shape[:2]
    view = surface[cover.y0 : cover.y0 + h, cover.x0 : cover.x0 + w]
    if isinstance(surface, np.ndarray):
        below = view.astype(np.float32)
        view[:] = below + (inside.numpy() - below) * cover.opacity + np.float32(0.5)
    else:
        below = view.to(torch.float32)
        opacity = torch.from_numpy(cover.opacity).to(surface.device)
        view.copy_(below + (inside - below) * opacity + 0.5)
