"""The metrics that need networks with weights of their own: LPIPS, FID and CSIM, from files that the user gives."""

import os
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from fastreenact.errors import WeightsError
from fastreenact.evaluation.arcface import ArcFace, aligned
from fastreenact.evaluation.inception import Inception
from fastreenact.evaluation.lpips import Lpips

Path_ = str | os.PathLike[str]
Picture = NDArray[np.uint8]
Module = TypeVar("Module", bound=nn.Module)


class Learned:
    """Those of the three networks that there are weights for."""

    def __init__(
        self, lpips: Lpips | None = None, inception: Inception | None = None, arcface: ArcFace | None = None
    ) -> None:
        """Networks in eval mode; None: the metric is not measured."""
        self._lpips, self._inception, self._arcface = lpips, inception, arcface

    @torch.inference_mode()
    def compare(self, got: Picture, true: Picture) -> dict[str, float]:
        """LPIPS of two pictures uint8 [H, W, 3]; nothing without its weights."""
        return {} if self._lpips is None else {"lpips": float(self._lpips(_tensor(got), _tensor(true)))}

    @torch.inference_mode()
    def features(self, picture: Picture) -> NDArray[np.float64] | None:
        """[2048] what FID compares; None without Inception's weights."""
        return None if self._inception is None else self._inception(_tensor(picture))[0].double().numpy()

    @torch.inference_mode()
    def identity(self, picture: Picture, keypoints: NDArray[np.float32]) -> NDArray[np.float64] | None:
        """[512] of length 1, whose face it is; None without ArcFace's weights.

        Args:
            picture: uint8 [H, W, 3].
            keypoints: [72, 2] px.
        """
        if self._arcface is None:
            return None
        found = self._arcface(_tensor(aligned(picture, keypoints)))[0].double().numpy()
        return np.asarray(found / max(float(np.linalg.norm(found)), 1e-12))

    def likeness(self, picture: Picture, keypoints: NDArray[np.float32] | None, identity: NDArray[np.float64]) -> float:
        """Cosine between the faces' identities, -1 to 1; NaN where no face was found."""
        mine = None if keypoints is None else self.identity(picture, keypoints)
        return float("nan") if mine is None else float(mine @ identity)


def load_learned(lpips: Path_ | None = None, fid: Path_ | None = None, csim: Path_ | None = None) -> Learned:
    """The networks of the files that are given.

    Args:
        lpips: LPIPS with AlexNet, named as the `lpips` package names it (`net.slice1.0.weight`, `lin0.model.1.weight`).
        fid: Inception-v3 for FID, named as `pytorch-fid` and torchvision name it (`Mixed_5b.branch1x1.conv.weight`).
        csim: ArcFace's IResNet-50, named as `insightface` names it (`layer1.0.conv1.weight`, `features.weight`).

    Raises:
        WeightsError: a file is missing, not safetensors, or lacks a tensor of the right shape.
    """
    return Learned(
        None if lpips is None else _load(lpips, Lpips(), "LPIPS with AlexNet"),
        None if fid is None else _load(fid, Inception(), "Inception-v3 for FID"),
        None if csim is None else _load(csim, ArcFace(), "ArcFace IResNet-50"),
    )


def _load(path: Path_, module: Module, name: str) -> Module:
    """`module` with the weights of a safetensors file; what the file has more is ignored."""
    path = Path(path)
    if path.suffix != ".safetensors" or not path.is_file():
        raise WeightsError(f"{path} is not a .safetensors file: docs/evaluation.md says how to make one of {name}")
    state = {}
    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
            for key, value in module.state_dict().items():
                if key.endswith("num_batches_tracked"):
                    state[key] = value
                elif key not in names or tuple(file.get_slice(key).get_shape()) != tuple(value.shape):
                    raise WeightsError(f"{path} is not {name}: {key} of shape {list(value.shape)} is not in it")
                else:
                    state[key] = file.get_tensor(key).float()
    except (SafetensorError, OSError, UnicodeError) as error:
        raise WeightsError(f"{path} is not a readable safetensors file ({error}): get it again") from error
    if not all(value.isfinite().all() for value in state.values()):
        raise WeightsError(f"{path} has values that are not finite: get it again")
    module.load_state_dict(state)
    return module.eval().requires_grad_(False)


def _tensor(picture: Picture) -> Tensor:
    """uint8 [H, W, 3] -> float32 [1, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() * (2 / 255) - 1
