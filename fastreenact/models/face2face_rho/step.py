"""One step of Face2Face^rho for a number of pictures at once: buffers that stay where they are, and replays on them."""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastreenact import ops
from fastreenact.models.face2face_rho.fused_motion import FusedMotion
from fastreenact.models.face2face_rho.fused_renderer import FusedDecoder
from fastreenact.models.face2face_rho.networks import POSE_DIMS, Face2FaceRho

_WORDS = 72 * 2 + POSE_DIMS + 1  # of 4 bytes that change from step to step, a picture: keypoints, pose, which source


class FusedStep:
    """The networks with buffers for `n` pictures; replays "step", "move" and "draw"."""

    def __init__(
        self,
        model: Face2FaceRho,
        n: int,
        size: int,
        motion_size: int,
        dtype: torch.dtype,
        device: torch.device,
        *,
        profile: bool = False,
    ):
        like = torch.empty(0, dtype=dtype, device=device)
        self.staging = StagingBuffer(n, size, device)
        self.motion = FusedMotion(model.motion, motion_size, like, over_base=model.over_base, n=n)
        self.decoder = FusedDecoder(model.renderer, size, like, n=n)
        self.base_field = torch.zeros_like(self.motion.field)
        self.field = torch.zeros_like(self.motion.field) if model.over_base else self.motion.field
        side = 0 if self.decoder.seen is None else self.decoder.seen.side
        self.base = torch.zeros(n, side, side, 3, device=device)
        # float32 has the range of what the networks compute in: only halves are asked whether they left theirs.
        self.half = dtype != torch.float32
        self._device, self._profile = device, profile
        self._replays: dict[str, ops.Replay] = {}

    def forget(self) -> None:
        """Drop the replays: the slabs that they read have moved."""
        self._replays.clear()

    def __call__(self, name: str, slabs: list[Tensor], timer: Any) -> None:
        """Run one of the replays on what the buffers hold; `slabs` as `FusedFace2FaceRho` keeps them."""
        replay = self._replays.get(name)
        if replay is None:
            body = {"step": self._step, "move": self._move, "draw": self._draw}[name]
            replay = ops.Replay(lambda replay: body(replay, slabs), self._device, profile=self._profile)
            self._replays[name] = replay
        replay(timer)

    def frame(self, out: Tensor) -> Tensor:
        """The picture of "step" as uint8 [N, S, S, 3] RGB, into `out`."""
        return ops.to_frame(self.decoder.raw, layout="nhwc", tanh=True, out=out, flag=self.flag)

    @property
    def flag(self) -> Tensor | None:
        """int32 [1] that becomes 1 where a value was not finite; None in float32."""
        return self.staging.flag if self.half else None

    def finite(self) -> bool:
        """Whether all was finite since the inputs were sent, as far as anybody has looked. Waits for a GPU."""
        if not self.half:
            return True
        if self._device.type == "cpu":
            self.staging.total.fill_(float(self.motion.field.numpy().sum()))
        return self.staging.finite()

    def _step(self, replay: ops.Replay, slabs: list[Tensor]) -> None:
        with replay.branch():
            replay.mark("decode")
            self.decoder.tables(self.staging.pose)
        self._move(replay, slabs)
        replay.join()
        self._render(replay, slabs, None)
        if self._device.type != "cpu":  # there it goes straight into the caller's memory
            replay.mark("deliver")
            self.frame(self.staging.frame)

    def _move(self, replay: ops.Replay, slabs: list[Tensor]) -> None:
        replay.mark("rasterize")
        self.motion.rasterize(self.staging.points)
        replay.mark("motion")
        image, base = (slabs[6], self.base_field) if self.motion.over_base else (None, None)
        self.motion(slabs[3:6], self.staging.source_index, image, base)
        if self.half and self._device.type != "cpu":
            # NaN of a field would not be seen in the picture: `warp` takes it for outside.
            torch.sum(self.motion.field.flatten(), 0, keepdim=True, out=self.staging.total)

    def _draw(self, replay: ops.Replay, slabs: list[Tensor]) -> None:
        replay.mark("decode")
        self.decoder.tables(self.staging.pose)
        self._render(replay, slabs, self.base)

    def _render(self, replay: ops.Replay, slabs: list[Tensor], base: Tensor | None) -> None:
        replay.mark("warp")
        self.decoder.warp(slabs[:3], self.staging.source_index, self.field, smooth=base is not None)
        replay.mark("decode")
        self.decoder(base)


class StagingBuffer:
    """What goes in and comes out of a step, in one piece of the device's memory: one copy there, one back.

    On a GPU both pass through pinned memory of the host, that of the inputs twice, so that a step can be sent while the
    one before is still on its way; on the CPU the piece is the host's.
    """

    def __init__(self, n: int, size: int, device: torch.device):
        self._device, self._n = device, n
        words = n * _WORDS + 2
        self._results = 4 * n * _WORDS  # byte where they begin
        begin = -(-4 * words // 64) * 64
        on_gpu = device.type != "cpu"
        self._memory = torch.zeros(begin + (n * size * size * 3 if on_gpu else 0), dtype=torch.uint8, device=device)
        views = _views(self._memory[: 4 * words], n)
        self.points, self.pose, self.source_index = views[:3]  # float32 [N, 72, 2], [N, 6], int32 [N]
        self.total, self.flag = views[3:]  # float32 [1] that is NaN or infinite, int32 [1] that is 1, if something is
        self._frame_at = begin - self._results
        self.frame = self._memory[begin:].view(n if on_gpu else 0, size, size, 3)  # uint8, on a GPU only
        hosts = [torch.zeros(4 * words, dtype=torch.uint8, pin_memory=True) for _ in range(2)] if on_gpu else []
        self._hosts = [(host, torch.cuda.Event()) for host in hosts]
        self._written = [[v.numpy() for v in _views(host, n)] for host in hosts or [self._memory[: 4 * words]]]
        self._turn = 0
        if on_gpu:
            self._stream = torch.cuda.current_stream(device)
        self._back = torch.zeros(8, dtype=torch.uint8, pin_memory=True) if on_gpu else self._memory[self._results :]
        self._known = False  # whether `_back` holds what the device's results are

    def send(self, points: NDArray[np.float32], poses: NDArray[np.float32], source_index: list[int]) -> None:
        """Inputs to the device: [N, 72, 2], [N, 6] and N places in the slabs. Clears total and flag."""
        if self._hosts:
            host, sent = self._hosts[self._turn]
            sent.synchronize()  # it is two steps old
            stream = torch.cuda.current_stream(self._device)
            stream.wait_stream(self._stream)  # the caller may have changed it between two steps
            self._stream = stream
        for view, value in zip(self._written[self._turn], (points, poses, source_index, 0, 0), strict=True):
            view[...] = value
        if self._hosts:
            self._memory[: len(host)].copy_(host, non_blocking=True)
            sent.record(stream)
            self._turn = 1 - self._turn
        self._known = False

    def receive(self, out: Tensor) -> None:
        """The frame of a GPU into memory of the host, with the results beside it: one copy, waited for once."""
        whole = len(self._memory) - self._results
        if len(self._back) < whole:
            self._back = torch.zeros(whole, dtype=torch.uint8, pin_memory=True)
        self._fetch(whole)
        out.copy_(self._back[self._frame_at : whole].view(out.shape))

    def finite(self) -> bool:
        """Whether `total` is finite and `flag` 0."""
        if self._device.type != "cpu" and not self._known:
            self._fetch(8)
        total, flag = self._back[:4].view(torch.float32), self._back[4:8].view(torch.int32)
        return math.isfinite(float(total)) and int(flag) == 0

    def _fetch(self, length: int) -> None:
        """The first bytes of the results and the frame into `_back`; waits for the GPU."""
        with torch.inference_mode():
            self._back[:length].copy_(self._memory[self._results : self._results + length], non_blocking=True)
        torch.cuda.current_stream(self._device).synchronize()
        self._known = True


def _views(memory: Tensor, n: int) -> tuple[Tensor, ...]:
    """Keypoints, poses, source_index, total and flag in one piece of memory."""
    parts = memory.view(torch.float32).split([n * 144, n * POSE_DIMS, n, 1, 1])
    points, poses, source_index, total, flag = parts
    return (
        points.view(n, 72, 2),
        poses.view(n, POSE_DIMS),
        source_index.view(torch.int32),
        total,
        flag.view(torch.int32),
    )
