"""The head of the landmark warp: a rigid proxy placed in the portrait, and how it moves from frame to frame.

Head frame: x right, y down, z towards the viewer, origin between the temples, unit = distance of the temples.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastreenact.face.keypoints import MIRROR
from fastreenact.models.landmark_warp.unfold import Mesh
from fastreenact.rotation import rotation_matrix

Array = NDArray[np.float64]

# Where the keypoints lie: mean over 180 tracked frames of three persons, made symmetrical; the image's left half.
_LEFT = {
    0: (-0.5, 0.0, 0.0), 1: (-0.5, 0.13, 0.01), 2: (-0.5, 0.24, 0.01), 3: (-0.47, 0.38, 0.08),
    4: (-0.43, 0.51, 0.11), 5: (-0.35, 0.61, 0.21), 6: (-0.25, 0.72, 0.27), 7: (-0.14, 0.77, 0.37),
    8: (0.0, 0.8, 0.41),
    17: (-0.38, -0.18, 0.34), 18: (-0.33, -0.21, 0.38), 19: (-0.25, -0.22, 0.43), 20: (-0.18, -0.22, 0.45),
    21: (-0.1, -0.21, 0.47),
    27: (0.0, -0.08, 0.47), 28: (0.0, 0.0, 0.53), 29: (0.0, 0.09, 0.6), 30: (0.0, 0.19, 0.66),
    31: (-0.12, 0.28, 0.5), 32: (-0.06, 0.29, 0.52), 33: (0.0, 0.3, 0.54),
    36: (-0.32, -0.04, 0.31), 37: (-0.29, -0.07, 0.35), 38: (-0.24, -0.08, 0.37), 39: (-0.18, -0.07, 0.37),
    40: (-0.13, -0.04, 0.35), 41: (-0.17, -0.03, 0.36), 42: (-0.22, -0.03, 0.36), 43: (-0.27, -0.03, 0.35),
    52: (-0.2, 0.48, 0.4), 53: (-0.04, 0.4, 0.54), 54: (-0.13, 0.43, 0.49), 55: (-0.18, 0.47, 0.41),
    56: (-0.1, 0.46, 0.47), 62: (0.0, 0.41, 0.54), 63: (0.0, 0.45, 0.5), 67: (-0.11, 0.49, 0.47),
    68: (-0.13, 0.53, 0.47), 69: (-0.07, 0.55, 0.5), 70: (0.0, 0.5, 0.5), 71: (0.0, 0.56, 0.51),
}  # fmt: skip
_FACE = np.array([_LEFT[k] if k in _LEFT else np.array((-1, 1, 1)) * _LEFT[MIRROR[k]] for k in range(72)])

# Keypoints that move with the skull, not with the face's expression.
RIGID = np.array([0, 1, 2, 9, 10, 11, 27, 28, 29, 30, 31, 33, 35, 36, 40, 44, 48])

# The head with its hair: an ellipsoid. The front fits forehead and hairline, the back is only guessed.
_CENTRE = np.array((0.0, -0.05, -0.25))
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
NECK_FOLLOWS = np.repeat((0.6, 0.25), 3)[:, None]  # share of the head's motion
NECK_JAW = np.outer((0.6, 0.2), (0.5, 1.0, 0.5)).reshape(-1, 1)  # and of what the chin does beyond it
_RING = np.deg2rad(np.arange(-25, 206, 15.4))  # angles of the outline, over the top from ear to ear
_CIRCLE = 1.06 * np.column_stack((np.cos(_RING), -np.sin(_RING)))

_Y_DOWN = np.outer((1.0, -1.0, 1.0), (1.0, -1.0, 1.0))
_EDGE = np.deg2rad(np.arange(0, 360, 20))

# The skin is cut along the eyes and between the lips: lid and lip of one side do not drag the other. Three splines,
# each without the keypoints of the far sides: above the eyes, between eyes and mouth, below the mouth.
_UPPER_LIDS, _LOWER_LIDS = (37, 38, 39, 45, 46, 47), (41, 42, 43, 49, 50, 51)
_UPPER_LIP, _LOWER_LIP = (56, 63, 61), (67, 70, 64)  # inner edges
WITHOUT = (_LOWER_LIDS + _LOWER_LIP, _UPPER_LIDS + _LOWER_LIP, _UPPER_LIDS + _UPPER_LIP)


def determinant(matrix: Array) -> float:
    """Of a 2 x 2 matrix."""
    (a, b), (c, d) = matrix.tolist()
    return float(a * d - b * c)


def rotation(vector: Array) -> Array:
    """Rotation vector (X right, Y up, Z towards the viewer) -> matrix [3, 3] for y down."""
    turn: Array = rotation_matrix(vector) * _Y_DOWN
    return turn


@dataclass(frozen=True)
class Head:
    """The portrait's head: all in pixels of the portrait, depth too."""

    keypoints: Array  # [72, 2]
    turn: Array  # [3, 3] its rotation
    scale: float  # its pose's scale
    unit: float  # distance of the temples as seen from the front
    face: Array  # [72, 3] keypoints with their depth
    solid: Array  # [12, 3] hair and ears
    neck: Array  # [6, 3]
    centre: Array  # [3]
    outline: Array  # [2, 2] maps the unit circle onto the outline, relative to the centre
    controls: Array  # [P, 2] keypoints, hair and ears, outline, neck
    mesh: Mesh  # between them
    rooms: tuple[float, float]  # how far it can turn to the left and to the right, rad
    doubt: tuple[float, float]  # ridge on the left and right outline's keypoints

    @functools.cached_property
    def to_radii(self) -> Array:
        """[2, 2] from px to head radii: 1 on the outline."""
        return np.asarray(np.linalg.inv(self.outline))

    @functools.cached_property
    def ring(self) -> Array:
        """[R, 2] the control points around the outline, from the centre."""
        return np.asarray(_CIRCLE @ self.outline.T)

    @functools.cached_property
    def rim(self) -> Array:
        """[E, 2] directions of what is held at rest: points of the outline, from the centre."""
        return np.asarray(np.column_stack((np.cos(_EDGE), -np.sin(_EDGE))) @ self.outline.T)

    @functools.cached_property
    def slack(self) -> Array:
        """[P + E] the splines' ridge on the control points and on those held at rest."""
        ridge = np.full(len(self.controls) + len(_EDGE), 2e-3)
        ridge[:72] = SLACK
        ridge[:9], ridge[9:17] = self.doubt
        return ridge


def make_head(keypoints: Array, pose: Array) -> Head:
    """Place the rigid proxy in the portrait by its keypoints (px) and pose."""
    turn = rotation(pose[:3])
    seen = _FACE @ turn.T
    at, rigid = keypoints[RIGID], seen[RIGID, :2]
    model, image = rigid - rigid.mean(axis=0), at - at.mean(axis=0)
    unit = float((model * image).sum() / (model * model).sum())
    if not unit > 1e-3:
        raise ValueError("keypoints: not a face turned as `pose` says; check left and right, and that y points down")
    shift = np.append(at.mean(axis=0) - unit * rigid.mean(axis=0), 0.0)

    def place(points: Array) -> Array:
        return unit * points @ turn.T + shift

    # The outline of an ellipsoid in parallel projection is the ellipse of the top left 2 x 2 of its matrix.
    spread = ((unit * turn * _AXES) @ (unit * turn * _AXES).T)[:2, :2]
    values, vectors = np.linalg.eigh(spread)
    outline = vectors * np.sqrt(values) @ vectors.T
    face = np.column_stack((keypoints, unit * seen[:, 2]))
    solid, neck, centre = place(_SOLID), place(_NECK), place(_CENTRE)
    ring = _CIRCLE @ outline.T + centre[:2]
    controls = np.concatenate((keypoints, solid[:, :2], ring, neck[:, :2]))
    sets = tuple(np.setdiff1d(np.arange(len(controls)), without) for without in WITHOUT)
    freedom = np.full(len(controls), 0.3)
    freedom[:72], freedom[RIGID] = 1.0, 0.15
    mesh = Mesh(controls, sets, freedom, unit)
    left, right = _sides(keypoints, turn, unit)
    rooms, doubt = (right[0], left[0]), (left[1], right[1])  # to turn right is to show more of the left cheek
    return Head(keypoints, turn, float(pose[5]), unit, face, solid, neck, centre, outline, controls, mesh, rooms, doubt)


@dataclass(frozen=True)
class Rigid:
    """How the head as a whole moves from the portrait to this frame: x -> linear x + shift, in px."""

    linear: Array  # [2, 3]
    shift: Array  # [2]
    flat: Array  # [2, 2] the rotation in the plane and the scale alone

    def __call__(self, points: Array) -> Array:
        return points @ self.linear.T + self.shift


def follow(head: Head, keypoints: Array, pose: Array) -> tuple[Rigid, Array]:
    """The head's motion, and the keypoints as far as the portrait can follow them.

    Rotation and scale come from the two poses, the translation from the keypoints, whatever the origin of the poses.
    A head turned too far for what the portrait shows is turned back, with the expression kept.
    """
    turn, scale = rotation(pose[:3]), float(pose[5]) / head.scale
    rigid = _rigid(scale, turn @ head.turn.T, keypoints[RIGID], head.face[RIGID])
    yaw, allowed = yaw_of(turn), _allowed_yaw(head, yaw_of(turn))
    if abs(yaw - allowed) < 1e-6:
        return rigid, keypoints
    cos, sin = np.cos(allowed - yaw), np.sin(allowed - yaw)
    back = np.array(((cos, 0.0, sin), (0.0, 1.0, 0.0), (-sin, 0.0, cos)))
    # Turned about the head's centre, so that the head stays where it is.
    held = _rigid(scale, back @ turn @ head.turn.T, rigid(head.centre[None]), head.centre[None])
    return held, keypoints + held(head.face) - rigid(head.face)


def _rigid(scale: float, turn: Array, at: Array, points: Array) -> Rigid:
    """The motion of a rotation [3, 3] times a scale that brings `points` [M, 3] to `at` [M, 2] on average."""
    linear = scale * turn[:2]
    (a, b, _), (c, d, _) = linear.tolist()
    angle = math.atan2(c - b, a + d)
    cos, sin = scale * math.cos(angle), scale * math.sin(angle)
    return Rigid(linear, (at - points @ linear.T).mean(axis=0), np.array(((cos, -sin), (sin, cos))))


def yaw_of(turn: Array) -> float:
    """Angle of the face's direction from the camera's, about the camera's vertical."""
    return float(np.arctan2(turn[0, 2], turn[2, 2]))


# The cheek between eye and mouth corners and the outline, seen from the front: distance and direction (left, right).
_BANDS = (((36, 1), (52, 3), (52, 4)), ((48, 10), (57, 12), (57, 13)))
_STRETCH = 2.0  # how much wider than in the portrait a cheek may become
LEAST_ROOM = np.deg2rad(6)  # a portrait from the side still turns so far towards the front
SLACK = 1e-4  # ridge of the splines on a keypoint
_DOUBT = 0.3  # on an outline that nobody sees: the tracker only guesses where it is
_SEEN = 0.35  # cosine from which on it is seen
MOST_YAW = np.deg2rad(58)


def _sides(keypoints: Array, turn: Array, unit: float) -> list[tuple[float, float]]:
    """For the left and the right cheek: how far (rad) it may still turn to the viewer, and the ridge on its outline.

    A band of the cheek at angle a to the picture is cos(a) wide; the portrait shows the cosine, whatever its pose says.
    """
    sides = []
    across = turn[:2, 0] / max(float(np.linalg.norm(turn[:2, 0])), 1e-6)
    for bands, sign in zip(_BANDS, (-1.0, 1.0), strict=True):
        seen = np.mean([(keypoints[outer] - keypoints[inner]) @ across for inner, outer in bands]) * sign / unit
        whole = np.mean([np.linalg.norm((_FACE[outer] - _FACE[inner])[[0, 2]]) for inner, outer in bands])
        cosine = float(np.clip(seen / whole, 0.02, 1.0))
        wider = _STRETCH * cosine
        room = np.pi if wider >= 1 else max(float(np.arccos(cosine) - np.arccos(wider)), LEAST_ROOM)
        sides.append((room, SLACK + _DOUBT * max(0.0, 1.0 - cosine / _SEEN)))
    return sides


def _allowed_yaw(head: Head, wanted: float) -> float:
    """`wanted`, held back softly: what nobody saw cannot be shown, and nobody turns by 60 degrees without a neck."""
    source = yaw_of(head.turn)
    sign = 1.0 if wanted >= source else -1.0
    room = min(head.rooms[1 if sign > 0 else 0], max(MOST_YAW - sign * source, LEAST_ROOM))
    share, free = abs(wanted - source) / room, 0.5
    if share > free:
        share = free + (1 - free) * (1 - float(np.exp((free - share) / (1 - free))))
    return source + sign * room * share
