"""Renderings stopped at random moments, each in a process of its own that this program forks.

As a program: `stop_media.py SIGNAL COUNT` in a folder with face.png and drive.mp4 (60 frames); its last line is a
JSON list with an object for each: `code` (negative: the signal), `stop_s` from the signal to the end, `said`, `fed`
frames given to the writer at least, `part` and `out` frames that can be read there (null: no such file, or untouched).
"""

import json
import mmap
import os
import random
import signal
import sys
import time
import types
from pathlib import Path

import numpy as np
from fakes import FakeEngine, fake_tracking

from fastreenact.app import animate
from fastreenact.app.cli import main
from fastreenact.errors import MediaError
from fastreenact.media import VideoReader

OUT, PART, OLD = Path("o.mp4"), Path("o.part.mp4"), b"precious"
FRAMES = 60  # of drive.mp4


def readable(path: Path) -> int | None:
    """Frames in a file, 0 where nothing can be read, None where there is none or the old one."""
    if not path.exists() or path.read_bytes() == OLD:
        return None
    try:
        return sum(1 for _ in VideoReader(path).frames())
    except MediaError:
        return 0


def child(steps: mmap.mmap) -> None:
    """The whole command, with an engine that counts where the parent sees it."""

    class Counting(FakeEngine):
        def __init__(self, source):
            super().__init__(source)
            steps[0] = 1  # the signals have their handlers

        def step(self, driver, *, time=None, avatar=0, out=None):
            steps[0] = 1 + len(self.steps)
            image = super().step(driver, time=time, avatar=avatar, out=out)
            image[:] = np.random.default_rng(len(self.steps)).integers(0, 255, image.shape, dtype=np.uint8)
            return image

    sys.modules["fastreenact.engine"] = types.SimpleNamespace(Engine=lambda source, **_: Counting(source))  # type: ignore[assignment]
    animate._track_frames = fake_tracking
    os.dup2(os.open("said", os.O_CREAT | os.O_WRONLY | os.O_TRUNC), 2)
    os.dup2(2, 1)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # one that comes after the command has ended
    try:
        code = main(["animate", "face.png", "drive.mp4", "-o", str(OUT), "--force"])
    except KeyboardInterrupt:
        code = 130
    os._exit(code)


def stopped(case: int, number: int, rng: random.Random) -> dict:
    """One child, sent `number` when it has come to a random frame; its files are kept under other names."""
    OUT.write_bytes(OLD)
    steps = mmap.mmap(-1, 1)
    pid = os.fork()
    if pid == 0:
        child(steps)
    wanted, ended, status = rng.randint(1, FRAMES), 0, 0
    while steps[0] < wanted and ended == 0:
        time.sleep(2e-4)
        ended, status = os.waitpid(pid, os.WNOHANG)
    time.sleep(rng.random() * 3e-3)
    start = time.perf_counter()
    if ended == 0:
        os.kill(pid, number)
        _, status = os.waitpid(pid, 0)
    took = time.perf_counter() - start
    for path in (OUT, PART):
        kept = Path(f"{case}-{path.name}")
        kept.unlink(missing_ok=True)
        if path.exists():
            path.rename(kept)
    return {
        "code": os.waitstatus_to_exitcode(status),
        "stop_s": took,
        "fed": steps[0] - 1,
        "said": Path("said").read_text(),
    }


if __name__ == "__main__":
    chance = random.Random(sys.argv[1])
    runs = [stopped(case, getattr(signal, sys.argv[1]), chance) for case in range(int(sys.argv[2]))]
    for case, run in enumerate(runs):  # only now: FFmpeg's threads do not survive a fork
        run |= {path.stem.partition(".")[2] or "out": readable(Path(f"{case}-{path.name}")) for path in (OUT, PART)}
    print(json.dumps(runs))
