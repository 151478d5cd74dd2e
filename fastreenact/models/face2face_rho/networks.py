"""Face2Face^rho in its plain form: the motion network, the rendering network, and both with their metadata.

Source: Face2Face^rho (ECCV 2022), Sec. 3; layer sizes of the released configuration.
"""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastreenact.models.blocks import (
    DownBlock,
    InvertedResidual,
    PoseEncoder,
    ResidualBlock,
    Spade,
    UpBlock,
    resize_nearest,
    upsample_to,
)

MODEL_NAME = "face2face-rho"
POSE_DIMS = 6
BASE = "landmark-warp"  # value of `base` in the metadata of weights that draw over the landmark warp
MOST_GAIN = 1.5  # of the landmark warp's brightness; 1 where the network gives 0


def motion_input_size(size: int, motion_size: int | None = None) -> int:
    """Size M at which the motion network works for an image of `size`: the next multiple of 64, or `motion_size`.

    Args:
        size: side of the image, px, 64 to 2048.
        motion_size: a fixed M, a multiple of 64; None takes the image's own.
    Raises:
        ValueError: `size` out of range, or `motion_size` not a positive multiple of 64.
    """
    if not 64 <= size <= 2048:
        raise ValueError(f"size must be 64 to 2048, got {size}")
    if motion_size is None:
        return -(-size // 64) * 64
    if motion_size < 64 or motion_size % 64:
        raise ValueError(f"motion_size must be a positive multiple of 64, got {motion_size}")
    return motion_size


def motion_inputs(image: Tensor, source: tuple[Tensor, ...], driver: tuple[Tensor, ...]) -> list[Tensor]:
    """The three inputs of the motion network: source drawing, driver drawing, source picture.

    Args:
        image: [N, 3, S, S] source picture in [-1, 1], nearest-sampled straight from S.
        source: landmark images [N, 3, h, h] in [-1, 1], h = M/16, M/8, M/4.
        driver: likewise.
    Returns:
        Three tensors [N, 9, h, h].
    """
    return [
        torch.cat([s, d, resize_nearest(image, s.shape[-2], s.shape[-1])], 1)
        for s, d in zip(source, driver, strict=True)
    ]


def motion_inputs_over_base(
    image: Tensor, field: Tensor, source: tuple[Tensor, ...], driver: tuple[Tensor, ...]
) -> list[Tensor]:
    """As `motion_inputs`, for networks that correct a base: they see the source picture where the base has moved it.

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


class MotionNet(nn.Module):
    """Coarse-to-fine motion field from three pairs of landmark images. Source: Sec. 3.3."""

    def __init__(self) -> None:
        super().__init__()
        self.f1_model = nn.Sequential(
            nn.Conv2d(9, 64, 3, padding=1),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            DownBlock(64, 128),
            DownBlock(128, 256),
            UpBlock(256, 128),
            UpBlock(128, 64),
        )
        self.f1_motion = nn.Conv2d(64, 2, 3, padding=1)
        self.model1_1, self.model1_2, self.model1_3 = _enhancer(64)
        self.model2_1, self.model2_2, self.model2_3 = _enhancer(32)

    def forward(self, small: Tensor, middle: Tensor, large: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Three motion fields, each refining the one before.

        field8 = up2(field16) + delta8; field4 = up2(field8) + delta4

        Args:
            small, middle, large: [N, 9, M/16, M/16], [N, 9, M/8, M/8], [N, 9, M/4, M/4] from `motion_inputs`;
                M is a multiple of 64.
        Returns:
            field16, field8, field4: [N, h, h, 2], absolute sampling coordinates (x, y), unbounded; -1 and 1 are the
                outer pixel edges (align_corners=False).
        Raises:
            ValueError: shapes that do not belong to one multiple of 64.
        Source: Face2Face^rho, Sec. 3.3.
        """
        h, w = small.shape[-2:]
        shapes = [tuple(x.shape[-3:]) for x in (small, middle, large)]
        if h % 4 or w % 4 or shapes != [(9, h, w), (9, 2 * h, 2 * w), (9, 4 * h, 4 * w)]:
            raise ValueError(
                "motion inputs must be [N, 9, M/16, M/16], [N, 9, M/8, M/8] and [N, 9, M/4, M/4] for a multiple M of 64"
                f", got {shapes}"
            )
        h1 = self.f1_model(small)
        field16 = self.f1_motion(h1)
        h2 = self.model1_2(self.model1_1(middle) + h1)
        field8 = F.interpolate(field16, scale_factor=2, mode="nearest") + self.model1_3(h2)
        h3 = self.model2_2(self.model2_1(large) + h2)
        field4 = F.interpolate(field8, scale_factor=2, mode="nearest") + self.model2_3(h3)
        return field16.permute(0, 2, 3, 1), field8.permute(0, 2, 3, 1), field4.permute(0, 2, 3, 1)


def _enhancer(c: int) -> tuple[nn.Sequential, nn.Sequential, nn.Conv2d]:
    """First convolution, trunk and field head of one refining network whose first layer has `c` channels."""
    trunk = [DownBlock(c, 2 * c), DownBlock(2 * c, 4 * c), *(ResidualBlock(4 * c) for _ in range(3))]
    trunk += [UpBlock(4 * c, 2 * c), UpBlock(2 * c, c), UpBlock(c, c // 2)]
    return nn.Sequential(DownBlock(9, c)), nn.Sequential(*trunk), nn.Conv2d(c // 2, 2, 3, padding=1)


class Features(NamedTuple):
    """What `RenderingNet.encode` knows about a source: four feature maps and the size of the picture they came from."""

    f1: Tensor  # [N, 28, S/4, S/4]
    f2: Tensor  # [N, 72, S/8, S/8]
    f3: Tensor  # [N, 140, S/16, S/16]
    f4: Tensor  # [N, 280, S/16, S/16]
    size: tuple[int, int]  # height, width of the picture: maps are rounded up, so that they alone do not tell


def warp_features(features: Tensor, motion_field: Tensor, *, smooth: bool = False) -> Tensor:
    """`features` [N, C, H, W] sampled bilinearly by `motion_field` [N, h, w, 2]; zeros outside.

    The field is resized by nearest index, or bilinearly where `smooth`.
    """
    field, side = motion_field.permute(0, 3, 1, 2), (features.shape[-2], features.shape[-1])
    field = resize_field(field, *side) if smooth else resize_nearest(field, *side)
    return F.grid_sample(
        features, field.permute(0, 2, 3, 1), mode="bilinear", padding_mode="zeros", align_corners=False
    )


def resize_field(field: Tensor, height: int, width: int) -> Tensor:
    """[N, 2, h, w] -> [N, 2, height, width] bilinearly between cell centres; beyond the outer ones it stays."""
    if field.shape[-2:] == (height, width):
        return field
    return F.interpolate(field, (height, width), mode="bilinear", align_corners=False)


def compose(decoded: Tensor, base: Tensor) -> Tensor:
    """The picture of weights that draw over the landmark warp: gain (base + 1) - 1 + 2 colour, black being -1.

    With gain 1 and colour 0 it is the base, with gain 0 the colours alone; between lie light and shadow.

    Args:
        decoded: [N, 4, S, S] of `RenderingNet.decode`: colour RGB in (-1, 1), and gain in (0, 1.5).
        base: [N, 3, S, S] RGB in [-1, 1].
    Returns:
        [N, 3, S, S], where it may leave [-1, 1].
    """
    return decoded[:, 3:] * (base + 1) - 1 + 2 * decoded[:, :3]


def _block(*layers: nn.Module) -> nn.Sequential:
    """One sub-block of a stage; published names hold an inner sequence."""
    return nn.Sequential(nn.Sequential(*layers))


class RenderingNet(nn.Module):
    """Image encoder with the source's head pose, and decoder with the driver's. Source: Sec. 3.2.

    One that draws over a base (not in the paper) sees the base, has a fourth channel and takes fields bilinearly.
    """

    def __init__(self, *, over_base: bool = False) -> None:
        super().__init__()
        self.over_base = over_base
        self.base_encoder = BaseEncoder() if over_base else None
        ir = InvertedResidual
        self.src_headpose_encoder = PoseEncoder(POSE_DIMS)
        self.drv_headpose_encoder = PoseEncoder(POSE_DIMS)
        self.en_conv_block = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.en_down_block1 = nn.Sequential(
            _block(ir(16, 8, expansion=1)),
            _block(ir(8, 12, stride=2), ir(12, 12)),
            _block(ir(12, 28, stride=2), ir(28, 28)),
        )
        self.en_SPADE1 = Spade(28)
        self.en_down_block2 = nn.Sequential(_block(ir(28, 64, stride=2), ir(64, 64)), _block(ir(64, 72), ir(72, 72)))
        self.en_SPADE_2 = Spade(72)
        self.en_down_block3 = nn.Sequential(_block(ir(72, 140, stride=2), ir(140, 140)))
        self.en_SPADE_3 = Spade(140)
        self.en_res_block = nn.Sequential(_block(ir(140, 280, last_norm=False)))
        self.en_SPADE_4 = Spade(280)

        self.de_SPADE_1 = Spade(280)
        self.de_res_block = nn.Sequential(_block(ir(280, 140, last_norm=False)))
        self.de_SPADE_2 = Spade(280)
        self.de_up_block1 = nn.Sequential(_block(ir(280, 96), ir(96, 96)))
        self.de_SPADE_3 = Spade(168)
        self.de_up_block2 = nn.Sequential(_block(ir(168, 64), ir(64, 64)), _block(ir(64, 24), ir(24, 24)))
        self.de_SPADE_4 = Spade(52)
        self.de_up_block3 = nn.Sequential(
            _block(ir(52, 14), ir(14, 14)), _block(ir(14, 8), ir(8, 8)), _block(ir(8, 16, expansion=1))
        )
        last = nn.Conv2d(16, 4 if over_base else 3, 3, padding=1, bias=False)
        self.de_conv_block = nn.Sequential(last, ToColourAndGain() if over_base else nn.Tanh())

    def encode(self, image: Tensor, head_pose: Tensor) -> Features:
        """Feature maps of a source picture, once per source.

        Args:
            image: [N, 3, S, S] RGB in [-1, 1].
            head_pose: [N, 6], the source's, as the weights' convention has it.
        Returns:
            `Features`; every map is non-negative.
        Raises:
            ValueError: shapes other than those.
        Source: Face2Face^rho, Sec. 3.2, Fig. 2.
        """
        _check("image", image, (None, 3, None, None))
        _check("head_pose", head_pose, (image.shape[0], POSE_DIMS))
        pose = self.src_headpose_encoder(head_pose)
        f1 = F.relu(self.en_SPADE1(self.en_down_block1(self.en_conv_block(image)), pose))
        f2 = F.relu(self.en_SPADE_2(self.en_down_block2(f1), pose))
        f3 = F.relu(self.en_SPADE_3(self.en_down_block3(f2), pose))
        f4 = F.relu(self.en_SPADE_4(self.en_res_block(f3), pose))
        return Features(f1, f2, f3, f4, (image.shape[-2], image.shape[-1]))

    def decode(self, features: Features, motion_field: Tensor, head_pose: Tensor, base: Tensor | None = None) -> Tensor:
        """The picture that `features` show when moved by `motion_field`.

        Args:
            features: from `encode`.
            motion_field: [N, h, w, 2] (x, y), any h and w: each map reads it by nearest index, bilinearly where it
                draws over a base. -1 and 1 are the outer pixel edges (align_corners=False), zeros outside.
            head_pose: [N, 6], the driver's.
            base: [N, 3, S, S] in [-1, 1], the picture that is drawn over, where one is.
        Returns:
            [N, 3, S, S] RGB in (-1, 1); over a base [N, 4, S, S] for `compose`.
        Raises:
            ValueError: shapes other than those.
        Source: Face2Face^rho, Sec. 3.2, Fig. 2.
        """
        f1, f2, f3, f4, size = features
        _check("motion_field", motion_field, (f1.shape[0], None, None, 2))
        _check("head_pose", head_pose, (f1.shape[0], POSE_DIMS))
        w1, w2, w3, w4 = (warp_features(f, motion_field, smooth=self.over_base) for f in (f1, f2, f3, f4))
        pose = self.drv_headpose_encoder(head_pose)
        seen = self._see(base, features)
        x = self.de_res_block(F.relu(self.de_SPADE_1(w4, pose)))
        x = self.de_up_block1(F.relu(self.de_SPADE_2(torch.cat([x, w3], 1), pose)))
        x = torch.cat([upsample_to(x, *w2.shape[-2:]), w2], 1)
        x = F.relu(self.de_SPADE_3(x, pose))
        x = self.de_up_block2(x if seen is None else x + seen[0])
        x = torch.cat([upsample_to(x, *w1.shape[-2:]), w1], 1)
        x = F.relu(self.de_SPADE_4(x, pose))
        x = self.de_up_block3[0](x if seen is None else x + seen[1])
        x = self.de_up_block3[1](upsample_to(x, -(-size[0] // 2), -(-size[1] // 2)))
        x = self.de_up_block3[2](upsample_to(x if seen is None else x + seen[2], *size))
        return self.de_conv_block(x)

    def _see(self, base: Tensor | None, features: Features) -> tuple[Tensor, Tensor, Tensor] | None:
        """What is added to the decoder's maps at S/8, S/4 and S/2; None for weights that draw over no base."""
        if self.base_encoder is None:
            if base is not None:
                raise ValueError("base: these weights draw over none, leave it out")
            return None
        if base is None:
            raise ValueError("base: these weights draw over one, and need its picture")
        _check("base", base, (features.f1.shape[0], 3, *features.size))
        found: tuple[Tensor, Tensor, Tensor] = self.base_encoder(base)
        return found


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


def _check(name: str, x: Tensor, shape: tuple[int | None, ...]) -> None:
    """Raise ValueError unless `x` has `shape`, None standing for any length."""
    if x.ndim != len(shape) or any(want is not None and got != want for got, want in zip(x.shape, shape, strict=True)):
        wanted = ", ".join("any" if want is None else str(want) for want in shape)
        raise ValueError(f"{name} must have the shape [{wanted}], got {list(x.shape)}")


@dataclass
class Face2FaceRho:
    """The two networks of one set of weights, and what the weights file says about them."""

    motion: MotionNet
    renderer: RenderingNet
    metadata: dict[str, str] = field(
        default_factory=lambda: {"model": MODEL_NAME, "size": "512", "head_pose": "official"}
    )

    @property
    def over_base(self) -> bool:
        """Whether these weights draw over the landmark warp."""
        return self.renderer.over_base

    def state_dict(self) -> dict[str, Tensor]:
        """Both state dicts under `motion_net.` and `rendering_net.`."""
        nets = {"motion_net": self.motion, "rendering_net": self.renderer}
        return {f"{prefix}.{name}": value for prefix, net in nets.items() for name, value in net.state_dict().items()}


def random_face2face_rho(seed: int = 0, *, over_base: bool = False) -> Face2FaceRho:
    """Networks in eval mode with random weights that keep activations near 1: for tests and measurements.

    He-scaled weights and BatchNorm statistics drawn around those of normal data; the same for the same `seed`.
    """
    generator = torch.Generator().manual_seed(seed)
    model = Face2FaceRho(MotionNet().eval(), RenderingNet(over_base=over_base).eval())
    if over_base:
        model.metadata |= {"base": BASE, "size": "256", "motion_size": "256"}
    for name, value in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        noise = torch.randn(value.shape, generator=generator)
        if name.endswith("running_var"):
            value.copy_(1 + 0.5 * noise.abs())
        elif name.endswith(("running_mean", "bias")):
            value.copy_(0.1 * noise)
        elif value.ndim == 1:
            value.copy_(1 + 0.1 * noise)
        else:
            # Field heads stay small, so that fields point into the picture.
            gain = 0.02 if value.shape[0] == 2 else 2**0.5
            value.copy_(noise * gain * value[0].numel() ** -0.5)
    return model
