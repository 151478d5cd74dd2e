"""shrink against its reference in float64, and what a square of a picture has to be."""

import sys
from typing import Any

import pytest
import torch
from conftest import DEVICES, assert_close
from host_emulation import build, gpu_call

from fastreenact import _C
from fastreenact.ops import shrink, shrink_reference

shrink_module = sys.modules["fastreenact.ops.shrink"]  # the name in the package is the function
DTYPES = [torch.float32, torch.bfloat16]
# Side of the result, height and width of the picture, box: on pixels, as large, between pixels, beyond edges, outside.
CASES = [
    (1, (2, 2), (1.0, 1.0, 2.0)),
    (1, (17, 19), (8.0, 8.0, 30.0)),
    (64, (64, 64), (32.0, 32.0, 64.0)),
    (64, (128, 128), (64.0, 64.0, 128.0)),
    (65, (90, 107), (53.5, 45.0, 93.7)),
    (16, (321, 700), (350.0, 160.0, 640.0)),
    (131, (17, 19), (9.3, 8.1, 14.7)),
    (48, (61, 83), (10.2, 60.9, 77.7)),
    (7, (2, 83), (75.5, -3.3, 40.0)),
    (5, (20, 30), (1e6, -1e6, 3.0)),
]  # fmt: skip


def noise(shape: tuple[int, int], generator: torch.Generator) -> torch.Tensor:
    return torch.randint(0, 256, (*shape, 3), generator=generator, dtype=torch.uint8)


def exact(picture: torch.Tensor, box: Any, side: int, samples: int) -> torch.Tensor:
    return shrink_reference(picture, box, side, samples=samples, dtype=torch.float64)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("side", "shape", "box"), CASES, ids=str)
def test_shrink_reference(side, shape, box, dtype, samples, device, generator):
    picture = noise(shape, generator)
    found = shrink(picture.to(device), box, side, samples=samples, dtype=dtype).cpu()
    assert found.dtype == dtype
    assert_close(found, exact(picture, box, side, samples))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("samples", [1, 2])
def test_shrink_of_many_pictures_by_a_table(samples, device, generator):
    """Each by its own square; and what is beside out stays."""
    wide = torch.randint(0, 256, (3, 33, 50, 3), generator=generator, dtype=torch.uint8)
    pictures = wide[:, 1:31, 2:43]
    squares = [(20.5, 15.0, 30.0, 9.0), (-5.0, 40.0, 22.2, float("nan")), (20.5, 15.0, 3.0, 0.0)]
    boxes = torch.tensor(squares, dtype=torch.float64)
    memory = torch.full((5, 17, 17, 3), 7.0, device=device)
    found = shrink(pictures.to(device), None, 17, samples=samples, boxes=boxes.to(device), out=memory[1:4])
    for one, picture, square in zip(found.cpu(), pictures, squares, strict=True):
        assert torch.equal(one, shrink(picture, square[:3], 17, samples=samples)[0]) or device == "cuda"
        assert_close(one, exact(picture, square[:3], 17, samples)[0])
    assert (memory[::4] == 7).all()


def test_shrink_takes_pixels_as_they_are(generator):
    picture = noise((40, 40), generator)
    same = shrink(picture, (20, 20, 40), 40)
    assert ((same[0] + 1) * 127.5 - picture.float()).abs().max() < 1e-4
    halves = shrink(picture, (20, 20, 40), 20, samples=2)
    means = picture.double().view(20, 2, 20, 2, 3).mean((1, 3))
    assert (halves[0].double() - (means / 127.5 - 1)).abs().max() < 1e-6
    part = shrink(picture, (15, 25, 10), 10)
    assert ((part[0] + 1) * 127.5 - picture[20:30, 10:20].float()).abs().max() < 1e-4


def test_shrink_reads_nothing_outside(generator):
    picture = noise((33, 47), generator)
    wide = torch.full((35, 49, 3), 255, dtype=torch.uint8)
    inner = wide[1:-1, 1:-1]
    inner.copy_(picture)
    for box in ((23.5, 16.5, 33.0), (40.0, 30.0, 50.0)):
        assert torch.equal(shrink(inner, box, 21, samples=2), shrink(picture, box, 21, samples=2))


def test_shrink_thread_counts(generator):
    picture, before, found = noise((500, 331), generator), _C.num_threads(), []
    try:
        for count in (1, 2, 5):
            _C.set_num_threads(count)
            found.append(shrink(picture, (166, 250, 499), 128, samples=2))
    finally:
        _C.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_shrink_opcheck(dtype, generator):
    picture = noise((9, 11), generator)
    torch.library.opcheck(torch.ops.fastreenact.shrink.default, (picture, [5.0, 4.0, 9.0], 4, 2, dtype, None))


RUN = """
#include "shrink.cu"
using namespace fastreenact;

extern "C" void run(const void* packed, int backwards) {
    ShrinkParams p;
    std::memcpy(static_cast<void*>(&p), packed, sizeof p);
    const LaunchShape s = picture_shape(p.side, p.side, p.n);
    host::launch([&] { shrink_kernel(p); }, s, backwards);
}
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return build(tmp_path_factory.mktemp("shrink"), RUN, kernels="shrink")


@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("dtype", [*DTYPES, torch.float16], ids=str)
def test_shrink_kernel_on_the_host(library, dtype, samples, generator):
    pictures = torch.randint(0, 256, (3, 30, 41, 3), generator=generator, dtype=torch.uint8)
    boxes = torch.tensor([(20.5, 15.0, 30.0, 0), (-5.0, 40.0, 22.2, 0), (20.0, 15.0, 3.0, 0)], dtype=torch.float64)
    out = torch.full((3, 70, 70, 3), float("nan"), dtype=dtype)
    arguments = {"picture": pictures, "side": 70, "samples": samples, "dtype": dtype, "boxes": boxes, "out": out}
    call = gpu_call(shrink_module._SHRINK, **arguments)
    ((_, packed, grid, block, _),) = call.launches()
    assert (grid, block) == ((2, 18, 3), (64, 4))
    library.run(packed, int(samples == 2))
    wanted = shrink_reference(pictures, None, 70, samples=samples, dtype=torch.float64, boxes=boxes)
    assert_close(out, wanted)


def grown(**changes: Any) -> dict[str, Any]:
    """Valid arguments of shrink but for `changes`."""
    return {"picture": torch.zeros(6, 7, 3, dtype=torch.uint8), "box": (3, 3, 6), "side": 4, **changes}


BAD = [
    (grown(picture=None), TypeError, "picture: got NoneType, needs a torch.Tensor"),
    (grown(picture=torch.zeros(6, 7, 3)), TypeError, "picture: got float32, needs uint8"),
    (grown(picture=torch.zeros(6, 7, 4).byte()), ValueError, r"picture: got shape .* needs \[H, W, 3\]"),
    (grown(picture=torch.zeros(6, 1, 3).byte()), ValueError, "picture: got shape .* at least 2 x 2"),
    (grown(picture=torch.zeros(6, 7, 4).byte()[..., :3]), ValueError, "picture: got strides .* packed pixels"),
    (grown(picture=torch.zeros(1, 7, 3).byte().expand(6, 7, 3)), ValueError, "picture: got strides .* lie apart"),
    (grown(box=(3, 3)), ValueError, "box: got .* needs centre x, centre y and a side"),
    (grown(box=(3, 3, 0)), ValueError, "box: got .* more than 0"),
    (grown(box=(float("nan"), 3, 6)), ValueError, "box: got"),
    (grown(side=0), ValueError, "side: got 0, needs a whole number from 1 to 16384"),
    (grown(samples=3), ValueError, "samples: got 3, needs a whole number from 1 to 2"),
    (grown(dtype=torch.float16), TypeError, "dtype: got torch.float16 on cpu, needs float32"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD, ids=[bad[2] for bad in BAD])
def test_shrink_refuses(arguments, error, message):
    with pytest.raises(error, match=message):
        shrink(**arguments)
