"""Face2Face^rho in its plain form: the motion network, the rendering network, and both with their metadata.

Source: Face2Face^rho (ECCV 2022), Sec. 3; layer sizes of the released configuration.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

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
from fastreenact.models.face2face_rho import MODEL
from fastreenact.models.protocol import LEAST_SIZE, MOST_SIZE

POSE_DIMS = 6


def motion_input_size(size: int, motion_size: int | None = None) -> int:
    """Size M at which the motion network works for an image of `size`: the next multiple of 64, or `motion_size`.

    Args:
        size: side of the image, px, 64 to 2048.
        motion_size: a fixed M, a multiple of 64; None takes the image's own.
    Raises:
        ValueError: `size` out of range, or `motion_size` not a positive multiple of 64.
    """
    if not LEAST_SIZE <= size <= MOST_SIZE:
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


def warp_features(features: Tensor, motion_field: Tensor) -> Tensor:
    """`features` [N, C, H, W] sampled bilinearly by `motion_field` [N, h, w, 2], read by nearest; zeros outside."""
    field = resize_nearest(motion_field.permute(0, 3, 1, 2), features.shape[-2], features.shape[-1])
    return F.grid_sample(
        features, field.permute(0, 2, 3, 1), mode="bilinear", padding_mode="zeros", align_corners=False
    )


def _block(*layers: nn.Module) -> nn.Sequential:
    """One sub-block of a stage; published names hold an inner sequence."""
    return nn.Sequential(nn.Sequential(*layers))


class RenderingNet(nn.Module):
    """Image encoder with the source's head pose, and decoder with the driver's. Source: Sec. 3.2."""

    def __init__(self) -> None:
        super().__init__()
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
        self.de_conv_block = nn.Sequential(nn.Conv2d(16, 3, 3, padding=1, bias=False), nn.Tanh())

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
        check_shape("image", image, (None, 3, None, None))
        check_shape("head_pose", head_pose, (image.shape[0], POSE_DIMS))
        pose = self.src_headpose_encoder(head_pose)
        f1 = F.relu(self.en_SPADE1(self.en_down_block1(self.en_conv_block(image)), pose))
        f2 = F.relu(self.en_SPADE_2(self.en_down_block2(f1), pose))
        f3 = F.relu(self.en_SPADE_3(self.en_down_block3(f2), pose))
        f4 = F.relu(self.en_SPADE_4(self.en_res_block(f3), pose))
        return Features(f1, f2, f3, f4, (image.shape[-2], image.shape[-1]))

    def decode(self, features: Features, motion_field: Tensor, head_pose: Tensor) -> Tensor:
        """The picture that `features` show when moved by `motion_field`.

        Args:
            features: from `encode`.
            motion_field: [N, h, w, 2] (x, y), any h and w: each map reads it by nearest index. -1 and 1 are the outer
                pixel edges (align_corners=False), zeros outside.
            head_pose: [N, 6], the driver's.
        Returns:
            [N, 3, S, S] RGB in (-1, 1).
        Raises:
            ValueError: shapes other than those.
        Source: Face2Face^rho, Sec. 3.2, Fig. 2.
        """
        check_shape("motion_field", motion_field, (features.f1.shape[0], None, None, 2))
        warped = [warp_features(f, motion_field) for f in features[:4]]
        return self.decode_warped(warped, head_pose, features.size)

    def decode_warped(
        self, warped: Sequence[Tensor], head_pose: Tensor, size: tuple[int, int], added: Sequence[Tensor] = ()
    ) -> Tensor:
        """The decoder behind the four maps as `motion_field` has moved them.

        Args:
            warped: f1 to f4, sampled.
            head_pose: [N, 6], the driver's.
            size: of the picture.
            added: nothing, or what is added to the maps at S/8, S/4 and S/2: [N, 168 | 52 | 8, ., .].
        """
        w1, w2, w3, w4 = warped
        check_shape("head_pose", head_pose, (w1.shape[0], POSE_DIMS))
        pose = self.drv_headpose_encoder(head_pose)
        x = self.de_res_block(F.relu(self.de_SPADE_1(w4, pose)))
        x = self.de_up_block1(F.relu(self.de_SPADE_2(torch.cat([x, w3], 1), pose)))
        x = torch.cat([upsample_to(x, *w2.shape[-2:]), w2], 1)
        x = F.relu(self.de_SPADE_3(x, pose))
        x = self.de_up_block2(x + added[0] if added else x)
        x = torch.cat([upsample_to(x, *w1.shape[-2:]), w1], 1)
        x = F.relu(self.de_SPADE_4(x, pose))
        x = self.de_up_block3[0](x + added[1] if added else x)
        x = self.de_up_block3[1](upsample_to(x, -(-size[0] // 2), -(-size[1] // 2)))
        x = self.de_up_block3[2](upsample_to(x + added[2] if added else x, *size))
        return self.de_conv_block(x)


def check_shape(name: str, x: Tensor, shape: tuple[int | None, ...]) -> None:
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
        default_factory=lambda: {"model": MODEL.name, "size": "512", "head_pose": "official"}
    )

    def state_dict(self) -> dict[str, Tensor]:
        """Both state dicts under `motion_net.` and `rendering_net.`."""
        nets = {"motion_net": self.motion, "rendering_net": self.renderer}
        return {f"{prefix}.{name}": value for prefix, net in nets.items() for name, value in net.state_dict().items()}


AnyPair = TypeVar("AnyPair", bound=Face2FaceRho)


def random_face2face_rho(seed: int = 0) -> Face2FaceRho:
    """Networks in eval mode with random weights that keep activations near 1: for tests and measurements.

    He-scaled weights and BatchNorm statistics drawn around those of normal data; the same for the same `seed`.
    """
    return randomise(Face2FaceRho(MotionNet().eval(), RenderingNet().eval()), seed)


def randomise(model: AnyPair, seed: int) -> AnyPair:
    """Fill a pair of networks as `random_face2face_rho` says; gives it back."""
    generator = torch.Generator().manual_seed(seed)
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
