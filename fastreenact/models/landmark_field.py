"""The motion field of the landmark warp: where each pixel of the moved head lies in the portrait.

Thin-plate splines through the keypoints and the control points of the rigid head, at rest outside of it.
"""

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastreenact.models.landmark_head import CIRCLE, NECK_FOLLOWS, NECK_JAW, SLACK, WITHOUT, Head, Rigid

Array = NDArray[np.float64]

_REST_RADIUS = 1.0  # width of the band around the head that takes up the motion, in head radii
_CHUNK = 256  # points at a time: in cache, and too few for BLAS to wake its threads, which would fight the tracker's
_REST_TRAVEL = 3.0  # and at least this much of how far the head moves
_NEAR = 0.3  # head radii that a head travels on its neck alone
_FAR_SHARE = 0.9  # of the rest of the motion that the neck takes on from twice that
_EDGE = np.deg2rad(np.arange(0, 360, 20))

# Each cut: (upper, lower) keypoints along it from left to right, and the width in units over which the sides blend.
_EYE_CUT = ((36, 37, 38, 39, 40, 44, 45, 46, 47, 48), (36, 43, 42, 41, 40, 44, 51, 50, 49, 48))
_EYE_BLEND = (0.02, 0.006, 0.006, 0.006, 0.02, 0.02, 0.006, 0.006, 0.006, 0.02)
_MOUTH_CUT = ((55, 56, 63, 61, 60), (55, 67, 70, 64, 60))
_MOUTH_BLEND = (0.02, 0.006, 0.006, 0.006, 0.02)
_BLEND_BEYOND = 0.25  # width of the blend at this distance beyond the ends of a cut, in units


class Cut:
    """A line across the face that separates two splines."""

    def __init__(
        self, keypoints: Array, cut: tuple[tuple[int, ...], ...], blend: tuple[float, ...], unit: float
    ) -> None:
        upper, lower = keypoints[list(cut[0])], keypoints[list(cut[1])]
        self._origin = (upper[0] + upper[-1]) / 2
        axis = upper[-1] - upper[0]
        axis /= max(float(np.linalg.norm(axis)), 1e-6)
        axes = np.array((axis, (-axis[1], axis[0]))).T
        local = ((upper + lower) / 2 - self._origin) @ axes
        self._origin, self._axes = self._origin.astype(np.float32), axes.astype(np.float32)
        x, y, width = np.maximum.accumulate(local[:, 0]), local[:, 1], np.array(blend) * unit
        beyond = _BLEND_BEYOND * unit
        xs = [x[0] - beyond, *x, x[-1] + beyond]
        ys, widths = [y[0], *y, y[-1]], [beyond, *width, beyond]
        if len(blend) > 5:  # the bridge of the nose lies between two eyes
            xs.insert(6, (x[4] + x[5]) / 2)
            ys.insert(6, (y[4] + y[5]) / 2)
            widths.insert(6, 0.08 * unit)
        self._x, self._y, self._width = np.array(xs), np.array(ys), np.array(widths)

    def above(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """Share [..., 1] of the upper side at points [..., 2]."""
        local = (points - self._origin) @ self._axes
        line = np.interp(local[..., 0], self._x, self._y)
        width = np.interp(local[..., 0], self._x, self._width)
        line -= local[..., 1]
        line /= 2 * width
        share: NDArray[np.float32] = ramp((line + 0.5).astype(np.float32))[..., None]
        return share


class Controls:
    """Control points of one frame, solved: displacement (portrait minus output, px) anywhere in the output."""

    def __init__(self, head: Head, keypoints: Array, rigid: Rigid) -> None:
        self._unit, self._head = head.unit, head
        self.to_source = np.linalg.inv(head.outline)
        centre = rigid(head.centre[None])[0]
        self.centres = (head.centre[:2], centre)
        self.growth = max(1.0, float(np.sqrt(np.linalg.det(rigid.flat))))
        ring = CIRCLE @ head.outline.T
        turned = ring @ rigid.flat.T + centre
        # In head radii: how far any of the outline goes decides how wide a band has to take it up without folding.
        travel = float(np.sqrt((((turned - ring - head.centre[:2]) @ self.to_source.T) ** 2).sum(axis=1)).max())
        self.rest = self.growth + max(_REST_RADIUS, _REST_TRAVEL * travel)
        self.hold = 1.1 * self.growth
        neck = head.neck[:, :2]
        # Nobody's neck grows: a head that goes far takes the shoulders along.
        share = NECK_FOLLOWS + (1.0 - NECK_FOLLOWS) * _FAR_SHARE * float(ramp((travel - _NEAR) / _NEAR))
        neck_moved = share * (rigid(head.neck) - neck) + NECK_JAW * (keypoints[8] - rigid(head.face[8:9])[0])
        at = np.concatenate((keypoints, rigid(head.solid), turned, neck + neck_moved))
        at = head.mesh.unfold(at, float(np.sqrt(np.linalg.det(rigid.flat))))
        self.keypoints = at[:72]
        edge = self.rest * np.column_stack((np.cos(_EDGE), -np.sin(_EDGE))) @ head.outline.T
        edge += np.where((edge @ (centre - head.centre[:2]))[:, None] > 0, centre, head.centre[:2])
        displacement = np.concatenate((head.controls - at, np.zeros_like(edge)))
        slack = np.concatenate((np.full(72, SLACK), np.full(len(displacement) - 72, 2e-3)))
        slack[:9], slack[9:17] = head.doubt
        self._solve(np.concatenate((at, edge)), displacement, slack)
        size = head.unit * self.growth
        cuts = ((_EYE_CUT, _EYE_BLEND), (_MOUTH_CUT, _MOUTH_BLEND))
        self._cuts = [Cut(self.keypoints, cut, blend, size) for cut, blend in cuts]

    def _solve(self, at: Array, displacement: Array, slack: Array) -> None:
        """Three thin-plate splines (r^2 log r) with an affine part; `slack` is the ridge on the diagonal."""
        self._origin = at.mean(axis=0)
        x = (at - self._origin) / self._unit
        n = len(x)
        system, right = np.zeros((n + 3, n + 3)), np.zeros((n + 3, 2))
        square = ((x[:, None] - x[None]) ** 2).sum(axis=-1)
        system[:n, :n] = square * np.log(square + 1e-12)
        system[np.arange(n), np.arange(n)] += slack
        system[:n, n], system[:n, n + 1 :] = 1.0, x
        system[n:, :n] = system[:n, n:].T
        right[:n] = displacement
        # What the three share is solved once, for the right side and for the columns of the points they do not share.
        shared, own, members = _parts(n + 3)
        columns = system[shared[:, None], own]
        found = _solve_blocks(system[shared[:, None], shared], np.concatenate((columns, right[shared]), axis=1))
        by_own, by_right = found[:, : len(own)], found[:, len(own) :]
        rest = system[own[:, None], own] - columns.T @ by_own
        left = right[own] - columns.T @ by_right
        weights = np.zeros((n + 3, len(members), 2))
        for i, member in enumerate(members):
            its = np.linalg.solve(rest[member[:, None], member], left[member])
            weights[own[member], i] = its
            weights[shared, i] = by_right - by_own[:, member] @ its
        self._weights = weights.reshape(n + 3, -1).astype(np.float32)
        self._at = np.ascontiguousarray(x.astype(np.float32).T)
        self._at2 = (self._at**2).sum(axis=0)

    def splines(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """Displacement [M, 6] of the three splines at output pixels [M, 2]; not yet at rest outside."""
        found = np.empty((len(points), self._weights.shape[1]), np.float32)
        affine = self._weights[-3:]
        for first in range(0, len(points), _CHUNK):
            x = (points[first : first + _CHUNK] - self._origin.astype(np.float32)) / np.float32(self._unit)
            square = (x * x).sum(axis=1)[:, None] + self._at2 - 2.0 * (x @ self._at)
            np.maximum(square, 1e-12, out=square)
            square *= np.log(square)
            found[first : first + _CHUNK] = square @ self._weights[:-3] + (x @ affine[1:] + affine[0])
        return found

    def join(self, points: NDArray[np.float32], splines: NDArray[np.float32]) -> NDArray[np.float32]:
        """The displacement [..., 2] from the three splines [..., 6]: each on its side of the cuts."""
        above, middle, below = splines[..., 0:2], splines[..., 2:4], splines[..., 4:6]
        move = middle + self._cuts[0].above(points) * (above - middle)
        move += (1.0 - self._cuts[1].above(points)) * (below - middle)
        return move

    def radius(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """Distance [M] from the way of the head's centre, in head radii: 1 on the head's outline."""
        inverse = self.to_source.astype(np.float32)
        a, b = (inverse @ c.astype(np.float32) for c in self.centres)
        x = points @ inverse.T - a
        way = b - a
        length = float(way @ way)
        along = np.clip(x @ way / length, 0.0, 1.0) if length > 1e-12 else np.zeros(len(x), np.float32)
        found: NDArray[np.float32] = np.sqrt(((x - along[:, None] * way) ** 2).sum(axis=1))
        return found

    def bounds(self) -> tuple[Array, Array]:
        """Corners (px) of the rectangle outside which everything is at rest."""
        half = self.rest * np.sqrt((self._head.outline**2).sum(axis=1))
        return np.minimum(*self.centres) - half, np.maximum(*self.centres) + half


@functools.cache
def _parts(n: int) -> tuple[NDArray[np.intp], NDArray[np.intp], list[NDArray[np.intp]]]:
    """Of n unknowns: those that all splines share, those that not all have, and which of the latter each has."""
    own = np.array(sorted({point for without in WITHOUT for point in without}))
    shared = np.setdiff1d(np.arange(n), own)
    return shared, own, [np.flatnonzero(~np.isin(own, without)) for without in WITHOUT]


def _solve_blocks(system: Array, right: Array) -> Array:
    """`np.linalg.solve` by halves, small enough for LAPACK to stay on this thread (it takes more from about 80 on)."""
    n = len(system)
    if n <= 72:
        return np.asarray(np.linalg.solve(system, right), np.float64)
    k = n // 2
    upper = _solve_blocks(system[:k, :k], np.concatenate((system[:k, k:], right[:k]), axis=1))
    product = system[k:, :k] @ upper
    lower = _solve_blocks(system[k:, k:] - product[:, : n - k], right[k:] - product[:, n - k :])
    return np.concatenate((upper[:, n - k :] - upper[:, : n - k] @ lower, lower))


def ramp(x: Any) -> Any:
    """0 up to 0, 1 from 1 on, smooth between: t^2 (3 - 2 t), nowhere steeper than 1.5."""
    t = np.clip(x, 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)
