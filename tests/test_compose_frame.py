"""compose_frame on the CPU and the GPU against its reference in float64."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import DEVICES, assert_close
from host_emulation import build, gpu_call
from torch import Tensor

from fastreenact import _C
from fastreenact.ops import compose_frame, compose_frame_reference
from fastreenact.ops.compose_frame import _COMPOSE_FRAME

DTYPES = [torch.float32, torch.bfloat16]
MOST_GAIN = 1.5
# Side of the square, height and width of the picture, box: the same size, enlarged, shrunk, fractional, beyond edges.
CASES = [
    (1, (1, 1), (0.5, 0.5, 1.0)),
    (1, (17, 19), (8.0, 8.0, 30.0)),
    (64, (64, 64), (32.0, 32.0, 64.0)),
    (64, (90, 90), (45.0, 45.0, 90.0)),
    (32, (321, 700), (350.0, 160.0, 640.0)),
    (256, (17, 19), (9.3, 8.1, 14.7)),
    (300, (40, 50), (20.0, 20.0, 1.4)),
    (48, (61, 83), (40.37, 28.91, 53.23)),
    (48, (61, 83), (10.2, 60.9, 77.7)),
    (48, (61, 83), (75.5, -3.3, 40.0)),
]  # fmt: skip


def make(side: int, shape: tuple[int, int], dtype: torch.dtype, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Values that move levels by up to their whole range, and a picture."""
    raw = (torch.randn(side, side, 4, generator=generator) * 0.5).to(dtype)
    return raw, torch.randint(0, 256, (*shape, 3), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("fade", [0.0, 0.08, 0.5])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("side", "shape", "box"), CASES, ids=str)
def test_compose_frame_reference(side, shape, box, dtype, fade, device, generator):
    raw, surface = make(side, shape, dtype, generator)
    expected = compose_frame_reference(raw.double(), surface.clone(), box, most_gain=MOST_GAIN, fade=fade)
    got = surface.clone().to(device)
    assert compose_frame(raw.to(device), got, box, most_gain=MOST_GAIN, fade=fade) is got
    assert_close(got.cpu(), expected)
    assert side == 300 or not torch.equal(expected, surface)


BOXES = [(40.37, 28.91, 53.23, 0.08), (10.2, 60.9, 77.7, 0.0), (200.0, 28.0, 30.0, 0.5)]  # the last lies outside


def batch(dtype: torch.dtype, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Three squares and pictures, slices of wider ones, and the table of their boxes."""
    raw = (torch.randn(3, 20, 30, 6, generator=generator) * 0.5).to(dtype)[:, :, 4:24, 1:5]
    wide = torch.randint(0, 256, (3, 63, 90, 3), generator=generator, dtype=torch.uint8)
    return raw, wide[:, 1:62, 3:86], torch.tensor(BOXES, dtype=torch.float64)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_compose_frame_of_many_pictures_by_a_table(dtype, device, generator):
    """Each in its own box, as one after the other does it."""
    raw, surface, boxes = batch(dtype, generator)
    flag = torch.zeros(1, dtype=torch.int32, device=device)
    got = surface.clone().to(device)
    compose_frame(raw.to(device), got, None, most_gain=MOST_GAIN, boxes=boxes.to(device), flag=flag)
    for one, square, picture, (x, y, side, fade) in zip(got.cpu(), raw, surface, BOXES, strict=True):
        alone = compose_frame(square, picture.clone(), (x, y, side), most_gain=MOST_GAIN, fade=fade)
        assert torch.equal(one, alone) or device == "cuda"
        assert_close(
            one, compose_frame_reference(square.double(), picture.clone(), (x, y, side), most_gain=MOST_GAIN, fade=fade)
        )
    assert not torch.equal(got[0].cpu(), surface[0])
    assert torch.equal(got[2].cpu(), surface[2])
    assert int(flag) == 0


RUN = """
#include "compose_frame.cu"
using namespace fastreenact;

extern "C" void run(const void* packed, int backwards) {
    ComposeFrameParams p;
    std::memcpy(static_cast<void*>(&p), packed, sizeof p);
    host::launch([&] { compose_frame_kernel(p); }, picture_shape(p.picture_width, p.picture_height, p.n), backwards);
}
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return build(tmp_path_factory.mktemp("compose_frame"), RUN, kernels="compose_frame")


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float16], ids=str)
def test_compose_frame_kernel_on_the_host(library, dtype, generator):
    raw, surface, boxes = batch(dtype, generator)
    raw[1, 3, 12, 2] = float("inf")
    whole, flag = surface.clone(), torch.zeros(1, dtype=torch.int32)
    numbers = {"most_gain": MOST_GAIN, "fade": 0.0, "boxes": boxes, "flag": flag}
    ((_, packed, grid, block, _),) = gpu_call(_COMPOSE_FRAME, raw=raw, surface=surface, **numbers).launches()
    assert (grid, block) == ((2, 16, 3), (64, 4))
    library.run(packed, 0)
    expected = compose_frame_reference(raw.double(), whole, None, most_gain=MOST_GAIN, boxes=boxes)
    assert_close(surface.clone(), expected)
    assert int(flag) == 1


@pytest.mark.parametrize("size", [32, 48, 200])
def test_compose_frame_reference_is_its_formula(size, generator):
    raw, surface = make(48, (size, size), torch.float64, generator)
    maps = torch.cat([255 * raw[..., :3].tanh(), 2.5 * (raw[..., 3:] - torch.tensor(1.5).log()).sigmoid()], -1)
    maps = F.interpolate(maps.permute(2, 0, 1)[None], (size, size), mode="bilinear")[0].permute(1, 2, 0)
    level = maps[..., 3:] * surface + maps[..., :3]
    expected = (level + 0.5).floor().clamp(0, 255).byte()
    box = (size / 2, size / 2, size)
    assert_close(compose_frame_reference(raw, surface.clone(), box, most_gain=2.5), expected)


@pytest.mark.parametrize("device", DEVICES)
def test_compose_frame_rounds_to_nearest(device):
    surface = torch.full((1, 256, 3), 128, dtype=torch.uint8, device=device)
    raw = torch.zeros(256, 256, 4, device=device)
    raw[..., 0] = torch.atanh((torch.arange(256, device=device) - 128.0) / 255)
    for shift, wanted in ((-0.4, 0), (0.4, 0), (0.6, 1)):  # of a level
        raw[..., 1] = torch.atanh(torch.tensor(shift / 255))
        got = compose_frame(raw, surface.clone(), (128, 0, 256), most_gain=MOST_GAIN).cpu()
        assert torch.equal(got[0, :, 0], torch.arange(256).byte())
        assert (got[0, :, 1] == 128 + wanted).all()
        assert (got[0, :, 2] == 128).all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_compose_frame_gain(dtype, device):
    surface = torch.tensor([10, 100, 200], dtype=torch.uint8, device=device).expand(4, 4, 3).contiguous()
    for value, wanted in ((0.0, [10, 100, 200]), (50.0, [15, 150, 255]), (-50.0, [0, 0, 0])):
        raw = torch.tensor([0.0, 0.0, 0.0, value]).to(dtype).to(device).expand(4, 4, 4).contiguous()
        assert compose_frame(raw, surface.clone(), (2, 2, 4), most_gain=1.5)[1, 2].tolist() == wanted


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_compose_frame_hostile_values(dtype, device):
    surface = torch.full((8, 8, 3), 100, dtype=torch.uint8)
    raw = torch.zeros(8, 8, 4)
    raw[1, 1, 0] = float("nan")
    raw[3, 3, 3] = float("nan")
    raw[5, 5, :2] = torch.tensor([float("inf"), -float("inf")])
    raw[6, 6, 3] = float("inf")
    raw[7, 7, 3] = -float("inf")
    expected = surface.clone()
    expected[1, 1, 0], expected[3, 3], expected[5, 5, :2], expected[6, 6] = 0, 0, torch.tensor([255, 0]), 150
    expected[7, 7] = 0
    # One to one: a pixel beside NaN does not have it.
    for function in (compose_frame, compose_frame_reference):
        got = function(raw.to(device, dtype), surface.to(device, copy=True), (4, 4, 8), most_gain=MOST_GAIN)
        assert torch.equal(got.cpu(), expected)


def test_compose_frame_fades_in(generator):
    surface = torch.zeros(100, 100, 3, dtype=torch.uint8)
    raw = torch.full((16, 16, 4), 20.0)  # white
    got = compose_frame(raw, surface, (50, 50, 80), most_gain=MOST_GAIN, fade=0.1)
    line = got[50, :, 0].int()
    assert (line[:10] == 0).all()
    assert (line[90:] == 0).all()
    assert (line[18:82] == 255).all()
    assert torch.equal(line, line.flip(0))
    assert torch.equal(got, got.transpose(0, 1))
    t = (torch.arange(8) + 0.5) / 8
    assert (line[10:18] - 255 * t * t * (3 - 2 * t)).abs().max() <= 0.5001


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_compose_frame_strides(dtype, device, generator):
    raw, surface = (tensor.to(device) for tensor in make(32, (70, 90), dtype, generator))
    expected = compose_frame(raw, surface.clone(), (50, 33, 61), most_gain=MOST_GAIN)
    wide = torch.full((72, 94, 3), 77, dtype=torch.uint8, device=device)
    inner = (slice(1, 71), slice(2, 92))
    wide[inner] = surface
    apart = torch.full((64, 48, 6), float("nan"), dtype=dtype, device=device)[::2, 8:40, 1:5]
    apart.copy_(raw)
    compose_frame(apart, wide[inner], (50, 33, 61), most_gain=MOST_GAIN)
    assert torch.equal(wide[inner], expected)
    wide[inner] = 77
    assert (wide == 77).all()


def test_compose_frame_outside_and_empty(generator):
    raw, surface = make(8, (20, 30), torch.float32, generator)
    for box in ((-50.0, 10.0, 40.0), (10.0, 500.0, 40.0), (10.0, 10.0, 0.01), (1e30, 0.0, 5.0)):
        assert torch.equal(compose_frame(raw, surface.clone(), box, most_gain=MOST_GAIN), surface)
    assert compose_frame(raw, torch.zeros(0, 5, 3).byte(), (2, 2, 4), most_gain=MOST_GAIN).shape == (0, 5, 3)


def test_compose_frame_thread_counts(generator):
    raw, surface = make(64, (500, 331), torch.float32, generator)
    before, found = _C.num_threads(), []
    try:
        for count in (1, 2, 5):
            _C.set_num_threads(count)
            found.append(compose_frame(raw, surface.clone(), (166, 250, 499), most_gain=MOST_GAIN, fade=0.08))
    finally:
        _C.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_compose_frame_opcheck(dtype, generator):
    raw, surface = make(8, (9, 11), dtype, generator)
    for flag in (None, torch.zeros(1, dtype=torch.int32)):
        arguments = (raw, surface, [5.0, 4.0, 9.0], 1.5, 0.1, flag, None)
        torch.library.opcheck(torch.ops.fastreenact.compose_frame.default, arguments)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("value", [float("inf"), -float("inf"), float("nan")])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_compose_frame_raises_its_flag(dtype, value, device, generator):
    raw, surface = make(20, (41, 57), dtype, generator)
    box = (25.0, 18.0, 70.0)  # beyond the picture
    seen_or_not = ((10, 9, 0, 1), (10, 1, 3, 0), (4, 2, 3, 1), (16, 19, 2, 1), (3, 9, 1, 0), (17, 9, 1, 0))
    for row, column, channel, seen in seen_or_not:
        broken = raw.clone()
        broken[row, column, channel] = value
        for op in (compose_frame, compose_frame_reference):
            flag = torch.zeros(1, dtype=torch.int32, device=device)
            op(raw.to(device), surface.to(device), box, most_gain=MOST_GAIN, flag=flag)
            assert flag.item() == 0
            op(broken.to(device), surface.to(device), box, most_gain=MOST_GAIN, flag=flag)
            assert flag.item() == seen
            op(raw.to(device), surface.to(device), box, most_gain=MOST_GAIN, flag=flag)
            assert flag.item() == seen  # only its owner clears it


def grown(**changes: Any) -> dict[str, Any]:
    """Valid arguments of compose_frame but for `changes`."""
    raw, surface = torch.zeros(4, 4, 4), torch.zeros(6, 7, 3, dtype=torch.uint8)
    return {"raw": raw, "surface": surface, "box": (3, 3, 6), "most_gain": 1.5, **changes}


BAD = [
    (grown(raw=None), TypeError, "raw: got NoneType, needs a torch.Tensor"),
    (grown(surface=None), TypeError, "surface: got NoneType, needs a torch.Tensor"),
    (grown(raw=torch.zeros(4, 4, 4).double()), TypeError, "raw: got float64, needs float32 or bfloat16"),
    (grown(raw=torch.zeros(4, 4, 4).half()), TypeError, "raw: got float16"),
    (grown(raw=torch.zeros(4, 4, 3)), ValueError, r"raw: got shape .* needs \[R, R, 4\]"),
    (grown(raw=torch.zeros(4, 5, 4)), ValueError, "raw: got shape .* needs a square"),
    (grown(raw=torch.zeros(0, 0, 4)), ValueError, "raw: got shape .* at least 1 x 1"),
    (grown(raw=torch.zeros(4, 4, 4).permute(2, 1, 0)), ValueError, "raw: got strides"),
    (grown(surface=torch.zeros(6, 7, 3)), TypeError, "surface: got float32, needs uint8"),
    (grown(surface=torch.zeros(6, 7, 4).byte()), ValueError, r"surface: got shape .* needs \[H, W, 3\]"),
    (grown(surface=torch.zeros(6, 7, 4).byte()[..., :3]), ValueError, "surface: got strides .* packed pixels"),
    (grown(surface=torch.zeros(1, 7, 3).byte().expand(6, 7, 3)), ValueError, "surface: got strides .* lie apart"),
    (grown(surface=torch.zeros(6, 7, 3, device="meta").byte()), ValueError, "surface: got device meta, needs cpu"),
    (grown(flag=1), TypeError, "flag: got int, needs a torch.Tensor"),
    (grown(flag=torch.zeros(1)), TypeError, "flag: got float32, needs int32"),
    (grown(flag=torch.zeros(2).int()), ValueError, "flag: got shape"),
    (grown(flag=torch.zeros(1, device="meta").int()), ValueError, "flag: got device meta, needs cpu"),
    (grown(raw=torch.zeros(4, 4, 4, requires_grad=True)), ValueError, "raw: requires grad, but compose_frame is"),
    (grown(box=(3, 3)), ValueError, "box: got .* needs centre x, centre y and a side"),
    (grown(box=(3, 3, 0)), ValueError, "box: got .* more than 0"),
    (grown(box=(float("nan"), 3, 6)), ValueError, "box: got"),
    (grown(most_gain=1.0), ValueError, "most_gain: got 1.0, needs more than 1"),
    (grown(fade=0.6), ValueError, "fade: got 0.6, needs a share of the side from 0 to 0.5"),
    (grown(fade=float("nan")), ValueError, "fade: got nan"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD, ids=[bad[2] for bad in BAD])
def test_compose_frame_refuses(arguments, error, message):
    with pytest.raises(error, match=message):
        compose_frame(**arguments)
