"""spade in Triton: under its interpreter without a GPU, on a GPU with `-m gpu`, and compiled for every architecture."""

import logging
import re
import sys

import pytest
import torch
from conftest import HAS_GPU, assert_close
from gpu_case import on
from triton_case import ARCHITECTURES, compile_offline, need_no_spills

from fastreenact.ops import define as library
from fastreenact.ops import spade, spade_reference

pytest.importorskip("triton", reason="Triton is not installed")

spade_module = sys.modules["fastreenact.ops.spade"]  # the name in the package is the function
DTYPES = [
    (torch.float32, torch.float32),
    (torch.float16, torch.float32),
    (torch.float16, torch.float16),
    (torch.bfloat16, torch.float32),
    (torch.bfloat16, torch.bfloat16),
]
# N H W C, pictures and side of the tables, folded, activation
CASES = {
    "one value": ((1, 1, 1, 1), (1, 1), True, None),
    "odd": ((3, 7, 11, 5), (3, 4), False, "relu"),
    "table": ((2, 5, 9, 24), (2, 5), True, "relu"),
    "shared table": ((3, 5, 6, 12), (1, 5), False, "tanh"),
    "halves that start unaligned": ((1, 4, 7, 52), (1, 3), True, "tanh"),
    "more channels than a program": ((1, 2, 3, 1100), (1, 2), False, None),
    "layer of a network": ((1, 16, 16, 280), (1, 16), True, "relu"),
    "doubled": ((2, 7, 10, 24), (2, 5), True, "relu"),
}  # fmt: skip
INTERPRETED = [(name, DTYPES[0]) for name in CASES]
INTERPRETED += [(name, dtypes) for name in ("odd", "table") for dtypes in DTYPES[1:]]


def make(name, dtypes, generator):
    """The arguments of `spade` for one case, on the CPU: tables as halves of one tensor."""
    shape, (pictures, side), folded, activation = CASES[name]
    channels = shape[3]
    both = torch.randn(pictures, side, side, 2 * channels, generator=generator).to(dtypes[1])
    arguments = {
        "x": torch.randn(shape, generator=generator).to(dtypes[0]),
        "gamma_table": both[..., :channels],
        "beta_table": both[..., channels:],
        "index_y": torch.randint(0, side, shape[1:2], generator=generator, dtype=torch.int32),
        "index_x": torch.randint(0, side, shape[2:3], generator=generator, dtype=torch.int32),
        "activation": activation,
    }
    if name == "doubled":
        arguments["x"] = arguments["x"][:, :4, :5].contiguous()
    if not folded:
        arguments["mean"] = torch.randn(channels, generator=generator)
        arguments["inv_std"] = torch.rand(channels, generator=generator) + 0.5
    return arguments


def expected(arguments):
    """The reference in float64 on the inputs as rounded."""
    floats = ("x", "gamma_table", "beta_table", "mean", "inv_std")
    return spade_reference(**{name: v.double() if name in floats else v for name, v in arguments.items()})


def launch(arguments, out):
    """The kernel itself, which runs on CPU tensors under the interpreter."""
    from fastreenact.kernels.spade import spade as kernel

    kernel(**{**arguments, "activation": {None: 0, "relu": 1, "tanh": 2}[arguments["activation"]]}, out=out)


def dispatch(arguments, out):
    """The GPU's path on CPU tensors, checks and all."""
    names = ("x", "gamma_table", "beta_table", "index_y", "index_x", "mean", "inv_std", "activation")
    spade_module._SPADE.on_gpu(*(arguments.get(name) for name in names), out)


@pytest.mark.skipif(HAS_GPU, reason="the interpreter is for machines without a GPU")
class TestInterpreted:
    @pytest.mark.parametrize(("name", "dtypes"), INTERPRETED, ids=str)
    def test_spade_matches_reference(self, name, dtypes, generator):
        arguments = make(name, dtypes, generator)
        out = torch.empty(CASES[name][0], dtype=dtypes[0])
        launch(arguments, out)
        assert_close(out, expected(arguments))

    @pytest.mark.parametrize("channels", [3, 8, 52])
    def test_spade_writes_only_its_slice(self, channels, generator):
        """Channels of a wider tensor, from a slice of a wider tensor with every other row."""
        arguments = make("odd", DTYPES[0], generator)
        shape = (2, 6, 5, channels)
        arguments |= {"mean": None, "inv_std": None, "index_y": torch.arange(6).int() % 4}
        arguments["index_x"] = torch.arange(5).int() % 4
        arguments["gamma_table"], arguments["beta_table"] = torch.randn(2, 1, 4, 4, channels, generator=generator)
        wide = torch.full((2, 12, 5, channels + 9), float("nan"))
        arguments["x"] = wide[:, ::2, :, 2 : 2 + channels]
        arguments["x"].copy_(torch.randn(shape, generator=generator))
        out = torch.full((2, 8, 10, channels + 6), 77.0)
        inner = out[:, 1:7, 2:7, 3 : 3 + channels]
        launch(arguments, inner)
        assert_close(inner, expected({name: v for name, v in arguments.items() if v is not None}))
        inner.fill_(77)
        assert torch.all(out == 77)

    def test_spade_in_place(self, generator):
        arguments = make("table", DTYPES[0], generator)
        want = expected(arguments)
        launch(arguments, arguments["x"])
        assert_close(arguments["x"], want)

    def test_spade_empty(self, generator):
        for shape in ((0, 4, 4, 3), (2, 0, 4, 3), (2, 4, 4, 0)):
            arguments = make("one value", DTYPES[0], generator) | {"x": torch.zeros(shape)}
            launch(arguments, arguments["x"])

    def test_spade_nan_stays_in_its_element(self, generator):
        arguments = make("odd", DTYPES[0], generator)
        arguments["x"][1, 3, 4, 2] = float("nan")
        for activation in (None, "relu", "tanh"):
            out = torch.zeros_like(arguments["x"])
            launch(arguments | {"activation": activation}, out)
            assert out.isnan().nonzero().tolist() == [[1, 3, 4, 2]]

    @pytest.mark.parametrize("name", ["odd", "table"])
    def test_spade_gpu_path(self, name, generator, caplog):
        """What the dispatch makes of its arguments: the kernel, or PyTorch where Triton is missing, said once."""
        arguments = make(name, DTYPES[0], generator)
        out = torch.empty_like(arguments["x"])
        dispatch(arguments, out)
        assert_close(out, expected(arguments))
        assert not caplog.records


def test_spade_without_triton(generator, caplog, monkeypatch):
    monkeypatch.setattr(library.importlib.util, "find_spec", lambda name: None)
    library.has_triton.cache_clear()
    arguments = make("odd", DTYPES[0], generator)
    try:
        with caplog.at_level(logging.WARNING, "fastreenact"):
            for _ in range(2):
                out = torch.empty_like(arguments["x"])
                dispatch(arguments, out)
                assert_close(out, expected(arguments))
    finally:
        library.has_triton.cache_clear()
    assert [record.getMessage() for record in caplog.records] == [
        "spade on the GPU runs in PyTorch's own kernels: Triton is not installed"
    ]


def test_spade_comparison_sees_planted_errors(generator):
    """One pixel's shift of the indices, and gamma where beta belongs."""
    arguments = make("table", DTYPES[0], generator)
    gamma, beta = arguments["gamma_table"], arguments["beta_table"]
    for wrong in ({"index_x": arguments["index_x"].roll(1)}, {"gamma_table": beta, "beta_table": gamma}):
        with pytest.raises(AssertionError):
            assert_close(expected(arguments | wrong).float(), expected(arguments))


@pytest.mark.gpu
class TestOnGpu:
    @pytest.mark.parametrize("dtypes", DTYPES, ids=str)
    @pytest.mark.parametrize("name", CASES)
    def test_spade_matches_reference(self, name, dtypes, generator):
        arguments = make(name, dtypes, generator)
        assert_close(spade(**on("cuda", arguments)).cpu(), expected(arguments))


# x and tables, constants: what the layers of the networks are, and odd channels one by one
VARIANTS = {}
for x, table, align in (("fp32", "fp32", 4), ("fp16", "fp16", 8), ("bf16", "fp32", 8), ("fp32", "fp32", 1)):
    pointers = {"x_ptr": x, "out_ptr": x, "gamma_ptr": table, "beta_ptr": table}
    pointers |= {"index_y_ptr": "i32", "index_x_ptr": "i32"}
    constants = {"CHANNELS": 280 if align > 1 else 5, "FOLDED": x != "bf16", "HALF": int(x == "fp16")}
    constants["ACTIVATION"] = 1 if x != "bf16" else 2
    VARIANTS[f"{x}-{align}"] = (pointers, constants | {"ALIGN": align, "BLOCK": 256})


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    return compile_offline("fastreenact.kernels.spade", "_spade_kernel", VARIANTS, tmp_path_factory.mktemp("ptx"))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_spade_compiles_without_spills(architecture, compiled, tmp_path):
    need_no_spills(compiled, architecture, len(VARIANTS), tmp_path)


def test_spade_moves_16_bytes_an_access(compiled):
    """x, the tables and the output of a layer, where every stride allows it."""
    code = (compiled / "90-fp16-8.ptx").read_text()
    assert len(re.findall(r"ld\.global\.v4\.b32", code)) == 6
    assert len(re.findall(r"st\.global\.v4\.b32", code)) == 2
