"""mbconv's CUDA kernels: run on the host (tiles, borders, doubling, chunks, fragments, barriers), and on a GPU."""

import ctypes
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from conftest import assert_close
from gpu_case import need_graph_replay, need_side_stream
from host_emulation import build, gpu_call
from torch import Tensor

from fastreenact import _C
from fastreenact.ops import MbconvKernel, checks, mbconv, mbconv_reference, pack_mbconv
from fastreenact.ops.mbconv import _MBCONV, _unpacked
from fastreenact.ops.packing import pack_fragments, padded

RUN = """
#include "mbconv.cu"
using namespace fastreenact;

template <int32_t kType, bool kHalf>
static void run(const MbconvParams& p, MbconvKernel which, const LaunchShape& shape, bool backwards) {
    void (*const kernels[])(MbconvParams) = {mbconv_narrow_kernel<kType, kHalf>, mbconv_wide_kernel<kType, kHalf>,
                                             mbconv_expand_kernel<kType, kHalf>, mbconv_project_kernel<kType, kHalf>};
    host::launch([&] { kernels[which](p); }, shape.grid_x, shape.grid_y, shape.threads, shape.shared_bytes, backwards);
}

extern "C" void mbconv(const MbconvParams* p, int backwards) {
    const MbconvPlan plan = mbconv_plan(*p);
    for (int i = 0; i < plan.launches; ++i) {
        decltype(&run<kFloat16, false>) function = nullptr;
        if (p->dtype == kFloat32) function = run<kFloat32, false>;
        if (p->dtype == kBFloat16) function = run<kBFloat16, false>;
        if (p->dtype == kFloat16) function = p->half_sums ? run<kFloat16, true> : run<kFloat16, false>;
        function(*p, plan.kernel[i], plan.shape[i], backwards);
    }
}
"""
NARROW, WIDE, EXPAND, PROJECT = "narrow", "wide", "expand", "project"
FLOATS = [torch.float32, torch.float16, torch.bfloat16]
# The hidden map is rounded too, twice: two more roundings than one op has.
GPU_TOLERANCES = {torch.float32: None, torch.float16: (2e-3, 1.5e-3), torch.bfloat16: (1.6e-2, 1.2e-2)}


class Case(NamedTuple):
    """An input, weights that are exact in its dtype, and what is expected of them."""

    x: Tensor
    kernel: MbconvKernel
    upsample: tuple[int, int] | None
    want: Tensor


def case(
    generator: torch.Generator,
    dtype: torch.dtype,
    shape: tuple[int, int, int, int],
    channels_out: int,
    *,
    expansion: int = 6,
    stride: int = 1,
    size: tuple[int, int] | None = None,
    residual: bool = False,
) -> Case:
    channels = shape[3]
    hidden = channels * expansion

    def noise(*sizes: int) -> Tensor:
        return (torch.randn(*sizes, generator=generator) / sizes[-1] ** 0.5).to(dtype).double()

    kernel = MbconvKernel(
        noise(hidden, channels) if expansion > 1 else None,
        noise(hidden, 1)[:, 0] if expansion > 1 else None,
        noise(hidden, 3, 3),
        noise(hidden, 1)[:, 0],
        noise(channels_out, hidden),
        noise(channels_out, 1)[:, 0],
        stride,
        residual,
    )
    x = torch.randn(shape, generator=generator).to(dtype)
    return Case(x, kernel, size, mbconv_reference(x, kernel, upsample=size))


def emulate(
    library: ctypes.CDLL,
    made: Case,
    *,
    architecture: int = 80,
    half_sums: bool = False,
    backwards: bool = False,
    out: Tensor | None = None,
) -> tuple[Tensor, list[int]]:
    """Runs the kernels that the extension would launch; gives the output and which they were."""
    x, kernel, dtype = made.x, made.kernel, made.x.dtype
    out = torch.full(made.want.shape, float("nan"), dtype=dtype) if out is None else out
    kept = {
        "expand": None if kernel.expand is None else pack_fragments(kernel.expand, dtype, "cpu"),
        "expand_bias": None if kernel.expand_bias is None else padded(kernel.expand_bias),
        "depthwise": F.pad(kernel.depthwise.flatten(1).T.float(), (0, -len(kernel.depthwise) % 16)).contiguous(),
        "depthwise_bias": padded(kernel.depthwise_bias),
        "project": pack_fragments(kernel.project, dtype, "cpu"),
        "project_bias": padded(kernel.project_bias),
    }
    channels = kernel.project.shape[0]
    numbers = [x.shape[3], len(kernel.depthwise), channels, checks.DTYPES[dtype]]
    spec = [*numbers, kernel.stride, int(kernel.residual), int(half_sums)]
    call = gpu_call(_MBCONV, architecture, x=x, spec=spec, size=made.upsample, out=out, **kept)
    launches = call.launches()
    if launches:
        library.mbconv(launches[0][1], int(backwards))
    return out, [name.split("_")[1] for name, *_ in launches]


@pytest.fixture(scope="module", params=[75, 80])
def library(request, tmp_path_factory):
    """The kernels for one architecture, and its number."""
    return build(tmp_path_factory.mktemp("mbconv"), RUN, kernels="mbconv", architecture=request.param), request.param


# [N, H, W, C], outputs, options, and the kernels that the plan takes
CASES = [
    ((1, 1, 1, 1), 1, {}, [NARROW]),
    ((1, 9, 18, 14), 14, {"residual": True}, [NARROW]),
    ((2, 8, 16, 8), 8, {"residual": True}, [NARROW]),
    ((1, 5, 7, 52), 14, {}, [NARROW]),
    ((1, 5, 9, 14), 8, {"size": (10, 18)}, [NARROW]),
    ((2, 5, 9, 3), 2, {"size": (9, 17)}, [NARROW]),
    ((1, 6, 6, 16), 8, {"expansion": 1}, [NARROW]),
    ((1, 5, 9, 8), 16, {"expansion": 1, "size": (9, 17)}, [NARROW]),
    ((1, 9, 17, 24), 64, {}, [WIDE]),
    ((1, 4, 5, 12), 90, {"expansion": 4}, [WIDE]),
    ((1, 9, 17, 5), 100, {}, [EXPAND, PROJECT]),
    ((2, 5, 9, 12), 28, {"stride": 2}, [EXPAND, PROJECT]),
    ((1, 8, 18, 8), 12, {"stride": 2, "expansion": 1}, [EXPAND, PROJECT]),
    ((1, 5, 3, 9), 170, {"expansion": 2, "size": (10, 5)}, [EXPAND, PROJECT]),
    ((2, 3, 5, 136), 136, {"expansion": 2, "residual": True}, [EXPAND, PROJECT]),
]  # fmt: skip


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize(("shape", "outputs", "options", "kernels"), CASES, ids=str)
def test_mbconv_on_the_host(library, shape, outputs, options, kernels, dtype, generator):
    if dtype == torch.bfloat16 and library[1] == 75 and shape[3] * outputs > 250:
        pytest.skip("32 shuffles for every product: seconds")
    made = case(generator, dtype, shape, outputs, **options)
    out, used = emulate(library[0], made, architecture=library[1])
    if dtype != torch.float32 or library[1] > 75:  # where float32 finds no room
        assert used == kernels
    assert_close(out, made.want)


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("index", [1, 4, 8, 10, 13])
def test_mbconv_whichever_thread_goes_first(library, index, backwards, generator):
    shape, outputs, options, _ = CASES[index]
    made = case(generator, torch.float16, shape, outputs, **options)
    out, _ = emulate(library[0], made, architecture=library[1], backwards=backwards)
    assert_close(out, made.want)


@pytest.mark.parametrize("index", [1, 8, 14])
def test_mbconv_sums_in_half(library, index, generator):
    shape, outputs, options, _ = CASES[index]
    made = case(generator, torch.float16, shape, outputs, **options)
    out, _ = emulate(library[0], made, architecture=library[1], half_sums=True)
    assert_close(out, made.want)
    assert not torch.equal(out, emulate(library[0], made, architecture=library[1])[0])


@pytest.mark.parametrize("shift", [0, 1, 2, 4])
@pytest.mark.parametrize("channels", [8, 13, 104])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_mbconv_strided_and_writes_only_its_slice(library, dtype, channels, shift, generator):
    """Every width of loads, NaN around x, a sentinel around the output."""
    made = case(generator, dtype, (2, 4, 5, channels), channels, expansion=2, residual=True)
    wide = torch.full((2, 8, 6, channels + 16), float("nan"), dtype=dtype)
    x = wide[:, ::2, 1:, shift : shift + channels]
    x.copy_(made.x)
    around = torch.full((2, 6, 7, channels + 16), 77.0, dtype=dtype)
    inner = (slice(None), slice(1, 5), slice(1, 6), slice(shift, shift + channels))
    out, _ = emulate(library[0], made._replace(x=x), architecture=library[1], out=around[inner])
    assert_close(out.clone(), made.want)
    around[inner] = 77
    assert (around == 77).all()


def test_mbconv_shows_what_overflows(library, generator):
    made = case(generator, torch.float16, (1, 9, 17, 8), 8)
    made.x[0, 4, 5, 2] = float("inf")
    out, _ = emulate(library[0], made, architecture=library[1])
    touched = torch.zeros(1, 9, 17, dtype=torch.bool)
    touched[:, 3:6, 4:7] = True
    assert torch.equal(~out.isfinite().all(-1), touched)


def test_mbconv_of_nothing(library, generator):
    made = case(generator, torch.float16, (0, 4, 4, 8), 8)
    assert emulate(library[0], made, architecture=library[1])[1] == []


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("index", [1, 6, 11])
def test_mbconv_unpacks_what_a_gpu_has(index, dtype, generator):
    """Where there is no kernel PyTorch computes with the packed weights."""
    shape, outputs, options, _ = CASES[index]
    made = case(generator, dtype, shape, outputs, **options)
    kernel, hidden = made.kernel, len(made.kernel.depthwise)
    unpacked = _unpacked(
        None if kernel.expand is None else pack_fragments(kernel.expand, dtype, "cpu"),
        None if kernel.expand_bias is None else padded(kernel.expand_bias),
        F.pad(kernel.depthwise.flatten(1).T.float(), (0, -hidden % 16)),
        padded(kernel.depthwise_bias),
        pack_fragments(kernel.project, dtype, "cpu"),
        padded(kernel.project_bias),
        [shape[3], hidden, outputs, checks.DTYPES[dtype], kernel.stride, int(kernel.residual), 0],
    )
    out = mbconv_reference(made.x, unpacked, upsample=made.upsample)
    assert_close(out, made.want)


# file, what stands there, what is put in its place, the case that notices
PLANTS = [
    ("mbconv_plan.h", "return p.upsample ? (i + 1) / 2 : i;", "return p.upsample ? i / 2 : i;", 4),
    ("mbconv_plan.h", "return p.upsample ? p.out_width : p.width;", "return p.width * (1 + p.upsample);", 5),
    ("mbconv_plan.h", "return {first == 0 ? 1 : 0, ", "return {0, ", 1),
    ("mbconv.cu", "        __syncthreads();  // the hidden map", "        // the hidden map", 8),
    ("mbconv.cu", "__syncthreads();\n    }\n    store_outputs<", "}\n    store_outputs<", 10),
    ("mbconv.cu", "wait_copies<0>();", "", 2),
]


@pytest.mark.parametrize("plant", PLANTS, ids=[f"{plant[0]}: {plant[1].strip()}" for plant in PLANTS])
def test_mbconv_notices_a_planted_error(plant, tmp_path, generator):
    code = "\n".join(line for line in RUN.splitlines() if "BFloat16" not in line and "kFloat32" not in line)
    shape, outputs, options, _ = CASES[plant[3]]
    made = case(generator, torch.float16, shape, outputs, **options)
    library = build(tmp_path, code, kernels="mbconv", plant=plant[:3])
    both = torch.stack([emulate(library, made, backwards=backwards)[0] for backwards in (False, True)])
    with pytest.raises(AssertionError, match=r" of "):
        assert_close(both, made.want.expand(both.shape))


@pytest.fixture(params=["extension", "nvrtc", "pytorch"])
def maker(request, monkeypatch):
    """The ways to compute on a GPU."""
    if request.param == "extension" and not _C.WITH_CUDA:
        pytest.skip("the extension was built without nvcc")
    if request.param == "nvrtc":
        pytest.importorskip("cupy", reason="CuPy is not installed")
        monkeypatch.setattr(_C, "WITH_CUDA", False)
    if request.param == "pytorch":
        monkeypatch.setattr("fastreenact.ops.define.cuda_kernels", lambda: False)


# The decoder's blocks of Face2Face^rho at 256, and the largest at 512.
REAL = [
    ((1, 16, 16, 280), 140, {}),
    ((1, 16, 16, 280), 96, {}),
    ((1, 16, 16, 96), 96, {"residual": True}),
    ((1, 32, 32, 168), 64, {}),
    ((1, 32, 32, 64), 64, {"residual": True}),
    ((1, 32, 32, 64), 24, {}),
    ((1, 32, 32, 24), 24, {"residual": True}),
    ((1, 64, 64, 52), 14, {}),
    ((1, 64, 64, 14), 14, {"residual": True}),
    ((1, 64, 64, 14), 8, {"size": (128, 128)}),
    ((1, 256, 256, 8), 8, {"residual": True}),
    ((2, 45, 45, 140), 280, {}),
]  # fmt: skip


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize(("shape", "outputs", "options"), [case[:3] for case in CASES] + REAL, ids=str)
def test_mbconv_on_a_gpu(maker, shape, outputs, options, dtype, generator):
    made = case(generator, dtype, shape, outputs, **options)
    out = mbconv(made.x.cuda(), pack_mbconv(made.kernel, dtype, "cuda"), upsample=made.upsample)
    assert_close(out.cpu(), made.want, GPU_TOLERANCES[dtype])


@pytest.mark.gpu
@pytest.mark.parametrize(("shape", "outputs", "options"), REAL, ids=str)
def test_mbconv_sums_in_half_on_a_gpu(shape, outputs, options, generator):
    made = case(generator, torch.float16, shape, outputs, **options)
    weights = pack_mbconv(made.kernel, torch.float16, "cuda", half_sums=True)
    assert_close(mbconv(made.x.cuda(), weights, upsample=made.upsample).cpu(), made.want, (4e-3, 2e-3))


def on_gpu(made: Case) -> tuple[Callable[..., Tensor], Callable[[dict[str, Any]], Tensor]]:
    """The op, and what is expected, as functions of x."""
    weights = pack_mbconv(made.kernel, made.x.dtype, "cuda")
    return (
        lambda x: mbconv(x, weights, upsample=made.upsample),
        lambda arguments: mbconv_reference(arguments["x"], made.kernel, upsample=made.upsample),
    )


@pytest.mark.gpu
@pytest.mark.parametrize("index", [1, 4, 9])
def test_mbconv_on_a_side_stream(maker, index, generator):
    shape, outputs, options = REAL[index]
    made = case(generator, torch.float16, shape, outputs, **options)
    need_side_stream(on_gpu(made)[0], {"x": made.x}, on_gpu(made)[1])


@pytest.mark.gpu
@pytest.mark.parametrize("index", [1, 4, 9])
def test_mbconv_graph_replays_on_changed_inputs(maker, index, generator):
    shape, outputs, options = REAL[index]
    made = case(generator, torch.float16, shape, outputs, **options)
    need_graph_replay(on_gpu(made)[0], [{"x": made.x}, {"x": -made.x}], on_gpu(made)[1])
