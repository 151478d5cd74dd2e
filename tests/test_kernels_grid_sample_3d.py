"""grid_sample_3d in Triton: interpreted without a GPU, on a GPU with `-m gpu`, and compiled for every architecture."""

import re

import pytest
import torch
from conftest import HAS_GPU, assert_close
from gpu_case import need_graph_replay, need_side_stream, on
from triton_case import ARCHITECTURES, compile_offline, need_no_spills

from fastreenact.ops import grid_sample_3d, grid_sample_3d_reference

pytest.importorskip("triton", reason="Triton is not installed")

pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # NaN and infinite grids
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
# volume N D H W C, grid d h w, border, align_corners, sum over the depth
CASES = {
    "one voxel": ((1, 1, 1, 1, 1), (2, 3, 3), False, False, False),
    "one voxel, corners": ((1, 1, 1, 1, 3), (2, 3, 3), False, True, False),
    "one voxel, border and corners": ((1, 1, 1, 1, 3), (2, 3, 3), True, True, True),
    "odd": ((2, 3, 7, 5, 7), (2, 3, 11), False, False, False),
    "border, corners": ((2, 3, 5, 7, 8), (2, 2, 9), True, True, False),
    "odd sum": ((2, 3, 7, 5, 7), (5, 3, 11), False, True, True),
    "border, sum": ((1, 4, 5, 6, 8), (3, 2, 19), True, False, True),
    "three blocks of channels": ((1, 4, 8, 8, 96), (2, 2, 16), False, False, False),
    "channels of a sum": ((1, 4, 8, 8, 96), (4, 2, 16), False, False, True),
    "part of a block of channels": ((1, 2, 3, 4, 37), (2, 2, 5), False, False, False),
}  # fmt: skip
# The interpreter takes milliseconds a program, so it sees the other dtypes in the cases that differ for them.
INTERPRETED = [(name, torch.float32) for name in CASES]
INTERPRETED += [(name, dtype) for name in ("odd", "odd sum") for dtype in DTYPES[1:]]


def make(name, dtype, generator):
    """The arguments of `grid_sample_3d` for one case, on the CPU."""
    shape, sizes, border, align_corners, sum_depth = CASES[name]
    volume = torch.randn(shape, generator=generator).to(dtype)
    grid = torch.rand(shape[0], *sizes, 3, generator=generator) * 2.6 - 1.3
    flat = grid.view(-1)
    special = torch.tensor([float("nan"), float("inf"), -float("inf"), -1.0, 1.0, 1e30, -1e30])
    flat[torch.randperm(flat.numel(), generator=generator)[: len(special)]] = special
    keywords = {"padding": "border" if border else "zeros", "align_corners": align_corners, "sum_depth": sum_depth}
    return volume, grid, keywords


def launch(volume, grid, out, *, padding, align_corners, sum_depth):
    """The kernel itself, which runs on CPU tensors under the interpreter."""
    from fastreenact.kernels.grid_sample_3d import grid_sample_3d as kernel

    assert out.dim() == (4 if sum_depth else 5)
    kernel(volume, grid, out, border=padding == "border", align_corners=align_corners)


def expected(volume, grid, keywords):
    """The reference in float64 on the inputs as rounded."""
    return grid_sample_3d_reference(volume.double(), grid.double(), **keywords)


def output(volume, grid, keywords):
    return volume.new_empty((volume.shape[0], *grid.shape[2 if keywords["sum_depth"] else 1 : 4], volume.shape[4]))


@pytest.mark.skipif(HAS_GPU, reason="the interpreter is for machines without a GPU")
class TestInterpreted:
    @pytest.mark.parametrize(("name", "dtype"), INTERPRETED, ids=str)
    def test_grid_sample_3d_matches_reference(self, name, dtype, generator):
        volume, grid, keywords = make(name, dtype, generator)
        out = output(volume, grid, keywords)
        launch(volume, grid, out, **keywords)
        assert_close(out, expected(volume, grid, keywords))

    @pytest.mark.parametrize("name", ["odd", "odd sum"])
    def test_grid_sample_3d_writes_only_its_slice(self, name, generator):
        """Channels 3 to 10 of a wider tensor, from a slice of a wider volume, by a grid with strides of its own."""
        volume, grid, keywords = make(name, torch.float32, generator)
        wide = torch.full((*volume.shape[:4], 12), float("inf"))
        wide[..., 2:9] = volume
        far = torch.full((*grid.shape[:4], 6), float("nan"))
        far[..., 1::2] = grid
        n, *middle, width, _ = output(volume, grid, keywords).shape
        out = torch.full((n, *middle, width + 1, 15), -55.0)
        inner = out[..., :-1, 3:10]
        launch(wide[..., 2:9], far[..., 1::2], inner, **keywords)
        assert_close(inner, expected(volume, grid, keywords))
        inner.fill_(-55.0)
        assert torch.all(out == -55.0)

    def test_grid_sample_3d_empty(self):
        keywords = {"padding": "zeros", "align_corners": False, "sum_depth": False}
        launch(torch.zeros(0, 2, 2, 2, 3), torch.zeros(0, 2, 2, 2, 3), torch.zeros(0, 2, 2, 2, 3), **keywords)
        launch(torch.zeros(1, 2, 2, 2, 0), torch.zeros(1, 2, 2, 2, 3), torch.zeros(1, 2, 2, 2, 0), **keywords)

    def test_grid_sample_3d_does_not_read_outside_taps(self, generator):
        wide = torch.full((1, 5, 6, 6, 12), float("inf"))
        volume = wide[:, 1:-1, 1:-1, 1:-1, 4:8]
        volume.copy_(torch.randn(volume.shape, generator=generator))
        grid = torch.rand(1, 2, 3, 20, 3, generator=generator) * 4 - 2
        for padding in ("zeros", "border"):
            keywords = {"padding": padding, "align_corners": False, "sum_depth": False}
            out = output(volume, grid, keywords)
            launch(volume, grid, out, **keywords)
            assert_close(out, expected(volume, grid, keywords))


def arguments(name, dtype, generator):
    """All of them by their names."""
    volume, grid, keywords = make(name, dtype, generator)
    return {"volume": volume, "grid": grid, **keywords}


def expected_of(named):
    """`expected` of arguments by name."""
    keywords = dict(named)
    return expected(keywords.pop("volume"), keywords.pop("grid"), keywords)


@pytest.mark.gpu
class TestOnGpu:
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("name", CASES)
    def test_grid_sample_3d_matches_reference(self, name, dtype, generator):
        named = arguments(name, dtype, generator)
        assert_close(grid_sample_3d(**on("cuda", named)).cpu(), expected_of(named))

    @pytest.mark.parametrize("name", ["three blocks of channels", "channels of a sum"])
    def test_grid_sample_3d_on_a_side_stream(self, name, generator):
        need_side_stream(grid_sample_3d, arguments(name, torch.float16, generator), expected_of)

    @pytest.mark.parametrize("name", ["three blocks of channels", "channels of a sum"])
    def test_grid_sample_3d_graph_replays_on_changed_inputs(self, name, generator):
        draws = [arguments(name, torch.float16, generator) for _ in range(2)]
        need_graph_replay(grid_sample_3d, draws, expected_of)


def test_grid_sample_3d_planted_errors_fail(generator):
    """The comparison notices one voxel's shift along each axis, swapped axes and the other corner convention."""
    volume, grid, keywords = make("odd", torch.float32, generator)
    want = expected(volume, grid, keywords)
    wrong = [expected(volume.roll(1, axis), grid, keywords) for axis in (1, 2, 3)]
    wrong += [expected(volume, grid.flip(-1), keywords)]
    wrong += [
        expected(volume, grid, {**keywords, **other}) for other in ({"align_corners": True}, {"padding": "border"})
    ]
    for result in wrong:
        with pytest.raises(AssertionError):
            assert_close(result.float(), want)


ALIGNED = {"fp32": 4, "fp16": 8, "bf16": 8}
VARIANTS = {}
for dtype, sum_depth in (("fp32", False), ("fp32", True), ("fp16", False), ("bf16", True)):
    # the channels of MegaPortraits
    align = ALIGNED[dtype]
    blocks = {"BLOCK_X": (16 if sum_depth else 32) * align // 4, "BLOCK_C": 32, "ALIGN": align}
    constants = {"SUM": sum_depth, "BORDER": sum_depth, "ALIGN_CORNERS": sum_depth, **blocks}
    VARIANTS[f"{dtype}-{sum_depth}"] = ({"volume_ptr": dtype, "out_ptr": dtype}, constants)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ptx")
    return compile_offline("fastreenact.kernels.grid_sample_3d", "_grid_sample_3d_kernel", VARIANTS, folder)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_grid_sample_3d_compiles_without_spills(architecture, compiled, tmp_path):
    need_no_spills(compiled, architecture, len(VARIANTS), tmp_path)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_grid_sample_3d_gathers_16_bytes_at_a_time(architecture, compiled):
    for code in compiled.glob(f"{architecture}-*.ptx"):
        loads = re.findall(r"ld\.global\.(?:\w+\.)*?(v\d\.)?[bf](\d+)", code.read_text())
        wide = [load for load in loads if load == ("v4.", "32")]
        assert len(wide) >= 8, f"{code.name}: {loads}"
        assert not [load for load in loads if load[1] == "16"], f"{code.name}: single channels"


def test_grid_sample_3d_blocks_are_the_compiled_ones():
    from fastreenact.kernels.grid_sample_3d import _blocks

    for _, constants in VARIANTS.values():
        assert _blocks(96, 16 // constants["ALIGN"], 64, constants["SUM"]).items() <= constants.items()
