"""The keypoint layout, its mirror, and the mappings from other layouts."""

import numpy as np
import pytest

from fastreenact.face import keypoints as kp


def test_parts_hold_every_keypoint_once():
    assert sorted(index for part in kp.PARTS.values() for index in part) == list(range(72))


def test_mirror_is_an_involution_that_swaps_the_parts():
    np.testing.assert_array_equal(kp.MIRROR[kp.MIRROR], np.arange(72))
    for left, right in (("left_eye", "right_eye"), ("left_eyebrow", "right_eyebrow")):
        assert set(kp.MIRROR[list(kp.PARTS[left])]) == set(kp.PARTS[right])
    for middle in ("nose_bridge", "nostrils", "outer_lips", "inner_lips"):
        assert set(kp.MIRROR[list(kp.PARTS[middle])]) == set(kp.PARTS[middle])
    assert [k for k in range(72) if kp.MIRROR[k] == k] == [8, 27, 28, 29, 30, 33, 62, 63, 70, 71]


def test_subsets_are_those_of_the_landmark_images():
    assert len(kp.SUBSET_27) == 27
    assert len(kp.SUBSET_8) == 8
    assert set(kp.SUBSET_8) - set(kp.SUBSET_27) == {kp.NOSE_TIP}


def test_from_mediapipe_is_a_weighted_mean():
    rng = np.random.default_rng(0)
    mesh = rng.random((478, 3), np.float32)
    got = kp.from_mediapipe(mesh)
    assert got.shape == (72, 3)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got[kp.NOSE_TIP], mesh[4])
    np.testing.assert_allclose(got[17], 0.75 * mesh[63] + 0.25 * mesh[70], rtol=1e-6)
    np.testing.assert_allclose(kp.from_mediapipe(mesh + 1), got + 1, rtol=1e-5)  # weights sum to 1
    np.testing.assert_array_equal(kp.from_mediapipe(mesh[:468, :2]), got[:, :2])


def test_from_mediapipe_mirrors():
    """A mesh whose two halves are told apart only by sign gives keypoints told apart by sign."""
    mesh = np.zeros((468, 2), np.float32)
    for left, right in kp._MESH_MIRROR.items():
        mesh[left], mesh[right] = (-left, left), (left, left)
    got = kp.from_mediapipe(mesh)
    np.testing.assert_allclose(got[kp.MIRROR], got * [-1, 1])


def test_from_68_keeps_the_common_points_and_curves_the_lids():
    points = np.stack([np.arange(68.0), np.zeros(68)], axis=1)
    got = kp.from_68(points)[:, 0]
    np.testing.assert_array_equal(got[:9], np.arange(9))
    np.testing.assert_array_equal(got[9:17], np.arange(16, 8, -1))
    np.testing.assert_array_equal(got[17:36], np.arange(17, 36))
    np.testing.assert_allclose(got[[36, 37, 39, 40, 41, 43]], np.arange(36, 42))
    np.testing.assert_allclose(got[[52, 57, 62, 71, 63, 70, 55, 60]], [48, 54, 51, 57, 62, 66, 60, 64])
    np.testing.assert_allclose(kp.from_68(points + 5)[:, 0], got + 5, rtol=1e-6)
    parabola = points.copy()
    parabola[36:40, 1] = np.array([-1.5, -0.5, 0.5, 1.5]) ** 2  # four points of one parabola: its vertex is at 0
    assert kp.from_68(parabola)[38, 1] == pytest.approx(0, abs=1e-6)


def test_from_any_tells_the_layouts_apart():
    rng = np.random.default_rng(1)
    for count in (72, 68, 468, 478):
        for width in (2, 3):
            got = kp.from_any(rng.random((count, width)))
            assert got.shape == (72, 2)
            assert got.flags.c_contiguous


@pytest.mark.parametrize(
    ("function", "shape", "message"),
    [
        (kp.from_mediapipe, (477, 3), r"got shape \(477, 3\), need \[468 or 478, 2 or 3\]"),
        (kp.from_mediapipe, (478, 4), "need \\[468 or 478"),
        (kp.from_68, (72, 2), r"got shape \(72, 2\), need \[68, 2 or 3\]"),
        (kp.from_any, (106, 2), r"N = 72 .*, 68 .*, 468 or 478"),
        (kp.from_any, (72,), "need \\[N, 2 or 3\\]"),
    ],
)
def test_mappings_refuse_other_shapes(function, shape, message):
    with pytest.raises(ValueError, match=message):
        function(np.zeros(shape))


def test_from_any_refuses_nan():
    points = np.zeros((72, 2))
    points[3] = np.nan
    with pytest.raises(ValueError, match="NaN or infinite; leave a frame without a face out"):
        kp.from_any(points)


def test_face_size_is_the_longer_side():
    points = np.zeros((72, 2))
    points[0], points[1] = (10, -5), (40, 35)
    assert kp.face_size(points) == 40


def test_tracked_keypoints_lie_on_the_official_ones(shared):
    """The pictures published with Face2Face^rho have their 72 landmarks beside them."""
    pytest.importorskip("mediapipe")
    from PIL import Image

    from fastreenact.face.track.tracker import Tracker

    errors = []
    with Tracker() as tracker:
        for path in sorted((shared / "data" / "rho").rglob("*.jpg")):
            text = path.parent / "original" / "landmark.txt"
            if not text.exists():
                text = path.parents[1] / "landmark" / (path.stem + ".txt")
            picture = np.array(Image.open(path).convert("RGB"))
            official = (np.loadtxt(text) + 1) / 2 * picture.shape[0]
            found = tracker.find(picture)
            distance = np.linalg.norm(kp.from_any(found.points) - official, axis=1)
            errors.append(distance / kp.face_size(official))
    errors = np.array(errors)
    assert len(errors) == 6
    assert errors.mean() < 0.022  # of the face size; 0.019 measured
    for name, part in kp.PARTS.items():
        assert errors[:, list(part)].mean() < 0.035, name
