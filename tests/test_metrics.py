"""The metrics, on cases whose answer is known beforehand."""

import numpy as np
import pytest

from fastreenact.evaluation.metrics import (
    AKD_POINTS,
    akd_px,
    ard_deg,
    expression_distance,
    face_mask,
    geodesic_deg,
    head_angles_deg,
    psnr,
    ssim,
    ssim_map,
)
from fastreenact.face.morphable.model import EXPRESSION_NAMES, default_model
from fastreenact.rotation import rotation_matrix, rotation_vector


def pictures(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A blurred random picture and the same with noise."""
    random = np.random.default_rng(0)
    smooth = np.kron(random.integers(0, 256, (height // 5 + 1, width // 5 + 1, 3)), np.ones((5, 5, 1)))
    a = smooth[:height, :width]
    return a.astype(np.uint8), np.clip(a + random.normal(0, 20, a.shape), 0, 255).astype(np.uint8)


def head(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """The rotation vector of angles in degrees, each turn made on its own."""
    vectors = np.radians([(0, yaw, 0), (pitch, 0, 0), (0, 0, roll)])
    y, x, z = rotation_matrix(vectors)
    return rotation_vector(y @ x @ z)


def test_psnr_known():
    a = np.full((4, 6, 3), 100, np.uint8)
    b = a + np.uint8(10)
    assert psnr(a, b) == pytest.approx(10 * np.log10(255**2 / 100))
    b[:, 3:] = 100
    left = np.zeros((4, 6), bool)
    left[:, :3] = True
    assert psnr(a, b, left) == pytest.approx(10 * np.log10(255**2 / 100))
    assert psnr(a, b, ~left) == np.inf
    assert psnr(a, a) == np.inf
    assert np.isnan(psnr(a, b, np.zeros((4, 6), bool)))


@pytest.mark.parametrize(("height", "width"), [(7, 7), (17, 19), (64, 48)])
def test_psnr_and_ssim_as_scikit_image(height, width):
    skimage = pytest.importorskip("skimage.metrics", reason="scikit-image is not installed")
    a, b = pictures(height, width)
    expected, full = skimage.structural_similarity(a, b, channel_axis=2, full=True)
    np.testing.assert_allclose(ssim_map(a, b), full, rtol=0, atol=1e-12)
    assert ssim(a, b) == pytest.approx(expected, abs=1e-12)
    assert psnr(a, b) == pytest.approx(skimage.peak_signal_noise_ratio(a, b), abs=1e-10)
    assert ssim(a, a) == 1.0


def test_ssim_of_a_mask():
    a, b = pictures(40, 30)
    b[:, :15] = a[:, :15]
    same = np.zeros((40, 30), bool)
    same[:, :12] = True  # windows reach 3 px further
    assert ssim(a, b, same) == 1.0
    assert ssim(a, b, ~same) < 0.9
    assert np.isnan(ssim(a, b, np.zeros((40, 30), bool)))


def test_face_mask_of_a_triangle():
    corners = np.array([(1, 1), (9, 1), (1, 9), (3, 3), (5, 1)])  # one inside, one on a side
    y, x = np.mgrid[:12, :14] + 0.5
    np.testing.assert_array_equal(face_mask(corners, 12, 14), (x >= 1) & (y >= 1) & (x + y <= 10))
    np.testing.assert_array_equal(face_mask(corners, 12, 14, 1.0), (x >= 0) & (y >= 0) & (x + y <= 10 + np.sqrt(2)))


def test_akd_of_a_shift():
    points = np.random.default_rng(0).uniform(0, 256, (72, 2))
    assert akd_px(points, points) == 0
    assert akd_px(points + np.array((3, -1)), points) == pytest.approx(2.0)
    moved = points.copy()
    moved[[38, 42, 46, 50]] += 50  # not points of the 68-point layout
    assert akd_px(moved, points) == 0
    assert len(AKD_POINTS) == 68


@pytest.mark.parametrize("angles", [(30, 0, 0), (0, -20, 0), (0, 0, 15), (25, -10, 5), (-80, 40, -170)])
def test_angles(angles):
    np.testing.assert_allclose(head_angles_deg(head(*angles)), angles, atol=1e-9)


def test_ard_of_known_rotations():
    assert ard_deg(np.zeros(6), np.zeros(6)) == 0
    assert ard_deg(head(12, 0, 0), np.zeros(3)) == pytest.approx(4.0)
    assert geodesic_deg(head(12, 0, 0), np.zeros(3)) == pytest.approx(12.0)
    assert ard_deg(head(10, 4, -2), head(4, 1, 4)) == pytest.approx(5.0)
    assert ard_deg(head(0, 0, 179), head(0, 0, -178)) == pytest.approx(1.0)  # the short way round
    assert geodesic_deg(head(30, 10, 5), head(30, 10, 5)) == pytest.approx(0, abs=1e-5)
    assert geodesic_deg(head(0, 0, 179), head(0, 0, -178)) == pytest.approx(3.0)


def test_yaw_is_to_the_right_of_the_picture_and_pitch_down():
    model, rest = default_model(), (np.zeros(50), np.zeros(51))
    nose = model.project(*rest, np.array([*head(20, 0, 0), 0, 0, 1]))[30]
    assert nose[0] > 0.3
    below = model.project(*rest, np.array([*head(0, 20, 0), 0, 0, 1]))[30]
    assert below[1] > model.project(*rest, np.array([0, 0, 0, 0, 0, 1]))[30][1] + 0.3
    anticlockwise = model.project(*rest, np.array([*head(0, 0, 20), 0, 0, 1]))
    assert anticlockwise[26][1] < anticlockwise[17][1] - 0.3  # the brow at the right rises


def test_expression_distance():
    model = default_model()
    rest, open_mouth, gaze = np.zeros(51, np.float32), np.zeros(51, np.float32), np.zeros(51, np.float32)
    open_mouth[EXPRESSION_NAMES.index("jawOpen")] = 1
    gaze[EXPRESSION_NAMES.index("eyeLookInLeft")] = 1
    assert expression_distance(model, rest, rest) == 0
    jaw = expression_distance(model, open_mouth, rest)
    moved = np.linalg.norm(model.expression_basis[EXPRESSION_NAMES.index("jawOpen")][:, :2], axis=1).mean()
    assert jaw == pytest.approx(100 * moved / np.ptp(model.mean[:, 0]), rel=1e-5)
    assert expression_distance(model, gaze, rest) < 0.2 * jaw


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a: psnr(a.astype(float), a), "got: got float64"),
        (lambda a: psnr(a, a[:5]), r"wanted: \[5, 8, 3\]"),
        (lambda a: psnr(a, a, np.ones((8, 8))), "mask: got float64"),
        (lambda a: ssim(a[:6], a[:6]), "at least 7"),
        (lambda a: face_mask(np.zeros((5, 2)), 4, 4), "on one line"),
        (lambda a: face_mask(np.arange(12.0).reshape(6, 2), 4, 4), "on one line"),
        (lambda a: face_mask(np.full((5, 2), np.nan), 4, 4), "finite px"),
        (lambda a: akd_px(np.zeros((68, 2)), np.zeros((72, 2))), r"got: got shape \(68, 2\)"),
        (lambda a: ard_deg(np.zeros(2), np.zeros(3)), "rotation vector"),
    ],
)
def test_metrics_refuse(call, message):
    with pytest.raises(ValueError, match=message):
        call(np.zeros((8, 8, 3), np.uint8))
