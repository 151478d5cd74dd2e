"""A GPU that is not there, for the code around the kernels: what is made "on cuda" lies on the CPU, streams and events
note what they are asked, and a graph is a recording of our ops."""

from contextlib import contextmanager
from itertools import count

import torch
from torch.overrides import TorchFunctionMode

from fastreenact import _C
from fastreenact.ops import replay

CUDA = torch.device("cuda")


class Stream:
    def __init__(self, pretended, name):
        self._pretended, self.name = pretended, name

    def wait_stream(self, other):
        self._pretended.note(f"{self.name} waits for {other.name}")

    def synchronize(self):
        self._pretended.note(f"host waits for {self.name}")


class Event:
    """Its time is the number of what was noted before it."""

    def __init__(self, pretended, number, **options):
        self._pretended, self.name, self.options, self.at = pretended, f"event {number}", options, None

    def record(self, stream=None):
        self.at = len(self._pretended.noted)
        self._pretended.note(self.name)

    def synchronize(self):
        self._pretended.note(f"host waits for {self.name}")

    def elapsed_time(self, other):
        assert self.options.get("enable_timing")
        assert other.options.get("enable_timing")
        return float(other.at - self.at)


class Graph:
    def __init__(self, pretended):
        self._pretended, self.recording, self.others = pretended, _C.Recording(), []

    def replay(self):
        self._pretended.note("replay")
        self.recording.replay()
        for func, args, kwargs in self.others:
            func(*args, **kwargs)


class Pretended(TorchFunctionMode):
    """While entered, "cuda" means the CPU to whatever makes a tensor."""

    def __init__(self, monkeypatch):
        super().__init__()
        self.noted, self._graph, self._stream = [], None, Stream(self, "caller's")
        self._streams, numbers = 0, count(1)
        fakes = {
            "Stream": self._make_stream,
            "Event": lambda **options: Event(self, next(numbers), **options),
            "CUDAGraph": lambda: Graph(self),
            "graph": self._capture,
            "stream": self._with_stream,
            "device": self._with_device,
            "current_stream": lambda device=None: self._stream,
            "is_available": lambda: True,
        }
        for name, fake in fakes.items():
            monkeypatch.setattr(torch.cuda, name, fake)
        monkeypatch.setattr(replay, "cuda_kernels", lambda: True)
        monkeypatch.setattr(torch.cuda.nvtx, "range_push", lambda name: self.note(f"range {name}"))
        monkeypatch.setattr(torch.cuda.nvtx, "range_pop", lambda: self.note("range ends"))

    def note(self, what):
        self.noted.append(what)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.device:
            return func(*args, **(kwargs or {}))
        options = {name: _on_cpu(value) for name, value in (kwargs or {}).items() if name != "pin_memory"}
        result = func(*map(_on_cpu, args), **options)
        if self._graph is not None and func is torch.sum:
            self._graph.others.append((func, args, options))
        return result

    def _make_stream(self, device=None):
        self._streams += 1
        return Stream(self, f"stream {self._streams}")

    @contextmanager
    def _with_device(self, device):
        yield

    @contextmanager
    def _with_stream(self, stream):
        before, self._stream = self._stream, stream
        try:
            yield
        finally:
            self._stream = before

    @contextmanager
    def _capture(self, graph, stream, capture_error_mode):
        assert capture_error_mode == "thread_local"
        self.note("capture")
        with self._with_stream(stream):
            self._graph = graph
            graph.recording.begin()
            try:
                yield
            finally:
                graph.recording.end()
                self._graph = None
        self.note("captured")


def _on_cpu(value):
    return torch.device("cpu") if isinstance(value, torch.device) and value.type == "cuda" else value
