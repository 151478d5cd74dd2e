"""An hour of frames: memory, open files and threads stay what they were."""

import gc
import os
import resource
from pathlib import Path

import pytest

LIMIT_MB = 10.0


def usage():
    """Resident memory in MB, open files and threads of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    memory_mb = pages * resource.getpagesize() / 1e6
    return memory_mb, len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))


@pytest.mark.row(
    "R3",
    "an hour of frames at 30 a second (108,000), tracked and drawn at 256: memory grows by at most "
    "10 MB after frame 1,000, open files and threads do not",
)
def test_a_long_run_does_not_grow(row):
    pytest.importorskip("mediapipe")
    pytest.importorskip("skimage.data")
    from engine import driver_frames  # of bench: the demo as driving pictures

    from fastreenact.app import demo
    from fastreenact.engine import Engine

    count, settled_after = row.amount(150, 108_000), row.amount(75, 1000)
    frames, grown_mb = driver_frames(), []
    with Engine(demo.portrait(), size=256) as engine:
        for i in range(count):
            engine.step(frames[i % len(frames)], time=i / demo.FPS)
            if i + 1 == settled_after:
                gc.collect()
                before = usage()
            elif i >= settled_after and (i + 1) % 1000 == 0:
                grown_mb.append(usage()[0] - before[0])
        gc.collect()
        after = usage()
    grown_mb.append(after[0] - before[0])
    files, threads = after[1] - before[1], after[2] - before[2]
    row.measured(
        f"{count:,} frames: {grown_mb[-1]:+.1f} MB at the end, {max(grown_mb):+.1f} at most, "
        f"{files:+d} files, {threads:+d} threads"
    )
    assert max(grown_mb) <= LIMIT_MB
    assert (files, threads) == (0, 0)
