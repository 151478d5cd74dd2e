"""The step on a GPU: one graph, one copy in and one out. On a GPU where there is one, and on a pretended one."""

import pytest
import torch
from face2face_rho_case import face, model, picture
from pretend_cuda import CUDA, Pretended

from fastreenact.models.face2face_rho.inference import fuse
from fastreenact.timings import StageTimer

DTYPES = {torch.float32: 60, torch.bfloat16: 43}  # and the least dB against float32 on the CPU


@pytest.fixture(scope="module")
def net():
    return model()


@pytest.fixture
def pretended(monkeypatch):
    with Pretended(monkeypatch) as there:
        yield there


@pytest.fixture(params=["pretended", pytest.param("real", marks=pytest.mark.gpu)])
def device(request):
    if request.param == "pretended":
        request.getfixturevalue("pretended")
    return CUDA


def need_close(found, wanted, least_db):
    error = (found.float().cpu() - wanted.float()).square().mean().clamp(min=1e-9)
    assert 10 * torch.log10(255**2 / error) >= least_db


def on_host():
    return torch.zeros(64, 64, 3, dtype=torch.uint8)


@pytest.mark.parametrize(("dtype", "least_db"), DTYPES.items(), ids=str)
def test_replays_follow_inputs_portraits_and_slabs_that_grow(net, device, dtype, least_db):
    plain, there = fuse(net, 64), fuse(net, 64, dtype, device)
    sources, drivers = [face(f"source {i}") for i in range(3)], [face(f"driver {i}") for i in range(3)]
    states = [form.encode(picture(64), *sources[0]) for form in (plain, there)]
    captured = []
    for driver in drivers:
        need_close(there.drive(states[1], *driver, out=on_host()), plain.drive(states[0], *driver), least_db)
        captured.append(there._last._replays["step"])
    others = [[form.encode(picture(64)[:, ::-1].copy(), *source) for source in sources[1:]] for form in (plain, there)]
    for i, (first, second) in enumerate(zip(*others, strict=True)):
        need_close(there.drive(second, *drivers[i], out=on_host()), plain.drive(first, *drivers[i]), least_db)
        need_close(there.drive(states[1], *drivers[i], out=on_host()), plain.drive(states[0], *drivers[i]), least_db)
        captured.append(there._last._replays["step"])
    assert captured[0] is captured[1] is captured[2]  # other inputs
    assert captured[3] is not captured[2]  # the slabs have moved
    assert captured[3] is captured[4]  # another portrait


def test_at_most_four_graphs_are_kept(net, device):
    there = fuse(net, 64, torch.float32, device)
    plain = fuse(net, 64)
    states = [form.encode(picture(64), *face("source")) for form in (plain, there)]
    keypoints, pose = face("driver")
    wanted = plain.drive(states[0], keypoints, pose)
    for n in (1, 2, 3, 4, 5, 2):
        out = torch.zeros(n, 64, 64, 3, dtype=torch.uint8)
        for frame in there.drive_many([states[1]] * n, [keypoints] * n, [pose] * n, out):
            need_close(frame, wanted, 60)
    assert list(there._steps) == [3, 4, 5, 2]


@pytest.mark.parametrize("where", ["field", "picture"])
def test_halves_that_overflow_are_noticed_in_their_frame(net, device, where):
    there = fuse(net, 64, torch.bfloat16, device)
    state = there.encode(picture(64), *face("source"))
    step = there._step_of(1)
    bias = step.motion.heads[2].conv.weights.bias if where == "field" else step.decoder.res[0].weights.project_bias
    healthy = bias[1].item()
    for value, finite in ((healthy, True), (float("inf"), False), (healthy, True), (float("nan"), False)):
        bias[1] = value
        there.drive(state, *face("driver"), out=on_host())
        assert there.finite == finite
        if where == "field":
            there.step(state, *face("driver"))
            assert there.finite == finite  # also when no frame was fetched


def test_one_copy_in_and_one_wait_a_step(net, pretended):
    there = fuse(net, 64, torch.bfloat16, CUDA)
    state = there.encode(picture(64), *face("source"))
    there.drive(state, *face("driver"), out=on_host())
    for event in ("event 2", "event 1", "event 2"):  # of the memory that was sent two steps ago
        del pretended.noted[:]
        there.drive(state, *face("driver"), out=on_host())
        assert there.finite
        assert pretended.noted == [
            f"host waits for {event}",
            "caller's waits for caller's",
            event,
            "replay",
            "host waits for caller's",
        ]


def test_the_capture_warms_up_on_its_own_stream_and_forks_once(net, pretended):
    there = fuse(net, 64, torch.float32, CUDA)
    state = there.encode(picture(64), *face("source"))
    del pretended.noted[:]
    there.step(state, *face("driver"))
    work = ["stream 2 waits for stream 1", "stream 1 waits for stream 2"]
    assert pretended.noted[3:] == [
        "stream 1 waits for caller's",
        *work,
        *work,
        "host waits for stream 1",
        "capture",
        *work,
        "captured",
        "caller's waits for stream 1",
        "replay",
    ]


def test_without_kernels_of_ours_there_is_no_graph(net, pretended, monkeypatch):
    monkeypatch.setattr("fastreenact.ops.replay.cuda_kernels", lambda: False)
    plain, there = fuse(net, 64), fuse(net, 64, torch.float32, CUDA)
    states = [form.encode(picture(64), *face("source")) for form in (plain, there)]
    for driver in (face("driver"), face("other driver")):
        need_close(there.drive(states[1], *driver, out=on_host()), plain.drive(states[0], *driver), 60)
    assert "capture" not in pretended.noted


def test_the_graph_is_one_entry_of_the_timings(net, pretended):
    there = fuse(net, 64, torch.float32, CUDA)
    timer = StageTimer(CUDA)
    there.drive(there.encode(picture(64), *face("source")), *face("driver"), out=on_host(), timer=timer)
    assert list(timer.finish()) == ["graph"]


def test_events_inside_the_graph_time_its_stages(net, pretended):
    there = fuse(net, 64, torch.float32, CUDA, profile=True)
    timer = StageTimer(CUDA, profile=True)
    state = there.encode(picture(64), *face("source"))
    for _ in range(2):
        timer.start()
        there.drive(state, *face("driver"), out=on_host(), timer=timer)
        times = timer.finish()
        assert set(times) == {"rasterize", "motion", "warp", "decode", "deliver"}
        assert all(ms > 0 for ms in times.values())
    inside = [event for marks in there._last._replays["step"]._marks for _, event in marks]
    assert all(event.options["external"] for event in inside)
    names = [what.removeprefix("range ") for what in pretended.noted if what.startswith("range ")]
    stages = ["decode", "rasterize", "motion", "warp", "decode", "deliver"]
    assert [name for name in names if name != "ends"] == [*3 * stages, "graph", "deliver", "graph", "deliver"]
    assert names.count("ends") == len(names) / 2


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_frames_stay_on_the_gpu_and_follow_the_stream(net, dtype):
    plain, there = fuse(net, 64), fuse(net, 64, dtype, "cuda")
    states = [form.encode(picture(64), *face("source")) for form in (plain, there)]
    least_db = {torch.float32: 60, torch.float16: 55, torch.bfloat16: 43}[dtype]
    frames = []
    for i in range(4):
        stream = torch.cuda.Stream() if i % 2 else torch.cuda.current_stream()
        with torch.cuda.stream(stream):
            frames.append(there.drive(states[1], *face(f"driver {i}")))
            assert frames[-1].device.type == "cuda"
    torch.cuda.synchronize()
    for i, frame in enumerate(frames):
        need_close(frame, plain.drive(states[0], *face(f"driver {i}")), least_db)


@pytest.mark.gpu
def test_events_of_a_real_graph_have_times(net):
    there = fuse(net, 64, torch.float16, "cuda", profile=True)
    timer = StageTimer(CUDA, profile=True)
    state = there.encode(picture(64), *face("source"))
    for _ in range(3):
        timer.start()
        there.drive(state, *face("driver"), timer=timer)
        times = timer.finish()
    assert {name: ms > 0 for name, ms in times.items()} == dict.fromkeys(times, True)
    assert set(times) == {"rasterize", "motion", "warp", "decode", "deliver"}
