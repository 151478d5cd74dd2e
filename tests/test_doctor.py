"""`fastreenact doctor`: a line for each part, and never a traceback."""

import os
import subprocess
import sys

import pytest

from fastreenact import _C
from fastreenact.app import doctor
from fastreenact.ops import define as library

NAMES = [
    "package",
    "extension",
    "instructions",
    "threads",
    "torch",
    "GPU",
    "kernels",
    "Triton",
    "CuPy",
    "tracker",
    "codecs",
    "weights",
]


def test_report_has_a_line_for_each_part():
    found = doctor.checks()
    assert [check.name for check in found] == NAMES
    assert {check.status for check in found} <= {"ok", "off", "missing"}, doctor.report(found)
    lines = doctor.report(found).splitlines()
    assert sum(not line.startswith(" ") for line in lines) == len(NAMES)
    assert all(check.advice for check in found if check.status == "missing")


@pytest.mark.parametrize(
    ("with_cuda", "absent", "status", "words"),
    [
        (True, (), "ok", "the extension's, and Triton's"),
        (True, ("triton",), "ok", "the extension's, and PyTorch's for what Triton would do"),
        (False, (), "ok", "as CuPy compiles them at first use"),
        (False, ("cupy",), "off", "PyTorch's own, without a graph"),
    ],
)
def test_kernels_of_a_gpu_are_said_as_they_are_taken(monkeypatch, caplog, with_cuda, absent, status, words):
    monkeypatch.setattr(_C, "WITH_CUDA", with_cuda)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name in absent else name)
    found = doctor._kernels()
    assert found.status == status
    assert words in found.found
    assert bool(found.advice) == (status == "off")
    library._has_cupy.cache_clear()
    try:
        taken = [library.cuda_kernels() for _ in range(3)]
    finally:
        library._has_cupy.cache_clear()
    assert taken == [status == "ok"] * 3
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == (status == "off")  # once, whatever is asked


def test_a_broken_part_is_a_line(monkeypatch):
    def _codecs():
        raise OSError("libavcodec.so.62: cannot open shared object file\nsecond line")

    monkeypatch.setattr(doctor, "_CHECKS", (doctor._package, _codecs))
    found = doctor.checks()
    assert found[1] == doctor.Check(
        "codecs", "broken", "OSError: libavcodec.so.62: cannot open shared object file"
    )  # one line
    assert doctor.main() == 1


@pytest.mark.parametrize(
    ("absent", "line"), [("torch", "PyTorch is not"), ("mediapipe", "MediaPipe is not"), ("av", "PyAV is not")]
)
def test_what_is_absent_is_named_with_what_to_do(monkeypatch, capsys, absent, line):
    present = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == absent else present(name))
    assert doctor.main() == 1
    captured = capsys.readouterr()
    said = captured.out.splitlines()
    at = next(i for i, text in enumerate(said) if line in text)
    assert said[at].startswith("missing")
    assert "pip install" in said[at + 1]
    assert "not all is well here" in captured.err


def test_an_impossible_instruction_set_is_explained():
    """In a process of its own, because the choice is made once."""
    code = "from fastreenact.app import doctor; print(doctor._instruction_set())"
    environment = os.environ | {"FASTREENACT_ISA": "sse9"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert "missing" in done.stdout
    assert "unset FASTREENACT_ISA" in done.stdout


def test_the_command_prints_the_report():
    done = subprocess.run([sys.executable, "-m", "fastreenact", "doctor"], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1)
    assert "Traceback" not in done.stdout + done.stderr
    assert [line.split()[1] for line in done.stdout.splitlines() if not line.startswith(" ")] == NAMES
