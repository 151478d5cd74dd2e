"""Pictures in whatever array the caller works with: in as NumPy uint8 [H, W, 3], out as the kind that came in."""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

Restore = Callable[[np.ndarray], Any]


def as_picture(array: Any, name: str) -> tuple[np.ndarray, Restore]:
    """View `array` as uint8 [H, W, 3] RGB in NumPy, and say how to give a picture back in the same kind of array.

    Args:
        array: uint8 [H, W, 3], NumPy, PyTorch (CPU or GPU) or anything with DLPack.
        name: what the caller calls it, for the messages.
    Returns:
        The picture (no copy where the memory is the host's) and a function NumPy -> the kind given.
    Raises:
        TypeError: no array, or not uint8. ValueError: not [H, W, 3] or empty.
    """
    restore: Restore = _same
    if isinstance(array, np.ndarray):
        picture = array
    elif isinstance(array, torch.Tensor):
        picture, device = array.detach().cpu().numpy(), array.device
        restore = lambda frame: torch.from_numpy(frame).to(device)  # noqa: E731
    elif hasattr(array, "__dlpack__"):
        tensor = torch.from_dlpack(array)
        picture, restore = tensor.cpu().numpy(), _dlpack_restore(array, tensor.device)
    else:
        raise TypeError(
            f"{name} is {type(array).__name__}; give a uint8 [H, W, 3] RGB array (NumPy, PyTorch or DLPack)"
        )
    if picture.dtype != np.uint8:
        raise TypeError(f"{name} has dtype {picture.dtype}; give uint8 RGB values 0..255")
    if picture.ndim != 3 or picture.shape[2] != 3 or 0 in picture.shape:
        raise ValueError(f"{name} has shape {tuple(picture.shape)}; give [H, W, 3], RGB")
    return picture, restore


def check_out(out: Any, shape: tuple[int, int]) -> np.ndarray | None:
    """The host memory of `out`, where the frame is written in place; raise unless it is uint8 [H, W, 3], contiguous."""
    if out is None:
        return None
    if isinstance(out, torch.Tensor) and out.device.type == "cpu":
        memory = out.numpy()
    elif isinstance(out, np.ndarray):
        memory = out
    else:
        raise TypeError(f"out is {type(out).__name__}; give a NumPy array or a CPU tensor")
    if memory.dtype != np.uint8 or memory.shape != (*shape, 3):
        raise ValueError(f"out is {memory.dtype} {memory.shape}; this engine writes uint8 {(*shape, 3)}")
    if not memory.flags.c_contiguous or not memory.flags.writeable:
        raise ValueError("out must be C-contiguous and writable")
    return memory


def _same(frame: np.ndarray) -> np.ndarray:
    return frame


def _dlpack_restore(array: Any, device: torch.device) -> Restore:
    """Back through the DLPack importer of the library that `array` belongs to; PyTorch where it has none."""
    library = sys.modules.get(type(array).__module__.split(".")[0])
    importer = getattr(library, "from_dlpack", None)
    if importer is None:
        return lambda frame: torch.from_numpy(frame).to(device)
    return lambda frame: importer(torch.from_numpy(frame).to(device))
