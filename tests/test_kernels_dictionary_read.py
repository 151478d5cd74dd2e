"""dictionary_read in Triton: under its interpreter without a GPU, on a GPU with `-m gpu`, and compiled offline."""

import logging
import re
import sys

import pytest
import torch
from conftest import HAS_GPU, assert_close
from gpu_case import need_graph_replay, need_side_stream, on
from triton_case import ARCHITECTURES, compile_offline, need_no_spills

from fastreenact.ops import define as library
from fastreenact.ops import dictionary_read, dictionary_read_reference

pytest.importorskip("triton", reason="Triton is not installed")

pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # NaN
dictionary_module = sys.modules["fastreenact.ops.dictionary_read"]  # the name in the package is the function
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
# N, M, K, R, C; samples of v; scale
CASES = {
    "one value": ((1, 1, 1, 1, 1), 1, 1.0),
    "odd": ((3, 17, 5, 19, 7), 3, 0.5),
    "one dictionary for all": ((2, 70, 32, 130, 33), 1, 1.0),
    "more channels than a program": ((1, 20, 32, 64, 256), 1, 1.0),
    "large scores": ((1, 9, 16, 100, 20), 1, 50.0),
    "level of a network": ((1, 200, 32, 512, 32), 1, 1.0),
}  # fmt: skip
INTERPRETED = [(name, torch.float32) for name in CASES]
INTERPRETED += [(name, dtype) for name in ("odd", "one dictionary for all") for dtype in DTYPES[1:]]


def make(name, dtype, generator):
    """The arguments of `dictionary_read` for one case, on the CPU."""
    (n, rows, key, entries, channels), samples, scale = CASES[name]
    return {
        "q": torch.randn(n, rows, key, generator=generator).to(dtype),
        "u": (torch.randn(entries, key, generator=generator) * 2 / key**0.5).to(dtype),
        "v": torch.randn(samples, entries, channels, generator=generator).to(dtype),
        "scale": scale,
    }


def expected(arguments):
    """The reference in float64 on the inputs as rounded."""
    wide = {k: v.double() if isinstance(v, torch.Tensor) else v for k, v in arguments.items()}
    return dictionary_read_reference(**wide)


def run(function, arguments):
    """What `function` (q, u, v, scale, out) writes, here."""
    q, u, v, scale = arguments.values()
    out = q.new_empty(len(q), q.shape[1], v.shape[2])
    function(q, u, v, scale, out)
    return out


def launch(q, u, v, scale, out):
    """The kernel itself, which runs on CPU tensors under the interpreter."""
    from fastreenact.kernels.dictionary_read import dictionary_read as kernel

    kernel(q, u, v, out, scale=scale)


@pytest.mark.skipif(HAS_GPU, reason="the interpreter is for machines without a GPU")
class TestInterpreted:
    @pytest.mark.parametrize(("name", "dtype"), INTERPRETED, ids=str)
    def test_dictionary_read_matches_reference(self, name, dtype, generator):
        arguments = make(name, dtype, generator)
        assert_close(run(launch, arguments), expected(arguments))

    def test_dictionary_read_writes_only_its_slice(self, generator):
        """Slices of wider tensors whose rest is NaN."""
        arguments = make("odd", torch.float32, generator)
        scale = arguments.pop("scale")
        far = {name: torch.cat([t, torch.full_like(t, float("nan"))], -1) for name, t in arguments.items()}
        q, u, v = (far[name][..., : arguments[name].shape[-1]] for name in arguments)
        wide = torch.full((3, 20, 12), 77.0)
        inner = wide[:, 2:19, 3:10]
        launch(q, u, v, scale, inner)
        assert_close(inner, expected(arguments | {"scale": scale}))
        inner.fill_(77)
        assert torch.all(wide == 77)

    def test_dictionary_read_nan_stays_in_its_row(self, generator):
        arguments = make("odd", torch.float32, generator)
        arguments["q"][1, 2, 3] = float("nan")
        out = run(launch, arguments)
        assert out[1, 2].isnan().all()
        assert out.isnan().sum() == 7

    def test_dictionary_read_gpu_path(self, generator):
        arguments = make("odd", torch.float32, generator)
        assert_close(run(dictionary_module._DICTIONARY_READ.on_gpu, arguments), expected(arguments))


@pytest.mark.parametrize("without", ["tensor cores", "Triton", "keys that fit"])
def test_dictionary_read_by_attention(without, generator, caplog, monkeypatch):
    """The other way on a GPU: PyTorch's attention, where Triton's kernel would not do."""
    arguments = make("odd", torch.float32, generator)
    library.has_triton.cache_clear()
    if without == "keys that fit":
        monkeypatch.setattr(dictionary_module, "_MAX_KEY", 4)
    elif without == "Triton":
        monkeypatch.setattr(library.importlib.util, "find_spec", lambda name: None)
    else:
        monkeypatch.setattr(dictionary_module, "_has_tensor_cores", lambda device: False)
    try:
        with caplog.at_level(logging.WARNING, "fastreenact"):
            out = run(dictionary_module._DICTIONARY_READ.on_gpu, arguments)
    finally:
        library.has_triton.cache_clear()
    assert_close(out, expected(arguments))
    assert len(caplog.records) == (without == "Triton")


@pytest.mark.gpu
class TestOnGpu:
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("name", CASES)
    def test_dictionary_read_matches_reference(self, name, dtype, generator):
        arguments = make(name, dtype, generator)
        assert_close(dictionary_read(**on("cuda", arguments)).cpu(), expected(arguments))

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_dictionary_read_on_a_side_stream(self, dtype, generator):
        need_side_stream(dictionary_read, make("level of a network", dtype, generator), expected)

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_dictionary_read_graph_replays_on_changed_inputs(self, dtype, generator):
        draws = [make("level of a network", dtype, generator) for _ in range(2)]
        need_graph_replay(dictionary_read, draws, expected)


VARIANTS = {}
for word, channels, warps in (("fp32", 128, 8), ("fp16", 128, 4), ("bf16", 32, 4)):
    pointers = dict.fromkeys(("q_ptr", "u_ptr", "v_ptr", "out_ptr"), word) | {"scale": "fp32"}
    tile = {"WIDEN": False, "BLOCK_M": 64, "BLOCK_R": 64, "BLOCK_K": 32, "BLOCK_C": channels}
    VARIANTS[word] = (pointers, tile, {"num_warps": warps, "num_stages": 2})
WITH_CORES = [architecture for architecture in ARCHITECTURES if architecture >= 80]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ptx")
    module = "fastreenact.kernels.dictionary_read"
    return compile_offline(module, "_dictionary_read_kernel", VARIANTS, folder, WITH_CORES)


@pytest.mark.parametrize("architecture", WITH_CORES)
def test_dictionary_read_compiles_without_spills(architecture, compiled, tmp_path):
    need_no_spills(compiled, architecture, len(VARIANTS), tmp_path)


def test_dictionary_read_multiplies_in_tensor_cores(compiled):
    for architecture, instruction in ((80, "mma.sync"), (86, "mma.sync"), (90, "wgmma.mma_async"), (120, "mma.sync")):
        for word in ("fp16", "bf16"):
            code = (compiled / f"{architecture}-{word}.ptx").read_text()
            assert re.search(re.escape(instruction), code), (architecture, word)
