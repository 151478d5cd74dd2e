"""The refined landmark warp as the engine runs it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fastreenact.models.protocol import Cues, Portrait
from fastreenact.models.refined_warp.device import DeviceRefinedWarp, DeviceState
from fastreenact.models.refined_warp.fused import RefinedNetworks
from fastreenact.models.refined_warp.inference import FusedRefinedWarp, RefinedState
from fastreenact.models.refined_warp.networks import RefinedWarp
from fastreenact.models.refined_warp.weights import load_refined_warp
from fastreenact.ops.define import cuda_kernels
from fastreenact.timings import Timer

load = load_refined_warp


class RefinedWarpForm:
    """The contract's form: portraits of any size, or the square of the face at one size."""

    def __init__(self, warp: FusedRefinedWarp) -> None:
        self._warp, self.side = warp, warp.size

    def encode(self, portrait: Portrait) -> RefinedState:
        """See `fastreenact.models.protocol.Form`."""
        seen = portrait if self.side is None else portrait.square(self.side)
        return self._warp.encode(seen.picture, seen.keypoints, seen.pose, seen.box)

    def drive(self, states: Sequence[RefinedState], cues: Sequence[Cues], out: Tensor, timer: Timer) -> bool:
        """See `fastreenact.models.protocol.Form`."""
        finite = True
        for state, cue, frame in zip(states, cues, out, strict=True):
            self._warp.drive(state, cue.keypoints, cue.pose, frame, timer)
            finite = self._warp.finite and finite
        return finite


class DeviceRefinedWarpForm:
    """The same on a GPU, where frames are drawn side by side."""

    def __init__(self, warp: DeviceRefinedWarp) -> None:
        self._warp, self.side = warp, warp.size

    def encode(self, portrait: Portrait) -> DeviceState:
        """See `fastreenact.models.protocol.Form`."""
        seen = portrait if self.side is None else portrait.square(self.side)
        return self._warp.encode(seen.picture, seen.keypoints, seen.pose, seen.box)

    def drive(self, states: Sequence[DeviceState], cues: Sequence[Cues], out: Tensor, timer: Timer) -> bool:
        """See `fastreenact.models.protocol.Form`."""
        keypoints, poses = zip(*(cue.led for cue in cues), strict=True)
        return self._warp.drive(states, keypoints, poses, out, timer)


def form(
    weights: object, size: int | None, dtype: torch.dtype, device: torch.device, share: int, profile: bool
) -> RefinedWarpForm | DeviceRefinedWarpForm:
    """See `fastreenact.models.protocol.Loader`."""
    if not isinstance(weights, RefinedWarp):
        raise TypeError(f"weights are {type(weights).__name__}, need those of a refined landmark warp")
    networks = RefinedNetworks(weights, dtype, device, share=share, profile=profile)
    # Without kernels of ours the field is made on the host; networks of another side would need its edge repeated.
    if device.type != "cpu" and cuda_kernels() and networks.size % 8 == 0:
        return DeviceRefinedWarpForm(DeviceRefinedWarp(networks, size))
    return RefinedWarpForm(FusedRefinedWarp(networks, size))
