"""What a generated head has besides its skin: eyes, mouth, ears, hair, neck, shoulders, and what people wear.

All parts are one mesh with a fixed number of vertices; what somebody lacks is left out by NaN.
"""

import functools
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastreenact.face.keypoints import COUNT
from fastreenact.face.morphable.expressions import smoothstep
from fastreenact.face.morphable.model import default_model
from fastreenact.synth.heads.mesh import Array, Triangles, surface

EYE_RADIUS = 0.21
IRIS, PUPIL = 0.4, 0.17  # rad from the axis of the eye
_EYE_CORNERS = ((36, 40), (44, 48))
_EYE_RINGS, _EYE_SPOKES = 13, 24
SCALP_STRANDS, HAIRLINE_STRANDS, BEARD_STRANDS, STRAND_NODES = 560, 220, 120, 6


class Parts(NamedTuple):
    """All parts of the mean head as one mesh."""

    rest: Array  # [V, 3]
    follow: Array  # [V, 72]
    follow32: NDArray[np.float32]  # the same
    triangles: Triangles  # [F, 3]
    uv: Array  # [V, 2] texture coordinates, 1 is a period of the texture
    turns: Array  # [V] 1: turns with the head, 0: stays with the shoulders
    behind: Array  # [V] how much farther away than it is it counts, so that skin hides it
    where: dict[str, slice]  # the vertices of each part
    across: dict[str, Array]  # part -> [v, 2], where on the part a vertex is, 0..1


class _Piece(NamedTuple):
    rest: Array
    follow: Array
    triangles: NDArray[Any]
    uv: Array
    turns: Array
    behind: float
    across: Array


def _grid(rows: int, columns: int, *, closed: bool = False) -> NDArray[np.int64]:
    """Triangles [F, 3] of a grid of vertices, row by row; closed: the last column joins the first."""
    r, c = np.meshgrid(np.arange(rows - 1), np.arange(columns if closed else columns - 1), indexing="ij")
    a, b = (r * columns + c).ravel(), (r * columns + (c + 1) % columns).ravel()
    return np.concatenate([np.column_stack([a, a + columns, b]), np.column_stack([b, a + columns, b + columns])])


def _share(rows: int, columns: int, *, closed: bool = False) -> Array:
    """[rows * columns, 2] (down, across) in 0..1."""
    across = np.arange(columns) / (columns if closed else columns - 1)
    return np.stack(np.meshgrid(np.linspace(0, 1, rows), across, indexing="ij"), axis=-1).reshape(-1, 2)


def _outwards(rest: Array, triangles: NDArray[Any], centre: Any) -> NDArray[Any]:
    """The triangles, turned round where they do not face away from `centre`."""
    a, b, c = (rest[triangles[:, k]] for k in range(3))
    inwards = (np.cross(b - a, c - a) * ((a + b + c) / 3 - centre)).sum(axis=1) < 0
    turned = triangles.copy()
    turned[inwards] = turned[inwards][:, ::-1]
    return turned


def _piece(
    rest: Array,
    triangles: NDArray[Any],
    across: Array,
    *,
    follow: Array | None = None,
    turns: Any = 1.0,
    behind: float = 0.0,
    uv: Array | None = None,
    centre: Any = None,
) -> _Piece:
    n = len(rest)
    rows = np.zeros((n, COUNT)) if follow is None else np.broadcast_to(follow, (n, COUNT))
    facing = _outwards(rest, triangles, rest.mean(axis=0) if centre is None else centre)
    turning = np.broadcast_to(np.asarray(turns, float), (n,))
    return _Piece(rest, rows, facing, across if uv is None else uv, turning, behind, across)


def _like(points: tuple[int, ...], share: float = 1.0) -> Array:
    """[72] following the mean of some keypoints."""
    row = np.zeros(COUNT)
    row[list(points)] = share / len(points)
    return row


def eye_centres(keypoints: NDArray[Any]) -> Array:
    """[2, 3] centres of the eyeballs of [72, 3] keypoints, image left first."""
    corners = np.array([(keypoints[a] + keypoints[b]) / 2 for a, b in _EYE_CORNERS], np.float64)
    return corners - (0.0, 0.0, 0.14)


def _eye(mean: Array, side: int) -> _Piece:
    across = _share(_EYE_RINGS, _EYE_SPOKES, closed=True)
    edges = (0.0, 0.09, PUPIL - 0.015, PUPIL + 0.015, 0.23, 0.3, IRIS - 0.03, IRIS + 0.02, 0.6, 0.8, 1.0, 1.25, 1.5)
    polar, azimuth = np.repeat(edges, _EYE_SPOKES), across[:, 1] * 2 * np.pi
    ball = np.column_stack([np.sin(polar) * np.cos(azimuth), np.sin(polar) * np.sin(azimuth), np.cos(polar)])
    centre = eye_centres(mean)[side]
    return _piece(
        centre + EYE_RADIUS * ball,
        _grid(_EYE_RINGS, _EYE_SPOKES, closed=True),
        np.column_stack([polar, azimuth]),
        follow=_like(_EYE_CORNERS[side]),
        behind=0.2,
        uv=across * (0.3, 2.0),
        centre=centre,
    )


def _mouth(mean: Array) -> _Piece:
    s = surface()
    rim, follow = s.rest[s.lip_loop], s.follow[s.lip_loop]
    depth = np.array([0.0, 0.25, 0.55, 0.8, 1.0])
    shrink = np.array([1.0, 1.05, 0.95, 0.6, 0.0])[:, None, None]
    rest = rim.mean(0) + shrink * (rim - rim.mean(0)) - depth[:, None, None] * (0.0, 0.0, 0.45)
    rows = follow.mean(0) + shrink * (follow - follow.mean(0))
    n = len(rim)
    triangles, across = _grid(5, n, closed=True), _share(5, n, closed=True)
    return _piece(rest.reshape(-1, 3), triangles, across, follow=rows.reshape(-1, COUNT), behind=0.4)


def _teeth(upper: bool) -> _Piece:
    across = _share(4, 41)
    x = (across[:, 1] - 0.5) * 0.64
    top, bottom = (-0.47, -0.665) if upper else (-0.64, -0.85)
    front = 0.85 if upper else 0.82
    y = top + (bottom - top) * across[:, 0] + (0.25 if upper else -0.12) * x**2
    rest = np.column_stack([x, y, front - 1.5 * x**2])
    follow = _like((31, 33, 35), 1.0) if upper else _like((7, 8, 16), 1.12)
    return _piece(rest, _grid(4, 41), across, follow=follow, behind=0.14 if upper else 0.2, centre=(0.0, y.mean(), 0.0))


def _tongue() -> _Piece:
    across = _share(8, 16, closed=True)
    polar, azimuth = across[:, 0] * np.pi / 2, across[:, 1] * 2 * np.pi
    ball = np.column_stack([np.sin(polar) * np.cos(azimuth), np.cos(polar), np.sin(polar) * np.sin(azimuth)])
    centre = np.array([0.0, -0.77, 0.48])
    rest = centre + ball * (0.23, 0.14, 0.27)
    return _piece(rest, _grid(8, 16, closed=True), across, follow=_like((7, 8, 16), 0.85), behind=0.24, centre=centre)


def _ear(side: float) -> _Piece:
    across = _share(10, 28, closed=True)
    radius, azimuth = across[:, 0], across[:, 1] * 2 * np.pi
    up, along = np.sin(azimuth), np.cos(azimuth)  # along: towards the back
    out = np.array([side, 0.0, 0.0])
    back = np.array([side * 0.33, -0.1, -0.9])
    narrower = 1.0 - 0.32 * smoothstep(up, 0.2, -1.0)  # the lobe
    relief = 0.11 - 0.09 * smoothstep(radius, 0.75, 0.4)
    relief += 0.05 * smoothstep(radius, 0.65, 0.85) - 0.14 * smoothstep(radius, 0.9, 1.0)
    rest = (
        np.array([side * 1.01, 0.17, -0.22])
        + (radius * up * 0.4)[:, None] * (0.0, 1.0, -0.12)
        + (radius * along * narrower * 0.23)[:, None] * back
        + relief[:, None] * out
    )
    follow = _like((0, 1, 2) if side < 0 else (9, 10, 11), 0.9)
    return _piece(rest, _grid(10, 28, closed=True), across, follow=follow, centre=0.0)


def _shell() -> _Piece:
    s = surface()
    from_crown = s.rest - (0.0, 0.4, -0.5)
    azimuth = np.arctan2(from_crown[:, 0], from_crown[:, 2])  # the seam is at the back
    down = np.arccos(from_crown[:, 1] / np.linalg.norm(from_crown, axis=1))
    uv = np.column_stack([azimuth * 0.6, down * 0.5])
    return _piece(s.rest, s.triangles, s.plane, follow=s.follow, uv=uv, centre=0.0)


def _curtain() -> _Piece:
    across = _share(16, 44)
    azimuth = (across[:, 1] - 0.5) * 2 * 2.0  # from the back
    rest = np.column_stack([1.08 * np.sin(azimuth), 1.0 - 3.6 * across[:, 0], -0.35 - 1.15 * np.cos(azimuth)])
    turns = 1.0 - 0.75 * smoothstep(across[:, 0], 0.4, 0.9)
    return _piece(rest, _grid(16, 44), across, turns=turns, uv=across[:, ::-1] * (2.2, 0.7), centre=(0.0, 0.0, -0.35))


def _neck() -> _Piece:
    """From inside the jaw, in front, and the skull, behind, down to the shoulders."""
    across = _share(14, 32, closed=True)
    azimuth = across[:, 1] * 2 * np.pi
    front, aside = np.cos(azimuth), np.abs(np.sin(azimuth))
    top = -0.95 + 0.35 * (1 - front)
    y = top + (-2.7 - top) * across[:, 0]
    wider = 0.7 + 0.55 * smoothstep(y, -1.75, -2.6) + 0.06 * smoothstep(y, -1.2, -0.6)
    narrow = 1.0 - 0.4 * smoothstep(across[:, 0], 0.14, 0.0)  # out of the way of the open mouth
    throat = 0.05 * np.exp(-(((y + 1.5) / 0.12) ** 2)) * np.exp(-((aside / 0.25) ** 2)) * (front > 0)
    sinew = aside - 0.35 - 0.25 * smoothstep(y, -2.3, -1.2)
    throat = throat + 0.04 * np.exp(-((sinew / 0.12) ** 2)) * (front > 0)
    deep = -0.34 - 0.1 * smoothstep(y, -0.9, -2.7) + (0.58 * narrow + throat) * front
    rest = np.column_stack([wider * narrow * np.sin(azimuth), y, deep])
    turns = smoothstep(y, -2.1, -0.95)
    uv = across[:, ::-1] * (4, 2)
    return _piece(rest, _grid(14, 32, closed=True), across, turns=turns, uv=uv, centre=(0, -1.2, -0.3))


def _torso() -> _Piece:
    across = _share(14, 40, closed=True)
    azimuth = across[:, 1] * 2 * np.pi
    knots = np.linspace(0, 1, 8)
    width = np.interp(across[:, 0], knots, (0.6, 0.72, 1.1, 1.75, 2.3, 2.55, 2.6, 2.6))
    depth = np.interp(across[:, 0], knots, (0.58, 0.66, 0.78, 0.9, 1.0, 1.1, 1.2, 1.25))
    y = np.interp(across[:, 0], knots, (-1.72, -1.8, -1.95, -2.12, -2.35, -2.8, -3.6, -5.0))
    drop = -0.35 * smoothstep(np.cos(azimuth), 0.3, 1.0) * smoothstep(across[:, 0], 0.5, 0.0)  # lower in front
    rest = np.column_stack([width * np.sin(azimuth), y + drop, -0.42 + depth * np.cos(azimuth)])
    return _piece(
        rest, _grid(14, 40, closed=True), across, turns=0.0, uv=across[:, ::-1] * (3, 1.5), centre=(0.0, -4.0, -0.4)
    )


def _glasses() -> _Piece:
    """Two rims, a bridge and two arms: ribbons."""
    pieces, lines, triangles, count = [], [], [], 0
    turn = np.linspace(0, 2 * np.pi, 29)
    for side in (-1.0, 1.0):
        x, y = np.sign(np.cos(turn)) * np.abs(np.cos(turn)) ** 0.75 * 0.34, np.sin(turn) * 0.27
        lines.append(np.column_stack([x + side * 0.47, y + 0.36, 1.04 - 0.5 * (x * side + 0.47) ** 2]))
        arm = np.array([(0.8, 0.42, 0.77), (1.0, 0.42, 0.42), (1.09, 0.38, 0.0), (1.1, 0.3, -0.3)])
        lines.append(arm * (side, 1.0, 1.0))
    lines.append(np.array([(-0.14, 0.42, 1.04), (-0.05, 0.46, 1.1), (0.05, 0.46, 1.1), (0.14, 0.42, 1.04)]))
    for line in lines:
        along = np.gradient(line, axis=0)
        side_on = np.cross(along, (0.0, 0.15, 1.0) if np.ptp(line[:, 2]) < 0.5 else (1.0, 0.0, 0.0))
        side_on /= np.linalg.norm(side_on, axis=1, keepdims=True) + 1e-9
        pieces.append(np.stack([line - 0.024 * side_on, line + 0.024 * side_on]).reshape(-1, 3))
        triangles.append(_grid(2, len(line)) + count)
        count += 2 * len(line)
    rest = np.concatenate(pieces)
    return _piece(rest, np.concatenate(triangles), np.zeros((count, 2)), follow=_like((27, 28)), centre=(0, 0.3, -3))


@functools.cache
def strand_roots() -> NDArray[np.intp]:
    """The vertices of the skin that hairs grow from: scalp first, hairline included, then beard."""
    s = surface()
    _, y, z = s.rest.T
    rng = np.random.default_rng(5)
    scalp = ((y > 0.75) & (z < 0.97) | (z < -0.1) & (y > -0.85)) & ~((y < 0.9) & (z > 0.15))
    hairline = scalp & (y > 0.95) & (z > 0.2) | scalp & (z > -0.25) & (y < 0.95)
    beard = (s.regions["beard"] > 0.5) | (s.regions["moustache"] > 0.5)
    groups = (scalp & ~hairline, SCALP_STRANDS - HAIRLINE_STRANDS), (hairline, HAIRLINE_STRANDS), (beard, BEARD_STRANDS)
    return np.concatenate([rng.choice(np.flatnonzero(mask), count) for mask, count in groups])


def _strands() -> _Piece:
    """Ribbons, all of them at their roots until a person's hair is combed."""
    roots, s = strand_roots(), surface()
    each = 2 * STRAND_NODES
    rest, follow = s.rest[roots].repeat(each, axis=0), s.follow[roots].repeat(each, axis=0)
    one = _grid(STRAND_NODES, 2)
    triangles = (one[None] + (np.arange(len(roots)) * each)[:, None, None]).reshape(-1, 3)
    across = np.tile(_share(STRAND_NODES, 2), (len(roots), 1))
    return _Piece(rest, follow, triangles, across * (0.4, 0.03), np.ones(len(rest)), 0.0, across)


def _brim() -> _Piece:
    """The brim of a hat, from the head outwards."""
    across = _share(3, 48, closed=True)
    return _piece(np.zeros((len(across), 3)), _grid(3, 48, closed=True), across)


def _phones() -> _Piece:
    """Headphones: an arch over the head, and a cushion on each ear."""
    turn = np.linspace(-1.75, 1.75, 25)
    arch = np.concatenate(
        [np.column_stack([1.22 * np.sin(turn), 0.35 + 1.68 * np.cos(turn), np.full(25, z)]) for z in (-0.39, -0.21)]
    )
    pieces, triangles = [arch], [_grid(2, 25)]
    for side in (-1.0, 1.0):
        share = _share(4, 20, closed=True)
        radius = np.interp(share[:, 0], (0, 0.4, 0.7, 1), (0.0, 0.3, 0.36, 0.36))
        out = np.interp(share[:, 0], (0, 0.4, 0.7, 1), (1.32, 1.32, 1.27, 1.05))
        angle = share[:, 1] * 2 * np.pi
        pieces.append(
            np.column_stack([side * out, 0.15 + 1.15 * radius * np.sin(angle), -0.25 + radius * np.cos(angle)])
        )
        triangles.append(_grid(4, 20, closed=True) + sum(map(len, pieces[:-1])))
    rest = np.concatenate(pieces)
    return _piece(rest, np.concatenate(triangles), np.zeros((len(rest), 2)), centre=(0.0, 0.3, -0.3))


def _earrings() -> _Piece:
    """Two hoops; a person may have them smaller, as pearls."""
    turn = np.linspace(0, 2 * np.pi, 17)
    pieces, triangles = [], []
    for k, side in enumerate((-1.0, 1.0)):
        ring = [
            np.column_stack([np.full(17, side * 1.1) + dx, -0.3 + r * np.cos(turn), -0.2 + r * np.sin(turn)])
            for r, dx in ((0.13, 0.0), (0.16, 0.02))
        ]
        pieces.append(np.concatenate(ring) - (0.0, 0.13, 0.0))
        triangles.append(_grid(2, 17) + 34 * k)
    rest = np.concatenate(pieces)
    follow = np.concatenate([np.tile(_like(points, 0.9), (34, 1)) for points in ((0, 1, 2), (9, 10, 11))])
    return _piece(rest, np.concatenate(triangles), np.zeros((68, 2)), follow=follow, centre=0.0)


@functools.cache
def parts() -> Parts:
    """The mean head with everything; the same object every time."""
    mean = default_model().mean.astype(np.float64)
    s = surface()
    skin = _piece(s.rest, s.triangles, s.plane, follow=s.follow, uv=s.plane * 0.5, centre=0.0)
    pieces = {
        "skin": skin,
        "left_eye": _eye(mean, 0),
        "right_eye": _eye(mean, 1),
        "mouth": _mouth(mean),
        "upper_teeth": _teeth(True),
        "lower_teeth": _teeth(False),
        "tongue": _tongue(),
        "left_ear": _ear(-1.0),
        "right_ear": _ear(1.0),
        "hair": _shell(),
        "curtain": _curtain(),
        "neck": _neck(),
        "torso": _torso(),
        "glasses": _glasses(),
        "strands": _strands(),
        "brim": _brim(),
        "phones": _phones(),
        "earrings": _earrings(),
    }
    where, triangles, start = {}, [], 0
    for name, piece in pieces.items():
        where[name] = slice(start, start + len(piece.rest))
        triangles.append(piece.triangles + start)
        start += len(piece.rest)
    joined = [np.concatenate([np.asarray(p[field], np.float64) for p in pieces.values()]) for field in (0, 1, 3, 4)]
    behind = np.concatenate([np.full(len(p.rest), p.behind) for p in pieces.values()])
    rest, follow, uv, turns = joined
    return Parts(
        rest,
        follow,
        follow.astype(np.float32),
        np.concatenate(triangles).astype(np.int32),
        uv,
        turns,
        behind,
        where,
        {name: piece.across for name, piece in pieces.items()},
    )
