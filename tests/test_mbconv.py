"""mbconv on the CPU against its reference in float64."""

from dataclasses import replace

import pytest
import torch
from conftest import DEVICES, assert_close

from fastreenact.ops import MbconvKernel, mbconv, mbconv_reference, pack_mbconv

DTYPES = [torch.float32, torch.bfloat16]
# The hidden map is rounded too: two more roundings than one op has.
TOLERANCES = {torch.float32: None, torch.bfloat16: (1.6e-2, 1.2e-2)}
# H, W, Cin, Cout, expansion, stride: one chunk of hidden channels, several, the last of them narrow; real blocks
BLOCKS = [
    (1, 1, 2, 2, 6, 1),
    (17, 19, 8, 8, 6, 1),
    (9, 7, 14, 14, 6, 1),
    (6, 10, 52, 14, 6, 1),
    (5, 6, 28, 64, 6, 2),
    (8, 9, 16, 8, 1, 1),
    (7, 8, 40, 40, 3, 1),
    (11, 5, 12, 20, 6, 2),
    (4, 4, 168, 64, 6, 1),
    (16, 16, 280, 140, 6, 1),
]  # fmt: skip


def make(block, dtype, generator, device="cpu", n=2) -> tuple[torch.Tensor, MbconvKernel]:
    """An input and a kernel whose weights are exact in `dtype`."""
    height, width, channels_in, channels_out, expansion, stride = block
    hidden = channels_in * expansion

    def noise(*shape: int) -> torch.Tensor:
        values = torch.randn(*shape, generator=generator) * (shape[-1] if len(shape) == 2 else 9) ** -0.5
        return values.to(dtype).double().to(device)

    kernel = MbconvKernel(
        noise(hidden, channels_in) if expansion > 1 else None,
        noise(hidden, 1)[:, 0] if expansion > 1 else None,
        noise(hidden, 3, 3),
        noise(hidden, 1)[:, 0],
        noise(channels_out, hidden),
        noise(channels_out, 1)[:, 0],
        stride,
        stride == 1 and channels_in == channels_out,
    )
    return torch.randn(n, height, width, channels_in, generator=generator).to(device, dtype), kernel


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_mbconv_reference(block, dtype, device, generator):
    x, kernel = make(block, dtype, generator, device)
    assert_close(mbconv(x, pack_mbconv(kernel, dtype, device)), mbconv_reference(x, kernel), TOLERANCES[dtype])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("less", [(0, 0), (1, 0), (0, 1), (1, 1)], ids=str)
@pytest.mark.parametrize("channels", [(14, 8), (64, 24)], ids=str)
def test_mbconv_doubles_its_input(channels, less, dtype, device, generator):
    x, kernel = make((7, 9, *channels, 6, 1), dtype, generator, device)
    size = 14 - less[0], 18 - less[1]
    actual = mbconv(x, pack_mbconv(kernel, dtype, device), upsample=size)
    assert_close(actual, mbconv_reference(x, kernel, upsample=size), TOLERANCES[dtype])


@pytest.mark.parametrize("device", DEVICES)
def test_mbconv_writes_its_slice_only(device, generator):
    wide, kernel = make((9, 6, 14, 14, 6, 1), torch.float32, generator, device)
    x = torch.randn(2, 9, 6, 20, generator=generator).to(device)[..., 4:18]
    x.copy_(wide)
    target = torch.full((2, 9, 6, 40), 7.0, device=device)
    mbconv(x, pack_mbconv(kernel, torch.float32, device), out=target[..., 10:24])
    assert_close(target[..., 10:24], mbconv_reference(x, kernel))
    assert bool((target[..., :10] == 7).all())
    assert bool((target[..., 24:] == 7).all())


def test_mbconv_of_nothing(generator):
    _, kernel = make((4, 4, 8, 8, 6, 1), torch.float32, generator)
    assert mbconv(torch.empty(0, 4, 4, 8), pack_mbconv(kernel, torch.float32)).shape == (0, 4, 4, 8)


def test_mbconv_multiplications(generator):
    _, kernel = make((4, 4, 8, 10, 6, 1), torch.float32, generator)
    weights = pack_mbconv(kernel, torch.float32)
    assert weights.multiplications(4, 6) == 24 * (8 * 48 + 9 * 48 + 48 * 10)
    assert weights.multiplications(4, 6, upsample=True) == 6 * 8 * 48 + 24 * (4 * 48 + 48 * 10)


def test_mbconv_says_what_is_wrong(generator):
    x, kernel = make((8, 8, 8, 8, 6, 1), torch.float32, generator)
    weights = pack_mbconv(kernel, torch.float32)
    for message, arguments in {
        "x: got str": {"x": "x"},
        "x: got bfloat16, needs float32": {"x": x.bfloat16()},
        r"x: got shape \[2, 8, 8, 7\]": {"x": x[..., :7]},
        "x: requires grad": {"x": x.clone().requires_grad_()},
        r"upsample: got \[16, 16\]": {"upsample": (16, 16)},
        "out: got shape": {"out": torch.zeros(2, 8, 7, 8)},
        "out: shares memory with x": {"out": x},
    }.items():
        with pytest.raises((ValueError, TypeError), match=message):
            mbconv(**({"x": x, "weights": weights} | arguments))
    with pytest.raises(ValueError, match="needs stride 1 or 2"):
        pack_mbconv(replace(kernel, stride=3), torch.float32)
    with pytest.raises(ValueError, match=r"half_sums: got dtype torch\.float32, needs float16"):
        pack_mbconv(kernel, torch.float32, half_sums=True)
    with pytest.raises(ValueError, match="residual only"):
        pack_mbconv(replace(kernel, stride=2), torch.float32)


def test_mbconv_opcheck(generator):
    x, kernel = make((5, 6, 4, 6, 6, 1), torch.float32, generator)
    w = pack_mbconv(kernel, torch.float32)
    arguments = (x, w.expand, w.expand_bias, w.depthwise, w.depthwise_bias, w.project, w.project_bias, w.spec, [10, 11])
    torch.library.opcheck(torch.ops.fastreenact.mbconv.default, arguments)
    torch.library.opcheck(torch.ops.fastreenact.mbconv_out.default, (*arguments, torch.zeros(2, 10, 11, 6)))
