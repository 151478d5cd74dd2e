"""Face2Face^rho in its inference form: fewer multiplications by exact algebra, channels-last, our ops, one replay.

It computes what the plain form does (tests hold the two together) and takes no gradients.
"""

import contextlib
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastreenact import ops
from fastreenact.models.face2face_rho import POSE_DIMS, Face2FaceRho, motion_input_size
from fastreenact.models.fused_motion import FusedMotion
from fastreenact.models.fused_renderer import FusedDecoder, FusedEncoder
from fastreenact.models.head_pose import head_pose_input

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True, eq=False)
class SourceState:
    """One resident source: its place in the slabs of the object that encoded it, free again when this is gone."""

    index: int


def fuse(
    model: Face2FaceRho,
    size: int,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    motion_size: int | None = None,
) -> "FusedFace2FaceRho":
    """The inference form of `model` for pictures of one size.

    Args:
        model: plain networks with their metadata; left as it is.
        size: side S of the picture, px, 64 to 2048.
        dtype: of activations: float32, bfloat16, or float16 on a GPU. Fields, coordinates and poses stay float32.
        device: where it runs.
        motion_size: fixed size of the motion network, a multiple of 64; None takes the metadata's, or else the next
            multiple of 64.
    Raises:
        ValueError: a size out of range or a dtype that does not run on `device`.
    """
    device = torch.device(device)
    if dtype not in _DTYPES or (dtype == torch.float16 and device.type == "cpu"):
        raise ValueError(f"dtype must be float32, bfloat16 or, on a GPU, float16; got {dtype} on {device}")
    if motion_size is None and model.metadata.get("motion_size"):
        motion_size = int(model.metadata["motion_size"])
    return FusedFace2FaceRho(model, size, dtype, device, motion_input_size(size, motion_size))


class FusedFace2FaceRho:
    """Encodes sources and draws them driven; made by `fuse`. One thread at a time: buffers are shared between calls."""

    def __init__(self, model: Face2FaceRho, size: int, dtype: torch.dtype, device: torch.device, motion_size: int):
        self.size, self.motion_size, self.dtype, self.device = size, motion_size, dtype, device
        self.over_base = model.over_base
        self._metadata: Mapping[str, str] = dict(model.metadata)
        like = torch.empty(0, dtype=dtype, device=device)
        with torch.no_grad():
            self._motion = FusedMotion(model.motion, motion_size, like, over_base=model.over_base)
            self._encoder = FusedEncoder(model.renderer, size, device)
            self._decoder = FusedDecoder(model.renderer, size, like)
            # What changes from step to step.
            self._points = torch.zeros(1, 72, 2, device=device)
            self._pose = torch.zeros(1, POSE_DIMS, device=device)
            self._picture = torch.zeros(1, dtype=torch.int32, device=device)
            self._base_field = torch.zeros_like(self._motion.field)
            self._field = torch.zeros_like(self._motion.field) if model.over_base else self._motion.field
            side = 0 if self._decoder.seen is None else self._decoder.seen.side
            self._base = torch.zeros(1, side, side, 3, device=device)
        self._slabs: list[Tensor] = []  # f1, f2, f3|f4, three parts of the motion network, and the picture over a base
        self._free: list[int] = []
        self._replays: dict[str, ops.Replay] = {}

    @torch.inference_mode()
    def encode(self, image: Any, keypoints: Any, head_pose: Any) -> SourceState:
        """What `drive` needs to know about a source, computed once.

        Args:
            image: [S, S, 3] uint8 RGB, NumPy or PyTorch.
            keypoints: [72, 2] float in [-1, 1], x right, y down; -1 and 1 are the outer pixel edges.
            head_pose: [6] (rx, ry, rz in rad, tx, ty, scale in normalised units) as ours.
        Raises:
            ValueError: wrong shapes, dtypes or values.
        Source: Face2Face^rho, Sec. 3.2 and 3.4.
        """
        pixels = torch.as_tensor(image)
        if pixels.shape != (self.size, self.size, 3) or pixels.dtype != torch.uint8:
            raise ValueError(
                f"image must be uint8 [{self.size}, {self.size}, 3], got {pixels.dtype} {list(pixels.shape)}"
            )
        pixels = pixels.to(self.device)[None].contiguous()
        points, pose = self._read(keypoints, head_pose)
        points, pose = points.to(self.device), pose.to(self.device)
        parts = [*self._encoder(pixels, pose), *self._motion.source(points, pixels)]
        if self.over_base:
            parts.append(pixels)
        state = SourceState(self._place(parts))
        weakref.finalize(state, self._free.append, state.index)
        return state

    def _place(self, parts: list[Tensor]) -> int:
        """Copies of `parts` into the slabs, which grow when they are full."""
        if not self._free:
            used = self._slabs[0].shape[0] if self._slabs else 0
            grown = []
            for i, part in enumerate(parts):
                dtype = torch.uint8 if part.dtype == torch.uint8 else self.dtype
                slab = torch.zeros(max(2 * used, 1), *part.shape[1:], dtype=dtype, device=self.device)
                if used:
                    slab[:used] = self._slabs[i]
                grown.append(slab)
            self._slabs = grown
            self._free += reversed(range(used, max(2 * used, 1)))
            self._replays.clear()  # they know the old addresses
        index = self._free.pop()
        for slab, part in zip(self._slabs, parts, strict=True):
            slab[index] = part[0].to(slab.dtype)
        return index

    def drive(
        self, state: SourceState, keypoints: Any, head_pose: Any, out: Tensor | None = None, timer: Any = None
    ) -> Tensor:
        """The source of `state`, moved to the driver's keypoints and pose.

        Args:
            state: from `encode` of this object.
            keypoints: [72, 2] of the source's shape with the driver's expression and pose, in [-1, 1].
            head_pose: [6], the driver's, as ours.
            out: [S, S, 3] uint8, written in place, on any device; None makes one on ours that the caller owns.
            timer: has `stage(name)`, a context manager, and `add(name, milliseconds)`; stages come more than once.
        Returns:
            [S, S, 3] uint8 RGB: `out` if given.
        Raises:
            ValueError: wrong shapes, dtypes or values.
        Source: Face2Face^rho, Sec. 3.
        """
        if out is None:
            out = torch.empty(self.size, self.size, 3, dtype=torch.uint8, device=self.device)
        elif out.shape != (self.size, self.size, 3) or out.dtype != torch.uint8:
            raise ValueError(f"out must be uint8 [{self.size}, {self.size}, 3], got {out.dtype} {list(out.shape)}")
        with torch.inference_mode():
            image = self.step(state, keypoints, head_pose, timer)
            with _stage(timer, "deliver"):
                if out.device == self.device:
                    ops.to_frame(image, layout="nhwc", tanh=True, out=out[None])
                else:
                    out.copy_(ops.to_frame(image, layout="nhwc", tanh=True)[0])
        return out

    def step(self, state: SourceState, keypoints: Any, head_pose: Any, timer: Any = None) -> Tensor:
        """`drive` without its last stage: [1, S, S, 3] before tanh, in the network's dtype; valid until the next."""
        self._set(state, keypoints, head_pose)
        self._replay("step", timer)
        return self._decoder.raw

    def move(self, state: SourceState, keypoints: Any, base: Tensor, timer: Any = None) -> Tensor:
        """The motion network alone, for weights that draw over a base.

        Args:
            base: [1, M/4, M/4, 2] float32, the base's field, which it corrects.
        Returns:
            [1, M/4, M/4, 2] float32, what is to be added to that; valid until the next call.
        """
        self._set(state, keypoints, None)
        self._base_field.copy_(base)
        self._replay("move", timer)
        return self._motion.field

    def draw(
        self, state: SourceState, keypoints: Any, head_pose: Any, field: Tensor, base: Tensor, timer: Any = None
    ) -> Tensor:
        """The rendering network alone, for weights that draw over a base.

        Args:
            field: [1, M/4, M/4, 2] float32 that the source is sampled by.
            base: [1, S, S, 3] float32 in [-1, 1], the picture that is drawn over.
        Returns:
            [1, S, S, 4] before the last activation, in the network's dtype; valid until the next call.
        """
        self._set(state, keypoints, head_pose)
        self._field.copy_(field)
        more = self._base.shape[1] - self.size  # the edge is repeated up to a multiple of 8
        self._base[:, : self.size, : self.size] = base
        if more:
            self._base[:, self.size :, : self.size] = base[:, -1:]
            self._base[:, :, self.size :] = self._base[:, :, self.size - 1 : self.size]
        self._replay("draw", timer)
        return self._decoder.raw

    def multiplications(self) -> dict[str, int]:
        """Of one step, by kind of layer."""
        return {"motion": self._motion.multiplications()} | self._decoder.multiplications()

    def _replay(self, name: str, timer: Any) -> None:
        replay = self._replays.get(name)
        if replay is None:
            bodies = {"step": self._step_body, "move": self._move_body, "draw": self._draw_body}
            replay = self._replays[name] = ops.Replay(bodies[name], self.device)
        replay(timer)

    def _step_body(self, replay: ops.Replay) -> None:
        with replay.branch():
            replay.mark("decode")
            self._decoder.tables(self._pose)
        self._move_body(replay)
        replay.join()
        self._render(replay, None)

    def _move_body(self, replay: ops.Replay) -> None:
        replay.mark("rasterize")
        self._motion.rasterize(self._points)
        replay.mark("motion")
        image, base = (self._slabs[6], self._base_field) if self.over_base else (None, None)
        self._motion(self._slabs[3:6], self._picture, image, base)

    def _draw_body(self, replay: ops.Replay) -> None:
        replay.mark("decode")
        self._decoder.tables(self._pose)
        self._render(replay, self._base)

    def _render(self, replay: ops.Replay, base: Tensor | None) -> None:
        replay.mark("warp")
        self._decoder.warp(self._slabs[:3], self._picture, self._field, smooth=base is not None)
        replay.mark("decode")
        self._decoder(base)

    def _set(self, state: SourceState, keypoints: Any, head_pose: Any) -> None:
        """What changes from step to step, into its buffers; without a pose that stays."""
        points, pose = self._read(keypoints, head_pose)
        self._points.copy_(points)
        self._picture.fill_(state.index)
        if head_pose is not None:
            self._pose.copy_(pose)

    def _read(self, keypoints: Any, head_pose: Any) -> tuple[Tensor, Tensor]:
        """[1, 72, 2] and the network's pose vector [1, 6], float32."""
        points = np.asarray(keypoints, np.float32)
        if points.shape != (72, 2):
            raise ValueError(f"keypoints must be [72, 2], got {list(points.shape)}")
        pose = np.zeros(6, np.float32) if head_pose is None else head_pose_input(head_pose, keypoints, self._metadata)
        return torch.from_numpy(points)[None], torch.from_numpy(pose)[None]


def _stage(timer: Any, name: str) -> contextlib.AbstractContextManager[Any]:
    """The timer's stage, or nothing."""
    return contextlib.nullcontext() if timer is None else timer.stage(name)
