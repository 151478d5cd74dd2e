"""The staging buffer of a step: what goes in and comes out, in one piece of the device's memory."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_POINTS, _POSE = 72, 6


class StagingBuffer:
    """What goes in and comes out of a step, in one piece of the device's memory: one copy there, one back.

    On a GPU both pass through pinned memory of the host, that of the inputs twice, so that a step can be sent while the
    one before is still on its way; on the CPU the piece is the host's.
    """

    def __init__(
        self, n: int, height: int, width: int, device: torch.device, *, poses: int = 1, keeps_frames: bool = False
    ):
        """
        Args:
            n: frames at once.
            height, width: of a frame in the device's memory, px.
            device: where it lies.
            poses: of each frame.
            keeps_frames: whether frames are in it on the CPU too, where they may go straight into the caller's memory.
        """
        self.device, self._n = device, n
        each = _POINTS * 2 + _POSE * poses + 1  # words of 4 bytes that change from step to step
        words = n * each + 2
        self._results = 4 * n * each  # byte where they begin
        begin = -(-4 * words // 64) * 64
        on_gpu = device.type != "cpu"
        frames = n if on_gpu or keeps_frames else 0
        self._memory = torch.zeros(begin + frames * height * width * 3, dtype=torch.uint8, device=device)
        views = _views(self._memory[: 4 * words], n)
        self.points, self.poses, self.source_index = views[:3]  # float32 [N, 72, 2], [P, N, 6], int32 [N]
        self.total, self.flag = views[3:]  # float32 [1] that is NaN or infinite, int32 [1] that is 1, if something is
        self._frame_at = begin - self._results
        self.frame = self._memory[begin:].view(frames, height, width, 3)  # uint8
        hosts = [torch.zeros(4 * words, dtype=torch.uint8, pin_memory=True) for _ in range(2)] if on_gpu else []
        self._hosts = [(host, torch.cuda.Event()) for host in hosts]
        self._written = [[v.numpy() for v in _views(host, n)] for host in hosts or [self._memory[: 4 * words]]]
        self._turn = 0
        if on_gpu:
            self._stream = torch.cuda.current_stream(device)
        self._back = torch.zeros(8, dtype=torch.uint8, pin_memory=True) if on_gpu else self._memory[self._results :]
        self._known = False  # whether `_back` holds what the device's results are

    @property
    def pose(self) -> Tensor:
        """float32 [N, 6], the first of each frame's poses."""
        return self.poses[0]

    def send(self, frames: Sequence[Sequence[NDArray[np.float32]]], source_index: Sequence[int]) -> None:
        """Inputs to the device: N times keypoints [72, 2] and poses [6]; places in the slabs. Clears total and flag."""
        if self._hosts:
            host, sent = self._hosts[self._turn]
            sent.synchronize()  # it is two steps old
            stream = torch.cuda.current_stream(self.device)
            stream.wait_stream(self._stream)  # the caller may have changed it between two steps
            self._stream = stream
        points, poses, index, total, flag = self._written[self._turn]
        for i, (point, *pose) in enumerate(frames):
            points[i], poses[:, i] = point, pose
        index[:], total[:], flag[:] = source_index, 0, 0
        if self._hosts:
            self._memory[: len(host)].copy_(host, non_blocking=True)
            sent.record(stream)
            self._turn = 1 - self._turn
        self._known = False

    def receive(self, out: Tensor) -> None:
        """The frames of a GPU into `out` [N, H, W, 3] of the host, cut to its size, with the results beside them: one
        copy, waited for once."""
        whole = len(self._memory) - self._results
        if len(self._back) < whole:
            self._back = torch.zeros(whole, dtype=torch.uint8, pin_memory=True)
        self._fetch(whole)
        frame = self._back[self._frame_at : whole].view(self.frame.shape)
        out.copy_(frame[:, : out.shape[1], : out.shape[2]])

    def finite(self) -> bool:
        """Whether `total` is finite and `flag` 0."""
        if self.device.type != "cpu" and not self._known:
            self._fetch(8)
        total, flag = self._back[:4].view(torch.float32), self._back[4:8].view(torch.int32)
        return math.isfinite(float(total)) and int(flag) == 0

    def _fetch(self, length: int) -> None:
        """The first bytes of the results and the frame into `_back`; waits for the GPU."""
        with torch.inference_mode():
            self._back[:length].copy_(self._memory[self._results : self._results + length], non_blocking=True)
        torch.cuda.current_stream(self.device).synchronize()
        self._known = True


def _views(memory: Tensor, n: int) -> tuple[Tensor, ...]:
    """Keypoints, poses, source_index, total and flag in one piece of memory."""
    words = memory.view(torch.float32)
    rest = n * 2 * _POINTS + n + 2
    points, poses, source_index, total, flag = words.split([n * 2 * _POINTS, len(words) - rest, n, 1, 1])
    return (
        points.view(n, _POINTS, 2),
        poses.view(-1, n, _POSE),
        source_index.view(torch.int32),
        total,
        flag.view(torch.int32),
    )
