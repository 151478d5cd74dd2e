"""rasterize_landmarks against OpenCV, pixel for pixel, and against its reference."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from conftest import DEVICES
from torch import Tensor

from fastreenact.ops import rasterize_landmarks, rasterize_landmarks_all, rasterize_landmarks_reference, rasterize_lines
from fastreenact.ops.rasterize_landmarks import COLOURS, LAYOUTS


def with_opencv(keypoints: Tensor, size: int, layout: int) -> Tensor:
    """The drawing that the released code makes."""
    cv2 = pytest.importorskip("cv2")
    pictures = np.zeros((len(keypoints), size, size, 3), np.uint8)
    pixels = (keypoints.numpy() + 1) / 2 * (size - 1)
    for picture, points in zip(pictures, pixels, strict=True):
        for part, colour in COLOURS.items():
            for line in LAYOUTS[layout].get(part, ()):
                ends = [(int(points[k][0]), int(points[k][1])) for k in line]
                if len(ends) == 1:
                    cv2.circle(picture, ends[0], 1, colour, cv2.FILLED, cv2.LINE_4)
                for a, b in pairwise(ends):
                    cv2.line(picture, a, b, colour, 1, cv2.LINE_4)
    return torch.from_numpy(pictures)


def faces(count: int, reach: float, generator: torch.Generator) -> Tensor:
    return (torch.rand(count, 72, 2, generator=generator) * 2 - 1) * reach


def test_rasterize_lines_opencv(generator):
    cv2 = pytest.importorskip("cv2")
    height, width, count = 37, 41, 20000
    low, high = torch.tensor([-11, -10, -11, -10]), torch.tensor([52, 47, 52, 47])
    lines = low + (torch.rand(count, 4, generator=generator) * (high - low)).long()
    lines[:2000] %= torch.tensor([width, height, width, height])
    lines[-1000:, 2:] += torch.randint(-(2**20), 2**20, (1000, 2), generator=generator)
    lines[-500:] = torch.randint(-(2**31) + 1, 2**31, (500, 4), generator=generator)
    outside = ((lines < 0) | (lines >= torch.tensor([width, height, width, height]))).any(1)
    assert outside.double().mean() > 1 / 3
    got = rasterize_lines(lines, height, width).numpy()
    picture = np.zeros((height, width), np.uint8)
    for line, ours in zip(lines.tolist(), got, strict=True):
        picture[:] = 0
        cv2.line(picture, line[:2], line[2:], 255, 1, cv2.LINE_4)
        assert np.array_equal(picture, ours), line


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("reach", [1.0, 1.5])
@pytest.mark.parametrize(("layout", "size"), [(0, 16), (1, 32), (2, 64), (0, 90), (1, 184), (2, 97), (2, 3), (0, 1)])
def test_rasterize_landmarks_opencv(layout, size, reach, device, generator):
    keypoints = faces(20, reach, generator)
    drawn = rasterize_landmarks(keypoints.to(device), size, layout).cpu()
    assert torch.equal(drawn, with_opencv(keypoints, size, layout))


@pytest.mark.parametrize(("layout", "size"), [(0, 16), (1, 33), (2, 64), (2, 1)])
def test_rasterize_landmarks_reference(layout, size, generator):
    keypoints = faces(3, 1.4, generator)
    assert torch.equal(
        rasterize_landmarks(keypoints, size, layout), rasterize_landmarks_reference(keypoints, size, layout)
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 3.4e38, -3.4e38, 2.0**31, 1e10])
@pytest.mark.parametrize("layout", [0, 1, 2])
def test_rasterize_landmarks_hostile_coordinates(layout, value, generator):
    keypoints = faces(2, 0.9, generator)
    keypoints[0, ::5, 0] = value
    keypoints[1, ::7, 1] = value
    got = rasterize_landmarks(keypoints, 64, layout)
    assert torch.equal(got, rasterize_landmarks_reference(keypoints, 64, layout))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_rasterize_landmarks_not_finite_is_left_out(value, generator):
    keypoints = faces(1, 0.9, generator)
    keypoints[0, 17:22] = value  # the left eyebrow, which keypoint 0 to 16 and 22 to 71 do not touch
    got = rasterize_landmarks(keypoints, 64, 2)
    keypoints[0, 17:22] = 5.0  # far outside: not drawn either
    assert torch.equal(got, rasterize_landmarks(keypoints, 64, 2))
    assert not (got == torch.tensor(COLOURS["left_eyebrow"])).all(-1).any()


def test_rasterize_landmarks_strided_input(generator):
    wide = torch.rand(2, 3, 144, generator=generator) * 2 - 1
    keypoints = wide[:, :2].permute(0, 2, 1)[:, ::2]
    assert torch.equal(rasterize_landmarks(keypoints, 64, 2), rasterize_landmarks(keypoints.contiguous(), 64, 2))


def test_rasterize_landmarks_writes_only_its_slice(generator):
    keypoints = faces(2, 1.2, generator)
    wide = torch.full((2, 40, 41, 5), 77, dtype=torch.uint8)
    inner = (slice(None), slice(3, 35), slice(4, 36), slice(1, 4))
    rasterize_landmarks(keypoints, 32, 2, out=wide[inner])
    assert torch.equal(wide[inner], rasterize_landmarks(keypoints, 32, 2))
    wide[inner] = 77
    assert (wide == 77).all()


@pytest.mark.parametrize("sizes", [(16, 32, 64), (92, 184, 368), [5, 1, 33]], ids=str)
@pytest.mark.parametrize("count", [0, 1, 3])
def test_rasterize_landmarks_all_is_each_layout(sizes, count, generator):
    keypoints = faces(count, 1.2, generator)
    wide = [torch.full((count, size, size, 4), 77, dtype=torch.uint8) for size in sizes]
    outs = [out[..., 1:] for out in wide]
    given = rasterize_landmarks_all(keypoints, sizes, outs=outs)
    for layout, got in enumerate(rasterize_landmarks_all(keypoints, sizes)):
        assert torch.equal(got, rasterize_landmarks(keypoints, sizes[layout], layout))
        assert given[layout] is outs[layout]
        assert torch.equal(got, outs[layout])
        assert (wide[layout][..., 0] == 77).all()


def test_rasterize_landmarks_empty():
    assert rasterize_landmarks(torch.zeros(0, 72, 2), 16, 0).shape == (0, 16, 16, 3)


@pytest.mark.parametrize("layout", [0, 1, 2])
def test_rasterize_landmarks_opcheck(layout, generator):
    keypoints = faces(2, 1.0, generator)
    torch.library.opcheck(torch.ops.fastreenact.rasterize_landmarks.default, (keypoints, 16, layout))
    out = torch.zeros(2, 16, 16, 3, dtype=torch.uint8)
    torch.library.opcheck(torch.ops.fastreenact.rasterize_landmarks_out.default, (keypoints, 16, layout, out))


def test_rasterize_landmarks_all_opcheck(generator):
    keypoints = faces(2, 1.0, generator)
    torch.library.opcheck(torch.ops.fastreenact.rasterize_landmarks_all.default, (keypoints, 4, 8, 16))
    outs = [torch.zeros(2, size, size, 3, dtype=torch.uint8) for size in (4, 8, 16)]
    torch.library.opcheck(torch.ops.fastreenact.rasterize_landmarks_all_out.default, (keypoints, 4, 8, 16, *outs))


def grown(**changes: Any) -> dict[str, Any]:
    """Valid arguments of rasterize_landmarks but for `changes`."""
    return {"keypoints": torch.zeros(2, 72, 2), "size": 16, "layout": 0, **changes}


BAD = [
    (grown(keypoints=np.zeros((2, 72, 2))), TypeError, "keypoints: got ndarray, needs a torch.Tensor"),
    (grown(keypoints=torch.zeros(2, 72, 2).double()), TypeError, "keypoints: got float64, needs float32"),
    (grown(keypoints=torch.zeros(72, 2)), ValueError, r"keypoints: got shape \[72, 2\], needs \[N, 72, 2\]"),
    (grown(keypoints=torch.zeros(2, 68, 2)), ValueError, "keypoints: got shape"),
    (grown(size=0), ValueError, "size: got 0, needs a whole number from 1 to 32768"),
    (grown(size=16.0), ValueError, "size: got 16.0"),
    (grown(layout=3), ValueError, "layout: got 3, needs a whole number from 0 to 2"),
    (grown(layout=True), ValueError, "layout: got True"),
    (grown(out=torch.zeros(2, 16, 16, 3)), TypeError, "out: got float32, needs uint8"),
    (grown(out=torch.zeros(2, 16, 17, 3).byte()), ValueError, "out: got shape"),
    (grown(out=torch.zeros(2, 3, 16, 16).byte().permute(0, 2, 3, 1)), ValueError, "out: got strides"),
    (grown(out=[]), TypeError, "out: got list"),
    (grown(keypoints=torch.zeros(2, 72, 2, requires_grad=True)), ValueError, "keypoints: requires grad"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD, ids=[bad[2] for bad in BAD])
def test_rasterize_landmarks_refuses(arguments, error, message):
    with pytest.raises(error, match=message):
        rasterize_landmarks(**arguments)


BLANK = torch.zeros(2, 8, 8, 3, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"sizes": (8, 8)}, ValueError, r"sizes: got \(8, 8\), needs one for each"),
        ({"sizes": 8}, ValueError, "sizes: got 8, needs one for each"),
        ({"sizes": (8, 8, 0)}, ValueError, "sizes: got 0, needs a whole number from 1"),
        ({"outs": [BLANK]}, ValueError, r"outs: got (.|\n)*, needs one for each"),
        ({"outs": [BLANK, BLANK, 5]}, TypeError, "outs: got int"),
        ({"outs": [BLANK.clone(), BLANK.clone(), BLANK[..., :2]]}, ValueError, "out: got shape"),
        ({"outs": [BLANK, BLANK, BLANK]}, ValueError, "outs: shares memory with another"),
        ({"keypoints": torch.zeros(2, 68, 2)}, ValueError, "keypoints: got shape"),
    ],
)
def test_rasterize_landmarks_all_refuses(changes, error, message):
    with pytest.raises(error, match=message):
        rasterize_landmarks_all(**{"keypoints": torch.zeros(2, 72, 2), "sizes": (8, 8, 8), **changes})


@pytest.mark.parametrize(
    ("lines", "size", "error", "message"),
    [
        (torch.zeros(2, 4), (3, 3), TypeError, "lines: got float32, needs int64"),
        (torch.zeros(2, 3).long(), (3, 3), ValueError, "lines: got shape"),
        (torch.zeros(4, 2).long().T, (3, 3), ValueError, "lines: got device cpu, strides"),
        (torch.zeros(2, 4).long(), (0, 3), ValueError, "height: got 0, needs a whole number from 1 to 32768"),
        (torch.full((2, 4), 2**40), (3, 3), ValueError, "lines: got a coordinate beyond"),
    ],
)
def test_rasterize_lines_refuses(lines, size, error, message):
    with pytest.raises(error, match=message):
        rasterize_lines(lines, *size)
