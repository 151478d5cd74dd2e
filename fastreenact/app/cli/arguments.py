"""Arguments that commands share: their types, those of an engine, and what is made of them."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from fastreenact.app.cli.messages import complain
from fastreenact.models import DEFAULT, MODELS
from fastreenact.models.protocol import LEAST_SIZE, MOST_SIZE, Model

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fastreenact.engine import Engine
    from fastreenact.face.track.tracker import Tracker


class Parser(argparse.ArgumentParser):
    """One line for an error, as for every other error of this program."""

    def error(self, message: str) -> NoReturn:
        complain(f"{message} (see {self.prog} --help)")
        raise SystemExit(2)


def whole(least: int, most: int) -> Callable[[str], int]:
    """The type of a whole number within bounds."""

    def number(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} to {most}")
        return int(text)

    return number


size, count, face = whole(LEAST_SIZE, MOST_SIZE), whole(1, 1_000_000), whole(1, 99)


def trim(text: str) -> tuple[float | None, float | None]:
    """START:END in seconds."""
    start, colon, end = text.partition(":")
    try:
        span = float(start) if start else None, float(end) if end else None
    except ValueError:
        span, colon = (None, None), ""
    if not colon or not 0 <= (span[0] or 0) < (float("inf") if span[1] is None else span[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is not START:END in seconds, such as 1.5:4, 2: or :10")
    return span


def called(which: Callable[[Model], object]) -> str:
    """What the networks of the models are called for which this is true."""
    return " and ".join(dict.fromkeys(model.networks for model in MODELS.values() if which(model)))


def add_device(p: Parser) -> None:
    """Where it runs."""
    p.add_argument("--device", metavar="D", help="cpu, cuda, cuda:1, ...; default: the GPU where there is one")


def add_engine(
    p: Parser, size_help: str = "side of the frames, 64 to 2048; default: that of the weights, or of the portrait"
) -> None:
    """What an engine is made of."""
    p.add_argument("--size", type=size, metavar="S", help=size_help)
    p.add_argument("--model", choices=tuple(MODELS), help=f"default: that of the weights, or {DEFAULT.name}")
    p.add_argument("--weights", type=Path, metavar="FILE", help="safetensors file; default: those of the package")
    add_device(p)
    p.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), help="default: float32 on a CPU, float16 on a GPU"
    )


def by_name(args: argparse.Namespace) -> dict[str, Any]:
    """What the user gave, as keywords of the function that a command calls."""
    return {name: value for name, value in vars(args).items() if name not in ("run", "verbose")}


def engine(args: argparse.Namespace, source: "NDArray[np.uint8]", **options: Any) -> "Engine":
    """The engine that was asked for."""
    from fastreenact.engine import Engine

    return Engine(
        source, model=args.model, weights=args.weights, size=args.size, device=args.device, dtype=args.dtype, **options
    )


def tracker(face: int | None) -> "Tracker | None":
    """For a driver of whom one face was asked for."""
    if face is None:
        return None
    from fastreenact.face.track.tracker import Tracker

    return Tracker(face=face)


def in_folder(out: Path | None, name: str | Path) -> Path:
    """Where a file is written: as `name` where no file was named, or only its folder."""
    return Path(name) if out is None else out / name if out.is_dir() else out
