"""Reconstruction losses over an image pyramid: on VGG-19's features, and one that needs no weights."""

import os
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from fastreenact.errors import WeightsError
from fastreenact.training.losses import weighted_l1

FACTORS = (1, 2, 4, 8)  # the pyramid's sides are S / factor
_MIN_VGG_SIDE = 16  # px: the fifth tap comes after four halvings
_C1, _C2 = 0.02**2, 0.06**2  # (0.01 L)^2 and (0.03 L)^2, range L = 2. Source: SSIM (Wang et al. 2004), Sec. III-B

# Channels of VGG-19's convolutions; 0 halves by the maximum. The five taps are the first ReLU of each group.
_VGG = (64, 64, 0, 128, 128, 0, 256, 256, 256, 256, 0, 512, 512, 512, 512, 0, 512)
_TAPS = (1, 6, 11, 20, 29)  # layer of the ReLU in `Vgg19.features`
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, as the weights were trained


def reduce(x: Tensor, factor: int) -> Tensor:
    """[N, C, H, W] low-passed and subsampled: every `factor`-th pixel from the first.

    Gaussian of deviation (factor - 1) / 2 on 2 round(4 deviation) + 1 taps, zeros outside the picture.
    Source: FOMM (Siarohin et al. 2019), released code.
    """
    if factor == 1:
        return x
    deviation = (factor - 1) / 2
    radius = round(4 * deviation)
    offsets = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
    kernel = torch.exp(-offsets.square() / (2 * deviation**2))
    kernel = (kernel / kernel.sum()).expand(x.shape[1], 1, 1, -1)
    # Separable, and only the pixels that stay are computed; never in half precision.
    with torch.autocast(x.device.type, enabled=False):
        x = F.conv2d(x, kernel, stride=(1, factor), padding=(0, radius), groups=x.shape[1])
        return F.conv2d(x, kernel.transpose(2, 3), stride=(factor, 1), padding=(radius, 0), groups=x.shape[1])


class PyramidLoss(nn.Module):
    """What stands in for VGG-19 where nobody has its weights: brightness, edges and local structure at four scales.

    sum over scales of mean |x - y| w + mean |dx - dy| w + mean (1 - ssim(x, y)) / 2 w

    The first term holds colours, the second edges, and the third texture: it is blind to smooth changes of light, to
    which the first is not.
    """

    def forward(self, fake: Tensor, real: Tensor, weights: Tensor | None) -> Tensor:
        """Scalar loss of [N, 3, S, S] pictures in [-1, 1]; weights [N, 1, S, S] or None."""
        total = fake.new_zeros(())
        for factor in FACTORS:
            x, y = reduce(fake, factor), reduce(real, factor)
            total = total + weighted_l1(x, y, weights) + gradient_loss(x, y, weights) + structure_loss(x, y, weights)
        return total


def gradient_loss(x: Tensor, y: Tensor, weights: Tensor | None) -> Tensor:
    """mean |difference of neighbours in x - the same in y| w, over both axes, [N, C, h, w]."""
    d = x - y
    across, down = d[..., :, 1:] - d[..., :, :-1], d[..., 1:, :] - d[..., :-1, :]
    return weighted_l1(across, torch.zeros_like(across), weights) + weighted_l1(down, torch.zeros_like(down), weights)


def structure_loss(x: Tensor, y: Tensor, weights: Tensor | None) -> Tensor:
    """mean (1 - ssim) / 2 w over windows of 7 x 7, cut at the edges, for [N, C, h, w] in [-1, 1].

    Source: SSIM (Wang et al. 2004), eq. (13), with flat windows.
    """
    share = 1 / _window_sums(x.new_ones((1, 1, *x.shape[-2:])))

    def mean(z: Tensor) -> Tensor:
        return cast(Tensor, _WindowSums.apply(z)) * share

    mean_x, mean_y = mean(x), mean(y)
    # Variances from centred values would need a pass more; clamped, since rounding may make them negative.
    variance_x = (mean(x * x) - mean_x * mean_x).clamp_min(0)
    variance_y = (mean(y * y) - mean_y * mean_y).clamp_min(0)
    covariance = mean(x * y) - mean_x * mean_y
    ssim = (2 * mean_x * mean_y + _C1) * (2 * covariance + _C2)
    ssim = ssim / ((mean_x * mean_x + mean_y * mean_y + _C1) * (variance_x + variance_y + _C2))
    return weighted_l1(ssim / 2, torch.full_like(ssim, 0.5), weights)


def _window_sums(z: Tensor) -> Tensor:
    """Sums over windows of 7 x 7 of [N, C, h, w], zeros outside: 4 + 2 + 1 neighbours across, then down."""
    for axis, padding in ((3, (3, 3)), (2, (0, 0, 3, 3))):
        side = z.shape[axis]
        one = F.pad(z, padding)
        two = one.narrow(axis, 0, side + 5) + one.narrow(axis, 1, side + 5)
        four = two.narrow(axis, 0, side + 2) + two.narrow(axis, 2, side + 2)
        z = four.narrow(axis, 0, side) + two.narrow(axis, 4, side) + one.narrow(axis, 6, side)
    return z


class _WindowSums(torch.autograd.Function):
    """`_window_sums`, which is its own transpose. On a CPU `avg_pool2d` takes ten times as long, there and back."""

    @staticmethod
    def forward(_ctx: Any, z: Tensor) -> Tensor:
        return _window_sums(z)

    @staticmethod
    def backward(_ctx: Any, gradient: Tensor) -> Tensor:
        return _window_sums(gradient)


class Vgg19(nn.Module):
    """The first thirteen convolutions of VGG-19, tapped after the first ReLU of each group.

    Source: Simonyan & Zisserman 2015, Table 1, column E.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, channels in pairwise((3, *_VGG)):
            if channels == 0:
                layers.append(nn.MaxPool2d(2))
                last = before
                continue
            layers += [nn.Conv2d(before or last, channels, 3, padding=1), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.register_buffer("mean", torch.tensor(_MEAN)[:, None, None], persistent=False)
        self.register_buffer("deviation", torch.tensor(_DEVIATION)[:, None, None], persistent=False)

    def forward(self, image: Tensor) -> list[Tensor]:
        """[N, 3, S, S] in [-1, 1], S at least 16 -> five [N, C, h, w]."""
        x = ((image + 1) / 2 - self.mean) / self.deviation
        taps = []
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in _TAPS:
                taps.append(x)
        return taps


class VggLoss(nn.Module):
    """Sum over four scales and five taps of VGG-19 of mean |V(fake) - V(real)| w; scales below 16 px are left out.

    Source: Face2Face^rho, Sec. 3.4; the pyramid and the weights from the released code.
    """

    def __init__(self, vgg: Vgg19):
        super().__init__()
        self.vgg = vgg.eval().requires_grad_(False)

    def forward(self, fake: Tensor, real: Tensor, weights: Tensor | None) -> Tensor:
        """Scalar loss of [N, 3, S, S] pictures in [-1, 1]; weights [N, 1, S, S] or None."""
        total = fake.new_zeros(())
        for factor in FACTORS:
            if min(fake.shape[-2:]) // factor < _MIN_VGG_SIDE:
                continue
            with torch.no_grad():
                wanted = self.vgg(reduce(real, factor))
            for a, b in zip(self.vgg(reduce(fake, factor)), wanted, strict=True):
                total = total + weighted_l1(a.float(), b.float(), weights)
        return total


def load_vgg19(path: str | os.PathLike[str]) -> Vgg19:
    """VGG-19 from a safetensors file with torchvision's names (`features.0.weight`, ...); what it has more is ignored.

    Raises:
        WeightsError: the file is missing, not safetensors, or lacks a tensor of the right shape.
    """
    path = Path(path)
    if path.suffix != ".safetensors" or not path.is_file():
        raise WeightsError(f"{path} is not a .safetensors file: save torchvision's VGG-19 as safetensors and name it")
    vgg = Vgg19()
    state = {}
    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
            for name, value in vgg.state_dict().items():
                if name not in names or tuple(file.get_slice(name).get_shape()) != tuple(value.shape):
                    raise WeightsError(f"{path} is not VGG-19: {name} of shape {list(value.shape)} is not in it")
                state[name] = file.get_tensor(name).float()
    except (SafetensorError, OSError, UnicodeError) as error:
        raise WeightsError(f"{path} is not a readable safetensors file ({error}): get it again") from error
    if not all(value.isfinite().all() for value in state.values()):
        raise WeightsError(f"{path} has values that are not finite: get it again")
    vgg.load_state_dict(state)
    return vgg
