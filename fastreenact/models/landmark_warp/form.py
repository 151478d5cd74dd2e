"""The landmark warp as the engine runs it."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastreenact.models.landmark_warp.warp import LandmarkWarp, State
from fastreenact.models.protocol import Cues, Portrait
from fastreenact.timings import Timer


class _Resident(NamedTuple):
    warp: LandmarkWarp  # of pictures of its size
    state: State


class LandmarkWarpForm:
    """The contract's form: portraits of any size, or the square of the face at one size."""

    def __init__(self, side: int | None, dtype: torch.dtype, device: torch.device) -> None:
        self.side, self._settings = side, (dtype, device)

    def encode(self, portrait: Portrait) -> _Resident:
        """See `fastreenact.models.protocol.Form`."""
        seen = portrait if self.side is None else portrait.square(self.side)
        height, width = seen.picture.shape[:2]
        warp = LandmarkWarp(height, width, *self._settings)
        return _Resident(warp, warp.encode(seen.picture, seen.keypoints, seen.pose, seen.box))

    def drive(self, states: Sequence[_Resident], cues: Sequence[Cues], out: Tensor, timer: Timer) -> bool:
        """See `fastreenact.models.protocol.Form`."""
        for (warp, state), cue, frame in zip(states, cues, out, strict=True):
            if frame.device.type == warp.device.type:
                warp.drive(state, cue.keypoints, cue.pose, frame, timer)
            else:
                frame.copy_(warp.drive(state, cue.keypoints, cue.pose, None, timer))
        return True


def load(path: object) -> None:
    """It has no weights: nothing to load."""
    raise ValueError("the landmark warp has no weights")


def form(
    weights: object, size: int | None, dtype: torch.dtype, device: torch.device, share: int, profile: bool
) -> LandmarkWarpForm:
    """See `fastreenact.models.protocol.Loader`."""
    return LandmarkWarpForm(size, dtype, device)
