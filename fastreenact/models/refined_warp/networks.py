"""Our networks over the landmark warp, in plain PyTorch: Face2Face^rho's two, told what they draw over.

The motion network sees the portrait as the landmark warp moves it and corrects that field. The renderer sees the moved
picture, and gives every pixel a colour and a gain: light, shadow, and what the portrait did not show. Not of a paper.
"""

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastreenact.models.blocks import DownBlock
from fastreenact.models.face2face_rho.networks import (
    Face2FaceRho,
    Features,
    MotionNet,
    RenderingNet,
    check_shape,
    randomise,
)
from fastreenact.models.refined_warp import MODEL

MOST_GAIN = 1.5  # of the landmark warp's brightness; 1 where the network gives 0


def motion_inputs(image: Tensor, field: Tensor, source: tuple[Tensor, ...], driver: tuple[Tensor, ...]) -> list[Tensor]:
    """The three inputs of the motion network, which sees the source picture where the base has moved it.

    Args:
        image: [N, 3, S, S] source picture in [-1, 1].
        field: [N, M/4, M/4, 2], the base's.
        source, driver: landmark images [N, 3, h, h] in [-1, 1], h = M/16, M/8, M/4.
    Returns:
        Three tensors [N, 9, h, h]; the smaller pictures are means of the largest.
    """
    moved = F.grid_sample(image, field, padding_mode="border", align_corners=False)
    pictures = (F.avg_pool2d(moved, 4), F.avg_pool2d(moved, 2), moved)
    return [torch.cat(parts, 1) for parts in zip(source, driver, pictures, strict=True)]


def resize_field(field: Tensor, height: int, width: int) -> Tensor:
    """[N, 2, h, w] -> [N, 2, height, width] bilinearly between cell centres; beyond the outer ones it stays."""
    if field.shape[-2:] == (height, width):
        return field
    return F.interpolate(field, (height, width), mode="bilinear", align_corners=False)


def compose(decoded: Tensor, base: Tensor) -> Tensor:
    """The picture: gain (base + 1) - 1 + 2 colour, black being -1.

    With gain 1 and colour 0 it is the base, with gain 0 the colours alone; between lie light and shadow.

    Args:
        decoded: [N, 4, S, S] of `RefinedRenderer.draw`: colour RGB in (-1, 1), and gain in (0, 1.5).
        base: [N, 3, S, S] RGB in [-1, 1].
    Returns:
        [N, 3, S, S], where it may leave [-1, 1].
    """
    return decoded[:, 3:] * (base + 1) - 1 + 2 * decoded[:, :3]


class RefinedRenderer(RenderingNet):
    """Face2Face^rho's renderer that sees the picture it draws over, and takes its field bilinearly."""

    def __init__(self) -> None:
        super().__init__()
        self.base_encoder = BaseEncoder()
        self.de_conv_block = nn.Sequential(nn.Conv2d(16, 4, 3, padding=1, bias=False), ToColourAndGain())

    def draw(self, features: Features, motion_field: Tensor, head_pose: Tensor, base: Tensor) -> Tensor:
        """The colours and gains to lay over `base`.

        Args:
            features: from `encode`.
            motion_field: [N, h, w, 2] (x, y), any h and w: each map reads it bilinearly. -1 and 1 are the outer pixel
                edges (align_corners=False), zeros outside.
            head_pose: [N, 6], the driver's.
            base: [N, 3, S, S] in [-1, 1], the picture that is drawn over.
        Returns:
            [N, 4, S, S] for `compose`.
        Raises:
            ValueError: shapes other than those.
        """
        check_shape("motion_field", motion_field, (features.f1.shape[0], None, None, 2))
        check_shape("base", base, (features.f1.shape[0], 3, *features.size))
        warped = [_sample(f, motion_field) for f in features[:4]]
        return self.decode_warped(warped, head_pose, features.size, self.base_encoder(base))


def _sample(features: Tensor, motion_field: Tensor) -> Tensor:
    """`features` [N, C, H, W] sampled bilinearly by `motion_field` [N, h, w, 2], resized bilinearly; zeros outside."""
    resized = resize_field(motion_field.permute(0, 3, 1, 2), features.shape[-2], features.shape[-1])
    return F.grid_sample(
        features, resized.permute(0, 2, 3, 1), mode="bilinear", padding_mode="zeros", align_corners=False
    )


class BaseEncoder(nn.Module):
    """What the decoder is told of the picture that it draws over: where a mouth has opened, or a cheek is stretched."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = DownBlock(3, 16), DownBlock(16, 52)
        self.to8 = nn.Conv2d(52, 168, 4, 2, 1)
        self.to4 = nn.Conv2d(52, 52, 3, padding=1)
        self.to2 = nn.Conv2d(16, 8, 3, padding=1)

    def forward(self, base: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[N, 3, S, S] -> [N, 168, S/8, S/8], [N, 52, S/4, S/4], [N, 8, S/2, S/2], sides rounded up."""
        height, width = base.shape[-2:]
        x = self.down1(F.pad(base, (0, -width % 8, 0, -height % 8), mode="replicate"))
        y = self.down2(x)
        maps = self.to8(y), self.to4(y), self.to2(x)
        first, second, third = (
            m[..., : -(-height // n), : -(-width // n)] for n, m in zip((8, 4, 2), maps, strict=True)
        )
        return first, second, third


class ToColourAndGain(nn.Module):
    """[N, 4, S, S] -> tanh of the first three channels, and the last as a gain from 0 to 1.5, 1 where it is 0."""

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return torch.cat([x[:, :3].tanh(), MOST_GAIN * (x[:, 3:] - math.log(MOST_GAIN - 1)).sigmoid()], 1)


@dataclass
class RefinedWarp(Face2FaceRho):
    """The two networks of one set of weights, and what the weights file says about them."""

    renderer: RefinedRenderer
    metadata: dict[str, str] = field(
        default_factory=lambda: {"model": MODEL.name, "size": "256", "motion_size": "256", "head_pose": "official"}
    )


def random_refined_warp(seed: int = 0) -> RefinedWarp:
    """As `random_face2face_rho`, of networks over the landmark warp."""
    return randomise(RefinedWarp(MotionNet().eval(), RefinedRenderer().eval()), seed)
