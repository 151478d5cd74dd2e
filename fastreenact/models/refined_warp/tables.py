"""How the networks' square and the landmark warp's nodes of a picture read each other: from the portrait alone."""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from fastreenact import ops
from fastreenact.face.crop import Box
from fastreenact.models.landmark_warp.warp import Placement
from fastreenact.ops.landmark_field import ramp

Floats = NDArray[np.floating[Any]]
Tables = NDArray[np.float32]

_FADE = 0.08  # of the square's side: over this width from its edge the networks gain their weight, in a larger picture


class Cells(NamedTuple):
    """Where each cell of the networks' field reads the field of the nodes, which then is field * scale + shift."""

    where: Tables  # [1, M, M, 2], -1 and 1 the edges of all nodes
    scale: Tables  # [2]
    shift: Tables  # [1, M, M, 2]


class Nodes(NamedTuple):
    """Where each node of a window reads the networks' field, linear in the nodes' numbers, and with what weight."""

    where: Tables  # [1, 2, 2, 2]: two by two places say it, which `warp` enlarges to the window
    scale: Tables  # [2], or [h, w, 2] where the weights differ


def fade_of(box: Box, height: int, width: int) -> float:
    """Share of the box's side over which the networks gain their weight; 0 where it is all of the picture."""
    return 0.0 if height == width and box == Box.whole(width) else _FADE


def samples_of(box: Box, side: int) -> int:
    """Per pixel of the networks' picture and axis: 2 where there is more to show: to see what has moved where."""
    return 2 if box.size > 1.5 * side else 1


def cells(side: int, box: Box, height: int, width: int, step: int) -> Cells:
    """Of side x side cells over `box`."""
    rest = Placement(None, (0, 0), step, ()).whole_field(height, width)
    at = (np.arange(side) + 0.5) * (box.size / side) - box.size / 2  # px from the box's centre
    h, w = rest.shape[:2]
    where = _grid((at + box.cx) * (2 / (w * step)) - 1, (at + box.cy) * (2 / (h * step)) - 1)
    # Beyond the picture everything moves as its edge does: what is held there is the displacement, not the place.
    held = ops.warp(torch.from_numpy(rest)[None], torch.from_numpy(where), size=(side, side), padding="border").numpy()
    scale = np.array((width / box.size, height / box.size), np.float32)
    own = _grid(at, at) * np.float32(2 / box.size)
    return Cells(where, scale, (own - held * scale).astype(np.float32))


def node_weights(box: Box, fade: float, height: int, width: int, step: int) -> tuple[Floats, Floats]:
    """The networks' weight in each column [w] and row [h] of nodes."""
    half = box.size / 2
    x, y = (
        ((np.arange(-(-length // step)) + 0.5) * step - centre) / half
        for length, centre in ((width, box.cx), (height, box.cy))
    )
    return _weight(x, fade), _weight(y, fade)


def nodes(box: Box, fade: float, height: int, width: int, step: int, window: tuple[int, int, int, int]) -> Nodes:
    """Of the nodes from left and top to right and low of `window`."""
    half, middle = box.size / 2, (np.arange(2) + 0.5) / 2
    left, top, right, low = window
    x, y = (
        ((first + share * middle) * step - centre) / half
        for first, share, centre in ((left, right - left, box.cx), (top, low - top, box.cy))
    )
    scale = np.array((box.size / width, box.size / height), np.float32)
    if fade > 0:
        weight_x, weight_y = node_weights(box, fade, height, width, step)
        scale = scale * (weight_y[top:low, None] * weight_x[left:right])[..., None].astype(np.float32)
    return Nodes(_grid(x, y), scale)


def _grid(x: Floats, y: Floats) -> Tables:
    """Places float32 [1, h, w, 2] of columns `x` [w] and rows `y` [h]."""
    return np.stack(np.broadcast_arrays(x, y[:, None]), -1)[None].astype(np.float32)


def _weight(at: Floats, fade: float) -> Floats:
    """0 at -1 and 1 and beyond, 1 from `fade` of the side inwards; 1 everywhere without a fade."""
    return ramp((1 - np.abs(at)) / (2 * fade)) if fade > 0 else np.ones_like(at)
