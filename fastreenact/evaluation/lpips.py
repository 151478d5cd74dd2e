"""LPIPS with AlexNet: how different two pictures look to a network, weighted by what people said."""

import torch
from torch import Tensor, nn

# (mean, deviation) of ImageNet for pictures in [-1, 1], as the package rounds them.
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
_CHANNELS = (64, 192, 384, 256, 256)
_TINY = 1e-10


class Lpips(nn.Module):
    """sum over 5 layers of the mean over places of w . (f / |f| - g / |g|)^2, f and g the features of the two pictures

    Parameters are named as in the `lpips` package, whose numbers it gives with the same weights.

    Source: Zhang et al., The unreasonable effectiveness of deep features as a perceptual metric, 2018, Eq. 1; AlexNet
    as torchvision has it (Krizhevsky, 2014).
    """

    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.net = _AlexNet()
        for i, channels in enumerate(_CHANNELS):
            self.add_module(f"lin{i}", _Linear(channels))
        self.register_buffer("shift", torch.tensor(_SHIFT)[:, None, None], persistent=False)
        self.register_buffer("scale", torch.tensor(_SCALE)[:, None, None], persistent=False)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """[N] of pictures [N, 3, H, W] in [-1, 1], sides at least 31."""
        taps = [self.net((x - self.shift) / self.scale) for x in (a, b)]
        total = a.new_zeros(len(a))
        for i, (f, g) in enumerate(zip(*taps, strict=True)):
            square = (_unit(f) - _unit(g)).square()
            total = total + self.get_submodule(f"lin{i}")(square).mean((1, 2, 3))
        return total


def _unit(x: Tensor) -> Tensor:
    """[N, C, h, w], of length 1 over C at each place."""
    return x / (x.square().sum(1, keepdim=True).sqrt() + _TINY)


class _Linear(nn.Module):
    """A weighted sum of channels, [N, C, h, w] -> [N, 1, h, w]; its number in the package comes after a dropout."""

    def __init__(self, channels: int):
        super().__init__()
        self.model = nn.ModuleDict({"1": nn.Conv2d(channels, 1, 1, bias=False)})

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.model["1"](x)
        return out


class _AlexNet(nn.Module):
    """AlexNet's convolutions, tapped after each ReLU; layers keep torchvision's numbers."""

    def __init__(self) -> None:
        super().__init__()
        layers: dict[str, nn.Module] = {
            "0": nn.Conv2d(3, 64, 11, stride=4, padding=2),
            "3": nn.Conv2d(64, 192, 5, padding=2),
            "6": nn.Conv2d(192, 384, 3, padding=1),
            "8": nn.Conv2d(384, 256, 3, padding=1),
            "10": nn.Conv2d(256, 256, 3, padding=1),
        }
        for i, (name, layer) in enumerate(layers.items()):
            self.add_module(f"slice{i + 1}", nn.ModuleDict({name: layer}))

    def forward(self, x: Tensor) -> list[Tensor]:
        taps = []
        for i, slice_ in enumerate(self.children()):
            if i in (1, 2):
                x = nn.functional.max_pool2d(x, 3, 2)
            for layer in slice_.children():
                x = torch.relu(layer(x))
            taps.append(x)
        return taps
