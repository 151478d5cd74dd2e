"""The two networks over the landmark warp in their inference form: Face2Face^rho's, and what is added to them."""

from collections.abc import Callable

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from fastreenact import ops
from fastreenact.fuse import algebra
from fastreenact.fuse.layers import ConvLayer
from fastreenact.fuse.slabs import Place
from fastreenact.fuse.staging import StagingBuffer
from fastreenact.models.face2face_rho.fused_motion import LEVEL, PICTURE, FusedMotion, first_layers, first_sides, part
from fastreenact.models.face2face_rho.fused_renderer import FusedDecoder
from fastreenact.models.face2face_rho.inference import FusedPair, fused_settings
from fastreenact.models.face2face_rho.networks import MotionNet
from fastreenact.models.face2face_rho.step import Body, FusedStep
from fastreenact.models.protocol import LEAST_SIZE
from fastreenact.models.refined_warp.networks import BaseEncoder, RefinedRenderer, RefinedWarp
from fastreenact.timings import Timer


class RefinedMotion(FusedMotion):
    """The motion network that sees the source's picture as a base moves it, so that only its drawing is constant."""

    def __init__(self, net: MotionNet, size: int, like: Tensor, *, n: int = 1) -> None:
        super().__init__(net, size, like, n=n)
        side = self.sides[2]
        self._moved = torch.empty(n, side, side, 3, dtype=torch.uint8, device=like.device)
        self._pictures = []
        for i, (kernel, side) in enumerate(zip(first_layers(net), first_sides(size), strict=True)):
            pooled = algebra.pooled(algebra.scaled(part(kernel, PICTURE), LEVEL), 4 >> i)
            self._pictures.append(ConvLayer(pooled, like, side, side, n=n))

    def look(self, image: Tensor, source_index: Tensor, base: Tensor) -> None:
        """What is seen in the next call: the slab of pictures uint8 [A, S, S, 3], moved by `base` [N, M/4, M/4, 2]."""
        side = self.sides[2]
        ops.warp(image, base, source_index=source_index, size=(side, side), padding="border", out=self._moved)

    def _seen(self, image: Tensor, side: int) -> Tensor:
        return torch.full((1, side, side, 3), -1.0, device=image.device)

    def _added(self, level: int, part: Tensor, source_index: Tensor) -> tuple[Tensor, Tensor | None]:
        return self._pictures[level](self._moved, add=part, source_index=source_index), None

    def multiplications(self) -> int:
        """Of one picture."""
        return super().multiplications() + sum(layer.multiplications() for layer in self._pictures)


class RefinedDecoder(FusedDecoder):
    """`RefinedRenderer.draw`: fields are read bilinearly, and the picture that is drawn over is seen."""

    def __init__(self, net: RefinedRenderer, size: int, like: Tensor, n: int = 1) -> None:
        super().__init__(net, size, like, n)
        self.seen = FusedBaseEncoder(net.base_encoder, size, like, (self.maps[2], self.maps[3], self.up4[-1].out))
        self._resizing: dict[int, tuple[Tensor, Tensor]] = {}  # side: where to read, and the buffer

    def over(self, base: Tensor) -> None:
        """Warped maps -> `raw`, colours and gains before activations [N, S, S, 4], over `base` [N, S8, S8, 3]."""
        self(self.seen(base))

    def _field_at(self, side: int, field: Tensor) -> Tensor:
        """`field` [N, h, w, 2] read bilinearly in the middle of side x side pixels; beyond its outer cells it stays."""
        if field.shape[1] == side:
            return field
        if side not in self._resizing:
            at = (torch.arange(side, device=field.device) * 2 + 1) / side - 1
            grid = torch.stack(torch.meshgrid(at, at, indexing="xy"), -1)[None].expand(len(field), -1, -1, -1)
            self._resizing[side] = grid.contiguous(), field.new_empty(len(field), side, side, 2)
        grid, out = self._resizing[side]
        return ops.warp(field, grid, size=(side, side), padding="border", out=out)

    def multiplications(self) -> dict[str, int]:
        """Of one picture, by kind of layer."""
        return super().multiplications() | {"base": self.seen.multiplications()}


class FusedBaseEncoder:
    """`BaseEncoder`, whose results are added to three maps of the decoder."""

    def __init__(self, net: BaseEncoder, size: int, like: Tensor, targets: tuple[Tensor, Tensor, Tensor]):
        side, n = -(-size // 8) * 8, len(targets[0])
        self.side = side
        self.downs = [
            ConvLayer(algebra.convolution(m.conv, m.norm), like, side // k, side // k, n=n, activation="relu")
            for m, k in ((net.down1, 2), (net.down2, 4))
        ]
        self.ends = [
            ConvLayer(algebra.convolution(conv), like, *target.shape[1:3], out=target)
            for conv, target in zip((net.to8, net.to4, net.to2), targets, strict=True)
        ]

    def __call__(self, base: Tensor) -> list[Callable[[], Tensor]]:
        """[N, S8, S8, 3] float32 in [-1, 1] -> what adds to the maps at S/8, S/4 and S/2, to be called when these are
        there."""
        x = self.downs[0](base)
        y = self.downs[1](x)
        return [
            lambda: self.ends[0](y, residual=self.ends[0].out),
            lambda: self.ends[1](y, residual=self.ends[1].out),
            lambda: self.ends[2](x, residual=self.ends[2].out),
        ]

    def multiplications(self) -> int:
        """Of one picture."""
        return sum(layer.multiplications() for layer in (*self.downs, *self.ends))


class RefinedStep(FusedStep):
    """The networks with their buffers, and the two halves of a frame, "move" and "draw", each a replay of its own or
    parts of somebody else's."""

    motion: RefinedMotion
    decoder: RefinedDecoder

    def __init__(
        self, motion: RefinedMotion, decoder: RefinedDecoder, staging: StagingBuffer, dtype: torch.dtype, profile: bool
    ) -> None:
        super().__init__(motion, decoder, staging, dtype, profile)
        self.base_field, self.field = torch.zeros_like(motion.field), torch.zeros_like(motion.field)
        side = decoder.seen.side
        self.base = torch.zeros(len(motion.field), side, side, 3, device=motion.field.device)

    def body(self, name: str) -> Body:
        """See `FusedStep`."""
        return {"move": self.move, "draw": self.draw}[name]

    def move(self, replay: ops.Replay, slabs: list[Tensor]) -> None:
        """`base_field` -> the motion network's field, what is to be added to it."""
        replay.mark("rasterize")
        self.motion.rasterize(self.staging.points)
        replay.mark("motion")
        self.motion.look(slabs[6], self.staging.source_index, self.base_field)
        self.motion(slabs[3:6], self.staging.source_index)
        self._total()

    def draw(self, replay: ops.Replay, slabs: list[Tensor]) -> None:
        """`field`, what the source is sampled by, and `base`, what is drawn over -> the decoder's `raw`."""
        replay.mark("decode")
        self.decoder.tables(self.staging.pose)
        replay.mark("warp")
        self.decoder.warp(slabs[:3], self.staging.source_index, self.field)
        replay.mark("decode")
        self.decoder.over(self.base)


class RefinedNetworks(FusedPair[RefinedWarp, RefinedStep]):
    """Both networks, at the size that they were trained for. One thread at a time: buffers are shared between calls."""

    def __init__(
        self, model: RefinedWarp, dtype: torch.dtype, device: torch.device, *, share: int = 1, profile: bool = False
    ) -> None:
        """
        Args:
            model: plain networks with their metadata; left as it is, and kept.
            dtype: of activations: float32, bfloat16, or float16 on a GPU. Fields, coordinates and poses stay float32.
            device: where they run.
            share: they draw at this share of their size.
            profile: on a GPU, have events inside the graphs that time the stages.
        """
        size = max(int(model.metadata["size"]) // share, LEAST_SIZE)
        super().__init__(model, *fused_settings(model, size, dtype, device), profile)

    def _new_step(self, n: int) -> RefinedStep:
        return RefinedStep(
            RefinedMotion(self._model.motion, self.motion_size, self._like, n=n),
            RefinedDecoder(self._model.renderer, self.size, self._like, n=n),
            StagingBuffer(n, self.size, self.size, self.device),
            self.dtype,
            self.profile,
        )

    def _more(self, pixels: Tensor) -> list[Tensor]:
        return [pixels]

    def step_on(self, staging: StagingBuffer, n: int) -> RefinedStep:
        """A step of `n` frames, whose inputs are in `staging`. It shares buffers with this object's own steps: only one
        of them may run at a time."""
        own = self._step_of(n)
        return RefinedStep(own.motion, own.decoder, staging, self.dtype, self.profile)

    @property
    def flag(self) -> Tensor | None:
        """int32 [1] for ops after `draw`: 1 makes `finite` false. None in float32."""
        return self._last.flag

    def move(self, state: Place, keypoints: ArrayLike, head_pose: ArrayLike, base: Tensor, timer: Timer) -> Tensor:
        """The motion network alone.

        Args:
            state, keypoints, head_pose, timer: as of `FusedFace2FaceRho.drive`.
            base: [1, M/4, M/4, 2] float32, the base's field, which it corrects.
        Returns:
            [1, M/4, M/4, 2] float32, what is to be added to that; valid until the next call.
        """
        self._step_of(1).base_field.copy_(base)
        return self._run([state], [keypoints], [head_pose], timer, "move").motion.field

    def draw(self, field: Tensor, base: Tensor, timer: Timer) -> Tensor:
        """The rendering network alone, after `move` and for what that was given.

        Args:
            field: [1, M/4, M/4, 2] float32 that the source is sampled by.
            base: [1, S, S, 3] float32 in [-1, 1], the picture that is drawn over.
        Returns:
            [1, S, S, 4] before the last activation, in the network's dtype; valid until the next call.
        """
        step = self._last
        step.field.copy_(field)
        more = step.base.shape[1] - self.size  # the edge is repeated up to a multiple of 8
        step.base[:, : self.size, : self.size] = base
        if more:
            step.base[:, self.size :, : self.size] = base[:, -1:]
            step.base[:, :, self.size :] = step.base[:, :, self.size - 1 : self.size]
        self._replay(step, timer, "draw")
        return step.decoder.raw
