"""Face2Face^rho's rendering network in its inference form."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fastreenact import ops
from fastreenact.fuse import algebra
from fastreenact.fuse.layers import BlockLayer, PoseCells, SpadeLayer, make_tables
from fastreenact.models.blocks import InvertedResidual
from fastreenact.models.face2face_rho.networks import RenderingNet

F3 = 140  # channels of f3 in the joint map f3|f4


class FusedEncoder:
    """`RenderingNet.encode`, in float32: it runs once per source and its rounding would stay."""

    def __init__(self, net: RenderingNet, size: int, like: Tensor):
        device = like.device
        self.pose = PoseCells(net.src_headpose_encoder, device)
        first = algebra.convolution(net.en_conv_block[0], net.en_conv_block[1])
        self.first = ops.pack_conv(first, torch.float32, device)
        stages = (net.en_down_block1, net.en_down_block2, net.en_down_block3, net.en_res_block)
        spades = (net.en_SPADE1, net.en_SPADE_2, net.en_SPADE_3, net.en_SPADE_4)
        self.stages = [
            [ops.pack_mbconv(algebra.inverted_residual(m), torch.float32, device) for m in _inverted(stage)]
            for stage in stages
        ]
        sides = [-(-size // scale) for scale in (4, 8, 16, 16)]
        self.spades = [SpadeLayer(spade, side, like) for spade, side in zip(spades, sides, strict=True)]

    def __call__(self, image: Tensor, head_pose: Tensor) -> list[Tensor]:
        """[1, S, S, 3] uint8, [1, 6] -> f1, f2, f3|f4, float32 NHWC, new ones."""
        condition = self.pose(head_pose)
        x = ops.conv(image, self.first, activation="relu", x_scale=2 / 255, x_shift=-1)
        maps = []
        for stage, spade in zip(self.stages, self.spades, strict=True):
            for block in stage:
                x = ops.mbconv(x, block)
            make_tables([spade], condition)
            x = spade.apply(x)
            maps.append(x)
        return [*maps[:2], torch.cat(maps[2:], -1)]


class FusedDecoder:
    """`RenderingNet.decode`: the warps write straight into the maps that the SPADE layers share with the decoder."""

    def __init__(self, net: RenderingNet, size: int, like: Tensor, n: int = 1):
        s2, s4, s8, s16 = (-(-size // scale) for scale in (2, 4, 8, 16))
        self.size = size
        self.pose = PoseCells(net.drv_headpose_encoder, like.device, n)
        spades = (net.de_SPADE_1, net.de_SPADE_2, net.de_SPADE_3, net.de_SPADE_4)
        sides = (s16, s16, s8, s4)
        self.spades = [SpadeLayer(m, side, like, n) for m, side in zip(spades, sides, strict=True)]
        self.maps = [like.new_zeros(n, side, side, m.channels) for m, side in zip(self.spades, sides, strict=True)]
        self.res = _blocks(net.de_res_block, like, s16, n)
        self.up1 = _blocks(net.de_up_block1, like, s16, n)
        self.up2 = _blocks(net.de_up_block2, like, s8, n)
        self.up3 = _blocks(net.de_up_block3[0], like, s4, n)
        self.up4 = _blocks(net.de_up_block3[1], like, s2, n, upsample=True)
        last: Any = net.de_up_block3[2]
        end: Any = net.de_conv_block[0]
        self.last = ops.pack_tail(algebra.tail(last[0][0], end), like.dtype, like.device)
        self.raw = like.new_empty(n, size, size, self.last.channels_out)

    def tables(self, head_pose: Tensor) -> None:
        """[N, 6] -> the tables of the four SPADE layers."""
        make_tables(self.spades, self.pose(head_pose))

    def warp(self, features: list[Tensor], source_index: Tensor, field: Tensor) -> None:
        """The four maps sampled by `field` [N, h, w, 2], SPADE and ReLU applied, into the decoder's maps.

        Args:
            features: slabs of f1, f2, f3|f4, [A, h, w, C].
            source_index: int32 [N], which of them.
        """
        f1, f2, f34 = features
        fields = {target.shape[1]: self._field_at(target.shape[1], field) for target in self.maps}
        for feature, spade, target in zip((f34[..., F3:], f34[..., :F3], f2, f1), self.spades, self.maps, strict=True):
            first = spade.channels - feature.shape[-1]
            spade.warp(feature, source_index, fields[target.shape[1]], first, target)

    def _field_at(self, side: int, field: Tensor) -> Tensor:
        """The field for maps of side x side, which `warp` reads by nearest index."""
        return field

    def __call__(self, added: Sequence[Callable[[], object]] = ()) -> None:
        """Warped maps -> `raw`, the picture before its last activation, [N, S, S, 3].

        Args:
            added: nothing, or what adds to the maps at S/8, S/4 and S/2, called when these are there.
        """
        at8, at4, at2 = added or (_nothing,) * 3
        a1, a2, a3, a4 = self.maps
        self.spades[1].apply(_run(self.res, a1), a2)
        self.spades[2].apply(_run(self.up1, a2), a3)
        at8()
        self.spades[3].apply(_run(self.up2, a3), a4)
        at4()
        x = _run(self.up4, _run(self.up3, a4))
        at2()
        ops.tail(x, self.last, (self.size, self.size), out=self.raw)

    def multiplications(self) -> dict[str, int]:
        """Of one picture, by kind of layer."""
        blocks = [
            block.multiplications() for stage in (self.res, self.up1, self.up2, self.up3, self.up4) for block in stage
        ]
        return {
            "pose": self.pose.first.multiplications() + self.pose.second.multiplications(),
            "spade": sum(spade.multiplications() for spade in self.spades),
            "pointwise": sum(pointwise for pointwise, _ in blocks),
            "depthwise": sum(depthwise for _, depthwise in blocks),
            "tail": self.last.multiplications(self.size, self.size),
        }


def _inverted(stage: Any) -> list[InvertedResidual]:
    """Every inverted residual of a stage, in order."""
    return [m for m in stage.modules() if isinstance(m, InvertedResidual)]


def _blocks(stage: Any, like: Tensor, side: int, n: int, *, upsample: bool = False) -> list[BlockLayer]:
    """Layers of stride 1 for outputs of one side; with `upsample` the first doubles its input."""
    return [
        BlockLayer(block, like, side, side, n=n, upsample=upsample and i == 0)
        for i, block in enumerate(_inverted(stage))
    ]


def _nothing() -> None:
    """Where nothing is added."""


def _run(blocks: list[BlockLayer], x: Tensor) -> Tensor:
    for block in blocks:
        x = block(x)
    return x
