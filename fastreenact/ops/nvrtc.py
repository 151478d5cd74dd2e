"""CUDA kernels without nvcc: CuPy compiles csrc/*.cu with NVRTC at the first use and caches the machine code on disk.

Stands in for the functions `<op>_cuda` of an extension that was built without nvcc, with the same keywords. CuPy is
imported at the first call.
"""

import functools
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fastreenact import _C

_THREADS = (64, 4)  # kThreadsX, kThreadsY of the kernels, which take any grid
_PIXELS_PER_THREAD = 4  # of to_frame
_MAX_GRID = 32 * 1024
_PLAIN_SHARED = 48 << 10  # more shared memory has to be asked for

# csrc/to_frame.h: struct ToFrameParams, field by field.
TO_FRAME_PARAMS = np.dtype(
    [
        ("image", np.uint64),
        ("out", np.uint64),
        ("flag", np.uint64),
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


# csrc/compose_frame.h: struct ComposeFrameParams, field by field.
COMPOSE_FRAME_PARAMS = np.dtype(
    [
        ("raw", np.uint64),
        ("surface", np.uint64),
        ("flag", np.uint64),
        ("side", np.int64),
        ("raw_stride_y", np.int64),
        ("raw_stride_x", np.int64),
        ("surface_stride", np.int64),
        ("left", np.int64),
        ("top", np.int64),
        ("width", np.int64),
        ("height", np.int64),
        ("centre_x", np.float64),
        ("centre_y", np.float64),
        ("size", np.float64),
        ("fade", np.float64),
        ("gain_scale", np.float32),
        ("gain_shift", np.float32),
        ("gain_middle", np.float32),
        ("dtype", np.int32),
    ],
    align=True,
)


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


def mbconv_kernel(kernel: int, dtype: int, half_sums: bool) -> str:
    """C++'s name of a kernel of mbconv: MbconvKernel (csrc/mbconv_plan.h), Dtype (csrc/substrate/common.h)."""
    word = ("narrow", "wide", "expand", "project")[kernel]
    return f"fastreenact::mbconv_{word}_kernel<{dtype}, {'true' if half_sums else 'false'}>"


def conv_kernel(dtype: int, tile: int) -> str:
    """C++'s name of a kernel of conv: Dtype (csrc/substrate/common.h), index into kConvTiles (csrc/conv_tiles.h)."""
    return f"fastreenact::conv_kernel<{dtype}, {tile}>"


def tail_kernel(dtype: int) -> str:
    """C++'s name of a kernel of tail: Dtype (csrc/substrate/common.h)."""
    return f"fastreenact::tail_kernel<{dtype}>"


@functools.cache
def _kernel(name: str, instance: str | None = None) -> Any:
    """The kernel `<name>_kernel`, or that instance of a template, of csrc/<name>.cu; CuPy loads it once per device."""
    try:
        import cupy
    except ImportError as error:
        raise RuntimeError(
            f"{name} on a GPU needs the CUDA part of the extension or CuPy, and neither is here: rebuild where nvcc is "
            "on the PATH (FASTREENACT_CUDA=on), or pip install cupy-cuda13x"
        ) from error
    instances = None if instance is None else (instance,)
    module = cupy.RawModule(code=source(name), options=("-std=c++17",), backend="nvrtc", name_expressions=instances)
    return module.get_function(instance or f"{name}_kernel")


def to_frame_cuda(*, stream: int, **params: int) -> None:
    """What `_C.to_frame_cuda` does: launch to_frame on `stream` (an address) of the current device.

    Args:
        stream: a cudaStream_t as an integer; 0 is the default stream.
        params: every field of ToFrameParams; `image` and `out` are device addresses, strides are in elements.
    """
    rows, width = params["n"] * params["height"], params["width"]
    if rows == 0 or width == 0:
        return
    x, y = _THREADS
    grid = (-(-width // (x * _PIXELS_PER_THREAD)), min(-(-rows // y), _MAX_GRID))
    _launch("to_frame", TO_FRAME_PARAMS, grid, params, stream)


def compose_frame_cuda(*, stream: int, most_gain: float, **params: float) -> None:
    """What `_C.compose_frame_cuda` does: launch compose_frame on `stream` (an address) of the current device.

    Args:
        stream: a cudaStream_t as an integer; 0 is the default stream.
        most_gain: the gain's upper limit, from which the kernel's three numbers of the gain are made.
        params: the other fields of ComposeFrameParams; `raw` and `surface` are device addresses.
    """
    if params["width"] == 0 or params["height"] == 0:
        return
    # most_gain * sigmoid(value - gain_middle) - 1, by sigmoid(x) = (1 + tanh(x / 2)) / 2, as in csrc/bind/frames.cpp
    params |= {"gain_scale": most_gain / 2, "gain_shift": most_gain / 2 - 1, "gain_middle": math.log(most_gain - 1)}
    x, y = _THREADS
    grid = (min(-(-int(params["width"]) // x), _MAX_GRID), min(-(-int(params["height"]) // y), _MAX_GRID))
    _launch("compose_frame", COMPOSE_FRAME_PARAMS, grid, params, stream)


def rasterize_landmarks_cuda(*, stream: int, **params: Any) -> None:
    """What `_C.rasterize_landmarks_cuda` does: launch rasterize_landmarks on `stream` of the current device."""
    _launch_packed("rasterize_landmarks", _C.rasterize_landmarks_launch(**params), stream)


def conv_cuda(*, stream: int, **params: Any) -> None:
    """What `_C.conv_cuda` does: launch up to four convolutions on `stream` of the current device."""
    tile, parts = _C.conv_launch(**params)
    _launch_packed("conv", parts, stream, conv_kernel(params["convs"][0]["dtype"], tile))


def tail_cuda(*, stream: int, **params: Any) -> None:
    """What `_C.tail_cuda` does: launch tail on `stream` of the current device."""
    _launch_packed("tail", _C.tail_launch(**params), stream, tail_kernel(params["dtype"]))


def mbconv_cuda(*, stream: int, **params: Any) -> None:
    """What `_C.mbconv_cuda` does: launch the kernels of mbconv on `stream` of the current device."""
    for kernel, parts in _C.mbconv_launch(**params):
        _launch_packed("mbconv", parts, stream, mbconv_kernel(kernel, params["dtype"], params["half_sums"]))


def _launch_packed(name: str, parts: tuple[bytes, tuple[int, int, int], int, int], stream: int, *instance: str) -> None:
    """Launch `<name>_kernel` as `_C.<name>_launch` says: the bytes of its struct, grid, threads and shared memory."""
    if 0 in parts[1]:
        return
    kernel = _kernel(name, *instance)
    import cupy

    packed, grid, threads, shared_bytes = parts
    if shared_bytes > _PLAIN_SHARED:
        kernel.max_dynamic_shared_size_bytes = shared_bytes
    with cupy.cuda.ExternalStream(stream):
        kernel(grid, (threads,), (np.frombuffer(packed, np.dtype((np.void, len(packed)))),), shared_mem=shared_bytes)


def _launch(name: str, record: Any, grid: tuple[int, int], params: Mapping[str, float], stream: int) -> None:
    """Launch `<name>_kernel` with `params` packed as its struct."""
    kernel = _kernel(name, f"{name}_kernel")
    import cupy

    packed = np.zeros((), record)
    for field in record.names:
        packed[field] = params[field]
    with cupy.cuda.ExternalStream(stream):
        kernel(grid, _THREADS, (packed,))
