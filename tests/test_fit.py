"""The fit: what the model made is found again, symmetry, outliers, bounds, and the accuracy on real clips."""

import time
from itertools import pairwise

import numpy as np
import pytest

from fastreenact.face.crop import crop_box
from fastreenact.face.keypoints import MIRROR, from_mediapipe
from fastreenact.face.morphable import fit as fit_module
from fastreenact.face.morphable.fit import MAX_SHAPE_FRAMES, Fit, fit, fit_shape
from fastreenact.face.morphable.model import EXPRESSION_NAMES, MorphableModel, default_model
from fastreenact.ops.fit_face import fit_face, fit_face_reference
from fastreenact.rotation import rotation_matrix, rotation_vector

PX = 128  # pixels of a 256 crop per normalised unit
REST = np.zeros(50, np.float32)


def random_faces(seed: int, count: int, degrees: float = 40.0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """One person: shape [50], poses [count, 6], expressions [count, 51], keypoints [count, 72, 2]."""
    rng = np.random.default_rng(seed)
    shape = np.clip(rng.normal(size=50), -2, 2)
    axis = rng.normal(size=(count, 3))
    turn = axis / np.linalg.norm(axis, axis=1, keepdims=True) * np.deg2rad(rng.uniform(0, degrees, (count, 1)))
    pose = np.concatenate([turn, rng.uniform(-0.2, 0.2, (count, 2)), rng.uniform(0.35, 0.55, (count, 1))], axis=1)
    expression = rng.uniform(0, 1, (count, 51)) * (rng.uniform(size=(count, 51)) < 0.12)
    return shape, pose, expression, default_model().project(shape, expression, pose)


def degrees_apart(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.rad2deg(np.linalg.norm(rotation_vector(rotation_matrix(a) @ rotation_matrix(b).T))))


def drawn(shape: np.ndarray, found: Fit) -> np.ndarray:
    return default_model().project(shape, found.expression, found.pose)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("fitted", [False, True], ids=["shape known", "shape fitted"])
def test_what_the_model_made_is_found_again(seed: int, fitted: bool) -> None:
    shape, pose, _, keypoints = random_faces(seed, 16)
    used = fit_shape(default_model(), keypoints) if fitted else shape
    for wanted, seen in zip(pose, keypoints, strict=True):
        found = fit(default_model(), seen, used)
        distance = np.linalg.norm(drawn(used, found) - seen, axis=1) * PX
        assert degrees_apart(wanted[:3], found.pose[:3]) < 1.0
        assert distance.max() < 0.3
        assert found.error * PX == pytest.approx(distance.mean(), abs=1e-3)


@pytest.mark.parametrize("degrees", [55.0, 75.0])
def test_far_turned_heads_are_found(degrees: float) -> None:
    for sign in (-1, 1):
        _, _, expression, _ = random_faces(3, 1)
        pose = np.array([0.1, sign * np.deg2rad(degrees), 0.2, 0.0, 0.1, 0.45])
        found = fit(default_model(), default_model().project(REST, expression[0], pose), REST)
        assert degrees_apart(pose[:3], found.pose[:3]) < 1.0


def test_a_tilted_head_is_found_from_any_angle() -> None:
    for roll in (-170, -90, 90, 170):
        pose = np.array([0.0, 0.0, np.deg2rad(roll), 0.0, 0.0, 0.45])
        found = fit(default_model(), default_model().project(REST, np.zeros(51), pose), REST)
        assert degrees_apart(pose[:3], found.pose[:3]) < 0.5


@pytest.mark.parametrize("warm", [False, True])
def test_fit_is_its_reference(warm: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiled Gauss-Newton against NumPy's: eyes shut and wide, outliers, coefficients beyond their range."""
    model, rng = default_model(), np.random.default_rng(5)
    shape, _, expression, keypoints = random_faces(8, 12, 60.0)
    expression[:4, [i for i, name in enumerate(EXPRESSION_NAMES) if name.startswith("eyeBlink")]] = 0.9
    keypoints[:4] = model.project(shape, expression[:4], random_faces(9, 4)[1])
    keypoints += rng.normal(0, 0.01, keypoints.shape)
    keypoints[::3, ::9] += 0.2
    starts = [fit(model, seen, REST) for seen in keypoints] if warm else [None] * len(keypoints)
    found = [fit(model, seen, shape, start) for seen, start in zip(keypoints, starts, strict=True)]
    monkeypatch.setattr(fit_module, "fit_face", fit_face_reference)
    for seen, start, ours in zip(keypoints, starts, found, strict=True):
        wanted = fit(model, seen, shape, start)
        assert np.abs(ours.pose - wanted.pose).max() < 2e-6
        assert np.abs(ours.expression - wanted.expression).max() < 1e-5
        assert ours.error == pytest.approx(wanted.error, rel=1e-6)


def test_fit_face_refuses_other_arrays() -> None:
    terms = fit_module._tables(default_model()).terms
    good = {"base": np.zeros((3, 72)), "target": np.zeros((2, 72)), "rotation": np.eye(3), "camera": np.ones(3)}
    good["expression"] = np.zeros(51)
    for name, array in good.items():
        for wrong in (array.astype(np.float32), array[..., :-1].copy(), np.broadcast_to(array[..., :1], array.shape)):
            with pytest.raises(TypeError, match=f"fit_face: {name} needs"):
                fit_face(terms, **{**good, name: wrong}, steps=1)
    good["camera"].flags.writeable = False
    with pytest.raises(ValueError, match="not writeable"):
        fit_face(terms, **good, steps=1)


def test_keypoints_on_a_line_end_in_numbers() -> None:
    seen = np.column_stack((np.linspace(-0.5, 0.5, 72), np.linspace(-0.3, 0.4, 72)))
    found = fit(default_model(), seen, REST)
    assert np.isfinite(found.pose).all()
    assert np.isfinite(found.expression).all()


def test_outliers_hardly_pull() -> None:
    rng = np.random.default_rng(1)
    shape, pose, _, keypoints = random_faces(5, 10, 25.0)
    for wanted, seen in zip(pose, keypoints, strict=True):
        noisy = seen + rng.normal(size=seen.shape) * 0.3 / PX
        noisy[rng.choice(72, 3, replace=False)] += 20 / PX
        found = fit(default_model(), noisy, shape)
        assert degrees_apart(wanted[:3], found.pose[:3]) < 1.5
        assert np.linalg.norm(drawn(shape, found) - seen, axis=1).mean() * PX < 0.6


def test_expressions_stay_near_their_bounds() -> None:
    rng = np.random.default_rng(2)
    _, _, _, keypoints = random_faces(6, 8, 20.0)
    for seen in keypoints:
        found = fit(default_model(), seen + rng.normal(size=seen.shape) * 2 / PX, REST)
        assert found.expression.min() > -0.5
        assert found.expression.max() < 1.5


def test_a_mirrored_face_gives_the_mirrored_fit() -> None:
    rng = np.random.default_rng(3)
    _, _, _, keypoints = random_faces(7, 1)
    seen = keypoints[0] + rng.normal(size=(72, 2)) * 0.5 / PX
    one, other = fit(default_model(), seen, REST), fit(default_model(), seen[MIRROR] * [-1, 1], REST)
    swapped = [
        EXPRESSION_NAMES.index(
            n[:-4] + "Right" if n.endswith("Left") else n[:-5] + "Left" if n.endswith("Right") else n
        )
        for n in EXPRESSION_NAMES
    ]
    np.testing.assert_allclose(other.expression[swapped], one.expression, atol=1e-4)
    np.testing.assert_allclose(other.pose * [1, -1, -1, -1, 1, 1], one.pose, atol=1e-4)


def test_a_warm_start_ends_where_a_cold_one_does() -> None:
    shape, pose, expression, _ = random_faces(8, 2, 20.0)
    steps = np.linspace(0, 1, 12)[:, None]
    poses, expressions = (a[0] + steps * 0.5 * (a[1] - a[0]) for a in (pose, expression))
    noise = np.random.default_rng(4).normal(size=(12, 72, 2)) * 0.5 / PX
    start = None
    for seen in default_model().project(shape, expressions, poses) + noise:
        start, cold = fit(default_model(), seen, shape, start), fit(default_model(), seen, shape)
        assert np.linalg.norm(drawn(shape, start) - drawn(shape, cold), axis=1).max() * PX < 0.1


def test_a_start_on_another_face_does_not_mislead() -> None:
    _, _, _, keypoints = random_faces(9, 1)
    lost = Fit(np.array([0.5, -1.2, 2.0, 0.7, -0.7, 0.05], np.float32), np.ones(51, np.float32), 0.0)
    shape = fit_shape(default_model(), keypoints)
    cold, warm = fit(default_model(), keypoints[0], shape), fit(default_model(), keypoints[0], shape, lost)
    assert warm.error < 2 * cold.error + 0.5 / PX


def test_the_same_input_gives_the_same_output() -> None:
    _, _, _, keypoints = random_faces(10, 5)
    np.testing.assert_array_equal(fit_shape(default_model(), keypoints), fit_shape(default_model(), keypoints))
    one, two = (fit(default_model(), keypoints[0], REST) for _ in range(2))
    np.testing.assert_array_equal(one.pose, two.pose)
    np.testing.assert_array_equal(one.expression, two.expression)
    assert one.pose.dtype == one.expression.dtype == np.float32


def test_shape_of_one_frame_stays_a_plausible_head() -> None:
    rng = np.random.default_rng(5)
    _, _, _, keypoints = random_faces(11, 1, 5.0)
    shape = fit_shape(default_model(), keypoints + rng.normal(size=keypoints.shape) / PX)
    assert np.abs(shape).max() < 4
    depth = default_model().points(shape, np.zeros(51))[:, 2]
    assert depth.argmax() == 30
    assert depth[[0, 9]].max() < depth[36:52].min()


def test_a_model_in_another_unit_fits_alike() -> None:
    model = default_model()
    metres = MorphableModel(model.mean * 0.07, model.shape_basis * 0.07, model.expression_basis * 0.07)
    _, _, _, keypoints = random_faces(12, 1)
    ours, theirs = fit(model, keypoints[0], REST), fit(metres, keypoints[0], REST)
    np.testing.assert_allclose(theirs.expression, ours.expression, atol=1e-3)
    assert theirs.pose[5] * 0.07 == pytest.approx(ours.pose[5], rel=1e-3)


def test_many_frames_are_thinned_out() -> None:
    _, _, _, keypoints = random_faces(13, MAX_SHAPE_FRAMES + 5, 20.0)
    assert np.isfinite(fit_shape(default_model(), keypoints)).all()


def test_bad_input_is_named() -> None:
    model, good = default_model(), default_model().project(REST, np.zeros(51), np.array([0, 0, 0, 0, 0, 0.5]))
    with pytest.raises(ValueError, match=r"keypoints: got shape \(68, 2\), need \[72, 2\]"):
        fit(model, good[:68], REST)
    with pytest.raises(ValueError, match=r"keypoints: got shape \(72, 2\), need \[T, 72, 2\]"):
        fit_shape(model, good)
    with pytest.raises(ValueError, match="keypoints: no frame"):
        fit_shape(model, good[None][:0])
    with pytest.raises(ValueError, match="keypoints: some coordinates are NaN"):
        fit(model, good * np.nan, REST)
    with pytest.raises(ValueError, match="keypoints: all points of a frame coincide"):
        fit(model, good * 0, REST)
    with pytest.raises(ValueError, match=r"shape: got shape \(49,\), need \[50\] finite numbers"):
        fit(model, good, REST[:49])
    with pytest.raises(ValueError, match=r"start\.expression: got shape \(2,\), need \[51\]"):
        fit(model, good, REST, Fit(np.ones(6, np.float32), np.zeros(2, np.float32), 0.0))


def test_a_frame_takes_milliseconds() -> None:
    shape, _, _, keypoints = random_faces(14, 20, 20.0)
    fit(default_model(), keypoints[0], shape)
    times = []
    for seen in keypoints:
        begin = time.perf_counter()
        fit(default_model(), seen, shape)
        times.append(time.perf_counter() - begin)
    assert np.median(times) < 0.02  # about 1 ms alone; generous, as tests share their machine


@pytest.mark.parametrize("clip", ["d0", "d3", "d18", "d20"])
def test_real_clips_are_followed(clip: str, shared) -> None:
    pytest.importorskip("mediapipe", reason="MediaPipe is not installed: pip install 'fastreenact[track]'")
    av = pytest.importorskip("av", reason="PyAV is not installed")
    path = shared / "data" / "videos" / f"{clip}.mp4"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    from fastreenact.face.track.tracker import Tracker

    tracker, seen = Tracker(), []
    with av.open(str(path)) as container:
        for number, frame in enumerate(container.decode(video=0)):
            if number % 4 == 0:
                landmarks = tracker(frame.to_ndarray(format="rgb24"))
                assert landmarks is not None
                seen.append(from_mediapipe(landmarks.points)[:, :2])
    keypoints = crop_box(seen[0]).normalise(np.stack(seen))
    model, start, fits = default_model(), None, []
    shape = fit_shape(model, keypoints[:MAX_SHAPE_FRAMES])
    for frame in keypoints:
        start = fit(model, frame, shape, start)
        fits.append(start)
    points = np.stack([drawn(shape, f) for f in fits])
    distance = np.linalg.norm(points - keypoints, axis=2) * PX
    moved = np.linalg.norm((points - points[0]) - (keypoints - keypoints[0]), axis=2) * PX
    assert distance.mean() < 1.0
    assert distance.mean(axis=1).max() < 2.0
    assert moved.mean() < 1.2  # measured: 0.46 to 0.74 px
    steps = [np.linalg.norm(b - a, axis=1).mean() for a, b in pairwise(points)]
    wanted = [np.linalg.norm(b - a, axis=1).mean() for a, b in pairwise(keypoints)]
    assert np.mean(steps) < 1.02 * np.mean(wanted)  # no jitter of its own
