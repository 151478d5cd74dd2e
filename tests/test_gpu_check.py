"""bench/gpu_check.sh names every op that has a GPU path, in the order of importance; nothing of it runs here."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "bench" / "gpu_check.sh"


@pytest.fixture(scope="module")
def steps():
    """Name -> (seconds at most, command) of what would run."""
    if not SCRIPT.is_file() or shutil.which("bash") is None:
        pytest.skip("needs the source tree and bash")
    environment = os.environ | {"DRY": "1", "PYTHON": sys.executable}
    environment.pop("OUT", None)
    done = subprocess.run(["bash", SCRIPT], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    found = re.findall(r"^dry +(\S.*?) +at most (\d+) s: (.*)$", done.stdout, re.MULTILINE)
    return {name: (int(limit), command.split()) for name, limit, command in found}


def test_order_of_importance(steps):
    names = list(steps)
    assert names[:5] == ["what is here", "build", "doctor", "tests on the GPU", "memcheck and racecheck"]
    assert names[-1] == "tests on the CPU"
    first, last = names.index("bench warp"), names.index("bench warp, torch.compile too")
    assert first < names.index("the step from 256 to 2048") < names.index("the step beside others at 1440") < last


@pytest.mark.parametrize("op", sorted(path.stem for path in (ROOT / "fastreenact" / "ops").glob("*.py")))
def test_op_with_a_gpu_path_is_in_it(op, steps):
    """Tests marked gpu run, also under the sanitizer; a benchmark that takes --device runs."""
    for test in (ROOT / "tests" / f"test_{op}.py", ROOT / "tests" / f"test_kernels_{op}.py"):
        if test.is_file() and re.search(r"pytest\.mark\.gpu|\bDEVICES\b", test.read_text(encoding="utf-8")):
            name = test.relative_to(ROOT).as_posix()
            assert name in steps["tests on the GPU"][1]
            assert name in steps["memcheck and racecheck"][1]
    bench = ROOT / "bench" / f"{op}.py"
    if bench.is_file() and re.search(r'"--device"|timing\.(arguments|begin)', bench.read_text(encoding="utf-8")):
        assert steps[f"bench {op}"][1][1:4] == [f"bench/{op}.py", "--device", "cuda"]


def test_named_files_exist(steps):
    words = {word for _, command in steps.values() for word in command if re.fullmatch(r"(bench|tests)/\S+\.py", word)}
    assert len(words) > 20
    assert [word for word in words if not (ROOT / word).is_file()] == []
