"""Official checkpoints, as one safetensors file.

`torch.load` unpickles, so it happens in a process of its own (this module run by Python) with `weights_only=True`,
and nowhere else; what that process writes is read back and checked like any weights file.
"""

import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast

from fastreenact.errors import WeightsError
from fastreenact.models.protocol import Official

if TYPE_CHECKING:
    from torch import Tensor

_TIME_LIMIT_S = 300
_MOST_BYTES = 512 << 20


class Checkpoint(NamedTuple):
    """A file as a paper's authors gave it out."""

    path: Path
    state: "dict[str, Tensor]"


class Converter(Protocol):
    """What the module `Official.home` holds; it is run in a process of its own, where pickles are read."""

    def write(self, checkpoints: Sequence[Checkpoint], out: Path, size: int) -> None:
        """Write the weights file and read it back.

        Args:
            checkpoints: in the order of `Official.checkpoints`, as many.
            out: the file.
            size: side that they were trained for, px.
        Raises:
            WeightsError, ValueError: they are not those of the model.
        """


def convert(
    official: Official,
    checkpoints: Sequence[str | Path],
    out: str | Path,
    *,
    size: int | None = None,
    force: bool = False,
) -> Path:
    """Make a weights file of what a paper's authors gave out.

    Args:
        official: of a model of `fastreenact.models.MODELS`.
        checkpoints: files in the order of `official.checkpoints`: bare state dicts.
        out: the file to write, ending in .safetensors.
        size: side that they were trained for, px; None: that of the released ones.
        force: replace `out` where it exists.
    Returns:
        The path of the file.
    Raises:
        WeightsError: a file is missing, is no such checkpoint, or `out` exists; the message is one line.
    """
    names = [name for name, _ in official.checkpoints]
    if len(checkpoints) != len(names):
        raise WeightsError(f"got {len(checkpoints)} checkpoints, need {len(names)}: {' '.join(names)}")
    paths, target = [Path(path) for path in checkpoints], Path(out)
    for name, path in zip(names, paths, strict=True):
        if not path.is_file():
            raise WeightsError(f"{name}: {path} is not a file")
        if path.stat().st_size > _MOST_BYTES:
            raise WeightsError(
                f"{name}: {path} has {path.stat().st_size >> 20} MB, more than such a checkpoint can have"
            )
    if target.suffix != ".safetensors":
        raise WeightsError(f"OUT: {target} must end in .safetensors")
    if target.exists() and not force:
        raise WeightsError(f"OUT: {target} exists; --force replaces it")
    if not target.absolute().parent.is_dir():
        raise WeightsError(f"OUT: the folder {target.absolute().parent} does not exist")
    # Absolute paths: one that starts with a dash is no option.
    arguments = [official.home, str(official.size if size is None else size)]
    arguments += [str(path.absolute()) for path in (target, *paths)]
    child = [sys.executable, "-m", "fastreenact.models.convert", *arguments]
    try:
        done = subprocess.run(child, capture_output=True, text=True, timeout=_TIME_LIMIT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise WeightsError(f"reading the checkpoints took more than {_TIME_LIMIT_S} s") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"the converter's process ended with code {done.returncode}"]
        raise WeightsError(lines[-1])
    return target


def _read(path: Path) -> Checkpoint:
    """Unpickle a state dict: runs in the child."""
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # torch.load documents no closed set of errors for a hostile file
        # Never its own words: they advise to switch `weights_only` off.
        raise WeightsError(
            f"{path} is not a checkpoint of plain tensors ({type(error).__name__}): download it anew"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise WeightsError(f"{path} is not a bare state dict of tensors")
    return Checkpoint(path, state)


def _child(arguments: list[str]) -> int:
    """Exit code; the error goes to stderr in one line."""
    home, size, out, *paths = arguments
    try:
        cast(Converter, import_module(home)).write([_read(Path(path)) for path in paths], Path(out), int(size))
    except (WeightsError, ValueError, OSError) as error:
        sys.stderr.write(" ".join(str(error).split()) + "\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_child(sys.argv[1:]))
