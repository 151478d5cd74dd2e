"""A fixed sequence of ops on fixed buffers, run again in one go: a recording on the CPU, a CUDA graph on a GPU."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from fastreenact import _C

_WARM_UPS = 2  # kernels are compiled and loaded at their first call, which a capture does not allow


class Replay:
    """Ops that `body` calls, to be run again on the same tensors: what changes is what these hold.

    `body` must do all its work in our ops, or on a GPU in anything that a CUDA graph can hold; on the CPU other work
    would be left out. The tensors must outlive the replay. Not for several threads at once.
    """

    def __init__(self, body: Callable[["Replay"], None], device: torch.device, *, profile: bool = False):
        """
        Args:
            body: called with this object, for `mark`, `branch` and `join`; a few times on a GPU.
            device: where the tensors lie.
            profile: on a GPU, time the marked stretches by events inside the graph.
        """
        self._device = device
        self._marks: list[tuple[str, torch.cuda.Event]] | None = None
        if device.type == "cpu":
            self._recording = _C.Recording()
            self._recording.begin()
            try:
                body(self)
            finally:
                self._recording.end()
            self._recording.mark("")
            return
        self._stream, self._side = torch.cuda.Stream(device), torch.cuda.Stream(device)
        self._stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(self._stream):
            for _ in range(_WARM_UPS):
                body(self)
        self._stream.synchronize()
        self._graph = torch.cuda.CUDAGraph()
        self._marks = [] if profile else None
        with torch.cuda.graph(self._graph, stream=self._stream):
            body(self)
            self.mark("")
        torch.cuda.current_stream(device).wait_stream(self._stream)

    def mark(self, name: str) -> None:
        """Name the stretch of ops from here on; called inside `body`."""
        if self._device.type == "cpu":
            self._recording.mark(name)
        elif self._marks is not None:
            event = torch.cuda.Event(enable_timing=True, external=True)
            event.record()
            self._marks.append((name, event))

    @contextmanager
    def branch(self) -> Iterator[None]:
        """Ops inside may run beside those after it, until `join`; on the CPU they run first."""
        if self._device.type == "cpu":
            yield
            return
        self._side.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._side):
            yield

    def join(self) -> None:
        """Wait for the branch."""
        if self._device.type != "cpu":
            torch.cuda.current_stream(self._device).wait_stream(self._side)

    def __call__(self, timer: Any = None) -> None:
        """Run all of it, on a GPU on the current stream, without waiting for it.

        Args:
            timer: has `add(name, milliseconds)`, told of each marked stretch; on a GPU with `profile` it has
                `events(list of (name, event))` instead, whose times are known when the GPU is done, and without
                nothing is told.
        """
        if self._device.type == "cpu":
            times = self._recording.replay()
            if timer is not None:
                for name, ms in times[:-1]:
                    timer.add(name, ms)
            return
        self._graph.replay()
        if timer is not None and self._marks:
            timer.events(self._marks)
