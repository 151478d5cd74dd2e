"""The rows of docs/reliability.md: tests that say what they measured, small in CI and at the page's size with --full.

A test marked `@pytest.mark.row("F1", "what must hold")` takes the fixture `row`: `row.amount(ci, full)` gives the
number of cases of this run, `row.measured(text)` the figure for the page. `make soak` runs them all in full and writes
the page; rows that it does not run keep their last figures.
"""

import datetime
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reliability.md"
RESULTS = ROOT / "bench" / "results" / "reliability.json"
SECTIONS = {
    "K": "Kernels",
    "M": "Memory",
    "F": "Damaged and odd files",
    "V": "Times and output files",
    "A": "Faces",
    "R": "Run time",
    "S": "Files from strangers",
}


class Row:
    """What a test of a row knows of its run."""

    def __init__(self, full: bool):
        self.full = full
        self.figures: list[str] = []

    def amount(self, ci: int, full: int) -> int:
        """How many cases: few in CI, all of the page's with --full."""
        return full if self.full else ci

    def measured(self, figure: str) -> None:
        """A figure for the page, said before it is asserted so that a failure shows it too."""
        self.figures.append(figure)


@pytest.fixture
def row(request: pytest.FixtureRequest, record_property):
    """The run of a test marked `row`."""
    marker = request.node.get_closest_marker("row")
    assert marker is not None, "a test with a row names it: @pytest.mark.row(id, what must hold)"
    run = Row(request.config.getoption("--full"))
    yield run
    record_property("row", [*marker.args, "; ".join(run.figures)])


class Page:
    """Collects the rows of a full run and writes them beside those of earlier ones."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, object]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Failures are known after `call`, figures after `teardown`."""
        if report.when == "call":
            self.found[report.nodeid] = {"passed": report.passed, "seconds": round(report.duration, 1)}
        rows = [value for key, value in report.user_properties if key == "row"]
        if report.when == "teardown" and rows and report.nodeid in self.found:
            identity, holds, figure = rows[0]
            day = datetime.datetime.now(datetime.UTC).date().isoformat()
            self.found[report.nodeid] |= {"id": identity, "holds": holds, "figure": figure, "day": day}

    def pytest_sessionfinish(self) -> None:
        """Write both files."""
        rows = {name: row for name, row in self.found.items() if "id" in row}
        if rows:
            before = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
            write(before | rows)


def write(rows: dict[str, dict[str, object]]) -> None:
    """The results and the page; rows whose tests are gone are left out."""
    rows = {name: row for name, row in sorted(rows.items()) if (ROOT / name.partition("::")[0]).is_file()}
    RESULTS.write_text(json.dumps(rows, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    PAGE.write_text(page(rows), encoding="utf-8")


def page(rows: dict[str, dict[str, object]]) -> str:
    """docs/reliability.md."""
    parts = [
        "# What must never break",
        (
            "Written by `make soak`, on two CPU cores. Every row is a test that runs in `make test` too, with fewer "
            "cases; `python -m pytest --full -m row -k NAME` runs some in full and brings their lines up to date."
        ),
    ]
    for letter, title in SECTIONS.items():
        lines = [_line(row) for row in sorted(rows.values(), key=_order) if str(row["id"]).startswith(letter)]
        if lines:
            parts.append(
                f"## {title}\n\n| row | what must hold | measured | day |\n| --- | --- | --- | --- |\n"
                + "\n".join(dict.fromkeys(lines))
            )
    return "\n\n".join(parts) + "\n"


def _order(row: dict[str, object]) -> tuple[str, int, str]:
    identity = str(row["id"])
    return identity[0], int(identity[1:]), str(row["holds"])


def _line(row: dict[str, object]) -> str:
    failed = "" if row["passed"] else "**FAILED** "
    return f"| {row['id']} | {row['holds']} | {failed}{row['figure']} | {row['day']} |"


def pytest_addoption(parser: pytest.Parser) -> None:
    """--full."""
    parser.addoption("--full", action="store_true", help="rows of docs/reliability.md in full; writes the page")


def pytest_configure(config: pytest.Config) -> None:
    """With --full the page is written, by the process that sees all tests."""
    if config.getoption("--full") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Page())
