"""conv on the CPU against its reference in float64."""

from dataclasses import replace

import pytest
import torch
from conftest import DEVICES, assert_close

from fastreenact.ops import Axis, ConvKernel, conv, conv_reference, pack_conv, plain_kernel, suits_winograd

DTYPES = [torch.float32, torch.bfloat16]
AXES = {
    "3x3": Axis(1, (-1,), (3,)),
    "3x3 by 2": Axis(2, (-1,), (3,)),
    "4x4 by 2": Axis(2, (-1,), (4,)),
    "1x1": Axis(1, (0,), (1,)),
    "doubled": Axis(1, (-1, 0), (2, 2)),
    "three a cell": Axis(1, (-1, 0, 0), (2, 1, 2)),
    "five a cell": Axis(3, (-1, 0, 1, 1, 1), (3, 2, 1, 2, 3)),
    "12x12 by 4": Axis(4, (-4,), (12,)),
}
# N, H, W, Cin, Cout
SHAPES = [(1, 4, 4, 1, 1), (3, 17, 19, 3, 5), (1, 16, 16, 64, 70), (2, 6, 9, 18, 33), (1, 4, 4, 256, 256)]


def make(shape, axis, dtype, generator, device="cpu") -> tuple[torch.Tensor, ConvKernel]:
    """An input and a kernel whose weights are exact in `dtype`."""
    n, height, width, channels_in, channels_out = shape
    weights = {}
    for y, taps_y in enumerate(axis.taps):
        for x, taps_x in enumerate(axis.taps):
            noise = torch.randn(channels_out, taps_y, taps_x, channels_in, generator=generator)
            weights[y, x] = (noise * (channels_in * taps_y * taps_x) ** -0.5).to(dtype).double().to(device)
    bias = torch.randn(channels_out, generator=generator).double().to(device)
    x = torch.randn(n, height, width, channels_in, generator=generator).to(device, dtype)
    return x, ConvKernel(axis, axis, weights, bias)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("axis", AXES.values(), ids=AXES.keys())
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_conv_reference(shape, axis, dtype, device, generator):
    x, kernel = make(shape, axis, dtype, generator, device)
    # One running sum of 4,000 to 9,000 products in float32 is 1e-6 to 2e-6 off.
    tolerance = (1e-5, 3e-6) if dtype == torch.float32 and kernel.weights[0, 0][0].numel() > 4000 else None
    assert_close(conv(x, pack_conv(kernel, dtype, device)), conv_reference(x, kernel), tolerance)


# More tiles than are transformed at once, shared out by rows and by channels; odd sides; a last panel that is not full.
@pytest.mark.parametrize("shape", [(1, 16, 16, 64, 96), (2, 13, 19, 80, 70), (1, 5, 90, 64, 200), (3, 33, 40, 64, 64)])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_conv_winograd(shape, dtype, generator):
    x, kernel = make(shape, AXES["3x3"], dtype, generator)
    assert suits_winograd(kernel)
    add = torch.randn(1, *shape[1:3], shape[4], generator=generator).to(dtype)
    actual = conv(x, pack_conv(kernel, dtype, winograd=True), add=add, activation="relu")
    # Inputs and weights are rounded to bfloat16 once more, transformed.
    tolerance = (1.6e-2, 8e-3) if dtype == torch.bfloat16 else (1e-5, 2e-6)
    assert_close(actual, conv_reference(x, kernel, add=add, activation="relu"), tolerance)


def test_conv_winograd_writes_its_slice_only(generator):
    """Strided in and out, an odd crop, a residual of half the size, pictures of bytes."""
    _, kernel = make((1, 1, 1, 64, 64), AXES["3x3"], torch.float32, generator)
    wide = torch.randint(0, 256, (2, 9, 11, 70), generator=generator, dtype=torch.uint8)
    target = torch.full((2, 7, 9, 80), 7.0)
    out, half = target[..., 8:72], torch.randn(2, 4, 5, 64, generator=generator)
    weights = pack_conv(kernel, torch.float32, winograd=True)
    conv(wide[..., 3:67], weights, residual=half, x_scale=0.01, x_shift=-1, out=out)
    expected = conv_reference(wide[..., 3:67], kernel, residual=half, x_scale=0.01, x_shift=-1, size=(7, 9))
    assert_close(out, expected, (1e-5, 2e-6))
    assert bool((target[..., :8] == 7).all())
    assert bool((target[..., 72:] == 7).all())


@pytest.mark.parametrize("axis", ["3x3 by 2", "1x1", "doubled"])
def test_conv_winograd_refused(axis, generator):
    _, kernel = make((1, 1, 1, 64, 64), AXES[axis], torch.float32, generator)
    with pytest.raises(ValueError, match="winograd: needs the CPU and a plain 3x3 kernel"):
        pack_conv(kernel, torch.float32, winograd=True)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [3, 4])
def test_conv_is_a_convolution(size, stride, generator):
    """The reference itself: PyTorch's convolution, in numbers that it shares no code with."""
    weight = torch.randn(5, 3, size, size, generator=generator, dtype=torch.float64)
    bias = torch.randn(5, generator=generator, dtype=torch.float64)
    x = torch.randn(2, 3, 11, 14, generator=generator, dtype=torch.float64)
    kernel = plain_kernel(weight, bias, stride=stride, padding=1)
    expected = torch.nn.functional.conv2d(x, weight, bias, stride, 1).permute(0, 2, 3, 1)
    assert_close(conv_reference(x.permute(0, 2, 3, 1), kernel), expected, (1e-12, 1e-12))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_conv_adds_before_and_after_the_activation(dtype, activation, half, device, generator):
    x, kernel = make((2, 9, 7, 6, 20), AXES["3x3"], dtype, generator, device)
    add = torch.randn(2, 9, 7, 20, generator=generator).to(device, dtype)
    residual = torch.randn(2, *((5, 4) if half else (9, 7)), 20, generator=generator).to(device, dtype)
    actual = conv(x, pack_conv(kernel, dtype, device), add=add, residual=residual, activation=activation)
    assert_close(actual, conv_reference(x, kernel, add=add, residual=residual, activation=activation))


@pytest.mark.parametrize("device", DEVICES)
def test_conv_chooses_what_it_adds(device, generator):
    x, kernel = make((3, 5, 5, 4, 18), AXES["3x3"], torch.float32, generator, device)
    add = torch.randn(7, 5, 5, 18, generator=generator).to(device)
    source_index = torch.tensor([6, 0, 6], dtype=torch.int32, device=device)
    weights = pack_conv(kernel, torch.float32, device)
    assert_close(
        conv(x, weights, add=add, source_index=source_index),
        conv_reference(x, kernel, add=add, source_index=source_index),
    )
    one = add[:1]
    assert_close(conv(x, weights, add=one), conv_reference(x, kernel, add=one))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_conv_takes_pictures(dtype, device, generator):
    """Values 0 to 255 become -1 to 1 inside; beyond the picture is 0 all the same."""
    _, kernel = make((1, 1, 1, 3, 16), AXES["3x3"], dtype, generator, device)
    x = torch.randint(0, 256, (2, 13, 10, 3), generator=generator, dtype=torch.uint8).to(device)
    actual = conv(x, pack_conv(kernel, dtype, device), x_scale=2 / 255, x_shift=-1)
    assert_close(actual, conv_reference(x, kernel, x_scale=2 / 255, x_shift=-1))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("axis", ["3x3", "doubled"])
def test_conv_keeps_coordinates_exact(axis, device, generator):
    """Half-precision maps, float32 weights and sums: heads that give motion fields."""
    x, kernel = make((1, 12, 12, 32, 2), AXES[axis], torch.float32, generator, device)
    x = x.to(torch.bfloat16)
    side = 12 * len(AXES[axis].taps)
    out = torch.empty(1, side, side, 2, device=device)
    conv(x, pack_conv(kernel, torch.float32, device), out=out)
    assert_close(out, conv_reference(x, kernel))


@pytest.mark.parametrize("device", DEVICES)
def test_conv_writes_its_slice_only(device, generator):
    """Strided in and out, a crop of the outputs, and a residual that is the output itself."""
    _, kernel = make((1, 1, 1, 6, 20), AXES["3x3"], torch.float32, generator, device)
    wide = torch.randn(2, 9, 11, 10, generator=generator).to(device)
    x = wide[..., 2:8]
    target = torch.full((2, 8, 10, 40), 7.0, device=device)
    out = target[..., 10:30]
    expected = conv_reference(x, kernel, size=(8, 10)) + 7
    conv(x, pack_conv(kernel, torch.float32, device), residual=out, out=out)
    assert_close(out, expected)
    assert bool((target[..., :10] == 7).all())
    assert bool((target[..., 30:] == 7).all())


def test_conv_of_nothing(generator):
    _, kernel = make((1, 4, 4, 3, 5), AXES["3x3"], torch.float32, generator)
    assert conv(torch.empty(0, 4, 4, 3), pack_conv(kernel, torch.float32)).shape == (0, 4, 4, 5)


def test_conv_multiplications(generator):
    """Counted by the taps that fall on each output, padding included, as everybody counts."""
    _, kernel = make((1, 1, 1, 6, 20), AXES["3x3"], torch.float32, generator)
    assert pack_conv(kernel, torch.float32).multiplications(5, 7) == 5 * 7 * 9 * 6 * 20
    _, kernel = make((1, 1, 1, 6, 20), AXES["doubled"], torch.float32, generator)
    assert pack_conv(kernel, torch.float32).multiplications(10, 14) == 10 * 14 * 4 * 6 * 20


def test_conv_says_what_is_wrong(generator):
    x, kernel = make((1, 8, 8, 4, 6), AXES["3x3"], torch.float32, generator)
    weights = pack_conv(kernel, torch.float32)
    good = torch.zeros(1, 8, 8, 6)
    for message, arguments in {
        "x: got list": {"x": [1]},
        "x: got float64, needs uint8": {"x": x.double()},
        r"x: got shape \[1, 8, 8, 3\]": {"x": x[..., :3]},
        "channels": {"x": x.permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2)},
        "x: requires grad": {"x": x.clone().requires_grad_()},
        "activation: got 'gelu'": {"activation": "gelu"},
        "add: got shape": {"add": good[:, :7]},
        "add: got bfloat16": {"add": good.bfloat16()},
        "add: got 2 pictures": {"add": torch.zeros(2, 8, 8, 6)},
        "source_index: got one, needs `add`": {"source_index": torch.zeros(1, dtype=torch.int32)},
        "source_index: got 4 at position 0, needs values from 0 to 2": {
            "source_index": torch.tensor([4], dtype=torch.int32),
            "add": torch.zeros(3, 8, 8, 6),
        },
        "residual: got shape": {"residual": good[:, :5]},
        "out: got shape": {"out": good[..., :5]},
        "out: got float16": {"out": good.half()},
        "out: shares memory with x": {"out": torch.as_strided(x, (1, 3, 3, 6), (54, 18, 6, 1))},
    }.items():
        with pytest.raises((ValueError, TypeError), match=message):
            conv(**({"x": x, "weights": weights} | arguments))
    with pytest.raises(ValueError, match="needs 1 to 5 phases"):
        pack_conv(replace(kernel, axis_x=Axis(1, (0,) * 6, (1,) * 6)), torch.float32)


def test_conv_opcheck(generator):
    x, kernel = make((1, 5, 6, 4, 6), AXES["doubled"], torch.float32, generator)
    w = pack_conv(kernel, torch.float32)
    arguments = (x, w.packed, w.bias, None, None, None, w.spec, "relu", 1.0, 0.0)
    torch.library.opcheck(torch.ops.fastreenact.conv.default, arguments)
    torch.library.opcheck(torch.ops.fastreenact.conv_out.default, (*arguments, torch.empty(1, 10, 12, 6)))
