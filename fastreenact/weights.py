"""Weights as safetensors files: named, checked, with metadata; nothing is unpickled here.

A file holds every parameter of both networks under the official names, float32 or float16, and metadata of strings:
`format`, `model`, `size`, `head_pose`, and where they apply `motion_size`, `head_pose_mean`, `head_pose_deviation`,
`base` (what the networks draw over) and `licence`.
"""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from fastreenact.errors import WeightsError
from fastreenact.media.files import file_size
from fastreenact.models.face2face_rho.head_pose import check_convention
from fastreenact.models.face2face_rho.networks import (
    BASE,
    MODEL_NAME,
    Face2FaceRho,
    MotionNet,
    RenderingNet,
    motion_input_size,
)

FORMAT = "fastreenact-weights-1"
_PICKLES = {".pth", ".pt", ".pkl", ".pickle", ".ckpt", ".bin", ".tar"}
_DTYPES = {"F32": torch.float32, "F16": torch.float16}
_MOST_BYTES = 256 << 20  # five times the float32 file: more is not this model

SHIPPED = "face2face_rho.safetensors"
"""File name, under fastreenact/data, of the weights that ship with the package; docs/weights.md says what they are."""
_SHA256 = "2af0171febd1b043de103a68c4ceb173d4d1dd4eccb752ed35487f3eae14d661"


def default_weights() -> Path:
    """The Face2Face^rho weights that ship with the package, their sha256 checked.

    Raises:
        WeightsError: the file is missing or damaged.
    """
    path = Path(__file__).with_name("data") / SHIPPED
    if not path.is_file():
        raise WeightsError(f"{path} is missing: install the package again")
    if hashlib.sha256(path.read_bytes()).hexdigest() != _SHA256:
        raise WeightsError(f"{path} is damaged (its sha256 is another than it shipped with): install the package again")
    return path


def expected_tensors(*, over_base: bool = False) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor in a Face2Face^rho file; BatchNorm's step counters are not stored."""
    with torch.device("meta"):
        model = Face2FaceRho(MotionNet(), RenderingNet(over_base=over_base))
    return {k: tuple(v.shape) for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}


def load_face2face_rho(path: str | os.PathLike[str]) -> Face2FaceRho:
    """Both networks of a weights file, float32, in eval mode, on the CPU.

    Args:
        path: a .safetensors file.
    Raises:
        WeightsError: the file is missing, a pickle, damaged, of another model, or holds values that are not finite.
    """
    tensors, metadata = _read(Path(path))
    model = Face2FaceRho(MotionNet(), RenderingNet(over_base="base" in metadata), metadata)
    for prefix, net in (("motion_net.", model.motion), ("rendering_net.", model.renderer)):
        state = {k: v for k, v in net.state_dict().items() if k.endswith("num_batches_tracked")}
        state |= {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        net.load_state_dict(state, strict=True)
        net.eval().requires_grad_(False)
    return model


def save_face2face_rho(model: Face2FaceRho, path: str | os.PathLike[str], dtype: torch.dtype = torch.float32) -> Path:
    """Write both networks and the metadata, whole or not at all.

    Args:
        path: ends in .safetensors; an existing file is replaced.
        dtype: float32 or float16 storage; vectors (statistics, which half precision may not hold, and biases) are
            float32 in either.
    Raises:
        WeightsError: a value that is not finite (in `dtype`), or metadata that a loader would refuse.
        ValueError: another dtype or suffix.
    """
    path = Path(path)
    if dtype not in _DTYPES.values():
        raise ValueError(f"dtype must be float32 or float16, got {dtype}")
    if path.suffix != ".safetensors":
        raise ValueError(f"path must end in .safetensors, got {path}")
    metadata = {"format": FORMAT} | dict(model.metadata)
    _check_metadata(path, metadata)
    if model.over_base != ("base" in metadata):
        raise WeightsError(f"{path}: networks and metadata differ in whether they draw over a base")
    tensors = {
        k: v.detach().to("cpu", dtype if v.ndim > 1 else torch.float32).contiguous()
        for k, v in model.state_dict().items()
        if not k.endswith("num_batches_tracked")
    }
    _check_finite(path, tensors)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(save(tensors, metadata))  # save_file makes files that nobody else may read
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors as float32 and metadata of a file, everything checked."""
    if path.suffix.lower() in _PICKLES:
        raise WeightsError(
            f"{path} is a pickle and is not opened here; make a safetensors file of the official pair with "
            "`fastreenact convert RENDERING.pth MOTION.pth -o OUT.safetensors`"
        )
    try:
        size = file_size(path)
    except OSError as error:
        raise WeightsError(f"{path} is not a file: give a .safetensors file ({error.strerror})") from error
    if size > _MOST_BYTES:
        raise WeightsError(f"{path} has {size >> 20} MB, more than Face2Face^rho weights can have")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            _check_metadata(path, metadata)
            expected = expected_tensors(over_base="base" in metadata)
            _check_names(path, set(file.keys()), set(expected))
            tensors = {name: _tensor(path, file, name, shape) for name, shape in expected.items()}
    except (SafetensorError, OSError, UnicodeError) as error:
        raise WeightsError(f"{path} is not a readable safetensors file ({error}): get it again") from error
    _check_finite(path, tensors)
    return tensors, metadata


def _check_metadata(path: Path, metadata: Mapping[str, str]) -> None:
    """Raise WeightsError unless `metadata` is of this format, this model and usable."""
    if metadata.get("format") != FORMAT:
        raise WeightsError(
            f"{path}: format is {metadata.get('format')!r}, need {FORMAT!r}: make it with `fastreenact convert`"
        )
    if metadata.get("model") != MODEL_NAME:
        raise WeightsError(f"{path} is for the model {metadata.get('model')!r}, need {MODEL_NAME!r}")
    if metadata.get("base", BASE) != BASE:
        raise WeightsError(f"{path} draws over {metadata['base']!r}; this version knows {BASE!r}")
    try:
        check_convention(metadata)
    except ValueError as error:
        raise WeightsError(f"{path}: {error}") from error
    try:
        size, motion_size = int(metadata.get("size", "")), metadata.get("motion_size")
        motion_input_size(size, int(motion_size) if motion_size else None)
    except ValueError as error:
        raise WeightsError(f"{path}: size or motion_size in the metadata is off: {error}") from error


def _check_names(path: Path, got: set[str], expected: set[str]) -> None:
    """Raise WeightsError unless the tensors are the model's."""
    missing, extra = sorted(expected - got), sorted(got - expected)
    if missing or extra:
        first = f"{missing[0]} is missing" if missing else f"{extra[0]} does not belong"
        raise WeightsError(
            f"{path} is not Face2Face^rho: {len(missing)} tensors missing, {len(extra)} too many ({first})"
        )


def _tensor(path: Path, file: Any, name: str, shape: tuple[int, ...]) -> Tensor:
    """One tensor as float32."""
    view = file.get_slice(name)
    if tuple(view.get_shape()) != shape or view.get_dtype() not in _DTYPES:
        raise WeightsError(
            f"{path}: {name} is {view.get_dtype()} {list(view.get_shape())}, need F32 or F16 {list(shape)}"
        )
    return file.get_tensor(name).float()


def _check_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise WeightsError where a value is NaN or infinite, or a variance negative."""
    for name, value in tensors.items():
        if not torch.isfinite(value).all():
            raise WeightsError(
                f"{path}: {name} has values that are not finite; the weights are damaged, get them again"
            )
        if name.endswith("running_var") and (value < 0).any():
            raise WeightsError(f"{path}: {name} has negative variances; the weights are damaged, get them again")
