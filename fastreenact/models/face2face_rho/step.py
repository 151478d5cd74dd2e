"""One step of Face2Face^rho for a number of pictures at once: buffers that stay where they are, and a replay."""

from collections.abc import Callable

import torch
from torch import Tensor

from fastreenact import ops
from fastreenact.fuse.staging import StagingBuffer
from fastreenact.models.face2face_rho.fused_motion import FusedMotion
from fastreenact.models.face2face_rho.fused_renderer import FusedDecoder
from fastreenact.timings import Timer

Body = Callable[[ops.Replay, list[Tensor]], None]


class FusedStep:
    """The networks with their buffers."""

    def __init__(
        self, motion: FusedMotion, decoder: FusedDecoder, staging: StagingBuffer, dtype: torch.dtype, profile: bool
    ) -> None:
        """
        Args:
            motion, decoder, staging: made for one number of pictures, and size of them.
            dtype: of activations.
            profile: on a GPU, have events inside the graph that time the stages.
        """
        self.motion, self.decoder, self.staging = motion, decoder, staging
        # float32 has the range of what the networks compute in: only halves are asked whether they left theirs.
        self.half = dtype != torch.float32
        self._device, self._profile = staging.device, profile
        self._replays: dict[str, ops.Replay] = {}

    def body(self, name: str) -> Body:
        """What the replay of that name records; not kept, so that a step is gone when nobody has it."""
        return {"step": self._step}[name]

    def forget(self) -> None:
        """Drop the replays: the slabs that they read have moved."""
        self._replays.clear()

    def __call__(self, slabs: list[Tensor], timer: Timer, name: str = "step") -> None:
        """Run on what the buffers hold; `slabs` as `FusedFace2FaceRho` keeps them, `name` is the body's."""
        replay = self._replays.get(name)
        if replay is None:
            body = self.body(name)
            replay = ops.Replay(lambda replay: body(replay, slabs), self._device, profile=self._profile)
            self._replays[name] = replay
        replay(timer)

    def frame(self, out: Tensor) -> Tensor:
        """The picture of the step as uint8 [N, S, S, 3] RGB, into `out`."""
        return ops.to_frame(self.decoder.raw, layout="nhwc", tanh=True, out=out, flag=self.flag)

    def deliver(self, out: Tensor) -> Tensor:
        """The picture of the step into `out` uint8 [N, S, S, 3], on any device; gives it back."""
        if self._device.type == "cpu":
            return (
                self.frame(out)
                if out.device.type == "cpu"
                else out.copy_(self.frame(torch.empty_like(out, device="cpu")))
            )
        if out.device.type == "cpu":
            self.staging.receive(out)
            return out
        return out.copy_(self.staging.frame)

    @property
    def flag(self) -> Tensor | None:
        """int32 [1] that becomes 1 where a value was not finite; None in float32."""
        return self.staging.flag if self.half else None

    def finite(self) -> bool:
        """Whether all was finite since the inputs were sent, as far as anybody has looked. Waits for a GPU."""
        if not self.half:
            return True
        if self._device.type == "cpu":
            self.staging.total.fill_(float(self.motion.field.numpy().sum()))
        return self.staging.finite()

    def _step(self, replay: ops.Replay, slabs: list[Tensor]) -> None:
        with replay.branch():
            replay.mark("decode")
            self.decoder.tables(self.staging.pose)
        replay.mark("rasterize")
        self.motion.rasterize(self.staging.points)
        replay.mark("motion")
        self.motion(slabs[3:6], self.staging.source_index)
        self._total()
        replay.join()
        replay.mark("warp")
        self.decoder.warp(slabs[:3], self.staging.source_index, self.motion.field)
        replay.mark("decode")
        self.decoder()
        if self._device.type != "cpu":  # there it goes straight into the caller's memory
            replay.mark("deliver")
            self.frame(self.staging.frame)

    def _total(self) -> None:
        """NaN of a field would not be seen in the picture: `warp` takes it for outside."""
        if self.half and self._device.type != "cpu":
            torch.sum(self.motion.field.flatten(), 0, keepdim=True, out=self.staging.total)
