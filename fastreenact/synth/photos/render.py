"""Frames of a photographed head under other motions."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from fastreenact.face.morphable.model import default_model
from fastreenact.ops.render_mesh import render_mesh
from fastreenact.synth.photos.head import PhotoHead, mesh, pose_mesh, to_pixels
from fastreenact.synth.photos.sheet import CANVAS, NODES, move_sheet

Array = NDArray[np.float32]
_NEAR_FACE = 0.3  # share of a pixel that has to show the face
_BACKGROUND, _SHEET, _HEAD = 0, 1, 2
_SLACK = 0.01  # of the frame's side: what is no deeper than this behind the nearest surface is seen


def _grid_triangles() -> Tensor:
    r, c = np.meshgrid(np.arange(NODES - 1), np.arange(NODES - 1), indexing="ij")
    a = (r * NODES + c).ravel()
    both = np.concatenate([np.column_stack([a, a + NODES, a + 1]), np.column_stack([a + 1, a + NODES, a + NODES + 1])])
    return torch.from_numpy(both.astype(np.int32))


_SHEET_TRIANGLES = _grid_triangles()
_RAMP = torch.from_numpy(((np.arange(NODES) + 0.5) / NODES * 2 - 1).astype(np.float32))
_SHEET_PLACES = torch.stack(torch.meshgrid(_RAMP, _RAMP, indexing="xy"), -1).reshape(-1, 2).contiguous()


def _centres(size: int) -> Tensor:
    """[size, size, 2] centres of the pixels, px."""
    ramp = torch.arange(size) + 0.5
    return torch.stack(torch.meshgrid(ramp, ramp, indexing="xy"), -1)


def _read(image: NDArray[np.uint8], places: Tensor) -> Tensor:
    """[H, W, C] in 0..1 of a picture at [H, W, 2], -1..1."""
    texels = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    got = functional.grid_sample(texels, places[None], align_corners=False, padding_mode="border")
    return got[0].permute(1, 2, 0) / 255


class Seen(NamedTuple):
    """A frame, before the camera, and where in it everything is."""

    picture: Tensor  # [S, S, 3] 0..1
    keypoints: Array  # [72, 2] normalised
    mask: NDArray[np.bool_]  # [S, S] the face
    head: Tensor  # [1, V, 3] px, the vertices of the head
    sheet: Tensor  # [1, NODES^2, 3] px
    shown: Tensor  # [S, S] which of them a pixel shows, _BACKGROUND, _SHEET or _HEAD
    depth: Tensor  # [S, S] of it, px


def render(head: PhotoHead, pose: Array, expression: Array, zoom: float, shift: Array, size: int) -> Seen:
    """The photographed head under a motion.

    Args:
        pose: [6] in the frame.
        expression: [51].
        zoom, shift: of the camera: what is at rest goes from its place in the photograph's box to zoom * place + shift.
        size: of the frame, px.
    """
    m = mesh()
    places = (_centres(size) * (2 / size) - 1 - torch.from_numpy(shift)) / (zoom * CANVAS)
    under = _read(head.plate, places)
    sheet = torch.from_numpy(move_sheet(head.pose, head.depth, head.follow, pose, zoom, shift) * (size / 2))
    sheet[:, :2] += size / 2
    spread, there = render_mesh(
        sheet[None], _SHEET_TRIANGLES, torch.cat([_SHEET_PLACES, sheet[:, 2:]], 1), (size, size), supersample=1
    )
    around = _read(head.sheet, spread[0, ..., :2])
    share = around[..., 3:] * there[0, ..., None]
    under = under + (around[..., :3] - under) * share
    x = pose_mesh(head.rest, head.shape, pose, expression)
    x[:, 2] -= m.behind
    px = to_pixels(x, pose, size)
    # Place in the atlas, share of the skin, colour of the parts; opacity, face, depth.
    attributes = torch.zeros(len(x), 9)
    attributes[: m.skin, :2], attributes[: m.skin, 2] = m.atlas, 1.0
    attributes[:, 3:6], attributes[:, 6] = torch.from_numpy(head.colours), 1.0
    attributes[:, 7], attributes[:, 8] = torch.from_numpy(m.face), px[0, :, 2]
    drawn = render_mesh(px, m.triangles, attributes * torch.from_numpy(m.solid)[:, None], (size, size))[0][0]
    skin, solid = drawn[..., 2:3], drawn[..., 6]
    colour = drawn[..., 3:6] + skin * _read(head.atlas, drawn[..., :2] / skin.clamp_min(1e-3))
    return Seen(
        colour + (1 - solid[..., None]) * under,
        default_model().project(head.shape, expression, pose),
        (drawn[..., 7] > _NEAR_FACE).numpy(),
        px,
        sheet[None],
        torch.where(solid > 0.5, _HEAD, torch.where(share[..., 0] > 0.5, _SHEET, _BACKGROUND)),
        torch.where(solid > 0.5, drawn[..., 8] / solid.clamp_min(1e-3), spread[0, ..., 2]),
    )


def flow(seen: Seen, other: Seen) -> Array:
    """Where each pixel of a frame is seen in another of the same draw.

    Returns:
        [3, S, S] float32: x and y, normalised, and 1 where the other frame shows the point, 0 where it does not.
    """
    size = len(seen.shown)
    points = torch.cat([_centres(size), torch.zeros(size, size, 1)], -1)  # the background is at rest
    for kind, here, there, triangles in (
        (_SHEET, seen.sheet, other.sheet, _SHEET_TRIANGLES),
        (_HEAD, seen.head, other.head, mesh().triangles),
    ):
        drawn, hit = render_mesh(here, triangles, there[0], (size, size), supersample=1)
        points = torch.where(((seen.shown == kind) & (hit[0] > 0))[..., None], drawn[0], points)
    at = points[..., :2].floor().long()
    within = ((at >= 0) & (at < size)).all(-1)
    row, column = at[..., 1].clamp(0, size - 1), at[..., 0].clamp(0, size - 1)
    nearest = (other.depth[row, column] <= points[..., 2] + _SLACK * size) | (seen.shown == _BACKGROUND)
    visible = within & nearest & (other.shown[row, column] == seen.shown)
    return torch.cat([points[..., :2] * (2 / size) - 1, visible[..., None]], -1).permute(2, 0, 1).contiguous().numpy()
