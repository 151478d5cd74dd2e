"""The losses of Face2Face^rho, apart from reconstruction (see `reconstruction`), and their weights."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fastreenact.models.blocks import resize_nearest

# Source of all five: the released code's configuration.
RECONSTRUCTION_WEIGHT = 15.0
WARP_WEIGHT = 500.0
ADVERSARIAL_WEIGHT = 1.0
MATCHING_WEIGHT = 1.0
FIELD_WEIGHT = 1000.0  # at the first step, falling to nothing (see `schedule`)
BASE_WEIGHT, FLOW_WEIGHT = 30.0, 20.0  # of the moved base and of its field where the true one is known (ours)
FACE_WEIGHT = 4.0  # inside the face mask; 1 outside

_LEAST_FIELD = 128  # smaller fields are enlarged to this before they warp a picture
_FLOW_NOISE = 0.004  # half a pixel at 256: a base as good as that is hardly to be bettered
_REST_WEIGHT = 0.3  # of the flow outside the face


def identity_field(height: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """[height, width, 2] (x, y) from -1 to 1, both included: 2 i / (n - 1) - 1, as published.

    Sampled with align_corners=False, as everywhere else, it looks up to half a pixel outwards at the edges.
    """
    x = torch.linspace(-1, 1, width, device=device)
    y = torch.linspace(-1, 1, height, device=device)
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width)], 2)


def field_loss(fields: Sequence[Tensor]) -> Tensor:
    """How far the motion fields are from standing still.

    mean over fields of mean |field - identity|

    Args:
        fields: each [N, h, w, 2], any sizes.
    Returns:
        Scalar.
    Source: Face2Face^rho, released code (the paper does not name it).
    """
    losses = [(field - identity_field(field.shape[1], field.shape[2], field.device)).abs().mean() for field in fields]
    return torch.stack(losses).mean()


def warp_loss(source: Tensor, driver: Tensor, fields: Sequence[Tensor]) -> Tensor:
    """How far the source, warped by each field, is from the driver.

    mean over fields of mean |sample(source, field) - driver resized to the field|

    Args:
        source, driver: [N, 3, S, S] in [-1, 1].
        fields: each [N, h, w, 2] (x, y), -1 and 1 the outer pixel edges (align_corners=False), zeros outside; one with
            a side below 128 is bilinearly enlarged to 128 x 128 first.
    Returns:
        Scalar.
    Source: Face2Face^rho, Sec. 3.4; enlarging from the released code.
    """
    losses = []
    for field in fields:
        grid = field
        if min(field.shape[1:3]) < _LEAST_FIELD:
            grid = F.interpolate(
                field.permute(0, 3, 1, 2), (_LEAST_FIELD, _LEAST_FIELD), mode="bilinear", align_corners=False
            ).permute(0, 2, 3, 1)
        warped = F.grid_sample(source, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        wanted = F.interpolate(driver, grid.shape[1:3], mode="bilinear", align_corners=False)
        losses.append((warped - wanted).abs().mean())
    return torch.stack(losses).mean()


def flow_loss(found: Sequence[Tensor], base: Tensor, flow: Tensor, mask: Tensor) -> Tensor:
    """How far fields are from the true one, against how far the base is, where the source shows what the driver shows.

    mean over fields and pairs of r(face) + 0.3 r(rest), r(region) = mean |found - true| / (mean |base - true| + 0.004)

    So a pair that hardly moves counts as much as one that goes far, and the face more than what surrounds it.

    Args:
        found: each [N, 2, S, S].
        base: [N, 2, S, S], the field that was to be bettered.
        flow: [N, 3, S, S], the true field and 1 where it is visible; elsewhere it may be anything finite.
        mask: [N, 1, S, S], 1 on the face.
    Returns:
        Scalar.
    """
    true, visible = flow[:, :2], flow[:, 2:]
    total = base.new_zeros(())
    for region, weight in ((visible * mask, 1.0), (visible * (1 - mask), _REST_WEIGHT)):
        count = (2 * region.sum((1, 2, 3))).clamp_min(1.0)
        scale = ((base - true).abs() * region).sum((1, 2, 3)) + _FLOW_NOISE * count
        errors = [(((field - true).abs() * region).sum((1, 2, 3)) / scale).mean() for field in found]
        total = total + weight * torch.stack(errors).mean()
    return total


def face_weights(mask: Tensor) -> Tensor:
    """[N, 1, S, S] weights: 4 where the driver's face mask is exactly 1, else 1."""
    return torch.where(mask == 1, FACE_WEIGHT, 1.0)


def weighted_l1(a: Tensor, b: Tensor, weights: Tensor | None) -> Tensor:
    """mean |a - b| w, for [N, C, h, w] and weights [N, 1, S, S] nearest-resized to h x w (None: 1 everywhere)."""
    difference = (a - b).abs()
    if weights is not None:
        difference = difference * resize_nearest(weights, a.shape[-2], a.shape[-1])
    return difference.mean()


def matching_loss(real: Sequence[Tensor], fake: Sequence[Tensor], weights: Tensor | None) -> Tensor:
    """Sum over the discriminator's taps of mean |real - fake| w.

    Args:
        real, fake: [N, C, h, w] each, tap by tap.
        weights: [N, 1, S, S] from `face_weights`, or None.
    Returns:
        Scalar.
    Source: pix2pixHD (Wang et al. 2018), Sec. 3.2; weights from the released code of Face2Face^rho.
    """
    return torch.stack([weighted_l1(a, b, weights) for a, b in zip(real, fake, strict=True)]).sum()


def adversarial_loss(fake_score: Tensor) -> Tensor:
    """The generator's least-squares loss: mean (D(fake) - 1)^2. Source: LSGAN (Mao et al. 2017), eq. (9)."""
    return (fake_score - 1).square().mean()


def discriminator_loss(real_score: Tensor, fake_score: Tensor) -> Tensor:
    """mean (D(real) - 1)^2 + mean D(fake)^2. Source: LSGAN (Mao et al. 2017), eq. (9), without its halves."""
    return (real_score - 1).square().mean() + fake_score.square().mean()
