"""The motion field of the landmark warp: where each pixel of the moved head lies in the portrait.

Thin-plate splines through the keypoints and the control points of the rigid head, at rest outside of it.
"""

import functools
import math

import numpy as np
from numpy.typing import NDArray

from fastreenact.models.landmark_warp.head import NECK_FOLLOWS, NECK_JAW, WITHOUT, Head, Rigid, determinant
from fastreenact.ops.landmark_field import CUT_KNOTS, ramp

Array = NDArray[np.float64]

REST_RADIUS = 1.0  # width of the band around the head that takes up the motion, in head radii
REST_TRAVEL = 3.0  # and at least this much of how far the head moves
NEAR = 0.3  # head radii that a head travels on its neck alone
FAR_SHARE = 0.9  # of the rest of the motion that the neck takes on from twice that

# Each cut: (upper, lower) keypoints along it from left to right, and the width in units over which the sides blend.
EYE_CUT = ((36, 37, 38, 39, 40, 44, 45, 46, 47, 48), (36, 43, 42, 41, 40, 44, 51, 50, 49, 48))
EYE_BLEND = (0.02, 0.006, 0.006, 0.006, 0.02, 0.02, 0.006, 0.006, 0.006, 0.02)
BRIDGE = 0.08  # width between the eyes
MOUTH_CUT = ((55, 56, 63, 61, 60), (55, 67, 70, 64, 60))
MOUTH_BLEND = (0.02, 0.006, 0.006, 0.006, 0.02)
BLEND_BEYOND = 0.25  # width of the blend at this distance beyond the ends of a cut, in units


class Cut:
    """A line across the face that separates two splines."""

    def __init__(
        self, keypoints: Array, cut: tuple[tuple[int, ...], ...], blend: tuple[float, ...], unit: float
    ) -> None:
        upper, lower = keypoints[list(cut[0])], keypoints[list(cut[1])]
        self._origin = (upper[0] + upper[-1]) / 2
        x, y = (upper[-1] - upper[0]).tolist()
        length = max(math.hypot(x, y), 1e-6)
        self._axes = np.array(((x, -y), (y, x))) / length  # along and across
        local = ((upper + lower) / 2 - self._origin) @ self._axes
        knots = np.maximum.accumulate(local[:, 0]).tolist(), local[:, 1].tolist(), [share * unit for share in blend]
        if len(blend) > 5:  # the bridge of the nose lies between two eyes
            for values, between in zip(knots, (None, None, BRIDGE * unit), strict=True):
                values.insert(5, (values[4] + values[5]) / 2 if between is None else between)
        beyond = BLEND_BEYOND * unit
        ends = ((knots[0][0] - beyond, knots[0][-1] + beyond), (knots[1][0], knots[1][-1]), (beyond, beyond))
        more = CUT_KNOTS - 1 - len(knots[0])
        self._knots = np.array(
            [[low, *values, *([high] * more)] for values, (low, high) in zip(knots, ends, strict=True)]
        )

    def packed(self) -> Array:
        """[45] as the compiled form takes it: origin, axes, then its knots along, across and in width."""
        return np.concatenate((self._origin, self._axes.T.ravel(), self._knots.ravel()))


class Controls:
    """Control points of one frame, and what tells how they move everything else."""

    def __init__(self, head: Head, keypoints: Array, rigid: Rigid) -> None:
        self.unit, self._head = head.unit, head
        self.to_source = head.to_radii
        centre = rigid(head.centre[None])[0]
        self.centres = (head.centre[:2], centre)
        scale = math.sqrt(determinant(rigid.flat))
        self.growth = max(1.0, scale)
        ring = head.ring
        turned = ring @ rigid.flat.T + centre
        # In head radii: how far any of the outline goes decides how wide a band has to take it up without folding.
        travel = float(np.sqrt((((turned - ring - head.centre[:2]) @ self.to_source.T) ** 2).sum(axis=1)).max())
        self.rest = self.growth + max(REST_RADIUS, REST_TRAVEL * travel)
        self.hold = 1.1 * self.growth
        neck = head.neck[:, :2]
        # Nobody's neck grows: a head that goes far takes the shoulders along.
        share = NECK_FOLLOWS + (1.0 - NECK_FOLLOWS) * FAR_SHARE * float(ramp((travel - NEAR) / NEAR))
        neck_moved = share * (rigid(head.neck) - neck) + NECK_JAW * (keypoints[8] - rigid(head.face[8:9])[0])
        at = np.concatenate((keypoints, rigid(head.solid), turned, neck + neck_moved))
        at = head.mesh.unfold(at, scale)
        self.keypoints = at[:72]
        edge = self.rest * head.rim
        edge = edge + np.where((edge @ (centre - head.centre[:2]))[:, None] > 0, centre, head.centre[:2])
        self.at = np.concatenate((at, edge))
        self.displacement = np.concatenate((head.controls - at, np.zeros_like(edge)))
        self.slack = head.slack
        size = head.unit * self.growth
        cuts = ((EYE_CUT, EYE_BLEND), (MOUTH_CUT, MOUTH_BLEND))
        self.cuts = [Cut(self.keypoints, cut, blend, size) for cut, blend in cuts]

    @property
    def way(self) -> Array:
        """[2, 2] ends of the way that the head's centre goes, in head radii."""
        return np.stack(self.centres) @ self.to_source.T

    def bounds(self) -> tuple[Array, Array]:
        """Corners (px) of the rectangle outside which everything is at rest."""
        half = self.rest * np.sqrt((self._head.outline**2).sum(axis=1))
        return np.minimum(*self.centres) - half, np.maximum(*self.centres) + half


@functools.cache
def spline_parts(n: int) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """Of n unknowns: [n] those that all splines share, then the others; [3, others] whether a spline has them."""
    own = np.array(sorted({point for without in WITHOUT for point in without}))
    order = np.concatenate((np.setdiff1d(np.arange(n), own), own)).astype(np.int32)
    return order, np.stack([~np.isin(own, without) for without in WITHOUT]).astype(np.uint8)
