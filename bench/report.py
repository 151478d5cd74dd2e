"""Run the benchmarks; write bench/RESULTS.md, its plots and the README's numbers from the JSON files that they leave.

    python bench/report.py [--quick] [--only NAME ...] [--write-only] [--tables DEVICE]

A result file holds `title`, `columns`, `rows` (lists or dicts) and, where there is something to say, `notes`; and
`plot` where bench/plot.py needs to be told how.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import plot
import timing

BENCH = Path(__file__).resolve().parent
# In the order of the page.
SCRIPTS = (
    "engine",
    "network",
    "sizes",
    "gmac",
    "model_2080ti",
    "reenactment",
    "fit",
    "calls",
    "mbconv",
    "conv",
    "tail",
    "warp",
    "grid_sample_3d",
    "spade",
    "norm_act",
    "dictionary_read",
    "rasterize_landmarks",
    "shrink",
    "to_frame",
    "compose_frame",
    "landmark_field",
    "render_mesh",
)


def run(name: str, quick: bool) -> bool:
    """Run bench/<name>.py; False (and a line) if it fails: the page then keeps its last result."""
    print(f"== {name}", flush=True)
    command = [sys.executable, str(BENCH / f"{name}.py"), *(["--quick"] if quick else [])]
    done = subprocess.run(command, check=False)
    if done.returncode:
        print(f"bench/{name}.py failed with exit code {done.returncode}", file=sys.stderr)
    return done.returncode == 0


def section(name: str, result: dict[str, Any], device: str) -> str:
    """One part of the page, with the machine it was measured on; draws its plot."""
    machine = result["environment"]
    command = f"python bench/{name}.py" + (f" --device {device}" if device != "cpu" else "")
    where = f"{machine['processor']}, {machine['cores']} cores, instruction set {machine['isa']}"
    if device != "cpu":
        where = f"{machine['gpu']}; {where}"
    where = f"`{command}`; {where}, PyTorch {machine['torch']}, Python {machine['python']}."
    notes = result.get("notes", [])
    notes = [notes] if isinstance(notes, str) else notes
    parts = [f"## {result['title']}", where, *notes, timing.table(result["rows"], result["columns"])]
    drawn = plot.write(name if device == "cpu" else f"{name}-{device}", result)
    if drawn:
        parts.append(f"![{result['title']}](plots/{drawn.name})")
    return "\n\n".join(parts)


def sections(results: dict[str, dict[str, Any]], device: str) -> list[str]:
    """The parts of the page that were measured on a device."""
    return [section(name, result, device) for name, result in results.items()]


def page(results: dict[str, dict[str, Any]], on_gpu: dict[str, dict[str, Any]]) -> str:
    """RESULTS.md."""
    parts = [
        "# Results",
        (
            "Written by `make bench` from the files in `bench/results/`. Machines differ and are noisy: compare "
            "numbers of one table, which come from one run, not numbers of two."
            + ("" if on_gpu else " No GPU is in these tables.")
        ),
    ]
    parts += sections(results, "cpu")
    if on_gpu:
        parts.append("# On a GPU")
    return "\n\n".join([*parts, *sections(on_gpu, "cuda")]) + "\n"


def results_of(device: str) -> dict[str, dict[str, Any]]:
    """Script -> what its last run on a device has left, in the order of the page, those that it does not name last."""
    files = {path.stem: path for path in sorted((BENCH / "results" / device).glob("*.json"))}
    names = [*(name for name in SCRIPTS if name in files), *(name for name in files if name not in SCRIPTS)]
    return {name: json.loads(files[name].read_text(encoding="utf-8")) for name in names}


def summary(results: dict[str, dict[str, Any]]) -> str:
    """The few numbers that the README shows, as a table."""
    rows = []
    if "engine" in results:
        for name, stages in results["engine"]["results"].items():
            whole, size = stages["whole frame"]["p50_ms"], results["engine"]["size"]
            what = f"whole frame, track to deliver, {name}, {size}"
            rows.append([what, f"{1e3 / whole:.0f} frames/s ({whole:.1f} ms)"])
    for row in results.get("network", {}).get("rows", []):
        if row["network"].startswith("ours"):
            what = f"network step, {row['network'].removeprefix('ours, ')}, {row['size']}"
            faster = f"{row['ms']:.1f} ms, {row['times eager']:.1f} times eager PyTorch in float32"
            if "ahead" in row:
                faster += f", {row['ahead']:.2f} times the fastest other engine in the same precision"
            rows.append([what, faster])
    return timing.table(rows, ["on two CPU cores", "measured"])


def write_readme(results: dict[str, dict[str, Any]]) -> None:
    """Replace what stands between the README's markers."""
    path = BENCH.parent / "README.md"
    before, marker, rest = path.read_text(encoding="utf-8").partition("<!-- numbers -->\n")
    _, end, after = rest.partition("<!-- /numbers -->\n")
    path.write_text(f"{before}{marker}\n{summary(results)}\n\n{end}{after}", encoding="utf-8")


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--quick", action="store_true", help="fewer repeats: a look, not a result")
    arguments.add_argument("--only", nargs="+", choices=SCRIPTS, metavar="NAME", default=SCRIPTS)
    arguments.add_argument("--write-only", action="store_true", help="write the page from the results at hand")
    arguments.add_argument("--tables", choices=("cpu", "cuda"), help="print the tables of a device; write no page")
    options = arguments.parse_args()
    if options.tables:
        print("\n\n".join(sections(results_of(options.tables), options.tables)))
        return 0
    passed = [run(name, options.quick) for name in options.only] if not options.write_only else []
    results = results_of("cpu")
    (BENCH / "RESULTS.md").write_text(page(results, results_of("cuda")), encoding="utf-8")
    write_readme(results)
    print(f"wrote {BENCH / 'RESULTS.md'} and the numbers of the README")
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
