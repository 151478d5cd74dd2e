"""Face2Face^rho at a share of the size, its frames scaled up again: what is left where memory is short."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fastreenact.face.crop import Box, crop
from fastreenact.models.face2face_rho.inference import FusedFace2FaceRho, SourceState


class Enlarged:
    """Takes and gives pictures of `size`, which `inner` draws smaller."""

    def __init__(self, inner: FusedFace2FaceRho, size: int):
        self.inner, self.size, self.dtype, self.device = inner, size, inner.dtype, inner.device

    def encode(self, image: Any, keypoints: Any, head_pose: Any) -> SourceState:
        """As of `FusedFace2FaceRho`, with an image of `size`."""
        whole = Box(self.size / 2, self.size / 2, self.size)
        return self.inner.encode(crop(np.asarray(image), whole, self.inner.size), keypoints, head_pose)

    def drive(
        self, state: SourceState, keypoints: Any, head_pose: Any, out: Tensor | None = None, timer: Any = None
    ) -> Tensor:
        """As of `FusedFace2FaceRho`."""
        frames = self.drive_many([state], [keypoints], [head_pose], None if out is None else out[None], timer)
        return frames[0] if out is None else out

    def drive_many(
        self,
        states: Sequence[SourceState],
        keypoints: Sequence[Any],
        head_poses: Sequence[Any],
        out: Tensor | None = None,
        timer: Any = None,
    ) -> Tensor:
        """As of `FusedFace2FaceRho`; enlarged bilinearly, pixel centres on pixel centres."""
        small = self.inner.drive_many(states, keypoints, head_poses, timer=timer)
        size = (self.size, self.size)
        large = F.interpolate(small.permute(0, 3, 1, 2).float(), size, mode="bilinear", align_corners=False)
        frames = large.permute(0, 2, 3, 1).add_(0.5).to(torch.uint8)
        return frames.contiguous() if out is None else out.copy_(frames)

    @property
    def finite(self) -> bool:
        """As of `FusedFace2FaceRho`."""
        return self.inner.finite
