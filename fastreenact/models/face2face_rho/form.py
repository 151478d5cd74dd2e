"""Face2Face^rho as the engine runs it."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fastreenact.fuse.slabs import Place
from fastreenact.models.face2face_rho.inference import FusedFace2FaceRho, fuse
from fastreenact.models.face2face_rho.networks import Face2FaceRho
from fastreenact.models.face2face_rho.weights import load_face2face_rho
from fastreenact.models.protocol import LEAST_SIZE, Cues, Portrait
from fastreenact.timings import Timer

load = load_face2face_rho


class Face2FaceRhoForm:
    """The contract's form: the square of the face, at one size."""

    def __init__(self, networks: FusedFace2FaceRho, side: int) -> None:
        """
        Args:
            networks: which may draw smaller than `side`, where memory is short: their frames are scaled up.
            side: of the frames, px.
        """
        self.side, self._networks = side, networks

    def encode(self, portrait: Portrait) -> Place:
        """See `fastreenact.models.protocol.Form`."""
        seen = portrait if self.side == self._networks.size else portrait.square(self.side)
        return self._networks.encode(seen.crop(self._networks.size), portrait.keypoints, portrait.pose)

    def drive(self, states: Sequence[Place], cues: Sequence[Cues], out: Tensor, timer: Timer) -> bool:
        """See `fastreenact.models.protocol.Form`."""
        keypoints, poses = zip(*(cue.led for cue in cues), strict=True)
        if self.side == self._networks.size:
            self._networks.drive_many(states, keypoints, poses, out, timer)
        else:
            _enlarge(self._networks.drive_many(states, keypoints, poses, None, timer), out)
        return self._networks.finite


def form(
    weights: object, size: int | None, dtype: torch.dtype, device: torch.device, share: int, profile: bool
) -> Face2FaceRhoForm:
    """See `fastreenact.models.protocol.Loader`."""
    if not isinstance(weights, Face2FaceRho):
        raise TypeError(f"weights are {type(weights).__name__}, need those of Face2Face^rho")
    side = int(weights.metadata["size"]) if size is None else size
    drawn = side if share == 1 else max(side // share, LEAST_SIZE)
    return Face2FaceRhoForm(fuse(weights, drawn, dtype, device, profile=profile), side)


def _enlarge(frames: Tensor, out: Tensor) -> None:
    """uint8 [N, s, s, 3] into [N, S, S, 3], bilinearly, pixel centres on pixel centres."""
    small = frames.permute(0, 3, 1, 2).float()
    large = F.interpolate(small, out.shape[1:3], mode="bilinear", align_corners=False)
    out.copy_(large.permute(0, 2, 3, 1).add_(0.5).to(torch.uint8))
