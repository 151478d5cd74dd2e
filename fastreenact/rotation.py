"""Rotation vectors, along the axis and as long as the angle (rad), and matrices."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def rotation_matrix(vector: Any) -> NDArray[np.float64]:
    """Rotation matrices of rotation vectors (Rodrigues).

    Args:
        vector: [..., 3] rad, along the axis, as long as the angle.

    Returns:
        [..., 3, 3] float64.
    """
    v = np.asarray(vector, np.float64)
    # One at a time: a frame has one or two, for which NumPy's dozen calls would take ten times as long.
    return np.array([_rotation(*row) for row in v.reshape(-1, 3).tolist()]).reshape(*v.shape[:-1], 3, 3)


def _rotation(x: float, y: float, z: float) -> tuple[tuple[float, float, float], ...]:
    angle2 = x * x + y * y + z * z
    if angle2 < 1e-8:
        first, second = 1.0 - angle2 / 6.0, 0.5 - angle2 / 24.0
    else:
        angle = math.sqrt(angle2)
        first, second = math.sin(angle) / angle, (1.0 - math.cos(angle)) / angle2
    return (
        (1.0 - second * (y * y + z * z), second * x * y - first * z, second * x * z + first * y),
        (second * x * y + first * z, 1.0 - second * (x * x + z * z), second * y * z - first * x),
        (second * x * z - first * y, second * y * z + first * x, 1.0 - second * (x * x + y * y)),
    )


def rotation_vector(rotation: Array) -> Array:
    """The rotation vector [3] (rad) of a rotation matrix [3, 3]; the inverse of `rotation_matrix` below a half turn."""
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = rotation.tolist()
    axis = zy - yz, xz - zx, yx - xy
    sine, cosine = math.hypot(*axis) / 2.0, (xx + yy + zz - 1.0) / 2.0
    factor = 0.5 if sine < 1e-9 else math.atan2(sine, cosine) / (2.0 * sine)
    return np.array([factor * value for value in axis])
