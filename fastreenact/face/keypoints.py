"""The 72 keypoints: which index is what, and how other trackers' landmarks become them.

Left and right are those of the image. Source of the layout: Face2Face^rho, Sec. 3.1 (72 of the 106-point layout) and
the landmark files published with it; the order is that in which its landmark images are drawn.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

COUNT = 72

PARTS: dict[str, tuple[int, ...]] = {
    "left_contour": (0, 1, 2, 3, 4, 5, 6, 7, 8),  # temple to chin
    "right_contour": (9, 10, 11, 12, 13, 14, 15, 16),  # temple down to the chin
    "left_eyebrow": (17, 18, 19, 20, 21),  # outer to inner end
    "right_eyebrow": (22, 23, 24, 25, 26),  # inner to outer end
    "nose_bridge": (27, 28, 29, 30),  # between the eyes to the tip
    "nostrils": (31, 32, 33, 34, 35),  # left to right, 33 is the base
    "left_eye": (36, 37, 38, 39, 40, 41, 42, 43),  # outer corner, upper lid, inner corner, lower lid
    "right_eye": (44, 45, 46, 47, 48, 49, 50, 51),  # inner corner, upper lid, outer corner, lower lid
    "outer_lips": (52, 54, 53, 62, 58, 59, 57, 65, 66, 71, 69, 68),  # left corner, upper edge, right corner, lower edge
    "inner_lips": (55, 56, 63, 61, 60, 64, 70, 67),  # left corner, upper edge, right corner, lower edge
}  # fmt: skip
LIPS = PARTS["outer_lips"] + PARTS["inner_lips"]
EYES = PARTS["left_eye"] + PARTS["right_eye"]
CHIN, NOSE_TIP = 8, 30

# The points that the two coarser landmark images of Face2Face^rho draw.
SUBSET_27 = (0, 4, 8, 9, 13, 17, 21, 22, 26, 27, 31, 33, 35, 36, 38, 40, 42, 44, 46, 48, 50, 52, 57, 62, 63, 70, 71)
SUBSET_8 = (0, 8, 9, 30, 42, 50, 52, 57)

_MIRROR_PAIRS = (
    (0, 9), (1, 10), (2, 11), (3, 12), (4, 13), (5, 14), (6, 15), (7, 16),
    (17, 26), (18, 25), (19, 24), (20, 23), (21, 22), (31, 35), (32, 34),
    (36, 48), (37, 47), (38, 46), (39, 45), (40, 44), (41, 51), (42, 50), (43, 49),
    (52, 57), (54, 59), (53, 58), (65, 68), (66, 69), (55, 60), (56, 61), (64, 67),
)  # fmt: skip


def _mirror() -> NDArray[np.intp]:
    order = np.arange(COUNT)
    for left, right in _MIRROR_PAIRS:
        order[left], order[right] = right, left
    order.flags.writeable = False
    return order


MIRROR = _mirror()  # MIRROR[k] is the keypoint that k becomes when the picture is mirrored

# Keypoint -> {index in MediaPipe's face mesh: weight}. Left half and midline; the right half is its mirror image.
# Chosen on the six pictures published with Face2Face^rho: of the mesh edges near each point, the one (and the weight)
# that keeps the official landmarks closest; where a named point (eye corner, nose tip, chin) is within 0.5% of the face
# of the best, the named point.
_MESH_LEFT: dict[int, dict[int, float]] = {
    0: {127: 0.75, 139: 0.25},
    1: {227: 0.5, 234: 0.5},
    2: {93: 0.5, 137: 0.5},
    3: {58: 0.25, 177: 0.75},
    4: {172: 0.5, 215: 0.5},
    5: {135: 0.5, 136: 0.5},
    6: {149: 0.5, 150: 0.5},
    7: {148: 0.25, 176: 0.75},
    8: {152: 1.0},
    17: {63: 0.75, 70: 0.25},
    18: {63: 0.5, 105: 0.5},
    19: {66: 0.5, 105: 0.5},
    20: {66: 0.75, 107: 0.25},
    21: {107: 1.0},
    27: {168: 1.0},
    28: {6: 0.5, 197: 0.5},
    29: {5: 0.25, 195: 0.75},
    30: {4: 1.0},
    31: {240: 1.0},
    32: {97: 0.25, 99: 0.75},
    33: {2: 1.0},
    36: {33: 1.0},
    37: {160: 0.5, 161: 0.5},
    38: {159: 1.0},
    39: {157: 0.5, 158: 0.5},
    40: {133: 0.5, 155: 0.25, 173: 0.25},
    41: {153: 0.5, 154: 0.5},
    42: {145: 1.0},
    43: {144: 0.5, 163: 0.5},
    52: {61: 1.0},
    53: {0: 0.25, 37: 0.75},
    54: {39: 0.5, 40: 0.5},
    55: {62: 0.5, 78: 0.5},
    56: {80: 0.25, 81: 0.75},
    62: {0: 1.0},
    63: {13: 1.0},
    67: {88: 0.5, 178: 0.5},
    68: {91: 0.5, 181: 0.5},
    69: {84: 0.75, 181: 0.25},
    70: {14: 1.0},
    71: {17: 1.0},
}  # fmt: skip

# Mirror partners of the mesh points used above; those not named lie on the midline.
_MESH_MIRROR = {
    127: 356, 139: 368, 227: 447, 234: 454, 93: 323, 137: 366, 58: 288, 177: 401, 172: 397, 215: 435, 135: 364,
    136: 365, 149: 378, 150: 379, 148: 377, 176: 400, 63: 293, 70: 300, 105: 334, 66: 296, 107: 336, 240: 460,
    97: 326, 99: 328, 33: 263, 160: 387, 161: 388, 159: 386, 157: 384, 158: 385, 133: 362, 155: 382, 173: 398,
    153: 380, 154: 381, 145: 374, 144: 373, 163: 390, 61: 291, 37: 267, 39: 269, 40: 270, 62: 292, 78: 308,
    80: 310, 81: 311, 88: 318, 178: 402, 91: 321, 181: 405, 84: 314,
}  # fmt: skip


def _mesh_table() -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Index [72, 3] and weight [72, 3] into the mesh; unused places have weight 0."""
    index, weight = np.zeros((COUNT, 3), np.intp), np.zeros((COUNT, 3), np.float32)
    for left, blend in _MESH_LEFT.items():
        for place, (point, share) in enumerate(blend.items()):
            right = MIRROR[left]
            index[right, place], weight[right, place] = _MESH_MIRROR.get(point, point), share
            index[left, place], weight[left, place] = point, share
    return index, weight


_MESH_INDEX, _MESH_WEIGHT = _mesh_table()

# 68 points (iBUG) -> 72: everything but the two middle lid points of each eye is a point of both layouts.
_FROM_68 = np.zeros((COUNT, 68), np.float32)
_FROM_68[
    list(range(9))
    + list(range(9, 17))
    + list(range(17, 36))
    + [36, 37, 39, 40, 41, 43]
    + [44, 45, 47, 48, 49, 51]
    + [52, 54, 53, 62, 58, 59, 57, 65, 66, 71, 69, 68]
    + [55, 56, 63, 61, 60, 64, 70, 67],
    list(range(9)) + list(range(16, 8, -1)) + list(range(17, 68)),
] = 1.0
for _middle, _lid in {38: (36, 37, 38, 39), 42: (39, 40, 41, 36), 46: (42, 43, 44, 45), 50: (45, 46, 47, 42)}.items():
    _FROM_68[_middle, list(_lid)] = (-1 / 16, 9 / 16, 9 / 16, -1 / 16)  # cubic through four evenly spaced points

_TO_68 = np.argmax(_FROM_68 == 1, axis=0)


def from_mediapipe(landmarks: Any) -> NDArray[np.float32]:
    """The 72 keypoints of MediaPipe face mesh landmarks.

    keypoint[k] = sum_i weight[k, i] landmarks[index[k, i]]

    Args:
        landmarks: [468 or 478, 2 or 3] in any unit (pixels, normalised); 478 has the irises, which are not used.

    Returns:
        [72, 2 or 3] float32 in the same unit.

    Raises:
        ValueError: another shape.
    """
    points = np.asarray(landmarks, np.float32)
    if points.ndim != 2 or points.shape[0] not in (468, 478) or points.shape[1] not in (2, 3):
        raise ValueError(f"landmarks: got shape {points.shape}, need [468 or 478, 2 or 3] (MediaPipe face mesh)")
    return np.einsum("ki,kid->kd", _MESH_WEIGHT, points[_MESH_INDEX])


def from_68(landmarks: Any) -> NDArray[np.float32]:
    """The 72 keypoints of the 68-point layout (iBUG 300-W, as dlib and face-alignment give it).

    The middle points of the lids, which 68 points lack, are interpolated along each lid.

    Args:
        landmarks: [68, 2 or 3] in any unit.

    Returns:
        [72, 2 or 3] float32 in the same unit.

    Raises:
        ValueError: another shape.
    """
    points = np.asarray(landmarks, np.float32)
    if points.ndim != 2 or points.shape[0] != 68 or points.shape[1] not in (2, 3):
        raise ValueError(f"landmarks: got shape {points.shape}, need [68, 2 or 3] (iBUG 68-point layout)")
    return _FROM_68 @ points


def to_68(keypoints: NDArray[np.float32]) -> NDArray[np.float32]:
    """The 68-point layout (iBUG) of the 72 keypoints, which hold all of it.

    Args:
        keypoints: [72, D] in any unit.
    Returns:
        [68, D] in the same unit.
    """
    return keypoints[_TO_68]


def from_any(landmarks: Any) -> NDArray[np.float32]:
    """The 72 keypoints of any layout known here, told apart by the number of points: 72, 68, 468 or 478.

    Args:
        landmarks: [N, 2 or 3] in any unit.

    Returns:
        [72, 2] float32 in the same unit.

    Raises:
        ValueError: another shape, or a coordinate that is not finite.
    """
    points = np.asarray(landmarks, np.float32)
    if points.ndim != 2 or points.shape[1] not in (2, 3) or points.shape[0] not in (COUNT, 68, 468, 478):
        raise ValueError(
            f"landmarks: got shape {points.shape}, need [N, 2 or 3] with N = 72 (our keypoints), 68 (iBUG), "
            "468 or 478 (MediaPipe face mesh)"
        )
    if not np.isfinite(points).all():
        raise ValueError("landmarks: some coordinates are NaN or infinite; leave a frame without a face out instead")
    if len(points) == 68:
        points = from_68(points)
    elif len(points) != COUNT:
        points = from_mediapipe(points)
    return np.ascontiguousarray(points[:, :2])


def face_size(keypoints: NDArray[np.floating[Any]]) -> float:
    """The longer side of the keypoints' bounding box (brows to chin, temple to temple), in their unit.

    Args:
        keypoints: [72, >= 2].
    """
    extent = keypoints[:, :2].max(axis=0) - keypoints[:, :2].min(axis=0)
    return float(extent.max())
