"""to_frame on a GPU: by the extension and by NVRTC, on a side stream, in a graph, in and out of CuPy."""

import pytest
import torch
from conftest import assert_close
from gpu_case import need_graph_replay, need_side_stream

from fastreenact.ops import to_frame, to_frame_reference

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("tanh", [False, True])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 17, 19), (2, 64, 256), (1, 5, 1440)], ids=str)
def test_to_frame_matches_reference(maker, shape, dtype, layout, tanh, generator):
    n, height, width = shape
    size = (n, 3, height, width) if layout == "nchw" else (n, height, width, 3)
    image = (torch.randn(size, generator=generator) * 1.2).to(dtype)
    image.view(-1)[0] = float("nan")
    want = to_frame_reference(image.double(), layout=layout, tanh=tanh)
    assert_close(to_frame(image.cuda(), layout=layout, tanh=tanh).cpu(), want)


def test_to_frame_takes_strides_and_writes_only_its_slice(maker, generator):
    wide = torch.randn(2, 4, 9, 14, generator=generator).cuda()
    image = wide[:, 1:, :, 1:12]
    out = torch.full((2, 9, 13, 4), 77, dtype=torch.uint8, device="cuda")
    to_frame(image, out=out[:, :, 1:12, :3])
    assert_close(out[:, :, 1:12, :3].cpu(), to_frame_reference(image.cpu().double()))
    out[:, :, 1:12, :3] = 77
    assert torch.all(out == 77)


def picture(generator):
    return {"image": torch.rand(1, 3, 256, 256, generator=generator) * 2 - 1}


def expected(arguments):
    return to_frame_reference(arguments["image"].double())


def test_to_frame_on_a_side_stream(maker, generator):
    need_side_stream(to_frame, picture(generator), expected)


def test_to_frame_graph_replays_on_changed_inputs(maker, generator):
    need_graph_replay(to_frame, [picture(generator) for _ in range(2)], expected)


def test_to_frame_of_cupy_arrays(maker):
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    image = cupy.random.uniform(-1, 1, (1, 3, 33, 31), dtype=cupy.float32)
    out = cupy.zeros((1, 33, 31, 3), dtype=cupy.uint8)
    to_frame(torch.from_dlpack(image), out=torch.from_dlpack(out))
    torch.cuda.synchronize()
    want = to_frame_reference(torch.from_numpy(cupy.asnumpy(image)).double())
    assert_close(torch.from_numpy(cupy.asnumpy(out)), want)
