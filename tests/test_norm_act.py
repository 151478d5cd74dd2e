"""norm_act on the CPU against its reference in float64."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import DEVICES, assert_close
from gpu_case import on
from torch import Tensor

from fastreenact import _C
from fastreenact.ops import norm_act, norm_act_reference

DTYPES = [torch.float32, torch.bfloat16]
# Shape of x, groups
SHAPES = [
    ((1, 1, 1, 4), 1),
    ((3, 17, 19, 6), 3),
    ((2, 1, 1, 1, 34), 17),
    ((2, 3, 5, 7, 12), 12),
    ((2, 6, 16, 24), 24),  # few channels: two pixels fill whole vectors
    ((1, 40, 41, 3), 1),  # more pixels than one block sums
    ((1, 16, 16, 64), 32),  # GroupNorm of MegaPortraits
    ((2, 4, 8, 8, 96), 32),
    ((1, 13, 11, 130), 130),
]  # fmt: skip


def affine_of(kind: str | None, x: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """scale and shift as halves of one tensor, as a linear layer gives them."""
    if kind is None:
        return {}
    n, channels = x.shape[0], x.shape[-1]
    both = torch.randn(*(() if kind == "affine" else (n,)), 2 * channels, generator=generator)
    if kind == "adaptive in the dtype of x":
        both = both.to(x.dtype)
    return {"scale": both[..., :channels], "shift": both[..., channels:]}


def in_float64(x: Tensor, groups: int, **options: Any) -> Tensor:
    wide = {k: v.double() if isinstance(v, Tensor) else v for k, v in options.items()}
    return norm_act_reference(x.double(), groups, **wide)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("affine", [None, "affine", "adaptive", "adaptive in the dtype of x"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "groups"), SHAPES, ids=str)
def test_norm_act_reference(shape, groups, dtype, affine, device, generator):
    x = (torch.randn(shape, generator=generator) * 3 + 1).to(dtype)
    options = affine_of(affine, x, generator)
    got = norm_act(x.to(device), groups, activation="relu", **on(device, options))
    assert_close(got.cpu(), in_float64(x, groups, activation="relu", **options))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("upsample", [None, 1, 2])
@pytest.mark.parametrize("activation", [None, "relu", "leaky_relu"])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "groups"), SHAPES[1:5], ids=str)
def test_norm_act_epilogue(shape, groups, dtype, residual, activation, upsample, device, generator):
    x = torch.randn(shape, generator=generator).to(dtype)
    options = affine_of("affine", x, generator) | {"activation": activation}
    if residual:
        options["residual"] = torch.randn(shape, generator=generator).to(dtype)
    if upsample is not None:  # nearest x2 of all axes but the first, or of all
        options["upsample"] = (upsample, *[2] * (len(shape) - 3))
    got = norm_act(x.to(device), groups, **on(device, options))
    assert_close(got.cpu(), in_float64(x, groups, **options))


def test_norm_act_is_what_pytorch_means(generator):
    x = torch.randn(2, 5, 6, 12, generator=generator).double()
    scale, shift = torch.randn(2, 12, generator=generator).double()
    nchw = x.permute(0, 3, 1, 2)
    expected = F.leaky_relu(F.group_norm(nchw, 4, scale, shift), 0.2)
    larger = F.interpolate(expected, scale_factor=2, mode="nearest").permute(0, 2, 3, 1)
    options = {"scale": scale, "shift": shift, "activation": "leaky_relu", "upsample": (2, 2)}
    torch.testing.assert_close(norm_act_reference(x, 4, **options), larger)
    torch.testing.assert_close(norm_act_reference(x, 12).permute(0, 3, 1, 2), F.instance_norm(nchw))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("groups", [1, 4, 20])
def test_norm_act_of_a_large_mean(groups, device, generator):
    """Means thousands of deviations away, other ones for each channel of a group or picture half."""
    x = torch.randn(2, 70, 60, 20, generator=generator) + 5000
    x[:, :30] += 7
    x[..., ::3] -= 11
    assert_close(norm_act(x.to(device), groups).cpu(), in_float64(x, groups))


def test_norm_act_of_an_outlier_first(generator):
    x = torch.randn(1, 40, 40, 20, generator=generator)
    x[0, 0, 0] = 1e6
    assert_close(norm_act(x, 5), in_float64(x, 5))


def test_norm_act_of_a_constant():
    """Variance 0: the square root of eps divides the rounding error of the mean, which is none."""
    for value in (0.0, 0.1, 12345.678):
        assert norm_act(torch.full((1, 33, 31, 6), value), 3).abs().max() < 1e-4


def test_norm_act_eps(generator):
    x = torch.randn(1, 5, 6, 8, generator=generator) * 1e-3
    assert_close(norm_act(x, 2, eps=1e-3), in_float64(x, 2, eps=1e-3))


@pytest.mark.parametrize("channels", [1, 3, 7, 8, 24, 33])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_norm_act_strided_and_writes_only_its_slice(dtype, channels, generator):
    x = torch.randn(2, 3, 12, 5, channels + 9, generator=generator).to(dtype)[:, :, ::2, :, 2 : 2 + channels]
    residual = torch.randn(2, 6, 3, 10, channels + 1, generator=generator).to(dtype)[..., ::2, 1:].transpose(1, 2)
    wide = torch.full((2, 6, 8, 12, channels + 6), 77, dtype=dtype)
    inner = (slice(None), slice(0, 3), slice(1, 7), slice(1, 11), slice(3, 3 + channels))
    options = {"residual": residual, "upsample": (1, 1, 2), "activation": "leaky_relu"}
    returned = norm_act(x, channels, out=wide[inner], **options)
    assert_close(returned, in_float64(x, channels, **options))
    assert_close(wide[inner].clone(), in_float64(x, channels, **options))
    wide[inner] = 77
    assert (wide == 77).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_norm_act_larger_than_the_caches(dtype, generator):
    """Whole lines of an output of 36 MB go past the caches; pictures of the same statistics come out the same."""
    small = torch.randn(1, 8, 550, 64 // dtype.itemsize, generator=generator).to(dtype)
    residual = torch.randn(small.shape, generator=generator).to(dtype)
    times = (1, 128, 1, 1)
    expected = norm_act(small, 4, residual=residual, activation="relu").repeat(times)
    assert_close(norm_act(small.repeat(times), 4, residual=residual.repeat(times), activation="relu"), expected)


def test_norm_act_nothing_depends_on_the_threads(generator):
    x = torch.randn(1, 90, 91, 40, generator=generator)
    before, results = _C.num_threads(), []
    try:
        for threads in (1, 2, 5):
            _C.set_num_threads(threads)
            results += [norm_act(x, 8) for _ in range(3)]
    finally:
        _C.set_num_threads(before)
    assert all(torch.equal(result, results[0]) for result in results)


@pytest.mark.parametrize("shape", [(0, 4, 4, 6), (2, 0, 4, 6), (2, 4, 4, 0), (2, 3, 0, 4, 6)])
def test_norm_act_empty(shape):
    assert norm_act(torch.zeros(shape), 3).shape == shape


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_norm_act_nan_fills_its_group_only(bad, generator):
    x = torch.randn(2, 5, 4, 12, generator=generator)
    x[1, 2, 1, 5] = bad
    for activation in (None, "relu", "leaky_relu"):
        y = norm_act(x, 3, activation=activation)
        assert y[1, ..., 4:8].isnan().all()
        assert y.isnan().sum() == 5 * 4 * 4


def test_norm_act_residual_may_be_x(generator):
    x = torch.randn(1, 5, 4, 12, generator=generator)
    assert_close(norm_act(x, 3, residual=x), in_float64(x, 3, residual=x))


def test_norm_act_reference_gradient(generator):
    x, residual = torch.randn(2, 2, 3, 2, 4, generator=generator).double().requires_grad_()
    scale = torch.randn(2, 4, generator=generator).double().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda a, b, c: norm_act_reference(
            a, 2, scale=c, shift=c, residual=b, activation="leaky_relu", upsample=(1, 2)
        ),
        (x, residual, scale),
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_norm_act_opcheck(dtype, generator):
    x = torch.randn(2, 5, 7, 12, generator=generator).to(dtype)
    affine = tuple(affine_of("adaptive", x, generator).values())
    for tables, residual, upsample in ((affine, x.clone(), None), ((None, None), None, [2, 2])):
        arguments = (x, 4, *tables, residual, "relu", upsample, 1e-5)
        torch.library.opcheck(torch.ops.fastreenact.norm_act.default, arguments)
        out = torch.zeros(2, *(s * (2 if upsample else 1) for s in (5, 7)), 12).to(dtype)
        torch.library.opcheck(torch.ops.fastreenact.norm_act_out.default, (*arguments, out))


def test_norm_act_compiles(generator):
    x = torch.randn(2, 5, 7, 12, generator=generator)
    compiled = torch.compile(lambda a: norm_act(a, 3, upsample=(2, 2)) * 2, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(x), norm_act(x, 3, upsample=(2, 2)) * 2)


def test_norm_act_planted_error(generator):
    """The comparison notices wrong groups, a wrong slope and one pixel's shift."""
    x = torch.randn(2, 5, 7, 12, generator=generator)
    want = in_float64(x, 3, activation="leaky_relu")
    for wrong in (in_float64(x, 4, activation="leaky_relu"), in_float64(x, 3), want.roll(1, 2)):
        with pytest.raises(AssertionError):
            assert_close(wrong.float(), want)


def grown(**changes: Any) -> dict[str, Any]:
    """Valid arguments of norm_act but for `changes`."""
    return {"x": torch.zeros(2, 4, 5, 6), "groups": 3, **changes}


BAD = [
    (grown(x=None), TypeError, "x: got NoneType, needs a torch.Tensor"),
    (grown(scale=1.0), TypeError, "scale: got float"),
    (grown(residual=[1]), TypeError, "residual: got list"),
    (grown(x=torch.zeros(2, 4, 5, 6).double()), TypeError, "x: got float64, needs float32 or bfloat16"),
    (grown(x=torch.zeros(2, 4, 5, 6).half()), TypeError, "x: got float16"),
    (grown(x=torch.zeros(4, 5, 6)), ValueError, r"x: got shape .* needs \[N, H, W, C\] or \[N, D, H, W, C\]"),
    (grown(x=torch.zeros(2, 6, 4, 5).permute(0, 2, 3, 1)), ValueError, "x: got strides"),
    (grown(groups=4), ValueError, "groups: got 4, needs a number that divides the 6 channels"),
    (grown(groups=0), ValueError, "groups: got 0"),
    (grown(groups=2.0), ValueError, "groups: got 2.0, needs a whole number"),
    (grown(eps=-1.0), ValueError, "eps: got -1.0"),
    (grown(eps=float("nan")), ValueError, "eps: got nan"),
    (grown(activation="tanh"), ValueError, "activation: got 'tanh', needs one of None, 'relu', 'leaky_relu'"),
    (grown(scale=torch.zeros(5)), ValueError, r"scale: got shape \[5\], needs \[C\] = \[6\]"),
    (grown(shift=torch.zeros(1, 6)), ValueError, r"shift: got shape \[1, 6\], needs \[N, C\] = \[2, 6\]"),
    (grown(scale=torch.zeros(6).bfloat16()), TypeError, "scale: got bfloat16, needs float32"),
    (grown(scale=torch.zeros(12)[::2]), ValueError, "scale: got strides"),
    (
        grown(x=torch.zeros(2, 4, 5, 6).bfloat16(), scale=torch.zeros(6), shift=torch.zeros(6).bfloat16()),
        ValueError,
        "shift: got torch.bfloat16, needs the dtype of scale",
    ),
    (grown(residual=torch.zeros(2, 4, 5, 7)), ValueError, "residual: got shape"),
    (grown(residual=torch.zeros(2, 4, 5, 6).bfloat16()), TypeError, "residual: got bfloat16"),
    (grown(residual=torch.zeros(2, 6, 4, 5).permute(0, 2, 3, 1)), ValueError, "residual: got strides"),
    (grown(upsample=2), ValueError, "upsample: got 2, needs 1 or 2 for each spatial axis"),
    (grown(upsample=(2, 3)), ValueError, r"upsample: got \(2, 3\)"),
    (grown(upsample=(2, 2, 2)), ValueError, "upsample: got 3 numbers, needs one for each of the 2"),
    (grown(out=torch.zeros(2, 4, 5, 7)), ValueError, "out: got shape"),
    (grown(out=torch.zeros(2, 4, 5, 6), upsample=(2, 2)), ValueError, r"out: got shape .* = \[2, 8, 10, 6\]"),
    (grown(out=torch.zeros(2, 4, 5, 6).bfloat16()), TypeError, "out: got bfloat16"),
    (grown(out=torch.zeros(1, 4, 5, 6).expand(2, 4, 5, 6)), ValueError, "out: got strides"),
    (
        grown(x=torch.zeros(2, 2, 2, 2, 6), out=torch.zeros(2, 2, 2, 2, 6).transpose(1, 2)),
        ValueError,
        "out: got strides",
    ),
    (grown(x=torch.zeros(2, 4, 5, 6, requires_grad=True)), ValueError, "x: requires grad, but norm_act is forward"),
    (grown(scale=torch.zeros(6, requires_grad=True)), ValueError, "scale: requires grad"),
    (grown(x=torch.zeros(2, 4, 5, 6, device="meta"), scale=torch.zeros(6)), ValueError, "scale: got device cpu"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD, ids=[bad[2] for bad in BAD])
def test_norm_act_refuses(arguments, error, message):
    with pytest.raises(error, match=message):
        norm_act(**arguments)


@pytest.mark.parametrize("name", ["x", "residual"])
def test_norm_act_refuses_overlapping_out(name):
    arguments = {"x": torch.zeros(1, 4, 5, 6), "residual": torch.zeros(1, 4, 5, 6)}
    with pytest.raises(ValueError, match=f"out: shares memory with {name}"):
        norm_act(**arguments, groups=2, out=arguments[name])


def test_norm_act_between_slices_of_one_tensor(generator):
    wide = torch.randn(1, 4, 5, 8, generator=generator)
    expected = norm_act(wide[..., :3].clone(), 3)
    assert torch.equal(norm_act(wide[..., :3], 3, out=wide[..., 4:7]), expected)


def test_norm_act_replays(generator):
    """A recording keeps the work memory, and reads the inputs anew."""
    x, out = torch.randn(2, 1, 9, 8, 24, generator=generator)
    recording = _C.Recording()
    recording.begin()
    try:
        norm_act(x, 3, out=out)
    finally:
        recording.end()
    for _ in range(2):
        x.copy_(torch.randn(x.shape, generator=generator))
        out.fill_(float("nan"))
        recording.replay()
        assert_close(out, in_float64(x, 3))
