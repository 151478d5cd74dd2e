"""Face2Face^rho's weights files: both networks under the official names.

Metadata beside the model's name: `size` and `head_pose`, and where they apply `motion_size`, `head_pose_mean` and
`head_pose_deviation`.
"""

import os
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path

import torch

from fastreenact import weights
from fastreenact.errors import WeightsError
from fastreenact.models.face2face_rho import MODEL
from fastreenact.models.face2face_rho.head_pose import check_convention
from fastreenact.models.face2face_rho.networks import AnyPair, Face2FaceRho, MotionNet, RenderingNet, motion_input_size
from fastreenact.models.protocol import Model

_MOST_BYTES = 256 << 20  # five times the float32 file: more is not this model


def load_face2face_rho(path: str | os.PathLike[str]) -> Face2FaceRho:
    """Both networks of a weights file, float32, in eval mode, on the CPU.

    Args:
        path: a .safetensors file.
    Raises:
        WeightsError: the file is missing, a pickle, damaged, of another model, or holds values that are not finite.
    """
    return load_pair(path, Face2FaceRho(MotionNet(), RenderingNet()), MODEL)


def save_face2face_rho(model: Face2FaceRho, path: str | os.PathLike[str], dtype: torch.dtype = torch.float32) -> Path:
    """Write both networks and the metadata, whole or not at all; arguments and errors are those of `weights.write`."""
    return weights.write(path, model.state_dict(), model.metadata, dtype, partial(check_metadata, name=MODEL.name))


@cache
def expected_tensors() -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor in a file; BatchNorm's step counters are not stored."""
    with torch.device("meta"):
        return stored_shapes(Face2FaceRho(MotionNet(), RenderingNet()))


def stored_shapes(model: Face2FaceRho) -> dict[str, tuple[int, ...]]:
    """Name -> shape of what a file of this pair of networks holds."""
    return {k: tuple(v.shape) for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}


def load_pair(path: str | os.PathLike[str], pair: AnyPair, model: Model) -> AnyPair:
    """Fill two networks and their metadata from a file of `model`."""

    def expected(path: Path, metadata: dict[str, str]) -> dict[str, tuple[int, ...]]:
        check_metadata(path, model.renamed(metadata), model.name)
        return stored_shapes(pair)

    tensors, metadata = weights.read(path, "Face2Face^rho", expected, _MOST_BYTES)
    pair.metadata = model.renamed(metadata)
    for prefix, net in (("motion_net.", pair.motion), ("rendering_net.", pair.renderer)):
        state = {k: v for k, v in net.state_dict().items() if k.endswith("num_batches_tracked")}
        state |= {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        net.load_state_dict(state, strict=True)
        net.eval().requires_grad_(False)
    return pair


def check_metadata(path: Path, metadata: Mapping[str, str], name: str) -> None:
    """Raise WeightsError unless `metadata` is of the model `name` and usable."""
    if metadata.get("model") != name:
        raise WeightsError(f"{path} is for the model {metadata.get('model')!r}, need {name!r}")
    if "base" in metadata:
        raise WeightsError(f"{path} draws over {metadata['base']!r}, which this version does not know")
    try:
        check_convention(metadata)
    except ValueError as error:
        raise WeightsError(f"{path}: {error}") from error
    try:
        size, motion_size = int(metadata.get("size", "")), metadata.get("motion_size")
        motion_input_size(size, int(motion_size) if motion_size else None)
    except ValueError as error:
        raise WeightsError(f"{path}: size or motion_size in the metadata is off: {error}") from error
