"""Timing that all benchmarks share: interleaved callables, medians with p20 and p80, a copy's rate, JSON out."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

RESULTS = Path(__file__).resolve().parent / "results"
LEAD_S = 0.03  # before a sample: the threads of whoever ran before still spin, and its own may share a core at first
WHERE = {"cpu": "on the CPU", "cuda": "on the GPU"}


def quantile(values: list[float], share: float) -> float:
    """The value below which `share` of the sorted values lie, interpolated."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def measure(
    functions: dict[str, Callable[[], object]],
    repeats: int = 30,
    *,
    warmup: int = 3,
    max_seconds: float = 20.0,
    inner: int | None = None,
) -> dict[str, dict[str, float]]:
    """Time each callable in turn, round after round, so that a busy moment of the machine hits all of them alike.

    Args:
        functions: name -> callable without arguments that does one run and returns when it is done.
        repeats: rounds; fewer when `max_seconds` is over, but at least 5.
        warmup: runs of each before the first round.
        max_seconds: no new round starts after this long.
        inner: runs per sample; None chooses so that a sample lasts about 2 ms.

    Returns:
        name -> {"median_ms", "p20_ms", "p80_ms", "min_ms", "samples"} of one run.
    """
    counts = {}
    for name, function in functions.items():
        for _ in range(max(warmup, 1)):
            function()
        start = time.perf_counter()
        function()
        once = time.perf_counter() - start
        counts[name] = inner or max(1, min(1000, int(0.002 / max(once, 1e-7))))

    def sample(function: Callable[[], object], count: int) -> float:
        lead = time.perf_counter() + LEAD_S
        while time.perf_counter() < lead:
            function()
        start = time.perf_counter()
        for _ in range(count):
            function()
        return (time.perf_counter() - start) * 1e3 / count

    timed = {name: partial(sample, function, counts[name]) for name, function in functions.items()}
    return _rounds(timed, repeats, max_seconds)


def measure_gpu(
    functions: dict[str, Callable[[], object]], repeats: int = 30, *, max_seconds: float = 20.0, inner: int = 32
) -> dict[str, dict[str, float]]:
    """As `measure`, on the GPU: events around a replayed CUDA graph of `inner` runs, without the launching."""
    import torch

    graphs, stream = {}, torch.cuda.Stream()
    for name, function in functions.items():
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):  # compiles and loads what a capture must not
                function()
        torch.cuda.synchronize()
        graphs[name] = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graphs[name]):
            for _ in range(inner):
                function()

    def replay(name: str) -> Callable[[], float]:
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)

        def run() -> float:
            start.record()
            graphs[name].replay()
            end.record()
            end.synchronize()
            return start.elapsed_time(end) / inner

        return run

    return _rounds({name: replay(name) for name in functions}, repeats, max_seconds)


def _rounds(timed: dict[str, Callable[[], float]], repeats: int, max_seconds: float) -> dict[str, dict[str, float]]:
    """Call each in turn, round after round; each gives the milliseconds of one run."""
    samples: dict[str, list[float]] = {name: [] for name in timed}
    begin = time.perf_counter()
    for done in range(max(repeats, 5)):
        if done >= 5 and time.perf_counter() - begin > max_seconds:
            break
        for name, function in timed.items():
            samples[name].append(function())
    return {
        name: {
            "median_ms": statistics.median(times),
            "p20_ms": quantile(times, 0.2),
            "p80_ms": quantile(times, 0.8),
            "min_ms": min(times),
            "samples": len(times),
        }
        for name, times in samples.items()
    }


def rotate(
    make: Callable[[], Any], bytes_each: int, *, beyond: int = 64 << 20, at_most: int = 256
) -> Callable[[], Any]:
    """A callable that gives one of several inputs in turn, together larger than the cache (`beyond` bytes)."""
    inputs = [make() for _ in range(max(2, min(at_most, beyond // max(bytes_each, 1) + 1)))]
    state = {"next": 0}

    def take() -> Any:
        state["next"] = (state["next"] + 1) % len(inputs)
        return inputs[state["next"]]

    return take


def copy_gb_per_s(device: str = "cpu") -> float:
    """Memory rate of a plain tensor copy on this machine now, reads and writes counted, in GB/s."""
    import torch

    bytes_moved = 128 << 20 if device == "cpu" else 2 << 30  # beyond the cache
    source = torch.rand(bytes_moved // 8, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    copy = {"copy": lambda: target.copy_(source)}
    timed = (measure if device == "cpu" else measure_gpu)(copy, repeats=7, max_seconds=2.0)
    return 2 * source.numel() * 4 / (timed["copy"]["median_ms"] * 1e-3) / 1e9


def closeness(actual: Any, expected: Any) -> tuple[float, float]:
    """Greatest error as a share of the greatest value, and relative L2 error."""
    error = actual.double() - expected.double()
    size = expected.double()
    return float(error.abs().max() / size.abs().max()), float(error.norm() / size.norm())


def need_close(name: str, actual: Any, expected: Any, *, slack: float = 1.0) -> None:
    """SystemExit when an op's result is beyond the tolerances of tests/conftest.py: its time would mean nothing.

    Args:
        slack: factor on them for an op that rounds more often or sums longer, as its own test has it.
    """
    greatest, relative = closeness(actual, expected)
    limits = {"float32": (1e-5, 1e-6), "bfloat16": (1.6e-2, 8e-3), "float16": (2e-3, 1e-3), "uint8": (1 / 128, 1e-3)}
    most, most_relative = limits[str(actual.dtype).removeprefix("torch.")]
    print(f"{name}: greatest error {greatest:.2g}, relative L2 {relative:.2g}")
    if not (greatest <= slack * most and relative <= slack * most_relative):
        raise SystemExit(f"{name}: not close to its reference, no time is printed")


class Case(NamedTuple):
    """One line of an op's table."""

    what: dict[str, Any]  # its first columns
    ours: Callable[[], object]
    eager: Callable[..., object]  # the same in plain PyTorch, of what `inputs` gives
    inputs: Callable[[], tuple[Any, ...]]  # tensors, in other memory each time
    moved: int  # bytes that have to move
    multiplications: int = 0  # of an op that multiplies matrices


def arguments(doc: str | None) -> argparse.Namespace:
    """The command line of an op's benchmark: `quick`, `device`, `compile`."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, few repeats; writes nothing")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="without torch.compile")
    return parser.parse_args()


def begin(doc: str | None) -> tuple[argparse.Namespace, str, float]:
    """An op's benchmark begins: its command line, the device, where tensors are made from now on, seeded, and what a
    copy reaches there, GB/s."""
    import torch

    options = arguments(doc)
    torch.set_default_device(options.device)
    torch.manual_seed(0)
    return options, options.device, copy_gb_per_s(options.device)


def compiled(case: Case, device: str) -> Callable[..., object] | None:
    """The eager form through torch.compile, compiled and run; None, and why on the screen, where that fails.

    On the CPU in the default mode. On a GPU max-autotune: `measure_gpu` puts it in a CUDA graph as all the others.
    """
    import torch

    torch.compiler.reset()  # what was compiled for other shapes would count against a limit
    mode = "default" if device == "cpu" else "max-autotune-no-cudagraphs"
    function = torch.compile(case.eager, mode=mode, fullgraph=True, dynamic=False)
    inputs = case.inputs()
    name = f"torch.compile, {', '.join(map(str, case.what.values()))}"
    try:
        got = function(*(value.clone() for value in inputs))
    except Exception as error:  # the compiler fails in many ways, and is only compared with
        print(f"{name}: {type(error).__name__}: {str(error).strip().splitlines()[0]}")
        return None
    # Both round as they like: eager to half precision between its operations, coordinates among them.
    _, relative = closeness(got, case.eager(*(value.clone() for value in inputs)))
    if inputs[0].dtype == torch.float32 and relative > (1e-3 if got.dtype == torch.uint8 else 1e-4):
        raise SystemExit(f"{name}: relative L2 {relative:.2g} from eager, so one of them is something else")
    return function


def rows(cases: Iterable[Case], options: argparse.Namespace, copy_rate: float) -> list[dict[str, Any]]:
    """The lines of an op's table: ours, eager and torch.compile in turns, case by case."""
    found = []
    for case in cases:
        others = {"eager": case.eager}
        if options.compile:
            function = compiled(case, options.device)
            others |= {"torch.compile": function} if function else {}
        functions = {name: lambda f=f, case=case: f(*case.inputs()) for name, f in others.items()}
        timed = measure if options.device == "cpu" else measure_gpu
        times = timed({"ours": case.ours, **functions}, 9 if options.quick else 25, max_seconds=3.0)
        found.append(row(case.what, times, case.moved, copy_rate, case.multiplications))
        if options.compile:
            found[-1].setdefault("torch.compile ms", "not available")
    return found


def row(
    case: dict[str, Any], times: dict[str, dict[str, float]], moved: int, copy_rate: float, multiplications: int = 0
) -> dict[str, Any]:
    """One line of an op's table from the times of "ours", "eager" and perhaps "torch.compile", and what they do."""
    ours, eager = times["ours"], times["eager"]
    rate = moved / (ours["median_ms"] * 1e-3) / 1e9
    counted = {"GMAC": multiplications / 1e9, "GFLOP/s": 2e-6 * multiplications / ours["median_ms"]}
    third = {"torch.compile ms": times["torch.compile"]["median_ms"]} if "torch.compile" in times else {}
    return {
        **case,
        "ours ms": ours["median_ms"],
        "p20 - p80": f"{ours['p20_ms']:.3g} - {ours['p80_ms']:.3g}",
        "eager ms": eager["median_ms"],
        "faster": f"{eager['median_ms'] / ours['median_ms']:.1f} x",
        **third,
        "MB": moved / 1e6,
        "of a copy": f"{rate / copy_rate:.0%}",
        **(counted if multiplications else {}),
    }


MEASURED = ["ours ms", "p20 - p80", "eager ms", "faster", "torch.compile ms", "MB", "of a copy", "GMAC", "GFLOP/s"]


def report(
    name: str, title: str, first: list[str], rows: list[dict[str, Any]], notes: list[str], options: argparse.Namespace
) -> None:
    """Print an op's table; a full run writes its result file."""
    columns = [*first, *(column for column in MEASURED if any(column in line for line in rows))]
    print(table(rows, columns))
    save(name, {"title": title, "columns": columns, "rows": rows, "notes": notes}, options)


def save(name: str, content: dict[str, Any], options: argparse.Namespace) -> None:
    """The result file of an op's full run; a quick one is a look, not a result."""
    if not options.quick:
        print(f"wrote {write(name, content, device=options.device)}")


def environment() -> dict[str, Any]:
    """What the numbers depend on: processor, threads, versions, the instruction set of our kernels."""
    import torch

    from fastreenact import _C

    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
        "isa": _C.isa(),
        "threads": _C.num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def write(name: str, payload: dict[str, Any], *, device: str = "cpu") -> Path:
    """Write bench/results/<device>/<name>.json: the payload with the environment beside it; returns the path."""
    path = RESULTS / device / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"environment": environment(), **payload}
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return path


def table(rows: list[Any], columns: list[str]) -> str:
    """A Markdown table of rows (dicts by column, or lists in their order); floats with three digits or more."""

    def cell(value: Any) -> str:
        if not isinstance(value, float):
            return str(value)
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"

    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    values = [[row.get(column, "") for column in columns] if isinstance(row, dict) else row for row in rows]
    return "\n".join([*lines, *("| " + " | ".join(map(cell, row)) + " |" for row in values)])
