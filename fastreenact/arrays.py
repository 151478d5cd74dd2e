"""Pictures in whatever array the caller works with: in as NumPy uint8 [H, W, 3], out as the kind that came in."""

import os
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastreenact.face.driver import Sighting, Tracked
from fastreenact.face.motion import Motion


class Kind(NamedTuple):
    """A kind of array that frames are given back in."""

    device: torch.device  # where its memory is
    give: Callable[[Tensor], Any]  # a tensor there as such an array, on the same memory

    def empty(self, shape: tuple[int, ...]) -> Tensor:
        """uint8 memory for a frame; the host's is NumPy's, which takes large pages."""
        if self.device.type == "cpu":
            return torch.from_numpy(np.empty(shape, np.uint8))
        return torch.empty(shape, dtype=torch.uint8, device=self.device)


NUMPY = Kind(torch.device("cpu"), lambda frame: frame.numpy())


def as_picture(array: Any, name: str) -> tuple[np.ndarray, Kind]:
    """View `array` as uint8 [H, W, 3] RGB in NumPy, and say how to give a picture back in the same kind of array.

    Args:
        array: uint8 [H, W, 3], NumPy, PyTorch (CPU or GPU) or anything with DLPack.
        name: what the caller calls it, for the messages.
    Returns:
        The picture (no copy where the memory is the host's) and its kind.
    Raises:
        TypeError: no array, or not uint8. ValueError: not [H, W, 3] or empty.
    """
    kind = NUMPY
    if isinstance(array, np.ndarray):
        picture = array
    elif isinstance(array, Tensor):
        picture, kind = array.detach().cpu().numpy(), Kind(array.device, lambda frame: frame)
    elif hasattr(array, "__dlpack__"):
        tensor = torch.from_dlpack(array)
        picture, kind = tensor.cpu().numpy(), Kind(tensor.device, _importer(array))
    else:
        raise TypeError(
            f"{name} is {type(array).__name__}; give a uint8 [H, W, 3] RGB array (NumPy, PyTorch or DLPack)"
        )
    if picture.dtype != np.uint8:
        raise TypeError(f"{name} has dtype {picture.dtype}; give uint8 RGB values 0..255")
    if picture.ndim != 3 or picture.shape[2] != 3 or 0 in picture.shape:
        raise ValueError(f"{name} has shape {tuple(picture.shape)}; give [H, W, 3], RGB")
    return picture, kind


def read_source(source: Any) -> np.ndarray:
    """A portrait as uint8 [H, W, 3] RGB of our own, from a path or an array; raises MediaError, or as `as_picture`."""
    if isinstance(source, str | os.PathLike):
        from fastreenact.media import read_image

        return read_image(source)
    return np.array(as_picture(source, "source")[0], order="C")  # the caller may write into his own again


class Driven(NamedTuple):
    """A driver's frame as it was given."""

    kind: Kind  # what frames are given back as
    picture: np.ndarray | None = None  # uint8 [H, W, 3]
    landmarks: np.ndarray | None = None  # float [N, 2 or 3]
    motion: Motion | None = None  # None: the picture or the landmarks are still to be observed
    sighting: Sighting | None = None  # in the picture, where it is tracked already and shows a face


def as_driver(driver: Any) -> Driven:
    """A driver as a motion already tracked, with its picture or without, or else as what is to be observed.

    Raises:
        As `as_picture`.
    """
    if isinstance(driver, Motion):
        return Driven(NUMPY, motion=driver)
    if isinstance(driver, np.ndarray) and driver.ndim == 2 and driver.dtype.kind == "f":
        return Driven(NUMPY, landmarks=driver)
    tracked = driver if isinstance(driver, Tracked) else None
    picture, kind = as_picture(driver if tracked is None else tracked.picture, "driver")
    if tracked is None:
        return Driven(kind, picture)
    return Driven(kind, picture, motion=tracked.motion, sighting=tracked.sighting)


def each_driver(drivers: Any) -> tuple[list[Any], bool]:
    """The drivers of several frames, one for each in a list or tuple or one for all, and whether it is one for each."""
    return (list(drivers), True) if isinstance(drivers, list | tuple) else ([drivers], False)


def whole_number(value: object, low: int, high: int) -> bool:
    """Whether `value` is a whole number from `low` to `high`."""
    return isinstance(value, int) and low <= value <= high


def check_out(out: Any, shape: tuple[int, ...]) -> Tensor | None:
    """The memory of `out` as a tensor, where frames are written in place.

    Raises:
        TypeError: no array. ValueError: not uint8 of that shape, contiguous and writable.
    """
    if out is None:
        return None
    if isinstance(out, np.ndarray):
        if not out.flags.writeable:
            raise ValueError("out must be C-contiguous and writable")
        found, same = f"{out.dtype} {out.shape}", out.dtype == np.uint8 and out.shape == shape
        contiguous = out.flags.c_contiguous
    elif isinstance(out, Tensor) or hasattr(out, "__dlpack__"):
        memory = out if isinstance(out, Tensor) else torch.from_dlpack(out)
        found = f"{str(memory.dtype).removeprefix('torch.')} {tuple(memory.shape)}"
        same, contiguous = memory.dtype == torch.uint8 and memory.shape == shape, memory.is_contiguous()
    else:
        raise TypeError(f"out is {type(out).__name__}; give an array or a tensor (NumPy, PyTorch or DLPack)")
    if not same:
        raise ValueError(f"out is {found}; this engine writes uint8 {shape}")
    if not contiguous:
        raise ValueError("out must be C-contiguous and writable")
    return torch.from_numpy(out) if isinstance(out, np.ndarray) else memory


def _importer(array: Any) -> Callable[[Tensor], Any]:
    """The DLPack importer of the library that `array` belongs to; PyTorch's own tensors where it has none."""
    library = sys.modules.get(type(array).__module__.split(".")[0])
    return getattr(library, "from_dlpack", lambda frame: frame)
