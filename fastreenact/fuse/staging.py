"""The staging buffer of a step: what goes in and comes out, in one piece of the device's memory."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_POINTS, _POSE = 72, 6
_WORDS = _POINTS * 2 + _POSE + 1  # of 4 bytes that change from step to step, a picture: keypoints, pose, which source


class StagingBuffer:
    """What goes in and comes out of a step, in one piece of the device's memory: one copy there, one back.

    On a GPU both pass through pinned memory of the host, that of the inputs twice, so that a step can be sent while the
    one before is still on its way; on the CPU the piece is the host's.
    """

    def __init__(self, n: int, size: int, device: torch.device):
        self.device, self._n = device, n
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

    def send(
        self, frames: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]], source_index: Sequence[int]
    ) -> None:
        """Inputs to the device: N keypoints [72, 2] and poses [6], and N places in the slabs. Clears total and flag."""
        if self._hosts:
            host, sent = self._hosts[self._turn]
            sent.synchronize()  # it is two steps old
            stream = torch.cuda.current_stream(self.device)
            stream.wait_stream(self._stream)  # the caller may have changed it between two steps
            self._stream = stream
        points, poses, index, total, flag = self._written[self._turn]
        for i, (point, pose) in enumerate(frames):
            points[i], poses[i] = point, pose
        index[:], total[:], flag[:] = source_index, 0, 0
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
    parts = memory.view(torch.float32).split([n * 144, n * _POSE, n, 1, 1])
    points, poses, source_index, total, flag = parts
    return (points.view(n, 72, 2), poses.view(n, _POSE), source_index.view(torch.int32), total, flag.view(torch.int32))
