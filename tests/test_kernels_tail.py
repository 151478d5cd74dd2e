"""tail's CUDA kernels: run on the host thread by thread, and on a GPU."""

import ctypes
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import assert_close
from gpu_case import need_graph_replay, need_side_stream
from host_emulation import build, gpu_call
from test_tail import SIZES, make
from torch import Tensor

from fastreenact.ops import TailKernel, pack_tail, tail, tail_reference
from fastreenact.ops.checks import DTYPES
from fastreenact.ops.tail import _TAIL

RUN = """
#include "tail.cu"
using namespace fastreenact;

extern "C" void run(const void* packed, int backwards) {
    TailParams p;
    std::memcpy(static_cast<void*>(&p), packed, sizeof p);
    const LaunchShape shape = tail_shape(p);
    void (*const kernels[])(TailParams) = {tail_kernel<kFloat32>, tail_kernel<kBFloat16>, tail_kernel<kFloat16>};
    host::launch([&] { kernels[p.dtype](p); }, shape.grid_x, 1, int(shape.threads), int(shape.shared_bytes), backwards);
}
"""
FLOATS = [torch.float32, torch.float16, torch.bfloat16]


def on_host(library: ctypes.CDLL, x: Tensor, kernel: TailKernel, out: Tensor, *, backwards: bool = False) -> None:
    """`tail` by the kernels on the host."""
    weights = pack_tail(kernel, torch.float32)
    channels_out = len(kernel.weight)
    last = F.pad(kernel.weight.to(out.dtype).float().permute(1, 2, 3, 0), (0, 4 - channels_out)).contiguous()
    rest = {"depthwise": weights.depthwise, "depthwise_bias": weights.depthwise_bias, "bias": weights.bias}
    spec, size = [channels_out, DTYPES[out.dtype]], list(out.shape[1:3])
    ((_, packed, *_),) = gpu_call(_TAIL, x=x, packed=last, spec=spec, size=size, out=out, **rest).launches()
    library.run(packed, int(backwards))


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> ctypes.CDLL:
    return build(tmp_path_factory.mktemp("tail"), RUN, kernels="tail")


def blank(size: tuple[int, int], channels_out: int, dtype: torch.dtype) -> Tensor:
    """An output that is NaN."""
    return torch.full((2, *size, channels_out), float("nan"), dtype=dtype)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("channels_out", [1, 3, 4])
@pytest.mark.parametrize("size", [*SIZES, (16, 64), (10, 67)], ids=str)
def test_tail_kernels_match_reference_on_host(library, size, channels_out, dtype, generator):
    x, kernel = make(size, channels_out, dtype, generator)
    x[0, 0, 0, 0] = float("nan")
    out = blank(size, channels_out, dtype)
    on_host(library, x, kernel, out, backwards=channels_out == 1)
    assert_close(out, tail_reference(x, kernel, size))


@pytest.mark.parametrize("first", [4, 8])  # channels one by one, and 16 bytes at a time
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_tail_kernels_write_their_rows_only(library, first, dtype, generator):
    values, kernel = make((9, 6), 3, dtype, generator)
    x = torch.randn(2, 5, 3, 24, generator=generator).to(dtype)[..., first + 1 : first + 9]
    x.copy_(values)
    target = torch.full((2, 9, 20, 3), 7.0, dtype=dtype)
    on_host(library, x, kernel, target[:, :, 5:11])
    assert_close(target[:, :, 5:11], tail_reference(x, kernel, (9, 6)))
    target[:, :, 5:11] = 7
    assert bool((target == 7).all())


@pytest.mark.parametrize(
    "plant",
    [
        ("tail.cu", "place == 1 ? 2 : 1", "place == 1 ? 1 : 1"),
        ("tail.cu", "left / 2 - 1 + across", "left / 2 + across"),
        ("tail.cu", "__syncthreads();\n    make_middle", "make_middle"),
    ],
    ids=["taps", "halo", "barrier"],
)
def test_tail_kernels_notice_an_error(plant, tmp_path, generator):
    wrong = build(tmp_path, RUN, kernels="tail", plant=plant)
    x, kernel = make((9, 70), 3, torch.float32, generator)
    out = blank((9, 70), 3, torch.float32)
    on_host(wrong, x, kernel, out)
    with pytest.raises(AssertionError):
        assert_close(out, tail_reference(x, kernel, (9, 70)))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("channels_out", [1, 3, 4])
@pytest.mark.parametrize("size", [*SIZES, (256, 256)], ids=str)
def test_tail_kernels_match_reference_on_gpu(maker, size, channels_out, dtype, generator):
    x, kernel = make(size, channels_out, dtype, generator)
    x[0, 0, 0, 0] = float("nan")
    actual = tail(x.cuda(), pack_tail(kernel, dtype, "cuda"), size)
    assert_close(actual.cpu(), tail_reference(x, kernel, size))


def with_weights(kernel: TailKernel, size: tuple[int, int]) -> tuple[Any, Any]:
    """The op with weights of `kernel` on the GPU, and what it should give, as gpu_case has them."""
    weights = pack_tail(kernel, torch.float16, "cuda")
    return lambda x: tail(x, weights, size), lambda arguments: tail_reference(arguments["x"], kernel, size)


@pytest.mark.gpu
def test_tail_on_a_side_stream(maker, generator):
    x, kernel = make((64, 64), 3, torch.float16, generator)
    op, expected = with_weights(kernel, (64, 64))
    need_side_stream(op, {"x": x}, expected)


@pytest.mark.gpu
def test_tail_graph_replays_on_changed_inputs(maker, generator):
    x, kernel = make((64, 64), 3, torch.float16, generator)
    op, expected = with_weights(kernel, (64, 64))
    need_graph_replay(op, [{"x": x}, {"x": x + 1}], expected)
