"""A head pose of ours as the six numbers that a network was trained with; a weights file names its convention."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

CONVENTIONS = ("official", "standardised")

# The released weights' affine map from weak perspective to their stored pose. Source: the official fitting code.
_OFFSET_X, _OFFSET_Y = 0.2582781138863169, -0.26074984122168304
_TRANSLATION_GAIN = 0.256
_SCALE_DIVISOR = 4122.399989645386
_NOSE_TIP = 30
# Metres per unit of our morphable model (half a face width), and the height of the nose tip above the origin of the
# official model, m: means over six published pairs of landmarks and stored pose (0.0668 to 0.0674; -0.0033 to -0.0044).
_METRES_PER_UNIT = 0.0671
_NOSE_HEIGHT_M = -0.0039


def head_pose_input(pose: ArrayLike, keypoints: ArrayLike, metadata: Mapping[str, str]) -> NDArray[np.float32]:
    """The pose as the network of a weights file wants it.

    official: (rx, ry, rz, a + 0.256 (tx + dx), b - 0.256 (ty + dy), scale / 4122.4); dx, dy: how far rotation moves the
    nose tip.
    standardised: ((rx, ry, rz, tx, ty, log scale) - mean) / deviation.

    Args:
        pose: [6] (rx, ry, rz in rad, tx, ty, scale in normalised box units, y down).
        keypoints: [72, 2] projected with that pose, in [-1, 1], y down.
        metadata: of the weights file: `head_pose`, and for "standardised" `head_pose_mean` and `head_pose_deviation`.
    Returns:
        [6] float32.
    Raises:
        ValueError: wrong shapes, values not finite, a scale not above 0, an unknown convention, numbers missing.
    Source: Face2Face^rho, released code; `fastreenact` weights format.
    """
    p = np.asarray(pose, np.float64)
    k = np.asarray(keypoints, np.float64)
    if p.shape != (6,) or k.shape != (72, 2):
        raise ValueError(f"pose must be [6] and keypoints [72, 2], got {list(p.shape)} and {list(k.shape)}")
    if not np.isfinite(p).all() or p[5] <= 0:
        raise ValueError(f"pose must be finite with a scale above 0, got {p.tolist()}")
    statistics = check_convention(metadata)
    if statistics is None:
        metres = p[5] / _METRES_PER_UNIT
        # Translation plus the nose's shift by rotation is the projected nose minus scale times the nose at rest.
        return official_head_pose(p[:3], k[_NOSE_TIP, 0], k[_NOSE_TIP, 1] + metres * _NOSE_HEIGHT_M, metres)
    mean, deviation = statistics
    return ((np.concatenate([p[:5], [np.log(p[5])]]) - mean) / deviation).astype(np.float32)


def pose_of_official(head_pose: ArrayLike) -> NDArray[np.float32]:
    """Rotation and scale of a stored official pose in ours: [6] rx, ry, rz, 0, 0, scale.

    The translation is left at 0: it can be had from the keypoints alone.
    """
    stored = np.asarray(head_pose, np.float64)
    return np.array([*stored[:3], 0.0, 0.0, stored[5] * _SCALE_DIVISOR * _METRES_PER_UNIT], np.float32)


def check_convention(metadata: Mapping[str, str]) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Mean and deviation, [6] each, of the "standardised" convention; None for "official".

    Raises:
        ValueError: another convention, or numbers missing or unusable.
    """
    convention = metadata.get("head_pose")
    if convention not in CONVENTIONS:
        raise ValueError(f"head_pose must be one of {', '.join(CONVENTIONS)}, got {convention!r}")
    if convention == "official":
        return None
    mean, deviation = (_six_numbers(metadata, f"head_pose_{word}") for word in ("mean", "deviation"))
    if (deviation <= 0).any():
        raise ValueError(f"head_pose_deviation must be above 0, got {deviation.tolist()}")
    return mean, deviation


def official_head_pose(rotation: ArrayLike, x: float, y: float, scale: float) -> NDArray[np.float32]:
    """The stored pose of the released weights.

    Args:
        rotation: [3] rotation vector, rad.
        x, y: translation plus the shift of the nose tip by rotation, in [-1, 1], y down.
        scale: normalised units per metre.
    Returns:
        [6] float32.
    """
    place = (_OFFSET_X + _TRANSLATION_GAIN * x, _OFFSET_Y - _TRANSLATION_GAIN * y, scale / _SCALE_DIVISOR)
    return np.concatenate([np.asarray(rotation, np.float64), place]).astype(np.float32)


def _six_numbers(metadata: Mapping[str, str], key: str) -> NDArray[np.float64]:
    """Six comma-separated numbers of the metadata."""
    text = metadata.get(key)
    if text is None:
        raise ValueError(f"head_pose is standardised, but the weights' metadata has no {key}")
    try:
        numbers = np.array([float(part) for part in text.split(",")])
    except ValueError as error:
        raise ValueError(f"{key} must hold six numbers separated by commas, got {text!r}") from error
    if numbers.shape != (6,) or not np.isfinite(numbers).all():
        raise ValueError(f"{key} must hold six finite numbers separated by commas, got {text!r}")
    return numbers
