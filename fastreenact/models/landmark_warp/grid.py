"""The landmark warp's field on a grid: coarse around the head, finer on the face, finest along lids and lips."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastreenact import _C
from fastreenact.models.landmark_warp.field import Controls, ramp, spline_parts

Array = NDArray[np.float64]
Floats = NDArray[np.float32]

FINE_PER_UNIT = 110  # fine nodes per temple distance: 1 px in a 256 crop
_MIDDLE = 5  # fine nodes per node on the face; around the head twice as many
_STILL = 0.004  # displacements below this share of the temple distance are shrunk towards rest
_FREE = 0.6  # share of the way to the picture's edge that a displacement may go untouched
_FACE_MARGIN, _SLIT_MARGIN = 0.12, 0.05  # units
_SLITS = (36, 44, 52)  # the first keypoint of either eye and of the mouth, which is the last


class Rect(NamedTuple):
    """A rectangle of coarse nodes, both ends included."""

    x0: int
    y0: int
    x1: int
    y1: int


class Grid:
    """The fine nodes of one portrait: `step` px apart, on a picture of height x width px."""

    def __init__(self, height: int, width: int, unit: float) -> None:
        self.step = max(1, round(unit / FINE_PER_UNIT))
        # A face of fewer pixels has fewer fine nodes; the others stay as close together as they are.
        self._middle = min(max(round(_MIDDLE * unit / FINE_PER_UNIT), 1), _MIDDLE)
        self._coarse = 2 * self._middle
        self._cell = self._coarse * self.step
        self._size = (float(width), float(height))
        self._whole = Rect(-1, -1, width // self._cell + 1, height // self._cell + 1)
        self._unit = unit

    def corner(self, rect: Rect) -> tuple[int, int]:
        """Left and upper edge (px) of the first fine node of `rect`."""
        return rect.x0 * self._cell, rect.y0 * self._cell

    def field(self, controls: Controls) -> tuple[Floats, Rect] | None:
        """[h, w, 2] at the fine nodes of a rectangle outside which all is at rest, -1 and 1 the picture's edges.

        None where that rectangle lies outside the picture.
        """
        rects = self._rects(controls)
        if rects is None:
            return None
        rect = rects[0]
        out = np.empty((*self._fine(rect), 2), np.float32)
        self._compute(controls, rects, out, 0, 0)
        return out, rect

    def draw(self, controls: Controls, nodes: Floats) -> tuple[int, int, int, int] | None:
        """As `field`, into the nodes of the whole picture: [ceil(H / step), ceil(W / step), 2].

        Returns:
            Left, top, right and low of what was written; None where all is at rest.
        """
        rects = self._rects(controls)
        if rects is None:
            return None
        first = rects[0].x0 * self._coarse, rects[0].y0 * self._coarse
        height, width = self._fine(rects[0])
        left, top = max(first[0], 0), max(first[1], 0)
        right, low = min(first[0] + width, nodes.shape[1]), min(first[1] + height, nodes.shape[0])
        if right <= left or low <= top:
            return None
        self._compute(controls, rects, nodes[top:low, left:right], left - first[0], top - first[1])
        return left, top, right, low

    def field_reference(self, controls: Controls) -> tuple[Array, Rect] | None:
        """What `field` means, in NumPy and float64."""
        rects = self._rects(controls)
        if rects is None:
            return None
        rect, face, *slits = rects
        seen = not _empty(face)
        at = self._nodes(rect, self._coarse)
        wanted = np.ones(at.shape[:2], bool)
        if seen:  # the finer grid covers what is strictly inside
            wanted[face.y0 - rect.y0 + 1 : face.y1 - rect.y0, face.x0 - rect.x0 + 1 : face.x1 - rect.x0] = False
        field = _upsample(self._normalised(at, controls.join(at, self._splines(controls, at, wanted))), self._coarse)
        if seen:
            at = self._nodes(face, self._middle)
            splines = self._splines(controls, at, np.ones(at.shape[:2], bool))
            fine = _upsample(self._normalised(at, controls.join(at, splines)), self._middle)
            for slit in slits:
                if not _empty(slit):
                    self._sharpen(fine, controls, slit, at, splines)
            y, x = (face.y0 - rect.y0) * self._coarse, (face.x0 - rect.x0) * self._coarse
            field[y : y + fine.shape[0], x : x + fine.shape[1]] = fine
        return field, rect

    def _compute(self, controls: Controls, rects: list[Rect], out: Floats, left: int, top: int) -> None:
        """The fine nodes of the first rectangle from (left, top) on, as many as `out` has."""
        points = controls.at, controls.displacement, controls.slack
        at, displacement, slack = map(np.ascontiguousarray, points)
        order, members = spline_parts(len(at) + 3)
        head = np.concatenate((controls.to_source, controls.way)).astype(np.float32)
        cuts = np.stack([cut.packed() for cut in controls.cuts]).astype(np.float32)
        rectangles = np.array(rects, np.int64)
        _C.landmark_field(
            at=at.ctypes.data,
            displacement=displacement.ctypes.data,
            slack=slack.ctypes.data,
            order=order.ctypes.data,
            members=members.ctypes.data,
            count=len(at),
            own=members.shape[1],
            unit=controls.unit,
            head=head.ctypes.data,
            hold=controls.hold,
            rest=controls.rest,
            still=_STILL * self._unit,
            free=_FREE,
            cuts=cuts.ctypes.data,
            width=self._size[0],
            height=self._size[1],
            step=self.step,
            middle=self._middle,
            coarse=self._coarse,
            rects=rectangles.ctypes.data,
            out=out.ctypes.data,
            out_stride=out.strides[0] // 4,
            left=left,
            top=top,
            columns=out.shape[1],
            rows=out.shape[0],
        )

    def _fine(self, rect: Rect) -> tuple[int, int]:
        """Height and width of a rectangle in fine nodes."""
        return (rect.y1 - rect.y0) * self._coarse + 1, (rect.x1 - rect.x0) * self._coarse + 1

    def _rects(self, controls: Controls) -> list[Rect] | None:
        """The field and the face, in coarse nodes, then the slits in nodes of the face's grid from its first on."""
        rect = self._around(*controls.bounds(), self._whole)
        if _empty(rect):
            return None
        low, high = (reduce.reduceat(controls.keypoints, (0, *_SLITS)) for reduce in (np.minimum, np.maximum))
        margin = _FACE_MARGIN * self._unit
        face = self._around(low.min(axis=0) - margin, high.max(axis=0) + margin, rect)
        if _empty(face):
            return [rect, face, *([Rect(0, 0, 0, 0)] * len(_SLITS))]
        spacing, margin = self._middle * self.step, _SLIT_MARGIN * self._unit
        first = np.array([(node * self._coarse + 0.5) * self.step for node in face[:2]])
        low, high = np.floor((low[1:] - margin - first) / spacing), np.ceil((high[1:] + margin - first) / spacing)
        last = [(end - start) * (self._coarse // self._middle) for start, end in zip(face[:2], face[2:], strict=True)]
        low, high = np.maximum(low, 0).astype(int), np.minimum(high, last).astype(int)
        return [rect, face, *(Rect(*ends) for ends in np.concatenate((low, high), axis=1).tolist())]

    def _around(self, low: Array, high: Array, within: Rect) -> Rect:
        """The coarse nodes around a rectangle of pixels."""
        x0, y0 = (math.floor(edge / self._cell) for edge in low.tolist())
        x1, y1 = (math.ceil(edge / self._cell) for edge in high.tolist())
        return Rect(max(x0, within.x0), max(y0, within.y0), min(x1, within.x1), min(y1, within.y1))

    def _nodes(self, rect: Rect, every: int) -> Array:
        """Output pixels [h, w, 2] of every n-th fine node of `rect`."""
        x = (np.arange(rect.x0 * self._coarse, rect.x1 * self._coarse + 1, every) + 0.5) * self.step
        y = (np.arange(rect.y0 * self._coarse, rect.y1 * self._coarse + 1, every) + 0.5) * self.step
        at = np.empty((len(y), len(x), 2))
        at[..., 0], at[..., 1] = x, y[:, None]
        return at

    def _splines(self, controls: Controls, at: Array, wanted: NDArray[np.bool_]) -> Array:
        """Displacements [h, w, 6] of the three splines: at rest outside, not beyond the picture, still where small."""
        radius = controls.radius(at.reshape(-1, 2)).reshape(at.shape[:2])
        near = wanted & (radius < controls.rest)
        here, rest = at[near], (radius[near] - controls.hold) / (controls.rest - controls.hold)
        move = controls.splines(here).reshape(-1, 3, 2)
        move *= (1.0 - ramp(rest))[:, None, None]
        # What goes more than _FREE of the way to an edge of the picture never quite reaches it.
        here = here[:, None]
        share = np.abs(move) / np.maximum(np.where(move < 0, here, np.array(self._size) - here), 1e-3)
        over = share > _FREE
        if over.any():
            far = share[over]
            move[over] *= (_FREE + (1 - _FREE) * (1 - np.exp((_FREE - far) / (1 - _FREE)))) / far
        square = np.einsum("ijk,ijk->ij", move, move)
        move *= (square / (square + (_STILL * self._unit) ** 2))[..., None]
        found = np.zeros((*at.shape[:2], 6))
        found[near] = move.reshape(-1, 6)
        return found

    def _normalised(self, at: Array, move: Array) -> Array:
        """Where to read, -1 and 1 at the picture's edges."""
        return np.asarray((at + move) * (2 / np.array(self._size)) - 1)

    def _sharpen(self, fine: Array, controls: Controls, slit: Rect, at: Array, splines: Array) -> None:
        """Join the splines anew at every fine node around one slit, in place."""
        window = slice(slit.y0, slit.y1 + 1), slice(slit.x0, slit.x1 + 1)
        near = _upsample(at[window], self._middle)
        sharp = self._normalised(near, controls.join(near, _upsample(splines[window], self._middle)))
        y, x = slit.y0 * self._middle, slit.x0 * self._middle
        fine[y : y + sharp.shape[0], x : x + sharp.shape[1]] = sharp


def _empty(rect: Rect) -> bool:
    return rect.x1 <= rect.x0 or rect.y1 <= rect.y0


def _upsample(nodes: Array, every: int) -> Array:
    """[h, w, C] at every n-th node -> all nodes between, bilinearly."""
    h, w, c = nodes.shape
    t = (np.arange(every) / every)[:, None]
    wide = np.empty((h, (w - 1) * every + 1, c))
    wide[:, :-1] = (nodes[:, :-1, None] + t * (nodes[:, 1:] - nodes[:, :-1])[:, :, None]).reshape(h, -1, c)
    wide[:, -1] = nodes[:, -1]
    full = np.empty(((h - 1) * every + 1, wide.shape[1], c))
    rows = full[:-1].reshape(h - 1, every, wide.shape[1], c)
    np.multiply(t[:, :, None], (wide[1:] - wide[:-1])[:, None], out=rows)
    rows += wide[:-1, None]
    full[-1] = wide[-1]
    return full
