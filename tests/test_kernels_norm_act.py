"""norm_act in Triton: under its interpreter without a GPU, on a GPU with `-m gpu`, compiled for every architecture."""

import logging
import re
import sys

import pytest
import torch
from conftest import HAS_GPU, assert_close
from gpu_case import need_graph_replay, need_side_stream, on
from triton_case import ARCHITECTURES, compile_offline, need_no_spills

from fastreenact.ops import define as library
from fastreenact.ops import norm_act, norm_act_reference

pytest.importorskip("triton", reason="Triton is not installed")

norm_act_module = sys.modules["fastreenact.ops.norm_act"]  # the name in the package is the function
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # NaN and infinity
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
# shape of x, groups, affine ("N" for one of each sample), residual, activation, upsample
CASES = {
    "two values": ((1, 1, 1, 2), 1, None, False, None, None),
    "odd": ((3, 17, 19, 6), 3, "", True, "relu", None),
    "adaptive": ((2, 9, 8, 12), 12, "N", False, "leaky_relu", (2, 2)),
    "volume": ((2, 3, 5, 4, 24), 8, "", True, "relu", (2, 2, 2)),
    "rows and columns of a volume": ((1, 2, 6, 4, 8), 2, None, False, "leaky_relu", (1, 2, 2)),
    "many channels in a group": ((1, 4, 5, 300), 2, "N", True, None, None),
    "layer of a network": ((1, 8, 24, 24, 96), 32, "", False, "relu", None),
}  # fmt: skip
INTERPRETED = [(name, torch.float32) for name in CASES]
INTERPRETED += [(name, dtype) for name in ("odd", "adaptive") for dtype in DTYPES[1:]]


def make(name, dtype, generator):
    """The arguments of `norm_act` for one case, on the CPU."""
    shape, groups, affine, residual, activation, upsample = CASES[name]
    arguments = {"x": (torch.randn(shape, generator=generator) * 2 + 3).to(dtype), "groups": groups}
    if affine is not None:
        both = torch.randn(*([shape[0]] if affine else []), 2 * shape[-1], generator=generator).to(dtype)
        arguments |= {"scale": both[..., : shape[-1]], "shift": both[..., shape[-1] :]}
    if residual:
        arguments["residual"] = torch.randn(shape, generator=generator).to(dtype)
    return arguments | {"activation": activation, "upsample": upsample}


def expected(arguments):
    """The reference in float64 on the inputs as rounded."""
    return norm_act_reference(**{k: v.double() if isinstance(v, torch.Tensor) else v for k, v in arguments.items()})


def output(arguments):
    return torch.empty(expected(arguments).shape, dtype=arguments["x"].dtype)


def launch(arguments, out):
    """The kernel itself, which runs on CPU tensors under the interpreter."""
    from fastreenact.kernels.norm_act import norm_act as kernel

    kernel(**{**arguments, "activation": {None: 0, "relu": 1, "leaky_relu": 3}[arguments["activation"]]}, out=out)


def dispatch(arguments, out):
    """The GPU's path on CPU tensors, checks and all."""
    names = ("x", "groups", "scale", "shift", "residual", "activation", "upsample")
    norm_act_module._NORM_ACT.on_gpu(*(arguments.get(name) for name in names), 1e-5, out)


@pytest.mark.skipif(HAS_GPU, reason="the interpreter is for machines without a GPU")
class TestInterpreted:
    @pytest.mark.parametrize(("name", "dtype"), INTERPRETED, ids=str)
    def test_norm_act_matches_reference(self, name, dtype, generator):
        arguments = make(name, dtype, generator)
        out = output(arguments)
        launch(arguments, out)
        assert_close(out, expected(arguments))

    @pytest.mark.parametrize("upsample", [None, (1, 2, 2)])
    def test_norm_act_writes_only_its_slice(self, upsample, generator):
        """Channels of a wider tensor, from a slice of a wider tensor with every other row, and a permuted residual."""
        x = torch.full((2, 3, 10, 6, 12), float("nan"))[:, :, ::2, :, 2:9]
        x.copy_(torch.randn(x.shape, generator=generator))
        residual = torch.randn(2, 5, 3, 6, 9, generator=generator).transpose(1, 2)[..., 1:8]
        arguments = {"x": x, "groups": 7, "residual": residual, "activation": "relu", "upsample": upsample}
        _, depth, height, width, _ = expected(arguments).shape
        out = torch.full((2, depth, height + 2, width + 3, 13), 77.0)
        inner = out[:, :, 1 : height + 1, 2 : width + 2, 3:10]
        launch(arguments, inner)
        assert_close(inner, expected(arguments))
        inner.fill_(77)
        assert torch.all(out == 77)

    @pytest.mark.parametrize("groups", [1, 5, 20])
    def test_norm_act_of_a_large_mean(self, groups, generator):
        """Means thousands of deviations away, other ones for each channel of a group or picture half."""
        x = torch.randn(2, 30, 40, 20, generator=generator) + 5000
        x[:, :13] += 7
        x[..., ::3] -= 11
        arguments = {"x": x, "groups": groups, "activation": None}
        out = output(arguments)
        launch(arguments, out)
        assert_close(out, expected(arguments))

    def test_norm_act_many_tiles_of_one_program(self, generator, monkeypatch):
        """More pixels than there are programs for: several tiles for each, the last one short."""
        import fastreenact.kernels.norm_act as kernels

        monkeypatch.setattr(kernels, "_PROGRAMS", 3)
        arguments = make("odd", torch.float32, generator) | {"x": torch.randn(1, 41, 43, 6, generator=generator)}
        arguments["residual"] = None
        out = output(arguments)
        launch(arguments, out)
        assert_close(out, expected(arguments))

    def test_norm_act_empty(self):
        for shape in ((0, 4, 4, 3), (2, 0, 4, 3), (2, 4, 4, 0)):
            launch({"x": torch.zeros(shape), "groups": 3, "activation": None}, torch.zeros(shape))

    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    def test_norm_act_nan_fills_its_group_only(self, bad, generator):
        x = torch.randn(2, 5, 4, 12, generator=generator)
        x[1, 2, 1, 5] = bad
        for activation in (None, "relu", "leaky_relu"):
            out = torch.zeros_like(x)
            launch({"x": x, "groups": 3, "activation": activation}, out)
            assert out[1, ..., 4:8].isnan().all()
            assert out.isnan().sum() == 5 * 4 * 4

    @pytest.mark.parametrize("name", ["odd", "volume"])
    def test_norm_act_gpu_path(self, name, generator):
        arguments = make(name, torch.float32, generator)
        out = output(arguments)
        dispatch(arguments, out)
        assert_close(out, expected(arguments))


def test_norm_act_without_triton(generator, caplog, monkeypatch):
    monkeypatch.setattr(library.importlib.util, "find_spec", lambda name: None)
    library.has_triton.cache_clear()
    arguments = make("odd", torch.float32, generator)
    try:
        with caplog.at_level(logging.WARNING, "fastreenact"):
            out = output(arguments)
            dispatch(arguments, out)
    finally:
        library.has_triton.cache_clear()
    assert_close(out, expected(arguments))
    assert [record.getMessage() for record in caplog.records] == [
        "norm_act on the GPU runs in PyTorch's own kernels: Triton is not installed"
    ]


@pytest.mark.gpu
class TestOnGpu:
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("name", CASES)
    def test_norm_act_matches_reference(self, name, dtype, generator):
        arguments = make(name, dtype, generator)
        assert_close(norm_act(**on("cuda", arguments)).cpu(), expected(arguments))

    def test_norm_act_of_many_blocks(self, generator):
        arguments = {"x": torch.randn(1, 16, 128, 128, 96, generator=generator).half(), "groups": 32}
        assert_close(norm_act(**on("cuda", arguments)).cpu(), expected(arguments))

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_norm_act_on_a_side_stream(self, dtype, generator):
        need_side_stream(norm_act, make("layer of a network", dtype, generator), expected)

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_norm_act_graph_replays_on_changed_inputs(self, dtype, generator):
        need_graph_replay(norm_act, [make("layer of a network", dtype, generator) for _ in range(2)], expected)


# Argument types and constants of each kernel, and how many of it there are.
SUMS, FACTORS, SWEEP = {}, {}, {}
for word, align in (("fp32", 4), ("fp16", 8), ("bf16", 8), ("fp32", 1)):
    pointers = {"x_ptr": word, "residual_ptr": word, "out_ptr": word, "scale_ptr": word, "shift_ptr": word}
    tile = {"ALIGN": align, "BLOCK_P": 16 if align > 1 else 256, "BLOCK_C": 128 if align > 1 else 8}
    SUMS[f"{word}-{align}"] = (pointers, {"FLAT": align > 1, **tile})
    repeat = (
        {"REPEAT_Z": 2, "REPEAT_Y": 2, "REPEAT_X": 2}
        if word == "bf16"
        else dict.fromkeys(("REPEAT_Z", "REPEAT_Y", "REPEAT_X"), 1)
    )
    plain = {"HAS_RESIDUAL": word != "fp16", "ACTIVATION": 3, "FLAT": word == "fp16"}
    SWEEP[f"{word}-{align}"] = (pointers, {**plain, **repeat, **tile})
for members in (3, 1024):
    block = min(members + 1, 128)
    constants = {"HAS_SCALE": True, "HAS_SHIFT": True, "MEMBERS": members, "BLOCK_M": block, "BLOCK_S": 2048 // block}
    FACTORS[str(members)] = ({"eps": "fp32", "scale_ptr": "fp16", "shift_ptr": "fp16"}, constants)
KERNELS = {"_sums_kernel": SUMS, "_factors_kernel": FACTORS, "_sweep_kernel": SWEEP}


@pytest.fixture(scope="module", params=KERNELS)
def compiled(request, tmp_path_factory):
    variants = KERNELS[request.param]
    folder = compile_offline("fastreenact.kernels.norm_act", request.param, variants, tmp_path_factory.mktemp("ptx"))
    return request.param, folder


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_norm_act_compiles_without_spills(architecture, compiled, tmp_path):
    name, folder = compiled
    need_no_spills(folder, architecture, len(KERNELS[name]), tmp_path)


def test_norm_act_moves_16_bytes_an_access(compiled):
    name, folder = compiled
    if name == "_factors_kernel":
        pytest.skip("reads sums of few channels")
    code = (folder / "90-fp16-8.ptx").read_text()
    assert len(re.findall(r"ld\.global\.v4\.b32", code)) >= 2
    assert name == "_sums_kernel" or len(re.findall(r"st\.global\.v4\.b32", code)) == 2
