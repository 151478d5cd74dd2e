"""The refined landmark warp in its inference form: for pictures of any size and shape.

The landmark warp moves the portrait at its own resolution. The networks, at the size that they were trained for, move
its field a little further, and give every pixel a gain and a colour: light, shadow, and what the portrait did not show.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from fastreenact import ops
from fastreenact.face.crop import Box, crop
from fastreenact.fuse.slabs import Place
from fastreenact.models.landmark_warp.warp import LandmarkWarp, Placement, State
from fastreenact.models.refined_warp import tables
from fastreenact.models.refined_warp.fused import RefinedNetworks
from fastreenact.models.refined_warp.networks import MOST_GAIN
from fastreenact.timings import NO_TIMER, Timer


@dataclass(frozen=True)
class RefinedState:
    """One resident portrait."""

    warp: LandmarkWarp  # of pictures of its size
    base: State
    networks: Place
    box: Box
    image: Tensor  # uint8 [1, H, W, 3]
    fade: float  # share of the box's side
    cells: "_Cells"
    nodes: "_Nodes"


class FusedRefinedWarp:
    """Encodes portraits and draws them driven. One thread at a time: buffers are shared between calls."""

    def __init__(self, networks: RefinedNetworks, size: int | None):
        """
        Args:
            networks: at the size they were trained for.
            size: side of square frames, px; None: frames are as large as the portrait.
        """
        self.size, self.dtype, self.device = size, networks.dtype, networks.device
        self._networks = networks

    def encode(
        self, image: ArrayLike | Tensor, keypoints: ArrayLike, pose: ArrayLike, box: Box | None = None
    ) -> RefinedState:
        """Make a portrait resident.

        Args:
            image: uint8 [H, W, 3] RGB, NumPy or PyTorch on the CPU; any size, `size` x `size` where that is set.
            keypoints: [72, 2], -1 and 1 on the edges of `box`.
            pose: [6] rx, ry, rz (rad), tx, ty, scale of the portrait's head.
            box: the square of the picture that the keypoints are in, px; None: the whole of a square picture.
        Raises:
            ValueError: a shape, a dtype or a value that does not fit; keypoints that are not a face.
        """
        picture, square = checked_portrait(image, box, self.size)
        height, width = picture.shape[:2]
        warp = LandmarkWarp(height, width, self.dtype, self.device)
        base = warp.encode(picture, keypoints, pose, square)
        networks = self._networks.encode(crop(picture, square, self._networks.size), keypoints, pose)
        fade = tables.fade_of(square, height, width)
        sides = self._networks.motion_size // 4, self._networks.size
        cells = _Cells(*sides, square, height, width, base.grid.step, self.device)
        nodes = _Nodes(square, fade, height, width, base.grid.step, self.device)
        return RefinedState(warp, base, networks, square, base.image, fade, cells, nodes)

    def drive(
        self,
        state: RefinedState,
        keypoints: ArrayLike,
        pose: ArrayLike,
        out: Tensor | None = None,
        timer: Timer = NO_TIMER,
    ) -> Tensor:
        """The portrait of `state`, moved to the driver's keypoints and pose.

        Args:
            state: from `encode` of this object.
            keypoints: [72, 2] of the portrait's shape with the driver's expression and pose.
            pose: [6], the driver's.
            out: uint8 [H, W, 3] to write into, on any device (without a copy where it is contiguous and on ours); None
                makes one on ours that the caller owns.
            timer: told of the stages, which may come more than once.
        Returns:
            uint8 [H, W, 3] RGB: `out` if given.
        Raises:
            ValueError: wrong shapes, dtypes or values.
        """
        shape = tuple(state.image.shape[1:])
        if out is not None and (out.shape != shape or out.dtype != torch.uint8):
            raise ValueError(f"out must be uint8 {list(shape)}, got {out.dtype} {list(out.shape)}")
        in_place = out is not None and out.device == state.image.device and out.is_contiguous()
        with torch.inference_mode():
            surface = out if out is not None and in_place else torch.empty(shape, dtype=torch.uint8, device=self.device)
            with timer.stage("motion"):
                placed, nodes = state.nodes.place(state.warp, state.base, keypoints, pose)
                field = state.cells.read(nodes)
            offset = self._networks.move(state.networks, keypoints, pose, field, timer)
            with timer.stage("warp"):
                window = _moving(placed, state.nodes, *nodes.shape[:2])
                self._base(state, placed, window, state.nodes.add(nodes, offset, window), surface)
                seen = state.cells.shrink(surface)
            raw = self._networks.draw(field + offset, seen, timer)
            with timer.stage("deliver"):
                ops.compose_frame(
                    raw[0], surface, state.box, most_gain=MOST_GAIN, fade=state.fade, flag=self._networks.flag
                )
                return surface if out is None or in_place else out.copy_(surface)

    @property
    def finite(self) -> bool:
        """Whether all that the networks gave the last frame was finite; float32 is not asked."""
        return self._networks.finite

    def _base(
        self, state: RefinedState, placed: Placement, window: tuple[int, int, int, int], nodes: Tensor, surface: Tensor
    ) -> None:
        """The landmark warp by the field `nodes` [h, w, 2] of a window of all nodes into `surface` uint8 [H, W, 3]."""
        height, width = surface.shape[:2]
        step = placed.step
        x0, y0, x1, y1 = window
        size = (y1 - y0) * step, (x1 - x0) * step
        if size[0] < height or size[1] < width:
            _plain(surface)[:] = _plain(state.image[0])
        part = surface[y0 * step : y1 * step, x0 * step : x1 * step]
        fits = tuple(part.shape[:2]) == size  # the last nodes may reach beyond the picture
        moved = ops.warp(
            state.image,
            nodes[None],
            size=size,
            padding="border",
            field_resize="bilinear",
            out=part[None] if fits else None,
        )
        if not fits:
            _plain(part)[:] = _plain(moved[0, : part.shape[0], : part.shape[1]])
        state.warp.cover(_plain(surface), placed)


class _Cells:
    """What the networks read of the landmark warp: where each cell of their field reads its field, and each pixel of
    theirs its picture. From the portrait alone."""

    def __init__(self, side: int, seen_side: int, box: Box, height: int, width: int, step: int, device: torch.device):
        found = tables.cells(side, box, height, width, step)
        self._where, self._shift = (torch.from_numpy(part).to(device) for part in (found.where, found.shift))
        self._scale = torch.from_numpy(np.broadcast_to(found.scale, found.shift.shape).copy()).to(device)
        self._samples = tables.samples_of(box, seen_side)
        self._box, self._side = box, seen_side

    def shrink(self, surface: Tensor) -> Tensor:
        """The box of the picture `surface` uint8 [H, W, 3], its edge repeated outside, as [1, S, S, 3] in [-1, 1]."""
        return ops.shrink(surface, self._box, self._side, samples=self._samples)

    def read(self, nodes: Tensor) -> Tensor:
        """The landmark warp's field [h, w, 2] of the whole picture as [1, side, side, 2] of the box."""
        return ops.warp(
            nodes[None],
            self._where,
            size=self._where.shape[1:3],
            padding="border",
            scale=self._scale,
            shift=self._shift,
        )


class _Nodes:
    """The landmark warp's nodes of the whole picture, and where each reads the networks' field."""

    def __init__(self, box: Box, fade: float, height: int, width: int, step: int, device: torch.device):
        self._field = Placement(None, (0, 0), step, ()).whole_field(height, width)
        self._rest = self._field[0, :, 0].copy(), self._field[:, 0, 1].copy()  # of each column and row
        self._shown, self._device = (0, 0, 0, 0), device  # the window of `_field` that may not be at rest
        self._moved = torch.empty(self._field.shape, device=device)
        inside_x, inside_y = map(np.flatnonzero, tables.node_weights(box, fade, height, width, step))
        # Left, top, right and low: outside, the networks have no weight.
        self.window = (
            (int(inside_x[0]), int(inside_y[0]), int(inside_x[-1]) + 1, int(inside_y[-1]) + 1)
            if len(inside_x) and len(inside_y)
            else (0, 0, 0, 0)
        )
        left, top, right, low = self.window
        self._size = low - top, right - left
        found = tables.nodes(box, fade, height, width, step, self.window)
        self._where = torch.from_numpy(found.where).to(device)
        self._scale = torch.from_numpy(found.scale).to(device).expand(1, *self._size, 2)

    def place(self, warp: LandmarkWarp, base: State, keypoints: ArrayLike, pose: ArrayLike) -> tuple[Placement, Tensor]:
        """The landmark warp of one frame, and its field [h, w, 2] of all nodes, valid until the next."""
        placed = warp.place(base, keypoints, pose, self._field)
        shown, self._shown = self._shown, _window(placed)
        if shown != self._shown:  # what moved in the last frame and does not now goes back to rest
            (left, top, right, low), (x0, y0, x1, y1) = shown, self._shown
            for rows, columns in (
                (slice(top, y0), slice(left, right)),
                (slice(y1, low), slice(left, right)),
                (slice(top, low), slice(left, x0)),
                (slice(top, low), slice(x1, right)),
            ):
                self._field[rows, columns, 0] = self._rest[0][columns]
                self._field[rows, columns, 1] = self._rest[1][rows, None]
        return placed, torch.from_numpy(self._field).to(self._device)

    def add(self, nodes: Tensor, offset: Tensor, window: tuple[int, int, int, int]) -> Tensor:
        """Those of `nodes` [h, w, 2] in `window`, moved by `offset` [1, M/4, M/4, 2] of the box; till the next call."""
        left, top, right, low = self.window
        x0, y0, x1, y1 = window
        if (left, top, right, low) != window:
            _plain(self._moved)[y0:y1, x0:x1] = _plain(nodes)[y0:y1, x0:x1]
        ops.warp(
            offset.contiguous(),
            self._where,
            size=self._size,
            padding="border",
            field_resize="bilinear",
            scale=self._scale,
            shift=nodes[None, top:low, left:right],
            out=self._moved[None, top:low, left:right],
        )
        return self._moved[y0:y1, x0:x1]


def checked_portrait(image: ArrayLike | Tensor, box: Box | None, size: int | None) -> tuple[NDArray[np.uint8], Box]:
    """A portrait's picture and the square of its keypoints, as of `FusedRefinedWarp.encode`."""
    picture = np.ascontiguousarray(image)
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or min(picture.shape) < 1:
        raise ValueError(f"image must be uint8 [H, W, 3], got {picture.dtype} {list(picture.shape)}")
    height, width = picture.shape[:2]
    if size is not None and (height, width) != (size, size):
        raise ValueError(f"image must be uint8 [{size}, {size}, 3], got {list(picture.shape)}")
    if box is None and height != width:
        raise ValueError(f"image is {width} x {height}: a picture that is not square needs `box`")
    return picture, Box.whole(width) if box is None else box


def _plain(tensor: Tensor) -> Any:
    """NumPy's view of it on the CPU: PyTorch would wake its threads for copies that take microseconds."""
    return tensor.numpy() if tensor.device.type == "cpu" else tensor


def _window(placed: Placement) -> tuple[int, int, int, int]:
    """Left, top, right and low of the nodes of a placement's field, which lies within the picture."""
    if placed.field is None:
        return 0, 0, 0, 0
    x0, y0 = (edge // placed.step for edge in placed.corner)
    return x0, y0, x0 + placed.field.shape[1], y0 + placed.field.shape[0]


def _moving(placed: Placement, nodes: _Nodes, h: int, w: int) -> tuple[int, int, int, int]:
    """Left, top, right and low of the nodes that may not be at rest, of h x w, with a border of nodes that are."""
    left, top, right, low = nodes.window
    if placed.field is not None:
        x0, y0, x1, y1 = _window(placed)
        left, top, right, low = min(left, x0), min(top, y0), max(right, x1), max(low, y1)
    return max(left - 1, 0), max(top - 1, 0), min(right + 1, w), min(low + 1, h)
