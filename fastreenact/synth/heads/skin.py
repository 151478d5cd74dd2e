"""The skin of a generated face as a picture laid over it: complexion, brows, lips, lids, beard, make-up, wrinkles.

The picture is flat in the directions seen from the head's centre (`head_mesh.to_plane`), so what is drawn along the
keypoints' curves stays at the keypoints when they move. It is drawn in linear light.
"""

import functools
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastreenact.face.morphable.expressions import smoothstep
from fastreenact.face.morphable.model import EXPRESSION_NAMES
from fastreenact.synth.heads.backdrop import tile
from fastreenact.synth.heads.mesh import Array, along, beard_area, curves, distance, inside, rest_at, to_plane
from fastreenact.synth.heads.traits import Traits, linear

_LOW, _HIGH = np.array([-1.58, -1.35]), np.array([1.58, 1.15])  # rad: what of the plane the picture shows
_H, _W = 228, 288
# Lines of skin that expressions deepen: (points on the image-right half, width in rad, how deep).
_NASOLABIAL = ((0.27, -0.16, 0.88), (0.36, -0.26, 0.84), (0.43, -0.4, 0.8), (0.45, -0.58, 0.74))

_ALAR = ((0.27, -0.13, 0.92), (0.29, -0.2, 0.9), (0.24, -0.255, 0.9))  # around the wing of the nose


class Wrinkles(NamedTuple):
    """How expressions shade the skin."""

    pictures: Tensor  # [K, H * W] shares by which the skin is darker or lighter
    drivers: Tensor  # [K, 51] depth of each for each expression


def skin_uv(plane: Array) -> Array:
    """[V, 2] where points of the plane are in the picture, -1 and 1 at its edges (align_corners=False)."""
    return (plane - _LOW) / (_HIGH - _LOW) * 2 - 1


@functools.cache
def _texels() -> tuple[Array, Array]:
    """Of each texel the place in the plane [H * W, 2] and on the mean head at rest [H * W, 3]."""
    x, y = (_LOW[k] + (np.arange(n) + 0.5) / n * (_HIGH - _LOW)[k] for k, n in ((0, _W), (1, _H)))
    plane = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    return plane, rest_at(plane)


def _both(points: Any) -> list[Array]:
    """A line given on the image-right half, on both sides, in the plane."""
    return [to_plane(np.array(points) * (side, 1, 1)) for side in (1.0, -1.0)]


def _near(plane: Array, lines: list[Array]) -> Array:
    return np.minimum.reduce([distance(plane, line) for line in lines])


def _strokes(rng: np.random.Generator, across: Array, lengthwise: Array, count: float) -> Array:
    """Hairs: stripes of random darkness along `lengthwise`, leaning over `across`, `count` to the unit of length."""
    tone = rng.uniform(0.0, 1.0, 4096)
    at = lengthwise * count
    cell = np.floor(at).astype(int)
    share = at - cell
    row = np.floor(across * 1.5 + rng.random()).astype(int) * 131
    a, b = tone[(cell + row) % 4096], tone[(cell + 1 + row) % 4096]
    return np.asarray(a + (b - a) * smoothstep(share, 0.2, 0.8))


@functools.cache
def regions() -> dict[str, Tensor]:
    """Where on the picture what is: each [H, W] float32 in 0..1."""
    (plane, rest), c = _texels(), curves()
    x, y, z = rest.T
    side = np.abs(x)
    upper, lower = _near(plane, c["upper_lid"]), _near(plane, c["lower_lid"])
    edge = c["lips"][0]
    to_edge = distance(plane, np.concatenate([edge, edge[:1]]))
    within = inside(plane, edge)
    signed = np.where(within, to_edge, -to_edge)
    opening = distance(plane, np.concatenate([c["mouth"][0], c["mouth"][0][:1]]))
    lips = smoothstep(signed, -0.012, 0.012)
    front = smoothstep(z, -0.25, 0.1)
    blob = lambda cx, cy, rx, ry: np.exp(-(((side - cx) / rx) ** 2 + ((y - cy) / ry) ** 2)) * front  # noqa: E731
    fold = _near(plane, _both(_NASOLABIAL))
    mouth = np.hypot(plane[:, 0] / 0.5, (plane[:, 1] + 0.68) / 0.42)
    beard = beard_area(rest) * smoothstep(signed, 0.0, -0.05)
    found = {
        "lips": lips,
        "lip_seam": smoothstep(opening, 0.035, 0.0),
        "lip_lines": 0.5 + 0.5 * np.sin(plane[:, 0] * 170 + 4 * np.sin(plane[:, 1] * 23)),
        "lash": smoothstep(upper, 0.034, 0.008) + 0.45 * smoothstep(lower, 0.022, 0.004),
        "wet": smoothstep(lower, 0.02, 0.005),
        "crease": np.exp(-(((upper - 0.085) / 0.016) ** 2)) * (y > 0.41) * (side < 0.72),
        "lid": smoothstep(upper, 0.13, 0.02) * (y > 0.38),
        "under_eye": np.exp(-(((lower - 0.09) / 0.055) ** 2)) * (y < 0.36),
        "bag": np.exp(-(((lower - 0.15) / 0.02) ** 2)) * (y < 0.33) * smoothstep(side, 0.7, 0.5),
        "socket": smoothstep(np.minimum(upper, lower), 0.2, 0.0) + blob(0.2, 0.38, 0.12, 0.14),
        "cheek": blob(0.58, -0.05, 0.27, 0.22),
        "nose": blob(0.0, -0.12, 0.2, 0.16) * (z > 0.85),
        "nostril": blob(0.125, -0.262, 0.05, 0.02) * (z > 0.85),
        "alar": np.exp(-((_near(plane, _both(_ALAR)) / 0.022) ** 2)),
        "under_nose": blob(0.0, -0.3, 0.2, 0.035) * (z > 0.8),
        "philtrum": blob(0.0, -0.4, 0.035, 0.08) - 0.8 * blob(0.075, -0.4, 0.03, 0.08),
        "under_lip": blob(0.0, -0.83, 0.17, 0.035),
        "chin": blob(0.0, -1.0, 0.25, 0.14),
        "forehead": blob(0.0, 0.95, 0.7, 0.25),
        "temple": blob(0.92, 0.5, 0.15, 0.4),
        "fold": np.exp(-((fold / 0.03) ** 2)) - 0.6 * np.exp(-(((fold - 0.06) / 0.03) ** 2)),
        "beard": beard,
        "moustache": smoothstep(mouth, 1.0, 0.8) * (y > -0.6) * (y < -0.33) * (1 - lips),
        "under_chin": smoothstep(y, -0.95, -1.25) * smoothstep(z, 0.72, 0.5),
        **_brows(plane, c["brow"]),
    }
    return {name: _picture(values) for name, values in found.items()}


def _brows(plane: Array, lines: list[Array]) -> dict[str, Array]:
    """Width and hairs of the brows, which lie below their keypoints: the trackers' points are their upper edge."""
    rng = np.random.default_rng(11)
    reach, hairs = np.full(len(plane), 9.0), np.zeros(len(plane))
    for line in lines:
        t, off = along(plane, line)
        swelling = 0.5 * smoothstep(t, -0.12, 0.02) + 0.5 * smoothstep(t, 0.0, 0.35)
        half = 0.042 * swelling * (1.0 - 0.6 * smoothstep(t, 0.5, 1.1)) + 1e-3
        lean = t * 1.0 + off * (2.2 - 3.0 * smoothstep(t, 0.0, 0.5))
        mine = np.abs(off) / half + 40.0 * np.maximum(np.abs(t - 0.5) - 0.56, 0.0)
        stroke = 0.5 * _strokes(rng, off * 30, lean, 55.0) + 0.5 * _strokes(rng, off * 45 + 7, lean, 90.0)
        hairs = np.where(mine < reach, stroke * (0.55 + 0.45 * smoothstep(t, -0.1, 0.3)), hairs)
        reach = np.minimum(reach, mine)
    return {"brow": reach, "brow_hairs": hairs}


def _picture(values: Any) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(np.broadcast_to(values, (_H * _W,)).reshape(_H, _W), np.float32))


@functools.cache
def wrinkles() -> Wrinkles:
    """Lines that brows, squints, smiles and sneers draw."""
    plane, rest = _texels()
    x, y, _ = rest.T
    bent = tile(5)[:_H, :_W, :2].reshape(-1, 2)  # no wrinkle is straight
    wave, plane = 0.02 * bent[:, 0] + 0.012 * np.sin(x * 5), plane + 0.012 * bent

    def lines(points: list[Any], width: float) -> Array:
        d = _near(plane, [line for one in points for line in _both(one)])
        return np.asarray(-np.exp(-((d / width) ** 2)) + 0.4 * np.exp(-(((d - 1.8 * width) / width) ** 2)))

    forehead = (
        np.sin((y + wave) * 52) * smoothstep(y, 0.78, 0.88) * smoothstep(y, 1.2, 1.05) * smoothstep(np.abs(x), 0.6, 0.3)
    )
    frown = lines([[(0.07, 0.56, 0.96), (0.08, 0.78, 0.97)], [(0.0, 0.5, 0.95), (0.0, 0.5, 0.95001)]], 0.022)
    crow = lines(
        [
            [(0.72, 0.4, 0.6), (0.88, 0.47, 0.48)],
            [(0.72, 0.36, 0.6), (0.9, 0.36, 0.46)],
            [(0.71, 0.33, 0.6), (0.87, 0.25, 0.48)],
        ],
        0.016,
    )
    naso = 1.1 * lines([_NASOLABIAL], 0.032)
    bunny = lines([[(0.05, 0.3, 1.03), (0.13, 0.36, 0.88)], [(0.06, 0.22, 1.07), (0.15, 0.3, 0.86)]], 0.016)
    under = lines([[(0.3, 0.29, 0.73), (0.45, 0.26, 0.72), (0.62, 0.29, 0.66)]], 0.02)
    mouth = lines([[(0.5, -0.48, 0.76), (0.53, -0.62, 0.7), (0.48, -0.76, 0.66)]], 0.025)
    chin = np.sin(x * 60 + 9 * np.sin(y * 31)) * np.sin(y * 55) * np.exp(-((x / 0.2) ** 2 + ((y + 1.0) / 0.12) ** 2))
    driven = {
        "browInnerUp": (forehead, 0.3),
        "browOuterUp": (forehead, 0.25),
        "browDown": (frown, 0.3),
        "eyeSquint": (crow, 0.25),
        "mouthSmile": (naso, 0.3),
        "noseSneer": (bunny, 0.3),
        "cheekSquint": (under, 0.25),
        "mouthStretch": (mouth, 0.15),
        "mouthShrugLower": (chin, 0.2),
        "mouthDimple": (mouth, 0.25),
        "mouthUpperUp": (naso, 0.2),
    }
    drivers = np.zeros((len(driven), len(EXPRESSION_NAMES)), np.float32)
    for k, (name, (_, depth)) in enumerate(driven.items()):
        for i, expression in enumerate(EXPRESSION_NAMES):
            if expression.startswith(name):
                drivers[k, i] = depth / (1 + expression.endswith(("Left", "Right")))
    smile = [i for i, name in enumerate(EXPRESSION_NAMES) if name.startswith("mouthSmile")]
    drivers[list(driven).index("eyeSquint"), smile] = 0.12
    drivers[list(driven).index("mouthStretch"), smile] = 0.1
    pictures = torch.stack([_picture(picture).flatten() for picture, _ in driven.values()])
    return Wrinkles(pictures, torch.from_numpy(drivers))


def wrinkled(skin: Tensor, strength: float, expression: NDArray[np.float32]) -> Tensor:
    """The skin [3, H, W] under an expression [51]."""
    w = wrinkles()
    amounts = w.drivers @ torch.from_numpy(expression) * strength
    if float(amounts.abs().max()) < 0.02:
        return skin
    return skin * (1 + amounts @ w.pictures).clamp(0.4, 1.4).view(_H, _W)


def draw_skin(t: Traits, rng: np.random.Generator) -> Tensor:
    """[3, H, W] the skin of somebody, linear."""
    r = regions()
    smooth, rough, spots = (_noise(rng, k) for k in (4, 2, 0))
    skin = torch.from_numpy(t.skin.astype(np.float32))[:, None, None]
    base = skin * (1 + rng.uniform(0.02, 0.09) * smooth + rng.uniform(0.01, 0.05) * rough)

    def mix(share: Any, colour: Any) -> None:
        nonlocal base
        tone = torch.as_tensor(np.asarray(colour, np.float32))[:, None, None]
        base = torch.lerp(base, tone.expand_as(base), share.clamp(0, 1)[None])

    def tint(share: Tensor, factor: tuple[float, float, float]) -> None:
        nonlocal base
        base = base * (1 + share[None] * (torch.tensor(factor)[:, None, None] - 1))

    red = rng.random(4) * (1.0 if t.skin[0] > 0.2 else 0.5)
    ruddy = 0.7 * red[0] * r["cheek"] + 0.6 * red[1] * r["nose"] + 0.4 * red[2] * r["chin"] + 0.15 * red[3] * rough
    tint(ruddy.clamp(0, 1), (1.02, 0.72, 0.7))
    tint(0.35 * r["socket"] + (0.15 + 0.6 * rng.random() * (0.3 + t.age)) * r["under_eye"], (0.7, 0.6, 0.62))
    if t.freckles:
        mix(0.8 * t.freckles * ((spots - 1.3) * 2).clamp(0, 1) * (r["cheek"] + r["nose"]), t.skin * (0.62, 0.42, 0.32))
    for _ in range(rng.poisson(2.0)):  # moles
        _dot(base, rng, t.skin * rng.uniform(0.2, 0.6))
    lines = (0.1 + 0.5 * t.age) * r["fold"] + (0.1 + 0.4 * t.age) * r["bag"] + rng.uniform(0.2, 0.6) * r["crease"]
    lines = (
        lines
        + 0.45 * r["alar"]
        + 0.3 * r["under_nose"]
        + 0.25 * r["under_lip"]
        + 0.2 * r["philtrum"]
        + 0.1 * r["temple"]
    )
    tint(lines + 0.35 * r["under_chin"], (0.6, 0.5, 0.48))
    if t.age > 0.45:
        w = wrinkles()
        old = (
            torch.tensor([t.age - 0.4, 0, 0.6 * (t.age - 0.4), t.age - 0.4, *[0.0] * (len(w.pictures) - 4)])
            * rng.random()
        )
        base = base * (1 + old.float() @ w.pictures).clamp(0.5, 1.3).view(_H, _W)
    dots = (0.45 + 0.35 * _grains() + 0.2 * rough).clamp(0, 1.2)
    mix(
        (0.6 * t.stubble * r["beard"] + 0.6 * max(t.stubble, t.moustache) * r["moustache"]) * dots,
        0.5 * t.skin * 0.3 + 0.5 * t.brow,
    )
    if t.makeup:
        mix(0.35 * t.makeup * r["cheek"], linear(rng.uniform((0.6, 0.2, 0.25), (0.9, 0.4, 0.5))))
        mix(0.7 * t.makeup * (rng.random() < 0.6) * r["lid"], linear(rng.uniform(0.15, 0.6, 3)))
    lip = t.skin * rng.uniform((0.8, 0.42, 0.45), (1.0, 0.66, 0.66))
    if t.makeup > 0.3:
        lip = linear(rng.uniform((0.4, 0.06, 0.12), (0.85, 0.35, 0.42)))
    mix((rng.uniform(0.5, 0.85) + 0.2 * t.makeup) * r["lips"], lip)
    tint(r["lips"] * (0.3 * r["lip_lines"] + 0.1 * rough) + 0.75 * r["lip_seam"] * r["lips"], (0.62, 0.5, 0.5))
    _hairs(mix, t, rng)
    mix(0.85 * r["nostril"], (0.02, 0.01, 0.01))
    return base.clamp(0.003, 1.0).contiguous()


def _noise(rng: np.random.Generator, index: int) -> Tensor:
    """[H, W] of the noise tiles, from rough (0) to smooth (5)."""
    y, x = rng.integers(0, 200, 2)
    return torch.from_numpy(np.ascontiguousarray(tile(index)[y : y + _H, x : x + _W, 0]))


@functools.cache
def _grains() -> Tensor:
    """[H, W] noise from texel to texel."""
    return torch.from_numpy(np.random.default_rng(13).standard_normal((_H, _W)).astype(np.float32))


def _dot(base: Tensor, rng: np.random.Generator, colour: Array) -> None:
    """A mole, in place."""
    y, x = int(rng.uniform(0.15, 0.85) * _H), int(rng.uniform(0.2, 0.8) * _W)
    high, wide = rng.integers(1, 3, 2)
    base[:, y : y + high, x : x + wide].lerp_(torch.from_numpy(colour.astype(np.float32))[:, None, None], 0.6)


def _hairs(mix: Any, t: Traits, rng: np.random.Generator) -> None:
    """Brows and lashes."""
    r = regions()
    thick = rng.uniform(0.45, 0.85) + 0.2 * (not t.female)
    body = (1.15 - r["brow"] / thick).clamp(0, 1) ** 0.6
    hairs = (body * (rng.uniform(0.35, 0.9) + 1.3 * (r["brow_hairs"] - 0.35)) * 1.6).clamp(0, 1)
    mix(rng.uniform(0.6, 1.0) * hairs * (body > 0), t.brow)
    mix((0.5 + 0.3 * t.female + 0.3 * t.makeup) * r["lash"], 0.3 * t.brow + 0.003)
    mix(0.4 * r["wet"], t.skin * (1.05, 0.75, 0.72))
