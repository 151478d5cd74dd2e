"""What the command line says: results on standard output, notes and errors on the other, a line each."""

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fastreenact.errors import FastreenactError, printable

if TYPE_CHECKING:
    from fastreenact.app.animate import AnimateResult

DAMAGED = 3  # exit code: the driver broke off; what came before is written
_PACKAGES = {"av": "av", "PIL": "pillow", "mediapipe": "'fastreenact[track]'", "skimage": "scikit-image"}


def say(text: str) -> None:
    """On standard output, whatever it can show."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding))


def complain(text: str, kind: str = "error: ") -> None:
    """One line on stderr, whatever is in the text."""
    try:
        print(f"fastreenact: {kind}{printable(text)}", file=sys.stderr)
    except BrokenPipeError:
        logging.raiseExceptions = False


def report(result: "AnimateResult", how: str = "") -> int:
    """The plain last line, then what a user should know; gives the exit code."""
    plural = "frame" if result.frames == 1 else "frames"
    rate = result.frames / max(result.seconds, 1e-9)
    say(f"{printable(str(result.path))}: {result.frames} {plural} in {result.seconds:.1f} s ({rate:.1f} fps){how}")
    for note in result.notes:
        complain(note, kind="note: ")
    return DAMAGED if result.damaged else 0


def one_line(error: Exception) -> str:
    """What went wrong, and what to do."""
    text = " ".join(str(error).split())
    if isinstance(error, ModuleNotFoundError) and text.startswith("No module named"):
        return f"{error.name} is not installed: pip install {_PACKAGES.get(error.name or '', error.name)}"
    if isinstance(error, FastreenactError | ValueError | ImportError | RuntimeError) and text:
        return text
    if isinstance(error, OSError) and error.filename is not None:
        return f"{Path(os.fsdecode(error.filename)).name}: {error.strerror}"
    if isinstance(error, MemoryError):
        return "not enough memory: choose a smaller --size or a smaller portrait"
    return f"{type(error).__name__}: {text} (this should not happen; FASTREENACT_DEBUG=1 shows where)"
