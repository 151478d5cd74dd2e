"""The engine: what a user types, with a tracker of our own so that it runs without MediaPipe."""

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from engine_case import HEIGHT, WIDTH, frame, landmarks, make, motion, source

from fastreenact.errors import NoFaceError
from fastreenact.face.crop import crop
from fastreenact.face.motion import MotionClip
from fastreenact.models import shipped_weights
from fastreenact.models.face2face_rho.networks import random_face2face_rho
from fastreenact.models.refined_warp.networks import random_refined_warp
from fastreenact.timings import STAGES


@pytest.fixture(scope="module")
def weights():
    return random_face2face_rho(0)


def test_engine_at_rest_gives_the_portrait():
    with make() as engine:
        engine.use_reference(motion(0))
        assert np.abs(engine.step(motion(0)).astype(int) - source()).max() <= 1
        assert engine.output_size == (HEIGHT, WIDTH)


def test_engine_moves_the_portrait():
    with make() as engine:
        engine.use_reference(motion(0))
        moved = engine.step(motion(12)).astype(int)
        assert (np.abs(moved - source()) > 8).mean() > 0.01
        assert np.array_equal(moved[-4:], source()[-4:])  # far from the head nothing moves


def test_engine_keeps_its_own_portrait(weights):
    given = source()[:, ::-1]  # a view with negative strides, too
    with make(source=given, weights=weights, model="face2face-rho", size=64, paste=True) as engine:
        before = engine.source_picture.copy()
        first = engine.step(frame(3))
        given[:] = 0
        engine.reset()
        assert np.array_equal(engine.step(frame(3)), first)
        assert np.array_equal(engine.source_picture, before)


def test_engine_shows_the_cropped_face_of_a_portrait_of_the_same_size():
    portrait = np.ascontiguousarray(source()[:WIDTH])
    with make(source=portrait, size=WIDTH) as engine:
        assert engine.output_size == portrait.shape[:2]
        assert np.array_equal(engine.source_picture, crop(portrait, engine.face_box, WIDTH))
    with make(source=portrait, size=WIDTH, paste=True) as engine:
        assert np.array_equal(engine.source_picture, portrait)


@pytest.mark.parametrize("seconds", [float("nan"), float("inf")])
def test_engine_refuses_a_time_that_is_none(seconds):
    with make(smooth=False) as engine, make(smooth=False) as untouched:
        for driver in (frame(3), motion(3)):
            with pytest.raises(ValueError, match=f"time is {seconds}; give seconds"):
                engine.step(driver, time=seconds)
        assert np.array_equal(engine.step(frame(5)), untouched.step(frame(5)))


@pytest.mark.parametrize("kind", ["numpy", "torch", "dlpack"])
def test_engine_gives_back_the_kind_it_was_given(kind):
    class Exporter:
        def __init__(self, tensor: torch.Tensor) -> None:
            self.tensor = tensor

        def __dlpack__(self, **options: object) -> object:
            return self.tensor.__dlpack__()

        def __dlpack_device__(self) -> tuple[int, int]:
            return self.tensor.__dlpack_device__()

    given = {
        "numpy": frame,
        "torch": lambda i: torch.from_numpy(frame(i)),
        "dlpack": lambda i: Exporter(torch.from_numpy(frame(i))),
    }[kind](3)
    with make() as engine:
        result = engine.step(given)
    assert isinstance(result, np.ndarray if kind == "numpy" else torch.Tensor)
    with make() as engine:
        assert np.array_equal(np.asarray(result), engine.step(frame(3)))


def test_engine_takes_motions_and_landmarks():
    with make(smooth=False) as engine:
        assert engine.step(landmarks(2)).shape == (HEIGHT, WIDTH, 3)
        assert engine.step(motion(2)).dtype == np.uint8


def test_engine_writes_into_out_and_owns_nothing_of_it():
    with make(smooth=False, motion="absolute") as engine:
        out = np.empty((HEIGHT, WIDTH, 3), np.uint8)
        assert engine.step(motion(3), out=out) is out
        first = engine.step(motion(3))
        kept = first.copy()
        engine.step(motion(9))
        assert np.array_equal(first, kept)
        assert np.array_equal(first, out)


@pytest.mark.parametrize("kind", ["torch", "dlpack"])
def test_engine_writes_into_memory_of_any_kind(kind):
    class Exporter:
        def __init__(self, tensor: torch.Tensor) -> None:
            self.__dlpack__ = tensor.__dlpack__
            self.__dlpack_device__ = tensor.__dlpack_device__

    memory = torch.zeros(HEIGHT, WIDTH, 3, dtype=torch.uint8)
    out = memory if kind == "torch" else Exporter(memory)
    with make(smooth=False) as engine:
        assert engine.step(motion(3), out=out) is out
        engine.reset()
        assert np.array_equal(memory.numpy(), engine.step(motion(3)))


@pytest.mark.parametrize(
    ("out", "message"),
    [
        (np.empty((3, 3, 3), np.uint8), "out is uint8"),
        (np.empty((HEIGHT, WIDTH, 3), np.float32), "this engine writes uint8"),
        (np.empty((HEIGHT, WIDTH * 2, 3), np.uint8)[:, ::2], "C-contiguous"),
        ([1], "out is list; give an array or a tensor"),
    ],
)
def test_engine_refuses_a_wrong_out(out, message):
    with make() as engine, pytest.raises((TypeError, ValueError), match=message):
        engine.step(motion(0), out=out)


@pytest.mark.parametrize(
    ("driver", "message"),
    [
        (frame(0).astype(np.float32), "give uint8 RGB values"),
        (frame(0)[..., 0], "landmarks|shape"),
        (frame(0)[..., :2], r"give \[H, W, 3\]"),
        (np.empty((0, 4, 3), np.uint8), r"give \[H, W, 3\]"),
        ("driver.mp4", "driver is str"),
        (None, "driver is NoneType"),
    ],
)
def test_engine_refuses_a_wrong_driver(driver, message):
    with make() as engine, pytest.raises((TypeError, ValueError), match=message):
        engine.step(driver)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "fomm"}, "model is 'fomm'"),
        ({"weights": "x.safetensors"}, "the landmark warp has none"),
        ({"size": 63}, "64 to 2048"),
        ({"size": 256.0}, "64 to 2048"),
        ({"dtype": "int8"}, "dtype is 'int8'"),
        ({"dtype": "float16"}, "on the CPU take"),
        ({"device": "tpu"}, "device is 'tpu'"),
        ({"motion": "sideways"}, "motion"),
        ({"region": "ears"}, "region"),
        ({"strength": 3.0}, "strength"),
    ],
)
def test_engine_names_the_argument_that_is_off(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_engine_needs_a_face_in_the_portrait():
    blank = source()
    blank[0, 0, 0] = 255
    with pytest.raises(NoFaceError, match="no face"):
        make(source=blank)


def test_engine_runs_face2face_rho_and_times_its_stages(weights):
    with make(model="face2face-rho", weights=weights, size=64) as engine:
        result = engine.step(frame(4))
        assert result.shape == (64, 64, 3)
        assert list(engine.timings) == list(STAGES)
        assert all(ms >= 0 for ms in engine.timings.values())


def test_engine_in_bfloat16_is_near_float32(weights):
    frames = []
    for dtype in ("float32", "bfloat16"):
        with make(model="face2face-rho", weights=weights, size=64, dtype=dtype) as engine:
            frames.append(engine.step(frame(4)).astype(float))
    assert 10 * np.log10(255**2 / np.mean((frames[0] - frames[1]) ** 2)) > 30


def test_engine_with_the_shipped_weights_in_bfloat16_is_near_float32():
    """45 dB is what halves may cost; measured 60 and more on a photograph."""
    frames = []
    for dtype in ("float32", "bfloat16"):
        with make(model=None, size=128, dtype=dtype) as engine:
            frames.append(np.stack([engine.step(motion(index)) for index in (3, 12)]).astype(float))
    assert np.abs(frames[0] - frames[1]).max() > 0
    assert 10 * np.log10(255**2 / np.mean((frames[0] - frames[1]) ** 2)) >= 45


def test_engine_takes_its_size_from_the_weights(weights):
    with make(model="face2face-rho", weights=weights) as engine:
        assert engine.output_size == (512, 512) == engine.source_picture.shape[:2]


def test_engine_takes_the_shipped_weights_unless_told_otherwise():
    with make(model=None) as engine, make(model="refined-warp", weights=shipped_weights()) as named:
        assert engine.model == "refined-warp"
        assert engine.output_size == (HEIGHT, WIDTH)
        assert np.array_equal(engine.step(motion(9)), named.step(motion(9)))


def test_engine_draws_over_the_landmark_warp_in_the_whole_portrait():
    """Networks that give nothing leave the landmark warp, driven by the keypoints as tracked."""
    silent = random_refined_warp(0)
    silent.metadata |= {"size": "64", "motion_size": "64"}
    motion_net = silent.motion
    for layer in (silent.renderer.de_conv_block[0], motion_net.f1_motion, motion_net.model1_3, motion_net.model2_3):
        for parameter in layer.parameters():
            parameter.data.zero_()
    engine, plain = make(model=None, weights=silent), make()
    assert engine.model == "refined-warp"
    assert engine.output_size == (HEIGHT, WIDTH)
    second = engine.add(source(3)[:200])
    for index in (0, 12, 25):
        found, wanted = (e.step(motion(index), time=index / 30).astype(int) for e in (engine, plain))
        assert abs(found - wanted).max() <= 1
        assert set(engine.timings) >= {"rasterize", "motion", "warp", "decode", "deliver"}
    assert engine.step(motion(3), avatar=second).shape == (200, WIDTH, 3)
    square = make(model=None, weights=silent, size=96)
    assert square.step(motion(3)).shape == (96, 96, 3)


def test_engine_pastes_back_and_leaves_the_rest_alone(weights):
    with make(model="face2face-rho", weights=weights, size=64, paste=True) as engine:
        result = engine.step(frame(4))
        box = engine.face_box
    assert result.shape == (HEIGHT, WIDTH, 3)
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    outside = (np.abs(x - box.cx) > box.size / 2 + 1) | (np.abs(y - box.cy) > box.size / 2 + 1)
    assert outside.any()
    assert np.array_equal(result[outside], source()[outside])
    assert not np.array_equal(result, source())


def test_engine_switches_between_resident_portraits():
    with make(motion="absolute", smooth=False) as engine:
        assert engine.add(source(1)) == 1
        first, second = engine.step(motion(3), avatar=0), engine.step(motion(3), avatar=1)
        assert not np.array_equal(first, second)
        with pytest.raises(ValueError, match="portraits 0 to 1 are resident"):
            engine.step(motion(3), avatar=2)
    with make(motion="absolute", smooth=False, source=source(1)) as alone:
        assert np.array_equal(alone.step(motion(3)), second)


@pytest.mark.parametrize("options", [{}, {"size": 64}, {"size": 64, "paste": True}], ids=str)
@pytest.mark.parametrize("model", ["landmark-warp", "face2face-rho"])
def test_engine_animates_several_at_once_as_each_alone(model, options, weights):
    if model == "face2face-rho":
        options = {"size": 64, **options, "weights": weights}
    engine, second, third = (make(model=model, **options) for _ in range(3))
    with engine, second, third:
        for one in (engine, second, third):
            one.add(source(1))
        for index in range(4):
            drivers = [frame(index), frame(9 - index), frame(20 + index)]
            found = engine.step_many(drivers, avatars=[0, 1, 1])
            assert isinstance(found, np.ndarray)
            wanted = [second.step(drivers[0]), third.step(drivers[1], avatar=1)]
            assert np.array_equal(found[:2], wanted)
            assert index == 0 or not np.array_equal(found[2], found[1])


def test_engine_leads_all_portraits_by_one_driver():
    with make() as engine, make() as alone:
        engine.add(source(1))
        alone.add(source(1))
        for index in (0, 12):
            found = engine.step_many(motion(index))
            assert np.array_equal(found, [alone.step(motion(index), avatar=i) for i in (0, 1)])
        assert isinstance(engine.step_many(torch.from_numpy(frame(14))), torch.Tensor)
        again = engine.step_many(frame(0), avatars=[1, 0, 1], out=(out := np.empty((3, HEIGHT, WIDTH, 3), np.uint8)))
        assert again is out
        assert np.array_equal(again[0], again[2])
        assert not np.array_equal(again[0], again[1])


@pytest.mark.parametrize(
    ("drivers", "options", "message"),
    [
        ([], {}, "got 0 drivers and 0 avatars"),
        ([motion(0)], {"avatars": [0, 0]}, "got 1 drivers and 2 avatars; give as many of both"),
        (motion(0), {"avatars": [2]}, "portraits 0 to 1 are resident"),
        (motion(0), {}, r"frames of several sizes \[\(200, 200\), \(320, 200\)\]"),
        ([motion(0)], {"out": np.empty((HEIGHT, WIDTH, 3), np.uint8)}, r"this engine writes uint8 \(1, 320, 200, 3\)"),
        ([motion(0)], {"time": float("nan")}, "time is nan"),
    ],
)
def test_engine_refuses_several_that_do_not_fit(drivers, options, message):
    with make() as engine:
        engine.add(source(1)[:200])
        with pytest.raises(ValueError, match=message):
            engine.step_many(drivers, **options)


def test_engine_gives_its_reference_to_portraits_added_later():
    with make() as engine:
        engine.use_reference(motion(9))
        engine.add(source(1))
        assert np.abs(engine.step(motion(9), avatar=1).astype(int) - source(1)).max() <= 1


def test_engine_reset_forgets_the_driver():
    with make() as engine:
        first = [engine.step(frame(i)) for i in (5, 9, 14)]
        engine.reset()
        assert all(np.array_equal(engine.step(frame(i)), f) for i, f in zip((5, 9, 14), first, strict=True))


@pytest.mark.row("A2", "a face that leaves for 1, 15 and 90 frames stops no engine, and frames without it are drawn")
def test_engine_holds_and_eases_without_a_face(row):
    with make(smooth=False) as engine:
        steps = 0
        for absent in (90, 15, 1) * row.amount(1, 20):
            engine.reset()
            engine.use_reference(motion(0))
            last = engine.step(frame(12))
            lost = [engine.step(frame(255)) for _ in range(absent)]
            assert all(np.array_equal(image, last) for image in lost[:15])
            assert absent < 40 or np.abs(lost[-1].astype(int) - source()).max() <= 1
            back = [engine.step(frame(3 + i)) for i in range(30)]
            assert not np.array_equal(back[0], lost[-1])
            steps += 1 + absent + 30
        row.measured(f"{steps} steps, {3 * row.amount(1, 20)} losses: no abort")


@pytest.mark.row("R1", "one engine used by two threads serialises: every frame as if it were alone")
def test_engine_used_by_two_threads_serialises(row):
    count = row.amount(8, 1000)
    with make(motion="absolute", smooth=False) as engine:
        expected = [engine.step(motion(i)) for i in range(count)]
        results: dict[int, list[np.ndarray]] = {}

        def work(first: int) -> None:
            results[first] = [engine.step(motion(i)) for i in range(first, count, 2)]

        threads = [threading.Thread(target=work, args=(k,)) for k in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60 + count)
    same = [np.array_equal(a, b) for first in (0, 1) for a, b in zip(results[first], expected[first::2], strict=True)]
    row.measured(f"{sum(same)} of {count} frames bit-equal")
    assert all(same)


@pytest.mark.row("R1", "8 threads with an engine each, both models: frames bit-equal to those of one after the other")
def test_engines_in_eight_threads_are_as_in_one(row, weights):
    count = row.amount(6, 500)

    def run(number: int) -> list[bytes]:
        networks = {"model": "face2face-rho", "weights": weights, "size": 64} if number % 2 else {}
        with make(**networks, source=source(number)) as engine:
            return [engine.step(landmarks(7 * number + i)).tobytes() for i in range(count)]

    alone = [run(number) for number in range(8)]
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(run, range(8)))
    same = sum(a == b for one, other in zip(alone, together, strict=True) for a, b in zip(one, other, strict=True))
    row.measured(f"{same} of {8 * count} frames bit-equal")
    assert same == 8 * count


def test_engine_animating_two_files_at_once_serialises(monkeypatch):
    from fastreenact.app import animate as module

    inside = threading.Semaphore(1)

    def animate(*_: object) -> bool:
        alone = inside.acquire(blocking=False)
        time.sleep(0.05)
        if alone:
            inside.release()
        return alone

    monkeypatch.setattr(module, "animate", lambda *_, **__: animate())
    results = []
    with make() as engine:
        threads = [threading.Thread(target=lambda: results.append(engine.animate("a.mp4"))) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert results == [True, True]


@pytest.mark.row("R2", "an engine used in a forked child raises a clear error at once, within 2 s")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_engine_in_a_forked_child_says_so(row):
    with make() as engine:
        engine.step(motion(0))
        seconds = [refused(engine) for _ in range(row.amount(1, 10))]
    row.measured(f"{len(seconds)} of {len(seconds)} children, at most {max(seconds):.2f} s")


def refused(engine) -> float:
    """Use the engine in a forked child: how long that took to be refused."""
    begin = time.monotonic()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            engine.step(motion(1))
        except RuntimeError as error:
            code = 0 if "forked" in str(error) else 2
        os._exit(code)
    done, deadline = (0, 0), time.monotonic() + 2
    while done[0] == 0 and time.monotonic() < deadline:
        done = os.waitpid(child, os.WNOHANG)
        time.sleep(0.01)
    if done[0] == 0:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert done == (child, 0)
    return time.monotonic() - begin


def test_engine_once_closed_says_so():
    engine = make()
    engine.close()
    for use in (lambda: engine.step(motion(0)), lambda: engine.add(source()), lambda: engine.animate("a.mp4")):
        with pytest.raises(ValueError, match="closed"):
            use()


def test_engine_follows_a_clip(tmp_path):
    clip = MotionClip.from_motions([motion(i) for i in range(5)])
    clip.save(tmp_path / "clip.safetensors")
    pytest.importorskip("av", reason="PyAV writes the video")
    with make() as engine:
        result = engine.animate(tmp_path / "clip.safetensors", tmp_path / "out.mp4")
    assert result.frames == 5
    assert (tmp_path / "out.mp4").stat().st_size > 0


def test_engine_moves_by_a_clip_of_one_frame(tmp_path):
    pytest.importorskip("av", reason="PyAV writes the video")
    MotionClip.from_motions([motion(12)]).save(tmp_path / "one.safetensors")
    with make() as engine:
        taken = []
        step = engine.step
        engine.step = lambda *args, **options: taken.append(np.array(step(*args, **options))) or taken[-1]
        assert engine.animate(tmp_path / "one.safetensors", tmp_path / "out.mp4").frames == 1
    assert (np.abs(taken[0].astype(int) - source()) > 8).mean() > 0.01
