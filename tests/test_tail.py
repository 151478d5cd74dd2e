"""tail on the CPU against its reference in float64."""

import pytest
import torch
from conftest import DEVICES, assert_close

from fastreenact.ops import TailKernel, pack_tail, tail, tail_reference

DTYPES = [torch.float32, torch.bfloat16]
# The map between the two convolutions is rounded too.
TOLERANCES = {torch.float32: None, torch.bfloat16: (1.6e-2, 1.2e-2)}
SIZES = [(2, 2), (3, 2), (2, 3), (17, 19), (64, 64), (9, 130), (31, 66)]


def make(size, channels_out, dtype, generator, device="cpu", n=2) -> tuple[torch.Tensor, TailKernel]:
    """An input and a kernel whose weights are exact in `dtype`."""

    def noise(*shape: int) -> torch.Tensor:
        return (torch.randn(*shape, generator=generator) * 0.3).to(dtype).double().to(device)

    kernel = TailKernel(noise(8, 3, 3), noise(8), noise(channels_out, 8, 3, 3), noise(3, 3, channels_out))
    x = torch.randn(n, -(-size[0] // 2), -(-size[1] // 2), 8, generator=generator)
    return x.to(device, dtype), kernel


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels_out", [1, 3, 4])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_tail_reference(size, channels_out, dtype, device, generator):
    x, kernel = make(size, channels_out, dtype, generator, device)
    actual = tail(x, pack_tail(kernel, dtype, device), size)
    assert_close(actual, tail_reference(x, kernel, size), TOLERANCES[dtype])


@pytest.mark.parametrize("device", DEVICES)
def test_tail_writes_its_rows_only(device, generator):
    wide, kernel = make((9, 6), 3, torch.float32, generator, device)
    x = torch.randn(2, 5, 3, 20, generator=generator).to(device)[..., 4:12]
    x.copy_(wide)
    target = torch.full((2, 9, 20, 3), 7.0, device=device)
    tail(x, pack_tail(kernel, torch.float32, device), (9, 6), out=target[:, :, 5:11])
    assert_close(target[:, :, 5:11], tail_reference(x, kernel, (9, 6)))
    assert bool((target[:, :, :5] == 7).all())
    assert bool((target[:, :, 11:] == 7).all())


def test_tail_of_nothing(generator):
    _, kernel = make((4, 4), 3, torch.float32, generator)
    assert tail(torch.empty(0, 2, 2, 8), pack_tail(kernel, torch.float32), (4, 4)).shape == (0, 4, 4, 3)


def test_tail_says_what_is_wrong(generator):
    x, kernel = make((8, 8), 3, torch.float32, generator)
    weights = pack_tail(kernel, torch.float32)
    for message, arguments in {
        "x: got str": {"x": "x"},
        "x: got bfloat16, needs float32": {"x": x.bfloat16()},
        "x: got shape": {"size": (8, 10)},
        "size: got": {"size": (1, 8)},
        "x: requires grad": {"x": x.clone().requires_grad_()},
        "out: got shape": {"out": torch.zeros(2, 8, 8, 4)},
        "out: got strides": {"out": torch.zeros(2, 8, 8, 4)[..., :3]},
    }.items():
        with pytest.raises((ValueError, TypeError), match=message):
            tail(**({"x": x, "weights": weights, "size": (8, 8)} | arguments))
    with pytest.raises(ValueError, match=r"needs \[1 to 4, 8, 3, 3\]"):
        pack_tail(make((8, 8), 5, torch.float32, generator)[1], torch.float32)


def test_tail_opcheck(generator):
    x, kernel = make((5, 6), 3, torch.float32, generator)
    w = pack_tail(kernel, torch.float32)
    arguments = (x, w.depthwise, w.depthwise_bias, w.packed, w.bias, w.spec, [5, 6])
    torch.library.opcheck(torch.ops.fastreenact.tail.default, arguments)
    torch.library.opcheck(torch.ops.fastreenact.tail_out.default, (*arguments, torch.zeros(2, 5, 6, 3)))
