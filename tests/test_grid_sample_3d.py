"""grid_sample_3d on the CPU and the GPU against its reference in float64, and the reference against F.grid_sample."""

import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import DEVICES, HAS_GPU, assert_close
from torch import Tensor

pytest.importorskip("hypothesis", reason="hypothesis is not installed")
from hypothesis import given, settings
from hypothesis import strategies as st

from fastreenact.ops import grid_sample_3d, grid_sample_3d_reference

module = sys.modules["fastreenact.ops.grid_sample_3d"]  # the name in the package is the function
DTYPES = [torch.float32, torch.bfloat16]
MODES = [(padding, align) for padding in ("zeros", "border") for align in (False, True)]
# N, D, H, W, C, d, h, w: one voxel, primes, odd channel counts, rows longer than a chunk, more channels than sums at a
# time, the channels of MegaPortraits, and a volume in the middle of whose rows nothing lies outside
SHAPES = [
    (1, 1, 1, 1, 1, 1, 1, 1), (3, 5, 7, 11, 5, 3, 2, 13), (1, 2, 3, 1, 33, 4, 2, 3), (2, 4, 5, 6, 17, 2, 3, 131),
    (1, 1, 2, 2, 4101, 2, 1, 3), (1, 8, 16, 16, 96, 8, 4, 16), (2, 3, 19, 17, 32, 5, 1, 7),
]  # fmt: skip


def make(shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    n, depth, height, width, channels, *out = shape
    volume = torch.randn(n, depth, height, width, channels, generator=generator).to(dtype)
    return volume, torch.rand(n, *out, 3, generator=generator) * 2.6 - 1.3


def in_float64(volume: Tensor, grid: Tensor, **options: Any) -> Tensor:
    return grid_sample_3d_reference(volume.double(), grid.double(), **options)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("sum_depth", [False, True])
@pytest.mark.parametrize(("padding", "align_corners"), MODES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_grid_sample_3d_reference(shape, dtype, padding, align_corners, sum_depth, device, generator):
    volume, grid = make(shape, dtype, generator)
    options = {"padding": padding, "align_corners": align_corners, "sum_depth": sum_depth}
    got = grid_sample_3d(volume.to(device), grid.to(device), **options).cpu()
    assert_close(got, in_float64(volume, grid, **options))


@pytest.mark.skipif(HAS_GPU, reason="the interpreter is for machines without a GPU")
@pytest.mark.parametrize("triton", [True, False])
@pytest.mark.parametrize("sum_depth", [False, True])
def test_grid_sample_3d_gpu_path_interpreted(sum_depth, triton, monkeypatch, generator):
    # what the dispatch makes of its arguments, on the CPU; without Triton in PyTorch's own kernels
    if triton:
        pytest.importorskip("triton")
    monkeypatch.setattr("fastreenact.ops.define.has_triton", lambda op: triton)
    volume, grid = make((2, 3, 4, 5, 6, 2, 3, 4), torch.float32, generator)
    expected = in_float64(volume, grid, padding="border", align_corners=True, sum_depth=sum_depth)
    out = torch.empty(expected.shape)
    module._GRID_SAMPLE_3D.on_gpu(volume, grid, "border", True, sum_depth, out)
    assert_close(out, expected)


@pytest.mark.parametrize(("padding", "align_corners"), MODES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_grid_sample_3d_is_pytorchs(shape, padding, align_corners, generator):
    volume, grid = (t.double() for t in make(shape, torch.float32, generator))
    expected = F.grid_sample(
        volume.permute(0, 4, 1, 2, 3), grid, padding_mode=padding, align_corners=align_corners
    ).permute(0, 2, 3, 4, 1)
    options = {"padding": padding, "align_corners": align_corners}
    torch.testing.assert_close(grid_sample_3d_reference(volume, grid, **options), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        grid_sample_3d_reference(volume, grid, sum_depth=True, **options), expected.sum(1), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_grid_sample_3d_identity_is_exact(dtype, align_corners, device, generator):
    sizes = (4, 8, 16)
    volume = torch.randn(1, *sizes, 20, generator=generator).to(dtype)
    if align_corners:
        volume = volume[:, :3, :5, :9]  # distances of the centres that are exact in binary
        axes = [torch.linspace(-1, 1, n) for n in (3, 5, 9)]
    else:
        axes = [(torch.arange(n) + 0.5) * 2 / n - 1 for n in sizes]
    z, y, x = torch.meshgrid(*axes, indexing="ij")
    grid = torch.stack((x, y, z), 3)[None]
    got = grid_sample_3d(volume.to(device), grid.to(device), align_corners=align_corners)
    assert torch.equal(got.cpu(), volume)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("sum_depth", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_grid_sample_3d_strided_inputs(dtype, sum_depth, device, generator):
    wide = torch.randn(2, 6, 10, 12, 40, generator=generator).to(device, dtype)
    volume = wide[:, 1::2, ::2, 3:9, 5:33]
    # x, y and z apart in memory, as a convolution gives the field
    grid = (torch.rand(2, 3, 2, 4, 5, generator=generator) * 2.2 - 1.1).to(device).permute(0, 2, 3, 4, 1)
    got = grid_sample_3d(volume, grid, sum_depth=sum_depth)
    assert_close(got.cpu(), in_float64(volume.cpu(), grid.cpu(), sum_depth=sum_depth))


def test_grid_sample_3d_one_volume_for_all(generator):
    volume, grid = make((3, 4, 5, 6, 9, 2, 3, 4), torch.float32, generator)
    shared = volume[:1].expand(3, -1, -1, -1, -1)  # one avatar, several drivers: no copy is made
    assert torch.equal(grid_sample_3d(shared, grid), grid_sample_3d(shared.contiguous(), grid))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("sum_depth", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels", [1, 3, 7, 8, 28, 33])
def test_grid_sample_3d_writes_only_its_slice(channels, dtype, sum_depth, device, generator):
    sentinel = 77
    volume, grid = (t.to(device) for t in make((2, 3, 4, 5, channels, 2, 3, 4), dtype, generator))
    shape, inner = (2, 4, 5, 6, channels + 6), (slice(None), *(slice(1, n) for n in (3, 4, 5)), slice(3, 3 + channels))
    if sum_depth:
        shape, inner = (2, 5, 6, channels + 6), (slice(None), slice(1, 4), slice(1, 5), slice(3, 3 + channels))
    wide = torch.full(shape, sentinel, dtype=dtype, device=device)
    returned = grid_sample_3d(volume, grid, sum_depth=sum_depth, out=wide[inner])
    assert returned.data_ptr() == wide[inner].data_ptr()
    assert torch.equal(wide[inner], grid_sample_3d(volume, grid, sum_depth=sum_depth))
    wide[inner] = sentinel
    assert (wide == sentinel).all()


@pytest.mark.parametrize("shape", [(0, 2, 3, 3, 4, 2, 2, 2), (1, 2, 3, 3, 0, 2, 2, 2), (1, 2, 3, 3, 4, 2, 0, 2)])
def test_grid_sample_3d_empty(shape, generator):
    volume, grid = make(shape, torch.float32, generator)
    assert grid_sample_3d(volume, grid).shape == (*grid.shape[:4], shape[4])
    assert grid_sample_3d(volume, grid, sum_depth=True).shape == (grid.shape[0], *grid.shape[2:4], shape[4])


@pytest.mark.parametrize("device", DEVICES)
def test_grid_sample_3d_sum_over_nothing_is_zero(device):
    got = grid_sample_3d(
        torch.ones(1, 2, 2, 2, 3, device=device), torch.zeros(1, 0, 2, 2, 3, device=device), sum_depth=True
    )
    assert torch.equal(got.cpu(), torch.zeros(1, 2, 2, 3))


HOSTILE = [float("nan"), float("inf"), -float("inf"), 1e38, -1e38, 2.0**31, -(2.0**31), 1.0, -1.0, 2.0, -3.0, 0.0]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("padding", "align_corners"), MODES)
@pytest.mark.parametrize("sizes", [(3, 5, 6), (1, 1, 1)], ids=str)
def test_grid_sample_3d_hostile_coordinates(sizes, padding, align_corners, device, generator):
    values = torch.tensor(HOSTILE)
    grid = torch.stack(torch.meshgrid(values, values, values, indexing="ij"), 3)[None].contiguous()
    volume = torch.randn(1, *sizes, 9, generator=generator)
    options = {"padding": padding, "align_corners": align_corners}
    got = grid_sample_3d(volume.to(device), grid.to(device), **options).cpu()
    assert got.isfinite().all()
    assert_close(got, in_float64(volume, grid, **options))
    if padding == "zeros":
        assert (got[~grid.isfinite().all(-1)] == 0).all()
    else:
        expected = volume[0, 0, 0, -1]  # NaN is minus infinity
        grid = torch.tensor([float("inf"), float("nan"), -float("inf")]).view(1, 1, 1, 1, 3)
        got = grid_sample_3d(volume.to(device), grid.to(device), **options).cpu()
        assert torch.equal(got.flatten(), expected)


def test_grid_sample_3d_hostile_is_pytorchs_for_numbers(generator):
    # beyond two voxels outside nothing changes: F.grid_sample, which keeps going, says the same
    values = torch.tensor([v for v in HOSTILE if abs(v) < 1e9], dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(values, values, values, indexing="ij"), 3)[None]
    volume = torch.randn(1, 2, 3, 4, 1, generator=generator, dtype=torch.float64)
    for padding, align in MODES:
        expected = F.grid_sample(volume.permute(0, 4, 1, 2, 3), grid, padding_mode=padding, align_corners=align)
        got = grid_sample_3d_reference(volume, grid, padding=padding, align_corners=align)
        torch.testing.assert_close(got, expected.permute(0, 2, 3, 4, 1))


EDGES = [n / 16 - 1 for n in range(33)]  # faces and centres of a volume 8 wide
ANY_FLOAT = st.one_of(st.sampled_from(HOSTILE + EDGES), st.floats(width=32))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    values=st.lists(ANY_FLOAT, min_size=180, max_size=180),
    shape=st.tuples(*[st.integers(1, 9)] * 3, st.sampled_from([1, 3, 16, 21])),
    dtype=st.sampled_from(DTYPES),
    mode=st.sampled_from(MODES),
    sum_depth=st.booleans(),
)
def test_grid_sample_3d_any_coordinates(values, shape, dtype, mode, sum_depth):
    grid = torch.tensor(values).view(1, 3, 4, 5, 3)
    padding, align = mode
    got = grid_sample_3d(
        torch.ones(1, *shape).to(dtype), grid, padding=padding, align_corners=align, sum_depth=sum_depth
    )
    assert got.float().isfinite().all()
    assert got.min() >= 0
    assert got.max() <= (3 if sum_depth else 1) * (1 + 1e-6)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("padding", "align_corners"), MODES)
def test_grid_sample_3d_does_not_read_outside_taps(padding, align_corners, device, generator):
    wide = torch.full((1, 6, 7, 8, 20), float("inf"), device=device)
    volume = wide[:, 1:-1, 1:-1, 1:-1, 2:-2]
    volume.copy_(torch.randn(volume.shape, generator=generator))
    grid = torch.rand(1, 5, 6, 30, 3, generator=generator) * 4 - 2
    grid = grid.to(device)
    options = {"padding": padding, "align_corners": align_corners}
    assert_close(grid_sample_3d(volume, grid, **options).cpu(), in_float64(volume.cpu(), grid.cpu(), **options))


@pytest.mark.parametrize("device", DEVICES)
def test_grid_sample_3d_sums_in_float32(device, generator):
    # 200 times one and a little: a bfloat16 sum stays at 256 or loses the little
    volume = torch.full((1, 1, 1, 1, 3), 1.0078125).bfloat16().to(device)
    got = grid_sample_3d(volume, torch.zeros(1, 200, 1, 1, 3, device=device), sum_depth=True).cpu()
    assert torch.equal(got, torch.full((1, 1, 1, 3), 200 * 1.0078125).bfloat16())


def test_grid_sample_3d_is_repeatable_and_batch_free(generator):
    volume, grid = make((4, 5, 6, 7, 28, 3, 8, 9), torch.float32, generator)
    for sum_depth in (False, True):
        first = grid_sample_3d(volume, grid, sum_depth=sum_depth)
        assert all(torch.equal(grid_sample_3d(volume, grid, sum_depth=sum_depth), first) for _ in range(20))
        singles = [grid_sample_3d(v[None], g[None], sum_depth=sum_depth) for v, g in zip(volume, grid, strict=True)]
        assert torch.equal(torch.cat(singles), first)


def test_grid_sample_3d_reference_gradient(generator):
    volume = torch.randn(1, 3, 4, 5, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    grid = (torch.rand(1, 2, 2, 3, 3, generator=generator, dtype=torch.float64) * 1.6 - 0.8).requires_grad_()
    for padding, align in MODES:
        assert torch.autograd.gradcheck(
            lambda v, g, p=padding, a=align: grid_sample_3d_reference(v, g, padding=p, align_corners=a, sum_depth=a),
            (volume, grid),
            atol=1e-5,
        )


@pytest.mark.parametrize("sum_depth", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_grid_sample_3d_opcheck(dtype, sum_depth, generator):
    volume, grid = make((2, 3, 4, 5, 6, 2, 3, 4), dtype, generator)
    arguments = (volume, grid, "border", True, sum_depth)
    torch.library.opcheck(torch.ops.fastreenact.grid_sample_3d.default, arguments)
    out = torch.zeros((2, 3, 4, 6) if sum_depth else (2, 2, 3, 4, 6), dtype=dtype)
    torch.library.opcheck(torch.ops.fastreenact.grid_sample_3d_out.default, (*arguments, out))


def test_grid_sample_3d_compiles(generator):
    volume, grid = make((2, 3, 4, 5, 6, 2, 3, 4), torch.float32, generator)
    compiled = torch.compile(lambda v, g: grid_sample_3d(v, g) * 2, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(volume, grid), grid_sample_3d(volume, grid) * 2)


def grown(**changes: Any) -> dict[str, Any]:
    """Valid arguments of grid_sample_3d but for `changes`."""
    return {"volume": torch.zeros(2, 3, 4, 5, 6), "grid": torch.zeros(2, 2, 3, 4, 3), **changes}


BAD = [
    (grown(volume=None), TypeError, "volume: got NoneType, needs a torch.Tensor"),
    (grown(grid=[1]), TypeError, "grid: got list"),
    (grown(out=3), TypeError, "out: got int"),
    (grown(volume=torch.zeros(2, 3, 4, 5, 6).double()), TypeError, "volume: got float64, needs float32 or bfloat16"),
    (grown(volume=torch.zeros(2, 3, 4, 5, 6).half()), TypeError, "volume: got float16"),
    (grown(grid=torch.zeros(2, 2, 3, 4, 3).bfloat16()), TypeError, "grid: got bfloat16, needs float32"),
    (grown(volume=torch.zeros(3, 4, 5, 6)), ValueError, r"volume: got shape .*, needs \[N, D, H, W, C\]"),
    (grown(volume=torch.zeros(2, 0, 4, 5, 6)), ValueError, r"volume: got shape \[2, 0, .* at least one voxel"),
    (grown(volume=torch.zeros(2, 6, 3, 4, 5).permute(0, 2, 3, 4, 1)), ValueError, "volume: got strides"),
    (grown(grid=torch.zeros(1, 2, 3, 4, 3)), ValueError, r"grid: got shape .* = \[2, any, any, any, 3\]"),
    (grown(grid=torch.zeros(2, 2, 3, 4, 2)), ValueError, "grid: got shape"),
    (grown(grid=torch.zeros(2, 3, 4, 3)), ValueError, "grid: got shape"),
    (grown(volume=torch.zeros(2, 3, 4, 5, 6, device="meta")), ValueError, "grid: got device cpu, needs meta"),
    (grown(padding="reflection"), ValueError, "padding: got 'reflection', needs one of 'zeros', 'border'"),
    (grown(out=torch.zeros(2, 2, 3, 4, 6).bfloat16()), TypeError, "out: got bfloat16, needs float32"),
    (grown(out=torch.zeros(2, 3, 4, 5, 6)), ValueError, r"out: got shape .* \[N, d, h, w, C\] = \[2, 2, 3, 4, 6\]"),
    (grown(out=torch.zeros(2, 2, 3, 4, 6), sum_depth=True), ValueError, r"out: .* \[N, h, w, C\] = \[2, 3, 4, 6\]"),
    (grown(out=torch.zeros(2, 6, 2, 3, 4).permute(0, 2, 3, 4, 1)), ValueError, "out: got strides"),
    (grown(out=torch.zeros(2, 1, 3, 4, 6).expand(2, 2, 3, 4, 6)), ValueError, "out: got strides"),
    (grown(out=torch.zeros(2, 3, 2, 4, 6).transpose(1, 2)), ValueError, "out: got strides"),
    (
        grown(volume=torch.zeros(2, 3, 4, 5, 6, requires_grad=True)),
        ValueError,
        "volume: requires grad, but grid_sample",
    ),
    (grown(grid=torch.zeros(2, 2, 3, 4, 3, requires_grad=True)), ValueError, "grid: requires grad"),
    (grown(out=torch.zeros(2, 2, 3, 4, 6, requires_grad=True)), ValueError, "out: requires grad"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD, ids=[bad[2] for bad in BAD])
def test_grid_sample_3d_refuses(arguments, error, message):
    with pytest.raises(error, match=message):
        grid_sample_3d(**arguments)


def test_grid_sample_3d_refuses_overlapping_out():
    volume, grid = torch.zeros(1, 2, 2, 2, 3), torch.zeros(1, 2, 2, 2, 3)
    for name, tensor in (("volume", volume), ("grid", grid)):
        with pytest.raises(ValueError, match=f"out: shares memory with {name}"):
            grid_sample_3d(volume, grid, out=tensor)


def test_grid_sample_3d_between_slices_of_one_tensor(generator):
    wide = torch.randn(1, 2, 4, 5, 8, generator=generator)
    grid = torch.rand(1, 2, 4, 5, 3, generator=generator) * 2 - 1
    expected = grid_sample_3d(wide[..., :3].clone(), grid)
    assert torch.equal(grid_sample_3d(wide[..., :3], grid, out=wide[..., 4:7]), expected)
