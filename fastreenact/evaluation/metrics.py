"""Metrics of a reenacted frame against the true one, in NumPy alone: pixels, tracked geometry, distance of features."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastreenact.face.keypoints import COUNT
from fastreenact.face.morphable.model import MorphableModel
from fastreenact.rotation import rotation_matrix, rotation_vector

Picture = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Array = NDArray[np.float64]

# The 68 of our 72 keypoints that are points of the 68-point layout too: all but the middles of the lids.
AKD_POINTS = np.array([k for k in range(COUNT) if k not in (38, 42, 46, 50)])

_WINDOW = 7  # px, side of SSIM's square window
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def psnr(got: Picture, wanted: Picture, mask: Mask | None = None) -> float:
    """Peak signal-to-noise ratio over the pixels of `mask`.

    10 log10(255^2 / mean((got - wanted)^2)), over the three channels together

    Args:
        got, wanted: uint8 [H, W, 3].
        mask: bool [H, W]; None is the whole picture.

    Returns:
        dB; inf for equal pictures, NaN for an empty mask.

    Raises:
        ValueError: pictures of another dtype or of different shapes, or a mask that does not fit.
    """
    _check_pictures(got, wanted, mask)
    square = (got.astype(np.float64) - wanted) ** 2
    if mask is not None:
        square = square[mask]
    if not square.size:
        return float("nan")
    error = float(square.mean())
    return float(10 * np.log10(255.0**2 / error)) if error > 0 else float("inf")


def ssim_map(got: Picture, wanted: Picture) -> Array:
    """Structural similarity around each pixel, channel by channel.

    (2 mu_a mu_b + c1) (2 s_ab + c2) / ((mu_a^2 + mu_b^2 + c1) (s_a^2 + s_b^2 + c2)) in a uniform 7 x 7 window, sample
    covariances (divided by 48), c1 = (0.01 * 255)^2, c2 = (0.03 * 255)^2; the picture is mirrored at its edges

    Args:
        got, wanted: uint8 [H, W, 3], both sides at least 7.

    Returns:
        float64 [H, W, 3], -1 to 1.

    Raises:
        ValueError: as `psnr`, or a side below 7.

    Source: Wang et al., Image quality assessment: from error visibility to structural similarity, 2004, Eq. 13; window
    and covariance as scikit-image's `structural_similarity` has them by default.
    """
    _check_pictures(got, wanted, None)
    if min(got.shape[:2]) < _WINDOW:
        raise ValueError(f"got: {got.shape[0]} x {got.shape[1]}, SSIM needs sides of at least {_WINDOW} px")
    a, b = got.astype(np.float64), wanted.astype(np.float64)
    mean_a, mean_b = _window_mean(a), _window_mean(b)
    sample = _WINDOW**2 / (_WINDOW**2 - 1)
    variance_a = sample * (_window_mean(a * a) - mean_a * mean_a)
    variance_b = sample * (_window_mean(b * b) - mean_b * mean_b)
    covariance = sample * (_window_mean(a * b) - mean_a * mean_b)
    above = (2 * mean_a * mean_b + _C1) * (2 * covariance + _C2)
    below: Array = (mean_a**2 + mean_b**2 + _C1) * (variance_a + variance_b + _C2)
    return above / below


def ssim(got: Picture, wanted: Picture, mask: Mask | None = None) -> float:
    """Mean structural similarity: of the whole picture but its 3 px wide edge, or of the pixels of `mask`.

    mean of `ssim_map`, over the three channels

    Args:
        got, wanted: uint8 [H, W, 3], both sides at least 7.
        mask: bool [H, W]; None is the whole picture.

    Returns:
        -1 to 1; 1 for equal pictures, NaN for an empty mask.

    Raises, Source: as `ssim_map`.
    """
    _check_pictures(got, wanted, mask)
    similarity = ssim_map(got, wanted)
    edge = _WINDOW // 2
    chosen = similarity[edge:-edge, edge:-edge] if mask is None else similarity[mask]
    return float(chosen.mean()) if chosen.size else float("nan")


def face_mask(keypoints: Any, height: int, width: int, grow_px: float = 0.0) -> Mask:
    """The pixels whose centre lies in the convex hull of the keypoints.

    Args:
        keypoints: [K, >= 2] px, K >= 3, not on one line.
        height, width: of the mask, px.
        grow_px: each side of the hull is moved outwards by so much; 0 is the hull itself.

    Returns:
        bool [height, width].

    Raises:
        ValueError: another shape, coordinates that are not finite, or points on one line.
    """
    points = np.asarray(keypoints, np.float64)
    if points.ndim != 2 or len(points) < 3 or points.shape[1] < 2 or not np.isfinite(points[:, :2]).all():
        raise ValueError(f"keypoints: got shape {points.shape}, need [K >= 3, 2] finite px")
    corners = _convex_hull(points[:, :2])
    along = np.roll(corners, -1, axis=0) - corners
    outward = np.stack((along[:, 1], -along[:, 0]), axis=1) / np.hypot(along[:, 0], along[:, 1])[:, None]
    limit = (outward * corners).sum(axis=1) + grow_px
    x, y = np.arange(width) + 0.5, np.arange(height) + 0.5
    inside = np.ones((height, width), bool)
    for (nx, ny), most in zip(outward, limit, strict=True):
        inside &= nx * x + ny * y[:, None] <= most
    return inside


def akd_px(got: Any, wanted: Any) -> float:
    """Average keypoint distance.

    mean over the 68 points of the 68-point layout and both coordinates of |got - wanted|

    Args:
        got, wanted: [72, >= 2] px.

    Returns:
        px.

    Raises:
        ValueError: another shape.

    Source: the evaluation that goes with FOMM (Siarohin et al., 2019), as Face2Face^rho's Table 2 uses it; the tracker
    differs (the paper: face-alignment), so numbers compare only with those of the same tracker.
    """
    a, b = np.asarray(got, np.float64), np.asarray(wanted, np.float64)
    for name, points in (("got", a), ("wanted", b)):
        if points.ndim != 2 or points.shape[0] != COUNT or points.shape[1] < 2:
            raise ValueError(f"{name}: got shape {points.shape}, need [{COUNT}, 2] px")
    return float(np.abs(a - b)[AKD_POINTS, :2].mean())


def head_angles_deg(pose: Any) -> Array:
    """Yaw, pitch and roll of a head.

    R = R_y(yaw) R_x(pitch) R_z(roll), head coordinates x right in the picture, y up, z towards the viewer

    Args:
        pose: [>= 3], the first three a rotation vector, rad.

    Returns:
        float64 [3] degrees: yaw (positive to the picture's right), pitch (positive down), roll (positive
        counterclockwise in the picture).

    Raises:
        ValueError: fewer than three numbers, or not finite.
    """
    r = rotation_matrix(_rotation(pose))
    pitch = np.arcsin(np.clip(-r[1, 2], -1.0, 1.0))
    return np.degrees(np.array([np.arctan2(r[0, 2], r[2, 2]), pitch, np.arctan2(r[1, 0], r[1, 1])]))


def ard_deg(got: Any, wanted: Any) -> float:
    """Average rotation distance of two heads, by their angles.

    mean of |yaw - yaw'|, |pitch - pitch'|, |roll - roll'|, each the short way round

    Args:
        got, wanted: poses, as `head_angles_deg`.

    Returns:
        Degrees, 0 to 180.

    Raises:
        ValueError: as `head_angles_deg`.

    Source: HeadGAN (Doukas et al., 2021) names the metric, Face2Face^rho's Table 2 takes it over; neither gives the
    angles' definition, this is ours.
    """
    turn = head_angles_deg(got) - head_angles_deg(wanted)
    return float(np.abs((turn + 180.0) % 360.0 - 180.0).mean())


def geodesic_deg(got: Any, wanted: Any) -> float:
    """The angle of the one rotation that turns one head into the other.

    |log(R R'^T)|

    Args:
        got, wanted: poses, as `head_angles_deg`.

    Returns:
        Degrees, 0 to 180.

    Raises:
        ValueError: as `head_angles_deg`.
    """
    turn = rotation_matrix(_rotation(got)) @ rotation_matrix(_rotation(wanted)).T
    return float(np.degrees(np.linalg.norm(rotation_vector(turn))))


def expression_distance(model: MorphableModel, got: Any, wanted: Any) -> float:
    """How far apart two expressions are on the face: no pose, no identity, and nothing that keypoints do not show.

    mean_k |P(e)_k - P(e')_k| / width, P(e) the model's mean face with expression e seen from the front

    Coefficients themselves are not compared: several of them (gaze, cheeks) hardly move a keypoint, and some make up
    for each other.

    Args:
        model: the face model that both were fitted with.
        got, wanted: [51] expression coefficients.

    Returns:
        Per cent of the width of the mean face.

    Raises:
        ValueError: another shape.
    """
    rest = np.zeros(len(model.shape_basis), np.float32)
    a, b = model.points(rest, got), model.points(rest, wanted)
    width = float(np.ptp(model.mean[:, 0]))
    return float(100.0 * np.linalg.norm((a - b)[:, :2], axis=1).mean() / width)


def frechet(got: Any, wanted: Any) -> float:
    """Frechet distance of two sets of features, each taken as a Gaussian: FID, if Inception gave them.

    |mean - mean'|^2 + tr(S + S' - 2 (S S')^(1/2)), sample covariances

    Args:
        got, wanted: [N, D] and [M, D], N and M at least 2.

    Returns:
        At least 0; 0 for equal sets. Small sets give more than large ones of the same pictures.

    Raises:
        ValueError: another shape, or values that are not finite.

    Source: Heusel et al., GANs trained by a two time-scale update rule, 2017, Eq. 6.
    """
    a, b = np.asarray(got, np.float64), np.asarray(wanted, np.float64)
    for name, x in (("got", a), ("wanted", b)):
        if x.ndim != 2 or len(x) < 2 or x.shape[1] != a.shape[1] or not np.isfinite(x).all():
            raise ValueError(f"{name}: got shape {x.shape}, need [2 or more, D] finite numbers, D the same in both")
    apart = a.mean(0) - b.mean(0)
    a, b = ((x - x.mean(0)) / np.sqrt(len(x) - 1) for x in (a, b))
    # S = A^T A and S' = B^T B, so that the trace of the root is the sum of the singular values of A B^T, or of their R.
    r, s = (x if len(x) <= x.shape[1] else np.asarray(np.linalg.qr(x, mode="r")) for x in (a, b))
    root = np.linalg.svd(np.asarray(r @ s.T), compute_uv=False).sum()
    return max(0.0, float(apart @ apart + (a * a).sum() + (b * b).sum() - 2 * root))


def _check_pictures(got: Picture, wanted: Picture, mask: Mask | None) -> None:
    for name, picture in (("got", got), ("wanted", wanted)):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise ValueError(f"{name}: got {picture.dtype} {list(picture.shape)}, need uint8 [H, W, 3]")
    if got.shape != wanted.shape:
        raise ValueError(f"got: {list(got.shape)}, wanted: {list(wanted.shape)}; need the same shape")
    if mask is not None and (mask.dtype != bool or mask.shape != got.shape[:2]):
        raise ValueError(f"mask: got {mask.dtype} {list(mask.shape)}, need bool {list(got.shape[:2])}")


def _window_mean(values: Array) -> Array:
    """Mean in the square window around each place of [H, W, C], mirrored at the edges; exact for whole numbers."""
    edge = _WINDOW // 2
    total = np.pad(values, ((edge, edge), (edge, edge), (0, 0)), mode="symmetric")
    for axis in (0, 1):
        total = np.cumsum(np.insert(total, 0, 0.0, axis=axis), axis=axis)
        last = total.shape[axis]
        total = total.take(range(_WINDOW, last), axis) - total.take(range(last - _WINDOW), axis)
    return total / _WINDOW**2


def _convex_hull(points: Array) -> Array:
    """Corners [M, 2] of the convex hull, in the order in which it lies to the left (y up) of each side."""
    ordered = sorted(set(map(tuple, points.tolist())))

    def chain(way: list[tuple[float, ...]]) -> list[tuple[float, ...]]:
        kept: list[tuple[float, ...]] = []
        for p in way:
            while len(kept) > 1 and _turn(kept[-2], kept[-1], p) <= 0:
                kept.pop()
            kept.append(p)
        return kept[:-1]

    corners = chain(ordered) + chain(ordered[::-1])
    if len(corners) < 3:
        raise ValueError("keypoints: all points lie on one line, so they enclose nothing")
    return np.array(corners)


def _turn(a: tuple[float, ...], b: tuple[float, ...], c: tuple[float, ...]) -> float:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def _rotation(pose: Any) -> Array:
    values = np.asarray(pose, np.float64)
    if values.ndim != 1 or len(values) < 3 or not np.isfinite(values[:3]).all():
        raise ValueError(f"pose: got shape {values.shape}, need a rotation vector [3] of finite rad, or a pose [6]")
    return values[:3]
