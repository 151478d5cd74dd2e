"""What a photograph shows besides the face: the person cut out, and smooth continuations of what is hidden."""

import threading
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from fastreenact.face.track.backends import import_mediapipe, quiet_stderr

_BLUR = 1.5  # standard deviation of the cut's edge, px of the net's picture, whose side is 256


class Cutout:
    """Finds the person in a picture, by the small net inside MediaPipe's package. For any thread, one at a time."""

    def __init__(self) -> None:
        self._net: Any = None
        self._lock = threading.Lock()

    def __call__(self, picture: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The share of each pixel that the person covers.

        Args:
            picture: uint8 [H, W, 3] RGB.

        Returns:
            [H, W] float32, 0..1, soft at the edges.

        Raises:
            FastreenactError: MediaPipe is missing.
        """
        with self._lock:
            if self._net is None:
                solutions = import_mediapipe("solutions").solutions
                with quiet_stderr():
                    self._net = solutions.selfie_segmentation.SelfieSegmentation(model_selection=0)
                    found = self._net.process(picture).segmentation_mask
            else:
                found = self._net.process(picture).segmentation_mask
        soft = blur(torch.from_numpy(np.array(found, np.float32))[None], _BLUR * len(picture) / 256)[0]
        return np.asarray(((soft - 0.5) * 1.6 + 0.5).clamp(0, 1).numpy(), np.float32)


def blur(image: Tensor, deviation: float) -> Tensor:
    """[C, H, W] under a Gaussian whose deviation is in px; the edge is repeated."""
    radius = max(1, int(2.5 * deviation + 0.5))
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / max(deviation, 1e-3)) ** 2)
    kernel = kernel / kernel.sum()
    padded = functional.pad(image[:, None], (radius,) * 4, mode="replicate")
    across = functional.conv2d(padded, kernel.view(1, 1, 1, -1))
    return functional.conv2d(across, kernel.view(1, 1, -1, 1))[:, 0]


def grow(mask: Tensor, radius: int) -> Tensor:
    """[H, W] the greatest value within a square of `radius` px."""
    return functional.max_pool2d(mask[None, None], 2 * radius + 1, 1, radius)[0, 0]


def fill(image: Tensor, weight: Tensor) -> Tensor:
    """A picture that is `image` where the weight is 1, and where it is 0 a smooth continuation of what surrounds it.

    Means over ever larger squares, coarse to fine (push and pull).

    Args:
        image: [C, H, W] float32; weight: [H, W] float32 0..1.

    Returns:
        [C, H, W].

    Source: Gortler et al., The Lumigraph, 1996, Sec. 4.
    """
    height, width = weight.shape
    known = weight[None, None]
    if min(height, width) <= 2:
        mean = (image * known[0]).sum((1, 2)) / known.sum().clamp_min(1e-6)
        return image * known[0] + mean[:, None, None] * (1 - known[0])
    share = functional.avg_pool2d(known, 2, ceil_mode=True)
    smaller = functional.avg_pool2d(image[None] * known, 2, ceil_mode=True) / share.clamp_min(1e-6)
    coarse = fill(smaller[0], (4 * share[0, 0]).clamp(max=1))
    up = functional.interpolate(coarse[None], (height, width), mode="bilinear", align_corners=False)[0]
    return image * known[0] + up * (1 - known[0])
