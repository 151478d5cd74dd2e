"""Does a long run grow? Resident memory, open files and threads over thousands of whole steps.

    python bench/soak.py [--steps 5000] [--model face2face-rho] [--size 256]

Exits 1 when resident memory grows by 10 MB or more after the first 100 steps, or files or threads by one.
"""

import argparse
import os
import resource
import sys
import time
from pathlib import Path

import timing
from engine import driver_frames

from fastreenact import demo
from fastreenact.engine import Engine

SETTLED = 100  # steps after which nothing may grow
LIMIT_MB = 10.0


def usage() -> dict[str, float]:
    """Resident memory in MB, open file descriptors and threads of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "rss_mb": pages * resource.getpagesize() / 1e6,
        "files": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
    }


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--steps", type=int, default=5000)
    arguments.add_argument("--quick", action="store_true", help="500 steps; writes nothing")
    arguments.add_argument("--model", default="face2face-rho")
    arguments.add_argument("--size", type=int, default=256)
    options = arguments.parse_args()
    steps = 500 if options.quick else options.steps
    frames = driver_frames()
    begin = time.monotonic()
    with Engine(demo.portrait(), model=options.model, size=options.size) as engine:
        settled = usage()
        for i in range(steps):
            engine.step(frames[i % len(frames)], time=i / demo.FPS)
            if i + 1 == SETTLED:
                settled = usage()
            if (i + 1) % 1000 == 0:
                print(f"step {i + 1}: {usage()['rss_mb'] - settled['rss_mb']:+.1f} MB", flush=True)
        last = usage()
    growth = {key: last[key] - settled[key] for key in last}
    passed = growth["rss_mb"] < LIMIT_MB and growth["files"] <= 0 and growth["threads"] <= 0
    print(f"{steps} steps: {growth} {'ok' if passed else 'GREW'}")
    if not options.quick:
        write_result(options, steps, time.monotonic() - begin, settled, growth, passed)
    return 0 if passed else 1


def write_result(
    options: argparse.Namespace, steps: int, seconds: float, settled: dict[str, float], growth: dict[str, float],
    passed: bool,
) -> None:
    """bench/results/cpu/soak.json."""
    timing.write("soak", {
        "title": "A long run",
        "notes": f"Whole steps at {options.size} x {options.size}, tracker included. "
        f"Limit: {LIMIT_MB:.0f} MB after the first {SETTLED}.",
        "model": options.model, "size": options.size, "steps": steps, "seconds": seconds,
        "growth_after_100": growth, "passed": passed,
        "columns": ["model", "steps", "memory after 100 steps", "growth", "open files", "threads"],
        "rows": [[options.model, str(steps), f"{settled['rss_mb']:.0f} MB", f"{growth['rss_mb']:+.1f} MB",
                  f"{growth['files']:+.0f}", f"{growth['threads']:+.0f}"]],
    })


if __name__ == "__main__":
    sys.exit(main())
