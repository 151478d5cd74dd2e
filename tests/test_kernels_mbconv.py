"""mbconv's CUDA kernels run on the host: tiles, borders, doubling, chunks, fragments and barriers."""

import ctypes
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import assert_close
from host_emulation import build
from torch import Tensor

from fastreenact.ops import checks
from fastreenact.ops.fragments import pack_fragments
from fastreenact.ops.nvrtc import MBCONV_PARAMS

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
NARROW, WIDE, EXPAND, PROJECT = range(4)
FLOATS = [torch.float32, torch.float16, torch.bfloat16]


def case(
    generator: torch.Generator, dtype: torch.dtype, shape: tuple[int, int, int, int], channels_out: int, *,
    expansion: int = 6, stride: int = 1, size: tuple[int, int] | None = None, residual: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """x, weights in float64 (rounded to `dtype` where they are multiplied so), what is expected, and the words."""
    n, height, width, channels = shape
    hidden = channels * expansion

    def weight(*sizes: int) -> Tensor:
        values = torch.randn(*sizes, generator=generator, dtype=torch.float64) / sizes[-1] ** 0.5
        return values.to(dtype).double()

    x = torch.randn(n, height, width, channels, generator=generator).to(dtype)
    expand = weight(hidden, channels) if expansion > 1 else None
    depthwise = torch.randn(hidden, 9, generator=generator).double() / 3
    project = weight(channels_out, hidden)
    biases = [torch.randn(c, generator=generator).double() for c in (hidden, hidden, channels_out)]
    y = x.double().permute(0, 3, 1, 2)
    if size is not None:
        y = F.interpolate(y, scale_factor=2, mode="nearest")[..., : size[0], : size[1]]
    z = y if expand is None else F.conv2d(y, expand[..., None, None], biases[0]).relu()
    z = F.conv2d(z, depthwise.view(hidden, 1, 3, 3), biases[1], stride, 1, groups=hidden).relu()
    z = F.conv2d(z, project[..., None, None], biases[2])
    want = (z + y if residual else z).permute(0, 2, 3, 1)
    words = {"stride": stride, "upsample": int(size is not None), "residual": int(residual)}
    return {"x": x, "expand": expand, "depthwise": depthwise, "project": project, "biases": biases, "want": want,
            "words": words}  # fmt: skip


def padded(values: Tensor) -> Tensor:
    return F.pad(values, (0, -values.shape[-1] % 16)).float().contiguous()


def emulate(library, made, *, architecture=80, half_sums=False, backwards=False, out=None, x=None):
    """Runs the kernels; gives the output and which they were."""
    x = made["x"] if x is None else x
    want, dtype = made["want"], x.dtype
    out = torch.full(want.shape, float("nan"), dtype=dtype) if out is None else out
    kept = {
        "expand": None if made["expand"] is None else pack_fragments(made["expand"], dtype, "cpu"),
        "project": pack_fragments(made["project"], dtype, "cpu"),
        "expand_bias": padded(made["biases"][0]), "depthwise": padded(made["depthwise"].T),
        "depthwise_bias": padded(made["biases"][1]), "project_bias": padded(made["biases"][2]),
    }  # fmt: skip
    fields = {name: 0 if tensor is None else tensor.data_ptr() for name, tensor in kept.items()}
    fields |= dict(zip(("n", "height", "width", "channels_in"), x.shape, strict=True))
    fields |= dict(zip(("out_height", "out_width", "channels_out"), want.shape[1:], strict=True))
    for name, tensor in (("x", x), ("out", out)):
        fields |= {f"{name}_stride_{axis}": step for axis, step in zip("nyx", tensor.stride(), strict=False)}
        fields[name] = tensor.data_ptr()
    fields |= made["words"] | {"hidden": made["project"].shape[1], "dtype": checks.DTYPES[dtype]}
    fields |= {"half_sums": int(half_sums), "architecture": architecture, "workspace": 0}
    packed = np.zeros((), MBCONV_PARAMS)
    for name in MBCONV_PARAMS.names:
        packed[name] = fields[name]
    address = ctypes.c_void_p(packed.ctypes.data)
    kernels = (ctypes.c_int32 * 2)()
    library.plan.restype = ctypes.c_int64
    workspace = torch.full((library.plan(address, kernels),), 255, dtype=torch.uint8)
    packed["workspace"] = workspace.data_ptr()
    library.mbconv(address, int(backwards))
    return out, [kernel for kernel in kernels if kernel >= 0]


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
    ((1, 8, 18, 8), 12, {"stride": 2, "expansion": 1}, [PROJECT]),
    ((1, 5, 3, 9), 170, {"expansion": 2, "size": (10, 5)}, [EXPAND, PROJECT]),
    ((2, 3, 5, 136), 136, {"expansion": 2, "residual": True}, [EXPAND, PROJECT]),
]  # fmt: skip


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize(("shape", "outputs", "options", "kernels"), CASES, ids=str)
def test_mbconv_on_the_host(library, shape, outputs, options, kernels, dtype, generator):
    made = case(generator, dtype, shape, outputs, **options)
    out, used = emulate(library[0], made, architecture=library[1])
    if dtype != torch.float32 or library[1] > 75:  # where float32 finds no room
        assert used == kernels
    assert_close(out, made["want"])


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("index", [1, 4, 8, 10, 13])
def test_mbconv_whichever_thread_goes_first(library, index, backwards, generator):
    shape, outputs, options, _ = CASES[index]
    made = case(generator, torch.float16, shape, outputs, **options)
    out, _ = emulate(library[0], made, architecture=library[1], backwards=backwards)
    assert_close(out, made["want"])


@pytest.mark.parametrize("index", [1, 8, 14])
def test_mbconv_sums_in_half(library, index, generator):
    shape, outputs, options, _ = CASES[index]
    made = case(generator, torch.float16, shape, outputs, **options)
    out, _ = emulate(library[0], made, architecture=library[1], half_sums=True)
    assert_close(out, made["want"])
    assert not torch.equal(out, emulate(library[0], made, architecture=library[1])[0])


@pytest.mark.parametrize("shift", [0, 1, 2, 4])
@pytest.mark.parametrize("channels", [8, 13, 104])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_mbconv_strided_and_writes_only_its_slice(library, dtype, channels, shift, generator):
    """Every width of loads, NaN around x, a sentinel around the output."""
    made = case(generator, dtype, (2, 4, 5, channels), channels, expansion=2, residual=True)
    wide = torch.full((2, 8, 6, channels + 16), float("nan"), dtype=dtype)
    x = wide[:, ::2, 1:, shift : shift + channels]
    x.copy_(made["x"])
    around = torch.full((2, 6, 7, channels + 16), 77.0, dtype=dtype)
    inner = (slice(None), slice(1, 5), slice(1, 6), slice(shift, shift + channels))
    out, _ = emulate(library[0], made, architecture=library[1], x=x, out=around[inner])
    assert_close(out.clone(), made["want"])
    around[inner] = 77
    assert (around == 77).all()


def test_mbconv_shows_what_overflows(library, generator):
    made = case(generator, torch.float16, (1, 9, 17, 8), 8)
    made["x"][0, 4, 5, 2] = float("inf")
    out, _ = emulate(library[0], made, architecture=library[1])
    touched = torch.zeros(1, 9, 17, dtype=torch.bool)
    touched[:, 3:6, 4:7] = True
    assert torch.equal(~out.isfinite().all(-1), touched)


def test_mbconv_of_nothing(library, generator):
    made = case(generator, torch.float16, (0, 4, 4, 8), 8)
    assert emulate(library[0], made, architecture=library[1])[1] == []


# file, what stands there, what is put in its place, the case that notices
PLANTS = [
    ("mbconv_plan.h", "return p.upsample ? (i + 1) / 2 : i;", "return p.upsample ? i / 2 : i;", 4),
    ("mbconv_plan.h", "return p.upsample ? p.out_width : p.width;", "return p.width * (1 + p.upsample);", 5),
    ("mbconv_plan.h", "return at >= 0 && at < extent;", "return at >= 0 && at <= extent;", 1),
    ("mbconv.cu", "        __syncthreads();  // the hidden map", "        // the hidden map", 8),
    ("mbconv.cu", "__syncthreads();\n        if (c0 + kChunk < hidden)", "if (c0 + kChunk < hidden)", 10),
    ("mbconv.cu", "wait_copies<0>();", "", 2),
]  # fmt: skip


@pytest.mark.parametrize("plant", PLANTS, ids=[f"{plant[0]}: {plant[1].strip()}" for plant in PLANTS])
def test_mbconv_notices_a_planted_error(plant, tmp_path, generator):
    code = "\n".join(line for line in RUN.splitlines() if "kBFloat16" not in line and "kFloat32" not in line)
    shape, outputs, options, _ = CASES[plant[3]]
    made = case(generator, torch.float16, shape, outputs, **options)
    library = build(tmp_path, code, kernels="mbconv", plant=plant[:3])
    both = torch.stack([emulate(library, made, backwards=backwards)[0] for backwards in (False, True)])
    with pytest.raises(AssertionError, match=r" of "):
        assert_close(both, made["want"].expand(both.shape))
