"""The discriminator of Face2Face^rho: patches of a picture, judged together with the driver's landmark image."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Judgement(NamedTuple):
    """What the discriminator says, and what it saw on the way."""

    taps: tuple[Tensor, ...]  # four [N, C, h, w], C = 64, 128, 256, 512: outputs of the blocks, for feature matching
    score: Tensor  # [N, 1, h, w], trained towards 1 for real and 0 for generated patches


class _Block(nn.Module):
    """Convolution 4x4 without padding, instance norm, leaky ReLU, mean of 2x2."""

    def __init__(self, channels_in: int, channels_out: int, *, norm: bool, pool: bool):
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 4)
        self.norm = nn.InstanceNorm2d(channels_out, affine=True) if norm else None
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        """[N, C_in, H, W] -> [N, C_out, (H - 3) / 2, (W - 3) / 2], or H - 3 and W - 3 without the pool."""
        x = self.conv(x)
        x = F.leaky_relu(x if self.norm is None else self.norm(x), 0.2)
        return F.avg_pool2d(x, 2) if self.pool else x


class _Patches(nn.Module):
    """One scale: four blocks and a score."""

    def __init__(self) -> None:
        super().__init__()
        blocks = [_Block(6, 64, norm=False, pool=True), _Block(64, 128, norm=True, pool=True)]
        blocks += [_Block(128, 256, norm=True, pool=True), _Block(256, 512, norm=True, pool=False)]
        self.down_blocks = nn.ModuleList(blocks)
        self.conv = nn.Conv2d(512, 1, 1)

    def forward(self, x: Tensor) -> Judgement:
        """[N, 6, S, S] -> `Judgement`."""
        taps = []
        for block in self.down_blocks:
            x = block(x)
            taps.append(x)
        return Judgement(tuple(taps), self.conv(x))


class Discriminator(nn.Module):
    """PatchGAN at one scale with the landmark image as condition; parameters under the official names.

    Source: Face2Face^rho, released code.
    """

    def __init__(self) -> None:
        super().__init__()
        self.discs = nn.ModuleDict({"1": _Patches()})

    def forward(self, image: Tensor, landmarks: Tensor) -> Judgement:
        """Judge pictures.

        Args:
            image: [N, 3, S, S] RGB in [-1, 1], S at least 64.
            landmarks: [N, 3, h, h] the driver's landmark image of 72 points in [-1, 1], bilinearly resized to S
                (align_corners=False).
        Returns:
            `Judgement`.
        Raises:
            ValueError: shapes other than those.
        """
        if image.ndim != 4 or image.shape[1] != 3 or min(image.shape[-2:]) < 64:
            raise ValueError(f"image must be [N, 3, S, S] with S of at least 64, got {list(image.shape)}")
        if landmarks.ndim != 4 or landmarks.shape[:2] != image.shape[:2]:
            raise ValueError(f"landmarks must be [{len(image)}, 3, h, h], got {list(landmarks.shape)}")
        drawing = F.interpolate(landmarks, image.shape[-2:], mode="bilinear", align_corners=False)
        judgement: Judgement = self.discs["1"](torch.cat([image, drawing], 1))
        return judgement
