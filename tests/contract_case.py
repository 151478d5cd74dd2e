"""A renderer, or a model's form, with portraits and drivers given as numbers."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastreenact.face.crop import Box
from fastreenact.models import MODELS, Choice
from fastreenact.models.protocol import Cues, Portrait
from fastreenact.renderer import Renderer
from fastreenact.timings import NO_TIMER

CPU = torch.device("cpu")


def portrait(image: np.ndarray, keypoints: Any, pose: Any, box: Box | None = None) -> Portrait:
    """A portrait whose keypoints are known; `box` None is the whole of a square picture."""
    height, width = image.shape[:2]
    return Portrait(image, Box(width / 2, height / 2, width) if box is None else box, keypoints, pose)


class ByHand:
    """A `Renderer` that takes portraits and drivers as numbers."""

    def __init__(
        self, name: str, size: int | None, weights: object, dtype: torch.dtype, device: torch.device = CPU
    ) -> None:
        self.renderer = Renderer(Choice(MODELS[name], weights), size, dtype, device)

    def encode(self, image: np.ndarray, keypoints: Any, pose: Any, box: Box | None = None) -> Any:
        return self.renderer.encode(portrait(image, keypoints, pose, box))

    def drive(self, resident: Any, keypoints: Any, pose: Any, out: Tensor | None = None) -> Tensor:
        side = self.renderer.side
        shape = resident.portrait.picture.shape if side is None else (side, side, 3)
        given = torch.from_numpy(np.empty(shape, np.uint8)) if out is None else out
        self.drive_many([resident], [keypoints], [pose], given[None])
        return given

    def drive_many(self, residents: Any, keypoints: Any, poses: Any, out: Tensor) -> Tensor:
        cues = [Cues.known(*pair) for pair in zip(keypoints, poses, strict=True)]
        return self.renderer.drive(residents, cues, out, NO_TIMER)
