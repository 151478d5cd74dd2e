"""to_frame on a GPU: by the extension and by NVRTC, on a side stream, in a graph, in and out of CuPy."""

import pytest
import torch
from conftest import assert_close

from fastreenact import _C
from fastreenact.ops import nvrtc, to_frame, to_frame_reference

pytestmark = pytest.mark.gpu


@pytest.fixture(params=["extension", "nvrtc"])
def maker(request, monkeypatch):
    """Both ways to the kernel."""
    if request.param == "extension":
        if not _C.WITH_CUDA:
            pytest.skip("the extension was built without nvcc")
    else:
        pytest.importorskip("cupy", reason="CuPy is not installed")
        monkeypatch.setattr(_C, "to_frame_cuda", nvrtc.to_frame_cuda, raising=False)
        monkeypatch.setattr(_C, "WITH_CUDA", True)
    return request.param


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


def test_to_frame_on_a_side_stream(maker, generator):
    image = torch.rand(1, 3, 256, 256, generator=generator) * 2 - 1
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(20_000_000)  # a launch on another stream would not wait for the copy below
        out = to_frame(image.cuda())
    stream.synchronize()
    assert_close(out.cpu(), to_frame_reference(image.double()))


def test_to_frame_graph_replays_on_changed_inputs(maker, generator):
    image = torch.zeros(1, 3, 64, 64, device="cuda")
    out = torch.zeros(1, 64, 64, 3, dtype=torch.uint8, device="cuda")
    to_frame(image, out=out)  # loads the kernel; a capture must not
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        to_frame(image, out=out)
    for _ in range(2):
        values = torch.rand(1, 3, 64, 64, generator=generator) * 2 - 1
        image.copy_(values)
        graph.replay()
        assert_close(out.cpu(), to_frame_reference(values.double()))


def test_to_frame_of_cupy_arrays(maker):
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    image = cupy.random.uniform(-1, 1, (1, 3, 33, 31), dtype=cupy.float32)
    out = cupy.zeros((1, 33, 31, 3), dtype=cupy.uint8)
    to_frame(torch.from_dlpack(image), out=torch.from_dlpack(out))
    torch.cuda.synchronize()
    want = to_frame_reference(torch.from_numpy(cupy.asnumpy(image)).double())
    assert_close(torch.from_numpy(cupy.asnumpy(out)), want)
