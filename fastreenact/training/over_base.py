"""The landmark warp in training, for networks that draw over it: pictures that follow the field, with gradients."""

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastreenact.face.crop import Box
from fastreenact.models.face2face_rho.networks import motion_inputs, motion_inputs_over_base, resize_field
from fastreenact.models.landmark_warp.warp import LandmarkWarp

if TYPE_CHECKING:
    from fastreenact.training.data.batches import Batch, Frame


class Base(NamedTuple):
    """The landmark warp of N pairs."""

    field: Tensor  # [N, 2, S, S] where each pixel reads in the source, -1 and 1 the outer pixel edges
    inside: Tensor  # [N, 3, S, S] in [-1, 1]: eyeballs and mouth, as far as they show
    opacity: Tensor  # [N, 1, S, S] how far they do


def landmark_bases(source: "Frame", drivers: "list[Frame]") -> list[Base]:
    """The landmark warp of one source for each of its drivers, N = 1 each."""
    side = source.image.shape[0]
    warp = LandmarkWarp(side, side)
    state = warp.encode(source.image, source.keypoints, source.pose, Box(side / 2, side / 2, side))
    bases = []
    for driver in drivers:
        placed = warp.place(state, driver.keypoints, driver.pose)
        field = torch.from_numpy(placed.whole_field(side, side)).permute(2, 0, 1)[None]
        opacity, inside = np.zeros((side, side, 1), np.float32), np.zeros((side, side, 3), np.uint8)
        for laid, _ in placed.covers:
            h, w = laid.opacity.shape[:2]
            view = opacity[laid.y0 : laid.y0 + h, laid.x0 : laid.x0 + w]
            np.maximum(view, laid.opacity, out=view)
        solid = ((replace(laid, opacity=np.ones_like(laid.opacity)), image) for laid, image in placed.covers)
        warp.cover(inside, replace(placed, covers=tuple(solid)))
        picture = torch.from_numpy(inside).permute(2, 0, 1)[None].float() * (2 / 255) - 1
        bases.append(Base(resize_field(field, side, side), picture, torch.from_numpy(opacity).permute(2, 0, 1)[None]))
    return bases


def join_bases(bases: list[Base]) -> Base:
    """One batch of several."""
    field, inside, opacity = (torch.cat(parts) for parts in zip(*bases, strict=True))
    return Base(field, inside, opacity)


def on_field(offset: Tensor, field: Tensor) -> Tensor:
    """An offset [N, h, w, 2] of the motion network as [N, 2, S, S], to be added to a field of that shape."""
    return resize_field(offset.permute(0, 3, 1, 2), *field.shape[-2:])


def motion_fields(motion: nn.Module, batch: "Batch", motion_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """What the motion network makes of a batch: fields [N, h, w, 2] float32, h = M/16, M/8, M/4; M: `motion_size`.

    They are offsets from the base's field where the batch has a base.
    """
    drawings = batch.source_landmarks, batch.driver_landmarks
    if batch.base is None:
        inputs = motion_inputs(batch.source, *drawings)
    else:
        field = resize_field(batch.base.field, motion_size // 4, motion_size // 4).permute(0, 2, 3, 1)
        inputs = motion_inputs_over_base(batch.source, field, *drawings)
    small, middle, large = motion(*inputs)
    return small, middle, large


def features_field(base: Base, offset: Tensor) -> Tensor:
    """The field [N, h, w, 2] that features are sampled by: the base's, moved by `offset` of that shape."""
    return resize_field(base.field, *offset.shape[1:3]).permute(0, 2, 3, 1) + offset


def base_picture(source: Tensor, base: Base, offset: Tensor) -> Tensor:
    """The landmark warp with its field moved by `offset`.

    Args:
        source: [N, 3, S, S] in [-1, 1].
        base: of the same pairs.
        offset: [N, h, w, 2], in the field's coordinates; resized bilinearly.
    Returns:
        [N, 3, S, S].
    """
    field = base.field + on_field(offset, base.field)
    moved = F.grid_sample(source, field.permute(0, 2, 3, 1), padding_mode="border", align_corners=False)
    return moved + (base.inside - moved) * base.opacity
