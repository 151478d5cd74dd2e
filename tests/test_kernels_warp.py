"""warp in Triton: under its interpreter without a GPU, on a GPU with `-m gpu`, and compiled for every architecture."""

import pytest
import torch
from conftest import HAS_GPU, assert_close
from gpu_case import need_graph_replay, need_side_stream, on
from triton_case import ARCHITECTURES, compile_offline, need_no_spills

from fastreenact.ops import warp, warp_reference

pytest.importorskip("triton", reason="Triton is not installed")

pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # NaN and infinite fields
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.uint8]
# features N H W C, field h w, output or None, the affine, activation, border, bilinear field
CASES = {
    "one pixel": ((1, 1, 1, 1), (1, 1), None, None, None, False, False),
    "odd": ((3, 17, 19, 7), (5, 6), None, "channel", "relu", False, False),
    "map of the field's size": ((1, 16, 16, 8), (16, 16), None, None, "tanh", False, False),
    "table": ((2, 13, 11, 24), (4, 4), None, "table", "relu", False, False),
    "shared table": ((3, 8, 9, 5), (4, 4), None, "shared table", None, False, False),
    "full affine": ((2, 9, 8, 12), (3, 4), None, "full", None, False, False),
    "scale only": ((1, 9, 8, 12), (3, 4), None, "scale", "relu", False, False),
    "shift only": ((1, 9, 8, 12), (3, 4), None, "shift", "tanh", False, False),
    "larger output": ((2, 7, 9, 3), (5, 5), (21, 18), None, None, False, True),
    "border": ((2, 11, 13, 3), (5, 5), (23, 17), None, None, True, True),
    "border, nearest": ((1, 11, 13, 4), (11, 13), None, None, None, True, False),
    "field of one sample": ((1, 5, 6, 4), (1, 1), (7, 8), None, None, False, True),
    "more channels than a block": ((1, 6, 7, 150), (3, 3), None, "channel", None, False, False),
    "features of a network": ((1, 32, 32, 64), (64, 64), None, "table", "relu", False, False),
}  # fmt: skip


# The interpreter takes milliseconds a program, so it sees the other dtypes in the cases that differ for them.
INTERPRETED = [(name, torch.float32) for name in CASES]
INTERPRETED += [("table", torch.float16), ("table", torch.bfloat16), ("border", torch.bfloat16)]
INTERPRETED += [("border", torch.uint8), ("larger output", torch.uint8), ("odd", torch.uint8)]


def make(name, dtype, generator):
    """The arguments of `warp` for one case, on the CPU."""
    shape, (rows, columns), size, affine, activation, border, bilinear = CASES[name]
    n, channels = shape[0], shape[3]
    height, width = size or shape[1:3]
    if dtype == torch.uint8:
        features = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    else:
        features = torch.randn(shape, generator=generator).to(dtype)
    field = torch.rand(n, rows, columns, 2, generator=generator) * 2.6 - 1.3
    flat = field.view(-1)
    special = torch.tensor([float("nan"), float("inf"), -float("inf"), -1.0, 1.0, 1e30, -1e30])
    if flat.numel() > 20:
        flat[torch.randperm(flat.numel(), generator=generator)[: len(special)]] = special
    keywords = {"activation": activation, "size": size}
    keywords |= {"padding": "border" if border else "zeros", "field_resize": "bilinear" if bilinear else "nearest"}
    shapes = {
        "channel": (channels,),
        "full": (n, height, width, channels),
        "table": (n, 5, 4, channels),
        "shared table": (1, 5, 4, channels),
        "scale": (n, height, width, channels),
        "shift": (channels,),
    }
    if affine is not None and dtype != torch.uint8:
        for table in {"scale": ["scale"], "shift": ["shift"]}.get(affine, ["scale", "shift"]):
            keywords[table] = torch.randn(shapes[affine], generator=generator)
        if "table" in affine:
            keywords["index_y"] = (torch.arange(height) * 5 // height).to(torch.int32)
            keywords["index_x"] = (torch.arange(width) * 4 // width).to(torch.int32)
    if dtype == torch.uint8:
        keywords["activation"] = None
    return features, field, keywords


def launch(features, field, out, *, activation=None, size=None, padding="zeros", field_resize="nearest", **tables):
    """The kernel itself, which runs on CPU tensors under the interpreter."""
    from fastreenact.kernels.warp import warp as kernel

    number = {None: 0, "relu": 1, "tanh": 2}[activation]
    kernel(
        features,
        field,
        out,
        activation=number,
        border=padding == "border",
        field_bilinear=field_resize == "bilinear",
        **tables,
    )


def expected(features, field, keywords):
    """The reference in float64 on the inputs as rounded."""
    if features.dtype == torch.uint8:
        return warp_reference(features, field, **keywords)
    tables = {name: t.double() if name in ("scale", "shift") else t for name, t in keywords.items()}
    return warp_reference(features.double(), field.double(), **tables)


def output(features, keywords):
    height, width = keywords["size"] or features.shape[1:3]
    return features.new_empty((features.shape[0], height, width, features.shape[3]))


@pytest.mark.skipif(HAS_GPU, reason="the interpreter is for machines without a GPU")
class TestInterpreted:
    @pytest.mark.parametrize(("name", "dtype"), INTERPRETED, ids=str)
    def test_warp_matches_reference(self, name, dtype, generator):
        features, field, keywords = make(name, dtype, generator)
        out = output(features, keywords)
        launch(features, field, out, **keywords)
        assert_close(out, expected(features, field, keywords))

    def test_warp_writes_only_its_slice(self, generator):
        """Channels 3 to 10 of a wider tensor, from a slice of a wider tensor, over a field with strides of its own."""
        features, field, keywords = make("odd", torch.float32, generator)
        wide = torch.full((3, 17, 19, 12), 77.0)
        wide[..., 2:9] = features
        far = torch.full((3, 5, 6, 4), float("nan"))
        far[..., 1::2] = field
        out = torch.full((3, 17, 20, 15), -55.0)
        launch(wide[..., 2:9], far[..., 1::2], out[:, :, :19, 3:10], **keywords)
        assert_close(out[:, :, :19, 3:10], expected(features, field, keywords))
        out[:, :, :19, 3:10] = -55.0
        assert torch.all(out == -55.0)

    def test_warp_empty(self):
        launch(torch.zeros(0, 4, 4, 3), torch.zeros(0, 2, 2, 2), torch.zeros(0, 4, 4, 3))
        launch(torch.zeros(1, 4, 4, 0), torch.zeros(1, 2, 2, 2), torch.zeros(1, 4, 4, 0))

    def test_warp_position_is_good_to_float64(self, generator):
        """One row of 2,000 pixels, where (c + 1) * W / 2 in float32 is 1e-4 px off."""
        features = torch.zeros(1, 1, 2000, 1)
        features[0, 0, ::2] = 1.0  # the steepest slope: an error in the position is an error in the value
        field = torch.rand(1, 1, 64, 2, generator=generator) * 2 - 1
        field[..., 1] = 0
        out = torch.empty(1, 1, 64, 1)
        launch(features, field, out, size=(1, 64))
        assert (out.double() - expected(features, field, {"size": (1, 64)})).abs().max() < 3e-7

    def test_warp_nan_features_stay(self):
        features = torch.full((1, 2, 2, 1), float("nan"))
        for activation in ("relu", "tanh"):
            out = torch.zeros(1, 2, 2, 1)
            launch(features, torch.zeros(1, 1, 1, 2), out, activation=activation)
            assert out.isnan().all()


def arguments(name, dtype, generator):
    """All of them by their names, with two pictures of which the outputs take what numbers say."""
    features, field, keywords = make(name, dtype, generator)
    source_index = torch.randint(0, 2, field.shape[:1], generator=generator, dtype=torch.int32)
    both = torch.cat([features[:1], features[:1].flip(1)])
    return {"features": both, "field": field, "source_index": source_index, **keywords}


def expected_of(named):
    """`expected` of arguments by name."""
    keywords = dict(named)
    return expected(keywords.pop("features"), keywords.pop("field"), keywords)


@pytest.mark.gpu
class TestOnGpu:
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("name", CASES)
    def test_warp_matches_reference(self, name, dtype, generator):
        features, field, keywords = make(name, dtype, generator)
        want = expected(features, field, keywords)
        assert_close(warp(features.cuda(), field.cuda(), **on("cuda", keywords)).cpu(), want)

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_warp_on_a_side_stream(self, dtype, generator):
        need_side_stream(warp, arguments("features of a network", dtype, generator), expected_of)

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_warp_graph_replays_on_changed_inputs(self, dtype, generator):
        draws = [arguments("features of a network", dtype, generator) for _ in range(2)]
        need_graph_replay(warp, draws, expected_of)

    def test_warp_graph_switches_pictures_by_one_number(self, generator):
        first = arguments("features of a network", torch.float16, generator)
        draws = [first | {"source_index": torch.tensor([picture], dtype=torch.int32)} for picture in (0, 1)]
        need_graph_replay(warp, draws, expected_of)


# feature maps with tables, and pictures with a border
VARIANTS = {}
for dtype, align in (("fp32", 4), ("fp16", 8), ("bf16", 8), ("u8", 1)):
    network = dtype != "u8"
    pointers = {"features_ptr": dtype, "out_ptr": dtype}
    pointers |= {"source_index_ptr": "i32", "index_y_ptr": "i32", "index_x_ptr": "i32"}
    constants = {"SOURCE_INDEX": network, "HAS_SCALE": network, "HAS_SHIFT": network, "TABLE": network}
    constants |= {"ACTIVATION": 2 if network else 0, "BORDER": not network, "FIELD_BILINEAR": not network}
    constants |= {"ALIGN": align, "BLOCK_X": 32 if network else 256, "BLOCK_C": 64 if network else 4}
    VARIANTS[dtype] = (pointers, constants)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    return compile_offline("fastreenact.kernels.warp", "_warp_kernel", VARIANTS, tmp_path_factory.mktemp("ptx"))


def test_every_access_is_checked_by_the_planted_error(generator):
    """The comparison notices one pixel's shift and swapped axes."""
    features, field, keywords = make("odd", torch.float32, generator)
    want = expected(features, field, keywords)
    for wrong in (expected(features.roll(1, 2), field, keywords), expected(features, field.flip(-1), keywords)):
        with pytest.raises(AssertionError):
            assert_close(wrong.float(), want)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_warp_compiles_without_spills(architecture, compiled, tmp_path):
    need_no_spills(compiled, architecture, len(VARIANTS), tmp_path)
