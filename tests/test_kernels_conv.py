"""conv's CUDA kernels: run on the host thread by thread, and on a GPU."""

import ctypes
from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import assert_close
from gpu_case import need_graph_replay, need_side_stream
from host_emulation import build, gpu_call
from test_conv import AXES, SHAPES, make
from torch import Tensor

from fastreenact import _C
from fastreenact.ops import Axis, ConvKernel, conv, conv_many, conv_reference, pack_conv
from fastreenact.ops.conv import _CONV
from fastreenact.ops.conv_kernel import ConvWeights, geometry, unpack
from fastreenact.ops.packing import pack_fragments

# `tile` forces one that the plan would not choose.
RUN = """
#include "conv.cu"
using namespace fastreenact;

template <int32_t kType>
static void run(const ConvBatch& batch, int32_t tile, bool backwards) {
    void (*const kernels[kConvTileCount])(ConvBatch) = {conv_kernel<kType, 0>, conv_kernel<kType, 1>,
                                                        conv_kernel<kType, 2>, conv_kernel<kType, 3>};
    const LaunchShape s = conv_shape(batch, tile, kArchitecture);
    host::launch([&] { kernels[tile](batch); }, s.grid_x, 1, int(s.threads), int(s.shared_bytes), backwards);
}

extern "C" int run(const void* packed, int tile, int backwards) {
    ConvBatch batch;
    std::memcpy(static_cast<void*>(&batch), packed, sizeof batch);
    const int32_t planned = plan_convs(batch), dtype = batch.convs[0].dtype;
    if (planned < 0) return planned;
    if (tile >= 0) {
        int64_t blocks = 0;
        for (int i = 0; i < batch.count; ++i) {
            batch.first_block[i] = int32_t(blocks);
            blocks += conv_blocks(batch.convs[i], kConvTiles[tile]);
        }
        batch.first_block[batch.count] = int32_t(blocks);
    } else {
        tile = planned;
    }
    (dtype == kFloat32 ? run<kFloat32> : dtype == kBFloat16 ? run<kBFloat16> : run<kFloat16>)(batch, tile, backwards);
    return tile;
}
"""
FLOATS = [torch.float32, torch.float16, torch.bfloat16]
# Outputs that leave the last of a tile's idle, by tile.
OUTPUTS = [70, 37, 37, 20]


@pytest.fixture(scope="module")
def libraries(tmp_path_factory) -> dict[int, ctypes.CDLL]:
    """The kernels for the host, as they are without and with copies in the background."""
    return {
        architecture: build(tmp_path_factory.mktemp("conv"), RUN, kernels="conv", architecture=architecture)
        for architecture in (75, 80)
    }


def pack_for_gpu(kernel: ConvKernel, dtype: torch.dtype) -> ConvWeights:
    """What `pack_conv` packs for a GPU, on the CPU."""
    weights = pack_conv(kernel, dtype)
    parts, at, length = [], [0] * 25, 0
    for (y, x), weight in sorted(kernel.weights.items()):
        parts.append(pack_fragments(weight.flatten(1), dtype, "cpu").flatten())
        at[5 * y + x], length = length, length + len(parts[-1])
    return ConvWeights(torch.cat(parts), weights.bias, weights.spec[:-25] + at)


def on_host(
    library: ctypes.CDLL,
    calls: list[dict[str, Any]],
    *,
    architecture: int = 80,
    tile: int = -1,
    backwards: bool = False,
) -> int:
    """`conv_many` by the kernels on the host; gives the tile taken."""
    convs = []
    for call in calls:
        rest = {"x_scale": 1.0, "x_shift": 0.0, **call}
        weights = rest.pop("weights")
        convs.append(gpu_call(_CONV, architecture, packed=weights.packed, bias=weights.bias, spec=weights.spec, **rest))
    ((_, packed, *_),) = _C.conv_many([(conv.call, tuple(conv.addresses)) for conv in convs]).launches(0)
    return library.run(packed, tile, int(backwards))


def blank(expected: Tensor, dtype: torch.dtype) -> Tensor:
    """An output that is NaN."""
    return torch.full(expected.shape, float("nan"), dtype=dtype)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("axis", AXES.values(), ids=AXES.keys())
@pytest.mark.parametrize("shape", [(1, 4, 4, 1, 1), (2, 5, 7, 3, 5), (1, 6, 5, 16, 37)], ids=str)
def test_conv_kernels_see_what_each_output_sees(libraries, shape, axis, dtype, generator):
    x, kernel = make(shape, axis, dtype, generator)
    expected = conv_reference(x, kernel)
    out = blank(expected, dtype)
    assert on_host(libraries[80], [{"x": x, "weights": pack_for_gpu(kernel, dtype), "out": out}]) == 3
    assert_close(out, expected)


@pytest.mark.parametrize("architecture", [75, 80])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("tile", range(4))
def test_conv_kernels_of_every_tile(libraries, tile, dtype, architecture, generator):
    """Two tiles of pixels and of outputs, the second ones not full; more stages than are held."""
    if dtype == torch.bfloat16 and architecture == 75 and tile < 2:
        pytest.skip("shuffles in place of tensor cores take seconds here, and narrower tiles have the same")
    x, kernel = make((1, 11, 13, 24, OUTPUTS[tile]), AXES["3x3"], dtype, generator)
    expected = conv_reference(x, kernel)
    out = blank(expected, dtype)
    call = {"x": x, "weights": pack_for_gpu(kernel, dtype), "out": out}
    on_host(libraries[architecture], [call], architecture=architecture, tile=tile, backwards=architecture == 75)
    assert_close(out, expected)


@pytest.mark.parametrize(
    ("x_dtype", "channels"),
    [(torch.uint8, 3), (torch.uint8, 12), (torch.float32, 6), (torch.float32, 52), (torch.bfloat16, 20)],
    ids=str,
)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_conv_kernels_convert(libraries, dtype, x_dtype, channels, generator):
    _, kernel = make((1, 1, 1, channels, 18), AXES["4x4 by 2"], dtype, generator)
    x = (torch.rand(1, 7, 6, channels, generator=generator) * 255).to(x_dtype)
    expected = conv_reference((x.double() * 0.0078125 - 1).to(dtype).double(), kernel)
    out = blank(expected, torch.float32)
    call = {"x": x, "weights": pack_for_gpu(kernel, dtype), "out": out, "x_scale": 0.0078125, "x_shift": -1.0}
    on_host(libraries[80], [call])
    assert_close(out, expected)


@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("channels_out", [5, 20])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_conv_kernels_add(libraries, dtype, channels_out, half, activation, generator):
    x, kernel = make((3, 5, 3, 8, channels_out), AXES["3x3"], dtype, generator)
    source_index = torch.tensor([4, 0, 2], dtype=torch.int32)
    rest = {
        "add": torch.randn(5, 5, 3, channels_out, generator=generator).to(dtype),
        "residual": torch.randn(3, *((3, 2) if half else (5, 3)), channels_out, generator=generator).to(dtype),
        "source_index": source_index,
        "activation": activation,
    }
    expected = conv_reference(x, kernel, **rest)
    out = blank(expected, dtype)
    on_host(libraries[80], [{"x": x, "weights": pack_for_gpu(kernel, dtype), "out": out, **rest}])
    assert_close(out, expected)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("first", [2, 3, 8])  # two channels at once, one, and whole chunks
def test_conv_kernels_write_their_slice_only(libraries, first, dtype, generator):
    _, kernel = make((1, 1, 1, 8, 6), AXES["doubled"], dtype, generator)
    x = torch.randn(2, 4, 5, 24, generator=generator).to(dtype)[..., first : first + 8]
    target = torch.full((2, 7, 10, 24), 7.0, dtype=dtype)
    out = target[..., first : first + 6]
    expected = conv_reference(x, kernel, residual=out.clone(), size=(7, 10))
    on_host(libraries[80], [{"x": x, "weights": pack_for_gpu(kernel, dtype), "residual": out, "out": out}])
    assert_close(out, expected)
    out.fill_(7)
    assert bool((target == 7).all())


def test_conv_kernels_of_several_convolutions(libraries, generator):
    calls, wanted = [], []
    for shape, axis in (((1, 4, 4, 8, 24), "five a cell"), ((2, 5, 3, 3, 40), "3x3"), ((1, 1, 1, 16, 8), "doubled")):
        x, kernel = make(shape, AXES[axis], torch.float16, generator)
        wanted.append(conv_reference(x, kernel))
        calls.append({"x": x, "weights": pack_for_gpu(kernel, torch.float16), "out": blank(wanted[-1], torch.float16)})
    on_host(libraries[80], calls)
    for call, expected in zip(calls, wanted, strict=True):
        assert_close(call["out"], expected)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_conv_unpacks_what_was_packed_for_a_gpu(dtype, generator):
    """What PyTorch computes with where there is no kernel."""
    _, kernel = make((1, 1, 1, 6, 20), AXES["five a cell"], dtype, generator)
    packed = pack_for_gpu(kernel, dtype)
    found = unpack(packed.packed, packed.bias, geometry(packed.spec))
    assert all(torch.equal(found.weights[phase].double(), weight) for phase, weight in kernel.weights.items())
    assert torch.equal(found.bias, kernel.bias.float())


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("axis", AXES.values(), ids=AXES.keys())
@pytest.mark.parametrize("shape", [*SHAPES, (1, 17, 19, 64, 64), (1, 92, 92, 64, 64), (1, 64, 64, 16, 2)], ids=str)
def test_conv_kernels_match_reference_on_gpu(maker, shape, axis, dtype, generator):
    x, kernel = make(shape, axis, dtype, generator)
    # One running sum of 4,000 to 9,000 products in float32 is 1e-6 to 2e-6 off.
    tolerance = (1e-5, 3e-6) if dtype == torch.float32 and kernel.weights[0, 0][0].numel() > 4000 else None
    assert_close(conv(x.cuda(), pack_conv(kernel, dtype, "cuda")).cpu(), conv_reference(x, kernel), tolerance)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_conv_kernels_of_several_convolutions_on_gpu(maker, dtype, generator):
    calls, wanted = [], []
    for shape, axis in (((1, 16, 16, 8, 24), "five a cell"), ((2, 5, 3, 3, 40), "3x3"), ((1, 9, 9, 16, 8), "doubled")):
        x, kernel = make(shape, AXES[axis], dtype, generator)
        wanted.append(conv_reference(x, kernel))
        out = blank(wanted[-1], dtype).cuda()
        calls.append({"x": x.cuda(), "weights": pack_conv(kernel, dtype, "cuda"), "out": out})
    conv_many(calls)
    for call, expected in zip(calls, wanted, strict=True):
        assert_close(call["out"].cpu(), expected)


def with_weights(kernel: ConvKernel) -> tuple[Any, Any]:
    """The op with weights of `kernel` on the GPU, and what it should give, as gpu_case has them."""
    weights = pack_conv(kernel, torch.float16, "cuda")
    return lambda x: conv(x, weights, activation="relu"), lambda arguments: conv_reference(
        arguments["x"], kernel, activation="relu"
    )


@pytest.mark.gpu
def test_conv_on_a_side_stream(maker, generator):
    x, kernel = make((1, 16, 16, 32, 48), AXES["3x3"], torch.float16, generator)
    op, expected = with_weights(kernel)
    need_side_stream(op, {"x": x}, expected)


@pytest.mark.gpu
def test_conv_graph_replays_on_changed_inputs(maker, generator):
    x, kernel = make((1, 16, 16, 32, 48), AXES["3x3"], torch.float16, generator)
    op, expected = with_weights(kernel)
    need_graph_replay(op, [{"x": x}, {"x": x + 1}], expected)


@pytest.mark.parametrize(
    "plant",
    [
        ("conv_tiles.h", "+ p.axis_x.offset[block.phase_x]", "+ p.axis_x.offset[block.phase_y]"),
        ("conv.cu", "__syncthreads();  // rows are there", ""),
    ],
    ids=["phase", "barrier"],
)
def test_conv_kernels_notice_an_error(plant, tmp_path, generator):
    wrong = build(tmp_path, RUN, kernels="conv", plant=plant)
    x, kernel = make((1, 5, 7, 6, 20), AXES["doubled"], torch.float32, generator)
    kernel = replace(kernel, axis_y=Axis(1, (-1, -1), (2, 2)))
    expected = conv_reference(x, kernel)
    out = blank(expected, torch.float32)
    on_host(wrong, [{"x": x, "weights": pack_for_gpu(kernel, torch.float32), "out": out}])
    with pytest.raises(AssertionError):
        assert_close(out, expected)


@pytest.mark.parametrize(
    ("shape", "axis", "tile"),
    [
        ((1, 16, 16, 128, 560), "five a cell", 0),
        ((1, 92, 92, 256, 64), "3x3", 1),
        ((1, 46, 46, 128, 128), "3x3", 2),
        ((1, 184, 184, 32, 16), "doubled", 1),
        ((1, 368, 368, 16, 2), "3x3", 1),
        ((1, 4, 4, 256, 256), "3x3", 3),
    ],
)
def test_conv_kernels_are_chosen_by_size(shape, axis, tile):
    """SPADE's second convolution at 1440, convolutions of the motion network at 1472, and one at 256."""
    n, height, width, channels_in, channels_out = shape
    phases = AXES[axis].phases
    weights = {(y, x): torch.zeros(channels_out, 1, 1, channels_in) for y in range(phases) for x in range(phases)}
    packed = pack_for_gpu(ConvKernel(AXES[axis], AXES[axis], weights, torch.zeros(channels_out)), torch.float16)
    side = (height * phases, width * phases)
    x, out = torch.empty(shape[:4], dtype=torch.float16), torch.empty((n, *side, channels_out), dtype=torch.float16)
    weights = {"packed": packed.packed, "bias": packed.bias, "spec": packed.spec}
    call = gpu_call(_CONV, 90, x=x, out=out, x_scale=1.0, x_shift=0.0, **weights)
    assert [launch[0] for launch in call.launches()] == [f"conv_kernel<2, {tile}>"]
