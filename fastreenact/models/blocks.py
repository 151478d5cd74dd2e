"""Blocks of the networks in plain PyTorch, NCHW: what the papers mean, trainable, with the published names."""

import torch.nn.functional as F
from torch import Tensor, nn

from fastreenact.fuse.algebra import nearest_index


def resize_nearest(x: Tensor, height: int, width: int) -> Tensor:
    """`x` [N, C, h, w] at `height` x `width`, read by `nearest_index`."""
    if x.shape[-2:] == (height, width):
        return x
    rows, columns = nearest_index(x.shape[-2], height), nearest_index(x.shape[-1], width)
    return x[:, :, rows.to(x.device)[:, None], columns.to(x.device)]


def upsample_to(x: Tensor, height: int, width: int) -> Tensor:
    """`x` [N, C, h, w] doubled by nearest, then cropped to `height` x `width` (maps of odd sizes are rounded up)."""
    return F.interpolate(x, scale_factor=2, mode="nearest")[..., :height, :width]


class InvertedResidual(nn.Module):
    """Expand 1x1, depthwise 3x3, project 1x1; the input is added when shapes allow. Source: MobileNetV2, Sec. 3.3."""

    def __init__(
        self, channels_in: int, channels_out: int, *, stride: int = 1, expansion: int = 6, last_norm: bool = True
    ):
        super().__init__()
        hidden = channels_in * expansion
        self.residual = stride == 1 and channels_in == channels_out
        layers: list[nn.Module] = []
        if expansion != 1:
            layers += [nn.Conv2d(channels_in, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU()]
        layers += [
            nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            nn.Conv2d(hidden, channels_out, 1, bias=False),
        ]
        if last_norm or self.residual:
            layers.append(nn.BatchNorm2d(channels_out))
        self.conv = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C_in, H, W] -> [N, C_out, ceil(H / stride), ceil(W / stride)]."""
        return x + self.conv(x) if self.residual else self.conv(x)


class Spade(nn.Module):
    """y = norm(x) * (1 + gamma) + beta, gamma and beta convolved from a condition map.

    Source: SPADE (Park et al. 2019), Sec. 3; here the norm is a BatchNorm without affine part.
    """

    def __init__(self, channels: int, condition: int = 32):
        super().__init__()
        hidden = 2 * condition
        self.param_free_norm = nn.BatchNorm2d(channels, affine=False)
        self.mlp_shared = nn.Sequential(nn.Conv2d(condition, hidden, 3, padding=1), nn.ReLU())
        self.mlp_gamma = nn.Conv2d(hidden, channels, 3, padding=1)
        self.mlp_beta = nn.Conv2d(hidden, channels, 3, padding=1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x [N, C, H, W], condition [N, K, h, w] (nearest-resized to H x W) -> [N, C, H, W]."""
        hidden = self.mlp_shared(resize_nearest(condition, x.shape[-2], x.shape[-1]))
        return self.param_free_norm(x) * (1 + self.mlp_gamma(hidden)) + self.mlp_beta(hidden)


class PoseEncoder(nn.Module):
    """Head pose vector -> 16 x 16 condition map, through two transposed convolutions."""

    def __init__(self, dims: int = 6, channels: int = 32):
        super().__init__()
        self.embedding_module1 = nn.Sequential(
            nn.ConvTranspose2d(dims, 2 * channels, 4, bias=False), nn.BatchNorm2d(2 * channels), nn.ReLU()
        )
        self.embedding_module2 = nn.Sequential(nn.ConvTranspose2d(2 * channels, channels, 4, 4, bias=False))

    def forward(self, head_pose: Tensor) -> Tensor:
        """[N, dims] -> [N, channels, 16, 16]."""
        return self.embedding_module2(self.embedding_module1(head_pose[:, :, None, None]))


class DownBlock(nn.Module):
    """Convolution 4x4 of stride 2, BatchNorm, ReLU."""

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 4, 2, 1)
        self.norm = nn.BatchNorm2d(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C_in, H, W] -> [N, C_out, H / 2, W / 2]."""
        return F.relu(self.norm(self.conv(x)))


class UpBlock(nn.Module):
    """Nearest x2, convolution 3x3, BatchNorm, ReLU."""

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C_in, H, W] -> [N, C_out, 2 H, 2 W]."""
        return F.relu(self.norm(self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))))


class ResidualBlock(nn.Module):
    """x + conv(relu(norm(conv(x)))): one norm only, nothing after the sum."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> the same shape."""
        return x + self.conv2(F.relu(self.norm(self.conv1(x))))
