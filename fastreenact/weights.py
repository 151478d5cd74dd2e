"""Weights as safetensors files: named, checked, with metadata; nothing is unpickled here.

A file holds a model's parameters under the names of its networks, float32 or float16, and metadata of strings:
`format`, `model`, and what the model's own reader asks for (in its folder under `fastreenact/models`).
"""

import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from fastreenact.errors import WeightsError
from fastreenact.media.files import file_size

FORMAT = "fastreenact-weights-1"
_PICKLES = {".pth", ".pt", ".pkl", ".pickle", ".ckpt", ".bin", ".tar"}
_DTYPES = {"F32": torch.float32, "F16": torch.float16}

Metadata = dict[str, str]


def shipped(name: str, sha256: str) -> Path:
    """A weights file that ships with the package, its hash checked.

    Raises:
        WeightsError: the file is missing or damaged.
    """
    path = Path(__file__).with_name("data") / name
    if not path.is_file():
        raise WeightsError(f"{path} is missing: install the package again")
    if hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
        raise WeightsError(f"{path} is damaged (its sha256 is another than it shipped with): install the package again")
    return path


def read_metadata(path: str | os.PathLike[str]) -> Metadata:
    """The metadata of a weights file of any model.

    Raises:
        WeightsError: the file is missing, a pickle, damaged, or of another format.
    """
    return _opened(Path(path), lambda file: _metadata(Path(path), file))


def read(
    path: str | os.PathLike[str],
    model: str,
    expected: Callable[[Path, Metadata], Mapping[str, tuple[int, ...]]],
    most_bytes: int,
) -> tuple[dict[str, Tensor], Metadata]:
    """A model's file, whole.

    Args:
        path: a .safetensors file.
        model: what people call it, for the messages.
        expected: gives the shape of every tensor that a file with this metadata holds; raises WeightsError where the
            metadata are not the model's.
        most_bytes: a larger file is not of this model.
    Returns:
        The tensors, float32 on the CPU, and the metadata.
    Raises:
        WeightsError: the file is missing, a pickle, damaged, of another model, or holds values that are not finite.
    """
    path = Path(path)

    def whole(file: Any) -> tuple[dict[str, Tensor], Metadata]:
        metadata = _metadata(path, file)
        shapes = expected(path, metadata)
        _check_names(path, model, set(file.keys()), set(shapes))
        return {name: _tensor(path, file, name, shape) for name, shape in shapes.items()}, metadata

    tensors, metadata = _opened(path, whole, model, most_bytes)
    _check_finite(path, tensors)
    return tensors, metadata


def write(
    path: str | os.PathLike[str],
    state: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    dtype: torch.dtype,
    check: Callable[[Path, Mapping[str, str]], None],
) -> Path:
    """Write a model's parameters and metadata, whole or not at all.

    Args:
        path: ends in .safetensors; an existing file is replaced.
        state: the parameters; BatchNorm's step counters are left out.
        metadata: `format` is added.
        dtype: float32 or float16 storage; vectors (statistics, which half precision may not hold, and biases) are
            float32 in either.
        check: raises WeightsError where a reader would refuse the metadata.
    Raises:
        WeightsError: a value that is not finite (in `dtype`); as `check`.
        ValueError: another dtype or suffix.
    """
    path = Path(path)
    if dtype not in _DTYPES.values():
        raise ValueError(f"dtype must be float32 or float16, got {dtype}")
    if path.suffix != ".safetensors":
        raise ValueError(f"path must end in .safetensors, got {path}")
    check(path, metadata)
    tensors = {
        k: v.detach().to("cpu", dtype if v.ndim > 1 else torch.float32).contiguous()
        for k, v in state.items()
        if not k.endswith("num_batches_tracked")
    }
    _check_finite(path, tensors)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(save(tensors, {"format": FORMAT, **metadata}))  # save_file makes files that only we may read
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path


def _opened(path: Path, work: Callable[[Any], Any], model: str = "", most_bytes: int = 1 << 62) -> Any:
    """`work` on the open file; what can go wrong with any file, in one line."""
    if path.suffix.lower() in _PICKLES:
        raise WeightsError(
            f"{path} is a pickle and is not opened here; make a safetensors file of the official pair with "
            "`fastreenact convert RENDERING.pth MOTION.pth -o OUT.safetensors`"
        )
    try:
        size = file_size(path)
    except OSError as error:
        raise WeightsError(f"{path} is not a file: give a .safetensors file ({error.strerror})") from error
    if size > most_bytes:
        raise WeightsError(f"{path} has {size >> 20} MB, more than {model} weights can have")
    try:
        with safe_open(path, framework="pt") as file:
            return work(file)
    except (SafetensorError, OSError, UnicodeError) as error:
        raise WeightsError(f"{path} is not a readable safetensors file ({error}): get it again") from error


def _metadata(path: Path, file: Any) -> Metadata:
    metadata = dict(file.metadata() or {})
    if metadata.get("format") != FORMAT:
        raise WeightsError(
            f"{path}: format is {metadata.get('format')!r}, need {FORMAT!r}: make it with `fastreenact convert`"
        )
    return metadata


def _check_names(path: Path, model: str, got: set[str], expected: set[str]) -> None:
    """Raise WeightsError unless the tensors are the model's."""
    missing, extra = sorted(expected - got), sorted(got - expected)
    if missing or extra:
        first = f"{missing[0]} is missing" if missing else f"{extra[0]} does not belong"
        raise WeightsError(f"{path} is not {model}: {len(missing)} tensors missing, {len(extra)} too many ({first})")


def _tensor(path: Path, file: Any, name: str, shape: tuple[int, ...]) -> Tensor:
    """One tensor as float32."""
    view = file.get_slice(name)
    if tuple(view.get_shape()) != shape or view.get_dtype() not in _DTYPES:
        raise WeightsError(
            f"{path}: {name} is {view.get_dtype()} {list(view.get_shape())}, need F32 or F16 {list(shape)}"
        )
    tensor: Tensor = file.get_tensor(name)
    return tensor.float()


def _check_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise WeightsError where a value is NaN or infinite, or a variance negative."""
    for name, value in tensors.items():
        if not torch.isfinite(value).all():
            raise WeightsError(
                f"{path}: {name} has values that are not finite; the weights are damaged, get them again"
            )
        if name.endswith("running_var") and (value < 0).any():
            raise WeightsError(f"{path}: {name} has negative variances; the weights are damaged, get them again")
