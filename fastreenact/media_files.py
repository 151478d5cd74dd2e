"""File names, part files and error texts that reading and writing share."""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastreenact.errors import MediaError

_NAME_BYTES = 255  # the longest file name of Linux and macOS file systems


def shown(path: str | os.PathLike[str]) -> str:
    """The file's name for a one-line message: control characters and undecodable bytes escaped."""
    name = Path(path).name or str(path)
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in name)


def fit_name(stem: str, suffix: str) -> str:
    """`stem + suffix`, the stem cut (and a short hash put in) where a file system would refuse the length."""
    name = stem + suffix
    if len(os.fsencode(name)) <= _NAME_BYTES:
        return name
    mark = "~" + hashlib.sha256(os.fsencode(stem)).hexdigest()[:8]
    while len(os.fsencode(stem + mark + suffix)) > _NAME_BYTES:
        stem = stem[:-1]
    return stem + mark + suffix


def part_path(out: Path) -> Path:
    """Where the file grows until it is complete: NAME.part.SUFFIX beside it, so that a player still knows the type."""
    return out.with_name(fit_name(out.stem, ".part" + out.suffix))


def check_out(out: Path, *, force: bool) -> None:
    """Raise MediaError when `out` cannot or must not be written; touches nothing."""
    if out.is_dir():
        raise MediaError(f"{shown(out)} is a folder: name a file in it")
    if not out.parent.is_dir():
        raise MediaError(f"the folder of {shown(out)} does not exist ({out.parent}): create it first")
    if out.exists() and not out.is_file():
        raise MediaError(f"{shown(out)} is a device or a pipe, not a file: name a file")
    if out.exists() and not force:
        raise MediaError(f"{shown(out)} exists already: choose another name, or overwrite it with force (--force)")


@contextlib.contextmanager
def whole_file(out: str | os.PathLike[str], *, force: bool) -> Iterator[Path]:
    """Give a part file to write; renamed to `out` when the block ends well, removed otherwise."""
    target = Path(out)
    check_out(target, force=force)
    part = part_path(target)
    try:
        yield part
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def check_frame(image: NDArray[np.uint8]) -> None:
    """Raise ValueError unless `image` is uint8 [H, W, 3] and not empty."""
    dtype, shape = getattr(image, "dtype", type(image).__name__), list(getattr(image, "shape", []))
    if dtype != np.uint8 or len(shape) != 3 or shape[2] != 3 or 0 in shape:
        raise ValueError(f"image is {dtype} {shape}; uint8 [H, W, 3] is needed")
