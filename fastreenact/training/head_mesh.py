"""The surface of a generated head: a dense mesh of which the 72 keypoints are vertices, moved by them.

The mean head is drawn by anchors (the mean keypoints and points of the skull between them), interpolated smoothly over
the directions seen from the head's centre, with holes for eyes and mouth. Every vertex follows the keypoints linearly,
x = rest + follow (keypoints - mean keypoints), so that each shape mode and expression moves all of it.
Axes and unit are the morphable model's.
"""

import functools
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastreenact.face.expressions import smoothstep
from fastreenact.face.keypoints import COUNT, MIRROR
from fastreenact.face.morphable import EXPRESSION_NAMES, default_model

Array = NDArray[np.float64]
Triangles = NDArray[np.int32]

# Points of the skin between the keypoints, image-right half and midline: forehead, cheeks, nose, chin. Drawn by eye.
_SKIN = np.array([
    (0.0, 0.62, 0.965), (0.0, 0.9, 1.0), (0.0, 1.2, 0.92), (0.35, 0.95, 0.965), (0.62, 0.9, 0.855), (0.4, 1.25, 0.82),
    (0.86, 0.72, 0.52), (0.8, 1.1, 0.5), (0.11, 0.3, 0.9), (0.15, 0.1, 0.93), (0.17, -0.06, 1.02), (0.28, -0.17, 0.88),
    (0.09, -0.2, 1.13), (0.37, -0.1, 0.8), (0.3, 0.18, 0.78), (0.5, 0.2, 0.72), (0.78, 0.2, 0.52), (0.62, 0.0, 0.7),
    (0.6, -0.3, 0.67), (0.45, -0.42, 0.76), (0.8, -0.35, 0.42), (0.64, -0.62, 0.5), (0.0, -0.4, 0.985),
    (0.42, -0.72, 0.68), (0.0, -0.86, 0.87), (0.0, -1.02, 0.87), (0.25, -1.0, 0.76), (0.48, -0.88, 0.58),
    (0.3, 0.58, 0.875), (0.5, 0.58, 0.835), (0.68, 0.54, 0.71), (0.88, 0.42, 0.38), (0.92, 0.05, 0.25),
])  # fmt: skip
# The rest of the skull and where it meets the neck; expressions do not move these.
_SKULL = np.array([
    (0.0, 1.5, 0.72), (0.42, 1.5, 0.6), (0.75, 1.38, 0.35), (0.98, 0.95, 0.1), (0.0, 1.88, 0.1), (0.0, 1.85, -0.5),
    (0.55, 1.75, 0.0), (0.9, 1.4, -0.2), (1.1, 0.8, -0.4), (1.08, 0.3, -0.45), (0.0, 1.4, -1.35), (0.0, 0.6, -1.7),
    (0.0, -0.1, -1.5), (0.0, -0.8, -1.0), (0.8, 0.6, -1.3), (0.75, -0.3, -1.1), (0.98, -0.2, -0.4),
    (0.78, -0.7, -0.35), (0.7, 1.45, -0.8), (0.0, -1.22, 0.35), (0.4, -1.1, 0.1), (0.0, -1.1, -0.2),
    (0.0, -1.0, -0.6), (0.5, -0.9, -0.7),
])  # fmt: skip

# Curves of the holes, from corner to corner: keypoints that the edge of the mesh runs through.
UPPER_LID, LOWER_LID = (36, 37, 38, 39, 40), (36, 43, 42, 41, 40)
_UPPER_LIP_IN, _LOWER_LIP_IN = (55, 56, 63, 61, 60), (55, 67, 70, 64, 60)
_UPPER_LIP_OUT, _LOWER_LIP_OUT = (52, 54, 53, 62, 58, 59, 57), (52, 68, 69, 71, 66, 65, 57)
_BROW = (17, 18, 19, 20, 21)
_FINE, _COARSE, _FINE_TO, _END = 0.046, 0.13, 1.35, 2.65  # rad: spacing of the vertices, to where, end of the mesh


class Surface(NamedTuple):
    """The mean head's skin and how it follows the keypoints, which are its first 72 vertices."""

    rest: Array  # [V, 3]
    follow: Array  # [V, 72]
    triangles: Triangles  # [F, 3], counter-clockwise from outside
    plane: Array  # [V, 2] rad, direction from the centre of the head (azimuthal equidistant about +z)
    regions: dict[str, Array]  # name -> [V] in 0..1
    lip_loop: NDArray[np.intp]  # the vertices around the opening of the mouth, in order


def both_sides(points: Array) -> Array:
    """The points and the mirror images of those off the midline."""
    off = points[points[:, 0] > 1e-9]
    return np.concatenate([points, off * (-1.0, 1.0, 1.0)])


def spline(points: tuple[int, ...], pieces: int) -> Array:
    """Weights [P, 72] of a curve through keypoints (Catmull-Rom, straight at its ends), `pieces` per section."""
    rows = []
    for i in range(len(points) - 1):
        for t in np.arange(pieces) / pieces:
            row = np.zeros(COUNT)
            basis = np.array([-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2]) / 2
            at = [points[k] for k in (max(i - 1, 0), i, i + 1, min(i + 2, len(points) - 1))]
            np.add.at(row, at, basis)
            rows.append(row)
    rows.append(np.eye(COUNT)[points[-1]])
    return np.array(rows)


def _other_side(points: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(MIRROR[p]) for p in points)


def to_plane(points: Array) -> Array:
    """Directions of points [N, 3] in the plane [N, 2]: angle from +z as radius."""
    across = np.linalg.norm(points[:, :2], axis=1)
    angle = np.arctan2(across, points[:, 2])
    return points[:, :2] * (angle / np.maximum(across, 1e-9))[:, None]


def from_plane(plane: Array) -> Array:
    """Unit directions [N, 3] of points of the plane."""
    angle = np.linalg.norm(plane, axis=1)
    return np.column_stack([plane * (np.sin(angle) / np.maximum(angle, 1e-9))[:, None], np.cos(angle)])


def inside(points: Array, polygon: Array) -> NDArray[np.bool_]:
    """Whether points [N, 2] are inside a polygon [M, 2] (crossing number)."""
    x, y = points[:, 0, None], points[:, 1, None]
    ax, ay = polygon.T
    bx, by = np.roll(polygon, -1, axis=0).T
    crosses = (ay > y) != (by > y)
    with np.errstate(divide="ignore", invalid="ignore"):
        left = x < ax + (y - ay) * (bx - ax) / (by - ay)
    return (crosses & left).sum(axis=1) % 2 == 1


def distance(points: Array, line: Array) -> Array:
    """Distance [N] of points [N, 2] from a polyline [M, 2]."""
    a, d = line[:-1], np.diff(line, axis=0)
    t = np.clip(((points[:, None] - a) * d).sum(-1) / (d * d).sum(-1), 0.0, 1.0)
    return np.linalg.norm(points[:, None] - a - t[..., None] * d, axis=-1).min(axis=1)


def triangulate(points: Array) -> Triangles:
    """Delaunay triangulation [F, 3] of points [N, 2], counter-clockwise (Bowyer and Watson, 1981)."""
    n, far = len(points), 1e3
    p = np.concatenate([points, [(-far, -far), (far, -far), (0.0, far)]])
    triangles = np.array([[n, n + 1, n + 2]])
    circles = _circles(p, triangles)
    for i in range(n):
        hit = ((circles[:, :2] - p[i]) ** 2).sum(1) < circles[:, 2]
        old = triangles[hit]
        edges = np.concatenate([old[:, [0, 1]], old[:, [1, 2]], old[:, [2, 0]]])
        key, back = edges[:, 0] * (n + 3) + edges[:, 1], edges[:, 1] * (n + 3) + edges[:, 0]
        rim = edges[~np.isin(key, back)]
        new = np.column_stack([rim, np.full(len(rim), i)])
        triangles = np.concatenate([triangles[~hit], new])
        circles = np.concatenate([circles[~hit], _circles(p, new)])
    return triangles[(triangles < n).all(axis=1)].astype(np.int32)


def _circles(p: Array, triangles: NDArray[Any]) -> Array:
    """Centre and squared radius [F, 3] of the circumscribed circles."""
    a, b, c = (p[triangles[:, k]] for k in range(3))
    b, c = b - a, c - a
    twice = 2 * (b[:, 0] * c[:, 1] - b[:, 1] * c[:, 0])
    bb, cc = (b * b).sum(1), (c * c).sum(1)
    x, y = (c[:, 1] * bb - b[:, 1] * cc) / twice, (b[:, 0] * cc - c[:, 0] * bb) / twice
    return np.column_stack([x + a[:, 0], y + a[:, 1], x * x + y * y])


def _hexagons(spacing: float, low: float, high: float) -> Array:
    """A jittered hexagonal grid in the plane, radius low to high."""
    rng = np.random.default_rng(7)  # jitter: no four points on one circle
    x, y = np.meshgrid(np.arange(-high, high, spacing), np.arange(-high, high, spacing * np.sqrt(0.75)))
    x[1::2] += spacing / 2
    grid = np.column_stack([x.ravel(), y.ravel()])
    grid += rng.uniform(-0.08, 0.08, grid.shape) * spacing
    radius = np.linalg.norm(grid, axis=1)
    return grid[(radius >= low) & (radius < high)]


def _curves() -> Array:
    """Weights [P, 72] of the points on lids and lips that are vertices, without the keypoints themselves."""
    lines = [(line, 3) for eye in (UPPER_LID, LOWER_LID) for line in (eye, _other_side(eye))]
    lines += [(_UPPER_LIP_IN, 4), (_LOWER_LIP_IN, 4), (_UPPER_LIP_OUT, 2), (_LOWER_LIP_OUT, 2)]
    rows = np.concatenate([spline(line, pieces) for line, pieces in lines])
    return rows[rows.max(axis=1) < 1.0 - 1e-9]


def _radial(a: Array, b: Array, softness: float) -> Array:
    """Distances to a power below 1: between lids that part they overshoot by 1.7, against 2.6 of distance itself."""
    return np.asarray((((a[:, None] - b) ** 2).sum(-1) + softness**2) ** 0.35)


@functools.cache
def surface() -> Surface:
    """The mean head's surface; the same object every time."""
    model = default_model()
    mean = model.mean.astype(np.float64)
    opened = np.zeros(len(EXPRESSION_NAMES), np.float32)
    opened[EXPRESSION_NAMES.index("jawOpen")] = 0.35
    # With an open mouth, so that it is a hole, not a slit.
    spread = model.points(np.zeros(len(model.shape_basis)), opened).astype(np.float64)
    curves = _curves()
    known = np.concatenate([np.eye(COUNT), curves])
    fixed, skin = both_sides(_SKULL), both_sides(_SKIN)
    places = np.concatenate([known @ spread, _with_jaw(skin, mean, spread, fixed), fixed])
    plane = to_plane(known @ spread)
    holes = _hole_outlines(spread)
    free = np.concatenate([_hexagons(_FINE, 0.0, _FINE_TO), _hexagons(_COARSE, _FINE_TO + 0.04, _END)])
    crowded = np.sqrt(((free[:, None] - plane) ** 2).sum(-1)).min(axis=1) < 0.6 * _FINE
    free = free[~crowded & ~np.any([inside(free, hole) for hole in holes], axis=0)]
    plane = np.concatenate([plane, free])
    triangles = triangulate(plane)
    middles = plane[triangles].mean(axis=1)
    triangles = triangles[~np.any([inside(middles, hole) for hole in holes], axis=0)]
    rest = _interpolate(places, np.concatenate([known @ mean, skin, fixed]), from_plane(plane))
    rest[: len(known)] = known @ mean
    still = fixed[(fixed[:, 1] > -1.0) | (fixed[:, 2] < 0.0)]  # the skin below the chin goes with the chin
    follow = _follow(from_plane(to_plane(np.concatenate([known @ spread, still]))), known, from_plane(plane))
    loop = np.concatenate([spline(_UPPER_LIP_IN, 4)[:-1], spline(_LOWER_LIP_IN, 4)[:0:-1]])
    lip_loop = np.array([int(np.abs(known - row).sum(1).argmin()) for row in loop])
    return Surface(rest, follow, triangles, plane, _regions(plane, spread, rest), lip_loop)


def _outline(upper: tuple[int, ...], lower: tuple[int, ...], pieces: int, spread: Array) -> Array:
    """Closed outline [P, 2] in the plane of two curves between the same corners."""
    return to_plane(np.concatenate([spline(upper, pieces)[:-1], spline(lower, pieces)[:0:-1]]) @ spread)


def _hole_outlines(spread: Array) -> list[Array]:
    return [
        _outline(UPPER_LID, LOWER_LID, 3, spread), _outline(_other_side(UPPER_LID), _other_side(LOWER_LID), 3, spread),
        _outline(_UPPER_LIP_IN, _LOWER_LIP_IN, 4, spread),
    ]  # fmt: skip


def _with_jaw(skin: Array, mean: Array, spread: Array, fixed: Array) -> Array:
    """The points of the skin where an opened jaw takes them; the inner lips, which coincide, have no say."""
    outer = np.concatenate([np.arange(52), np.arange(53, 55), np.arange(57, 60), np.arange(65, 67), (62, 68, 69, 71)])
    anchors = np.concatenate([mean[outer], fixed])
    moved = np.concatenate([(spread - mean)[outer], np.zeros_like(fixed)])
    solved = np.linalg.solve(_radial(anchors, anchors, 0.1), moved)
    return skin + _radial(skin, anchors, 0.1) @ solved


def _interpolate(places: Array, values: Array, at: Array) -> Array:
    """Smooth interpolation over directions: cubic radial functions with a linear part."""
    anchors = from_plane(to_plane(places))
    cube = ((anchors[:, None] - anchors) ** 2).sum(-1) ** 1.5
    linear = np.column_stack([np.ones(len(anchors)), anchors])
    system = np.block([[cube + 1e-6 * np.eye(len(anchors)), linear], [linear.T, np.zeros((4, 4))]])
    solved = np.linalg.solve(system, np.concatenate([values, np.zeros((4, 3))]))
    there = ((at[:, None] - anchors) ** 2).sum(-1) ** 1.5
    return np.column_stack([there, np.ones(len(at)), at]) @ solved


def _follow(anchors: Array, known: Array, at: Array) -> Array:
    """[V, 72]: how far each direction goes with each keypoint."""
    softness = 0.03
    target = np.zeros((len(anchors), COUNT))
    target[: len(known)] = known
    follow = _radial(at, anchors, softness) @ np.linalg.solve(_radial(anchors, anchors, softness), target)
    follow[: len(known)] = known
    return follow


def _regions(plane: Array, spread: Array, rest: Array) -> dict[str, Array]:
    """Where on the skin what is: each [V] in 0..1."""
    line = lambda points: to_plane(spline(points, 4) @ spread)  # noqa: E731
    pairs = {name: (line(points), line(_other_side(points))) for name, points in
             {"brow": _BROW, "upper": UPPER_LID, "lower": LOWER_LID}.items()}  # fmt: skip
    near = {name: np.minimum(*(distance(plane, one) for one in two)) for name, two in pairs.items()}
    edge = _outline(_UPPER_LIP_OUT, _LOWER_LIP_OUT, 3, spread)
    to_lips = distance(plane, np.concatenate([edge, edge[:1]]))
    lips = np.maximum(inside(plane, edge), smoothstep(to_lips, 0.03, 0.01))
    x, y, z = rest.T
    front = smoothstep(z, -0.25, 0.1)
    mouth = np.hypot(plane[:, 0] / 0.5, (plane[:, 1] + 0.68) / 0.42)
    fold = to_plane(np.array([(0.27, -0.2, 0.87), (0.42, -0.42, 0.8), (0.47, -0.6, 0.7)]))  # from nose to mouth
    blob = lambda cx, cy, r: np.exp(-(((np.abs(x) - cx) ** 2 + (y - cy) ** 2) / r**2)) * front  # noqa: E731
    return {
        "lips": lips,
        "brow": np.clip(1 - near["brow"] / 0.08, 0.0, 1.0),
        "lash": smoothstep(near["upper"], 0.04, 0.005),
        "lid": smoothstep(near["upper"], 0.16, 0.02) * (y > 0.38),
        "under_eye": smoothstep(near["lower"], 0.15, 0.03) * (y < 0.37),
        "socket": smoothstep(np.minimum(near["upper"], near["lower"]), 0.2, 0.0),
        "cheek": blob(0.6, -0.05, 0.3),
        "nose": blob(0.0, -0.13, 0.22) * (z > 0.9),
        "nostril": np.exp(-(((np.abs(x) - 0.1) ** 2 + (y + 0.272) ** 2) / 0.035**2)) * (z > 0.85),
        "beard": smoothstep(y, -0.15, -0.55) * smoothstep(z, -0.2, 0.1) * (1 - lips) * smoothstep(to_lips, 0.0, 0.05)
        + smoothstep(np.abs(x), 0.85, 0.95) * smoothstep(y, 0.1, -0.2) * smoothstep(z, -0.2, 0.0) * (y > -0.6),
        "moustache": smoothstep(mouth, 1.0, 0.8) * (y > -0.6) * (y < -0.33) * (1 - lips),
        "crease": smoothstep(np.minimum(*(distance(plane, fold * (side, 1)) for side in (-1, 1))), 0.06, 0.0),
        "under_chin": smoothstep(y, -0.95, -1.2) * smoothstep(z, 0.72, 0.5),
        "face": smoothstep(z, -0.2, -0.05) * (y < 1.25),
    }  # fmt: skip
