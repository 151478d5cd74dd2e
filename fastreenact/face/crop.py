"""The square of a picture that is animated: where it lies, how it is cut out."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastreenact.face.keypoints import COUNT, face_size


class Box(NamedTuple):
    """A square in pixels; normalised coordinates are -1 and 1 on its edges (align_corners=False)."""

    cx: float  # centre, px
    cy: float
    size: float  # side, px

    def normalise(self, px: Any) -> NDArray[np.float32]:
        """Pixels [..., 2] -> float32 [..., 2]: (px - centre) / (size / 2)."""
        centre = np.array((self.cx, self.cy))
        return ((np.asarray(px) - centre) * (2.0 / self.size)).astype(np.float32)

    def denormalise(self, c: Any) -> NDArray[np.float32]:
        """Normalised coordinates [..., 2] -> pixels float32 [..., 2]."""
        centre = np.array((self.cx, self.cy))
        return (np.asarray(c) * (self.size / 2.0) + centre).astype(np.float32)


_BOX_PER_FACE = 2.2  # side of the box per face size: hair and neck are in, as in FOMM's and LivePortrait's crops
_SHIFT_UP = 0.1  # of the side: there is more head above the brows than below the chin


def crop_box(keypoints: Any) -> Box:
    """The square around a face: 2.2 times the face size, shifted up by a tenth of its side.

    Args:
        keypoints: [72, >= 2] px.

    Returns:
        The box; it may reach beyond the picture.

    Raises:
        ValueError: another shape, a coordinate that is not finite, or a face without extent.
    """
    points = np.asarray(keypoints, np.float64)
    if points.ndim != 2 or points.shape[0] != COUNT or points.shape[1] < 2:
        raise ValueError(f"keypoints: got shape {points.shape}, need [72, 2]")
    if not np.isfinite(points[:, :2]).all():
        raise ValueError("keypoints: some coordinates are NaN or infinite")
    size = _BOX_PER_FACE * face_size(points)
    if size <= 0:
        raise ValueError("keypoints: all points coincide, so there is no face to frame")
    centre = (points[:, :2].min(axis=0) + points[:, :2].max(axis=0)) / 2
    return Box(float(centre[0]), float(centre[1]) - _SHIFT_UP * size, size)
