"""The networks, one file per paper: a plain form that trains and loads published weights, and the fast one."""

from collections.abc import Callable
from typing import Any

import torch

from fastreenact.face.crop import Box
from fastreenact.models.face2face_rho.enlarged import Enlarged
from fastreenact.models.face2face_rho.inference import FusedFace2FaceRho, fuse
from fastreenact.models.face2face_rho.networks import Face2FaceRho
from fastreenact.models.landmark_warp.warp import LandmarkWarp, State
from fastreenact.models.refined_warp.inference import FusedOverBase

_WARP_SIZE = 512  # of the landmark warp's square frames where nobody names a size
_LEAST_SIZE = 64  # px, of Face2Face^rho


def make_renderer(
    model: str,
    size: Any,
    weights: Any,
    dtype: torch.dtype,
    device: torch.device | str,
    *,
    share: int = 1,
    profile: bool = False,
) -> Any:
    """The inference form of one of `MODELS`: has `size` (square models), `encode` and `drive`.

    Args:
        model: one of `MODELS`.
        size: side of square frames, px; (height, width) for the landmark warp of a whole picture; None: the model's,
            and any for weights that draw over the landmark warp.
        weights: path of a safetensors file or a loaded `Face2FaceRho`; None for the landmark warp.
        dtype: of activations.
        device: where it runs.
        share: the networks draw at this share of the size (1, 2 for a half, ...), and what they draw is scaled up.
        profile: on a GPU, have events inside the graphs that time the stages.
    Raises:
        ValueError: an unknown model or a size out of range. WeightsError: the file is not usable.
    """
    if model not in MODELS:
        raise ValueError(f"model is {model!r}; there are {', '.join(MODELS)}")
    return MODELS[model](size, weights, dtype, device, share, profile)


def _face2face_rho(
    size: Any, weights: Any, dtype: torch.dtype, device: torch.device | str, share: int, profile: bool
) -> FusedFace2FaceRho | FusedOverBase | Enlarged:
    if isinstance(weights, Face2FaceRho):
        model = weights
    else:
        from fastreenact.weights import load_face2face_rho  # which imports the models

        model = load_face2face_rho(weights)
    trained = int(model.metadata["size"])
    wanted = trained if model.over_base or size is None else size
    drawn = wanted if share == 1 else max(wanted // share, _LEAST_SIZE)
    networks = fuse(model, drawn, dtype, device, profile=profile)
    if model.over_base:
        return FusedOverBase(networks, None if isinstance(size, tuple) else size)
    return networks if share == 1 else Enlarged(networks, wanted)


def _landmark_warp(
    size: Any, weights: Any, dtype: torch.dtype, device: torch.device | str, share: int, profile: bool
) -> LandmarkWarp:
    if weights is not None:
        raise ValueError("the landmark warp has no weights")
    if isinstance(size, tuple):
        return LandmarkWarp(size[0], size[1], dtype, device)
    return _SquareLandmarkWarp(_WARP_SIZE if size is None else size, dtype, device)


class _SquareLandmarkWarp(LandmarkWarp):
    """The landmark warp of a cropped face."""

    def __init__(self, size: int, dtype: torch.dtype, device: torch.device | str):
        super().__init__(size, size, dtype, device)
        self.size = size

    def encode(self, image: Any, keypoints: Any, pose: Any, box: Box | None = None) -> State:
        """Make a portrait resident; without `box` the keypoints are in the picture's own coordinates."""
        own = Box(self.size / 2, self.size / 2, self.size)
        return super().encode(image, keypoints, pose, own if box is None else box)


MODELS: dict[str, Callable[[Any, Any, torch.dtype, torch.device | str, int, bool], Any]] = {
    "face2face-rho": _face2face_rho,
    "landmark-warp": _landmark_warp,
}
