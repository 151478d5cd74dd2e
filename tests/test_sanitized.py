"""M1: the C++ under AddressSanitizer and UndefinedBehaviorSanitizer, built in a folder of its own."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fastreenact import _C

ROOT = Path(__file__).resolve().parents[1]
# What enters the C++ at small sizes; two lists that take about as long, for two processes.
TESTS = [
    [
        "canaries",
        "hostile_coordinates",
        "wrong_arguments",
        "grid_sample_3d",
        "mbconv",
        "to_frame",
        "compose_frame",
        "rasterize_landmarks",
        "landmark_warp",
        "replay",
    ],
    ["warp", "spade", "norm_act", "conv", "tail", "shrink", "render_mesh", "fit"],
]
# What asks PyTorch rather than the C++, or Python for long.
SLOW = (
    "opcheck",
    "gradient",
    "compiles",
    "interpreted",
    "real_clip",
    "does_not_fold",
    "opencv",
    "any_coordinates",
    "render_mesh_reference",
)


def libraries() -> list[str]:
    """The sanitizers' run-time libraries, and libstdc++, which has to come after them; none where GCC lacks them."""
    gcc = shutil.which(os.environ.get("CXX", "c++"))
    if gcc is None:
        return []
    names = ("libasan.so", "libubsan.so", "libstdc++.so")
    found = [
        subprocess.run([gcc, f"-print-file-name={name}"], capture_output=True, text=True, check=False).stdout.strip()
        for name in names
    ]
    return found if all(Path(path).is_absolute() for path in found) else []


def build(isa: str) -> Path:
    """The folder with the extension for one instruction set."""
    pybind11 = pytest.importorskip("pybind11")
    folder = ROOT / "build" / f"sanitize-{isa}"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    cmake, ninja = (shutil.which(name, path=path) for name in ("cmake", "ninja"))
    if cmake is None or ninja is None:
        pytest.skip("needs CMake and Ninja")
    settings = {
        "CMAKE_BUILD_TYPE": "None",
        "CMAKE_MAKE_PROGRAM": ninja,
        "Python_EXECUTABLE": sys.executable,
        "pybind11_DIR": pybind11.get_cmake_dir(),
        "FASTREENACT_CUDA": "off",
        "FASTREENACT_SANITIZE": "ON",
        "FASTREENACT_ISAS": isa,
    }
    configure = [cmake, "-S", str(ROOT), "-B", str(folder), "-G", "Ninja", *(f"-D{k}={v}" for k, v in settings.items())]
    for command in (configure, [cmake, "--build", str(folder), "--target", "_C"]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder


def run(folder: Path, names: list[str], *, all_of_them: bool) -> subprocess.Popen[str]:
    """A process with the tests of some ops on that extension."""
    environment = os.environ | {
        "FASTREENACT_SANITIZED": str(folder),
        "FASTREENACT_ISA": "",
        "OMP_NUM_THREADS": "1",
        "PYTHONMALLOC": "malloc",
        "CUDA_VISIBLE_DEVICES": "",  # AddressSanitizer takes the addresses that CUDA wants
        "LD_PRELOAD": " ".join(libraries()),
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONPATH": os.pathsep.join(p for p in (str(ROOT / "tests"), os.environ.get("PYTHONPATH")) if p),
    }
    files = [str(ROOT / "tests" / f"test_{name}.py") for name in names]
    # Their reports go to stderr, which pytest would keep to itself with a process that ends.
    options = ["-p", "sanitized_extension", "-p", "no:cacheprovider", "-q", "--capture=sys"]
    if not all_of_them:
        options += ["-k", " and ".join(f"not {word}" for word in SLOW)]
    command = [sys.executable, "-m", "pytest", *options, *files]
    return subprocess.Popen(
        command, env=environment, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


@pytest.mark.slow
@pytest.mark.row("M1", "the ops' tests under AddressSanitizer and UndefinedBehaviorSanitizer, one error ends them")
def test_ops_under_sanitizers(row):
    if not (ROOT / "CMakeLists.txt").is_file() or not libraries():
        pytest.skip("needs the source tree and GCC with libasan and libubsan")
    usable = [name for name, here in _C.isas().items() if here]
    passed = {}
    for isa in usable if row.full else usable[-1:]:  # all, or the fastest
        folder = build(isa)
        running = [run(folder, names, all_of_them=row.full) for names in TESTS]
        said = [process.communicate()[0] for process in running]
        for process, text in zip(running, said, strict=True):
            first = re.search(r"runtime error|ERROR: AddressSanitizer|^(FAILED|ERROR) ", text, re.MULTILINE)
            assert process.returncode == 0, text[max(first.start() - 300, 0) :][:4000] if first else text[-4000:]
        passed[isa] = sum(int(number) for text in said for number in re.findall(r"(\d+) passed", text))
    row.measured(", ".join(f"{isa} {count} tests" for isa, count in passed.items()) + ": 0 reports")
    assert min(passed.values()) > 500
