"""A portrait moved without learned weights: a smooth motion field from the keypoints, sampled at full resolution.

It is the baseline that learned weights have to beat, and what ours draw over.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from fastreenact import ops
from fastreenact.face.crop import Box
from fastreenact.face.keypoints import COUNT
from fastreenact.models.landmark_warp.field import Controls
from fastreenact.models.landmark_warp.grid import Grid
from fastreenact.models.landmark_warp.head import Head, follow, make_head
from fastreenact.models.landmark_warp.slits import EYES, Cover, Layer, cover, eye_layer, mouth_layer
from fastreenact.timings import NO_TIMER, Timer

_FARTHEST = 1e6  # of a coordinate in halves of the box: no face is there, and products of it stay numbers


@dataclass(frozen=True)
class State:
    """One resident portrait."""

    image: torch.Tensor  # uint8 [1, H, W, 3]
    box: Box  # the square whose -1..1 the keypoints are in
    head: Head
    grid: Grid
    layers: tuple[tuple[Layer, torch.Tensor], ...]  # eyeballs and mouth, with their images uint8 [1, h, w, 3]


@dataclass(frozen=True)
class Placement:
    """One frame, before anything is sampled."""

    field: NDArray[np.float32] | None  # [h, w, 2] of the nodes of the rectangle that moves; None: nothing does
    corner: tuple[int, int]  # px, left and upper edge of its first node
    step: int  # px between nodes
    covers: tuple[tuple[Cover, torch.Tensor], ...]  # what shows in the slits: where, and its image uint8 [1, h, w, 3]

    def whole_field(self, height: int, width: int) -> NDArray[np.float32]:
        """[ceil(height / step), ceil(width / step), 2]: the nodes of a whole picture, at rest outside the rectangle."""
        h, w = -(-height // self.step), -(-width // self.step)
        whole = np.empty((h, w, 2), np.float32)
        whole[..., 0] = (np.arange(w) + 0.5) * (2 * self.step / width) - 1
        whole[..., 1] = ((np.arange(h) + 0.5) * (2 * self.step / height) - 1)[:, None]
        if self.field is not None:
            x0, y0 = self.corner[0] // self.step, self.corner[1] // self.step
            left, top = max(x0, 0), max(y0, 0)
            right, low = min(x0 + self.field.shape[1], w), min(y0 + self.field.shape[0], h)
            if right > left and low > top:
                whole[top:low, left:right] = self.field[top - y0 : low - y0, left - x0 : right - x0]
        return whole


def _finite(name: str, value: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.float64]:
    array = np.asarray(value, np.float64)
    if array.shape != shape:
        raise ValueError(f"{name}: got shape {array.shape}, need {shape}")
    most = np.abs(array).max()
    if not most <= _FARTHEST:  # so it is for NaN
        if not np.isfinite(most):
            raise ValueError(f"{name}: some values are NaN or infinite")
        raise ValueError(f"{name}: got {most:.3g}, need values within {_FARTHEST:.0e}")
    return array


def _pixels(box: Box, keypoints: ArrayLike) -> NDArray[np.float64]:
    return box.denormalise(_finite("keypoints", keypoints, (COUNT, 2))).astype(np.float64)


def _pose(value: ArrayLike) -> NDArray[np.float64]:
    pose = _finite("pose", value, (6,))
    if pose[5] <= 0:
        raise ValueError(f"pose: got scale {pose[5]:.3g}, need more than 0")
    return pose


def checked(keypoints: ArrayLike, pose: ArrayLike) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Keypoints [72, 2] and pose [6] of a frame; ValueError where they do not fit."""
    return _finite("keypoints", keypoints, (COUNT, 2)).astype(np.float32), _pose(pose).astype(np.float32)


class LandmarkWarp:
    """Moves portraits of height x width by their keypoints; what is away from the head stays at rest, bit for bit.

    Beyond the field, whose cost does not depend on the size, a frame costs the sampling of the pixels that move.
    """

    def __init__(
        self, height: int, width: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> None:
        """
        Args:
            height, width: of the portraits, px; any size.
            dtype: taken for the other models' sake; pictures are uint8 and coordinates float32 whatever it is.
            device: where portraits lie and are sampled; the field is made on the CPU.

        Raises:
            ValueError: a size below 1.
        """
        if height < 1 or width < 1:
            raise ValueError(f"height, width: got {height} x {width}, need at least 1 x 1")
        self.height, self.width, self.dtype, self.device = height, width, dtype, torch.device(device)

    def encode(self, image: ArrayLike | torch.Tensor, keypoints: ArrayLike, pose: ArrayLike, box: Box) -> State:
        """Make a portrait resident: place the head, cut out eyeballs and mouth. Some tens of milliseconds, once.

        Args:
            image: uint8 [height, width, 3] RGB, NumPy or PyTorch on the CPU.
            keypoints: [72, 2] where they are seen in the portrait, -1 and 1 on the edges of `box`; outside is allowed.
            pose: [6] rx, ry, rz (rad), tx, ty, scale of the portrait's head; tx and ty are not used.
            box: the square of the picture that the keypoints are in, px.

        Returns:
            The state that `drive` takes; many may be resident.

        Raises:
            ValueError: a shape, a dtype or a value that does not fit; keypoints that are not a face.
        """
        picture = torch.as_tensor(np.array(image))
        if picture.dtype != torch.uint8 or picture.shape != (self.height, self.width, 3):
            raise ValueError(
                f"image: got {picture.dtype} {tuple(picture.shape)}, need uint8 {(self.height, self.width, 3)}"
            )
        head = make_head(_pixels(box, keypoints), _pose(pose))
        pixels = picture.numpy()
        layers = [*(eye_layer(pixels, head, eye) for eye in EYES), mouth_layer(pixels, head)]
        resident = tuple((layer, torch.from_numpy(layer.image)[None].to(self.device)) for layer in layers if layer)
        return State(picture[None].to(self.device), box, head, Grid(self.height, self.width, head.unit), resident)

    def drive(
        self,
        state: State,
        keypoints: ArrayLike,
        pose: ArrayLike,
        out: torch.Tensor | None = None,
        timer: Timer = NO_TIMER,
    ) -> torch.Tensor:
        """The portrait, moved so that its keypoints come to lie at `keypoints`.

        out[y, x] = bilinear(portrait, field(y, x)), its edge repeated outside; eyeballs and mouth laid into the slits

        Args:
            state: of `encode`.
            keypoints: [72, 2] made with the portrait's face shape, in the normalised coordinates of its box.
            pose: [6] of the moved head. A head turned further than the portrait can show is turned back, softly.
            out: uint8 [height, width, 3] to write into.
            timer: told of the stages motion, warp and deliver.

        Returns:
            uint8 [height, width, 3] RGB on the portrait's device; `out` if given.

        Raises:
            ValueError: a shape or dtype that does not fit, NaN or infinite coordinates.
        """
        points, turn = _pixels(state.box, keypoints), _pose(pose)
        shape = (self.height, self.width, 3)
        if out is None:
            out = torch.empty(shape, dtype=torch.uint8, device=self.device)
        elif out.dtype != torch.uint8 or out.shape != shape or out.device.type != self.device.type:
            raise ValueError(
                f"out: got {out.dtype} {tuple(out.shape)} on {out.device}, need torch.uint8 {shape} on {self.device}"
            )
        with timer.stage("motion"):
            found = self._place(state, points, turn)
        with timer.stage("warp"):
            moved = None if found.field is None else self._sample(state.image, found.field, found.step)
        with timer.stage("deliver"):
            # NumPy on the CPU: PyTorch would wake its threads for copies that take microseconds.
            surface, still = (out.numpy(), state.image.numpy()) if self.device.type == "cpu" else (out, state.image)
            surface[:] = still[0]
            if moved is not None:
                _paste(surface, moved, *found.corner)
            self.cover(surface, found)
        return out

    def place(
        self, state: State, keypoints: ArrayLike, pose: ArrayLike, nodes: NDArray[np.float32] | None = None
    ) -> Placement:
        """Where everything goes when the portrait is moved as `drive` moves it, for who samples it himself.

        Args:
            state, keypoints, pose: as for `drive`.
            nodes: [ceil(height / step), ceil(width / step), 2] of the whole picture, to draw the field into instead of
                making one: the placement's field is then a part of it, and lies within the picture.
        """
        return self._place(state, _pixels(state.box, keypoints), _pose(pose), nodes)

    def cover(self, surface: NDArray[np.uint8] | torch.Tensor, placement: Placement) -> None:
        """Lay eyeballs and mouth over the moved skin `surface` [height, width, 3], uint8, NumPy or a tensor."""
        for laid, image in placement.covers:
            if isinstance(surface, np.ndarray) and surface.strides[1:] == (3, 1):
                _lay(surface, image, laid)
            else:
                _blend(torch.as_tensor(surface), self._sample(image, laid.field, 1), laid)

    def _place(
        self,
        state: State,
        points: NDArray[np.float64],
        turn: NDArray[np.float64],
        nodes: NDArray[np.float32] | None = None,
    ) -> Placement:
        rigid, points = follow(state.head, points, turn)
        controls, grid = Controls(state.head, points, rigid), state.grid
        field, corner = None, (0, 0)
        if nodes is None:
            found = grid.field(controls)
            if found is not None:
                field, corner = found[0], grid.corner(found[1])
        else:
            window = grid.draw(controls, nodes)
            if window is not None:
                left, top, right, low = window
                field, corner = nodes[top:low, left:right], (left * grid.step, top * grid.step)
        covers = (
            (cover(layer, state.head, controls.keypoints, rigid, (self.height, self.width)), image)
            for layer, image in state.layers
        )
        laid = tuple((at, image) for at, image in covers if at is not None)
        return Placement(field, corner, grid.step, laid)

    def _sample(self, image: torch.Tensor, field: NDArray[np.float32], step: int) -> torch.Tensor:
        """`image` uint8 [1, H, W, 3] read where `field` [h, w, 2] points: [h * step, w * step, 3]."""
        at = torch.from_numpy(field)[None].to(self.device)
        size = (field.shape[0] * step, field.shape[1] * step)
        return ops.warp(image, at, size=size, padding="border", field_resize="bilinear")[0]


def _paste(surface: NDArray[np.uint8] | torch.Tensor, moved: torch.Tensor, x0: int, y0: int) -> None:
    """Copy the moved rectangle as far as it lies in the picture."""
    left, top = max(x0, 0), max(y0, 0)
    right, low = min(x0 + moved.shape[1], surface.shape[1]), min(y0 + moved.shape[0], surface.shape[0])
    if right > left and low > top:
        part = moved[top - y0 : low - y0, left - x0 : right - x0]
        surface[top:low, left:right] = part.numpy() if isinstance(surface, np.ndarray) else part  # type: ignore[assignment]


def _lay(surface: NDArray[np.uint8], image: torch.Tensor, cover: Cover) -> None:
    """Lay `image` uint8 [1, h, w, 3] over the moved skin, packed pixels, as far as it is opaque."""
    h, w = cover.opacity.shape[:2]
    view = surface[cover.y0 : cover.y0 + h, cover.x0 : cover.x0 + w]
    ops.lay_cover(image[0].numpy(), cover.opacity, cover.field, view)


def _blend(surface: torch.Tensor, inside: torch.Tensor, cover: Cover) -> None:
    """The same with what `warp` has read of the layer, on any device and of any strides."""
    h, w = cover.opacity.shape[:2]
    view = surface[cover.y0 : cover.y0 + h, cover.x0 : cover.x0 + w]
    below, opacity = view.to(torch.float32), torch.from_numpy(cover.opacity).to(surface.device)
    view.copy_(below + (inside - below) * opacity + 0.5)
