"""How a generated head looks: the material of all its parts, drawn from a random state, in linear light."""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastreenact.face.morphable.expressions import smoothstep
from fastreenact.synth.heads import hair as head_hair
from fastreenact.synth.heads.mesh import Array, surface
from fastreenact.synth.heads.parts import IRIS, PUPIL, parts
from fastreenact.synth.heads.skin import draw_skin
from fastreenact.synth.heads.traits import Traits, linear

# sRGB; measured by eye on photographs of portraits.
_EYES = np.array([
    (0.2, 0.11, 0.06), (0.3, 0.18, 0.09), (0.36, 0.3, 0.16), (0.3, 0.38, 0.28), (0.33, 0.43, 0.52), (0.42, 0.45, 0.48),
])  # fmt: skip


class Look(NamedTuple):
    """One person's mesh at rest and its material: of the V vertices of all parts the v that the person has."""

    kept: NDArray[np.intp]  # [v] which these are
    triangles: Tensor  # [f, 3] int32
    casting: Tensor  # [c, 3] int32: the triangles that cast shadows
    rest: NDArray[np.float32]  # [v, 3] of the mean face
    albedo: NDArray[np.float32]  # [v, 3] linear; of the skin of the face the picture `skin` says it
    gloss: NDArray[np.float32]  # [v, 2] strength and exponent of the highlight
    open: NDArray[np.float32]  # [v] how much of the light from all around arrives
    texture: NDArray[np.float32]  # [v, 5] u, v, strength of the texture of skin, of hair, of cloth
    tangent: NDArray[np.float32]  # [v, 3] unit, along the hair; 0 elsewhere
    face: NDArray[np.float32]  # [v] 1 on the face
    skin: Tensor  # [3, H, W] the skin of the face, linear
    wrinkles: float  # how strongly expressions wrinkle it


def _mix(base: Array, colour: Any, share: Array) -> Array:
    return base + (np.asarray(colour) - base) * np.clip(share, 0.0, 1.0)[:, None]


class _Canvas:
    """The arrays of a look while they are painted, part by part."""

    def __init__(self, rng: np.random.Generator, openness: NDArray[np.float32]):
        p = parts()
        v = len(p.rest)
        self.rest, self.albedo, self.face = p.rest.copy(), np.zeros((v, 3)), np.zeros(v)
        self.gloss = np.tile((0.05, 10.0), (v, 1))
        self.open = openness.astype(np.float64)
        self.texture = np.column_stack([p.uv + rng.random(2), np.zeros((v, 3))])
        self.tangent = np.zeros((v, 3))
        self.hidden = np.zeros(v, bool)  # under hair or cloth

    def paint(
        self,
        name: str,
        colour: Any,
        shine: tuple[float, float],
        *,
        skin: float = 0.0,
        hair: float = 0.0,
        cloth: float = 0.0,
        face: float = 0.0,
    ) -> slice:
        where = parts().where[name]
        self.albedo[where], self.gloss[where], self.face[where] = colour, shine, face
        self.texture[where, 2:] = skin, hair, cloth
        return where

    def leave_out(self, *names: str) -> None:
        for name in names:
            self.rest[parts().where[name]] = np.nan


def person_look(rng: np.random.Generator, openness: NDArray[np.float32]) -> Look:
    """Draw a person's looks.

    Args:
        rng: its state decides everything.
        openness: [V] how much of the light from all around arrives at the mean head.

    Returns:
        The mesh at rest and its material.
    """
    t = Traits(rng)
    canvas = _Canvas(rng, openness)
    skin = draw_skin(t, rng)
    _face(canvas, t, rng)
    _clothe(canvas, t, rng)
    _cover(canvas, t, rng)
    _wear(canvas, t, rng)
    return _look(canvas, skin, float(0.4 + 1.1 * t.age))


def _look(canvas: _Canvas, skin: Tensor, wrinkles: float) -> Look:
    """What is painted, without what is not there."""
    p, c = parts(), canvas
    there = ~np.isnan(c.rest[:, 0])
    number = np.cumsum(there) - 1
    of_strands = (p.triangles[:, 0] >= p.where["strands"].start) & (p.triangles[:, 0] < p.where["strands"].stop)
    whole = there[p.triangles].all(axis=1) & ~c.hidden[p.triangles].all(axis=1)
    chosen, casting = (torch.from_numpy(number[p.triangles[k]].astype(np.int32)) for k in (whole, whole & ~of_strands))
    c.texture[:, :2] += 8.0  # above 0, whatever it was stretched by
    rest, albedo, gloss, opened, texture, tangent, face = (
        a[there].astype(np.float32) for a in (c.rest, c.albedo, c.gloss, c.open, c.texture, c.tangent, c.face)
    )
    return Look(
        np.flatnonzero(there), chosen, casting, rest, albedo, gloss, opened, texture, tangent, face, skin, wrinkles
    )


def _face(canvas: _Canvas, t: Traits, rng: np.random.Generator) -> None:
    """Skin, ears and neck, eyes, the mouth."""
    p, s = parts(), surface()
    oil, rough = rng.uniform(0.02, 0.1), 0.03 + 0.05 * t.age + 0.05 * rng.random()
    where = canvas.paint("skin", 1.0, (oil, rng.uniform(7, 20)), skin=rough)
    canvas.face[where] = s.regions["face"]
    canvas.gloss[where, 0] *= 0.6 + 0.7 * s.regions["oily"]
    canvas.gloss[where] += s.regions["lips"][:, None] * (rng.uniform(0.03, 0.2) + 0.2 * t.makeup * rng.random(), 14.0)
    iris = linear(np.clip(_EYES[rng.integers(len(_EYES) if t.skin[0] > 0.25 else 2)] * rng.uniform(0.8, 1.2), 0, 1))
    for name in ("left_eye", "right_eye"):
        canvas.paint(name, eye_colours(p.across[name], iris, rng), (1.1, 150.0), face=1.0)
    depth = p.across["mouth"][:, :1]
    canvas.paint("mouth", linear((0.5, 0.2, 0.19)) * (1 - 0.96 * smoothstep(depth, 0.0, 0.6)), (0.0, 10.0), face=1.0)
    enamel = linear(np.array((0.95, 0.9, 0.82)) * rng.uniform(0.75, 1.0))
    for name in ("upper_teeth", "lower_teeth"):
        canvas.paint(name, teeth_colours(p.across[name], enamel, name == "upper_teeth"), (0.3, 40.0), face=1.0)
    canvas.paint("tongue", linear((0.66, 0.32, 0.32)) * 0.8, (0.15, 20.0), face=1.0, skin=0.1)
    for name in ("left_ear", "right_ear"):
        radius = p.across[name][:, 0]
        inner = smoothstep(radius, 0.75, 0.35)[:, None]
        canvas.paint(name, t.skin * (1.0, 0.82, 0.78) * (1 - 0.5 * inner), (oil, 10.0), skin=rough)
    where = canvas.paint("neck", t.skin * (0.95, 0.9, 0.9), (oil / 2, 10.0), skin=rough)
    canvas.rest[where, 0] *= rng.uniform(0.85, 1.0) if t.female else rng.uniform(0.95, 1.15)


def eye_colours(across: Array, iris: Array, rng: np.random.Generator) -> Array:
    """[v, 3] sclera, iris with rays and a dark rim, pupil."""
    polar, azimuth = across.T
    white = linear(np.array((0.8, 0.76, 0.74)) * rng.uniform(0.8, 1.05))
    rays = 1 + 0.3 * np.sin(azimuth * 7 + rng.uniform(0, 6)) * np.sin(azimuth * 11 + rng.uniform(0, 6))
    colour = _mix(np.broadcast_to(white, (len(polar), 3)), linear((0.6, 0.36, 0.33)), 0.8 * smoothstep(polar, 0.6, 1.1))
    inner = iris * rays[:, None] * (1.35 - 1.0 * smoothstep(polar, 0.28, IRIS))[:, None]
    colour = np.where((polar < IRIS)[:, None], inner, colour)
    colour = (
        colour * (1 - 0.65 * smoothstep(np.sin(polar) * np.sin(azimuth), 0.05, 0.45))[:, None]
    )  # under the upper lid
    return np.where((polar < PUPIL)[:, None], 0.004, colour)


def teeth_colours(across: Array, enamel: Array, upper: bool) -> Array:
    """[v, 3] teeth with gaps between and gums at their roots."""
    edge = across[:, 0] if upper else 1 - across[:, 0]
    column = np.round(across[:, 1] * 40).astype(int)
    gap = (column % 4 == 2) * 0.3
    tone = 0.96 + 0.07 * np.sin(12.9 * (column // 4))
    dim = (1 - 0.8 * smoothstep(np.abs(across[:, 1] - 0.5), 0.12, 0.5))[:, None]
    gums = _mix(enamel * ((1 - gap) * tone)[:, None], linear((0.72, 0.38, 0.38)), smoothstep(edge, 0.3, 0.1))
    return gums * dim * (0.75 if upper else 0.55)


def _clothe(canvas: _Canvas, t: Traits, rng: np.random.Generator) -> None:
    """A garment of one colour, striped, or open; wider or narrower shoulders; a lower or higher neck."""
    where, across = parts().where["torso"], parts().across["torso"]
    canvas.rest[where] *= (rng.uniform(0.82, 1.05) * (0.93 if t.female else 1.05), 1.0, 1.0)
    cloth = _cloth(rng)
    colour = np.broadcast_to(cloth, (len(across), 3))
    kind, other = rng.integers(4), _cloth(rng)
    if kind == 0:
        colour = _mix(colour, other, (np.sin(across[:, 1] * 2 * np.pi * rng.integers(3, 10)) > 0.2).astype(float))
    elif kind == 1:  # an open jacket
        colour = _mix(colour, other, smoothstep(np.abs(np.mod(across[:, 1] + 0.5, 1) - 0.5), 0.09, 0.06))
    low = rng.random() if t.female else rng.random() * 0.6
    cut = 0.1 + 0.35 * low
    neckline = smoothstep(across[:, 0], cut, cut - 0.05) * (np.cos(across[:, 1] * 2 * np.pi) > 0.2) * (low > 0.3)
    folds = 1 + rng.uniform(0.05, 0.3) * head_hair.waves(canvas.rest[where], rng, 5.0)
    colour = _mix(colour * folds[:, None], t.skin, neckline)
    canvas.paint("torso", np.clip(colour, 0.003, 1.0), (0.02, 8.0))
    canvas.texture[where, 2] = 0.08 * neckline
    canvas.texture[where, 4] = rng.uniform(0.03, 0.22) * (1 - neckline)
    canvas.texture[where, :2] *= rng.uniform(0.8, 2.5)


def _cloth(rng: np.random.Generator) -> Array:
    return linear(rng.uniform(0.03, 0.95, 3) if rng.random() < 0.5 else np.repeat(rng.uniform(0.03, 0.95), 3))


def _cover(canvas: _Canvas, t: Traits, rng: np.random.Generator) -> None:
    """Hair, beard, hat; and the shadow they leave on the skin next to them."""
    p = parts()
    hair = head_hair.grow(t, rng)
    where = p.where["hair"]
    canvas.rest[where] = hair.shell
    roots = (0.5 + 0.5 * smoothstep(hair.thickness, 0.0, 0.1)) * (1 + 0.15 * head_hair.waves(hair.shell, rng, 14.0))
    shine = (float(rng.uniform(0.02, 0.14)), float(rng.uniform(15, 60)))
    canvas.paint("hair", np.clip(t.hair * np.nan_to_num(roots)[:, None], 0, 1), shine, hair=rng.uniform(0.15, 0.45))
    canvas.tangent[where] = hair.shell_tangents
    canvas.texture[where, :2] *= (rng.uniform(0.7, 1.6), rng.uniform(0.5, 3.0))
    canvas.albedo[where][hair.beard] *= 0.9
    cloth = _cloth(rng)
    if t.hat:
        _fill(canvas, where, hair.cap, cloth, rng)
    near = smoothstep(hair.thickness, -0.04, 0.01)  # hair keeps light from the skin around it
    canvas.open[p.where["skin"]] *= 1 - 0.55 * near
    stubbly = 0.75 * smoothstep(hair.thickness, -0.035, 0.0) * ~hair.cap  # hairs too single to be strands
    tone = np.clip(t.hair / t.skin, 0.02, 2.0)
    canvas.albedo[p.where["skin"]] = 1 + (tone - 1) * stubbly[:, None]
    canvas.hidden[p.where["skin"]] = hair.thickness > 0.04
    where = canvas.paint("strands", head_hair.strand_colours(t, rng), (0.8 * shine[0], shine[1]), hair=0.15)
    canvas.rest[where] = hair.strands.reshape(-1, 3)
    canvas.tangent[where] = hair.strand_tangents.repeat(2, axis=1).reshape(-1, 3)
    where = canvas.paint("curtain", t.hair * 0.8, shine, hair=rng.uniform(0.2, 0.5))
    canvas.tangent[where] = (0.0, -1.0, 0.0)
    if t.hat == "scarf":
        canvas.rest[where] = head_hair.long_hair(t, rng)
        _fill(canvas, where, np.ones(where.stop - where.start, bool), cloth, rng)
    elif t.length and not t.bald:
        canvas.rest[where] = head_hair.long_hair(t, rng)
    else:
        canvas.leave_out("curtain")
    if t.hat in ("cap", "brim"):
        _brim(canvas, t, cloth * rng.uniform(0.6, 1.1), rng)
    else:
        canvas.leave_out("brim")


def _fill(canvas: _Canvas, where: slice, mask: NDArray[np.bool_], cloth: Array, rng: np.random.Generator) -> None:
    """Make vertices of a part cloth."""
    index = np.arange(where.start, where.stop)[mask]
    folds = 1 + rng.uniform(0.0, 0.25) * head_hair.waves(canvas.rest[index], rng, 8.0)
    canvas.albedo[index] = np.clip(cloth * np.nan_to_num(folds, nan=1.0)[:, None], 0.003, 1)
    canvas.tangent[index], canvas.gloss[index] = 0.0, (0.02, 8.0)
    canvas.texture[index, 2:] = 0.0, 0.0, rng.uniform(0.05, 0.25)


def _brim(canvas: _Canvas, t: Traits, cloth: Array, rng: np.random.Generator) -> None:
    where, across = parts().where["brim"], parts().across["brim"]
    out, azimuth = across[:, 0], (across[:, 1] - 0.5) * 2 * np.pi
    wide = rng.uniform(0.3, 0.7)
    reach = out * (wide if t.hat == "brim" else 0.75 * smoothstep(np.cos(azimuth), 0.35, 0.8))
    x, z = (1.12 + reach) * np.sin(azimuth), -0.25 + (1.32 + reach) * np.cos(azimuth)
    y = 0.62 + 0.38 * z - 0.25 * reach * (1 + 0.3 * np.cos(2 * azimuth))
    canvas.rest[where] = np.column_stack([x, y, z])
    canvas.paint("brim", np.clip(cloth, 0.003, 1), (0.02, 8.0), cloth=0.1)


def _wear(canvas: _Canvas, t: Traits, rng: np.random.Generator) -> None:
    """Glasses, headphones, earrings."""
    dark = linear(rng.uniform(0.02, 0.25, 3) if rng.random() < 0.7 else rng.uniform(0.2, 0.8, 3))
    canvas.paint("glasses", dark, (0.6, 30.0))
    canvas.paint("phones", linear(np.repeat(rng.uniform(0.05, 0.95), 3)), (0.3, 20.0))
    metal = linear(np.array((0.8, 0.65, 0.35)) if rng.random() < 0.5 else np.repeat(0.75, 3))
    where = canvas.paint("earrings", metal, (1.2, 25.0))
    size = rng.uniform(0.2, 1.3)
    lobe = np.array([1.08, -0.22, -0.2])
    side = np.sign(canvas.rest[where, :1])
    canvas.rest[where] = (
        side * (1, 0, 0) * lobe
        + lobe * (0, 1, 1)
        + size * (canvas.rest[where] - side * (1, 0, 0) * lobe - lobe * (0, 1, 1))
    )
    worn = {"glasses": t.glasses, "phones": t.phones, "earrings": t.earrings and t.hat != "scarf"}
    canvas.leave_out(*(name for name, there in worn.items() if not there))
