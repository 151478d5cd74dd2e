"""CUDA kernels without nvcc: CuPy compiles csrc/*.cu with NVRTC at the first use and caches the machine code on disk.

What is launched is said by the extension, whether it was built with nvcc or not. CuPy is imported at the first launch.
"""

import functools
import re
from pathlib import Path
from typing import Any

import numpy as np

Launches = list[tuple[str, bytes, tuple[int, int, int], tuple[int, int], int]]


_PLAIN_SHARED = 48 << 10  # more shared memory has to be asked for


def source_folder() -> Path:
    """Where the CUDA sources are: inside the installed package, or beside it in a working tree."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "csrc", package.parent / "csrc"):
        if (folder / "substrate" / "common.h").is_file():
            return folder
    raise FileNotFoundError(f"the CUDA sources are missing: no substrate/common.h in {package / 'csrc'} or beside it")


def source(name: str) -> str:
    """The text of csrc/<name>.cu with our own headers put in place of their includes, so that NVRTC needs no path.

    CuPy's cache is keyed by the text: a changed header is a changed text.
    """
    folder = source_folder()
    seen: set[str] = set()

    def flatten(file: str) -> str:
        if file in seen:
            return ""
        seen.add(file)
        text = (folder / file).read_text(encoding="utf-8").replace("#pragma once\n", "")
        return re.sub(r'^#include "([\w./]+)"\n', lambda match: flatten(match[1]), text, flags=re.MULTILINE)

    return flatten(f"{name}.cu")


def expression(kernel: str) -> str:
    """What NVRTC calls a kernel of `_C.Call.launches`: an instance of a template by its whole name in C++."""
    return f"fastreenact::{kernel}" if "<" in kernel else kernel


@functools.cache
def _kernel(name: str, kernel: str) -> Any:
    """The kernel of that name, or that instance of a template, of csrc/<name>.cu; CuPy loads it once per device."""
    try:
        import cupy
    except ImportError as error:
        raise RuntimeError(
            f"{name} on a GPU needs the CUDA part of the extension or CuPy, and neither is here: rebuild where nvcc is "
            "on the PATH (FASTREENACT_CUDA=on), or pip install cupy-cuda13x"
        ) from error
    known = expression(kernel)
    instances = (known,) if known != kernel else None
    module = cupy.RawModule(code=source(name), options=("-std=c++17",), backend="nvrtc", name_expressions=instances)
    return module.get_function(known)


def launch(name: str, launches: Launches, stream: int) -> None:
    """Launch kernels of csrc/<name>.cu on `stream`, an address, of the current device.

    Args:
        launches: of a `_C.Call`: for each kernel its name in C++, the bytes of its parameters, the grid, the block, and
            its shared memory in bytes.
    """
    for kernel, packed, grid, block, shared_bytes in launches:
        function = _kernel(name, kernel)
        import cupy

        if shared_bytes > _PLAIN_SHARED:
            function.max_dynamic_shared_size_bytes = shared_bytes
        record = np.frombuffer(packed, np.dtype((np.void, len(packed))))
        with cupy.cuda.ExternalStream(stream):
            function(grid, block, (record,), shared_mem=shared_bytes)
