"""Hair of a generated head: a shell over the scalp, strands combed over it, a curtain of long hair, beards, hats."""

import functools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastreenact.face.morphable.expressions import smoothstep
from fastreenact.synth.heads.mesh import Array, Surface, surface, to_plane
from fastreenact.synth.heads.parts import BEARD_STRANDS, SCALP_STRANDS, STRAND_NODES, parts, strand_roots
from fastreenact.synth.heads.traits import Traits

_CELLS, _REACH = 96, 2.65  # of the table of directions, rad
STYLES = ("crown", "part", "back", "up", "curly")


class Hair(NamedTuple):
    """A person's hair on the mean head."""

    shell: Array  # [V, 3] over the skin's vertices; NaN: none
    thickness: Array  # [V] how far it lies above the skin, negative where there is none
    cap: NDArray[np.bool_]  # [V] where the shell is a hat or a scarf
    beard: NDArray[np.bool_]  # [V] where it is a beard
    strands: Array  # [S, STRAND_NODES, 2, 3]; NaN: none
    shell_tangents: Array  # [V, 3] unit, the way the hair is combed
    strand_tangents: Array  # [S, STRAND_NODES, 3]


def waves(points: Array, rng: np.random.Generator, frequency: float, count: int = 12) -> Array:
    """A smooth random function [N] of points [N, D], about -1 to 1: a sum of plane waves."""
    directions = rng.normal(size=(count, points.shape[1]))
    directions *= (frequency * rng.uniform(0.5, 1.5, count) / np.linalg.norm(directions, axis=1))[:, None]
    return np.asarray(np.sin(points @ directions.T + rng.uniform(0, 2 * np.pi, count)).sum(axis=1) / np.sqrt(count / 2))


@functools.cache
def _directions() -> tuple[Array, NDArray[np.intp], Array]:
    """Unit directions [V, 3] of the skin; the vertex nearest to each cell of the plane [96 * 96]; radius [V]."""
    s = surface()
    radius = np.linalg.norm(s.rest, axis=1)
    seen = to_plane(s.rest)
    at = (np.arange(_CELLS) + 0.5) / _CELLS * 2 * _REACH - _REACH
    cells = np.stack(np.meshgrid(at, at), axis=-1).reshape(-1, 2)
    nearest = ((seen**2).sum(1) - 2 * cells @ seen.T).argmin(axis=1)
    return s.rest / radius[:, None], nearest, radius


def _radius(points: Array, radii: Array) -> Array:
    """The shell's radius [N] in the directions of points [N, 3]."""
    cell = ((to_plane(points) + _REACH) * (_CELLS / (2 * _REACH))).astype(int).clip(0, _CELLS - 1)
    return np.asarray(radii[_directions()[1][cell[:, 1] * _CELLS + cell[:, 0]]])


def _combed(points: Array, style: str, parting: float) -> Array:
    """The way hair goes [N, 3] at points [N, 3], along the head; unit."""
    x, y, z = points.T
    if style == "part":
        way = np.column_stack(
            [np.tanh((x - parting) / 0.12) * 1.0, -0.35 - 0.6 * (y < 1.0), 0.25 * (z > 0.4) - 0.3 * (z < -0.3)]
        )
    elif style in ("back", "up"):
        way = np.column_stack([0.15 * x, 0.2 - 0.8 * (y < 0.8), -np.ones_like(x)])
    else:
        way = points - (0.1 * parting, 2.4, -0.45)
    out = points / np.linalg.norm(points, axis=1, keepdims=True)
    way = way - (way * out).sum(1, keepdims=True) * out
    return np.asarray(way / np.linalg.norm(way, axis=1, keepdims=True).clip(1e-6))


def _grown(t: Traits, rng: np.random.Generator, s: Surface, line: float) -> Array:
    """[V] above 0 where hair grows on the head."""
    x, y, z = s.rest.T
    parted = rng.uniform(-0.6, 0.6)
    front = (y - line + rng.uniform(0.0, 0.4) * (x - parted * 0.5) ** 2 * smoothstep(z, 0.0, 0.5)) / 0.25
    sides = (rng.uniform(-0.12, 0.08) + 0.45 * smoothstep(y, 0.35, 1.15) - z) / 0.3
    sides = np.minimum(sides, (y + (0.9 if t.length else 0.55)) / 0.2)
    grown = np.maximum(np.minimum(front, (y - 0.6) / 0.1), sides)
    if t.bald:
        grown = np.minimum(sides, (rng.uniform(0.7, 1.25) - y) / 0.25)
    return np.asarray(grown + 0.12 * waves(s.rest, rng, 7.0) + 0.1 * waves(s.rest, rng, 26.0))


def _hat(t: Traits, rng: np.random.Generator, s: Surface) -> Array:
    """[V] above 0 where a hat or a scarf lies."""
    _, y, z = s.rest.T
    if t.hat == "scarf":
        face = np.hypot(s.plane[:, 0] / rng.uniform(1.0, 1.25), (s.plane[:, 1] + 0.12) / rng.uniform(1.05, 1.2))
        return np.asarray((face - 1.0) * 3)
    return np.asarray((y - rng.uniform(0.5, 0.75) - 0.4 * z + 0.02 * waves(s.rest, rng, 9.0)) * 5)


def grow(t: Traits, rng: np.random.Generator) -> Hair:
    """Somebody's hair, beard and hat."""
    s = surface()
    directions, _, radius = _directions()
    line = rng.uniform(1.12, 1.38) + 0.2 * t.age * (not t.female)
    if rng.random() < 0.25:  # bangs
        line = rng.uniform(0.8, 1.05)
    grown = _grown(t, rng, s, line)
    volume = t.volume * (1 + 0.35 * waves(s.rest, rng, 3.0)) * (1 + 0.5 * smoothstep(s.rest[:, 1], 0.8, 1.7))
    thickness = np.where(grown > 0, volume * np.tanh(grown * 0.9), np.maximum(0.2 * grown, -0.04))
    beard = np.full(len(radius), -0.5)
    for region, strength in (("beard", t.beard), ("moustache", 0.5 * t.moustache)):
        if strength >= 0.2 + 0.25 * (region == "beard"):
            beard = np.maximum(beard, (s.regions[region] - 0.5) * strength)
    beard = np.clip(0.2 * beard, -0.04, None) * (1 + 0.25 * waves(s.rest, rng, 20.0))
    cap = np.zeros(len(radius), bool)
    is_beard = (beard > thickness) & (beard > -0.02)
    thickness = np.maximum(thickness, beard)
    if t.hat:
        hat = _hat(t, rng, s)
        cap = hat > -0.3
        over = np.where(hat > 0, (0.06 + 0.5 * t.volume + 0.03 * waves(s.rest, rng, 5.0)) * np.tanh(hat), -0.04)
        thickness = np.where(cap, over, thickness)
    shell = s.rest + directions * thickness[:, None]
    kept = np.zeros(len(radius), bool)
    kept[s.triangles[(thickness >= 0)[s.triangles].any(axis=1)]] = True
    shell[~kept] = np.nan
    style = str(rng.choice(STYLES, p=(0.4, 0.25, 0.2, 0.0, 0.15) if t.length else (0.25, 0.25, 0.2, 0.15, 0.15)))
    parting = float(rng.choice((rng.uniform(-0.5, 0.5), 0.0)))
    combed = _combed(s.rest, style, parting)
    strands, tangents = _comb(t, rng, style, parting, line, radius + np.maximum(thickness, 0.0), grown, thickness, cap)
    return Hair(shell, thickness, cap, is_beard, strands, combed, tangents)


def _comb(
    t: Traits,
    rng: np.random.Generator,
    style: str,
    parting: float,
    line: float,
    radii: Array,
    grown: Array,
    thickness: Array,
    cap: NDArray[np.bool_],
) -> tuple[Array, Array]:
    """Strands [S, N, 2, 3] from their roots along the comb over the shell; their tangents [S, N, 3]."""
    directions = _directions()[0]
    roots = strand_roots()
    count = len(roots)
    on_scalp = np.arange(count) < SCALP_STRANDS
    alive = np.where(on_scalp, grown[roots] > -0.05, thickness[roots] > 0.02) & ~cap[roots]
    longest = 0.55 + 2.2 * t.length if t.length else rng.uniform(0.12, 0.6)
    length = np.where(on_scalp, longest * rng.uniform(0.5, 1.1, count), rng.uniform(0.1, 0.12 + 0.25 * t.beard, count))
    step = (length / (STRAND_NODES - 1))[:, None]
    lift = np.where(on_scalp, rng.exponential(0.008 + 0.015 * (style in ("up", "curly")), count), 0.015)
    point = directions[roots] * (radii[roots] * 1.002)[:, None]
    jitter = rng.normal(0, 0.12 + 0.4 * (style == "curly"), (count, 3))
    phase, curl = rng.uniform(0, 2 * np.pi, (count, 1)), rng.uniform(0.6, 1.6) * (style == "curly")
    end = line + 0.1 - rng.uniform(-0.05, 0.15, count)  # how far down the forehead hairs hang
    nodes, fall = [point], 0.25 + 0.5 * bool(t.length)
    for k in range(1, STRAND_NODES):
        out = point / np.linalg.norm(point, axis=1, keepdims=True)
        way = _combed(point, style, parting) + jitter + curl * np.sin(2.1 * k + phase) * np.cross(out, (0.0, 1.0, 0.1))
        way = np.where(on_scalp[:, None], way, (0.0, -1.0, 0.35) + 0.5 * jitter)
        way = way + k * fall * np.array([0.0, -0.3 if style != "up" else 0.25, 0.0])
        ahead = point + step * way / np.linalg.norm(way, axis=1, keepdims=True)
        blocked = on_scalp & (np.hypot(ahead[:, 0] / 0.95, (ahead[:, 1] + 0.1) / end) < 1.0) & (ahead[:, 2] > 0.1)
        point = np.where(blocked[:, None], point, ahead)
        now = np.linalg.norm(point, axis=1)
        least = _radius(point, radii) * 1.004 + 0.012 + lift * k ** (1.0 if style == "up" else 0.5)
        drawn = np.where(point[:, 1] > -0.4, np.minimum(now, least + 0.03 * k), now)
        point = point * (np.maximum(drawn, least) / now)[:, None]
        around = np.hypot(point[:, 0], point[:, 2] + 0.35)  # of the neck
        apart = np.where(point[:, 1] < -0.7, np.maximum(0.88 / around.clip(0.05), 1.0), 1.0)
        point = np.column_stack([point[:, 0] * apart, point[:, 1], (point[:, 2] + 0.35) * apart - 0.35])
        nodes.append(point)
    middle = np.stack(nodes, axis=1)  # [S, N, 3]
    tangent = np.gradient(middle, axis=1)
    tangent /= np.linalg.norm(tangent, axis=-1, keepdims=True).clip(1e-6)
    side = np.cross(tangent, middle)
    side /= np.linalg.norm(side, axis=-1, keepdims=True).clip(1e-6)
    thick = np.where(on_scalp, rng.uniform(0.004, 0.022, count), rng.uniform(0.003, 0.01, count))
    profile = np.interp(np.linspace(0, 1, STRAND_NODES), (0, 0.3, 0.7, 1), (0.7, 1.0, 0.8, 0.12))
    half = side * (thick[:, None] * profile)[..., None]
    ribbons = np.stack([middle - half, middle + half], axis=2)
    ribbons[~alive] = np.nan
    return ribbons, tangent


def long_hair(t: Traits, rng: np.random.Generator) -> Array:
    """[v, 3] the curtain of somebody's long hair."""
    p = parts()
    rest = p.rest[p.where["curtain"]].copy()
    down, along = p.across["curtain"].T
    wavy = rng.uniform(0, 0.08) * waves(rest, rng, 6.0)
    rest[:, 1] = 1.0 - (1.0 + 2.4 * t.length + 0.1 * waves(rest[:, ::2], rng, 12.0)) * down
    within = 0.22 * smoothstep(down, 0.3, 0.05)  # it starts under the hair of the head
    rest[:, ::2] *= (1.0 + wavy - within + t.volume * 0.6 * (1 - 0.3 * down))[:, None]
    rest[:, 2] += 0.25 * smoothstep(down, 0.5, 1.0) * (np.abs(along - 0.5) > 0.3)
    return rest


def strand_colours(t: Traits, rng: np.random.Generator) -> Array:
    """[S * N * 2, 3] albedo of the strands: each its own tone, darker at the roots."""
    count = SCALP_STRANDS + BEARD_STRANDS
    tone = np.exp(rng.normal(0, 0.16, (count, 1)))
    if t.age > 0.5:  # some are grey
        tone = np.where(rng.random((count, 1)) < 0.5 * (t.age - 0.5), tone * 2.0 + 0.5, tone)
    along = np.linspace(0.75, 1.15, STRAND_NODES)[None, :, None]
    colours = np.clip(t.hair * (tone * rng.uniform(0.95, 1.05, (count, 3)))[:, None] * along, 0.0, 0.95)
    return np.asarray(colours.repeat(2, axis=1).reshape(-1, 3))
