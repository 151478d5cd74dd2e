"""The landmark warp's field on a grid: coarse around the head, finer on the face, finest along lids and lips."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastreenact.models.landmark_field import Controls, ramp

Floats = NDArray[np.float32]

FINE_PER_UNIT = 110  # fine nodes per temple distance: 1 px in a 256 crop
_MIDDLE = 5  # fine nodes per node on the face; around the head twice as many
_STILL = 0.004  # displacements below this share of the temple distance are shrunk towards rest
_FREE = 0.6  # share of the way to the picture's edge that a displacement may go untouched
_FACE_MARGIN, _SLIT_MARGIN = 0.12, 0.05  # units
_SLITS = (slice(36, 44), slice(44, 52), slice(52, 72))  # keypoints of the eyes and of the mouth


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
        self._size = np.array((width, height), np.float32)
        self._whole = Rect(-1, -1, width // self._cell + 1, height // self._cell + 1)
        self._unit = unit

    def corner(self, rect: Rect) -> tuple[int, int]:
        """Left and upper edge (px) of the first fine node of `rect`."""
        return rect.x0 * self._cell, rect.y0 * self._cell

    def field(self, controls: Controls) -> tuple[Floats, Rect] | None:
        """[h, w, 2] at the fine nodes of a rectangle outside which all is at rest, -1 and 1 the picture's edges.

        None where that rectangle lies outside the picture.
        """
        rect = self._around(*controls.bounds(), self._whole)
        if rect.x1 <= rect.x0 or rect.y1 <= rect.y0:
            return None
        keypoints, margin = controls.keypoints, _FACE_MARGIN * self._unit
        face = self._around(keypoints.min(axis=0) - margin, keypoints.max(axis=0) + margin, rect)
        seen = face.x1 > face.x0 and face.y1 > face.y0
        at = self._nodes(rect, self._coarse)
        wanted = np.ones(at.shape[:2], bool)
        if seen:  # the finer grid covers what is strictly inside
            wanted[face.y0 - rect.y0 + 1 : face.y1 - rect.y0, face.x0 - rect.x0 + 1 : face.x1 - rect.x0] = False
        field = _upsample(self._normalised(at, controls.join(at, self._splines(controls, at, wanted))), self._coarse)
        if seen:
            at = self._nodes(face, self._middle)
            splines = self._splines(controls, at, np.ones(at.shape[:2], bool))
            fine = _upsample(self._normalised(at, controls.join(at, splines)), self._middle)
            for slit in _SLITS:
                self._sharpen(fine, controls, keypoints[slit], face, at, splines)
            y, x = (face.y0 - rect.y0) * self._coarse, (face.x0 - rect.x0) * self._coarse
            field[y : y + fine.shape[0], x : x + fine.shape[1]] = fine
        return field, rect

    def _around(self, low: NDArray[np.float64], high: NDArray[np.float64], within: Rect) -> Rect:
        """The coarse nodes around a rectangle of pixels."""
        x0, y0 = np.floor(low / self._cell).astype(int)
        x1, y1 = np.ceil(high / self._cell).astype(int)
        return Rect(max(x0, within.x0), max(y0, within.y0), min(x1, within.x1), min(y1, within.y1))

    def _nodes(self, rect: Rect, every: int) -> Floats:
        """Output pixels [h, w, 2] of every n-th fine node of `rect`."""
        x = (np.arange(rect.x0 * self._coarse, rect.x1 * self._coarse + 1, every) + 0.5) * self.step
        y = (np.arange(rect.y0 * self._coarse, rect.y1 * self._coarse + 1, every) + 0.5) * self.step
        at = np.empty((len(y), len(x), 2), np.float32)
        at[..., 0], at[..., 1] = x, y[:, None]
        return at

    def _splines(self, controls: Controls, at: Floats, wanted: NDArray[np.bool_]) -> Floats:
        """Displacements [h, w, 6] of the three splines: at rest outside, not beyond the picture, still where small."""
        radius = controls.radius(at.reshape(-1, 2)).reshape(at.shape[:2])
        near = wanted & (radius < controls.rest)
        here, rest = at[near], (radius[near] - controls.hold) / (controls.rest - controls.hold)
        move = controls.splines(here).reshape(-1, 3, 2)
        move *= (1.0 - ramp(rest))[:, None, None]
        # What goes more than _FREE of the way to an edge of the picture never quite reaches it.
        here = here[:, None]
        share = np.abs(move) / np.maximum(np.where(move < 0, here, self._size - here), np.float32(1e-3))
        over = share > _FREE
        if over.any():
            far = share[over]
            move[over] *= (_FREE + (1 - _FREE) * (1 - np.exp((_FREE - far) / (1 - _FREE)))) / far
        square = np.einsum("ijk,ijk->ij", move, move)
        move *= (square / (square + (_STILL * self._unit) ** 2)).astype(np.float32)[..., None]
        found = np.zeros((*at.shape[:2], 6), np.float32)
        found[near] = move.reshape(-1, 6)
        return found

    def _normalised(self, at: Floats, move: Floats) -> Floats:
        """Where to read, -1 and 1 at the picture's edges."""
        return np.asarray((at + move) * (2 / self._size) - 1, np.float32)

    def _sharpen(
        self, fine: Floats, controls: Controls, keypoints: NDArray[np.float64], face: Rect, at: Floats, splines: Floats
    ) -> None:
        """Join the splines anew at every fine node around one slit, in place."""
        spacing, margin = self._middle * self.step, _SLIT_MARGIN * self._unit
        low = np.floor((keypoints.min(axis=0) - margin - at[0, 0]) / spacing).astype(int)
        high = np.ceil((keypoints.max(axis=0) + margin - at[0, 0]) / spacing).astype(int)
        x0, y0 = np.maximum(low, 0)
        x1, y1 = np.minimum(high, (at.shape[1] - 1, at.shape[0] - 1))
        if x1 <= x0 or y1 <= y0:
            return
        window = slice(y0, y1 + 1), slice(x0, x1 + 1)
        near = _upsample(at[window], self._middle)
        sharp = self._normalised(near, controls.join(near, _upsample(splines[window], self._middle)))
        y, x = y0 * self._middle, x0 * self._middle
        fine[y : y + sharp.shape[0], x : x + sharp.shape[1]] = sharp


def _upsample(nodes: Floats, every: int) -> Floats:
    """[h, w, C] at every n-th node -> all nodes between, bilinearly."""
    h, w, c = nodes.shape
    t = (np.arange(every, dtype=np.float32) / np.float32(every))[:, None]
    wide = np.empty((h, (w - 1) * every + 1, c), np.float32)
    wide[:, :-1] = (nodes[:, :-1, None] + t * (nodes[:, 1:] - nodes[:, :-1])[:, :, None]).reshape(h, -1, c)
    wide[:, -1] = nodes[:, -1]
    full = np.empty(((h - 1) * every + 1, wide.shape[1], c), np.float32)
    rows = full[:-1].reshape(h - 1, every, wide.shape[1], c)
    np.multiply(t[:, :, None], (wide[1:] - wide[:-1])[:, None], out=rows)
    rows += wide[:-1, None]
    full[-1] = wide[-1]
    return full
