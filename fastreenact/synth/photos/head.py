"""A photographed head as a model that can be moved: its surface fitted and textured, its surroundings in two layers.

The skin of the generated heads, with the photograph's shape, carries the photograph's colours in an atlas (the
directions from the head's centre, Lambert's equal-area map). What surrounds the face is a sheet: the photograph cut
out along the person, over an estimated depth, that goes with the head and is at rest at the shoulders. Behind it is the
background, continued where the person hides it.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from fastreenact.face.crop import Box, crop
from fastreenact.face.morphable.expressions import smoothstep
from fastreenact.face.morphable.model import default_model
from fastreenact.face.source import SourceFace
from fastreenact.ops.render_mesh import render_mesh
from fastreenact.rotation import rotation_matrix
from fastreenact.synth.heads.light import vertex_normals
from fastreenact.synth.heads.mesh import surface
from fastreenact.synth.heads.parts import eye_centres, parts
from fastreenact.synth.heads.render import eye_size, gaze_rotations
from fastreenact.synth.photos.layers import blur, fill, grow
from fastreenact.synth.photos.parts import gaze_of, part_colours
from fastreenact.synth.photos.sheet import CANVAS, make_sheet

Array = NDArray[np.float32]
_DENSITY = 1.25  # texels a pixel of the frame, along a side
_ATLAS = 1.5  # side of the atlas against the frame's: about as dense where the face is
_ATLAS_END = 2 * np.sin(2.65 / 2)  # radius of the mesh's end in the atlas
_FACING = (0.12, 0.35)  # cosine between skin and view from which on, and to which, the photograph's colour counts
_SURE = 0.9  # share of the person in a pixel from which on its colour is theirs
_HIDDEN = 0.05  # model units behind the nearest surface
_LIGHT = 24  # texels along a side in which the light on the face is compared
_RAYS = 72  # directions in which the skull is brought to the outline of the hair


class PhotoHead(NamedTuple):
    """One photograph, ready to be rendered; about 1.7 MB for frames of 256."""

    shape: Array  # [50]
    pose: Array  # [6] in the photograph's box
    expression: Array  # [51]
    rest: Array  # [V, 3] skin, eyes and mouth of the mean face
    colours: Array  # [V, 3] 0..1, of eyes and mouth; the skin's are in the atlas
    atlas: NDArray[np.uint8]  # [A, A, 3] the skin
    sheet: NDArray[np.uint8]  # [C, C, 4] the person without the jaw, and how far each pixel is theirs
    plate: NDArray[np.uint8]  # [C, C, 3] the background
    depth: Array  # [NODES, NODES] of the sheet, model units in front of the head's centre
    follow: Array  # [NODES, NODES] share of the head's motion

    @property
    def nbytes(self) -> int:
        """Memory of all arrays."""
        return sum(array.nbytes for array in self)


class _Mesh(NamedTuple):
    """Skin, eyes and mouth of the generated heads."""

    rest: Array  # [V, 3]
    follow: Array  # [V, 72]
    triangles: Tensor  # [F, 3] int32
    skin: int  # the first so many vertices are skin
    atlas: Tensor  # [skin, 2] place in the atlas, -1..1
    solid: Array  # [V] opacity: at ears and nape the sheet shows, which has them as they are
    face: Array  # [V] 1 on the face
    behind: Array  # [V] how much farther away than it is a vertex counts


@functools.cache
def mesh() -> _Mesh:
    """The part of the generated heads' mesh that photographs are put on; the same object every time."""
    p, s = parts(), surface()
    count, skin = p.where["tongue"].stop, p.where["skin"].stop
    angle = np.linalg.norm(s.plane, axis=1, keepdims=True)
    atlas = s.plane * (2 * np.sin(angle / 2) / np.maximum(angle, 1e-9)) / _ATLAS_END * (1.0, -1.0)
    solid, face = np.ones((2, count), np.float32)
    _, y, z = s.rest.T
    solid[:skin] = np.maximum(smoothstep(z, -0.28, -0.08), smoothstep(y, 0.35, 0.9))
    face[:skin] = s.regions["face"]
    chosen = (p.triangles < count).all(axis=1)
    chosen[chosen] = solid[p.triangles[chosen]].any(axis=1)
    return _Mesh(
        p.rest[:count].astype(np.float32),
        p.follow[:count].astype(np.float32),
        torch.from_numpy(np.ascontiguousarray(p.triangles[chosen])),
        skin,
        torch.from_numpy(atlas.astype(np.float32)),
        solid,
        face,
        p.behind[:count].astype(np.float32),
    )


def pose_mesh(
    rest: Array, shape: Array, pose: Array, expression: Array, gaze: NDArray[np.float64] | None = None
) -> Array:
    """Vertices [V, 3] in camera axes, model units, before scale and translation; gaze: [2, 3, 3], the expression's."""
    model, m, where = default_model(), mesh(), parts().where
    x = rest + m.follow @ (model.points(shape, expression) - model.mean)
    calm = model.points(shape, np.zeros_like(expression))
    turns = gaze_rotations(expression) if gaze is None else gaze
    for side, (name, turn) in enumerate(zip(("left_eye", "right_eye"), turns, strict=True)):
        ball = m.rest[where[name]] - eye_centres(model.mean)[side]
        x[where[name]] = ball @ turn.T * eye_size(calm, side) + eye_centres(calm)[side]
    return np.asarray(x @ rotation_matrix(pose[:3]).T, np.float32)


def to_pixels(x: Array, pose: Array, side: int, margin: float = 1.0) -> Tensor:
    """Vertices [1, V, 3] for the rasterizer, in pixels of a picture of `margin` boxes."""
    unit = side / (2 * margin)
    scale = float(pose[5]) * unit
    px = x * np.array((scale, -scale, scale), np.float32)
    px[:, :2] += pose[3:5] * unit + side / 2
    return torch.from_numpy(px[None])


def prepare(
    image: NDArray[np.uint8],
    face: SourceFace,
    irises: Array | None,
    size: int,
    cut_out: Callable[[NDArray[np.uint8]], Array],
) -> PhotoHead:
    """Make a photograph's head movable.

    Args:
        image: uint8 [H, W, 3].
        face: as fitted to it.
        irises: [2, 2] px, the centres, image left first; None: the gaze is that of the fitted expression.
        size: of the frames, px; finer detail is not kept.
        cut_out: as `Cutout`.
    """
    box, m = face.box, mesh()
    side = int(min(size * _DENSITY, box.size) * CANVAS)
    canvas = crop(image, Box(box.cx, box.cy, box.size * CANVAS), side)
    picture = torch.from_numpy(canvas).permute(2, 0, 1).float() / 255
    cut = torch.from_numpy(cut_out(canvas))
    rest = _grow_hair(m.rest, face, cut)
    gaze = None if irises is None else gaze_of(face, irises)
    x = pose_mesh(rest, face.shape, face.pose, face.expression, gaze)
    px = to_pixels(x, face.pose, side, CANVAS)
    shown = torch.from_numpy(np.column_stack([x[:, 2], m.face, m.solid]))
    drawn, alpha = render_mesh(px, m.triangles, shown, (side, side))
    person = torch.maximum(cut, drawn[0, ..., 2])
    nearest = drawn[0, ..., 0] / alpha[0].clamp_min(1e-3)
    # The photograph is read where the tracker saw the keypoints, which the fit misses by a little.
    off = m.follow @ (face.tracked - face.keypoints) * (side / (2 * CANVAS))
    at = px[0, :, :2].numpy() + off
    atlas = _atlas(picture, cut, x, torch.from_numpy(at), nearest, int(size * _ATLAS))
    colours = part_colours(canvas, at, face, side / (2 * CANVAS))
    sheet, depth, follow = make_sheet(picture, person, face.pose, drawn[0], alpha[0])
    plate = fill(picture, (grow(person, side // 60) < 0.1).float())
    own = face.shape, face.pose, face.expression
    return PhotoHead(*own, rest, colours, _bytes(atlas), _bytes(sheet), _bytes(plate), depth, follow)


def _bytes(image: Tensor) -> NDArray[np.uint8]:
    """[C, H, W] 0..1 -> uint8 [H, W, C]."""
    return np.ascontiguousarray((image.clamp(0, 1) * 255 + 0.5).to(torch.uint8).permute(1, 2, 0).numpy())


def sample(image: Tensor, px: Tensor) -> Tensor:
    """[C, P] of a picture [C, H, W] at [P, 2] px, bilinear; the edge is repeated."""
    size = torch.tensor([image.shape[2], image.shape[1]])
    grid = (px * 2 / size - 1)[None, None]
    return functional.grid_sample(image[None], grid, align_corners=False, padding_mode="border")[0, :, 0]


def _grow_hair(rest: Array, face: SourceFace, person: Tensor) -> Array:
    """The skull above the ears, brought to the outline of hair or hat."""
    m, s = mesh(), surface()
    x = pose_mesh(rest, face.shape, face.pose, face.expression)[: m.skin]
    turn = rotation_matrix(face.pose[:3])
    centre = turn @ (0.0, 0.3, -0.35)
    out = x - centre
    angle, radius = np.arctan2(out[:, 1], out[:, 0]), np.hypot(out[:, 0], out[:, 1])
    bins = ((angle / (2 * np.pi) + 0.5) * _RAYS).astype(int) % _RAYS
    skull = np.zeros(_RAYS)
    np.maximum.at(skull, bins, radius)
    rays = (np.arange(_RAYS) + 0.5) / _RAYS * 2 * np.pi - np.pi
    along = np.linspace(0.6, 1.6, 60)
    reach = skull[:, None] * along  # [R, L]
    places = centre[:2] + reach[..., None] * np.stack([np.cos(rays), np.sin(rays)], -1)[:, None]
    unit = person.shape[0] / (2 * CANVAS)
    at = (places * (1, -1) * face.pose[5] + face.pose[3:5]) * unit + person.shape[0] / 2
    covered = sample(person[None], torch.from_numpy(at.reshape(-1, 2)).float()).reshape(_RAYS, -1).numpy() > 0.5
    ends = np.where(covered.all(1), 1.0, along[np.argmin(covered, axis=1)])
    factor = np.clip(ends - 0.03, 0.85, 1.3)
    factor = 1 + (factor - 1) * smoothstep(np.sin(rays), 0.1, 0.5)
    kernel = np.exp(-0.5 * (np.arange(-6, 7) / 2.5) ** 2)
    factor = np.convolve(np.concatenate([factor[-6:], factor, factor[:6]]), kernel / kernel.sum(), "valid")
    grown = smoothstep(np.linalg.norm(s.plane, axis=1), 0.95, 1.5)
    out *= ((np.interp(angle, rays, factor, period=2 * np.pi) - 1) * grown)[:, None]
    changed = rest.copy()
    changed[: m.skin] += out @ turn
    return changed


def _atlas(picture: Tensor, person: Tensor, x: Array, at: Tensor, nearest: Tensor, side: int) -> Tensor:
    """The skin's colours [3, side, side]: the photograph's, those of the other side, or a continuation."""
    m = mesh()
    triangles = m.triangles[(m.triangles < m.skin).all(1)].contiguous()
    flat = torch.cat([(m.atlas + 1) * side / 2, torch.zeros(m.skin, 1)], 1)[None]
    vertices = torch.from_numpy(x)
    normals = vertex_normals(vertices[: m.skin], triangles)
    solid = torch.from_numpy(m.solid[: m.skin, None])
    attributes = torch.cat([at[: m.skin], vertices[: m.skin, 2:], normals[:, 2:], solid], 1).float().contiguous()
    drawn, _ = render_mesh(flat.contiguous(), triangles, attributes, (side, side), supersample=1)
    place, deep, facing = drawn[0, ..., :2].reshape(-1, 2), drawn[0, ..., 2].reshape(-1), drawn[0, ..., 3]
    low, high = _FACING
    here = sample(torch.cat([picture, person[None], nearest[None]]), place)
    covered = (deep < here[4] - _HIDDEN).reshape(side, side)
    weight = ((facing - low) / (high - low)).clamp(0, 1) * drawn[0, ..., 4] * ~covered
    weight = weight * ((here[3].reshape(side, side) > _SURE) | (facing > 2 * high))
    colour = here[:3].reshape(3, side, side)
    # What one side hides the other may show, under other light.
    mirrored, other = colour.flip(2), weight.flip(1) * ((facing < 0) | covered)
    mixed = weight + (1 - weight) * other
    joined = colour * weight + (1 - weight) * other * mirrored * _ratio(colour, mirrored, weight * weight.flip(1))
    return fill(joined / mixed.clamp_min(1e-3), mixed)


def _ratio(colour: Tensor, other: Tensor, weight: Tensor) -> Tensor:
    """What light makes of one side of a face against the other: a smooth ratio of colours, where both are seen."""
    shrunk = functional.adaptive_avg_pool2d(torch.cat([colour * weight, other * weight, weight[None]])[None], _LIGHT)[0]
    ratio = ((shrunk[:3] + 1e-3) / (shrunk[3:6] + 1e-3)).clamp(0.5, 1.6)
    ratio = blur(fill(ratio, (shrunk[6] > 0.3).float()), 0.7)
    return functional.interpolate(ratio[None], colour.shape[1:], mode="bilinear", align_corners=False)[0]
