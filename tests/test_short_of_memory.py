"""An engine that gets no memory where it asks for some: frames go on or an error is raised, the process never dies."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("resource", reason="limits on memory are POSIX's")


@pytest.mark.row(
    "R5",
    "address space that ends at some point of making an engine and drawing three frames: they are "
    "drawn, with one warning at most, or `MemoryError`; the process lives",
)
def test_address_space_that_ends_never_kills(row):
    count = row.amount(6, 200)
    script = Path(__file__).with_name("short_of_memory.py")
    done = subprocess.run(
        [sys.executable, script, str(count)], capture_output=True, text=True, check=False, timeout=900
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout)
    drawn = [warnings for outcome, warnings in found if outcome == "drawn"]
    others = {outcome for outcome, _ in found if outcome != "drawn"}
    row.measured(f"{count} limits: {len(drawn)} drawn, {sum(drawn)} with a warning, {count - len(drawn)} refused")
    assert max(drawn, default=0) <= 1
    assert all(outcome.startswith(("MemoryError", "_ArrayMemoryError")) for outcome in others), others
