"""Keeps the landmark warp from folding: triangles between its control points may shrink, but not turn over."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_LEAST = 0.25  # share of its area in the portrait that a triangle keeps
_LEAST_LIP = 0.5  # and one between nose and upper lip
_NOSE, _UPPER_LIP = (31, 32, 33, 34, 35), (53, 54, 58, 59, 62)
_FLAT = 2e-4  # triangles below this area (squared units) carry no constraint: closed lids and lips
ROUNDS = 9
LEAST_WEIGHT = 0.05  # share of its least area that counts as slope: needles are not thrown about
LONGEST_STEP = 0.02  # units a point moves per round


def triangulate(points: Array) -> NDArray[np.intp]:
    """Delaunay triangles [T, 3], counter-clockwise where y points up (Bowyer-Watson)."""
    middle, span = points.mean(axis=0), float(np.ptp(points, axis=0).max()) + 1e-9
    # Points on one circle or line have no unique triangles; a fixed shift of 1e-7 of the span decides.
    shift = np.random.default_rng(7).standard_normal(points.shape) * 1e-7
    far = 50.0 * np.array(((-1.0, -1.0), (1.0, -1.0), (0.0, 1.5)))
    at = np.concatenate(((points - middle) / span + shift, far))
    n = len(points)
    triangles = np.array([(n, n + 1, n + 2)])
    for i in range(n):
        a, b, c = (at[triangles[:, k]] - at[i] for k in range(3))
        rows = [(p[:, 0], p[:, 1], (p * p).sum(axis=1)) for p in (a, b, c)]
        (ax, ay, aa), (bx, by, bb), (cx, cy, cc) = rows
        inside = ax * (by * cc - bb * cy) - ay * (bx * cc - bb * cx) + aa * (bx * cy - by * cx) > 0
        bad = triangles[inside]
        edges = np.concatenate((bad[:, [0, 1]], bad[:, [1, 2]], bad[:, [2, 0]]))
        known = {(int(p), int(q)) for p, q in edges}
        rim = [(p, q) for p, q in sorted(known) if (q, p) not in known]
        triangles = np.concatenate((triangles[~inside], np.array([(p, q, i) for p, q in rim], np.intp).reshape(-1, 3)))
    kept: NDArray[np.intp] = triangles[(triangles < n).all(axis=1)]
    return kept


def _areas(points: Array, triangles: NDArray[np.intp]) -> Array:
    x, y = points[:, 0][triangles.T], points[:, 1][triangles.T]
    found: Array = 0.5 * ((x[1] - x[0]) * (y[2] - y[0]) - (y[1] - y[0]) * (x[2] - x[0]))
    return found


class Mesh:
    """The portrait's control points, triangulated once per set of points that one spline passes through."""

    def __init__(self, points: Array, sets: tuple[NDArray[np.intp], ...], freedom: Array, unit: float) -> None:
        found = np.concatenate([members[triangulate(points[members])] for members in sets])
        areas = _areas(points, found)
        solid = areas > _FLAT * unit * unit
        self.triangles, index = np.unique(found[solid], axis=0, return_index=True)
        nose, lip = (np.isin(self.triangles, part).any(axis=1) for part in (_NOSE, _UPPER_LIP))
        self.least = np.where(nose & lip, _LEAST_LIP, _LEAST) * areas[solid][index]
        self.freedom = freedom  # of each point
        self._freedom = freedom[self.triangles]  # [T, 3]
        self._unit = unit

    def unfold(self, points: Array, growth: float) -> Array:
        """`points` moved as little as it takes to keep every triangle's area at its least.

        Projection of one area constraint after the other, all at once and averaged; mobile points give way first.
        """
        least = self.least * growth * growth
        limit = LONGEST_STEP * self._unit * growth
        for _ in range(ROUNDS):
            missing = least - _areas(points, self.triangles)
            bad = np.flatnonzero(missing > 0)
            if not len(bad):
                break
            corners = points[self.triangles[bad]]  # [B, 3, 2]
            opposite = corners[:, (2, 0, 1)] - corners[:, (1, 2, 0)]
            slope = 0.5 * np.stack((-opposite[..., 1], opposite[..., 0]), axis=-1)  # of the area, by each corner
            weight = (self._freedom[bad] * np.einsum("tkd,tkd->tk", slope, slope)).sum(axis=1)
            # The share of the least area keeps needles, whose slopes are tiny, from being thrown about.
            push = (missing[bad] / (weight + LEAST_WEIGHT * least[bad]))[:, None] * self._freedom[bad]
            step, at = (push[..., None] * slope).reshape(-1, 2), self.triangles[bad].ravel()
            count = np.bincount(at, minlength=len(points))
            gain = 1.5 / (0.5 + 0.5 * np.maximum(count, 1))
            moved: Array = np.stack([gain * np.bincount(at, step[:, k], len(points)) for k in (0, 1)], axis=-1)
            length = np.sqrt((moved * moved).sum(axis=1, keepdims=True))
            points = points + moved * (limit / (limit + length))
        return points
