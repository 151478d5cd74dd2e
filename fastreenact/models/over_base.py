"""Face2Face^rho drawn over the landmark warp, in its inference form: for pictures of any size and shape.

The landmark warp moves the portrait at its own resolution. The networks, at the size that they were trained for, move
its field a little further, and give every pixel a gain and a colour: light, shadow, and what the portrait did not show.
"""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fastreenact import ops
from fastreenact.face.crop import Box, crop
from fastreenact.models.face2face_rho import MOST_GAIN
from fastreenact.models.fuse_face2face_rho import FusedFace2FaceRho, SourceState
from fastreenact.models.landmark_warp import LandmarkWarp, Placement, State

_FADE = 0.08  # of the square's side: over this width from its edge the networks gain their say, in a larger picture


@dataclass(frozen=True)
class OverBaseState:
    """One resident portrait."""

    warp: LandmarkWarp  # of pictures of its size
    base: State
    networks: SourceState
    box: Box
    image: Tensor  # uint8 [1, H, W, 3]
    fade: float  # share of the box's side


class FusedOverBase:
    """Encodes portraits and draws them driven. One thread at a time: buffers are shared between calls."""

    def __init__(self, networks: FusedFace2FaceRho, size: int | None):
        """
        Args:
            networks: of weights that draw over the landmark warp, at the size they were trained for.
            size: side of square frames, px; None: frames are as large as the portrait.
        """
        self.size, self.dtype, self.device = size, networks.dtype, networks.device
        self._networks = networks

    def encode(self, image: Any, keypoints: Any, pose: Any, box: Box | None = None) -> OverBaseState:
        """Make a portrait resident.

        Args:
            image: uint8 [H, W, 3] RGB, NumPy or PyTorch on the CPU; any size, `size` x `size` where that is set.
            keypoints: [72, 2], -1 and 1 on the edges of `box`.
            pose: [6] rx, ry, rz (rad), tx, ty, scale of the portrait's head.
            box: the square of the picture that the keypoints are in, px; None: the whole of a square picture.
        Raises:
            ValueError: a shape, a dtype or a value that does not fit; keypoints that are not a face.
        """
        picture = np.ascontiguousarray(image)
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or min(picture.shape) < 1:
            raise ValueError(f"image must be uint8 [H, W, 3], got {picture.dtype} {list(picture.shape)}")
        height, width = picture.shape[:2]
        if self.size is not None and (height, width) != (self.size, self.size):
            raise ValueError(f"image must be uint8 [{self.size}, {self.size}, 3], got {list(picture.shape)}")
        if box is None and height != width:
            raise ValueError(f"image is {width} x {height}: a picture that is not square needs `box`")
        whole = Box(width / 2, height / 2, width)
        square = whole if box is None else box
        warp = LandmarkWarp(height, width, self.dtype, self.device)
        base = warp.encode(picture, keypoints, pose, square)
        networks = self._networks.encode(crop(picture, square, self._networks.size), keypoints, pose)
        fade = 0.0 if height == width and square == whole else _FADE
        return OverBaseState(warp, base, networks, square, base.image, fade)

    def drive(
        self, state: OverBaseState, keypoints: Any, pose: Any, out: Tensor | None = None, timer: Any = None
    ) -> Tensor:
        """The portrait of `state`, moved to the driver's keypoints and pose.

        Args:
            state: from `encode` of this object.
            keypoints: [72, 2] of the portrait's shape with the driver's expression and pose.
            pose: [6], the driver's.
            out: uint8 [H, W, 3] to write into, on any device; None makes one on ours that the caller owns.
            timer: has `stage(name)`, a context manager; stages may be entered more than once.
        Returns:
            uint8 [H, W, 3] RGB: `out` if given.
        Raises:
            ValueError: wrong shapes, dtypes or values.
        """
        shape = tuple(state.image.shape[1:])
        if out is not None and (out.shape != shape or out.dtype != torch.uint8):
            raise ValueError(f"out must be uint8 {list(shape)}, got {out.dtype} {list(out.shape)}")
        with torch.inference_mode():
            with _stage(timer, "motion"):
                placed = state.warp.place(state.base, keypoints, pose)
                nodes = torch.from_numpy(placed.whole_field(*shape[:2])).to(self.device)
                field = self._in_box(state, nodes, placed.step)
            raw, offset = self._networks.step_on(state.networks, keypoints, pose, field, timer)
            with _stage(timer, "warp"):
                moved = self._base(state, placed, nodes, offset)
            with _stage(timer, "deliver"):
                compose_frame(raw[0], moved, state.box, state.fade)
                if out is None:
                    return moved.clone()
                out.copy_(moved)
                return out

    def _in_box(self, state: OverBaseState, nodes: Tensor, step: int) -> Tensor:
        """The base's field [h, w, 2] of the whole picture, as the networks read it: [1, M/4, M/4, 2] of the box."""
        side = self._networks.motion_size // 4
        height, width = state.image.shape[1:3]
        at = ((torch.arange(side, device=self.device) + 0.5) * 2 / side - 1) * (state.box.size / 2)
        h, w = nodes.shape[:2]
        x, y = (at + state.box.cx) * (2 / (w * step)) - 1, (at + state.box.cy) * (2 / (h * step)) - 1
        grid = torch.stack(torch.broadcast_tensors(x, y[:, None]), -1)[None]
        rest = Placement(None, (0, 0), step, ()).whole_field(height, width)
        shift = (nodes - torch.from_numpy(rest).to(self.device)).permute(2, 0, 1)[None]
        # Beyond the picture everything moves as its edge does.
        held = F.grid_sample(shift, grid, padding_mode="border", align_corners=False)
        px = torch.tensor((width / state.box.size, height / state.box.size), device=self.device)
        own = torch.stack(torch.broadcast_tensors(at, at[:, None]), -1) * (2 / state.box.size)
        return own + held.permute(0, 2, 3, 1) * px

    def _base(self, state: OverBaseState, placed: Placement, nodes: Tensor, offset: Tensor) -> Tensor:
        """The landmark warp with its field moved by `offset` [1, M/4, M/4, 2] of the box: uint8 [H, W, 3]."""
        height, width = state.image.shape[1:3]
        h, w = nodes.shape[:2]
        half = state.box.size / 2
        x = ((torch.arange(w, device=self.device) + 0.5) * placed.step - state.box.cx) / half
        y = ((torch.arange(h, device=self.device) + 0.5) * placed.step - state.box.cy) / half
        grid = torch.stack(torch.broadcast_tensors(x, y[:, None]), -1)[None]
        more = F.grid_sample(offset.permute(0, 3, 1, 2), grid, padding_mode="border", align_corners=False)[0]
        more = more * (_say(x, state.fade) * _say(y, state.fade)[:, None])
        px = torch.tensor((state.box.size / width, state.box.size / height), device=self.device)
        field = nodes + more.permute(1, 2, 0) * px
        size = (h * placed.step, w * placed.step)
        moved = ops.warp(state.image, field[None].contiguous(), size=size, padding="border", field_resize="bilinear")
        moved = moved[0, :height, :width].contiguous()
        state.warp.cover(moved.numpy() if moved.device.type == "cpu" else moved, placed)
        return moved


def compose_frame(raw: Tensor, surface: Tensor, box: Box, fade: float) -> None:
    """Apply what the networks give to the landmark warp's picture, in place.

    level = base + say ((gain - 1) base + 255 tanh(colour)), enlarged bilinearly from the box to the picture

    Args:
        raw: [R, R, 4] before activations: colour and gain.
        surface: uint8 [H, W, 3] RGB.
        box: where the R x R lie in the picture, px.
        fade: over this share of its side from the edge `say` rises from 0 to 1; 0: it is 1 everywhere.
    """
    height, width = surface.shape[:2]
    half = box.size / 2
    left, right = max(round(box.cx - half), 0), min(round(box.cx + half), width)
    top, low = max(round(box.cy - half), 0), min(round(box.cy + half), height)
    if right <= left or low <= top:
        return
    values = raw.float()
    colour = 255 * values[..., :3].tanh()
    gain = MOST_GAIN * (values[..., 3:] - float(np.log(MOST_GAIN - 1))).sigmoid() - 1
    maps = torch.cat([colour, gain], -1).permute(2, 0, 1)[None]
    x = (torch.arange(left, right, device=raw.device) + 0.5 - box.cx) / half
    y = (torch.arange(top, low, device=raw.device) + 0.5 - box.cy) / half
    if maps.shape[2:] != (len(y), len(x)):
        grid = torch.stack(torch.broadcast_tensors(x, y[:, None]), -1)[None]
        maps = F.grid_sample(maps, grid, padding_mode="border", align_corners=False)
    part = surface[top:low, left:right]
    base, maps = part.float(), maps[0].permute(1, 2, 0)
    change = maps[..., 3:] * base + maps[..., :3]
    if fade > 0:
        change = change * (_say(x, fade) * _say(y, fade)[:, None])[..., None]
    part.copy_((base + change + 0.5).clamp_(0, 255))


def _say(at: Tensor, fade: float) -> Tensor:
    """0 at -1 and 1 and beyond, 1 from `fade` of the side inwards; 1 everywhere without a fade."""
    if fade <= 0:
        return torch.ones_like(at)
    t = ((1 - at.abs()) / (2 * fade)).clamp(0, 1)
    return t * t * (3 - 2 * t)


def _stage(timer: Any, name: str) -> Any:
    return nullcontext() if timer is None else timer.stage(name)
