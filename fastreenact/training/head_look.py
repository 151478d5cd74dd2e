"""How a generated head looks: complexion, make-up, hair, clothes; all drawn from a random state, in linear light."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastreenact.face.expressions import smoothstep
from fastreenact.training.head_mesh import Array, surface
from fastreenact.training.head_parts import IRIS, PUPIL, parts

# sRGB, light to dark; measured by eye on photographs of portraits.
_SKIN = np.array([
    (0.93, 0.76, 0.69), (0.88, 0.69, 0.58), (0.78, 0.58, 0.46), (0.62, 0.43, 0.32), (0.45, 0.3, 0.22),
    (0.32, 0.21, 0.16),
])  # fmt: skip
_HAIR = np.array([
    (0.06, 0.05, 0.05), (0.13, 0.08, 0.06), (0.24, 0.15, 0.1), (0.36, 0.24, 0.15), (0.5, 0.27, 0.14), (0.66, 0.5, 0.31),
    (0.8, 0.68, 0.48), (0.55, 0.54, 0.53), (0.82, 0.81, 0.79),
])  # fmt: skip
_EYES = np.array([
    (0.2, 0.11, 0.06), (0.3, 0.18, 0.09), (0.36, 0.3, 0.16), (0.3, 0.38, 0.28), (0.33, 0.43, 0.52), (0.42, 0.45, 0.48),
])  # fmt: skip


class Look(NamedTuple):
    """One person's mesh at rest and its material."""

    rest: NDArray[np.float32]  # [V, 3] of the mean face; NaN: not there
    albedo: NDArray[np.float32]  # [V, 3] linear
    gloss: NDArray[np.float32]  # [V, 2] strength and exponent of the highlight
    texture: NDArray[np.float32]  # [V, 4] u, v, strength of the skin's texture, of the hair's
    face: NDArray[np.float32]  # [V] 1 on the face


def linear(colour: Any) -> Array:
    """sRGB as the square that stands for it here."""
    return np.asarray(colour, np.float64) ** 2


def waves(points: Array, rng: np.random.Generator, frequency: float, count: int = 12) -> Array:
    """A smooth random function [N] of points [N, D], about -1 to 1: a sum of plane waves."""
    directions = rng.normal(size=(count, points.shape[1]))
    directions *= (frequency * rng.uniform(0.5, 1.5, count) / np.linalg.norm(directions, axis=1))[:, None]
    return np.asarray(np.sin(points @ directions.T + rng.uniform(0, 2 * np.pi, count)).sum(axis=1) / np.sqrt(count / 2))


def _mix(base: Array, colour: Any, share: Array) -> Array:
    return base + (np.asarray(colour) - base) * np.clip(share, 0.0, 1.0)[:, None]


class _Traits:
    """What is drawn once for a person."""

    def __init__(self, rng: np.random.Generator):
        tone = rng.uniform(0, len(_SKIN) - 1)
        low = int(min(tone, len(_SKIN) - 2))
        jitter = rng.normal(0, 0.02, 3) + rng.normal(0, 0.03)
        self.skin = linear(np.clip(_SKIN[low] + (tone - low) * (_SKIN[low + 1] - _SKIN[low]) + jitter, 0.1, 0.98))
        self.female = rng.random() < 0.5
        self.age = rng.beta(1.6, 2.0)
        grey = rng.random() < self.age**2
        dark = int(tone > 3.0)
        hair = rng.integers(7, 9) if grey else rng.integers(0, 2 if dark else 7)
        self.hair = linear(np.clip(_HAIR[hair] * rng.uniform(0.85, 1.15) + rng.normal(0, 0.01, 3), 0.02, 0.9))
        if rng.random() < 0.04:
            self.hair = linear(rng.uniform(0.1, 0.8, 3))
        self.brow = self.hair * rng.uniform(0.4, 1.0) if not grey else linear(_HAIR[rng.integers(0, 8)])
        self.beard = 0.0 if self.female or rng.random() < 0.45 else rng.uniform(0.15, 1.0)
        own = 0.0 if self.female else rng.random() * (rng.random() < 0.5)
        self.moustache = self.beard if rng.random() < 0.7 else own
        self.makeup = rng.random() if self.female and rng.random() < 0.7 else 0.0
        self.length = rng.uniform(0.45, 1.0) if rng.random() < (0.75 if self.female else 0.12) else 0.0
        self.hair_volume = rng.uniform(0.08, 0.32) if self.length or self.female else rng.uniform(0.02, 0.26)
        self.bald = not self.female and rng.random() < 0.18
        self.glasses = rng.random() < 0.2
        self.freckles = rng.random() * (rng.random() < 0.3) * (tone < 2)


def person_look(rng: np.random.Generator) -> Look:
    """Draw a person's looks.

    Args:
        rng: its state decides everything.

    Returns:
        The mesh at rest and its material.
    """
    p, t = parts(), _Traits(rng)
    v = len(p.rest)
    rest, albedo = p.rest.copy(), np.zeros((v, 3))
    gloss = np.tile((0.05, 10.0), (v, 1))
    texture = np.column_stack([p.uv + rng.random(2), np.zeros((v, 2))])
    face = np.zeros(v)
    skin_texture = 0.02 + 0.05 * t.age + 0.04 * rng.random()

    def paint(name: str, colour: Array, shine: tuple[float, float], skin: float = 0.0, hair: float = 0.0) -> slice:
        where = p.where[name]
        albedo[where], gloss[where] = colour, shine
        texture[where, 2:] = skin, hair
        return where

    oil = rng.uniform(0.02, 0.09)
    paint("skin", _skin(t, rng), (oil, rng.uniform(6, 16)), skin_texture)
    s = surface()
    face[p.where["skin"]] = s.regions["face"]
    gloss[p.where["skin"]] += s.regions["lips"][:, None] * (rng.uniform(0.0, 0.12) + 0.1 * t.makeup, 10.0)
    iris = linear(np.clip(_EYES[rng.integers(len(_EYES) if t.skin[0] > 0.25 else 2)] * rng.uniform(0.8, 1.2), 0, 1))
    for name in ("left_eye", "right_eye"):
        face[paint(name, _eye(p.across[name], iris, rng), (0.9, 120.0))] = 1.0
    depth = p.across["mouth"][:, :1]
    face[paint("mouth", linear((0.5, 0.2, 0.19)) * (1 - 0.93 * smoothstep(depth, 0.0, 0.8)), (0.0, 10.0))] = 1.0
    enamel = linear(np.array((0.9, 0.87, 0.8)) * rng.uniform(0.8, 1.0))
    for name in ("upper_teeth", "lower_teeth"):
        face[paint(name, _teeth(p.across[name], enamel, name == "upper_teeth"), (0.15, 30.0))] = 1.0
    face[paint("tongue", np.broadcast_to(linear((0.66, 0.32, 0.32)), (1, 3)) * 0.8, (0.1, 20.0))] = 1.0
    for name in ("left_ear", "right_ear"):
        radius = p.across[name][:, 0]
        inner = smoothstep(radius, 0.75, 0.35)[:, None]
        paint(name, t.skin * (1.0, 0.86, 0.82) * (1 - 0.55 * inner), (oil, 10.0), skin_texture)
    down = p.across["neck"][:, :1]
    paint("neck", t.skin * (0.45 + 0.45 * smoothstep(down, 0.25, 0.8)), (oil / 2, 10.0), skin_texture)
    _clothe(rest, paint, t, rng)
    _grow_hair(rest, texture, paint, t, rng)
    frame = linear(rng.uniform(0.02, 0.25, 3) if rng.random() < 0.7 else rng.uniform(0.2, 0.8, 3))
    paint("glasses", frame, (0.5, 30.0))
    if not t.glasses:
        rest[p.where["glasses"]] = np.nan
    return Look(*(a.astype(np.float32) for a in (rest, np.clip(albedo, 0, 1), gloss, texture, face)))


def _skin(t: _Traits, rng: np.random.Generator) -> Array:
    """[V, 3] the colour of the skin, brows, lips and make-up."""
    s = surface()
    r, rest = s.regions, s.rest
    uneven = 1 + 0.05 * waves(rest, rng, 4.0) + 0.04 * waves(rest, rng, 11.0)
    base = t.skin * uneven[:, None]
    red = t.skin * (1.08, 0.68, 0.66)
    base = _mix(base, red, 0.5 * rng.random() * r["cheek"] + 0.4 * rng.random() * r["nose"])
    base = _mix(base, linear(rng.uniform((0.5, 0.15, 0.2), (0.9, 0.4, 0.5))), 0.35 * t.makeup * r["cheek"])
    spots = smoothstep(waves(rest, rng, 38.0, 24) + 0.4 * waves(rest, rng, 70.0, 24), 1.1, 1.5)
    base = _mix(base, t.skin * (0.62, 0.42, 0.32), 0.8 * t.freckles * spots * np.maximum(r["cheek"], r["nose"]))
    tired = 0.25 + 0.5 * rng.random() * t.age
    base = _mix(base, t.skin * (0.6, 0.48, 0.5), tired * r["under_eye"] + 0.4 * r["socket"])
    base = _mix(base, t.skin * 0.45, (0.1 + 0.4 * t.age) * r["crease"])
    if t.age > 0.5:
        x, y, _ = rest.T
        forehead = smoothstep(y, 0.85, 0.95) * smoothstep(y, 1.45, 1.3) * smoothstep(np.abs(x), 0.65, 0.45)
        lines = smoothstep(np.sin(y * 38 + 0.6 * waves(rest, rng, 3.0)), 0.5, 1.0)
        base = _mix(base, t.skin * 0.5, (t.age - 0.4) * lines * forehead)
    base = _mix(base, t.brow, 0.55 * t.beard * r["beard"] * (t.beard < 0.5) + 0.5 * t.moustache * r["moustache"])
    shadow = linear(rng.uniform(0.15, 0.6, 3))
    base = _mix(base, shadow, 0.6 * t.makeup * (rng.random() < 0.6) * r["lid"])
    lip = t.skin * (0.95, 0.52, 0.52) if t.makeup < 0.3 else linear(rng.uniform((0.45, 0.08, 0.12), (0.85, 0.3, 0.4)))
    base = _mix(base, lip, (0.75 + 0.2 * t.makeup) * r["lips"])
    thick = rng.uniform(0.42, 0.72) + 0.12 * t.female  # the share of the width that has no hair
    hairs = smoothstep(r["brow"] + 0.12 * waves(rest, rng, 60.0), thick - 0.12, thick + 0.15)
    base = _mix(base, t.brow, rng.uniform(0.5, 0.9) * hairs)
    base = _mix(base, linear((0.07, 0.05, 0.05)), (0.6 + 0.4 * t.makeup) * r["lash"] + 0.9 * r["nostril"])
    return base * (1 - 0.5 * r["under_chin"])[:, None]


def _eye(across: Array, iris: Array, rng: np.random.Generator) -> Array:
    """[v, 3] sclera, iris with rays and a dark rim, pupil."""
    polar, azimuth = across.T
    white = linear(np.array((0.82, 0.79, 0.77)) * rng.uniform(0.9, 1.05))
    rays = 1 + 0.25 * np.sin(azimuth * 7 + rng.uniform(0, 6)) * np.sin(azimuth * 11 + rng.uniform(0, 6))
    colour = _mix(np.broadcast_to(white, (len(polar), 3)), linear((0.5, 0.3, 0.28)), 0.7 * smoothstep(polar, 0.75, 1.2))
    inner = iris * rays[:, None] * (1.25 - 0.8 * smoothstep(polar, 0.28, IRIS))[:, None]
    colour = np.where((polar < IRIS)[:, None], inner, colour)
    colour = colour * (1 - 0.55 * smoothstep(np.sin(polar) * np.sin(azimuth), 0.0, 0.5))[:, None]  # under the upper lid
    return np.where((polar < PUPIL)[:, None], 0.004, colour)


def _teeth(across: Array, enamel: Array, upper: bool) -> Array:
    """[v, 3] teeth with gaps between and gums at their roots."""
    edge = across[:, 0] if upper else 1 - across[:, 0]
    gap = (np.arange(len(edge)) % 41 % 4 == 2) * 0.5
    dim = (1 - 0.75 * smoothstep(np.abs(across[:, 1] - 0.5), 0.15, 0.5))[:, None]
    gums = _mix(enamel * (1 - gap)[:, None], linear((0.72, 0.38, 0.38)), smoothstep(edge, 0.3, 0.1))
    return gums * dim * (0.85 if upper else 0.7)


def _clothe(rest: Array, paint: Any, t: _Traits, rng: np.random.Generator) -> None:
    """A garment of one colour, striped, or with a darker half; wider or narrower shoulders; a lower or higher neck."""
    p = parts()
    where = p.where["torso"]
    across = p.across["torso"]
    rest[where] *= (rng.uniform(0.82, 1.05) * (0.93 if t.female else 1.05), 1.0, 1.0)
    cloth = linear(rng.uniform(0.03, 0.95, 3) if rng.random() < 0.6 else np.repeat(rng.uniform(0.03, 0.95), 3))
    colour = np.broadcast_to(cloth, (len(across), 3))
    kind = rng.integers(4)
    other = linear(rng.uniform(0.03, 0.95, 3))
    if kind == 0:
        colour = _mix(colour, other, (np.sin(across[:, 1] * 2 * np.pi * rng.integers(3, 10)) > 0.2).astype(float))
    elif kind == 1:  # an open jacket
        colour = _mix(colour, other, smoothstep(np.abs(np.mod(across[:, 1] + 0.5, 1) - 0.5), 0.09, 0.06))
    low = rng.random() if t.female else rng.random() * 0.6
    neckline = smoothstep(across[:, 0], 0.1 + 0.35 * low, 0.05 + 0.35 * low) * (np.cos(across[:, 1] * 2 * np.pi) > 0.2)
    colour = _mix(colour, t.skin, neckline * (low > 0.3))
    paint("torso", colour, (0.02, 8.0), skin=rng.uniform(0.03, 0.15))


def _grow_hair(rest: Array, texture: Array, paint: Any, t: _Traits, rng: np.random.Generator) -> None:
    """Hair and beard lie over the skin where they are thicker than nothing; a curtain of long hair hangs behind."""
    p, s = parts(), surface()
    x, y, z = s.rest.T
    line = rng.uniform(1.12, 1.42) + 0.2 * t.age * (not t.female) - (0.45 if rng.random() < 0.15 else 0.0)
    parted = rng.uniform(-0.6, 0.6)
    front = (y - line + rng.uniform(0.1, 0.5) * (x - parted * 0.5) ** 2 * smoothstep(z, 0.0, 0.5)) / 0.25
    sides = (rng.uniform(-0.12, 0.08) + 0.45 * smoothstep(y, 0.35, 1.15) - z) / 0.3
    sides = np.minimum(sides, (y + (0.9 if t.length else 0.55)) / 0.2)
    grown = np.maximum(np.minimum(front, (y - 0.6) / 0.1), sides)
    if t.bald:
        grown = np.minimum(sides, (rng.uniform(0.7, 1.25) - y) / 0.25)
    grown = grown + 0.2 * waves(s.rest, rng, 7.0) + 0.07 * waves(s.rest, rng, 22.0)
    volume = t.hair_volume * (1 + 0.35 * waves(s.rest, rng, 3.0)) * (1 + 0.5 * smoothstep(y, 0.8, 1.7))
    thickness = np.where(grown > 0, volume * np.tanh(grown * 0.9), np.maximum(0.2 * grown, -0.04))
    beard = np.full(len(x), -0.5)
    for region, strength in (("beard", t.beard), ("moustache", 0.5 * t.moustache)):
        if strength >= 0.25 + 0.25 * (region == "beard"):
            beard = np.maximum(beard, (s.regions[region] - 0.5) * strength)
    beard = np.clip(0.2 * beard, -0.04, None) * (1 + 0.25 * waves(s.rest, rng, 20.0))
    thickness = np.maximum(thickness, beard)
    directions = s.rest / np.linalg.norm(s.rest, axis=1, keepdims=True)
    shell = s.rest + directions * thickness[:, None]
    bare = thickness < 0
    near = np.zeros(len(bare), bool)
    mixed = s.triangles[(~bare)[s.triangles].any(axis=1)]
    near[mixed] = True
    shell[~near] = np.nan
    rest[p.where["hair"]] = shell
    roots = 0.65 + 0.35 * smoothstep(thickness, 0.0, 0.12)
    shine = (rng.uniform(0.03, 0.15), 9.0)
    where = paint("hair", t.hair * roots[:, None], shine, hair=rng.uniform(0.2, 0.45))
    texture[where, :2] *= (rng.uniform(0.7, 1.6), rng.uniform(0.5, 3.0))
    where = paint("curtain", np.broadcast_to(t.hair, (1, 3)) * 0.8, shine, hair=rng.uniform(0.2, 0.45))
    if not t.length or t.bald:
        rest[where] = np.nan
        return
    down, along = p.across["curtain"].T
    wavy = rng.uniform(0, 0.08) * waves(rest[where], rng, 6.0)
    rest[where, 1] = 1.0 - (1.0 + 2.4 * t.length + 0.12 * waves(rest[where][:, ::2], rng, 12.0)) * down
    within = 0.22 * smoothstep(down, 0.3, 0.05)  # it starts under the hair of the head
    rest[where, ::2] *= (1.0 + wavy - within + t.hair_volume * 0.6 * (1 - 0.3 * down))[:, None]
    rest[where, 2] += 0.25 * smoothstep(down, 0.5, 1.0) * (np.abs(along - 0.5) > 0.3)
