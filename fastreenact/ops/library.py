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


@cache
def say_once(message: str) -> None:
    """Log a fallback the first time it is taken."""
    log.warning(message)


@cache
def has_triton(op: str) -> bool:
    """Whether Triton is installed; where it is not, log once that `op` runs in PyTorch's own kernels."""
    found = importlib.util.find_spec("triton") is not None
    if not found:
        log.warning("%s on the GPU runs in PyTorch's own kernels: Triton is not installed", op)
    return found


def cuda_kernels(op: str) -> Any:
    """Where `<op>_cuda` is: the extension, or NVRTC's stand-in; None, said once, where there is neither."""
    if _C.WITH_CUDA:
        return _C
    if _has_cupy(op):
        from fastreenact.ops import nvrtc

        return nvrtc
    return None


@cache
def _has_cupy(op: str) -> bool:
    """Whether CuPy is installed; where it is not, log once that `op` runs without a kernel of ours."""
    found = importlib.util.find_spec("cupy") is not None
    if not found:
        log.warning(
            "%s on the GPU runs without a kernel of ours: the extension was built without nvcc, and CuPy is missing", op
        )
    return found


@cache
def architecture(device: torch.device) -> int:
    """Compute capability of a CUDA device times ten: 75, 90."""
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor
