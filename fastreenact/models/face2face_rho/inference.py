"""Face2Face^rho in its inference form: fewer multiplications by exact algebra, channels-last, our ops, one replay.

It computes what the plain form does (tests hold the two together) and takes no gradients.
"""

import contextlib
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastreenact.models.face2face_rho.fused_renderer import FusedEncoder
from fastreenact.models.face2face_rho.head_pose import head_pose_input
from fastreenact.models.face2face_rho.networks import Face2FaceRho, motion_input_size
from fastreenact.models.face2face_rho.step import FusedStep
from fastreenact.timings import GRAPH

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_MOST_STEPS = 4  # numbers of pictures at once that are kept ready; each has its buffers, and on a GPU its graph


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
    *,
    profile: bool = False,
) -> "FusedFace2FaceRho":
    """The inference form of `model` for pictures of one size.

    Args:
        model: plain networks with their metadata; left as it is, and kept.
        size: side S of the picture, px, 64 to 2048.
        dtype: of activations: float32, bfloat16, or float16 on a GPU. Fields, coordinates and poses stay float32.
        device: where it runs.
        motion_size: fixed size of the motion network, a multiple of 64; None takes the metadata's, or else the next
            multiple of 64.
        profile: on a GPU, have events inside the graphs that time the stages.
    Raises:
        ValueError: a size out of range or a dtype that does not run on `device`.
    """
    device = torch.device(device)
    if dtype not in _DTYPES or (dtype == torch.float16 and device.type == "cpu"):
        raise ValueError(f"dtype must be float32, bfloat16 or, on a GPU, float16; got {dtype} on {device}")
    if motion_size is None and model.metadata.get("motion_size"):
        motion_size = int(model.metadata["motion_size"])
    return FusedFace2FaceRho(model, size, dtype, device, motion_input_size(size, motion_size), profile)


class FusedFace2FaceRho:
    """Encodes sources and draws them driven; made by `fuse`. One thread at a time: buffers are shared between calls."""

    def __init__(
        self,
        model: Face2FaceRho,
        size: int,
        dtype: torch.dtype,
        device: torch.device,
        motion_size: int,
        profile: bool = False,
    ):
        self.size, self.motion_size, self.dtype, self.device = size, motion_size, dtype, device
        self.over_base = model.over_base
        self._model, self._profile = model, profile
        with torch.no_grad():
            self._encoder = FusedEncoder(model.renderer, size, torch.empty(0, device=device))
        self._slabs: list[Tensor] = []  # f1, f2, f3|f4, three parts of the motion network, and the picture over a base
        self._free: list[int] = []
        self._steps: OrderedDict[int, FusedStep] = OrderedDict()  # by number of pictures, the last one used last
        self._last = self._step_of(1)

    def _step_of(self, n: int) -> FusedStep:
        """The step for `n` pictures at once; of more than four the one that was not used for longest is forgotten."""
        if n not in self._steps:
            if len(self._steps) == _MOST_STEPS:
                self._steps.popitem(last=False)
            sizes = self.size, self.motion_size
            with torch.inference_mode(False), torch.no_grad():
                self._steps[n] = FusedStep(self._model, n, *sizes, self.dtype, self.device, profile=self._profile)
        self._steps.move_to_end(n)
        return self._steps[n]

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
        points, pose = (torch.from_numpy(part).to(self.device)[None] for part in self._read(keypoints, head_pose))
        parts = [*self._encoder(pixels, pose), *self._step_of(1).motion.source(points, pixels)]
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
            for step in self._steps.values():  # they know the old addresses
                step.forget()
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
        _check_out(out, (self.size, self.size, 3))
        frames = self.drive_many([state], [keypoints], [head_pose], None if out is None else out[None], timer)
        return frames[0] if out is None else out

    def drive_many(
        self,
        states: Sequence[SourceState],
        keypoints: Sequence[Any],
        head_poses: Sequence[Any],
        out: Tensor | None = None,
        timer: Any = None,
    ) -> Tensor:
        """Several frames at once, on a GPU in one replay.

        Args:
            states, keypoints, head_poses, timer: as of `drive`, one for each frame; a state may come more than once.
            out: [N, S, S, 3] uint8, written in place, on any device; None makes one on ours that the caller owns.
        Returns:
            [N, S, S, 3] uint8 RGB: `out` if given.
        Raises:
            ValueError: wrong shapes, dtypes or values.
        """
        shape = (len(states), self.size, self.size, 3)
        _check_out(out, shape)
        if out is None:
            out = torch.empty(shape, dtype=torch.uint8, device=self.device)
        if self.device.type != "cpu":
            return self._on_gpu(states, keypoints, head_poses, out, timer)
        with torch.inference_mode():
            self._run("step", states, keypoints, head_poses, timer)
            with _stage(timer, "deliver"):
                if out.device.type == "cpu":
                    return self._last.frame(out)
                return out.copy_(self._last.frame(torch.empty(shape, dtype=torch.uint8)))

    @torch.inference_mode()
    def _on_gpu(
        self,
        states: Sequence[SourceState],
        keypoints: Sequence[Any],
        head_poses: Sequence[Any],
        out: Tensor,
        timer: Any,
    ) -> Tensor:
        """The frames as the graph makes them, into `out`."""
        self._run("step", states, keypoints, head_poses, timer)
        with _stage(timer, "deliver" if self._profile else GRAPH):
            if out.device.type == "cpu":
                self._last.staging.receive(out)
            else:
                out.copy_(self._last.staging.frame)
        return out

    @property
    def finite(self) -> bool:
        """Whether all that the last frames were made of was finite, as far as it shows; float32 is not asked."""
        return self._last.finite()

    @property
    def flag(self) -> Tensor | None:
        """int32 [1] for ops after `draw`: 1 makes `finite` false. None in float32."""
        return self._last.flag

    def step(self, state: SourceState, keypoints: Any, head_pose: Any, timer: Any = None) -> Tensor:
        """`drive` without its last stage: [1, S, S, 3] before tanh, in the network's dtype; valid until the next."""
        self._run("step", [state], [keypoints], [head_pose], timer)
        return self._last.decoder.raw

    def move(self, state: SourceState, keypoints: Any, head_pose: Any, base: Tensor, timer: Any = None) -> Tensor:
        """The motion network alone, for weights that draw over a base.

        Args:
            base: [1, M/4, M/4, 2] float32, the base's field, which it corrects.
        Returns:
            [1, M/4, M/4, 2] float32, what is to be added to that; valid until the next call.
        """
        self._step_of(1).base_field.copy_(base)
        self._run("move", [state], [keypoints], [head_pose], timer)
        return self._last.motion.field

    def draw(self, field: Tensor, base: Tensor, timer: Any = None) -> Tensor:
        """The rendering network alone, after `move` and for what that was given.

        Args:
            field: [1, M/4, M/4, 2] float32 that the source is sampled by.
            base: [1, S, S, 3] float32 in [-1, 1], the picture that is drawn over.
        Returns:
            [1, S, S, 4] before the last activation, in the network's dtype; valid until the next call.
        """
        step = self._last
        step.field.copy_(field)
        more = step.base.shape[1] - self.size  # the edge is repeated up to a multiple of 8
        step.base[:, : self.size, : self.size] = base
        if more:
            step.base[:, self.size :, : self.size] = base[:, -1:]
            step.base[:, :, self.size :] = step.base[:, :, self.size - 1 : self.size]
        with self._graph(timer):
            step("draw", self._slabs, timer)
        return step.decoder.raw

    def multiplications(self) -> dict[str, int]:
        """Of one step, by kind of layer."""
        step = self._step_of(1)
        return {"motion": step.motion.multiplications()} | step.decoder.multiplications()

    def _run(
        self, name: str, states: Sequence[SourceState], keypoints: Sequence[Any], head_poses: Sequence[Any], timer: Any
    ) -> None:
        """Send what changes from step to step, and replay."""
        read = [self._read(*pair) for pair in zip(keypoints, head_poses, strict=True)]
        points, poses = (np.stack(parts) for parts in zip(*read, strict=True))
        self._last = step = self._step_of(len(states))
        with self._graph(timer):
            step.staging.send(points, poses, [state.index for state in states])
            step(name, self._slabs, timer)

    def _graph(self, timer: Any) -> contextlib.AbstractContextManager[Any]:
        """The stage that a graph is, unless events inside tell its stages apart."""
        return _stage(None if self._profile or self.device.type == "cpu" else timer, GRAPH)

    def _read(self, keypoints: Any, head_pose: Any) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """[72, 2] and the network's pose vector [6]."""
        points = np.asarray(keypoints, np.float32)
        if points.shape != (72, 2):
            raise ValueError(f"keypoints must be [72, 2], got {list(points.shape)}")
        return points, head_pose_input(head_pose, keypoints, self._model.metadata)


def _check_out(out: Tensor | None, shape: tuple[int, ...]) -> None:
    if out is not None and (out.shape != shape or out.dtype != torch.uint8):
        raise ValueError(f"out must be uint8 {list(shape)}, got {out.dtype} {list(out.shape)}")


def _stage(timer: Any, name: str) -> contextlib.AbstractContextManager[Any]:
    """The timer's stage, or nothing."""
    return contextlib.nullcontext() if timer is None else timer.stage(name)
