"""`fastreenact bench`: the stages of a whole frame on this machine, track to deliver."""

from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from fastreenact.engine import Engine

_WARM_UP = 35  # frames: caches, thread pools, and the driver's shape, which is fitted until frame 30


def measure(engine: "Engine", driver: NDArray[np.uint8], frames: int) -> dict[str, NDArray[np.float64]]:
    """Time `frames` steps, host to host.

    Args:
        engine: made already.
        driver: uint8 [H, W, 3], a picture of a face.
        frames: timed steps, after a warm-up of 35.

    Returns:
        Stage -> milliseconds of each step [frames]; "whole" is the wall time of the step.
    """
    out = np.empty((*engine.output_size, 3), np.uint8)
    # Shifted copies, so that nothing can be remembered from the last frame.
    drivers = [np.ascontiguousarray(np.roll(driver, shift, axis=1)) for shift in range(4)]
    times: dict[str, list[float]] = {}
    for i in range(_WARM_UP + frames):
        start = perf_counter()
        engine.step(drivers[i % len(drivers)], time=i / 30, out=out)
        whole = (perf_counter() - start) * 1e3
        if i >= _WARM_UP:
            for stage, stage_ms in {**engine.timings, "whole": whole}.items():
                times.setdefault(stage, []).append(stage_ms)
    return {stage: np.array(values) for stage, values in times.items()}


def table(times: dict[str, NDArray[np.float64]]) -> str:
    """The stages as a text table: p50, p95 and p99 in milliseconds, and the share of the whole."""
    whole = float(np.median(times["whole"]))
    rows = [f"{'stage':<10} {'p50 ms':>8} {'p95 ms':>8} {'p99 ms':>8} {'share':>6}"]
    for stage, values in times.items():
        p50, p95, p99 = np.percentile(values, (50, 95, 99))
        rows.append(f"{stage:<10} {p50:8.2f} {p95:8.2f} {p99:8.2f} {p50 / whole:6.0%}")
    rows.append(f"{1e3 / whole:.1f} frames per second")
    return "\n".join(rows)
