"""Ctrl-C, SIGTERM and SIGKILL at random moments, and full and read-only disks: what is left of the output."""

import json
import os
import re
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest

pytest.importorskip("av", reason="PyAV is not installed")
pytest.importorskip("PIL", reason="Pillow is not installed")

from clips import make_clip, ramp, tone
from stop_media import FRAMES

from fastreenact.errors import MediaError
from fastreenact.media import VideoReader, VideoWriter, write_image

TESTS = Path(__file__).parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])}


def stop(folder, number, count):
    """`count` runs of the command at 25 frames a second, each sent the signal at a random moment."""
    make_clip(folder / "drive.mp4", pts=list(range(FRAMES)), sound=tone(FRAMES / 25 - 0.5))
    write_image(folder / "face.png", ramp(40, 40), force=True)
    done = subprocess.run(
        [sys.executable, str(TESTS / "stop_media.py"), number, str(count)],
        cwd=folder,
        timeout=900,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.row("V4", "Ctrl-C and SIGTERM: exit 130 within 2 s, every frame given is in the part, OUT is untouched")
def test_stopped(tmp_path, row):
    runs = [run for number in ("SIGINT", "SIGTERM") for run in stop(tmp_path, number, row.amount(4, 50))]
    wrong, slowest = [], max(run["stop_s"] for run in runs)
    for run in runs:
        said = re.fullmatch(
            rf"fastreenact: stopped(?: after (\d+) of {FRAMES} frames(; they are in o\.part\.mp4)?)?\n", run["said"]
        )
        in_part = int(said[1]) if said and said[2] else None
        if run["code"] == 130 and said and run["part"] == in_part and run["out"] is None:
            continue
        if run["out"] == FRAMES and run["part"] is None and run["code"] in (0, 130):
            continue  # it came while the file got its name, or later
        wrong.append(run)
    row.measured(f"{len(runs)} times, {len(wrong)} wrong; at most {slowest:.2f} s to the end")
    assert wrong == []
    assert slowest < 2


@pytest.mark.row("V5", "SIGKILL at a random moment: the part plays and lacks at most a second, OUT is never broken")
def test_killed(tmp_path, row):
    runs = stop(tmp_path, "SIGKILL", row.amount(6, 100))
    lost = [0 if run["out"] == FRAMES else run["fed"] - (run["part"] or 0) for run in runs]
    broken = [run for run in runs if run["out"] not in (None, FRAMES)]
    row.measured(f"{len(runs)} times: at most {max(lost) / 25:.2f} s lost, {len(broken)} broken final files")
    assert broken == []
    assert max(lost) <= 25
    assert all(run["code"] in (-9, 0) for run in runs)


_WRITE = """
import sys
from fractions import Fraction
import numpy as np
from fastreenact.errors import MediaError
from fastreenact.media import VideoWriter
rng = np.random.default_rng(0)
try:
    with VideoWriter(sys.argv[1], time_base=Fraction(1, 25), force=True) as writer:
        for i in range(int(sys.argv[2])):
            writer.write(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8), i)
except MediaError as error:
    print(error)
    raise SystemExit(7)
"""
# a disk of its own, in a namespace where anybody may mount; then what is left, and the same on a read-only disk
_DISK = """
mount -t tmpfs -o size=$1k none disk && printf precious > disk/o.mp4 || exit 9
"$2" -c "$3" disk/o.mp4 $4; echo code $?; ls disk; cat disk/o.mp4; echo
mount -o remount,ro disk && "$2" -c "$3" disk/p.mp4 2; echo code $?
"""


@pytest.mark.row("V6", "a full or read-only disk: an error that says so, no half file, the old one untouched")
@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs util-linux")
def test_full_disk(tmp_path, row):
    (tmp_path / "disk").mkdir()
    subprocess.run([sys.executable, "-c", _WRITE, "whole.mp4", "60"], cwd=tmp_path, env=ENVIRONMENT, check=True)
    needed = 4 * (-(-(tmp_path / "whole.mp4").stat().st_size // 4096) + 1)  # kilobytes in pages, one for the old file
    sizes = [needed - 4, needed // 2, needed - 8, needed - 12, needed // 4, 8][: row.amount(2, 6)]
    for size in sizes:
        done = subprocess.run(
            ["unshare", "-rm", "sh", "-c", _DISK, "sh", str(size), sys.executable, _WRITE, "60"],
            cwd=tmp_path,
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            errors="replace",
        )
        if done.returncode == 9 or "unshare" in done.stderr:
            pytest.skip("nobody but root may mount here")
        assert done.stdout.splitlines() == [
            "o.mp4 cannot be written (No space left on device): make room on the disk",
            "code 7",
            "o.mp4",
            "precious",
            "nothing can be written to the folder of p.mp4 (disk): choose another one",
            "code 7",
        ], done
    row.measured(f"{len(sizes)} disks of {min(sizes)} to {max(sizes)} kB, full and read-only: all of them")


@pytest.mark.row("V6", "a device that refuses every byte: the same error from the first fragment on")
def test_full_device(tmp_path, row):
    os.symlink("/dev/full", tmp_path / "o.part.mp4")
    (tmp_path / "o.mp4").write_bytes(b"precious")
    with (  # noqa: PT012
        pytest.raises(MediaError, match=r"o\.mp4 cannot be written \(No space left on device\): make room"),
        VideoWriter(tmp_path / "o.mp4", time_base=Fraction(1, 25), force=True) as writer,
    ):
        for i in range(100):
            writer.write(ramp(64, 64, 9 * i), i)
    row.measured(f"said after {writer.frames} frames")
    assert [path.name for path in tmp_path.iterdir()] == ["o.mp4"]
    assert (tmp_path / "o.mp4").read_bytes() == b"precious"


def test_part_after_the_sound_ended(tmp_path):
    """The muxer does not wait for sound that does not come."""
    sound = make_clip(tmp_path / "s.mp4", sound=tone(0.5))
    writer = VideoWriter(tmp_path / "o.mp4", time_base=Fraction(1, 25), audio=VideoReader(sound).audio())
    for i in range(100):
        writer.write(ramp(48, 64, i), i)
    assert sum(1 for _ in VideoReader(writer.part).frames()) >= 75
    writer.abandon(keep=False)
