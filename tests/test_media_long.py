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

pytest.importorskip("av", reason="PyAV is not installed")

from clips import loudest_time, make_clip, sound_packets, tone, true_times
from fakes import FakeEngine, fake_tracking

from fastreenact import animate as animate_module
from fastreenact.animate import animate
from fastreenact.media import VideoReader


class Mirror(FakeEngine):
    """Shows how bright the driver's frame was; remembers nothing."""

    def step(self, driver, *, time=None, avatar=0, out=None):
        out[:] = int(255 * driver.pose[1])
        return out


def brightest_time(path):
    """When the brightest frame of a clip is shown, in seconds."""
    return max(VideoReader(path), key=lambda pair: int(pair[0].sum(dtype=np.int64)))[1]


# time base, ticks between frames
RATES = {"23.976": (Fraction(1, 24000), [1001]), "29.97": (Fraction(1, 30000), [1001]),
         "59.94": (Fraction(1, 60000), [1001]), "variable": (Fraction(1, 1000), [20, 60, 33, 140])}


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
    driver = make_clip(tmp_path / "d.mp4", time_base=time_base, pts=pts, sound=tone(seconds, click_s=at),
                       frames=[bright if i == flash else dark for i in range(count)])
    result = animate(Mirror(size=(16, 16)), driver, tmp_path / "o.mp4")
    apart = [abs(a - ticks * time_base) for a, ticks in zip(true_times(tmp_path / "o.mp4"), pts, strict=True)]
    drift = abs(loudest_time(tmp_path / "o.mp4") - brightest_time(tmp_path / "o.mp4"))
    same = sound_packets(tmp_path / "o.mp4") == sound_packets(driver)
    row.measured(f"{seconds} s at {rate} fps: {result.frames} frames, times {1000 * float(max(apart)):.2f} ms off, "
                 f"sound {1000 * drift:.0f} ms, packets {'the same' if same else 'CHANGED'}")
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
    driver = make_clip(tmp_path / "d.mkv", time_base=Fraction(1, 10), pts=list(range(count)), frames=frames,
                       sound=tone(seconds, click_s=(count - 9) / 10), sound_codec="pcm_s16le")
    result = animate(Mirror(size=(16, 16)), driver, tmp_path / "o.mp4")
    drift = abs(loudest_time(tmp_path / "o.mp4") - brightest_time(tmp_path / "o.mp4"))
    row.measured(f"{seconds} s: {1000 * drift:.0f} ms")
    assert result.notes == ["sound in pcm_s16le does not go into .mp4 as it is: encoded to AAC"]
    assert drift <= 0.04


def test_gaps_and_short_sound_keep_the_times(tmp_path, monkeypatch):
    """Where the muxer writes sound for a long time before the next frame comes, that frame keeps its time."""
    monkeypatch.setattr(animate_module, "_track_frames", fake_tracking)
    pts = [0, 40, 80, 1500, 1540, 14000, 14040, 14100, *range(15000, 25000, 200), 40000, 40040]
    driver = make_clip(tmp_path / "d.mp4", time_base=Fraction(1, 1000), pts=pts, sound=tone(20),
                       frames=[np.full((16, 16, 3), 60, np.uint8)] * len(pts))
    for suffix in ("mp4", "mkv"):
        animate(Mirror(size=(16, 16)), driver, tmp_path / f"o.{suffix}")
        assert [1000 * t for t in true_times(tmp_path / f"o.{suffix}")] == pts


_LONG = """
import json, sys
from pathlib import Path
from clips import make_clip
from fakes import fake_tracking
from fuzz_media import peak_memory
from test_media_long import Mirror
from fastreenact import animate
animate._track_frames = fake_tracking
height, width = int(sys.argv[2]), int(sys.argv[3])
done = animate.animate(Mirror(size=(height, width)), sys.argv[1], sys.argv[1] + ".o.mp4")
print(json.dumps([done.frames, peak_memory()]))
"""


def long_clip(path, frames, size):
    """A moving picture, cheap to encode."""
    noise = np.random.default_rng(0).integers(0, 255, (size[0], size[1] + 64, 3), dtype=np.uint8)
    noise[:, size[1] // 4:] = 90
    shifts = [np.ascontiguousarray(noise[:, i:i + size[1]]) for i in range(4)]
    return make_clip(path, time_base=Fraction(1, 30), pts=list(range(frames)), options={"preset": "ultrafast"},
                     frames=[shifts[i // 30 % 4] for i in range(frames)], sound=tone(frames / 30))


@pytest.mark.row("V7", "ten minutes of 1080p: at most 1 GB of memory, the same for any length within 5%")
def test_memory_of_ten_minutes(tmp_path, row):
    size, count = ((1080, 1920), 18_000) if row.full else ((270, 480), 400)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    peaks = []
    for frames in (count // 4, count):
        clip = long_clip(tmp_path / f"{frames}.mp4", frames, size)
        done = subprocess.run([sys.executable, "-c", _LONG, str(clip), *map(str, size)], env=environment, check=False,
                              capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        written, peak = json.loads(done.stdout.splitlines()[-1])
        assert written == frames
        peaks.append(peak)
    row.measured(f"{size[1]} x {size[0]}: {peaks[0] / 1e6:.0f} MB for {count // 4:,} frames, {peaks[1] / 1e6:.0f} MB "
                 f"for {count:,}")
    assert peaks[1] <= 1e9
    assert peaks[1] <= 1.05 * peaks[0]
