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

from fastreenact.face.keypoints import COUNT, MIRROR
from fastreenact.face.morphable.expressions import smoothstep
from fastreenact.face.morphable.model import EXPRESSION_NAMES, default_model

Array = NDArray[np.float64]
Triangles = NDArray[np.int32]

# Points of the skin between the keypoints, image-right half and midline. Measured by us like the mean face: MediaPipe
# face mesh on calm frames of four clips and on five pictures, brought onto the mean keypoints smoothly, averaged, made
# symmetric, thinned out.
_SKIN = np.array([
    (0, 1.16, 0.899), (0.274, 1.15, 0.874), (0.508, 1.11, 0.781), (0.724, 1.02, 0.618), (0, 0.92, 0.951),
    (0.238, 0.924, 0.931), (0.449, 0.917, 0.863), (0.655, 0.878, 0.744), (0.866, 0.888, 0.43), (0.796, 0.786, 0.61),
    (0, 0.671, 0.982), (0.889, 0.653, 0.447), (0.955, 0.721, 0.247), (0.179, 0.564, 0.929), (0.394, 0.56, 0.815),
    (0.394, 0.63, 0.903), (0.52, 0.571, 0.808), (0.56, 0.641, 0.853), (0.625, 0.557, 0.769), (0.253, 0.511, 0.797),
    (0.312, 0.495, 0.748), (0.696, 0.52, 0.713), (0.73, 0.453, 0.635), (0.864, 0.481, 0.504), (0.943, 0.496, 0.297),
    (1, 0.54, 0.053), (0.106, 0.432, 0.884), (0.184, 0.435, 0.767), (0.739, 0.369, 0.569), (0.144, 0.323, 0.832),
    (0.172, 0.344, 0.768), (0.197, 0.254, 0.805), (0.216, 0.295, 0.754), (0.273, 0.268, 0.748), (0.719, 0.283, 0.589),
    (0.896, 0.326, 0.412), (0.987, 0.312, 0.194), (0.139, 0.162, 0.992), (0.264, 0.211, 0.788), (0.355, 0.243, 0.741),
    (0.352, 0.172, 0.762), (0.463, 0.223, 0.725), (0.58, 0.22, 0.689), (0.671, 0.247, 0.634), (0.816, 0.217, 0.537),
    (0.474, 0.134, 0.741), (0.912, 0.14, 0.433), (0.996, 0.114, 0.159), (1.01, 0.106, -0.172), (0, 0.026, 1.23),
    (0.079, 0.016, 1.2), (0.153, -0.014, 1.15), (0.198, 0.015, 0.984), (0.248, -0.035, 0.916), (0.083, -0.1, 1.25),
    (0.156, -0.112, 1.18), (0.219, -0.131, 1.09), (0.222, -0.067, 1.06), (0.275, -0.11, 0.973), (0.433, -0.099, 0.811),
    (0.694, -0.087, 0.695), (0.897, -0.057, 0.451), (0.979, -0.088, 0.135), (0.99, -0.108, -0.184), (0, -0.195, 1.23),
    (0, -0.24, 1.19), (0.072, -0.231, 1.17), (0.071, -0.192, 1.22), (0.085, -0.242, 1.06), (0.133, -0.179, 1.18),
    (0.167, -0.19, 1.09), (0.243, -0.196, 1.01), (0.273, -0.201, 0.951), (0.296, -0.156, 0.838), (0.571, -0.209, 0.767),
    (0.876, -0.248, 0.416), (0, -0.266, 1.07), (0.452, -0.318, 0.795), (0.759, -0.293, 0.593), (0.953, -0.335, -0.151),
    (0, -0.353, 0.994), (0.117, -0.359, 0.982), (0.274, -0.386, 0.901), (0.52, -0.442, 0.744), (0.643, -0.362, 0.69),
    (0.848, -0.409, 0.379), (0.765, -0.522, 0.455), (0.895, -0.486, 0.172), (0.551, -0.613, 0.659),
    (0.656, -0.625, 0.57), (0.887, -0.569, -0.07), (0.48, -0.73, 0.668), (0.802, -0.659, 0.284), (0.551, -0.802, 0.582),
    (0.794, -0.754, 0.074), (0.281, -0.909, 0.76), (0.438, -0.907, 0.637), (0.575, -0.905, 0.477), (0, -0.965, 0.834),
    (0.174, -1.07, 0.798),
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
_FINE, _MIDDLE, _COARSE = 0.042, 0.06, 0.13  # rad: spacing of the vertices around eyes, nose and mouth; around; behind
_FINE_TO, _MIDDLE_TO, _END = 1.3, 1.45, 2.65  # rad from the front: to where; where the mesh ends
_SKIN_SLACK = 6e-4  # rad^3: smooths over what the tracker's points between the keypoints err from each other
# Trackers' brow points lie on the upper edge of the hairs; the line half way to MediaPipe's lower row of brow points is
# 0.03 to 0.06 below them: here at the outer end, in the middle, at the inner end.
_BROW_BELOW = (0.045, 0.05, 0.05)


class Surface(NamedTuple):
    """The mean head's skin and how it follows the keypoints, which are its first 72 vertices."""

    rest: Array  # [V, 3]
    follow: Array  # [V, 72]
    triangles: Triangles  # [F, 3], counter-clockwise from outside
    plane: Array  # [V, 2] rad, direction from the centre of the head (azimuthal equidistant about +z)
    regions: dict[str, Array]  # name -> [V] in 0..1
    lip_loop: NDArray[np.intp]  # the vertices around the opening of the mouth, in order


class _Smooth(NamedTuple):
    """A smooth interpolation over directions: cubic radial functions with a linear part."""

    anchors: Array  # [A, 3] unit
    weights: Array  # [A + 4, 3]

    def __call__(self, plane: Array) -> Array:
        at = from_plane(plane)
        apart = np.maximum(2 - 2 * at @ self.anchors.T, 0.0)  # squared, of unit vectors
        cube = apart * np.sqrt(apart)
        return np.asarray(np.column_stack([cube, np.ones(len(at)), at]) @ self.weights)


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


def along(points: Array, line: Array) -> tuple[Array, Array]:
    """Where along a polyline points [N, 2] lie [N], 0 to 1 from end to end and beyond; how far above it [N]."""
    a, d = line[:-1], np.diff(line, axis=0)
    t = ((points[:, None] - a) * d).sum(-1) / (d * d).sum(-1)
    kept = np.clip(t, 0.0, 1.0)
    kept[:, 0], kept[:, -1] = np.minimum(t[:, 0], 1.0), np.maximum(t[:, -1], 0.0)
    off = points[:, None] - a - kept[..., None] * d
    near = np.linalg.norm(off, axis=-1).argmin(axis=1)
    length = np.linalg.norm(d, axis=1)
    row = np.arange(len(points))
    share = (np.concatenate([[0.0], np.cumsum(length)])[near] + kept[row, near] * length[near]) / length.sum()
    return share, np.linalg.norm(off[row, near], axis=-1) * np.sign(off[row, near, 1])


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


def _edges() -> Array:
    """Weights [P, 72] of the points on lids and lips that are vertices, without the keypoints themselves."""
    lines = [(line, 3) for eye in (UPPER_LID, LOWER_LID) for line in (eye, _other_side(eye))]
    lines += [(_UPPER_LIP_IN, 4), (_LOWER_LIP_IN, 4), (_UPPER_LIP_OUT, 2), (_LOWER_LIP_OUT, 2)]
    rows = np.concatenate([spline(line, pieces) for line, pieces in lines])
    return rows[rows.max(axis=1) < 1.0 - 1e-9]


def _radial(a: Array, b: Array, softness: Any) -> Array:
    """Distances to a power below 1: between lids that part they overshoot by 1.7, against 2.6 of distance itself.

    softness: of all, or of each of `b`: how far around an anchor the skin goes with it, rounding what would be a peak.
    """
    return np.asarray((((a[:, None] - b) ** 2).sum(-1) + np.square(softness)) ** 0.35)


@functools.cache
def _shape() -> tuple[Array, Array, _Smooth]:
    """Mean keypoints with an open mouth [72, 3], so that it is a hole, not a slit; skull [N, 3]; the skin at rest."""
    model = default_model()
    mean = model.mean.astype(np.float64)
    opened = np.zeros(len(EXPRESSION_NAMES), np.float32)
    opened[EXPRESSION_NAMES.index("jawOpen")] = 0.35
    spread = model.points(np.zeros(len(model.shape_basis)), opened).astype(np.float64)
    known = np.concatenate([np.eye(COUNT), _edges()])
    fixed, skin = both_sides(_SKULL), both_sides(_SKIN)
    places = np.concatenate([known @ spread, _with_jaw(skin, mean, spread, fixed), fixed])
    slack = np.repeat((1e-6, _SKIN_SLACK, 1e-6), (len(known), len(skin), len(fixed)))
    return spread, fixed, _interpolate(places, np.concatenate([known @ mean, skin, fixed]), slack)


def rest_at(plane: Array) -> Array:
    """Points of the skin [N, 3] of the mean head in directions of the plane [N, 2]."""
    smooth = _shape()[2]
    return np.concatenate([smooth(part) for part in np.array_split(plane, len(plane) // 8192 + 1)])


@functools.cache
def surface() -> Surface:
    """The mean head's surface; the same object every time."""
    mean = default_model().mean.astype(np.float64)
    spread, fixed, smooth = _shape()
    known = np.concatenate([np.eye(COUNT), _edges()])
    plane = to_plane(known @ spread)
    holes = _hole_outlines(spread)
    free = _hexagons(_FINE, 0.0, _FINE_TO)
    wide = _hexagons(_MIDDLE, 0.0, _MIDDLE_TO)
    free = free[_features(free) < 1.0]
    wide = wide[_features(wide) >= 1.0]
    free = np.concatenate([free, wide, _hexagons(_COARSE, _MIDDLE_TO + 0.04, _END)])
    crowded = np.sqrt(((free[:, None] - plane) ** 2).sum(-1)).min(axis=1) < 0.6 * _FINE
    free = free[~crowded & ~np.any([inside(free, hole) for hole in holes], axis=0)]
    plane = np.concatenate([plane, free])
    triangles = triangulate(plane)
    middles = plane[triangles].mean(axis=1)
    triangles = triangles[~np.any([inside(middles, hole) for hole in holes], axis=0)]
    rest = smooth(plane)
    rest[: len(known)] = known @ mean
    still = fixed[(fixed[:, 1] > -1.0) | (fixed[:, 2] < 0.0)]  # the skin below the chin goes with the chin
    follow = _follow(from_plane(to_plane(np.concatenate([known @ spread, still]))), known, from_plane(plane))
    loop = np.concatenate([spline(_UPPER_LIP_IN, 4)[:-1], spline(_LOWER_LIP_IN, 4)[:0:-1]])
    lip_loop = np.array([int(np.abs(known - row).sum(1).argmin()) for row in loop])
    return Surface(rest, follow, triangles, plane, _regions(plane, spread, rest), lip_loop)


def _features(plane: Array) -> Array:
    """Below 1 where eyes, nose and mouth are."""
    return np.asarray((plane[:, 0] / 0.85) ** 4 + ((plane[:, 1] + 0.18) / 0.95) ** 4)


@functools.cache
def curves() -> dict[str, list[Array]]:
    """Lines of the face in the plane, each [P, 2]: lids, brows from inner to outer end, outlines of lips and mouth."""
    spread = _shape()[0]
    line = lambda points: to_plane(spline(points, 4) @ spread)  # noqa: E731
    drop = np.interp(np.linspace(0, 1, 17), (0, 0.5, 1), _BROW_BELOW)[:, None] * (0.0, 1.0, 0.0)
    below = lambda points: to_plane(spline(points, 4) @ spread - drop)[::-1]  # noqa: E731
    both = lambda make, points: [make(points), make(_other_side(points))]  # noqa: E731
    return {
        "upper_lid": both(line, UPPER_LID),
        "lower_lid": both(line, LOWER_LID),
        "brow": both(below, _BROW),
        "lips": [_outline(_UPPER_LIP_OUT, _LOWER_LIP_OUT, 3, spread)],
        "mouth": [_outline(_UPPER_LIP_IN, _LOWER_LIP_IN, 4, spread)],
    }


def _outline(upper: tuple[int, ...], lower: tuple[int, ...], pieces: int, spread: Array) -> Array:
    """Closed outline [P, 2] in the plane of two curves between the same corners."""
    return to_plane(np.concatenate([spline(upper, pieces)[:-1], spline(lower, pieces)[:0:-1]]) @ spread)


def _hole_outlines(spread: Array) -> list[Array]:
    return [
        _outline(UPPER_LID, LOWER_LID, 3, spread),
        _outline(_other_side(UPPER_LID), _other_side(LOWER_LID), 3, spread),
        _outline(_UPPER_LIP_IN, _LOWER_LIP_IN, 4, spread),
    ]


def _with_jaw(skin: Array, mean: Array, spread: Array, fixed: Array) -> Array:
    """The points of the skin where an opened jaw takes them; the inner lips, which coincide, have no say."""
    outer = np.concatenate([np.arange(52), np.arange(53, 55), np.arange(57, 60), np.arange(65, 67), (62, 68, 69, 71)])
    anchors = np.concatenate([mean[outer], fixed])
    moved = np.concatenate([(spread - mean)[outer], np.zeros_like(fixed)])
    solved = np.linalg.solve(_radial(anchors, anchors, 0.1), moved)
    return skin + _radial(skin, anchors, 0.1) @ solved


def _interpolate(places: Array, values: Array, slack: Array) -> _Smooth:
    """The interpolation that has the values at the places' directions, or nearly where there is slack [A]."""
    anchors = from_plane(to_plane(places))
    cube = ((anchors[:, None] - anchors) ** 2).sum(-1) ** 1.5
    linear = np.column_stack([np.ones(len(anchors)), anchors])
    system = np.block([[cube + np.diag(slack), linear], [linear.T, np.zeros((4, 4))]])
    return _Smooth(anchors, np.linalg.solve(system, np.concatenate([values, np.zeros((4, 3))])))


def _follow(anchors: Array, known: Array, at: Array) -> Array:
    """[V, 72]: how far each direction goes with each keypoint."""
    target = np.zeros((len(anchors), COUNT))
    target[: len(known)] = known
    softness = np.full(len(anchors), 0.05)
    softness[36 : len(known)] = 0.03  # lids and lips, whose edges part
    follow = _radial(at, anchors, softness) @ np.linalg.solve(_radial(anchors, anchors, softness), target)
    follow[: len(known)] = known
    return follow


def beard_area(rest: Array) -> Array:
    """Where beards grow on the skin, [N] in 0..1: below a line from before the ears to the corners of the mouth."""
    x, y, z = rest.T
    top = -0.52 + 0.6 * smoothstep(np.abs(x), 0.45, 0.95)
    return np.asarray(smoothstep(y - top, 0.1, -0.1) * smoothstep(z, -0.25, 0.0))


def _regions(plane: Array, spread: Array, rest: Array) -> dict[str, Array]:
    """Where on the skin what is: each [V] in 0..1."""
    edge = _outline(_UPPER_LIP_OUT, _LOWER_LIP_OUT, 3, spread)
    to_lips = distance(plane, np.concatenate([edge, edge[:1]]))
    lips = np.maximum(inside(plane, edge), smoothstep(to_lips, 0.03, 0.01))
    x, y, z = rest.T
    mouth = np.hypot(plane[:, 0] / 0.5, (plane[:, 1] + 0.68) / 0.42)
    return {
        "lips": lips,
        "beard": beard_area(rest) * (1 - lips) * smoothstep(to_lips, 0.0, 0.05),
        "moustache": smoothstep(mouth, 1.0, 0.8) * (y > -0.6) * (y < -0.33) * (1 - lips),
        "oily": np.exp(-((x / 0.25) ** 2)) * (y > -0.2)
        + np.exp(-(((np.abs(x) - 0.58) / 0.2) ** 2 + ((y - 0.1) / 0.2) ** 2)),
        "face": smoothstep(z, -0.2, -0.05) * (y < 1.25),
    }
