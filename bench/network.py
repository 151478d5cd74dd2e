"""Face2Face^rho's online step: ours beside eager PyTorch, torch.compile and, where installed, ONNX Runtime, OpenVINO.

    python bench/network.py [--quick] [--device cuda] [--sizes 256 512 1440]

Random weights, real sizes, the motion network at the rendering's size (at 1440: 1472). Every engine has a process of
its own, which is stopped while another is timed: waiting threads that spin would slow the others down. Closeness comes
first: no time is printed where a picture is not what the plain networks draw.
"""

import argparse
import importlib.util
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import timing

HERE = Path(__file__).resolve().parent
# (engine, dtype) of each device; the first is what the others are compared with.
RUNS = {
    "cpu": [
        ("eager PyTorch", "float32"),
        ("torch.compile", "float32"),
        ("ONNX Runtime", "float32"),
        ("OpenVINO", "float32"),
        ("OpenVINO", "bfloat16"),
        ("ours", "float32"),
        ("ours", "bfloat16"),
    ],
    "cuda": [
        ("eager PyTorch", "float32"),
        ("eager PyTorch", "float16"),
        ("torch.compile", "float16"),
        ("ours", "float32"),
        ("ours", "float16"),
    ],
}
# What an engine needs beside PyTorch: those that have a row here read an ONNX export.
PACKAGES = {"ONNX Runtime": ("onnxruntime", "onnx", "onnxscript"), "OpenVINO": ("openvino", "onnx", "onnxscript")}
# Relative L2 of the picture: float32 as for a whole network; bfloat16 as measured on random weights (0.027), doubled,
# and float16, which keeps three bits more, an eighth of that.
TOLERANCE = {"float32": 1e-5, "bfloat16": 5e-2, "float16": 7e-3}
COLUMNS = [
    "size",
    "network",
    "frames",
    "ms",
    "p95",
    "p99",
    "times eager",
    "ahead",
    "relative L2",
    "memory MB",
    "load s",
    "first frame ms",
]


class Worker:
    """One engine in its process; stopped except while it is asked for something."""

    def __init__(self, engine: str, dtype: str, size: int, device: str, folder: Path):
        self.engine, self.dtype = engine, dtype
        command = [sys.executable, str(HERE / "network_engines.py"), engine, dtype, str(size), device, str(folder)]
        # torch.compile starts from nothing, so that its time to load is a user's.
        variables = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor")}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8", env=variables
        )
        self.loading: dict[str, float] = self._listen()
        self.picture = np.load(folder / f"picture-{engine}-{dtype}.npy")
        self.rounds: list[list[float]] = []

    @property
    def name(self) -> str:
        """Engine and dtype as the tables have them."""
        return f"{self.engine}, {self.dtype}"

    def time(self, frames: int) -> None:
        """One round: milliseconds of so many frames, kept."""
        self.process.send_signal(signal.SIGCONT)
        print(json.dumps({"frames": frames}), file=self.process.stdin, flush=True)
        self.rounds.append(self._listen())

    def end(self) -> dict[str, Any]:
        """Its memory and stages."""
        self.process.send_signal(signal.SIGCONT)
        if self.process.stdin is not None:
            self.process.stdin.close()
        return dict(self._listen(stop=False))

    def kill(self) -> None:
        """End the process, stopped or not."""
        self.process.kill()
        self.process.wait()

    def _listen(self, *, stop: bool = True) -> Any:
        line = self.process.stdout.readline() if self.process.stdout else ""
        if not line:
            raise RuntimeError(f"{self.name}: the process ended with exit code {self.process.wait()}")
        if stop:
            self.process.send_signal(signal.SIGSTOP)
        return json.loads(line)


class Workers(list[Worker]):
    """Workers that end with the block."""

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for worker in self:
            worker.kill()


def installed(device: str) -> list[tuple[str, str]]:
    """The runs of a device whose packages are here."""
    return [run for run in RUNS[device] if all(map(importlib.util.find_spec, PACKAGES.get(run[0], ())))]


def need_close(worker: Worker, expected: np.ndarray) -> float:
    """Relative L2 distance of the picture; RuntimeError where it is too large."""
    error = float(np.linalg.norm(worker.picture - expected) / np.linalg.norm(expected))
    if not error <= TOLERANCE[worker.dtype]:
        raise RuntimeError(f"{worker.name}: relative L2 error {error:.2g} is over {TOLERANCE[worker.dtype]:.0e}")
    return error


def measure(
    size: int, device: str, runs: list[tuple[str, str]], rounds: int, frames: int, seconds: float
) -> list[dict[str, Any]]:
    """Rows of one size.

    Args:
        rounds: each engine's frames are shared out among so many, in which the engines take turns.
        frames: at most so many in all, of each engine.
        seconds: that an engine's frames should take in all; but at least 3 a round.
    """
    with tempfile.TemporaryDirectory() as name, Workers() as workers:
        folder = Path(name)
        onnx = ["onnx"] if any(engine in PACKAGES for engine, _ in runs) else []
        subprocess.run([sys.executable, str(HERE / "network_case.py"), str(size), name, *onnx], check=True)
        expected = np.load(folder / "expected.npy")
        errors = {}
        for engine, dtype in runs:
            workers.append(Worker(engine, dtype, size, device, folder))
            errors[workers[-1].name] = need_close(workers[-1], expected)
        for _ in range(rounds):
            for worker in workers:
                affordable = int(seconds * 1e3 / worker.loading["warm_ms"])
                worker.time(max(3, min(frames, affordable) // rounds))
        rows = [row(size, worker, errors[worker.name]) for worker in workers]
    return compare(rows)


def row(size: int, worker: Worker, error: float) -> dict[str, Any]:
    """One line of the table but for the comparison: the median is that of the rounds' medians."""
    times = [ms for one in worker.rounds for ms in one]
    ends = worker.end()
    p50 = statistics.median(statistics.median(one) for one in worker.rounds)
    return {
        "size": size,
        "network": worker.name,
        "frames": len(times),
        "ms": p50,
        "p95": timing.quantile(times, 0.95),
        "p99": timing.quantile(times, 0.99),
        "relative L2": error,
        "memory MB": round(ends["memory_mb"]),
        "load s": worker.loading["load_s"],
        "first frame ms": worker.loading["first_ms"],
        "stages": ends["stages"],
    }


def compare(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of one size with "times eager" (the first row) and, for ours, "ahead" of the fastest other of its dtype."""

    def precision(row: dict[str, Any]) -> str:
        return row["network"].rpartition(", ")[2]

    for one in rows:
        one["times eager"] = rows[0]["ms"] / one["ms"]
        others = [r["ms"] for r in rows if precision(r) == precision(one) and not r["network"].startswith("ours")]
        if one["network"].startswith("ours") and others:
            one["ahead"] = min(others) / one["ms"]
    return rows


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--quick", action="store_true", help="256, fewer frames, no torch.compile; writes nothing")
    arguments.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    arguments.add_argument("--sizes", type=int, nargs="+", default=[256, 512, 1440])
    options = arguments.parse_args()
    rows: list[dict[str, Any]] = []
    begin = time.perf_counter()
    sizes, runs = options.sizes, installed(options.device)
    if options.quick:
        sizes, runs = [256], [run for run in runs if run[0] != "torch.compile"]
    try:
        for size in sizes:
            # At 256 all 300 frames, however long they take.
            rounds, frames, seconds = (10, 300, 1e3) if size <= 256 else (10 if size <= 512 else 5, 300, 15.0)
            if options.quick:
                rounds, frames, seconds = 3, 30, 2.0
            rows += measure(size, options.device, runs, rounds, frames, seconds)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    print(timing.table(rows, COLUMNS))
    print(f"took {time.perf_counter() - begin:.0f} s")
    if not options.quick:
        notes = (
            "Random weights; the motion network at the rendering's size (at 1440: 1472). Engines take turns, each in "
            "a process of its own, the others stopped; `ms` is the median of the rounds' medians, p95 and p99 are of "
            "all frames. Ours goes from keypoints to a uint8 frame, the others from drawings to a float picture. "
            "`ahead`: the time of the fastest other engine in the same precision over ours. `relative L2`: distance "
            "from eager's picture. `memory MB`: most that was resident while frames ran, less what was before "
            "loading. torch.compile: constant weights (`freezing`), from an empty cache."
        )
        if options.device == "cuda":
            notes += (
                " On the GPU it is max-autotune with CUDA graphs, eager is channels-last without TF32, pictures stay "
                "on the device, and memory is what PyTorch reserved there."
            )
        payload = {"title": "Face2Face^rho, the online step", "columns": COLUMNS, "rows": rows, "notes": notes}
        plot = {"x": "size", "y": "ms", "series": "network"}
        timing.write("network", payload | {"plot": plot}, device=options.device)
    return 0


if __name__ == "__main__":
    sys.exit(main())
