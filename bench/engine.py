"""Whole frames, track to deliver, host to host: stages, percentiles and frame rate, beside Table 4 of the paper.

    python bench/engine.py [--quick] [--size 256] [--device cuda]

The driver is a clip made on the spot: the demo's portrait under the demo's motion. Where the tracker or the portrait is
not installed, the demo's motions themselves drive a made-up portrait, and track and fit are not in the numbers.
Face2Face^rho runs with the weights that ship, over the landmark warp, and in the published form with random weights of
the released configuration; its cost does not depend on them.
"""

# ruff: noqa: E402
from fastreenact.app.cli import calm_threads

calm_threads()  # as the command line does, before PyTorch is loaded

import argparse
import gc
import importlib.util
import time
from typing import Any

import numpy as np
import timing
from network_engines import forget_peak, memory_mb, resident_mb

from fastreenact.app import demo
from fastreenact.engine import Engine
from fastreenact.face.morphable.model import default_model
from fastreenact.face.track.tracker import Landmarks
from fastreenact.models.face2face_rho.networks import random_face2face_rho
from fastreenact.timings import GRAPH, STAGES

# Face2Face^rho, Table 4: Kryo 680 CPU with 4 threads, 256 x 256, milliseconds.
PAPER_MS = {"track + fit": 6.9, "rasterize": 0.1, "motion": 5.6, "warp": 1.5, "decode": 25.1, "whole frame": 39.2}
WARM_UP = 30
LIVE_FPS = 25  # between such frames everything sleeps, and has to wake up
LIVE = f"at {LIVE_FPS} frames a second"


def can_track() -> bool:
    """Whether the tracker and the demo's portrait are installed."""
    return all(importlib.util.find_spec(name) for name in ("mediapipe", "skimage"))


class PlainFace:
    """Stands in for the tracker: finds a frontal face in the middle of any picture."""

    def __call__(self, picture: np.ndarray) -> Landmarks:
        points = default_model().project(np.zeros(50), np.zeros(51), (0, 0, 0, 0, 0, 0.25))
        return Landmarks(((points + 1) / 2 * picture.shape[0]).astype(np.float32), 1.0)


def portrait() -> dict[str, Any]:
    """The engine's arguments that make up the portrait."""
    if can_track():
        return {"source": demo.portrait()}
    ramp = np.linspace(0, 255, 512).astype(np.uint8)
    return {"source": np.stack([np.add.outer(ramp // 2, ramp // 2)] * 3, axis=-1), "tracker": PlainFace()}


def driver_frames() -> list[Any]:
    """The demo as driving frames, uint8 [512, 512, 3]; its motions where frames could not be tracked."""
    if not can_track():
        return list(demo.load_template())
    with Engine(demo.portrait(), model="landmark-warp", size=512, device="cpu") as engine:
        clip = demo.load_template()
        engine.use_reference(clip[0])
        return [engine.step(clip[i]) for i in range(len(clip))]


def measure(settings: dict[str, Any], device: str, frames: list[Any], count: int) -> dict[str, dict[str, float]]:
    """An engine's p50, p95 and p99 in ms of each stage and of the whole step over `count` frames after the warm-up.

    Beside them the same of the whole step where frames come as from a camera; what comes once: loading with the
    portrait's encoding, the first frame; and the memory while frames ran.
    """
    samples: dict[str, list[float]] = {}
    gc.collect()
    forget_peak(device)
    before, begin = resident_mb(peak=False), time.perf_counter()
    with Engine(**portrait(), **settings, device=device) as engine:
        loaded = time.perf_counter()
        engine.step(frames[0], time=0.0)
        first = time.perf_counter()
        for i in range(1, WARM_UP + count):
            if i == WARM_UP:
                forget_peak(device)
            whole = step_ms(engine, frames, i)
            if i >= WARM_UP:
                for stage, ms in (("whole frame", whole), *engine.timings.items()):
                    samples.setdefault(stage, []).append(ms)
        live = time.perf_counter()
        for i in range(count // 4):
            time.sleep(max(0.0, live + i / LIVE_FPS - time.perf_counter()))
            samples.setdefault(LIVE, []).append(step_ms(engine, frames, WARM_UP + count + i))
        memory = memory_mb(device, before)
    once = {"load": {"s": loaded - begin}, "first frame": {"ms": (first - loaded) * 1e3}, "memory": {"mb": memory}}
    return once | {
        stage: {f"p{q}_ms": float(np.percentile(ms, q)) for q in (50, 95, 99)} for stage, ms in samples.items()
    }


def step_ms(engine: Engine, frames: list[Any], i: int) -> float:
    """Milliseconds of the step of frame `i`."""
    start = time.perf_counter()
    engine.step(frames[i % len(frames)], time=i / demo.FPS)  # back on the host, so the GPU is done
    return (time.perf_counter() - start) * 1e3


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--quick", action="store_true", help="60 frames instead of 300; writes nothing")
    arguments.add_argument("--size", type=int, default=256)
    arguments.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    options = arguments.parse_args()
    count = 60 if options.quick else 300
    frames = driver_frames()
    half = "bfloat16" if options.device == "cpu" else "float16"
    runs = {
        "refined-warp float32": {"dtype": "float32"},
        f"refined-warp {half}": {"dtype": half},
        "published form float32": {"weights": random_face2face_rho(0), "dtype": "float32"},
        f"published form {half}": {"weights": random_face2face_rho(0), "dtype": half},
        "landmark-warp float32": {"model": "landmark-warp", "dtype": "float32"},
    }
    results = {}
    for name, settings in runs.items():
        results[name] = measure(settings | {"size": options.size}, options.device, frames, count)
        fps = 1e3 / results[name]["whole frame"]["p50_ms"]
        print(f"{name} at {options.size}: {fps:.1f} frames/s")
    print(timing.table(stage_rows(results), ["stage", *results, "paper, Kryo 680"]))
    if options.quick:
        return
    notes = (
        "Medians in ms, host to host, driver frames of 512 x 512. refined-warp: the weights that ship, over the "
        "landmark warp; published form: random weights of the released configuration. Load: engine with its tracker "
        "and the portrait's encoding; memory: most that was resident while frames ran, less what was before loading. "
        f"{LIVE.capitalize()}: the whole frame where each comes {1000 // LIVE_FPS} ms after the one before. "
        "Last column: the paper's Table 4 (Kryo 680, 4 threads), its 3DMM fit set beside track + fit."
    )
    timing.write(
        "engine",
        {
            "title": f"Whole frames, track to deliver, {options.size} x {options.size}",
            "notes": notes,
            "columns": ["stage", *results, "paper, Kryo 680"],
            "rows": stage_rows(results),
            "size": options.size,
            "frames": count,
            "results": results,
        },
        device=options.device,
    )


def stage_rows(results: dict[str, dict[str, dict[str, float]]]) -> list[list[str]]:
    """Table rows: median ms of every stage and run, the paper's number beside it; percentiles; what comes once."""

    def cell(run: str, stage: str, key: str = "p50_ms") -> str:
        return f"{results[run][stage][key]:.2f}" if stage in results[run] else "-"

    named = [s for s in (*STAGES, GRAPH) if s != GRAPH or any(s in stages for stages in results.values())]
    rows = [[stage, *(cell(run, stage) for run in results), str(PAPER_MS.get(stage, "-"))] for stage in named]
    both = [
        f"{sum(stages[s]['p50_ms'] for s in ('track', 'fit')):.2f}" if "track" in stages else "-"
        for stages in results.values()
    ]
    rows.insert(2, ["track + fit", *both, str(PAPER_MS["track + fit"])])
    for key in ("p50_ms", "p95_ms", "p99_ms"):
        paper = str(PAPER_MS["whole frame"]) if key == "p50_ms" else "-"
        rows.append([f"whole frame {key[:3]}", *(cell(run, "whole frame", key) for run in results), paper])
    for key in ("p50_ms", "p95_ms"):
        rows.append([f"{LIVE} {key[:3]}", *(cell(run, LIVE, key) for run in results), "-"])
    fps = [f"{1e3 / results[run]['whole frame']['p50_ms']:.1f}" for run in results]
    rows.append(["frames per second", *fps, f"{1e3 / PAPER_MS['whole frame']:.1f}"])
    for name, key, unit in (("load", "s", "s"), ("first frame", "ms", "ms"), ("memory", "mb", "MB")):
        rows.append([f"{name}, {unit}", *(f"{results[run][name][key]:.3g}" for run in results), "-"])
    return rows


if __name__ == "__main__":
    main()
