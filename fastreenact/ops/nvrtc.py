"""CUDA kernels without nvcc: CuPy compiles csrc/*.cu with NVRTC at the first use and caches the machine code on disk.

Stands in for the functions `<op>_cuda` of an extension that was built without nvcc, with the same keywords. CuPy is
imported at the first call.
"""

import functools
import re
from pathlib import Path
from typing import Any

import numpy as np

_THREADS = (64, 4)  # kThreadsX, kThreadsY of csrc/to_frame.cu; its kernel takes any grid
_PIXELS_PER_THREAD = 4
_MAX_GRID_Y = 32 * 1024

# csrc/to_frame.h: struct ToFrameParams, field by field.
TO_FRAME_PARAMS = np.dtype(
    [
        ("image", np.uint64),
        ("out", np.uint64),
        ("n", np.int64),
        ("height", np.int64),
        ("width", np.int64),
        ("image_stride_n", np.int64),
        ("image_stride_c", np.int64),
        ("image_stride_y", np.int64),
        ("image_stride_x", np.int64),
        ("out_stride_n", np.int64),
        ("out_stride_y", np.int64),
        ("out_stride_x", np.int64),
        ("dtype", np.int32),
        ("apply_tanh", np.int32),
    ],
    align=True,
)


def source_folder() -> Path:
    """Where the CUDA sources are: inside the installed package, or beside it in a working tree."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "csrc", package.parent / "csrc"):
        if (folder / "common.h").is_file():
            return folder
    raise FileNotFoundError(f"the CUDA sources are missing: no common.h in {package / 'csrc'} or beside it")


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
        return re.sub(r'^#include "([\w.]+)"\n', lambda match: flatten(match[1]), text, flags=re.MULTILINE)

    return flatten(f"{name}.cu")


@functools.cache
def _kernel(name: str) -> Any:
    """The kernel `<name>_kernel` of csrc/<name>.cu; CuPy loads it once per device."""
    try:
        import cupy
    except ImportError as error:
        raise RuntimeError(
            f"{name} on a GPU needs the CUDA part of the extension or CuPy, and neither is here: rebuild where nvcc is "
            "on the PATH (FASTREENACT_CUDA=on), or pip install cupy-cuda13x"
        ) from error
    module = cupy.RawModule(code=source(name), options=("-std=c++17",), backend="nvrtc")
    return module.get_function(f"{name}_kernel")


def to_frame_cuda(*, stream: int, **params: int) -> None:
    """What `_C.to_frame_cuda` does: launch to_frame on `stream` (an address) of the current device.

    Args:
        stream: a cudaStream_t as an integer; 0 is the default stream.
        params: every field of ToFrameParams; `image` and `out` are device addresses, strides are in elements.
    """
    rows, width = params["n"] * params["height"], params["width"]
    if rows == 0 or width == 0:
        return
    kernel = _kernel("to_frame")
    import cupy

    packed = np.zeros((), TO_FRAME_PARAMS)
    for field in TO_FRAME_PARAMS.fields or ():
        packed[field] = params[field]
    x, y = _THREADS
    grid = (-(-width // (x * _PIXELS_PER_THREAD)), min(-(-rows // y), _MAX_GRID_Y))
    with cupy.cuda.ExternalStream(stream):
        kernel(grid, _THREADS, (packed,))
