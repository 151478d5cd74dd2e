"""landmark_field: three thin-plate splines through a face's control points, read at the nodes of a motion field."""

import functools
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastreenact import _C

Array = NDArray[np.float64]
Floats = NDArray[np.float32]

CUT_KNOTS = 13  # kCutKnots of csrc/landmark_field.h


class LandmarkField(NamedTuple):
    """What a field is made of; arrays are contiguous. Lengths are px of the picture, which is moved from its corner."""

    at: Array  # [P, 2] control points in the output
    displacement: Array  # [P, 2] from there to where they lie in the portrait
    slack: Array  # [P] ridge of the splines at each, in the splines' own unit
    order: NDArray[np.int32]  # [P + 3] the P points and 3 affine unknowns: what all splines share, then the others
    members: NDArray[np.uint8]  # [3, others] whether the spline above, between and below the cuts has each of those
    unit: float  # the splines' own unit
    head: (
        Floats  # [4, 2]: [2, 2] from px to head radii, then both ends of the way that the head's centre goes, in radii
    )
    hold: float  # head radii from that way up to which everything moves,
    rest: float  # and from which on nothing does
    still: float  # displacements below it are shrunk towards rest
    free: float  # share of the way to the picture's edge that a displacement may go untouched
    cuts: (
        Floats  # [2, 45] along the eyes and the lips: origin, axes along and across; 13 knots: along, across and width
    )
    size: tuple[float, float]  # the picture's width and height
    step: int  # between fine nodes, the first half of it from the picture's corner
    middle: int  # fine nodes from node to node on the face,
    coarse: int  # and around the head
    rects: NDArray[
        np.int64
    ]  # [5, 4] x0, y0, x1, y1, ends included, empty where an end is no larger than its beginning:
    # the field and the face in coarse nodes, eyes and mouth in nodes of the face's grid from its first on


def landmark_field(field: LandmarkField, out: Floats, left: int = 0, top: int = 0) -> None:
    """Evaluate a field at its fine nodes: coarse around the head, finer on the face, finest along lids and lips.

    Args:
        field: what it is made of.
        out: [h, w, 2] float32, pixels packed, for the fine nodes from (left, top) of the field's rectangle on: where
            the portrait is read, -1 and 1 its edges.
        left, top: fine nodes, counted from the rectangle's first.

    Raises:
        TypeError: an array of another type or shape, or that is not contiguous.
    """
    _C.landmark_field(**field._asdict(), out=out, left=left, top=top)


def landmark_field_reference(field: LandmarkField) -> Array:
    """What `landmark_field` means, in NumPy and float64: all fine nodes [h, w, 2] of the field's rectangle."""
    splines = Splines(field)
    rect, face, *slits = field.rects.tolist()
    at = splines.nodes(rect, field.coarse)
    wanted = np.ones(at.shape[:2], bool)
    if not _empty(face):  # the finer grid covers what is strictly inside
        wanted[face[1] - rect[1] + 1 : face[3] - rect[1], face[0] - rect[0] + 1 : face[2] - rect[0]] = False
    found = _upsample(splines.normalised(at, splines.join(at, splines.limited(at, wanted))), field.coarse)
    if _empty(face):
        return found
    at = splines.nodes(face, field.middle)
    moves = splines.limited(at, np.ones(at.shape[:2], bool))
    fine = _upsample(splines.normalised(at, splines.join(at, moves)), field.middle)
    for slit in slits:
        if not _empty(slit):  # the splines are joined anew at every fine node
            window = slice(slit[1], slit[3] + 1), slice(slit[0], slit[2] + 1)
            near = _upsample(at[window], field.middle)
            sharp = splines.normalised(near, splines.join(near, _upsample(moves[window], field.middle)))
            y, x = slit[1] * field.middle, slit[0] * field.middle
            fine[y : y + sharp.shape[0], x : x + sharp.shape[1]] = sharp
    y, x = (face[1] - rect[1]) * field.coarse, (face[0] - rect[0]) * field.coarse
    found[y : y + fine.shape[0], x : x + fine.shape[1]] = fine
    return found


class Splines:
    """The splines of a field, in NumPy: displacements anywhere in the output."""

    def __init__(self, field: LandmarkField) -> None:
        self._field = field
        self._size = np.array(field.size)

    @functools.cached_property
    def _weights(self) -> Array:
        """[P + 3, 6] of three thin-plate splines (r^2 log r) with an affine part; `slack` is the diagonal's ridge."""
        f = self._field
        x = self._local(f.at)
        n = len(x)
        system, right = np.zeros((n + 3, n + 3)), np.zeros((n + 3, 2))
        system[:n, :n] = _radial(x, x) + np.diag(f.slack)
        system[:n, n], system[:n, n + 1 :] = 1.0, x
        system[n:, :n] = system[:n, n:].T
        right[:n] = f.displacement
        weights = np.zeros((n + 3, 3, 2))
        own = f.order[len(f.order) - f.members.shape[1] :]
        for i, members in enumerate(f.members):
            has = np.setdiff1d(np.arange(n + 3), own[members == 0])
            weights[has, i] = np.linalg.solve(system[has[:, None], has], right[has])
        return weights.reshape(n + 3, -1)

    def _local(self, points: Array) -> Array:
        local: Array = (points - self._field.at.mean(axis=0)) / self._field.unit
        return local

    def at(self, points: Array) -> Array:
        """Displacement [M, 6] of the three splines at output pixels [M, 2]; not yet at rest outside."""
        x = self._local(points)
        found: Array = _radial(x, self._local(self._field.at)) @ self._weights[:-3] + x @ self._weights[-2:]
        return found + self._weights[-3]

    def join(self, points: Array, moves: Array) -> Array:
        """The displacement [..., 2] from the three splines' [..., 6]: each on its side of the cuts."""
        above, middle, below = moves[..., 0:2], moves[..., 2:4], moves[..., 4:6]
        move = middle + self.above(0, points) * (above - middle)
        move += (1.0 - self.above(1, points)) * (below - middle)
        return move

    def above(self, cut: int, points: Array) -> Array:
        """Share [..., 1] of the upper side of a cut at points [..., 2]."""
        numbers = self._field.cuts[cut].astype(np.float64)
        origin, axes, knots = numbers[:2], numbers[2:6].reshape(2, 2), numbers[6:].reshape(3, CUT_KNOTS)
        local = (points - origin) @ axes.T
        line = np.interp(local[..., 0], knots[0], knots[1])
        width = np.interp(local[..., 0], knots[0], knots[2])
        share: Array = ramp((line - local[..., 1]) / (2 * width) + 0.5)[..., None]
        return share

    def radius(self, points: Array) -> Array:
        """Distance [M] from the way of the head's centre, in head radii: 1 on the head's outline."""
        to_head, (a, b) = self._field.head[:2].astype(np.float64), self._field.head[2:].astype(np.float64)
        x = points @ to_head.T - a
        way = b - a
        length = float(way @ way)
        along = np.clip(x @ way / length, 0.0, 1.0) if length > 1e-12 else np.zeros(len(x))
        found: Array = np.sqrt(((x - along[:, None] * way) ** 2).sum(axis=1))
        return found

    def limited(self, at: Array, wanted: NDArray[np.bool_]) -> Array:
        """Displacements [h, w, 6] of the three splines: at rest outside, not beyond the picture, still where small."""
        f = self._field
        radius = self.radius(at.reshape(-1, 2)).reshape(at.shape[:2])
        near = wanted & (radius < f.rest)
        here, rest = at[near], (radius[near] - f.hold) / (f.rest - f.hold)
        move = self.at(here).reshape(-1, 3, 2)
        move *= (1.0 - ramp(rest))[:, None, None]
        # What goes more than `free` of the way to an edge of the picture never quite reaches it.
        here = here[:, None]
        share = np.abs(move) / np.maximum(np.where(move < 0, here, self._size - here), 1e-3)
        over = share > f.free
        if over.any():
            far = share[over]
            move[over] *= (f.free + (1 - f.free) * (1 - np.exp((f.free - far) / (1 - f.free)))) / far
        square = np.einsum("ijk,ijk->ij", move, move)
        move *= (square / (square + f.still**2))[..., None]
        found = np.zeros((*at.shape[:2], 6))
        found[near] = move.reshape(-1, 6)
        return found

    def nodes(self, rect: list[int], every: int) -> Array:
        """Output pixels [h, w, 2] of every n-th fine node of a rectangle of coarse ones."""
        coarse, step = self._field.coarse, self._field.step
        x, y = ((np.arange(rect[axis] * coarse, rect[axis + 2] * coarse + 1, every) + 0.5) * step for axis in (0, 1))
        return np.stack(np.meshgrid(x, y), -1)

    def normalised(self, at: Array, move: Array) -> Array:
        """Where to read, -1 and 1 at the picture's edges."""
        return np.asarray((at + move) * (2 / self._size) - 1)


def _empty(rect: list[int]) -> bool:
    return rect[2] <= rect[0] or rect[3] <= rect[1]


def ramp(x: Any) -> Any:
    """0 up to 0, 1 from 1 on, smooth between."""
    t = np.clip(x, 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def _radial(x: Array, centres: Array) -> Array:
    """r^2 log r^2 between points [M, 2] and centres [P, 2]: [M, P]."""
    square = ((x[:, None] - centres) ** 2).sum(axis=-1)
    return np.asarray(square * np.log(square + 1e-12))


def _upsample(nodes: Array, every: int) -> Array:
    """[h, w, C] at every n-th node -> all nodes between, bilinearly."""
    h, w, _ = nodes.shape
    for axis, count in ((0, h), (1, w)):
        at = np.arange((count - 1) * every + 1)
        low = np.minimum(at // every, count - 2) if count > 1 else at * 0
        t = ((at - low * every) / every)[(slice(None), None, None) if axis == 0 else (None, slice(None), None)]
        lower = np.take(nodes, low, axis)
        nodes = lower + t * (np.take(nodes, np.minimum(low + 1, count - 1), axis) - lower)
    return nodes
