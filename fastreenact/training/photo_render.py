"""Frames of a photographed head under other motions."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from fastreenact.face.morphable import default_model
from fastreenact.ops.render_mesh import render_mesh
from fastreenact.training.photo_head import PhotoHead, mesh, pose_mesh, to_pixels
from fastreenact.training.photo_sheet import CANVAS, NODES, move_sheet

Array = NDArray[np.float32]
_NEAR_FACE = 0.3  # share of a pixel that has to show the face


def _grid_triangles() -> Tensor:
    r, c = np.meshgrid(np.arange(NODES - 1), np.arange(NODES - 1), indexing="ij")
    a = (r * NODES + c).ravel()
    both = np.concatenate([np.column_stack([a, a + NODES, a + 1]), np.column_stack([a + 1, a + NODES, a + NODES + 1])])
    return torch.from_numpy(both.astype(np.int32))


_SHEET = _grid_triangles()
_RAMP = torch.from_numpy(((np.arange(NODES) + 0.5) / NODES * 2 - 1).astype(np.float32))
_SHEET_PLACE = torch.stack(torch.meshgrid(_RAMP, _RAMP, indexing="xy"), -1).reshape(-1, 2).contiguous()


def _read(image: NDArray[np.uint8], places: Tensor) -> Tensor:
    """[H, W, C] in 0..1 of a picture at [H, W, 2], -1..1."""
    texels = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    got = functional.grid_sample(texels, places[None], align_corners=False, padding_mode="border")
    return got[0].permute(1, 2, 0) / 255


class Seen(NamedTuple):
    picture: Tensor  # [S, S, 3] 0..1
    keypoints: Array  # [72, 2]
    mask: NDArray[np.bool_]  # [S, S]


def render(head: PhotoHead, pose: Array, expression: Array, zoom: float, shift: Array, size: int) -> Seen:
    """The photographed head under a motion.

    Args:
        pose: [6] in the frame.
        expression: [51].
        zoom, shift: the camera: the photograph's box at rest is at zoom * box + shift, normalised units of the frame.
    """
    m = mesh()
    ramp = (torch.arange(size) + 0.5) * (2 / size) - 1
    frame = torch.stack(torch.meshgrid(ramp, ramp, indexing="xy"), -1)
    under = _read(head.plate, (frame - torch.from_numpy(shift)) / (zoom * CANVAS))
    px = torch.from_numpy(move_sheet(head.pose, head.depth, head.follow, pose, zoom, shift) * (size / 2))
    px[:, :2] += size / 2
    place, there = render_mesh(px[None].contiguous(), _SHEET, _SHEET_PLACE, (size, size), supersample=1)
    around = _read(head.sheet, place[0])
    share = around[..., 3:] * there[0, ..., None]
    under = under + (around[..., :3] - under) * share
    x = pose_mesh(head.rest, head.shape, pose, expression)
    x[:, 2] -= m.behind
    textured = torch.zeros(len(x), 8)  # place in the atlas, share of the skin, colour of parts, opacity, face
    textured[: m.skin, :2], textured[: m.skin, 2] = m.atlas, 1.0
    textured[:, 3:6] = torch.from_numpy(head.colours)
    textured[:, :6] *= torch.from_numpy(m.solid)[:, None]
    textured[:, 6], textured[:, 7] = torch.from_numpy(m.solid), torch.from_numpy(m.face * m.solid)
    drawn = render_mesh(to_pixels(x, pose, size), m.triangles, textured, (size, size))[0][0]
    skin = drawn[..., 2:3]
    colour = drawn[..., 3:6] + skin * _read(head.atlas, drawn[..., :2] / skin.clamp_min(1e-3))
    picture = colour + (1 - drawn[..., 6:7]) * under
    keypoints = default_model().project(head.shape, expression, pose)
    return Seen(picture, keypoints, (drawn[..., 7] > _NEAR_FACE).numpy())
