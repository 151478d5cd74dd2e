"""Each instruction set, forced in a process of its own, gives what the reference gives."""

import os
import subprocess
import sys

import pytest

from fastreenact import _C

# Odd channel counts meet every tail; the reference is in float64 on the inputs as rounded.
CHECK = """
import sys
import torch
sys.path.insert(0, sys.argv[1])
from conftest import assert_close
from fastreenact import _C, ops
assert _C.isa() == sys.argv[2], _C.isa()
g = torch.Generator().manual_seed(3)
f32, bf16 = torch.float32, torch.bfloat16
for dtype, table_dtype in ((f32, f32), (bf16, f32), (bf16, bf16)):
    for channels in (*range(1, 20), 28, 33, 72, 140):
        features = torch.randn(1, 6, 9, channels, generator=g).to(dtype)
        field = torch.rand(1, 4, 5, 2, generator=g) * 2.4 - 1.2
        tables = torch.randn(2, 1, 3, 3, channels, generator=g).to(table_dtype)
        rows, columns = (torch.randint(0, 3, (n,), generator=g, dtype=torch.int32) for n in (6, 9))
        wide = torch.full((1, 6, 9, channels + 2), 7.0, dtype=dtype)
        volume, grid = features.view(1, 3, 2, 9, -1), torch.rand(1, 3, 2, 5, 3, generator=g) * 2.4 - 1.2
        for options in (dict(), dict(padding="border", align_corners=True, sum_depth=True)):
            assert_close(ops.grid_sample_3d(volume, grid, **options), ops.grid_sample_3d_reference(
                volume.double(), grid.double(), **options
            ))
        for activation in (None, "relu", "tanh"):
            options = dict(index_y=rows, index_x=columns, activation=activation)
            ops.warp(
                features, field, scale=tables[0], shift=tables[1], field_resize="bilinear", out=wide[..., 1:-1],
                **options
            )
            assert_close(wide[..., 1:-1], ops.warp_reference(
                features.double(), field.double(), scale=tables[0].double(), shift=tables[1].double(),
                field_resize="bilinear", **options,
            ))
            assert (wide[..., 0] == 7).all() and (wide[..., -1] == 7).all()
            assert_close(ops.spade(features, *tables, **options), ops.spade_reference(
                features.double(), *tables.double(), **options
            ))
    for channels in (*range(1, 20), 33, 140):
        x = (torch.randn(2, 3, 9, 6, channels, generator=g) * 2 + 3).to(dtype)
        residual = torch.randn(x.shape, generator=g).to(dtype)
        affine = torch.randn(2, 2, channels, generator=g).to(table_dtype)
        for activation, upsample in ((None, None), ("relu", (1, 2, 2)), ("leaky_relu", None)):
            options = dict(activation=activation, upsample=upsample)
            got = ops.norm_act(x, channels, scale=affine[0], shift=affine[1], residual=residual, **options)
            assert_close(got, ops.norm_act_reference(
                x.double(), channels, scale=affine[0].double(), shift=affine[1].double(), residual=residual.double(),
                **options
            ))
    small = torch.randn(1, 8, 550, 64 // dtype.itemsize, generator=g).to(dtype)
    times = 1, 128, 1, 1  # an output larger than the caches, of the same statistics
    assert_close(ops.norm_act(small.repeat(times), 4), ops.norm_act(small, 4).repeat(times))
    edge = torch.linspace(-1.2, 1.2, 3001).to(dtype)
    edge = torch.cat([edge, torch.tensor([float("nan"), float("inf"), -float("inf")]).to(dtype)]).expand(1, 3, 2, -1)
    for tanh in (False, True):
        assert_close(ops.to_frame(edge, tanh=tanh), ops.to_frame_reference(edge.double(), tanh=tanh))
    squares = (9, 31, (14.3, 16.1, 27.7), 0.08), (40, 7, (3.5, 3.5, 7), 0.0), (5, 300, (140, 150, 310), 0.3)
    for side, size, box, fade in squares:
        raw = (torch.randn(side, side, 4, generator=g) * 0.5).to(dtype)
        picture = torch.randint(0, 256, (size, size, 3), generator=g, dtype=torch.uint8)
        wanted = ops.compose_frame_reference(raw.double(), picture.clone(), box, most_gain=1.5, fade=fade)
        assert_close(ops.compose_frame(raw, picture.clone(), box, most_gain=1.5, fade=fade), wanted)
for channels in (*range(1, 20), 33):
    image = torch.randint(0, 256, (1, 11, 12, channels), generator=g, dtype=torch.uint8)
    field = torch.rand(1, 4, 5, 2, generator=g) * 2.4 - 1.2
    options = dict(size=(15, 70), padding="border", field_resize="bilinear")
    assert_close(ops.warp(image, field, **options), ops.warp_reference(image, field.double(), **options))
for channels in (1, 2, 3, 7, 8, 9, 17, 40):
    mesh = torch.rand(1, 60, 3, generator=g) * torch.tensor([30.0, 30.0, 0.4]) - 5
    mesh[..., 2] += torch.arange(20).repeat_interleave(3)
    mesh = mesh, torch.randperm(20, generator=g).view(-1, 1).int() * 3 + torch.arange(3, dtype=torch.int32)
    mesh = *mesh, torch.randn(60, channels, generator=g), (21, 23)
    for got, expected in zip(ops.render_mesh(*mesh), ops.render_mesh_reference(*mesh)):
        assert_close(got, expected)
x = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 1e-30, -1e-30, 0.2, -0.3, 5.0, -50.0, 3e38])
one, none = torch.ones(1, 1, 1, 12), torch.zeros(1, 1, 1, 12)
where = torch.zeros(1, dtype=torch.int32)
for activation in ("relu", "tanh"):
    got = ops.spade(x.view(1, 1, 1, -1), one, none, where, where, activation=activation)
    torch.testing.assert_close(got.flatten(), getattr(torch, activation)(x), equal_nan=True, rtol=1e-6, atol=0)
"""


def run(isa: str, code: str = "from fastreenact import _C; print(_C.isa())") -> subprocess.CompletedProcess[str]:
    """Run `code` with FASTREENACT_ISA=isa."""
    return subprocess.run(
        [sys.executable, "-c", code, os.path.dirname(__file__), isa],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "FASTREENACT_ISA": isa},
    )


@pytest.mark.parametrize("isa", list(_C.isas()))
def test_isa_reference(isa):
    if not _C.isas()[isa]:
        pytest.skip(f"this processor has no {isa}")
    done = run(isa, CHECK)
    assert done.returncode == 0, done.stderr


def test_isa_fastest_is_taken():
    if "FASTREENACT_ISA" not in os.environ:
        assert _C.isa() == [name for name, supported in _C.isas().items() if supported][-1]


def test_isa_unknown():
    done = run("sse9")
    assert "ValueError: FASTREENACT_ISA=sse9 is unknown; usable here: plain" in done.stderr


def test_isa_empty_is_unset():
    assert run("").stdout.strip() == [name for name, supported in _C.isas().items() if supported][-1]


def test_isa_not_on_this_processor():
    missing = [name for name, supported in _C.isas().items() if not supported]
    if not missing:
        pytest.skip("this processor has every instruction set")
    assert f"FASTREENACT_ISA={missing[0]}: this processor does not have it" in run(missing[0]).stderr
