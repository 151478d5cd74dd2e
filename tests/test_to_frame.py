"""to_frame on the CPU and the GPU against its reference in float64."""

from typing import Any

import pytest
import torch
from conftest import DEVICES, assert_close
from torch import Tensor

from fastreenact.ops import to_frame, to_frame_reference

DTYPES = [torch.float32, torch.bfloat16]
SHAPES = [(1, 1, 1), (3, 17, 19), (1, 256, 256), (2, 3, 1000)]


def make(shape: tuple[int, ...], layout: str, memory: str, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """An image in (-1.1, 1.1) whose axes are `layout` and whose memory order is `memory`."""
    n, height, width = shape
    sizes = (n, 3, height, width) if memory == "nchw" else (n, height, width, 3)
    image = (torch.rand(sizes, generator=generator) * 2.2 - 1.1).to(dtype)
    if layout == memory:
        return image
    return image.permute(0, 2, 3, 1) if memory == "nchw" else image.permute(0, 3, 1, 2)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("tanh", [False, True])
@pytest.mark.parametrize("memory", ["nchw", "nhwc"])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_to_frame_reference(shape, dtype, layout, memory, tanh, device, generator):
    image = make(shape, layout, memory, dtype, generator)
    got = to_frame(image.to(device), layout=layout, tanh=tanh).cpu()
    assert got.is_contiguous()
    assert_close(got, to_frame_reference(image.double(), layout=layout, tanh=tanh))


@pytest.mark.parametrize("device", DEVICES)
def test_to_frame_rounds_to_nearest(device):
    levels = torch.arange(256)
    exact = (levels * 2 / 255 - 1).view(1, 1, 256, 1).expand(1, 1, 256, 3).to(device)
    assert torch.equal(to_frame(exact, layout="nhwc")[0, 0, :, 0].cpu(), levels.byte())
    for shift in (-0.49, 0.49):  # of a level
        assert torch.equal(to_frame(exact + shift * 2 / 255, layout="nhwc")[0, 0, :, 1].cpu(), levels.byte())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("tanh", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_to_frame_hostile_values(dtype, tanh, device):
    values = torch.tensor([float("nan"), float("inf"), -float("inf"), 1e38, -1e38, 1e-40, -0.0, 0.0, 88.0, -200.0])
    image = values.to(dtype).view(1, 1, -1, 1).expand(1, 1, -1, 3)
    got = to_frame(image.to(device), layout="nhwc", tanh=tanh)
    assert got[0, 0, :, 0].tolist() == [0, 255, 0, 255, 0, 128, 128, 128, 255, 0]


@pytest.mark.parametrize("device", DEVICES)
def test_to_frame_writes_only_its_slice(device, generator):
    image = make((2, 6, 300), "nchw", "nchw", torch.float32, generator).to(device)
    wide = torch.full((2, 8, 305, 4), 77, dtype=torch.uint8, device=device)  # RGBX
    inner = (slice(None), slice(1, 7), slice(2, 302), slice(0, 3))
    to_frame(image, out=wide[inner])
    assert torch.equal(wide[inner], to_frame(image))
    wide[inner] = 77
    assert (wide == 77).all()


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 3, 0, 4)])
def test_to_frame_empty(shape):
    assert to_frame(torch.zeros(shape)).shape == (shape[0], shape[2], shape[3], 3)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_to_frame_opcheck(dtype, layout, generator):
    image = make((2, 5, 7), layout, layout, dtype, generator)
    torch.library.opcheck(torch.ops.fastreenact.to_frame.default, (image, layout, True))
    out = torch.zeros(2, 5, 7, 3, dtype=torch.uint8)
    for flag in (None, torch.zeros(1, dtype=torch.int32)):
        torch.library.opcheck(torch.ops.fastreenact.to_frame_out.default, (image, layout, False, out, flag))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("value", [float("inf"), -float("inf"), float("nan")])
@pytest.mark.parametrize(("layout", "memory"), [("nchw", "nchw"), ("nhwc", "nhwc"), ("nhwc", "nchw")])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_to_frame_raises_its_flag(dtype, layout, memory, value, device, generator):
    image = make((2, 17, 300), layout, memory, dtype, generator).to(device)
    for place in ((0, 0, 0, 0), (-1, -1, -1, -1), (1, 1, 2, 1)):
        broken = image.clone()
        broken[place] = value
        for op in (to_frame, to_frame_reference):
            out = torch.zeros(2, 17, 300, 3, dtype=torch.uint8, device=device)
            flag = torch.zeros(1, dtype=torch.int32, device=device)
            op(image, layout=layout, tanh=True, out=out, flag=flag)
            assert flag.item() == 0
            op(broken, layout=layout, tanh=True, out=out, flag=flag)
            assert flag.item() == 1
            op(image, layout=layout, tanh=True, out=out, flag=flag)
            assert flag.item() == 1  # only its owner clears it


def grown(**changes: Any) -> dict[str, Any]:
    """Valid arguments of to_frame but for `changes`."""
    return {"image": torch.zeros(2, 3, 4, 5), **changes}


BAD = [
    (grown(image=None), TypeError, "image: got NoneType, needs a torch.Tensor"),
    (grown(image=torch.zeros(2, 3, 4, 5).double()), TypeError, "image: got float64, needs float32 or bfloat16"),
    (grown(image=torch.zeros(2, 3, 4, 5).half()), TypeError, "image: got float16"),
    (grown(image=torch.zeros(2, 4, 4, 5)), ValueError, r"image: got shape .* needs \[N, 3, H, W\]"),
    (grown(layout="nhwc"), ValueError, r"image: got shape .* needs \[N, H, W, 3\]"),
    (grown(layout="hwc"), ValueError, "layout: got 'hwc', needs one of 'nchw', 'nhwc'"),
    (grown(out=torch.zeros(2, 4, 5, 3)), TypeError, "out: got float32, needs uint8"),
    (grown(out=5), TypeError, "out: got int"),
    (grown(out=torch.zeros(2, 4, 6, 3).byte()), ValueError, "out: got shape"),
    (grown(out=torch.zeros(2, 3, 4, 5).byte().permute(0, 2, 3, 1)), ValueError, "out: got strides"),
    (grown(out=torch.zeros(1, 4, 5, 3).byte().expand(2, 4, 5, 3)), ValueError, "out: got strides"),
    (grown(flag=torch.zeros(1).int()), ValueError, "flag: got one without `out`"),
    (grown(out=torch.zeros(2, 4, 5, 3).byte(), flag=1), TypeError, "flag: got int, needs a torch.Tensor"),
    (grown(out=torch.zeros(2, 4, 5, 3).byte(), flag=torch.zeros(1)), TypeError, "flag: got float32, needs int32"),
    (grown(out=torch.zeros(2, 4, 5, 3).byte(), flag=torch.zeros(2).int()), ValueError, "flag: got shape"),
    (grown(image=torch.zeros(2, 3, 4, 5, requires_grad=True)), ValueError, "image: requires grad, but to_frame is"),
    (grown(out=torch.zeros(2, 4, 5, 3, device="meta").byte()), ValueError, "out: got device meta, needs cpu"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD, ids=[bad[2] for bad in BAD])
def test_to_frame_refuses(arguments, error, message):
    with pytest.raises(error, match=message):
        to_frame(**arguments)
