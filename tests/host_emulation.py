"""Compiles csrc's shared index functions for the host, so that a test without a GPU can walk the kernels' maps."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

from fastreenact.ops import nvrtc


def build(folder: Path, code: str, plant: tuple[str, str, str] | None = None) -> ctypes.CDLL:
    """The functions of `code` (C++ with extern "C" functions, may include csrc's headers) as a library.

    Args:
        folder: where to build, empty.
        code: the text.
        plant: (header, old, new): the header's text `old` is replaced, to see that a test notices.
    """
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("no C++ compiler is installed")
    for header in nvrtc.source_folder().glob("*.h"):
        text = header.read_text(encoding="utf-8")
        if plant is not None and header.name == plant[0]:
            assert plant[1] in text, f"{header.name} has no {plant[1]!r}"
            text = text.replace(plant[1], plant[2])
        (folder / header.name).write_text(text, encoding="utf-8")
    (folder / "emulation.cpp").write_text(code, encoding="utf-8")
    library = folder / "emulation.so"
    strict = ["-std=c++17", "-O1", "-Wall", "-Werror", "-Wno-unused-function", "-shared", "-fPIC"]
    subprocess.run([compiler, *strict, str(folder / "emulation.cpp"), "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))
