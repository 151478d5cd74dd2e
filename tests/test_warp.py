"""warp on the CPU and the GPU against its reference in float64."""

import sys
from typing import Any

import numpy as np
import pytest
import torch
from conftest import DEVICES, HAS_GPU, assert_close
from gpu_case import on
from torch import Tensor

pytest.importorskip("hypothesis", reason="hypothesis is not installed")
from hypothesis import given, settings
from hypothesis import strategies as st

from fastreenact.ops import warp, warp_reference
from fastreenact.ops.warp import resize_field

warp_module = sys.modules["fastreenact.ops.warp"]  # the name in the package is the function
DTYPES = [torch.float32, torch.bfloat16]
# N, H, W, C, h, w: 1x1, primes, odd channel counts, the maps of Face2Face^rho at 256 (a field finer than the map, too)
SHAPES = [
    (1, 1, 1, 1, 1, 1), (1, 1, 1, 3, 4, 4), (3, 17, 19, 5, 17, 19), (1, 17, 19, 3, 5, 7), (3, 5, 7, 140, 23, 29),
    (1, 64, 64, 28, 64, 64), (1, 32, 32, 72, 64, 64), (1, 16, 16, 280, 64, 64), (1, 9, 100, 16, 3, 130),
]  # fmt: skip


def make(shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    n, height, width, channels, field_height, field_width = shape
    features = torch.randn(n, height, width, channels, generator=generator).to(dtype)
    field = torch.rand(n, field_height, field_width, 2, generator=generator) * 2.6 - 1.3
    return features, field


def in_float64(features: Tensor, field: Tensor, **options: Any) -> Tensor:
    options = {k: v.double() if isinstance(v, Tensor) and v.is_floating_point() else v for k, v in options.items()}
    return warp_reference(features.double(), field.double(), **options)


def affine(kind: str, shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> dict[str, Tensor]:
    """Keywords of one kind of epilogue for an output [N, H, W, C]."""
    n, height, width, channels = shape
    if kind == "none":
        return {}
    sizes = {
        "channel": (channels,),
        "full": shape,
        "shared": (1, height, width, channels),
        "table": (1, 6, 5, channels),
        "tables": (n, 6, 5, channels),
    }
    both = torch.randn(*sizes[kind][:-1], 2 * channels, generator=generator).to(dtype)
    found = {"scale": both[..., :channels], "shift": both[..., channels:]}  # halves of one tensor, as a conv makes them
    if kind.startswith("table"):
        found["index_y"] = torch.randint(0, 6, (height,), generator=generator, dtype=torch.int32)
        found["index_x"] = torch.randint(0, 5, (width,), generator=generator, dtype=torch.int32)
    return found


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("field_resize", ["nearest", "bilinear"])
@pytest.mark.parametrize("padding", ["zeros", "border"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_warp_reference(shape, dtype, padding, field_resize, device, generator):
    features, field = make(shape, dtype, generator)
    options = {"padding": padding, "field_resize": field_resize}
    got = warp(features.to(device), field.to(device), **options).cpu()
    assert_close(got, in_float64(features, field, **options))


@pytest.mark.parametrize("activation", [None, "relu", "tanh"])
@pytest.mark.parametrize("kind", ["none", "channel", "full", "shared", "table", "tables"])
@pytest.mark.parametrize(
    ("dtype", "table_dtype"),
    [(torch.float32, torch.float32), (torch.bfloat16, torch.float32), (torch.bfloat16, torch.bfloat16)],
)
@pytest.mark.parametrize("device", DEVICES)
def test_warp_epilogue(dtype, table_dtype, kind, activation, device, generator):
    features, field = make((3, 11, 13, 28, 7, 5), dtype, generator)
    options = affine(kind, tuple(features.shape), table_dtype, generator)
    got = warp(features.to(device), field.to(device), activation=activation, **on(device, options)).cpu()
    assert_close(got, in_float64(features, field, activation=activation, **options))


@pytest.mark.skipif(HAS_GPU, reason="the interpreter is for machines without a GPU")
@pytest.mark.parametrize("kind", ["none", "channel", "shared", "table", "tables", "scale alone", "uint8"])
@pytest.mark.parametrize("field_resize", ["nearest", "bilinear"])
def test_warp_gpu_path_interpreted(kind, field_resize, generator):
    # what the dispatch makes of its arguments before the kernel runs, on the CPU
    pytest.importorskip("triton")
    dtype = torch.uint8 if kind == "uint8" else torch.float32
    features, _ = make((2, 5, 6, 4, 1, 1), torch.float32, generator)
    features = (features.abs() * 60).to(dtype)
    field = (torch.rand(2, 2, 3, 4, generator=generator) * 2.4 - 1.2).permute(0, 2, 3, 1)  # x and y apart in memory
    epilogue = {"none": "none", "uint8": "none", "scale alone": "channel"}.get(kind, kind)
    options = affine(epilogue, (2, 5, 6, 4), torch.float32, generator)
    if kind == "scale alone":
        del options["shift"]
    activation = None if kind == "uint8" else "relu"
    out = torch.empty_like(features)
    tensors = [options.get(name) for name in ("source_index", "scale", "shift", "index_y", "index_x")]
    warp_module._WARP.on_gpu(features, field, *tensors, activation, None, "zeros", field_resize, out)
    expected = warp_reference(features, field, activation=activation, field_resize=field_resize, **options)
    assert_close(out, expected, (2e-6, 2e-6))


@pytest.mark.parametrize("kind", ["none", "table"])
@pytest.mark.parametrize("dtype", [*DTYPES, torch.uint8], ids=str)
@pytest.mark.parametrize("device", DEVICES)
def test_warp_pictures(device, dtype, kind, generator):
    slab = (torch.rand(6, 9, 11, 16, generator=generator) * 200).to(dtype)
    features = slab[1::2, :, 2:, 4:12]  # three pictures, apart
    field = torch.rand(4, 5, 6, 2, generator=generator) * 2.6 - 1.3
    source_index = torch.tensor([2, 0, 2, 1], dtype=torch.int32)
    options = affine(kind, (4, 9, 9, 8), dtype, generator) if dtype != torch.uint8 else {}
    expected = warp_reference(features[source_index.long()], field.double(), **options)
    assert torch.equal(warp_reference(features, field.double(), source_index=source_index, **options), expected)
    there = on(device, {"source_index": source_index, **options})
    got = warp(slab.to(device)[1::2, :, 2:, 4:12], field.to(device), **there).cpu()
    assert_close(got, expected)
    if device == "cpu":
        assert torch.equal(got, warp(features[source_index.long()], field, **options))


def far_pictures() -> tuple[Tensor, Tensor]:
    """Four pictures 800 MB apart of which little is touched, each full of its number, and a field [2, 1, 1, 2]."""
    memory = torch.from_numpy(np.zeros(2_400_000_064, np.uint8))
    features = memory.as_strided((4, 2, 2, 4), (800_000_000, 8, 4, 1))
    for picture in range(4):
        features[picture] = 50 + picture
    return features, torch.zeros(2, 1, 1, 2)


def test_warp_pictures_beyond_32_bits():
    features, field = far_pictures()
    got = warp(features, field, source_index=torch.tensor([3, 1], dtype=torch.int32))
    assert got[:, 1, 1, 2].tolist() == [53, 51]


@pytest.mark.skipif(HAS_GPU, reason="the interpreter is for machines without a GPU")
def test_warp_pictures_beyond_32_bits_interpreted():
    pytest.importorskip("triton")
    features, field = far_pictures()
    out = torch.zeros(2, 2, 2, 4, dtype=torch.uint8)
    source_index = torch.tensor([3, 1], dtype=torch.int32)
    warp_module._WARP.on_gpu(features, field, source_index, *[None] * 5, None, "zeros", "nearest", out)
    assert out[:, 1, 1, 2].tolist() == [53, 51]


@pytest.mark.skipif(HAS_GPU, reason="the interpreter is for machines without a GPU")
@pytest.mark.parametrize("padding", ["zeros", "border"])
def test_warp_pictures_that_are_not_there_interpreted(padding, generator):
    """On a GPU nobody looks at the numbers before: such a picture is outside, so that no foreign memory is read."""
    pytest.importorskip("triton")
    features = torch.rand(3, 5, 6, 4, generator=generator) + 1
    field = torch.rand(5, 5, 6, 2, generator=generator) - 0.5
    source_index = torch.tensor([-1, 2, 3, 2**31 - 1, 0], dtype=torch.int32)
    out = torch.empty(5, 5, 6, 4)
    shift = torch.tensor([1.0, 2.0, 3.0, 4.0])
    warp_module._WARP.on_gpu(
        features, field, source_index, None, shift, None, None, None, None, padding, "nearest", out
    )
    assert_close(out, warp_reference(features, field.double(), source_index=source_index, shift=shift, padding=padding))
    for n in (0, 2, 3):
        assert torch.equal(out[n], shift.expand(5, 6, 4))
    assert out[[1, 4]].min() > 1.5


def test_warp_gpu_path_without_triton(monkeypatch, generator):
    monkeypatch.setattr("fastreenact.ops.define.has_triton", lambda op: False)
    features, field = make((3, 5, 6, 4, 2, 3), torch.float32, generator)
    source_index = torch.tensor([1, -1, 0], dtype=torch.int32)
    out = torch.empty(3, 7, 8, 4)
    warp_module._WARP.on_gpu(features, field, source_index, *[None] * 4, "tanh", (7, 8), "border", "bilinear", out)
    options = {"activation": "tanh", "size": (7, 8), "padding": "border", "field_resize": "bilinear"}
    assert_close(out, in_float64(features, field, source_index=source_index, **options))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("one", ["scale", "shift"])
def test_warp_takes_scale_or_shift_alone(one, device, generator):
    features, field = make((2, 5, 7, 6, 5, 7), torch.float32, generator)
    options = {one: torch.randn(6, generator=generator)}
    got = warp(features.to(device), field.to(device), **on(device, options)).cpu()
    assert_close(got, in_float64(features, field, **options))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("padding", ["zeros", "border"])
@pytest.mark.parametrize("channels", [1, 3, 4, 17])
def test_warp_uint8(channels, padding, device, generator):
    image = torch.randint(0, 256, (2, 37, 41, channels), generator=generator, dtype=torch.uint8)
    field = torch.rand(2, 9, 11, 2, generator=generator) * 2.4 - 1.2
    options = {"padding": padding, "field_resize": "bilinear", "size": (53, 59)}
    got = warp(image.to(device), field.to(device), **options).cpu()
    assert_close(got, warp_reference(image, field.double(), **options))


@pytest.mark.parametrize("device", DEVICES)
def test_warp_uint8_identity_is_exact(device, generator):
    image = torch.randint(0, 256, (1, 65, 130, 3), generator=generator, dtype=torch.uint8)
    # samples at their own cell centres: the rim is extended linearly, so a coarse identity is the identity
    y, x = ((torch.arange(n) + 0.5) * 2 / n - 1 for n in (5, 7))
    field = torch.stack(torch.meshgrid(x, y, indexing="xy"), 2)[None]
    assert torch.equal(warp(image.to(device), field.to(device), field_resize="bilinear").cpu(), image)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("size", [(1, 1), (7, 200), (65, 3), (0, 4)])
def test_warp_size(size, device, generator):
    features, field = make((2, 17, 19, 12, 6, 7), torch.float32, generator)
    for resize in ("nearest", "bilinear"):
        got = warp(features.to(device), field.to(device), size=size, field_resize=resize).cpu()
        assert got.shape == (2, *size, 12)
        assert_close(got, in_float64(features, field, size=size, field_resize=resize))


@pytest.mark.parametrize("device", DEVICES)
def test_warp_nearest_is_whole_number_floor(device, generator):
    # 45 * 368 / 360 is 46 exactly, where a float32 scale gives 45.99999 and the sample before
    field = torch.arange(368).view(1, 1, 368, 1).expand(1, 368, 368, 2)
    assert torch.equal(resize_field(field, 360, 360, "nearest")[0, 0, :, 0], torch.arange(360) * 368 // 360)
    features, field = make((1, 360, 360, 1, 368, 368), torch.float32, generator)
    assert_close(warp(features.to(device), field.to(device)).cpu(), in_float64(features, field))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_warp_strided_inputs(dtype, device, generator):
    wide = torch.randn(2, 10, 24, 40, generator=generator).to(dtype).to(device)
    features = wide[:, ::2, 3:20, 5:33]
    planes = torch.rand(2, 2, 6, 7, generator=generator).to(device) * 2 - 1
    field = planes.permute(0, 2, 3, 1)  # as a convolution gives it
    assert_close(warp(features, field).cpu(), in_float64(features.cpu(), field.cpu()))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [*DTYPES, torch.uint8], ids=str)
@pytest.mark.parametrize("channels", [1, 3, 7, 8, 28, 33])
def test_warp_writes_only_its_slice(channels, dtype, device, generator):
    sentinel = 77
    features = (torch.rand(2, 6, 5, channels, generator=generator) * 50).to(dtype).to(device)
    field = torch.rand(2, 6, 5, 2, generator=generator).to(device) * 2.4 - 1.2
    wide = torch.full((2, 8, 9, channels + 6), sentinel, dtype=dtype, device=device)
    inner = (slice(None), slice(1, 7), slice(2, 7), slice(3, 3 + channels))
    returned = warp(features, field, out=wide[inner])
    assert returned.data_ptr() == wide[inner].data_ptr()
    assert torch.equal(wide[inner], warp(features, field))
    wide[inner] = sentinel
    assert (wide == sentinel).all()


@pytest.mark.parametrize("shape", [(0, 4, 4, 3), (2, 0, 4, 3), (2, 4, 4, 0)])
def test_warp_empty(shape):
    assert warp(torch.zeros(shape), torch.zeros(shape[0], 2, 2, 2)).shape == shape


def test_warp_from_nothing_is_padding():
    assert torch.equal(warp(torch.zeros(1, 0, 3, 2), torch.zeros(1, 1, 1, 2), size=(2, 2)), torch.zeros(1, 2, 2, 2))


HOSTILE = [float("nan"), float("inf"), -float("inf"), 1e38, -1e38, 3.4e38, 2.0**31, -(2.0**31), 1.0, -1.0, 2.0, 0.0]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("field_resize", ["nearest", "bilinear"])
@pytest.mark.parametrize("padding", ["zeros", "border"])
def test_warp_hostile_coordinates(padding, field_resize, device, generator):
    values = torch.tensor(HOSTILE)
    field = torch.stack(torch.meshgrid(values, values, indexing="ij"), 2)[None].contiguous()
    features = torch.randn(1, 5, 6, 9, generator=generator)
    for size in ((12, 12), (31, 29)):
        options = {"padding": padding, "field_resize": field_resize, "size": size}
        got = warp(features.to(device), field.to(device), **options).cpu()
        assert got.isfinite().all()
        assert_close(got, in_float64(features, field, **options))


EDGES = [n / 16 - 1 for n in range(33)]  # pixel edges and centres of a picture 8 wide
ANY_FLOAT = st.one_of(st.sampled_from(HOSTILE + EDGES), st.floats(width=32))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    values=st.lists(ANY_FLOAT, min_size=200, max_size=200),  # 100 coordinates an example, 10,000 in all
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3, 16, 21])),
    dtype=st.sampled_from([*DTYPES, torch.uint8]),
    padding=st.sampled_from(["zeros", "border"]),
    field_resize=st.sampled_from(["nearest", "bilinear"]),
    size=st.tuples(st.integers(1, 23), st.integers(1, 23)),
)
def test_warp_any_coordinates(values, shape, dtype, padding, field_resize, size):
    field = torch.tensor(values).view(1, 10, 10, 2)
    features = torch.ones(1, *shape).to(dtype)
    got = warp(features, field, size=size, padding=padding, field_resize=field_resize)
    assert got.float().isfinite().all()
    assert got.min() >= 0
    assert got.max() <= 1 + 1e-6
    if padding == "border":
        assert got.min() >= 1 - 1e-6


def test_warp_addresses_beyond_32_bits():
    # Memory that is never touched costs nothing: a picture of 2.4 GB of which three pixels are read.
    image = torch.from_numpy(np.zeros((1, 20_000, 40_000, 3), np.uint8))
    image[0, -1, -1], image[0, -1, 0], image[0, 0, -1] = 200, 100, 50
    outer = 1 - 1 / torch.tensor([40_000.0, 20_000.0], dtype=torch.float64)
    corners = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]], dtype=torch.float64) * outer
    field = corners.float().view(1, 2, 2, 2)
    got = warp(image, field, size=(2, 2), padding="border")
    # a float32 coordinate is known to 0.001 of these pixels
    assert (got[0, ..., 0].int() - torch.tensor([[0, 50], [100, 200]])).abs().max() <= 1


@pytest.mark.parametrize("device", DEVICES)
def test_warp_nan_is_outside(device):
    features = torch.ones(1, 4, 4, 2)
    field = torch.zeros(1, 4, 4, 2)
    field[0, 1, 2, 0] = float("nan")
    field[0, 2, 1, 1] = float("nan")
    expected = torch.ones(1, 4, 4, 2)
    expected[0, 1, 2], expected[0, 2, 1] = 0, 0
    assert torch.equal(warp(features.to(device), field.to(device)).cpu(), expected)


@pytest.mark.parametrize("device", DEVICES)
def test_warp_does_not_read_outside_taps(device):
    features = torch.full((1, 3, 3, 4), float("inf"))
    features[0, 1, 1] = 1
    # half a pixel beyond the left edge only column 0 may be touched, and a far away sample touches nothing
    got = warp(features.to(device), torch.tensor([[[[-5.0, 0.0], [0.0, 0.0]]]], device=device), size=(1, 2)).cpu()
    assert torch.equal(got[0, 0, 0], torch.zeros(4))


def test_warp_is_repeatable_and_batch_free(generator):
    features, field = make((8, 17, 19, 28, 8, 8), torch.float32, generator)
    first = warp(features, field)
    assert all(torch.equal(warp(features, field), first) for _ in range(100))
    assert torch.equal(torch.cat([warp(f[None], g[None]) for f, g in zip(features, field, strict=True)]), first)


def test_warp_reference_gradient(generator):
    features = torch.randn(1, 4, 5, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    field = (torch.rand(1, 3, 4, 2, generator=generator, dtype=torch.float64) * 1.6 - 0.8).requires_grad_()
    scale = torch.randn(2, generator=generator, dtype=torch.float64, requires_grad=True)
    for options in ({}, {"activation": "tanh", "field_resize": "bilinear", "size": (5, 6)}):
        assert torch.autograd.gradcheck(
            lambda f, g, s, o=options: warp_reference(f, g, scale=s, **o), (features, field, scale), atol=1e-5
        )


@pytest.mark.parametrize("resize", ["nearest", "bilinear"])
@pytest.mark.parametrize("kind", ["none", "channel", "tables"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_warp_opcheck(dtype, kind, resize, generator):
    features, field = make((2, 5, 7, 12, 3, 4), dtype, generator)
    tables = affine(kind, (2, 6, 8, 12), dtype, generator)
    source_index = torch.tensor([1, 1], dtype=torch.int32) if kind == "tables" else None
    arguments = (
        features,
        field,
        source_index,
        tables.get("scale"),
        tables.get("shift"),
        tables.get("index_y"),
        tables.get("index_x"),
        "relu",
        [6, 8],
        "zeros",
        resize,
    )
    torch.library.opcheck(torch.ops.fastreenact.warp.default, arguments)
    torch.library.opcheck(torch.ops.fastreenact.warp_out.default, (*arguments, torch.zeros(2, 6, 8, 12, dtype=dtype)))


def test_warp_compiles(generator):
    features, field = make((2, 5, 7, 12, 3, 4), torch.float32, generator)
    compiled = torch.compile(lambda f, g: warp(f, g, activation="relu") * 2, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(features, field), warp(features, field, activation="relu") * 2)


def grown(**changes: Any) -> dict[str, Any]:
    """Valid arguments of warp but for `changes`."""
    return {"features": torch.zeros(2, 4, 5, 3), "field": torch.zeros(2, 2, 2, 2), **changes}


TABLES = {"scale": torch.zeros(2, 6, 6, 3), "shift": torch.zeros(2, 6, 6, 3)}
SOURCES = torch.tensor([0, 1], dtype=torch.int32)
INDEX = {"index_y": torch.zeros(4, dtype=torch.int32), "index_x": torch.zeros(5, dtype=torch.int32)}
BAD = [
    (grown(features=None), TypeError, "features: got NoneType, needs a torch.Tensor"),
    (grown(field=[1]), TypeError, "field: got list"),
    (grown(out=3), TypeError, "out: got int"),
    (grown(scale=1.0), TypeError, "scale: got float"),
    (grown(features=torch.zeros(2, 4, 5, 3).double()), TypeError, "features: got float64, needs float32 or bfloat16"),
    (grown(features=torch.zeros(2, 4, 5, 3).half()), TypeError, "features: got float16"),
    (grown(field=torch.zeros(2, 2, 2, 2).bfloat16()), TypeError, "field: got bfloat16, needs float32"),
    (grown(features=torch.zeros(4, 5, 3)), ValueError, r"features: got shape \[4, 5, 3\], needs \[N or A, H, W, C\]"),
    (grown(field=torch.zeros(1, 2, 2, 2)), ValueError, r"field: got shape .* = \[2, any, any, 2\]"),
    (grown(field=torch.zeros(2, 2, 2, 3)), ValueError, "field: got shape"),
    (grown(field=torch.zeros(2, 0, 2, 2)), ValueError, "field: .* at least one sample"),
    (grown(features=torch.zeros(2, 3, 4, 5).permute(0, 2, 3, 1)), ValueError, "features: got strides"),
    (grown(features=torch.zeros(2, 4, 5, 3, device="meta")), ValueError, "field: got device cpu, needs meta"),
    (grown(activation="gelu"), ValueError, "activation: got 'gelu', needs one of None, 'relu', 'tanh'"),
    (grown(padding="reflection"), ValueError, "padding: got 'reflection'"),
    (grown(field_resize="area"), ValueError, "field_resize: got 'area'"),
    (grown(size=5), ValueError, "size: got 5, needs two whole numbers"),
    (grown(size=(4.0, 5)), ValueError, "size: got"),
    (grown(size=(-1, 5)), ValueError, "size: got"),
    (grown(scale=torch.zeros(4)), ValueError, r"scale: got shape \[4\], needs \[C\] = \[3\]"),
    (grown(scale=torch.zeros(3).bfloat16()), TypeError, "scale: got bfloat16, needs float32"),
    (grown(**TABLES), ValueError, r"scale: .* needs \[N, Ho, Wo, C\] = \[2, 4, 5, 3\]"),
    (grown(scale=torch.zeros(3), shift=torch.zeros(2, 4, 5, 3)), ValueError, "shift: got"),
    (grown(**TABLES, index_y=INDEX["index_y"]), ValueError, "index_y, index_x: got only one"),
    (grown(**INDEX), ValueError, "index_y, index_x: got them without scale"),
    (grown(**TABLES, **{**INDEX, "index_y": torch.zeros(4).long()}), TypeError, "index_y: got int64, needs int32"),
    (grown(**TABLES, **{**INDEX, "index_x": INDEX["index_y"]}), ValueError, "index_x: got shape"),
    (grown(**TABLES, **{**INDEX, "index_x": INDEX["index_x"] + 6}), ValueError, "index_x: got 6 at position 0"),
    (grown(**TABLES, **{**INDEX, "index_y": INDEX["index_y"] - 1}), ValueError, "index_y: got -1 at position 0"),
    (
        grown(**TABLES, **{**INDEX, "index_y": torch.zeros(8, dtype=torch.int32)[::2]}),
        ValueError,
        "index_y: got strides",
    ),
    (grown(source_index=[0, 1]), TypeError, "source_index: got list, needs a torch.Tensor"),
    (grown(source_index=SOURCES.long()), TypeError, "source_index: got int64, needs int32"),
    (grown(source_index=SOURCES[:1]), ValueError, r"source_index: got shape \[1\], needs one of .* = \[2\]"),
    (grown(source_index=SOURCES.repeat(2)[::2]), ValueError, "source_index: got strides"),
    (grown(source_index=SOURCES.to("meta")), ValueError, "source_index: got device meta, needs cpu"),
    (
        grown(source_index=SOURCES + 1),
        ValueError,
        "source_index: got 2 at position 1, needs values from 0 to 1, one less",
    ),
    (grown(source_index=SOURCES - 1), ValueError, "source_index: got -1 at position 0"),
    (grown(features=torch.zeros(2, 4, 5, 3).byte(), activation="relu"), ValueError, "features: got uint8"),
    (grown(out=torch.zeros(2, 4, 5, 3).bfloat16()), TypeError, "out: got bfloat16, needs float32"),
    (grown(out=torch.zeros(2, 4, 5, 4)), ValueError, "out: got shape"),
    (grown(out=torch.zeros(2, 3, 4, 5).permute(0, 2, 3, 1)), ValueError, "out: got strides"),
    (grown(out=torch.zeros(1, 4, 5, 3).expand(2, 4, 5, 3)), ValueError, "out: got strides"),
    (grown(out=torch.zeros(2, 5, 4, 3).transpose(1, 2)), ValueError, "out: got strides"),
    (grown(features=torch.zeros(2, 4, 5, 3, requires_grad=True)), ValueError, "features: requires grad, but warp is"),
    (grown(field=torch.zeros(2, 2, 2, 2, requires_grad=True)), ValueError, "field: requires grad"),
    (grown(scale=torch.zeros(3, requires_grad=True)), ValueError, "scale: requires grad"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD, ids=[bad[2] for bad in BAD])
def test_warp_refuses(arguments, error, message):
    with pytest.raises(error, match=message):
        warp(**arguments)


def test_warp_refuses_overlapping_out():
    features = torch.zeros(1, 4, 5, 3)
    with pytest.raises(ValueError, match="out: shares memory with features"):
        warp(features, torch.zeros(1, 2, 2, 2), out=features)


def test_warp_between_slices_of_one_tensor(generator):
    wide = torch.randn(1, 4, 5, 8, generator=generator)
    field = torch.rand(1, 4, 5, 2, generator=generator) * 2 - 1
    expected = warp(wide[..., :3].clone(), field)
    assert torch.equal(warp(wide[..., :3], field, out=wide[..., 4:7]), expected)


def test_warp_of_parameters_without_grad(generator):
    features = torch.nn.Parameter(torch.randn(1, 4, 5, 3, generator=generator))
    with torch.no_grad():
        assert warp(features, torch.zeros(1, 2, 2, 2)).shape == (1, 4, 5, 3)


def test_warp_dispatcher_refuses_gradients_too():
    features = torch.zeros(1, 4, 5, 3, requires_grad=True)
    with pytest.raises(ValueError, match="requires grad"):
        torch.ops.fastreenact.warp(
            features, torch.zeros(1, 2, 2, 2), None, None, None, None, None, None, None, "zeros", "nearest"
        )
