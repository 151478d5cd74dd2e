"""Times of the stages of one step, under the names that the engine, NVTX and the benchmarks share."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # who times nothing, or on a CPU, does not wait for torch
    import torch

STAGES = ("track", "fit", "retarget", "rasterize", "motion", "warp", "decode", "deliver")
GRAPH = "graph"  # stands for all that one CUDA graph does, where no events inside it tell its stages apart

_Marks = list[tuple[str, "torch.cuda.Event"]]


class Timer(Protocol):
    """What work is timed by: a `StageTimer`, or `NO_TIMER`."""

    def stage(self, name: str) -> AbstractContextManager[object]:
        """Time the block as `name`; a stage may be entered more than once."""

    def add(self, name: str, ms: float) -> None:
        """Count milliseconds measured elsewhere as `name`."""

    def events(self, marks: _Marks) -> None:
        """Count the time from each event to the next under the first one's name; the last only ends."""


class _NoTimer:
    """Times nothing."""

    def stage(self, name: str) -> AbstractContextManager[object]:
        return nullcontext()

    def add(self, name: str, ms: float) -> None:
        pass

    def events(self, marks: _Marks) -> None:
        pass


NO_TIMER = _NoTimer()


class StageTimer:
    """Milliseconds per stage since `start`; a stage entered twice adds up.

    On a GPU with `profile` each stage is timed by events, read once in `finish`, and marked as an NVTX range;
    everywhere else by the host's clock.
    """

    def __init__(self, device: "torch.device", profile: bool = False) -> None:
        self._device = device
        self._events: list[_Marks] | None = [] if profile and device.type == "cuda" else None
        self._ms: dict[str, float] = {}

    def start(self) -> None:
        """Forget the step before."""
        self._ms = {}
        if self._events is not None:
            self._events.clear()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the block as `name`."""
        if self._events is not None:
            import torch

            first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            torch.cuda.nvtx.range_push(name)
            first.record()
            try:
                yield
            finally:
                torch.cuda.nvtx.range_pop()
            last.record()
            self._events.append([(name, first), ("", last)])
            return
        begin = time.perf_counter()
        yield
        self.add(name, (time.perf_counter() - begin) * 1e3)

    def add(self, name: str, ms: float) -> None:
        """Count milliseconds that somebody else has measured as `name`."""
        self._ms[name] = self._ms.get(name, 0.0) + ms

    def events(self, marks: _Marks) -> None:
        """Count the time from each event to the next under the first one's name; the last only ends."""
        if self._events is not None and marks:
            self._events.append(list(marks))

    def finish(self) -> dict[str, float]:
        """Stage -> milliseconds; waits for the GPU where events were recorded."""
        if self._events:
            import torch

            # The stream, since an event's own wait may not know of one that a graph records.
            torch.cuda.current_stream(self._device).synchronize()
        for marks in self._events or ():
            for (name, first), (_, last) in pairwise(marks):
                self.add(name, first.elapsed_time(last))
        return self._ms
