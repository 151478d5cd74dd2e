"""The 50 identity modes of the built-in face model, drawn on its mean face by anatomical measure.

The first 40 are measures that anthropometry names (widths, heights, depths of face, brows, eyes, nose, mouth and jaw),
then the common asymmetries, then smooth waves over what is left. Each is symmetric or antisymmetric, carries no
rotation, translation or scale (those belong to the pose), and is scaled so that a coefficient of 1 is about one
standard deviation between adults: 3 to 6% of the measure.
"""

import numpy as np

IDENTITY_MODES = 50

_X, _Y, _Z = np.eye(3)


def _band(value: np.ndarray, centre: float, width: float) -> np.ndarray:
    """A bell around `centre`."""
    return np.exp(-0.5 * ((value - centre) / width) ** 2)


class _Canvas:
    """Coordinates and regions of the mean face that the modes are drawn with."""

    def __init__(self, mean: np.ndarray):
        self.mean = mean
        self.x, self.y, self.z = mean.T
        self.side = np.sign(np.where(np.abs(self.x) < 1e-6, 0.0, self.x))
        self.contour = self._region(*range(17))
        self.brows = self._region(*range(17, 27))
        self.eyes = self._region(*range(36, 52))
        self.bridge = self._region(27, 28, 29)
        self.nose = self._region(*range(27, 36))
        self.nose_tip = self._region(30, 33) + 0.5 * self._region(32, 34, 29)
        self.mouth = self._region(*range(52, 72))
        self.upper_outer = self._region(54, 53, 62, 58, 59)
        self.lower_outer = self._region(68, 69, 71, 66, 65)
        self.corners = self._region(52, 55, 57, 60)
        self.upper_lids, self.lower_lids = self._region(37, 38, 39, 45, 46, 47), self._region(41, 42, 43, 49, 50, 51)
        self.outer_eye = self._region(36, 48) + 0.5 * self._region(37, 43, 47, 49)
        self.inner_eye = self._region(40, 44) + 0.5 * self._region(39, 41, 45, 51)
        self.eye = self._offset(range(36, 44), range(44, 52))  # each lid point from the middle of its eye
        self.brow = self._offset(range(17, 22), range(22, 27))
        self.lips = self.mouth[:, None] * (mean - mean[52:72].mean(axis=0))
        rise = np.clip((self.y[6] - self.y) / (self.y[6] - self.y[8]), 0, 1)
        self.chin = (0.4 + 0.6 * rise) * self._region(6, 7, 8, 15, 16)
        self.lower = np.clip((self.y[30] - self.y) / (self.y[30] - self.y[8]), 0, 1)  # 0 at the nose tip, 1 at the chin

    @staticmethod
    def _region(*points: int) -> np.ndarray:
        region = np.zeros(72)
        region[list(points)] = 1.0
        return region

    def _offset(self, *groups: range) -> np.ndarray:
        offset = np.zeros((72, 3))
        for group in groups:
            points = list(group)
            offset[points] = self.mean[points] - self.mean[points].mean(axis=0)
        return offset


def _move(weight: np.ndarray, direction: np.ndarray) -> np.ndarray:
    return weight[:, None] * direction


def _head(c: _Canvas) -> list[np.ndarray]:
    """Proportions of the whole head and its outline."""
    jaw = _band(c.y, c.y[4], 0.3) * c.contour
    return [
        _move(0.06 * c.x, _X),  # width against height
        _move(-0.05 * c.lower, _Y),  # length of the lower face
        _move(0.05 * c.z, _Z),  # depth
        _move(0.05 * c.side * jaw, _X),  # jaw width
        _move(-0.045 * c.chin, _Y),  # chin length
        _move(0.06 * c.chin + 0.03 * c.lower * c.contour, _Z),  # chin forward
        _move(0.045 * c.side * c.chin, _X),  # chin width
        _move(0.04 * c.side * _band(c.y, c.y[2], 0.25) * c.contour, _X),  # cheek width
        _move(0.04 * c.side * _band(c.y, c.y[0], 0.25) * c.contour, _X),  # temple width
        _move(0.07 * c.contour * (1 - c.lower), _Z),  # ears forward
        _move(0.06 * jaw, _Z),  # jaw angle forward
        _move(0.04 * jaw, _Y),  # jaw angle up
        _move(0.04 * (1 - c.lower) * c.contour, _Y),  # ears up
        _move(0.05 * c.y, _Z),  # slope of the profile
        _move(-0.05 * c.x**2, _Z),  # roundness of the face
    ]


def _upper_face(c: _Canvas) -> list[np.ndarray]:
    """Brows and eyes."""
    across = np.clip(np.abs(c.x), 0.2, 0.75)
    return [
        _move(0.05 * c.brows, _Y),  # brow height
        _move(0.05 * c.brows * (across - 0.48) / 0.28, _Y),  # brow slope
        _move(0.03 * c.brows * (1 - ((across - 0.48) / 0.2) ** 2), _Y),  # brow arch
        _move(0.035 * c.side * c.brows, _X),  # distance of the brows
        0.08 * c.brow,  # length of the brows
        _move(0.05 * c.brows, _Z),  # brow ridge
        _move(0.03 * c.side * c.eyes + 0.02 * c.side * c.brows, _X),  # distance of the eyes
        0.09 * c.eye,  # size of the eyes
        _move(0.016 * (c.upper_lids - c.lower_lids), _Y),  # opening of the eyes
        _move(0.02 * (c.outer_eye - c.inner_eye), _Y),  # slant of the eyes
        _move(0.035 * c.eyes + 0.02 * c.brows, _Y),  # height of the eyes
        _move(0.04 * c.eyes, _Z),  # depth of the eyes
        _move(0.04 * (c.outer_eye - c.inner_eye), _Z),  # outer corners forward
        _move(0.016 * (c.upper_lids + c.lower_lids), _Y),  # corners against lids
    ]


def _nose_and_mouth(c: _Canvas) -> list[np.ndarray]:
    """Nose, lips and what is between them."""
    half = np.abs(c.x) / c.x[57]
    return [
        _move(-0.045 * np.clip((c.y[27] - c.y) / (c.y[27] - c.y[33]), 0, 1) * c.nose, _Y),  # nose length
        _move(0.12 * c.x * c.nose, _X),  # nose width
        _move(0.05 * c.nose_tip, _Z),  # tip forward
        _move(0.05 * c.bridge, _Z),  # bridge forward
        _move(0.04 * c._region(30) + 0.015 * c._region(29), _Y),  # tip up
        _move(0.045 * c.mouth, _Y),  # height of the mouth
        0.09 * c.lips * _X,  # width of the mouth
        _move(0.022 * c.upper_outer * (1 - 0.4 * half), _Y),  # upper lip
        _move(-0.026 * c.lower_outer * (1 - 0.4 * half), _Y),  # lower lip
        _move(0.045 * c.mouth, _Z),  # mouth forward
        _move(0.03 * c.mouth * (half**2 - 0.4), _Y),  # curve of the mouth
    ]


def _asymmetries(c: _Canvas) -> list[np.ndarray]:
    """One side against the other."""
    return [
        _move(0.02 * c.nose_tip + 0.01 * c._region(31, 35), _X),  # nose sideways
        _move(0.025 * c.mouth, _X),  # mouth sideways
        _move(0.04 * c.lower * c.contour, _X),  # chin sideways
        _move(0.02 * c.side * (c.eyes + c.brows), _Y),  # one eye higher
        _move(0.025 * c.side * c.brows, _Y),  # one brow higher
        _move(0.02 * c.x / c.x[57] * c.mouth, _Y),  # one corner of the mouth higher
        _move(0.03 * c.contour * (1 - c.lower) * c.side, _Y),  # one ear higher
        _move(0.009 * c.side * (c.upper_lids - c.lower_lids), _Y),  # one eye more open
    ]


def _waves(c: _Canvas) -> list[np.ndarray]:
    """Smooth symmetric waves over the face."""
    return [_move(0.03 * np.cos(np.pi * c.y), _Z), _move(0.025 * np.sin(np.pi * c.y), _Y)]


def _rigid(mean: np.ndarray) -> np.ndarray:
    """Orthonormal basis [7, 216] of moving, turning and scaling the mean face a little."""
    centred = mean - mean.mean(axis=0)
    moves = [np.broadcast_to(axis, mean.shape) for axis in np.eye(3)]
    moves += [np.cross(axis, centred) for axis in np.eye(3)] + [centred]
    return np.linalg.qr(np.stack([m.ravel() for m in moves]).T)[0].T


def identity_modes(mean: np.ndarray) -> np.ndarray:
    """Displacements of the 50 identity modes on a mean face.

    Args:
        mean: [72, 3] float, the symmetric mean face (x right, y up, z towards the viewer; half the face's width is 1).

    Returns:
        [50, 72, 3] float64 in the same unit.
    """
    mean = np.asarray(mean, np.float64)
    canvas = _Canvas(mean)
    drawn = _head(canvas) + _upper_face(canvas) + _nose_and_mouth(canvas) + _asymmetries(canvas) + _waves(canvas)
    modes = np.stack(drawn).reshape(len(drawn), -1)
    rigid = _rigid(mean)
    return (modes - modes @ rigid.T @ rigid).reshape(-1, *mean.shape)
