"""The landmark warp of training pairs, for networks that draw over it."""

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastreenact.face.crop import Box
from fastreenact.models.landmark_warp.warp import LandmarkWarp
from fastreenact.models.refined_warp.networks import resize_field

if TYPE_CHECKING:
    from fastreenact.training.data.batches import Frame


class Base(NamedTuple):
    """The landmark warp of N pairs."""

    field: Tensor  # [N, 2, S, S] where each pixel reads in the source, -1 and 1 the outer pixel edges
    inside: Tensor  # [N, 3, S, S] in [-1, 1]: eyeballs and mouth, as far as they show
    opacity: Tensor  # [N, 1, S, S] how far they do


def landmark_bases(source: "Frame", drivers: "list[Frame]") -> list[Base]:
    """The landmark warp of one source for each of its drivers, N = 1 each."""
    side = source.image.shape[0]
    warp = LandmarkWarp(side, side)
    state = warp.encode(source.image, source.keypoints, source.pose, Box.whole(side))
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
