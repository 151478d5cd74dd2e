"""Light on a generated head: from above and below, from lamps that stay where they are, with shadows and highlights."""

import functools

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fastreenact.ops.render_mesh import render_mesh
from fastreenact.synth.heads.look import Look
from fastreenact.synth.heads.parts import parts
from fastreenact.synth.heads.scene import Scene

_SIDE, _REACH = 96, 2.15  # px of the depth map, and model units from its middle to its edge
_BIAS, _SOFT = 0.05, 0.07  # model units of depth: what is no shadow yet, and until it is a full one
_SCATTER = torch.tensor([0.22, 0.07, 0.0])  # red light comes out of skin a little beyond the edge of a shadow
_DIRECTIONS = 40
_MIDDLE = torch.tensor([0.0, 0.5, -0.3])  # of the mass of hair


def lit(x: Tensor, triangles: Tensor, light: Tensor, spread: float = 1.0) -> Tensor:
    """How much of a lamp vertices see, 0 to 1: a depth map from the lamp's side, compared softly.

    Args:
        x: [V, 3] in camera axes, model units.
        triangles: [F, 3] int32.
        light: [3] unit, towards the lamp.
        spread: px of the depth map by which the edge of a shadow is blurred.

    Returns:
        [V].
    """
    right = torch.linalg.cross(torch.tensor([0.0, 1.0, 0.02]), light)
    right = right / right.norm()
    axes = torch.stack([right, torch.linalg.cross(light, right), light])
    seen = (x + torch.tensor([0.0, 0.1, 0.2])) @ axes.T
    scale = _SIDE / (2 * _REACH)
    place = seen * torch.tensor([scale, -scale, 1.0]) + torch.tensor([_SIDE / 2, _SIDE / 2, 0.0])
    depth = render_mesh(
        place[None], triangles, place[:, 2:].nan_to_num(), (_SIDE, _SIDE), supersample=1, background=_far()
    )[0][0, ..., 0]
    at = place[:, :2].nan_to_num()
    here = (seen[:, 2] + _BIAS).nan_to_num()
    total = torch.zeros(len(x))
    for dx, dy in ((0.0, 0.0), (1.0, 0.5), (-0.5, 1.0), (-1.0, -0.5), (0.5, -1.0)):
        column = (at[:, 0] + spread * dx).long().clamp_(0, _SIDE - 1)
        row = (at[:, 1] + spread * dy).long().clamp_(0, _SIDE - 1)
        nearest = depth.flatten()[row * _SIDE + column]
        total += ((here - nearest) / _SOFT + 1).clamp_(0, 1)
    return total / 5


@functools.cache
def _far() -> Tensor:
    return torch.full((_SIDE, _SIDE, 1), -1e3)


@functools.cache
def openness() -> Tensor:
    """[V] how much of the light from all around vertices of the mean head see, without hair and what is worn."""
    p = parts()
    x = p.rest.astype(np.float32).copy()
    for name in ("hair", "curtain", "strands", "glasses", "brim", "phones", "earrings"):
        x[p.where[name]] = np.nan
    points, triangles = torch.from_numpy(x), torch.from_numpy(p.triangles)
    normals = vertex_normals(points, triangles)
    golden = np.pi * (3 - np.sqrt(5)) * np.arange(_DIRECTIONS)
    y = 1 - 2 * (np.arange(_DIRECTIONS) + 0.5) / _DIRECTIONS
    around = np.column_stack([np.cos(golden) * np.sqrt(1 - y * y), y, np.sin(golden) * np.sqrt(1 - y * y)])
    seen, most = torch.zeros(len(x)), torch.full((len(x),), 1e-3)
    for direction in torch.from_numpy(around.astype(np.float32)):
        facing = (normals @ direction).clamp_min(0)
        seen += facing * lit(points, triangles, direction)
        most += facing
    return (seen / most).clamp(0.15, 1.0).where(~torch.isnan(points[:, 0]), torch.ones(()))


def vertex_normals(x: Tensor, triangles: Tensor) -> Tensor:
    """Unit normals [V, 3]; what is not there (NaN) has none."""
    index = triangles.long()
    a, b, c = (x[index[:, k]] for k in range(3))
    face = torch.linalg.cross(b - a, c - a).nan_to_num(0.0)
    total = torch.zeros_like(x).index_add_(0, index.T.reshape(-1), face.repeat(3, 1))
    return total / total.norm(dim=1, keepdim=True).clamp_min(1e-9)


def _normals(look: Look, x: Tensor) -> Tensor:
    """Normals [V, 3]; those of strands, which are ribbons, are those of the mass of hair."""
    normals = vertex_normals(x, look.casting)
    bare = (normals == 0).all(1, keepdim=True)
    return torch.where(bare, functional.normalize(x - _MIDDLE), normals)


def shade(scene: Scene, look: Look, x: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
    """Light on vertices and what they mirror of it.

    Args:
        x: [V, 3] in camera axes, model units.
        tangents: [V, 3] in camera axes, along the hair; 0 where there is none.

    Returns:
        [V, 3] the light that falls on them, and [V, 3] their highlights; linear.
    """
    normals = _normals(look, x)
    sky, ground = torch.from_numpy(scene.sky), torch.from_numpy(scene.ground)
    light = (ground + (sky - ground) * (normals[:, 1:2] * 0.5 + 0.5)) * torch.from_numpy(look.open)[:, None]
    lamps, colours = torch.from_numpy(scene.lights), torch.from_numpy(scene.colours)
    gloss = torch.from_numpy(look.gloss)
    shine = torch.zeros_like(light)
    is_hair = (tangents * tangents).sum(1) > 0.5
    for k, (lamp, colour) in enumerate(zip(lamps, colours, strict=True)):
        share = torch.ones(len(x))
        if k == 0:
            share = 1 - scene.shadow * (1 - lit(x, look.casting, lamp, scene.penumbra))
        soft = scene.softness + _SCATTER
        light = light + ((normals @ lamp)[:, None] + soft).clamp_min(0) / (1 + soft) * (colour * share[:, None])
        half = lamp + torch.tensor([0.0, 0.0, 1.0])
        half = half / half.norm().clamp_min(1e-6)
        flat = (normals @ half).clamp_min(0)
        flat = torch.where(is_hair, (1 - (tangents @ half) ** 2).clamp_min(0).sqrt() * (normals @ lamp > 0), flat)
        shine = shine + (gloss[:, 0] * flat ** gloss[:, 1] * share)[:, None] * colour
    edge = (1 - normals[:, 2].abs()) ** 4 * gloss[:, 0]  # at grazing angles everything mirrors its surroundings
    return light, shine + edge[:, None] * sky
