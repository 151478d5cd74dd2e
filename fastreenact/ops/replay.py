"""A fixed sequence of ops on fixed buffers, run again in one go: a recording on the CPU, a CUDA graph on a GPU."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from fastreenact import _C
from fastreenact.ops.define import cuda_kernels

_WARM_UPS = 2  # kernels are compiled and loaded at their first call, which a capture does not allow


class Replay:
    """Ops that `body` calls, to be run again on the same tensors: what changes is what these hold.

    `body` must do all its work in our ops, or on a GPU in anything that a CUDA graph can hold; on the CPU other work
    would be left out. The tensors must outlive the replay. Not for several threads at once. Where a GPU has to do
    without kernels of ours (`cuda_kernels`) there is no graph, and `body` is called each time.
    """

    def __init__(self, body: Callable[["Replay"], None], device: torch.device, *, profile: bool = False):
        """
        Args:
            body: called with this object, for `mark`, `branch` and `join`; a few times on a GPU.
            device: where the tensors lie.
            profile: on a GPU, time the marked stretches by events inside the graph, and show them as NVTX ranges where
                `body` runs, that is before and in the capture; the replay is one range.
        """
        self._device, self._profile = device, profile
        # On a GPU, of each stream the names with the events at their beginnings; "" is an end.
        self._marks: tuple[list[tuple[str, torch.cuda.Event]], ...] = ([], [])
        self._beside, self._range = False, False
        if device.type == "cpu":
            self._recording = _C.Recording()
            self._recording.begin()
            try:
                body(self)
            finally:
                self._recording.end()
            self._recording.mark("")
            return
        self._body = None if cuda_kernels() else body
        if self._body is None:
            with torch.cuda.device(device):
                self._capture(body)
        else:
            self._side = torch.cuda.Stream(device)

    def _capture(self, body: Callable[["Replay"], None]) -> None:
        """Warm up on the stream of the capture, where libraries keep handles and workspaces of their own; capture."""
        stream, self._side = torch.cuda.Stream(self._device), torch.cuda.Stream(self._device)
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                self._run(body)
        stream.synchronize()
        self._graph = torch.cuda.CUDAGraph()
        # What another thread does on the device does not disturb this one's capture.
        with torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local"):
            self._run(body)
        torch.cuda.current_stream(self._device).wait_stream(stream)

    def _run(self, body: Callable[["Replay"], None]) -> None:
        for marks in self._marks:
            marks.clear()
        try:
            body(self)
        finally:
            self.mark("")

    def mark(self, name: str) -> None:
        """Name the stretch of ops from here on; called inside `body`."""
        if self._device.type == "cpu":
            self._recording.mark(name)
        elif self._profile:
            event = torch.cuda.Event(enable_timing=True, external=True)
            event.record()
            self._marks[self._beside].append((name, event))
            if self._range:
                torch.cuda.nvtx.range_pop()
            if name:
                torch.cuda.nvtx.range_push(name)
            self._range = bool(name)

    @contextmanager
    def branch(self) -> Iterator[None]:
        """Ops inside may run beside those after it, until `join`; on the CPU they run first. Once in a `body`."""
        if self._device.type == "cpu":
            yield
            return
        self._side.wait_stream(torch.cuda.current_stream(self._device))
        self._beside = True
        try:
            with torch.cuda.stream(self._side):
                yield
                self.mark("")
        finally:
            self._beside = False

    def join(self) -> None:
        """Wait for the branch."""
        if self._device.type != "cpu":
            torch.cuda.current_stream(self._device).wait_stream(self._side)

    def __call__(self, timer: Any = None) -> None:
        """Run all of it, on a GPU on the current stream, without waiting for it.

        Args:
            timer: has `add(name, milliseconds)`, told of each marked stretch; on a GPU with `profile` it has
                `events(list of (name, event))` instead, told of each stream's stretches, whose times are known when the
                GPU is done (those of the branch pass beside the others); on a GPU without it nothing is told.
        """
        if self._device.type == "cpu":
            times = self._recording.replay()
            if timer is not None:
                for name, ms in times[:-1]:
                    timer.add(name, ms)
            return
        if self._body is not None:
            self._run(self._body)
        elif not self._profile:
            self._graph.replay()
        else:
            torch.cuda.nvtx.range_push("graph")
            self._graph.replay()
            torch.cuda.nvtx.range_pop()
        if timer is not None and self._profile:
            for marks in self._marks:
                timer.events(marks)
