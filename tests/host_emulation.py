"""Compiles csrc's headers, and the kernels of a csrc/*.cu, for the host: a test without a GPU can then run them."""

import ctypes
import shutil
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from fastreenact.ops import nvrtc
from fastreenact.ops.define import Op

# What nvcc knows and a host compiler does not.
_WORDS = (
    "__CUDACC__=1",
    "__host__=",
    "__device__=",
    "__global__=",
    "__shared__=",
    "__forceinline__=inline",
    "__launch_bounds__(...)=",
    "__grid_constant__=",
)
_HOST_PART = '#ifndef __CUDACC_RTC__\n#include "substrate/launch.h"'


def build(
    folder: Path,
    code: str,
    *,
    kernels: str | None = None,
    architecture: int = 80,
    plant: tuple[str, str, str] | None = None,
) -> ctypes.CDLL:
    """The functions of `code` (C++ with extern "C" functions) as a library.

    Args:
        folder: where to build, empty.
        code: the text; it may include csrc's headers.
        kernels: the stem of a csrc/*.cu, whose kernels `code` may then include as "<stem>.cu" and launch with
            host::launch (tests/cuda_on_host.h).
        architecture: compute capability times ten that they are compiled for.
        plant: (file, old, new): `old` is replaced in that file of csrc, to see that a test notices.
    """
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("no C++ compiler is installed")
    source = nvrtc.source_folder()
    texts = {path.relative_to(source).as_posix(): path.read_text(encoding="utf-8") for path in source.rglob("*.h")}
    options = []
    if kernels is not None:
        texts[f"{kernels}.cu"] = (source / f"{kernels}.cu").read_text(encoding="utf-8").split(_HOST_PART)[0]
        own = Path(__file__).with_name("cuda_on_host.h").read_text(encoding="utf-8")
        texts["substrate/device.h"] = own
        texts["substrate/instructions.h"] = '#pragma once\n#include "substrate/device.h"\n'
        words = (*_WORDS, f"FASTREENACT_ARCHITECTURE={architecture}")
        options = ["-fno-strict-aliasing", "-Wno-unknown-pragmas", *(f"-D{word}" for word in words)]
    if plant is not None:
        file, old, new = plant
        assert old in texts[file], f"{file} has no {old!r}"
        texts[file] = texts[file].replace(old, new)
    for name, text in (texts | {"emulation.cpp": code}).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    library = folder / "emulation.so"
    strict = ["-std=c++17", "-O1", "-Wall", "-Werror", "-Wno-unused-function", "-shared", "-fPIC", f"-I{folder}"]
    command = [compiler, *strict, *options, str(folder / "emulation.cpp"), "-o", str(library)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(library))


class GpuCall(NamedTuple):
    """A call of an op as a GPU would get it, of tensors on the CPU, which it keeps."""

    call: Any  # _C.Call
    addresses: list[int]
    kept: Any
    workspace: torch.Tensor  # full of 255

    def launches(self) -> list[tuple[str, bytes, tuple[int, ...], tuple[int, ...], int]]:
        """What would be launched, in order."""
        return self.call.launches(self.workspace.data_ptr(), *self.addresses)


def gpu_call(op: Op, architecture: int = 80, **arguments: Any) -> GpuCall:
    """Prepare the call of an op for a GPU, by the names of its arguments and outputs; those left out are None."""
    args = op.Arguments(**dict.fromkeys(op.Arguments._fields) | arguments)
    numbers = op.numbers(args)
    views, call = op.prepare(args, numbers | ({"architecture": architecture} if "architecture" in numbers else {}))
    addresses = [0 if tensor is None else tensor.data_ptr() for tensor in views.values()]
    return GpuCall(call, addresses, (args, views), torch.full((call.workspace_bytes,), 255, dtype=torch.uint8))
