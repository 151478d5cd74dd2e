"""compose_frame on a GPU: by the extension and by NVRTC, in place in a slice, on a side stream, in a graph."""

import pytest
import torch
from conftest import assert_close
from gpu_case import need_graph_replay, need_side_stream

from fastreenact.ops import compose_frame, compose_frame_reference

pytestmark = pytest.mark.gpu


def make(side, shape, dtype, generator):
    """Values that move levels by up to their whole range, one of them NaN, and a picture."""
    raw = (torch.randn(side, side, 4, generator=generator) * 0.5).to(dtype)
    raw[0, 0, 1] = float("nan")
    return raw, torch.randint(0, 256, (*shape, 3), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("fade", [0.0, 0.08])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("side", "shape", "box"),
    [
        (1, (1, 1), (0.5, 0.5, 1.0)),
        (64, (64, 64), (32.0, 32.0, 64.0)),
        (256, (1440, 1440), (720.0, 720.0, 1440.0)),
        (256, (17, 19), (9.3, 8.1, 14.7)),
        (48, (61, 83), (75.5, -3.3, 40.0)),
    ],
    ids=str,
)
def test_compose_frame_matches_reference(maker, side, shape, box, dtype, fade, generator):
    raw, surface = make(side, shape, dtype, generator)
    expected = compose_frame_reference(raw.double(), surface.clone(), box, most_gain=1.5, fade=fade)
    assert_close(compose_frame(raw.cuda(), surface.cuda(), box, most_gain=1.5, fade=fade).cpu(), expected)


def test_compose_frame_writes_only_its_slice(maker, generator):
    raw, surface = make(32, (70, 90), torch.float32, generator)
    expected = compose_frame_reference(raw.double(), surface.clone(), (50, 33, 61), most_gain=1.5)
    wide = torch.full((72, 94, 3), 77, dtype=torch.uint8, device="cuda")
    inner = (slice(1, 71), slice(2, 92))
    wide[inner] = surface.cuda()
    apart = torch.zeros(64, 48, 6, device="cuda")[::2, 8:40, 1:5]
    apart.copy_(raw)
    compose_frame(apart, wide[inner], (50, 33, 61), most_gain=1.5)
    assert_close(wide[inner].cpu(), expected)
    wide[inner] = 77
    assert torch.all(wide == 77)


def picture(generator):
    raw, surface = make(64, (90, 90), torch.float32, generator)
    return {"raw": raw, "surface": surface, "box": (45, 45, 90), "most_gain": 1.5}


def expected(arguments):
    raw, surface = arguments["raw"].double(), arguments["surface"].clone()
    return compose_frame_reference(**arguments | {"raw": raw, "surface": surface})


def test_compose_frame_on_a_side_stream(maker, generator):
    need_side_stream(compose_frame, picture(generator), expected)


def test_compose_frame_graph_replays_on_changed_inputs(maker, generator):
    need_graph_replay(compose_frame, [picture(generator) for _ in range(2)], expected)
