"""File names, part files and error texts that reading and writing share."""

import contextlib
import errno
import hashlib
import os
import signal
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import numpy as np
from numpy.typing import NDArray

from fastreenact.errors import MediaError, printable

_NAME_BYTES = 255  # the longest file name of Linux and macOS file systems


def file_size(path: Path) -> int:
    """Bytes of a file.

    Raises:
        OSError: there is none, or it is a folder, a device or a pipe, which might never end.
    """
    try:
        status = path.stat()
    except ValueError as error:  # a name with a NUL
        raise OSError(errno.EINVAL, str(error)) from error
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a file")
    return status.st_size


def shown(path: str | os.PathLike[str]) -> str:
    """The file's name for a one-line message."""
    return printable(Path(path).name or str(path))


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


def check_in(path: Path, what: str) -> None:
    """Raise MediaError unless `path` is a file that is there; opening a pipe would wait for ever."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):  # the last: a zero byte in the name
        raise MediaError(f"{shown(path)}: no such file") from None
    except OSError as error:
        raise MediaError(f"{shown(path)} cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(mode):
        raise MediaError(f"{shown(path)} is a {'folder' if stat.S_ISDIR(mode) else 'device or a pipe'}, not a {what}")


def check_out(out: Path, *, force: bool) -> None:
    """Raise MediaError when `out` cannot or must not be written; touches nothing."""
    if out.is_dir():
        raise MediaError(f"{shown(out)} is a folder: name a file in it")
    if not out.parent.is_dir():
        raise MediaError(f"the folder of {shown(out)} does not exist ({out.parent}): create it first")
    if not os.access(out.parent, os.W_OK | os.X_OK):
        raise MediaError(f"nothing can be written to the folder of {shown(out)} ({out.parent}): choose another one")
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


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM wait until the block is left.

    Python raises KeyboardInterrupt between any two steps, such as after the encoder gave a packet and before it is in
    the file: that frame and those that build on it would be lost. Signals nobody handles do what they do.
    """
    waiting: list[tuple[int, FrameType | None]] = []
    before: dict[signal.Signals, Callable[[int, FrameType | None], object]] = {}
    if threading.current_thread() is threading.main_thread():  # the only one that Python interrupts
        for number in (signal.SIGINT, signal.SIGTERM):
            handler = signal.getsignal(number)
            if callable(handler):
                before[number] = handler
                signal.signal(number, lambda *came: waiting.append(came))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for came in waiting[:1]:
            before[signal.Signals(came[0])](*came)


def check_frame(image: NDArray[np.uint8]) -> None:
    """Raise ValueError unless `image` is uint8 [H, W, 3] and not empty."""
    dtype, shape = getattr(image, "dtype", type(image).__name__), list(getattr(image, "shape", []))
    if dtype != np.uint8 or len(shape) != 3 or shape[2] != 3 or 0 in shape:
        raise ValueError(f"image is {dtype} {shape}; uint8 [H, W, 3] is needed")


def turned(image: NDArray[np.uint8], transposed: bool, mirrored: bool, flipped: bool) -> NDArray[np.uint8]:
    """A picture transposed, then mirrored left-right, then flipped top-bottom; C-contiguous, copied only if it must."""
    if transposed:
        image = image.transpose(1, 0, 2)
    return np.ascontiguousarray(image[:: -1 if flipped else 1, :: -1 if mirrored else 1])
