"""The motion field of the landmark warp: where each pixel of the moved head lies in the portrait.

The field interpolates 72 keypoints and the control points of a rigid head proxy (an ellipsoid with ears, and a neck
that follows in part). Head frame: x right, y down, z towards the viewer, unit = distance of the temples.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Points that move with the skull, not with the face's expression, and where they lie in the head frame (origin between
# the temples). Mean over 180 tracked frames of three persons, made symmetrical.
RIGID = np.array([0, 1, 2, 9, 10, 11, 27, 28, 29, 30, 31, 33, 35, 36, 40, 44, 48])
_RIGID_AT = np.array([
    (-0.50, 0.00, 0.00), (-0.50, 0.13, 0.01), (-0.49, 0.24, 0.02),
    (0.50, 0.00, 0.00), (0.50, 0.13, 0.01), (0.49, 0.24, 0.02),
    (0.0, -0.08, 0.47), (0.0, 0.0, 0.53), (0.0, 0.09, 0.60), (0.0, 0.19, 0.66),
    (-0.12, 0.28, 0.50), (0.0, 0.30, 0.54), (0.12, 0.28, 0.50),
    (-0.32, -0.04, 0.31), (-0.13, -0.04, 0.35), (0.13, -0.04, 0.35), (0.32, -0.04, 0.31),
])  # fmt: skip

# The head with its hair: an ellipsoid. The front fits forehead and hairline, the back is only guessed.
_CENTRE = np.array((0.0, -0.05, -0.12))
_AXES = np.array((0.62, 0.88, 0.62))


def _hair() -> Array:
    """Points on the front of the ellipsoid above the brows, and the ears: [12, 3]."""
    azimuth, elevation = np.deg2rad((-50, -25, 0, 25, 50)), np.deg2rad((33, 60))
    front = [
        _CENTRE + _AXES * (np.cos(e) * np.sin(a), -np.sin(e), np.cos(e) * np.cos(a)) for e in elevation for a in azimuth
    ]
    return np.array([*front, (-0.6, 0.1, -0.05), (0.6, 0.1, -0.05)])


_SOLID = _hair()
_NECK = np.array([(x, y, -0.1) for y in (1.02, 1.3) for x in (-0.36, 0.0, 0.36)])
_NECK_FOLLOWS = np.repeat((0.5, 0.2), 3)[:, None]  # share of the head's motion
_NECK_JAW = np.outer((0.6, 0.2), (0.5, 1.0, 0.5)).reshape(-1, 1)  # and of what the chin does beyond it
_RING = np.deg2rad(np.arange(-25, 206, 15.4))  # angles of the outline, over the top from ear to ear
_REST_RADIUS = 1.0  # width of the band around the head that takes up the motion, in head radii
_EDGE = np.deg2rad(np.arange(0, 360, 20))


def rotation(vector: Array) -> Array:
    """Rotation vector (X right, Y up, Z towards the viewer) -> matrix [3, 3] for y down."""
    angle = float(np.linalg.norm(vector))
    if angle < 1e-9:
        return np.eye(3)
    x, y, z = np.asarray(vector, np.float64) / angle
    cross = np.array(((0, -z, y), (z, 0, -x), (-y, x, 0)))
    flip = np.array((1.0, -1.0, 1.0))
    matrix = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    return flip[:, None] * matrix * flip


@dataclass(frozen=True)
class Head:
    """The portrait's head: all in pixels of the portrait, depth too."""

    keypoints: Array  # [72, 2]
    turn: Array  # [3, 3] its rotation
    scale: float  # its pose's scale
    unit: float  # distance of the temples as seen from the front
    rigid: Array  # [R, 3] the RIGID keypoints with their depth
    solid: Array  # [12, 3] hair and ears
    neck: Array  # [6, 3]
    chin: Array  # [3] keypoint 8 with its depth
    centre: Array  # [3]
    outline: Array  # [2, 2] maps the unit circle onto the outline, relative to the centre


def make_head(keypoints: Array, pose: Array) -> Head:
    """Place the rigid proxy in the portrait by its keypoints (px) and pose."""
    turn = rotation(pose[:3])
    seen = _RIGID_AT @ turn.T
    at = keypoints[RIGID]
    model, image = seen[:, :2] - seen[:, :2].mean(axis=0), at - at.mean(axis=0)
    unit = float((model * image).sum() / (model * model).sum())
    if not unit > 1e-3:
        raise ValueError("keypoints: not a face turned as `pose` says; check left and right, and that y points down")
    shift = np.append(at.mean(axis=0) - unit * seen[:, :2].mean(axis=0), 0.0)

    def place(points: Array) -> Array:
        return unit * points @ turn.T + shift

    # The outline of an ellipsoid in parallel projection is the ellipse of the top left 2 x 2 of its matrix.
    spread = ((unit * turn * _AXES) @ (unit * turn * _AXES).T)[:2, :2]
    values, vectors = np.linalg.eigh(spread)
    outline = vectors * np.sqrt(values) @ vectors.T
    rigid = np.column_stack((at, unit * seen[:, 2]))
    chin = np.append(keypoints[8], place(np.array((0.0, 0.8, 0.41)))[2])
    return Head(
        keypoints, turn, float(pose[5]), unit, rigid, place(_SOLID), place(_NECK), chin, place(_CENTRE), outline
    )


@dataclass(frozen=True)
class Rigid:
    """How the head as a whole moves from the portrait to this frame: x -> linear x + shift, in px."""

    linear: Array  # [2, 3]
    shift: Array  # [2]
    flat: Array  # [2, 2] the rotation in the plane and the scale alone

    def __call__(self, points: Array) -> Array:
        return points @ self.linear.T + self.shift


def rigid_motion(head: Head, keypoints: Array, pose: Array) -> Rigid:
    """Rotation and scale from the two poses, translation from the keypoints (so the pose's origin does not matter)."""
    linear = (float(pose[5]) / head.scale) * (rotation(pose[:3]) @ head.turn.T)[:2]
    shift = (keypoints[RIGID] - head.rigid @ linear.T).mean(axis=0)
    angle = np.arctan2(linear[1, 0] - linear[0, 1], linear[0, 0] + linear[1, 1])
    cos, sin = np.cos(angle), np.sin(angle)
    return Rigid(linear, shift, float(pose[5]) / head.scale * np.array(((cos, -sin), (sin, cos))))


# The skin is cut along the eyes and between the lips: lid and lip of one side do not drag the other. Three splines,
# each without the keypoints of the far sides: above the eyes, between eyes and mouth, below the mouth.
_UPPER_LIDS, _LOWER_LIDS = (37, 38, 39, 45, 46, 47), (41, 42, 43, 49, 50, 51)
_UPPER_LIP, _LOWER_LIP = (56, 63, 61), (67, 70, 64)  # inner edges
_WITHOUT = (_LOWER_LIDS + _LOWER_LIP, _UPPER_LIDS + _LOWER_LIP, _UPPER_LIDS + _UPPER_LIP)
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
        self._axes = np.array((axis, (-axis[1], axis[0]))).astype(np.float32)
        local = ((upper + lower) / 2 - self._origin) @ self._axes.T
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
        """Share [M, 1] of the upper side at points [M, 2]."""
        local = (points - self._origin.astype(np.float32)) @ self._axes.T
        line = np.interp(local[:, 0], self._x, self._y)
        width = np.interp(local[:, 0], self._x, self._width)
        share: NDArray[np.float32] = ramp(0.5 + ((line - local[:, 1]) / (2 * width)).astype(np.float32))[:, None]
        return share


class Controls:
    """Control points of one frame, solved: displacement (portrait minus output, px) anywhere in the output."""

    def __init__(self, head: Head, keypoints: Array, rigid: Rigid) -> None:
        self._unit, self._head = head.unit, head
        self.to_source = np.linalg.inv(head.outline)
        centre = rigid(head.centre[None])[0]
        self.centres = (head.centre[:2], centre)
        self.growth = max(1.0, float(np.sqrt(np.linalg.det(rigid.flat))))
        travel = float(np.abs(self.to_source @ (centre - head.centre[:2])).max())
        self.rest = self.growth + max(_REST_RADIUS, 1.8 * travel)
        ring = 1.06 * np.column_stack((np.cos(_RING), -np.sin(_RING))) @ head.outline.T
        neck = head.neck[:, :2]
        edge = self.rest * np.column_stack((np.cos(_EDGE), -np.sin(_EDGE))) @ head.outline.T
        edge += np.where((edge @ (centre - head.centre[:2]))[:, None] > 0, centre, head.centre[:2])
        neck_moved = _NECK_FOLLOWS * (rigid(head.neck) - neck) + _NECK_JAW * (keypoints[8] - rigid(head.chin[None])[0])
        source = np.concatenate((head.keypoints, head.solid[:, :2], ring + head.centre[:2], neck, edge))
        at = np.concatenate((keypoints, rigid(head.solid), ring @ rigid.flat.T + centre, neck + neck_moved, edge))
        slack = np.concatenate((np.full(72, 1e-4), np.full(len(source) - 72, 2e-3)))
        self._solve(at, source - at, slack)
        size = head.unit * self.growth
        self._cuts = (Cut(keypoints, _EYE_CUT, _EYE_BLEND, size), Cut(keypoints, _MOUTH_CUT, _MOUTH_BLEND, size))

    def _solve(self, at: Array, displacement: Array, slack: Array) -> None:
        """Three thin-plate splines (r^2 log r) with an affine part; `slack` is the ridge on the diagonal."""
        self._origin = at.mean(axis=0)
        x = (at - self._origin) / self._unit
        n = len(x)
        system = np.zeros((len(_WITHOUT), n + 3, n + 3))
        square = ((x[:, None] - x[None]) ** 2).sum(axis=-1)
        system[:, :n, :n] = square * np.log(square + 1e-12) + np.diag(slack)
        system[:, :n, n], system[:, :n, n + 1 : n + 3] = 1.0, x
        system[:, n:, :n] = system[0, :n, n:].T
        for part, without in zip(system, _WITHOUT, strict=True):
            part[without, without] = 1e6  # so stiff a ridge that the point has no say
        right = np.zeros((n + 3, 2))
        right[:n] = displacement
        weights = np.linalg.solve(system, np.broadcast_to(right, (len(_WITHOUT), n + 3, 2)))
        self._weights = np.ascontiguousarray(weights.transpose(1, 0, 2).reshape(n + 3, -1).astype(np.float32))
        self._at = np.ascontiguousarray(x.astype(np.float32).T)
        self._at2 = (self._at**2).sum(axis=0)

    def splines(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """Displacement [M, 6] of the three splines at output pixels [M, 2]; not yet at rest outside."""
        x = (points - self._origin.astype(np.float32)) / np.float32(self._unit)
        square = (x * x).sum(axis=1)[:, None] + self._at2 - 2.0 * (x @ self._at)
        np.maximum(square, 1e-12, out=square)
        square *= np.log(square)
        affine = self._weights[-3:]
        found: NDArray[np.float32] = square @ self._weights[:-3]
        found += x @ affine[1:] + affine[0]
        return found

    def join(self, points: NDArray[np.float32], splines: NDArray[np.float32]) -> NDArray[np.float32]:
        """The displacement [M, 2] from the three splines [M, 6]: each on its side of the cuts."""
        move = splines[:, 2:4].copy()
        move += self._cuts[0].above(points) * (splines[:, 0:2] - splines[:, 2:4])
        move += (1.0 - self._cuts[1].above(points)) * (splines[:, 4:6] - splines[:, 2:4])
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


def ramp(x: Any) -> Any:
    """0 up to 0, 1 from 1 on, with two continuous derivatives between."""
    t = np.clip(x, 0.0, 1.0)
    return t * t * t * (t * (t * 6.0 - 15.0) + 10.0)
