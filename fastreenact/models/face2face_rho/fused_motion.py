"""Face2Face^rho's motion network in its inference form."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastreenact import ops
from fastreenact.fuse import algebra
from fastreenact.fuse.layers import ConvLayer
from fastreenact.models.blocks import DownBlock, ResidualBlock, UpBlock, nearest_index
from fastreenact.models.face2face_rho.networks import MotionNet

SOURCE, DRIVER, PICTURE = slice(0, 3), slice(3, 6), slice(6, 9)  # channels of the first convolutions
LEVEL = 2 / 255  # of a picture's level in [-1, 1]
_GROUP = 8  # pixels of a field that are one of 16 channels on the CPU, because two would waste most of a vector


class FusedMotion:
    """`MotionNet` with what depends on the source alone, drawing and picture, taken out of its first convolutions."""

    def __init__(self, net: MotionNet, size: int, like: Tensor, *, n: int = 1) -> None:
        device, coordinates = like.device, torch.empty(0, device=like.device)
        self.sides = (size // 16, size // 8, size // 4)
        firsts = first_layers(net)
        self.source_parts = [ops.pack_conv(kernel, torch.float32, device) for kernel in firsts]
        self.drivers = [
            # What changes stays 0 to 255 here: its offset -1 is constant and belongs to the source part.
            ConvLayer(algebra.scaled(part(kernel, DRIVER), LEVEL), like, side, side, n=n, activation="relu")
            for kernel, side in zip(firsts, first_sides(size), strict=True)
        ]
        trunks = (net.f1_model[3:], net.model1_2, net.model2_2)
        self.trunks = [_Trunk(trunk, layer.out) for trunk, layer in zip(trunks, self.drivers, strict=True)]
        # Fields are coordinates: float32 whatever the activations are.
        heads = (net.f1_motion, net.model1_3, net.model2_3)
        self.heads = [
            _Head(head, coordinates, side, last=i == 2, n=n)
            for i, (head, side) in enumerate(zip(heads, self.sides, strict=True))
        ]
        self.drawings = [torch.empty(n, side, side, 3, dtype=torch.uint8, device=device) for side in self.sides]

    @property
    def field(self) -> Tensor:
        """[N, M/4, M/4, 2] float32, written by each call."""
        return self.heads[2].field

    def source(self, points: Tensor, image: Tensor) -> list[Tensor]:
        """First convolutions of what depends on the source alone, with -1 for the rest; float32.

        Args:
            points: [1, 72, 2] float32.
            image: [1, S, S, 3] uint8.
        """
        found = []
        for layout, (side, weights) in enumerate(zip(self.sides, self.source_parts, strict=True)):
            lines = ops.rasterize_landmarks(points, side, layout).float() * LEVEL - 1
            found.append(ops.conv(torch.cat([lines, torch.full_like(lines, -1), self._seen(image, side)], -1), weights))
        return found

    def _seen(self, image: Tensor, side: int) -> Tensor:
        """What the first convolution sees of the source's picture: [1, side, side, 3] in [-1, 1]."""
        index = nearest_index(image.shape[1], side).to(image.device)
        return image[:, index[:, None], index].float() * LEVEL - 1

    def rasterize(self, points: Tensor) -> None:
        """[N, 72, 2] float32 -> the three drawings."""
        ops.rasterize_landmarks_all(points, self.sides, outs=self.drawings)

    def __call__(self, parts: list[Tensor], source_index: Tensor) -> None:
        """The drawings -> `field`.

        Args:
            parts: three slabs of `source`, [A, h, h, C] in the network's dtype.
            source_index: int32 [N], which of them.
        """
        hidden = coarse = None
        for i, (driver, trunk, head) in enumerate(zip(self.drivers, self.trunks, self.heads, strict=True)):
            add, index = self._added(i, parts[i], source_index)
            hidden = trunk(driver(self.drawings[i], add=add, source_index=index, residual=hidden))
            coarse = head(hidden, coarse)

    def _added(self, level: int, part: Tensor, source_index: Tensor) -> tuple[Tensor, Tensor | None]:
        """What the first convolution of a level adds, and which of it each picture takes; None: its own."""
        return part, source_index

    def multiplications(self) -> int:
        """Of one picture."""
        layers = [*self.drivers, *(head.conv for head in self.heads)]
        layers += [layer for trunk in self.trunks for layer in trunk.layers]
        return sum(layer.multiplications() for layer in layers)


def first_layers(net: MotionNet) -> list[ops.ConvKernel]:
    """The first convolutions of the three levels."""
    downs: Any = (net.model1_1[0], net.model2_1[0])
    kernels = [algebra.convolution(net.f1_model[0], net.f1_model[1])]
    return kernels + [algebra.convolution(down.conv, down.norm) for down in downs]


def first_sides(size: int) -> tuple[int, int, int]:
    """Sides of what they give."""
    return size // 16, size // 16, size // 8


def part(kernel: ops.ConvKernel, channels: slice) -> ops.ConvKernel:
    """What one of SOURCE, DRIVER, PICTURE adds to a first convolution."""
    return algebra.split_input(kernel, SOURCE, DRIVER, PICTURE)[channels.start // 3]


class _Head:
    """A convolution to a field, added to the coarser field upsampled."""

    def __init__(self, head: Any, like: Tensor, side: int, *, last: bool, n: int):
        kernel, group = algebra.convolution(head), 1
        if like.device.type == "cpu":
            group = _GROUP if side % _GROUP == 0 else _GROUP // 2  # a side is a multiple of 4
            kernel = algebra.space_to_depth(kernel, group)
        self.conv = ConvLayer(kernel, like, side, side // group, n=n)
        self.field = self.conv.out.view(n, side, side, 2)
        self.upsampled = None if last else like.new_empty(n, 2 * side, 2 * side, 2)
        self.one, self.zero = like.new_ones(1, 1, 1, 2), like.new_zeros(1, 1, 1, 2)
        self.index = torch.zeros(2 * side, dtype=torch.int32, device=like.device)

    def __call__(self, hidden: Tensor, coarse: Tensor | None) -> Tensor | None:
        """`field` from the coarser one, upsampled; gives it upsampled for the next, if there is one."""
        added = None if coarse is None else coarse.view(self.conv.out.shape)
        self.conv(hidden, residual=added)
        if self.upsampled is None:
            return None
        return ops.spade(self.field, self.one, self.zero, self.index, self.index, activation=None, out=self.upsampled)


class _Trunk:
    """A sequence of down, residual and up blocks on `x`."""

    def __init__(self, blocks: Any, x: Tensor):
        self.layers: list[ConvLayer] = []
        self.steps: list[Callable[[Tensor], Tensor]] = []
        for block in blocks.children():
            n, height, width = x.shape[:3]
            if isinstance(block, DownBlock):
                kernel, height, width = algebra.convolution(block.conv, block.norm), height // 2, width // 2
            elif isinstance(block, UpBlock):
                kernel, height, width = algebra.upsampled(block.conv, block.norm), height * 2, width * 2
            elif isinstance(block, ResidualBlock):
                pair = _Residual(block, x)
                self.layers += [pair.first, pair.second]
                self.steps.append(pair)
                x = pair.second.out
                continue
            else:
                raise TypeError(f"a trunk has down, up and residual blocks, got {type(block)}")
            layer = ConvLayer(kernel, x, height, width, n=n, activation="relu")
            self.layers.append(layer)
            self.steps.append(layer)
            x = layer.out

    def __call__(self, x: Tensor) -> Tensor:
        """The result of the last block."""
        for step in self.steps:
            x = step(x)
        return x


class _Residual:
    """A residual block."""

    def __init__(self, block: ResidualBlock, x: Tensor):
        n, height, width = x.shape[:3]
        kernel = algebra.convolution(block.conv1, block.norm)
        self.first = ConvLayer(kernel, x, height, width, n=n, activation="relu")
        self.second = ConvLayer(algebra.convolution(block.conv2), x, height, width, n=n)

    def __call__(self, x: Tensor) -> Tensor:
        """x and what the block adds to it."""
        return self.second(self.first(x), residual=x)
