"""The face model: names, symmetry, what the expressions do, projection, files."""

import numpy as np
import pytest

from fastreenact.errors import WeightsError
from fastreenact.face.keypoints import LIPS, MIRROR
from fastreenact.face.morphable.model import EXPRESSION_NAMES, MorphableModel, default_model
from fastreenact.rotation import rotation_matrix

# Apple's order (ARFaceAnchor.BlendShapeLocation), without tongueOut.
APPLE = [
    "eyeBlinkLeft",
    "eyeLookDownLeft",
    "eyeLookInLeft",
    "eyeLookOutLeft",
    "eyeLookUpLeft",
    "eyeSquintLeft",
    "eyeWideLeft",
    "eyeBlinkRight",
    "eyeLookDownRight",
    "eyeLookInRight",
    "eyeLookOutRight",
    "eyeLookUpRight",
    "eyeSquintRight",
    "eyeWideRight",
    "jawForward",
    "jawLeft",
    "jawRight",
    "jawOpen",
    "mouthClose",
    "mouthFunnel",
    "mouthPucker",
    "mouthLeft",
    "mouthRight",
    "mouthSmileLeft",
    "mouthSmileRight",
    "mouthFrownLeft",
    "mouthFrownRight",
    "mouthDimpleLeft",
    "mouthDimpleRight",
    "mouthStretchLeft",
    "mouthStretchRight",
    "mouthRollLower",
    "mouthRollUpper",
    "mouthShrugLower",
    "mouthShrugUpper",
    "mouthPressLeft",
    "mouthPressRight",
    "mouthLowerDownLeft",
    "mouthLowerDownRight",
    "mouthUpperUpLeft",
    "mouthUpperUpRight",
    "browDownLeft",
    "browDownRight",
    "browInnerUp",
    "browOuterUpLeft",
    "browOuterUpRight",
    "cheekPuff",
    "cheekSquintLeft",
    "cheekSquintRight",
    "noseSneerLeft",
    "noseSneerRight",
]

UPPER_LIDS, LOWER_LIDS = [37, 38, 39, 45, 46, 47], [43, 42, 41, 51, 50, 49]  # facing each other


def expression(**strengths: float) -> np.ndarray:
    """Coefficients by name; a name without a side sets both."""
    coefficients = np.zeros(51, np.float32)
    for name, strength in strengths.items():
        for side in ("", "Left", "Right"):
            if name + side in EXPRESSION_NAMES:
                coefficients[EXPRESSION_NAMES.index(name + side)] = strength
    assert coefficients.any()
    return coefficients


def face(**strengths: float) -> np.ndarray:
    """The mean person [72, 3] with an expression."""
    return default_model().points(np.zeros(50), expression(**strengths))


def mirrored(points: np.ndarray) -> np.ndarray:
    return points[..., MIRROR, :] * np.array([-1, 1, 1], np.float32)


def test_names_and_order_are_apples() -> None:
    assert list(EXPRESSION_NAMES) == APPLE


def test_tables_have_the_promised_shapes_and_cannot_be_written() -> None:
    model = default_model()
    for array, shape in (
        (model.mean, (72, 3)),
        (model.shape_basis, (50, 72, 3)),
        (model.expression_basis, (51, 72, 3)),
    ):
        assert array.shape == shape
        assert array.dtype == np.float32
        assert not array.flags.writeable
        assert np.isfinite(array).all()
    assert default_model() is model


def test_mean_face_has_human_proportions() -> None:
    mean = default_model().mean
    np.testing.assert_allclose(mean, mirrored(mean), atol=1e-6)
    assert np.ptp(mean[:, 0]) == pytest.approx(2.0, abs=0.01)  # the unit is half the face's width
    assert mean[:, 2].argmax() == 30  # the tip of the nose is foremost
    assert mean[:17, 2].max() < mean[17:, 2].max()
    assert mean[[0, 9], 2].max() < mean[36:52, 2].min()
    assert mean[19, 1] > mean[38, 1] > mean[42, 1] > mean[30, 1] > mean[33, 1] > mean[62, 1] > mean[71, 1] > mean[8, 1]
    assert 0.25 < (mean[57, 0] - mean[52, 0]) / 2 < 0.45  # mouth against face width
    assert 0 < mean[63, 1] - mean[70, 1] < 0.03  # lips closed


def test_left_and_right_expressions_are_mirror_images() -> None:
    basis = default_model().expression_basis
    for k, name in enumerate(EXPRESSION_NAMES):
        twin = name[:-4] + "Right" if name.endswith("Left") else name
        if not name.endswith("Right"):
            np.testing.assert_allclose(basis[EXPRESSION_NAMES.index(twin)], mirrored(basis[k]), atol=1e-6)


def test_left_is_the_subjects_left() -> None:
    moved = np.abs(default_model().expression_basis).sum(axis=2)
    for name in ("eyeBlinkLeft", "browOuterUpLeft", "mouthSmileLeft", "noseSneerLeft"):
        k = EXPRESSION_NAMES.index(name)
        right_of_image = default_model().mean[:, 0] > 0
        assert moved[k, right_of_image].sum() > 2 * moved[k, ~right_of_image].sum()


def test_shape_modes_are_independent_and_carry_no_pose() -> None:
    model = default_model()
    flat = model.shape_basis.reshape(50, -1).astype(np.float64)
    assert np.linalg.matrix_rank(flat, tol=1e-3) == 50
    centred = model.mean - model.mean.mean(axis=0)
    assert np.abs(model.shape_basis.sum(axis=1)).max() < 1e-4  # translation
    assert np.abs(np.cross(centred[None], model.shape_basis).sum(axis=1)).max() < 1e-3  # rotation
    assert np.abs((centred * model.shape_basis).sum(axis=(1, 2))).max() < 1e-3  # scale
    largest = np.linalg.norm(model.shape_basis, axis=2).max(axis=1)
    assert largest.min() > 0.005
    assert largest.max() < 0.1


def test_shape_modes_are_symmetric_or_antisymmetric() -> None:
    for mode in default_model().shape_basis:
        turned = mirrored(mode)
        assert min(np.abs(turned - mode).max(), np.abs(turned + mode).max()) < 1e-5


def test_blink_closes_the_eyes() -> None:
    rest, closed = face(eyeWide=1e-9), face(eyeBlink=1)
    opening = (rest[UPPER_LIDS] - rest[LOWER_LIDS])[:, 1]
    assert opening.min() > 0.05
    np.testing.assert_allclose(closed[UPPER_LIDS], closed[LOWER_LIDS], atol=1e-6)
    others = np.setdiff1d(np.arange(72), [*UPPER_LIDS, *LOWER_LIDS])
    assert np.abs(closed - rest)[others].max() < 0.02


def test_blink_closes_every_eye_and_no_further() -> None:
    model, rng = default_model(), np.random.default_rng(1)
    for blink in (1.0, 1.4):
        closed = model.points(rng.normal(size=(20, 50)), expression(eyeBlink=blink, eyeWide=0.5, eyeLookDown=0.3))
        np.testing.assert_allclose(closed[:, UPPER_LIDS], closed[:, LOWER_LIDS], atol=1e-5)
    basis = model.expression_basis.astype(np.float64)
    alone = model.points(np.zeros(50), expression(eyeBlink=1))
    np.testing.assert_allclose(alone, model.mean + basis[0] + basis[7], atol=1e-5)


def test_lips_meet_if_asked_and_do_not_cross() -> None:
    model, upper, lower = default_model(), [56, 63, 61], [67, 70, 64]
    shut = expression(jawOpen=-0.3)
    crossed, met = model.points(np.zeros(50), shut), model.points(np.zeros(50), shut, lips_meet=True)
    assert (crossed[upper, 1] - crossed[lower, 1]).max() < -0.05
    np.testing.assert_allclose(met[upper, 1], met[lower, 1], atol=1e-6)
    assert ((met - crossed)[[62, 71], 1] * [1, -1] > 0.02).all()  # the whole lips give way
    opened = expression(jawOpen=0.5)
    np.testing.assert_array_equal(
        model.points(np.zeros(50), opened), model.points(np.zeros(50), opened, lips_meet=True)
    )
    pose = np.array([0, 0, 0, 0, 0, 0.5])
    seen = model.project(np.zeros(50), shut, pose, lips_meet=True)
    np.testing.assert_allclose(seen, met[:, :2] * [0.5, -0.5], atol=1e-6)


def test_jaw_opens_the_mouth_and_lowers_the_chin() -> None:
    rest, opened = face(eyeBlink=1e-9), face(jawOpen=1)
    gap = (opened[63] - opened[70])[1]
    assert 0.4 < gap < 0.7
    assert 0.3 * gap < (rest[8] - opened[8])[1] < gap
    np.testing.assert_allclose(opened[17:52], rest[17:52], atol=1e-6)  # all above the mouth stays


def test_mouth_close_brings_the_lips_together_again() -> None:
    closed = face(jawOpen=0.6, mouthClose=0.6)
    assert np.abs((closed[[56, 63, 61]] - closed[[67, 70, 64]])[:, 1]).max() < 0.05
    assert closed[8, 1] < default_model().mean[8, 1] - 0.1


def test_smile_raises_and_spreads_the_corners_and_frown_lowers_them() -> None:
    mean, smile, frown = default_model().mean, face(mouthSmile=1), face(mouthFrown=1)
    assert smile[52, 1] > mean[52, 1] + 0.1
    assert smile[57, 1] > mean[57, 1] + 0.1
    assert smile[57, 0] - smile[52, 0] > mean[57, 0] - mean[52, 0] + 0.2
    assert frown[52, 1] < mean[52, 1] - 0.1
    pucker = face(mouthPucker=1)
    assert pucker[57, 0] - pucker[52, 0] < 0.7 * (mean[57, 0] - mean[52, 0])
    assert pucker[list(LIPS), 2].mean() > mean[list(LIPS), 2].mean() + 0.05


def test_brows_move_as_named_and_gaze_hardly_moves_anything() -> None:
    mean = default_model().mean
    assert (face(browInnerUp=1) - mean)[[21, 22], 1].min() > 0.1
    assert (face(browOuterUp=1) - mean)[[17, 26], 1].min() > 0.1
    assert (face(browDown=1) - mean)[17:27, 1].max() < -0.02
    for name in ("eyeLookIn", "eyeLookOut", "eyeLookUp", "cheekSquint"):
        assert np.abs(face(**{name: 1}) - mean).max() < 0.03


def test_points_and_projection_broadcast_and_agree() -> None:
    model, rng = default_model(), np.random.default_rng(0)
    shape, e, pose = rng.normal(size=(50,)), rng.uniform(size=(5, 51)), rng.normal(size=(5, 6)) * 0.3
    points, seen = model.points(shape, e), model.project(shape, e, pose)
    assert points.shape == (5, 72, 3)
    assert seen.shape == (5, 72, 2)
    assert points.dtype == np.float32
    assert seen.dtype == np.float32
    for t in range(5):
        exact = model.mean + np.tensordot(shape, model.shape_basis, 1) + np.tensordot(e[t], model.linear_basis, 1)
        for blink, lids in ((7, slice(0, 3)), (0, slice(3, 6))):
            upper, lower = UPPER_LIDS[lids], LOWER_LIDS[lids]
            gap = exact[upper] - exact[lower]
            exact[upper] -= 0.86 * e[t, blink] * gap
            exact[lower] += 0.14 * e[t, blink] * gap
        np.testing.assert_allclose(points[t], exact, atol=1e-5)
        turned = exact @ rotation_matrix(pose[t, :3]).T
        wanted = turned[:, :2] * [pose[t, 5], -pose[t, 5]] + pose[t, 3:5]
        np.testing.assert_allclose(seen[t], wanted, atol=1e-5)


def test_rotation_matrix_turns_about_the_axes() -> None:
    quarter = np.pi / 2
    np.testing.assert_allclose(
        rotation_matrix([0, quarter, 0]) @ [0, 0, 1], [1, 0, 0], atol=1e-12
    )  # nose to image right
    np.testing.assert_allclose(rotation_matrix([quarter, 0, 0]) @ [0, 0, 1], [0, -1, 0], atol=1e-12)  # nose down
    np.testing.assert_allclose(rotation_matrix([0, 0, quarter]) @ [1, 0, 0], [0, 1, 0], atol=1e-12)
    tiny = rotation_matrix([1e-6, -2e-6, 3e-6])
    np.testing.assert_allclose(tiny @ tiny.T, np.eye(3), atol=1e-12)
    assert rotation_matrix(np.zeros((4, 2, 3))).shape == (4, 2, 3, 3)


def test_wrong_lengths_are_named() -> None:
    model = default_model()
    with pytest.raises(ValueError, match=r"shape: got shape \(49,\), need \[\.\.\., 50\]"):
        model.points(np.zeros(49), np.zeros(51))
    with pytest.raises(ValueError, match=r"expression: got shape \(\), need \[\.\.\., 51\]"):
        model.points(np.zeros(50), 0.0)
    with pytest.raises(ValueError, match=r"pose: got shape \(5,\), need \[\.\.\., 6\]"):
        model.project(np.zeros(50), np.zeros(51), np.zeros(5))
    with pytest.raises(ValueError, match="mean: some values are NaN or infinite"):
        MorphableModel(np.full((72, 3), np.nan), model.shape_basis, model.expression_basis)
    with pytest.raises(ValueError, match="mean: got dtype int64, need a float array"):
        MorphableModel(np.zeros((72, 3), np.int64), model.shape_basis, model.expression_basis)
    with pytest.raises(ValueError, match=r"shape_basis: got shape \(10, 72, 3\), need \(50, 72, 3\)"):
        MorphableModel(model.mean, model.shape_basis[:10], model.expression_basis)


def test_a_saved_model_loads_as_it_was(tmp_path) -> None:
    model = default_model()
    model.save(tmp_path / "face.npz")
    loaded = MorphableModel.load(tmp_path / "face.npz")
    for name in ("mean", "shape_basis", "expression_basis"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(model, name))


def test_bad_model_files_say_what_is_wrong(tmp_path) -> None:
    model, path = default_model(), tmp_path / "face.npz"
    with pytest.raises(FileNotFoundError):
        MorphableModel.load(path)
    path.write_bytes(b"not an archive")
    with pytest.raises(WeightsError, match=r"face\.npz: not an \.npz"):
        MorphableModel.load(path)
    path.write_bytes(b"")
    with pytest.raises(WeightsError, match=r"face\.npz: not an \.npz"):
        MorphableModel.load(path)
    np.savez(path, mean=model.mean)
    with pytest.raises(WeightsError, match="lacks shape_basis, expression_basis"):
        MorphableModel.load(path)
    np.savez(path, mean=model.mean[:68], shape_basis=model.shape_basis, expression_basis=model.expression_basis)
    with pytest.raises(WeightsError, match=r"mean: got shape \(68, 3\), need \(72, 3\)"):
        MorphableModel.load(path)
    pickled = np.array([{"a": 1}], object)
    np.savez(path, mean=pickled, shape_basis=model.shape_basis, expression_basis=model.expression_basis)
    with pytest.raises(WeightsError, match="Object arrays cannot be loaded"):
        MorphableModel.load(path)
    with open(path, "wb") as file:
        np.save(file, model.mean)
    with pytest.raises(WeightsError, match="a single array"):
        MorphableModel.load(path)
    model.save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match=r"not an \.npz"):
        MorphableModel.load(path)
