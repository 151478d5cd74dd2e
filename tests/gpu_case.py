"""Checks that every op with a GPU path gets, beside its tests of values on both devices.

For a new op, in tests/test_<op>.py:

* a test of values takes `device` from conftest.DEVICES ("cpu" always, "cuda" with `-m gpu`), makes its inputs and what
  is expected on the CPU, and compares `op(**on(device, arguments)).cpu()`;
* two tests marked `gpu` call the checks below with a function that draws arguments, as tests/test_spade.py does:

      @pytest.mark.gpu
      def test_spade_on_a_side_stream(generator):
          need_side_stream(spade, make(SHAPE, DTYPES, generator), in_float64)

      @pytest.mark.gpu
      def test_spade_graph_replays_on_changed_inputs(generator):
          need_graph_replay(spade, [make(SHAPE, DTYPES, generator) for _ in range(2)], in_float64)

bench/gpu_check.sh runs all of them, and under compute-sanitizer those whose names hold its word, tests/test_<op>.py and
tests/test_kernels_<op>.py alike.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import assert_close
from torch import Tensor

from fastreenact import _C

Arguments = dict[str, Any]


@pytest.fixture(params=["extension", "nvrtc"])
def maker(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to a CUDA kernel, nvcc's and NVRTC's: import it into the tests that name it."""
    if request.param == "extension":
        if not _C.WITH_CUDA:
            pytest.skip("the extension was built without nvcc")
    else:
        pytest.importorskip("cupy", reason="CuPy is not installed")
        monkeypatch.setattr(_C, "WITH_CUDA", False)
    return str(request.param)


def on(device: str, arguments: Arguments) -> Arguments:
    """The arguments with copies of their tensors on `device`."""
    return {name: v.to(device, copy=True) if isinstance(v, Tensor) else v for name, v in arguments.items()}


def need_side_stream(op: Callable[..., Tensor], arguments: Arguments, expected: Callable[[Arguments], Tensor]) -> None:
    """AssertionError unless the op works on the current stream, after what that stream has before it.

    Args:
        op: called with keywords on the GPU; it may change a tensor in place if it returns it.
        arguments: on the CPU; tensors full of zeros in their place have to be allowed, and to give something else.
        expected: what `arguments` should give, on the CPU.
    """
    there = on("cuda", arguments)
    op(**on("cuda", arguments))  # compiles and loads, which may take longer than the pause below
    late = {name: torch.zeros_like(v) if isinstance(v, Tensor) else v for name, v in there.items()}
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # cycles, some 30 ms: a kernel on another stream would find the zeros
        for name, value in there.items():
            if isinstance(value, Tensor):
                late[name].copy_(value)
        out = op(**late)
    stream.synchronize()
    assert_close(out.cpu(), expected(arguments))


def need_graph_replay(
    op: Callable[..., Tensor], draws: list[Arguments], expected: Callable[[Arguments], Tensor]
) -> None:
    """AssertionError unless a captured op follows what is written to its inputs' addresses.

    Args:
        op: called with keywords on the GPU; it may change a tensor in place if it returns it.
        draws: arguments on the CPU of the same shapes, two or more, each giving another result; what is no tensor is
            captured from the first.
        expected: what the arguments should give, on the CPU.
    """
    static = on("cuda", draws[0])
    op(**static)  # compiles and loads: a capture must not
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = op(**static)
    seen: list[Tensor] = []
    for draw in [*draws[1:], draws[0]]:
        for name, value in draw.items():
            if isinstance(value, Tensor):
                static[name].copy_(value)
        graph.replay()
        seen.append(out.cpu())
        assert_close(seen[-1], expected(draw))
    assert not torch.equal(seen[0], seen[-1]), "the draws do not differ, so nothing is shown"
