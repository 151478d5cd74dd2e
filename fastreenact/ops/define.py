"""Registration with torch.library: `Library.define` and `impl`, a call then costs 1 to 2 us instead of 3 to 6."""

import importlib.util
import logging
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from fastreenact import _C

log = logging.getLogger("fastreenact")
_LIBRARY = torch.library.Library("fastreenact", "DEF")


def register(schema: str, implementation: Callable[..., Any], fake: Callable[..., Any]) -> Any:
    """Define torch.ops.fastreenact.<name> for CPU and CUDA and return its overload, which is quicker to call."""
    name = schema.split("(", 1)[0]
    _LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    for key in ("CPU", "CUDA"):
        _LIBRARY.impl(name, implementation, key)
    torch.library.register_fake(f"fastreenact::{name}", fake, lib=_LIBRARY)
    return getattr(torch.ops.fastreenact, name).default


def returning(fake: Callable[..., Any], run: Callable[..., None]) -> Callable[..., Any]:
    """The op that gives back a new output: `fake` checks the arguments and makes it, `run` writes into it."""

    def implementation(*arguments: Any) -> Any:
        out = fake(*arguments)
        run(*arguments, out)
        return out

    return implementation


def in_place(run: Callable[..., None]) -> Callable[..., None]:
    """The op that writes into its first argument, of the one that writes into its last."""
    return lambda x, *rest: run(x, *rest, x)


@cache
def has_triton(op: str) -> bool:
    """Whether Triton is installed; where it is not, log once that `op` runs in PyTorch's own kernels."""
    found = importlib.util.find_spec("triton") is not None
    if not found:
        log.warning("%s on the GPU runs in PyTorch's own kernels: Triton is not installed", op)
    return found


def cuda_kernels() -> Any:
    """Where the functions `<op>_cuda` are: the extension, or NVRTC's stand-in; None, said once, where is neither."""
    if _C.WITH_CUDA:
        return _C
    if _has_cupy():
        from fastreenact.ops import nvrtc

        return nvrtc
    return None


@cache
def _has_cupy() -> bool:
    """Whether CuPy is installed; logs once what that means."""
    found = importlib.util.find_spec("cupy") is not None
    if found:
        log.info("the extension was built without nvcc: CuPy compiles its CUDA kernels at their first use")
    else:
        log.warning(
            "the GPU runs PyTorch's own kernels, without a graph: the extension was built without nvcc, and CuPy is "
            "missing (fastreenact doctor says what to do)"
        )
    return found


@cache
def architecture(device: torch.device) -> int:
    """Compute capability of a CUDA device times ten: 75, 90."""
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor
