"""Weights files of networks over the landmark warp: as Face2Face^rho's, under a name of their own."""

import os
from functools import partial
from pathlib import Path

import torch

from fastreenact import weights
from fastreenact.models.face2face_rho.networks import MotionNet
from fastreenact.models.face2face_rho.weights import check_metadata, load_pair
from fastreenact.models.refined_warp import MODEL
from fastreenact.models.refined_warp.networks import RefinedRenderer, RefinedWarp


def load_refined_warp(path: str | os.PathLike[str]) -> RefinedWarp:
    """Both networks of a weights file, float32, in eval mode, on the CPU.

    Args:
        path: a .safetensors file.
    Raises:
        WeightsError: the file is missing, a pickle, damaged, of another model, or holds values that are not finite.
    """
    return load_pair(path, RefinedWarp(MotionNet(), RefinedRenderer()), MODEL)


def save_refined_warp(model: RefinedWarp, path: str | os.PathLike[str], dtype: torch.dtype = torch.float32) -> Path:
    """Write both networks and the metadata, whole or not at all; arguments and errors are those of `weights.write`."""
    return weights.write(path, model.state_dict(), model.metadata, dtype, partial(check_metadata, name=MODEL.name))
