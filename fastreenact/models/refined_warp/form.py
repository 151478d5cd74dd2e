"""The refined landmark warp as the engine runs it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fastreenact.models.protocol import Cues, Portrait
from fastreenact.models.refined_warp.fused import RefinedNetworks
from fastreenact.models.refined_warp.inference import FusedRefinedWarp, RefinedState
from fastreenact.models.refined_warp.networks import RefinedWarp
from fastreenact.models.refined_warp.replayed import ReplayedRefinedWarp, ReplayedState
from fastreenact.models.refined_warp.weights import load_refined_warp
from fastreenact.ops.define import cuda_kernels
from fastreenact.timings import Timer

load = load_refined_warp

_LARGE = 0.45  # share of the picture that the face's square takes from where on, on the CPU, one replay of all of it is
# the quicker way than the parts that move by themselves (measured at 512 and 1440)


class RefinedWarpForm:
    """The contract's form: portraits of any size, or the square of the face at one size."""

    def __init__(self, networks: RefinedNetworks, size: int | None) -> None:
        """As of `FusedRefinedWarp`."""
        self.side, self._networks = size, networks
        self._single, self._replayed = FusedRefinedWarp(networks, size), ReplayedRefinedWarp(networks, size)
        # Networks of other sides would need their picture repeated at its edge; a GPU needs kernels of ours for it.
        self._may = networks.size % 8 == 0 and (networks.device.type == "cpu" or cuda_kernels())
        self._always = networks.device.type != "cpu"

    def encode(self, portrait: Portrait) -> RefinedState | ReplayedState:
        """See `fastreenact.models.protocol.Form`."""
        seen = portrait if self.side is None else portrait.square(self.side)
        height, width = seen.picture.shape[:2]
        large = seen.box.size**2 >= _LARGE * height * width
        warp = self._replayed if self._may and (self._always or large) else self._single
        return warp.encode(seen.picture, seen.keypoints, seen.pose, seen.box)

    def drive(
        self, states: Sequence[RefinedState | ReplayedState], cues: Sequence[Cues], out: Tensor, timer: Timer
    ) -> bool:
        """See `fastreenact.models.protocol.Form`."""
        if all(isinstance(state, ReplayedState) for state in states):
            keypoints, poses = zip(*(cue.led for cue in cues), strict=True)
            return self._replayed.drive(states, keypoints, poses, out, timer)  # type: ignore[arg-type]
        finite = True
        for i, (state, cue) in enumerate(zip(states, cues, strict=True)):
            if isinstance(state, ReplayedState):
                finite = self._replayed.drive([state], [cue.keypoints], [cue.pose], out[i : i + 1], timer) and finite
            else:
                self._single.drive(state, cue.keypoints, cue.pose, out[i], timer)
                finite = self._single.finite and finite
        return finite


def form(
    weights: object, size: int | None, dtype: torch.dtype, device: torch.device, share: int, profile: bool
) -> RefinedWarpForm:
    """See `fastreenact.models.protocol.Loader`."""
    if not isinstance(weights, RefinedWarp):
        raise TypeError(f"weights are {type(weights).__name__}, need those of a refined landmark warp")
    return RefinedWarpForm(RefinedNetworks(weights, dtype, device, share=share, profile=profile), size)
