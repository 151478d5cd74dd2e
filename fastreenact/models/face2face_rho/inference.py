"""Face2Face^rho in its inference form: fewer multiplications by exact algebra, channels-last, our ops, one replay.

It computes what the plain form does (tests hold the two together) and takes no gradients.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from fastreenact.fuse.slabs import Place, Slabs
from fastreenact.fuse.staging import StagingBuffer
from fastreenact.models.face2face_rho.fused_motion import FusedMotion
from fastreenact.models.face2face_rho.fused_renderer import FusedDecoder, FusedEncoder
from fastreenact.models.face2face_rho.head_pose import head_pose_input
from fastreenact.models.face2face_rho.networks import AnyPair, Face2FaceRho, motion_input_size
from fastreenact.models.face2face_rho.step import FusedStep
from fastreenact.timings import GRAPH, NO_TIMER, Timer

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_MOST_STEPS = 4  # numbers of pictures at once that are kept ready; each has its buffers, and on a GPU its graph

Step = TypeVar("Step", bound=FusedStep)


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
    return FusedFace2FaceRho(model, *fused_settings(model, size, dtype, device, motion_size), profile)


def fused_settings(
    model: Face2FaceRho, size: int, dtype: torch.dtype, device: str | torch.device, motion_size: int | None = None
) -> tuple[int, int, torch.dtype, torch.device]:
    """Picture size, size of the motion network, dtype and device, checked; errors as of `fuse`."""
    device = torch.device(device)
    if dtype not in _DTYPES or (dtype == torch.float16 and device.type == "cpu"):
        raise ValueError(f"dtype must be float32, bfloat16 or, on a GPU, float16; got {dtype} on {device}")
    if motion_size is None and model.metadata.get("motion_size"):
        motion_size = int(model.metadata["motion_size"])
    return size, motion_input_size(size, motion_size), dtype, device


class FusedPair(Generic[AnyPair, Step]):
    """Two networks with portraits in slabs, and steps for several numbers of pictures at once."""

    def __init__(
        self,
        model: AnyPair,
        size: int,
        motion_size: int,
        dtype: torch.dtype,
        device: torch.device,
        profile: bool = False,
    ) -> None:
        self.size, self.motion_size, self.dtype, self.device = size, motion_size, dtype, device
        self._model, self.profile = model, profile
        self._like = torch.empty(0, dtype=dtype, device=device)
        with torch.no_grad():
            self._encoder = FusedEncoder(model.renderer, size, torch.empty(0, device=device))
        # f1, f2, f3|f4, three parts of the motion network, and what `_more` adds
        self._slabs = Slabs(dtype, device, self._forget)
        self._steps: OrderedDict[int, Step] = OrderedDict()  # by number of pictures, the last one used last
        self._last = self._step_of(1)

    def _new_step(self, n: int) -> Step:
        """A step for `n` pictures at once."""
        raise NotImplementedError

    def _more(self, pixels: Tensor) -> list[Tensor]:
        """What else of a source lies in slabs; `pixels` uint8 [1, S, S, 3]."""
        return []

    def _step_of(self, n: int) -> Step:
        """The step for `n` pictures at once; of more than four the one that was not used for longest is forgotten."""
        if n not in self._steps:
            if len(self._steps) == _MOST_STEPS:
                self._steps.popitem(last=False)
            with torch.inference_mode(False), torch.no_grad():
                self._steps[n] = self._new_step(n)
        self._steps.move_to_end(n)
        return self._steps[n]

    def _forget(self) -> None:
        for step in self._steps.values():  # they know the old addresses
            step.forget()

    @torch.inference_mode()
    def encode(self, image: ArrayLike | Tensor, keypoints: ArrayLike, head_pose: ArrayLike) -> Place:
        """What a step needs to know about a source, computed once.

        Args:
            image: [S, S, 3] uint8 RGB, NumPy or PyTorch.
            keypoints: [72, 2] float in [-1, 1], x right, y down; -1 and 1 are the outer pixel edges.
            head_pose: [6] (rx, ry, rz in rad, tx, ty, scale in normalised units) as ours.
        Raises:
            ValueError: wrong shapes, dtypes or values.
        Source: Face2Face^rho, Sec. 3.2 and 3.4.
        """
        return self._slabs.put(self.parts(image, keypoints, head_pose))

    @torch.inference_mode()
    def parts(self, image: ArrayLike | Tensor, keypoints: ArrayLike, head_pose: ArrayLike) -> list[Tensor]:
        """What `encode` puts into the slabs, [1, ...] each."""
        pixels = torch.as_tensor(image)
        if pixels.shape != (self.size, self.size, 3) or pixels.dtype != torch.uint8:
            raise ValueError(
                f"image must be uint8 [{self.size}, {self.size}, 3], got {pixels.dtype} {list(pixels.shape)}"
            )
        pixels = pixels.to(self.device)[None].contiguous()
        points, pose = (torch.from_numpy(part).to(self.device)[None] for part in self.read(keypoints, head_pose))
        return [*self._encoder(pixels, pose), *self._step_of(1).motion.source(points, pixels), *self._more(pixels)]

    @property
    def finite(self) -> bool:
        """Whether all that the last frames were made of was finite, as far as it shows; float32 is not asked."""
        return self._last.finite()

    def multiplications(self) -> dict[str, int]:
        """Of one step, by kind of layer."""
        step = self._step_of(1)
        return {"motion": step.motion.multiplications()} | step.decoder.multiplications()

    def _run(
        self,
        states: Sequence[Place],
        keypoints: Sequence[ArrayLike],
        head_poses: Sequence[ArrayLike],
        timer: Timer,
        name: str = "step",
    ) -> Step:
        """Send what changes from step to step, and replay."""
        self._last = step = self._step_of(len(states))
        read = [self.read(*pair) for pair in zip(keypoints, head_poses, strict=True)]
        step.staging.send(read, [state.index for state in states])
        self._replay(step, timer, name)
        return step

    def _replay(self, step: Step, timer: Timer, name: str) -> None:
        """On a GPU a graph is one stage, unless events inside tell its stages apart."""
        if self.profile or self.device.type == "cpu":
            step(self._slabs.tensors, timer, name)
        else:
            with timer.stage(GRAPH):
                step(self._slabs.tensors, timer, name)

    def read(self, keypoints: ArrayLike, head_pose: ArrayLike) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Keypoints [72, 2] and the network's pose vector [6]; ValueError where they do not fit."""
        points = np.asarray(keypoints, np.float32)
        if points.shape != (72, 2):
            raise ValueError(f"keypoints must be [72, 2], got {list(points.shape)}")
        return points, head_pose_input(head_pose, points, self._model.metadata)


class FusedFace2FaceRho(FusedPair[Face2FaceRho, FusedStep]):
    """Encodes sources and draws them driven; made by `fuse`. One thread at a time: buffers are shared between calls."""

    def _new_step(self, n: int) -> FusedStep:
        return FusedStep(
            FusedMotion(self._model.motion, self.motion_size, self._like, n=n),
            FusedDecoder(self._model.renderer, self.size, self._like, n=n),
            StagingBuffer(n, self.size, self.size, self.device),
            self.dtype,
            self.profile,
        )

    def drive(
        self,
        state: Place,
        keypoints: ArrayLike,
        head_pose: ArrayLike,
        out: Tensor | None = None,
        timer: Timer = NO_TIMER,
    ) -> Tensor:
        """The source of `state`, moved to the driver's keypoints and pose.

        Args:
            state: from `encode` of this object.
            keypoints: [72, 2] of the source's shape with the driver's expression and pose, in [-1, 1].
            head_pose: [6], the driver's, as ours.
            out: [S, S, 3] uint8, written in place, on any device; None makes one on ours that the caller owns.
            timer: told of the stages, which come more than once.
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
        states: Sequence[Place],
        keypoints: Sequence[ArrayLike],
        head_poses: Sequence[ArrayLike],
        out: Tensor | None = None,
        timer: Timer = NO_TIMER,
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
        with torch.inference_mode():
            step = self._run(states, keypoints, head_poses, timer)
            with timer.stage(GRAPH if self.device.type != "cpu" and not self.profile else "deliver"):
                return step.deliver(out)

    def step(self, state: Place, keypoints: ArrayLike, head_pose: ArrayLike, timer: Timer = NO_TIMER) -> Tensor:
        """`drive` without its last stage: [1, S, S, 3] before tanh, in the network's dtype; valid until the next."""
        return self._run([state], [keypoints], [head_pose], timer).decoder.raw


def _check_out(out: Tensor | None, shape: tuple[int, ...]) -> None:
    if out is not None and (out.shape != shape or out.dtype != torch.uint8):
        raise ValueError(f"out must be uint8 {list(shape)}, got {out.dtype} {list(out.shape)}")
