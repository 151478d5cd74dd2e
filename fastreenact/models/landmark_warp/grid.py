"""The landmark warp's field on a grid: coarse around the head, finer on the face, finest along lids and lips."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastreenact.models.landmark_warp.field import Controls, spline_parts
from fastreenact.ops.landmark_field import LandmarkField, landmark_field

Array = NDArray[np.float64]
Floats = NDArray[np.float32]

FINE_PER_UNIT = 110  # fine nodes per temple distance: 1 px in a 256 crop
_MIDDLE = 5  # fine nodes per node on the face; around the head twice as many
STILL = 0.004  # displacements below this share of the temple distance are shrunk towards rest
FREE = 0.6  # share of the way to the picture's edge that a displacement may go untouched
FACE_MARGIN, SLIT_MARGIN = 0.12, 0.05  # units
SLITS = (36, 44, 52)  # the first keypoint of either eye and of the mouth, which is the last


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
        self.middle = min(max(round(_MIDDLE * unit / FINE_PER_UNIT), 1), _MIDDLE)
        self.coarse = 2 * self.middle
        self._cell = self.coarse * self.step
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
        out = np.empty((*self._fine(rects[0]), 2), np.float32)
        landmark_field(self.inputs(controls, rects), out)
        return out, rects[0]

    def draw(self, controls: Controls, nodes: Floats) -> tuple[int, int, int, int] | None:
        """As `field`, into the nodes of the whole picture: [ceil(H / step), ceil(W / step), 2].

        Returns:
            Left, top, right and low of what was written; None where all is at rest.
        """
        rects = self._rects(controls)
        if rects is None:
            return None
        first = rects[0].x0 * self.coarse, rects[0].y0 * self.coarse
        height, width = self._fine(rects[0])
        left, top = max(first[0], 0), max(first[1], 0)
        right, low = min(first[0] + width, nodes.shape[1]), min(first[1] + height, nodes.shape[0])
        if right <= left or low <= top:
            return None
        landmark_field(self.inputs(controls, rects), nodes[top:low, left:right], left - first[0], top - first[1])
        return left, top, right, low

    def inputs(self, controls: Controls, rects: list[Rect] | None = None) -> LandmarkField:
        """What the field is made of, on the rectangles that the controls move."""
        order, members = spline_parts(len(controls.at) + 3)
        return LandmarkField(
            at=np.ascontiguousarray(controls.at),
            displacement=np.ascontiguousarray(controls.displacement),
            slack=np.ascontiguousarray(controls.slack),
            order=order,
            members=members,
            unit=controls.unit,
            head=np.concatenate((controls.to_source, controls.way)).astype(np.float32),
            hold=controls.hold,
            rest=controls.rest,
            still=STILL * self._unit,
            free=FREE,
            cuts=np.stack([cut.packed() for cut in controls.cuts]).astype(np.float32),
            size=self._size,
            step=self.step,
            middle=self.middle,
            coarse=self.coarse,
            rects=np.array(self._rects(controls) if rects is None else rects, np.int64),
        )

    def _fine(self, rect: Rect) -> tuple[int, int]:
        """Height and width of a rectangle in fine nodes."""
        return (rect.y1 - rect.y0) * self.coarse + 1, (rect.x1 - rect.x0) * self.coarse + 1

    def _rects(self, controls: Controls) -> list[Rect] | None:
        """The field and the face, in coarse nodes, then the slits in nodes of the face's grid from its first on."""
        rect = self._around(*controls.bounds(), self._whole)
        if _empty(rect):
            return None
        low, high = (reduce.reduceat(controls.keypoints, (0, *SLITS)) for reduce in (np.minimum, np.maximum))
        margin = FACE_MARGIN * self._unit
        face = self._around(low.min(axis=0) - margin, high.max(axis=0) + margin, rect)
        if _empty(face):
            return [rect, face, *([Rect(0, 0, 0, 0)] * len(SLITS))]
        spacing, margin = self.middle * self.step, SLIT_MARGIN * self._unit
        first = np.array([(node * self.coarse + 0.5) * self.step for node in face[:2]])
        low, high = np.floor((low[1:] - margin - first) / spacing), np.ceil((high[1:] + margin - first) / spacing)
        last = [(end - start) * (self.coarse // self.middle) for start, end in zip(face[:2], face[2:], strict=True)]
        low, high = np.maximum(low, 0).astype(int), np.minimum(high, last).astype(int)
        return [rect, face, *(Rect(*ends) for ends in np.concatenate((low, high), axis=1).tolist())]

    def _around(self, low: Array, high: Array, within: Rect) -> Rect:
        """The coarse nodes around a rectangle of pixels."""
        x0, y0 = (math.floor(edge / self._cell) for edge in low.tolist())
        x1, y1 = (math.ceil(edge / self._cell) for edge in high.tolist())
        return Rect(max(x0, within.x0), max(y0, within.y0), min(x1, within.x1), min(y1, within.y1))


def _empty(rect: Rect) -> bool:
    return rect.x1 <= rect.x0 or rect.y1 <= rect.y0
