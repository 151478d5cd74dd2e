"""Run the benchmarks and write bench/RESULTS.md from the JSON files that they leave; nobody types a number.

    python bench/report.py [--quick] [--only NAME ...] [--write-only]

A result file holds `title`, `columns`, `rows` (lists or dicts) and, where there is something to say, `notes`.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

BENCH = Path(__file__).resolve().parent
# In the order of the page.
SCRIPTS = (
    "engine", "network", "soak", "reenactment", "fit", "warp", "spade", "rasterize_landmarks", "to_frame",
)  # fmt: skip


def run(name: str, quick: bool) -> bool:
    """Run bench/<name>.py; False (and a line) if it fails: the page then keeps its last result."""
    print(f"== {name}", flush=True)
    command = [sys.executable, str(BENCH / f"{name}.py"), *(["--quick"] if quick else [])]
    done = subprocess.run(command, check=False)
    if done.returncode:
        print(f"bench/{name}.py failed with exit code {done.returncode}", file=sys.stderr)
    return done.returncode == 0


def table(columns: list[str], rows: list[Any]) -> str:
    """A Markdown table; floats with three significant digits."""

    def cell(value: Any) -> str:
        return f"{value:.3g}" if isinstance(value, float) else str(value)

    values = [[row.get(column, "") for column in columns] if isinstance(row, dict) else row for row in rows]
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    return "\n".join([*lines, *("| " + " | ".join(cell(value) for value in row) + " |" for row in values)])


def section(name: str, result: dict[str, Any]) -> str:
    """One part of the page, with the machine it was measured on."""
    machine = result["environment"]
    where = (
        f"`python bench/{name}.py`; {machine['processor']}, {machine['cores']} cores, "
        f"instruction set {machine['isa']}, PyTorch {machine['torch']}, Python {machine['python']}."
    )
    notes = result.get("notes", [])
    notes = [notes] if isinstance(notes, str) else notes
    return "\n\n".join([f"## {result['title']}", where, *notes, table(result["columns"], result["rows"])])


def page() -> str:
    """RESULTS.md."""
    parts = [
        "# Results",
        (
            "Written by `make bench` from the files in `bench/results/`. Machines differ and are noisy: compare "
            "numbers of one table, which come from one run, not numbers of two. No GPU is in these tables."
        ),
    ]
    for name in SCRIPTS:
        path = BENCH / "results" / "cpu" / f"{name}.json"
        if path.exists():
            parts.append(section(name, json.loads(path.read_text(encoding="utf-8"))))
    return "\n\n".join(parts) + "\n"


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--quick", action="store_true", help="fewer repeats: a look, not a result")
    arguments.add_argument("--only", nargs="+", choices=SCRIPTS, metavar="NAME", default=SCRIPTS)
    arguments.add_argument("--write-only", action="store_true", help="write the page from the results at hand")
    options = arguments.parse_args()
    passed = [run(name, options.quick) for name in options.only] if not options.write_only else []
    (BENCH / "RESULTS.md").write_text(page(), encoding="utf-8")
    print(f"wrote {BENCH / 'RESULTS.md'}")
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
