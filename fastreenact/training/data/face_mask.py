"""Where the face is in a tracked picture: the hull of its keypoints and of the forehead above them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from fastreenact.rotation import rotation_matrix

# The edge of the forehead on the mean head, image-right half, in the model's axes and unit: as high as the face of the
# generated heads reaches (y = 1.25), as far back as the temples.
_FOREHEAD_HALF = np.array([(0.0, 1.25, 0.9), (0.4, 1.25, 0.8), (0.75, 1.15, 0.5), (0.95, 0.85, 0.15)])
_FOREHEAD = np.concatenate([_FOREHEAD_HALF, _FOREHEAD_HALF[1:] * (-1.0, 1.0, 1.0)])


def face_mask(keypoints: Any, pose: Any, size: int) -> NDArray[np.bool_]:
    """The face from the forehead to the chin and from ear to ear.

    Args:
        keypoints: [72, 2] x right, y down, -1 and 1 at the picture's edges.
        pose: [6] rx, ry, rz (rad), tx, ty, scale of the same head.
        size: S, side of the picture, px.

    Returns:
        [S, S] bool.
    """
    pose = np.asarray(pose, np.float64)
    turned = _FOREHEAD @ rotation_matrix(pose[:3])[:2].T
    forehead = turned * (pose[5], -pose[5]) + pose[3:5]
    points = np.concatenate([np.asarray(keypoints, np.float64), forehead])
    outline = (_hull(points) + 1) * (size / 2) - 0.5  # px, whole numbers at the centres
    drawn = Image.new("1", (size, size))
    ImageDraw.Draw(drawn).polygon([(float(x), float(y)) for x, y in outline], fill=1)
    return np.array(drawn, np.bool_)


def _hull(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Corners of the convex hull, in order (Andrew's monotone chain, 1979)."""
    ordered = points[np.lexsort((points[:, 1], points[:, 0]))]
    chains = []
    for way in (ordered, ordered[::-1]):
        chain: list[NDArray[np.float64]] = []
        for point in way:
            while len(chain) > 1 and _turn(chain[-2], chain[-1], point) <= 0:
                chain.pop()
            chain.append(point)
        chains += chain[:-1]
    return np.array(chains)


def _turn(a: NDArray[np.float64], b: NDArray[np.float64], c: NDArray[np.float64]) -> float:
    """Above 0 where a, b, c turn one way, below 0 the other."""
    return float((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]))
