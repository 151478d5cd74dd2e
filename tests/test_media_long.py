"""Long clips: times and sound stay in step, memory does not grow."""

import json
import os
import subprocess
import sys
from fractions import Fraction
from itertools import accumulate, cycle, islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as image_module

pytest.importorskip("av", reason="PyAV is not installed")

from clips import loudest_time, make_clip, sound_packets, tone, true_times
from fakes import FakeEngine, fake_tracking

from fastreenact.app import animate as animate_module
from fastreenact.app.animate import animate
from fastreenact.media import VideoReader, write_image


class Mirror(FakeEngine):
    """Shows how bright the driver's frame was; remembers nothing."""

    def step(self, driver, *, time=None, avatar=0, out=None):
        out[:] = int(255 * driver.pose[1])
        return out


def brightest_time(path):
    """When the brightest frame of a clip is shown, in seconds."""
    return max(VideoReader(path), key=lambda pair: int(pair[0].sum(dtype=np.int64)))[1]


# time base, ticks between frames
RATES = {
    "23.976": (Fraction(1, 24000), [1001]),
    "29.97": (Fraction(1, 30000), [1001]),
    "59.94": (Fraction(1, 60000), [1001]),
    "variable": (Fraction(1, 1000), [20, 60, 33, 140]),
}


@pytest.mark.row("V2", "ten minutes: frames at their times within 1 ms, sound in step within 40 ms, its packets copied")
@pytest.mark.parametrize("rate", RATES)
def test_ten_minutes_in_step(tmp_path, row, monkeypatch, rate):
    monkeypatch.setattr(animate_module, "_track_frames", fake_tracking)
    seconds = row.amount(6, 600)
    time_base, steps = RATES[rate]
    count = round(seconds / float(sum(steps) * time_base) * len(steps))
    pts = list(accumulate(islice(cycle(steps), count - 1), initial=0))
    flash = count - 20
    at = float(pts[flash] * time_base)
    dark, bright = np.full((16, 16, 3), 60, np.uint8), np.full((16, 16, 3), 250, np.uint8)
    driver = make_clip(
        tmp_path / "d.mp4",
        time_base=time_base,
        pts=pts,
        sound=tone(seconds, click_s=at),
        frames=[bright if i == flash else dark for i in range(count)],
    )
    result = animate(Mirror(size=(16, 16)), driver, tmp_path / "o.mp4")
    apart = [abs(a - ticks * time_base) for a, ticks in zip(true_times(tmp_path / "o.mp4"), pts, strict=True)]
    drift = abs(loudest_time(tmp_path / "o.mp4") - brightest_time(tmp_path / "o.mp4"))
    same = sound_packets(tmp_path / "o.mp4") == sound_packets(driver)
    row.measured(
        f"{seconds} s at {rate} fps: {result.frames} frames, times {1000 * float(max(apart)):.2f} ms off, "
        f"sound {1000 * drift:.0f} ms, packets {'the same' if same else 'CHANGED'}"
    )
    assert max(apart) <= Fraction(1, 1000)
    assert drift <= 0.04
    assert same
    assert result.notes == []


@pytest.mark.row("V2", "sound that the container refuses is encoded, said, and in step within 40 ms after ten minutes")
def test_ten_minutes_of_encoded_sound(tmp_path, row, monkeypatch):
    monkeypatch.setattr(animate_module, "_track_frames", fake_tracking)
    seconds = row.amount(6, 600)
    count = 10 * seconds
    frames = [np.full((16, 16, 3), 250 if i == count - 9 else 60, np.uint8) for i in range(count)]
    driver = make_clip(
        tmp_path / "d.mkv",
        time_base=Fraction(1, 10),
        pts=list(range(count)),
        frames=frames,
        sound=tone(seconds, click_s=(count - 9) / 10),
        sound_codec="pcm_s16le",
    )
    result = animate(Mirror(size=(16, 16)), driver, tmp_path / "o.mp4")
    drift = abs(loudest_time(tmp_path / "o.mp4") - brightest_time(tmp_path / "o.mp4"))
    row.measured(f"{seconds} s: {1000 * drift:.0f} ms")
    assert result.notes == ["sound in pcm_s16le does not go into .mp4 as it is: encoded to AAC"]
    assert drift <= 0.04


def test_gaps_and_short_sound_keep_the_times(tmp_path, monkeypatch):
    """Where the muxer writes sound for a long time before the next frame comes, that frame keeps its time."""
    monkeypatch.setattr(animate_module, "_track_frames", fake_tracking)
    pts = [0, 40, 80, 1500, 1540, 14000, 14040, 14100, *range(15000, 25000, 200), 40000, 40040]
    driver = make_clip(
        tmp_path / "d.mp4",
        time_base=Fraction(1, 1000),
        pts=pts,
        sound=tone(20),
        frames=[np.full((16, 16, 3), 60, np.uint8)] * len(pts),
    )
    for suffix in ("mp4", "mkv"):
        animate(Mirror(size=(16, 16)), driver, tmp_path / f"o.{suffix}")
        assert [1000 * t for t in true_times(tmp_path / f"o.{suffix}")] == pts


_LONG = """
import json, sys
from fuzz_media import peak_memory
from fastreenact.app.animate import animate
from fastreenact.engine import Engine
with Engine(sys.argv[1]) as engine:
    done = animate(engine, sys.argv[2], sys.argv[2] + ".o.mp4")
    print(json.dumps([done.frames, engine.output_size, peak_memory()]))
"""


def in_the_middle(picture, size):
    """A square picture as high as one of `size`, between gray."""
    image = np.full((*size, 3), 90, np.uint8)
    left = (size[1] - size[0]) // 2
    image[:, left : left + size[0]] = np.asarray(image_module.fromarray(picture).resize((size[0], size[0])))
    return image


@pytest.mark.row(
    "V7",
    "ten minutes of 1080p, tracked and drawn at that size: at most 1 GB of memory, the same for any length within 5%",
)
def test_memory_of_ten_minutes(tmp_path, row):
    pytest.importorskip("mediapipe")
    pytest.importorskip("skimage.data")
    from engine import driver_frames  # of bench: the demo as driving pictures

    from fastreenact.app import demo

    size, count = ((1080, 1920), 18_000) if row.full else ((270, 480), 400)
    write_image(tmp_path / "p.png", in_the_middle(demo.portrait(), size))
    drivers = [in_the_middle(frame, size) for frame in driver_frames()[:30]]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    peaks = []
    for frames in (count // 4, count):
        clip = make_clip(
            tmp_path / f"{frames}.mp4",
            time_base=Fraction(1, 30),
            pts=list(range(frames)),
            options={"preset": "ultrafast"},
            frames=list(islice(cycle(drivers), frames)),
            sound=tone(frames / 30),
        )
        done = subprocess.run(
            [sys.executable, "-c", _LONG, str(tmp_path / "p.png"), str(clip)],
            env=environment,
            check=False,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        written, shape, peak = json.loads(done.stdout.splitlines()[-1])
        assert (written, tuple(shape)) == (frames, size)
        peaks.append(peak)
    row.measured(
        f"{size[1]} x {size[0]}: {peaks[0] / 1e6:.0f} MB for {count // 4:,} frames, {peaks[1] / 1e6:.0f} MB "
        f"for {count:,}"
    )
    assert peaks[1] <= 1e9
    assert peaks[1] <= 1.05 * peaks[0]
