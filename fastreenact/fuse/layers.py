"""Layers of the inference forms: packed weights with the buffer that they write into, channels-last."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastreenact import ops
from fastreenact.fuse import algebra
from fastreenact.ops import ConvKernel

# From so many outputs on the smaller products of Winograd's algorithm outweigh its larger weights, on a CPU.
WINOGRAD_OUTPUTS: float = 256


def _winograd(like: Tensor, outputs: int) -> bool:
    return like.device.type == "cpu" and outputs >= WINOGRAD_OUTPUTS


class ConvLayer:
    """A convolution into a buffer of its own, or into `out`."""

    def __init__(
        self,
        kernel: ConvKernel,
        like: Tensor,
        height: int,
        width: int,
        *,
        n: int = 1,
        activation: str | None = None,
        out: Tensor | None = None,
    ):
        winograd = _winograd(like, height * width) and ops.suits_winograd(kernel)
        self.weights = ops.pack_conv(kernel, like.dtype, like.device, winograd=winograd)
        self.activation = activation
        self.out = like.new_empty(n, height, width, self.weights.channels_out) if out is None else out

    def __call__(self, x: Tensor, **options: Any) -> Tensor:
        """[N, H, W, Cin] -> the buffer; options as those of `ops.conv`."""
        return ops.conv(x, self.weights, activation=self.activation, out=self.out, **options)

    def call(self, x: Tensor) -> dict[str, Any]:
        """The call without options for `ops.conv_many`."""
        return {"x": x, "weights": self.weights, "activation": self.activation, "out": self.out}

    def multiplications(self) -> int:
        """Of one call and picture."""
        return self.weights.multiplications(*self.out.shape[1:3])


class BlockLayer:
    """An inverted residual into a buffer of its own."""

    def __init__(
        self,
        block: algebra.InvertedResidual,
        like: Tensor,
        height: int,
        width: int,
        *,
        n: int = 1,
        upsample: bool = False,
    ):
        """Height and width are those of the output."""
        self.weights = ops.pack_mbconv(algebra.inverted_residual(block), like.dtype, like.device)
        self.upsample = (height, width) if upsample else None
        self.out = like.new_empty(n, height, width, self.weights.channels_out)

    def __call__(self, x: Tensor) -> Tensor:
        """[N, H, W, Cin] -> the buffer."""
        return ops.mbconv(x, self.weights, upsample=self.upsample, out=self.out)

    def multiplications(self) -> tuple[int, int]:
        """Of one call and picture: of the 1x1 convolutions, and of the depthwise one."""
        height, width = self.out.shape[1:3]
        return self.weights.multiplications_by_kind(height, width, self.upsample is not None)


class PoseCells:
    """`PoseEncoder`: a head pose [N, 6] float32 -> the condition [N, 16, 16, channels] float32."""

    def __init__(self, encoder: Any, device: torch.device, n: int = 1):
        like = torch.empty(0, device=device)
        first, second = algebra.pose_cells(encoder)
        self.first = ConvLayer(first, like, 1, 1, n=n, activation="relu")
        self.second = ConvLayer(second, like, 16, 16, n=n)

    def __call__(self, pose: Tensor) -> Tensor:
        """See the class."""
        hidden = self.first(pose[:, None, None])
        return self.second(hidden.view(len(pose), 4, 4, -1))


class SpadeLayer:
    """One SPADE layer: y = relu(x * scale + shift), both from compact tables. BatchNorm is folded in."""

    def __init__(self, spade: Any, side: int, like: Tensor, n: int = 1):
        first, second, index, cells = algebra.spade_tables(spade, side, whole=_winograd(like, side**2))
        self.index = index.to(like.device)
        self.cells = None
        rows = len(cells) if cells is not None else algebra.POSE_CELLS
        if cells is not None:  # cells of different widths: the condition is spread out first
            condition = spade.mlp_shared[0].in_channels
            self.cells = cells.to(like.device, torch.int32)
            self.nothing = torch.zeros(1, rows, rows, condition, device=like.device)
            self.spread = torch.empty(n, rows, rows, condition, device=like.device)
        inner = rows // first.axis_y.step * first.axis_y.phases
        outer = inner // second.axis_y.step * second.axis_y.phases
        self.first = ConvLayer(first, like, inner, inner, n=n, activation="relu")
        self.second = ConvLayer(second, like, outer, outer, n=n)
        self.channels = self.second.weights.channels_out // 2

    def condition(self, condition: Tensor) -> Tensor:
        """[N, 16, 16, K] float32 as the first convolution sees it."""
        if self.cells is None:
            return condition
        zeros = self.nothing.expand(len(condition), -1, -1, -1)
        return ops.spade(zeros, condition, condition, self.cells, self.cells, activation=None, out=self.spread)

    def _part(self, first: int, channels: int) -> tuple[Tensor, Tensor]:
        """Scale and shift of `channels` from `first` on."""
        table = self.second.out
        shift = self.channels + first
        return table[..., first : first + channels], table[..., shift : shift + channels]

    def apply(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """`x` [N, H, W, c], or half as large and doubled by nearest, into the first c channels of `out`."""
        scale, shift = self._part(0, x.shape[-1])
        target = None if out is None else out[..., : x.shape[-1]]
        return ops.spade(x, scale, shift, self.index, self.index, activation="relu", out=target)

    def warp(self, features: Tensor, source_index: Tensor, field: Tensor, first: int, out: Tensor) -> None:
        """`features` [A, H, W, c] sampled by `field`, affine and ReLU, into `out` from channel `first`."""
        channels = features.shape[-1]
        scale, shift = self._part(first, channels)
        ops.warp(
            features,
            field,
            source_index=source_index,
            scale=scale,
            shift=shift,
            index_y=self.index,
            index_x=self.index,
            activation="relu",
            out=out[..., first : first + channels],
        )

    def multiplications(self) -> int:
        """Of the tables of one picture."""
        return self.first.multiplications() + self.second.multiplications()


def make_tables(spades: Sequence[SpadeLayer], condition: Tensor) -> None:
    """[N, 16, 16, K] float32: makes the tables of up to four layers, which their `apply` and `warp` read."""
    ops.conv_many([spade.first.call(spade.condition(condition)) for spade in spades])
    ops.conv_many([spade.second.call(spade.first.out) for spade in spades])
