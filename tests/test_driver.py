"""Driver and source: pictures or landmarks in, motions and a fitted portrait out."""

import contextlib
import itertools

import numpy as np
import pytest

from fastreenact.errors import NoFaceError
from fastreenact.face.crop import crop_box
from fastreenact.face.driver import Driver
from fastreenact.face.keypoints import face_size
from fastreenact.face.morphable.model import EXPRESSION_NAMES, default_model
from fastreenact.face.motion import MotionClip
from fastreenact.face.retarget import Retargeter, choose_reference
from fastreenact.face.source import SourceFace, fit_source, locate_face
from fastreenact.face.track.tracker import Landmarks

MODEL = default_model()
FRAME = np.zeros((480, 640, 3), np.uint8)


def person(frames, seed=0, noise_px=0.0, still=False):
    """Landmarks [T, 72, 2] px of a face about 180 px large that turns and talks, and its expressions."""
    rng = np.random.default_rng(seed)
    shape = rng.normal(size=50) * 0.5
    out, expressions = [], []
    for i in range(frames):
        t = 0.0 if still else i / 30
        pose = np.array([0.1 * np.sin(2 * t), 0.3 * np.sin(1.5 * t), 0.0, 320 + 20 * np.sin(t), 240, 90.0])
        expression = np.zeros(51)
        expression[EXPRESSION_NAMES.index("jawOpen")] = 0.6 * np.sin(4 * t) ** 2
        expression[EXPRESSION_NAMES.index("mouthSmileLeft")] = 0.4 * np.sin(3 * t) ** 2
        expressions.append(expression)
        out.append(MODEL.project(shape, expression, pose) + rng.normal(size=(72, 2)) * noise_px)
    return np.array(out, np.float32), np.array(expressions)


class Script:
    """A tracker that knows what it will see."""

    def __init__(self, landmarks):
        self.landmarks, self.calls, self.resets, self.closed = list(landmarks), 0, 0, False

    def __call__(self, frame):
        points = self.landmarks[self.calls % len(self.landmarks)]
        self.calls += 1
        return None if points is None else Landmarks(points, 1.0)

    def reset(self):
        self.resets += 1

    def close(self):
        self.closed = True


def projected(driver, clip):
    return np.array([MODEL.project(driver.shape, m.expression, m.pose) for m in clip])


def test_track_clip_follows_the_landmarks():
    points, _ = person(40)
    driver = Driver(MODEL, Script(points))
    clip = driver.track_clip((FRAME, i / 30) for i in range(40))
    assert isinstance(clip, MotionClip)
    assert (clip.confidence == 1).all()
    np.testing.assert_allclose(clip.time, np.arange(40) / 30)
    assert driver.box == crop_box(points[0])
    error = np.linalg.norm(projected(driver, clip) - driver.box.normalise(points), axis=2).mean() * 128
    assert error < 0.3  # px at 256
    np.testing.assert_allclose([float(v) for v in clip.metadata["box"].split()], driver.box, rtol=1e-4)


def test_observe_follows_the_landmarks_and_freezes_the_shape():
    points, _ = person(60)
    driver, shapes, errors = Driver(MODEL, Script(points)), [], []
    for i in range(60):
        motion = driver.observe(FRAME, i / 30)
        assert motion.time == i / 30
        shapes.append(driver.shape)
        seen = driver.box.normalise(points[i])
        errors.append(np.linalg.norm(MODEL.project(driver.shape, motion.expression, motion.pose) - seen, axis=1).mean())
    assert np.max(errors) * 128 < 1.0
    changes = [i for i in range(1, 60) if (shapes[i] != shapes[i - 1]).any()]
    assert changes == [4, 14, 29]
    assert driver.box == crop_box(points[0])


def test_observe_without_live_keeps_the_shape_of_the_clip():
    points, _ = person(40)
    driver = Driver(MODEL, Script(points), live=False)
    driver.track_clip((FRAME, i / 30) for i in range(40))
    shape = driver.shape.copy()
    for i in range(40):
        driver.observe(FRAME, i / 30)
    np.testing.assert_array_equal(driver.shape, shape)


@pytest.mark.parametrize("count", [72, 68, 468, 478])
def test_landmarks_are_taken_instead_of_pictures(count):
    if count == 72:
        points, _ = person(3)
    else:
        base = np.random.default_rng(0).random((count, 3)).astype(np.float32)
        points = np.stack([base * 100 + 50 + i for i in range(3)])
    driver = Driver(MODEL)
    for i in range(3):
        assert driver.observe(points[i], i / 30).found
    clip = Driver(MODEL).track_clip((p, i / 30) for i, p in enumerate(points))
    assert len(clip) == 3
    assert driver.observe(None, 1.0).confidence == 0


def test_frames_without_a_face_are_missing_and_counted():
    points, _ = person(20)
    script = [None, *points[:5], None, None, *points[8:12]]
    clip = Driver(MODEL, Script(script)).track_clip((FRAME, i / 25) for i in range(len(script)))
    np.testing.assert_array_equal(clip.confidence > 0, [p is not None for p in script])
    driver = Driver(MODEL, Script(script))
    live = [driver.observe(FRAME, i / 25).found for i in range(len(script))]
    np.testing.assert_array_equal(live, clip.confidence > 0)
    nothing = Driver(MODEL, Script([None])).track_clip((FRAME, i / 25) for i in range(4))
    assert (nothing.confidence == 0).all()
    assert "box" not in nothing.metadata


def test_frames_may_change_size():
    points, _ = person(4, still=True)
    large = (points[1] - (320, 240)) * 2 + (640, 480)
    driver = Driver(MODEL, Script([points[0], large]))
    first = driver.observe(FRAME, 0.0)
    second = driver.observe(np.zeros((960, 1280, 3), np.uint8), 1 / 30)
    np.testing.assert_allclose(first.pose, second.pose, atol=2e-3)


def test_a_wrong_fit_is_not_trusted():
    points, _ = person(10, still=True)
    nonsense = np.random.default_rng(0).permutation(points[0])
    driver = Driver(MODEL, Script([*points[:5], nonsense, *points[5:]]))
    found = [driver.observe(FRAME, i / 30).confidence for i in range(11)]
    assert found[5] < 0.6
    assert min(found[:5] + found[6:]) == 1.0


def test_progress_counts_frames_and_stages_are_named():
    points, _ = person(5)
    seen, stages = [], []
    Driver(MODEL, Script(points)).track_clip([(FRAME, i / 30) for i in range(5)], seen.append)
    assert seen == [1, 2, 3, 4, 5]

    class Timer:
        @contextlib.contextmanager
        def stage(self, name):
            stages.append(name)
            yield

    Driver(MODEL, Script(points)).observe(FRAME, 0.0, timer=Timer())
    assert stages == ["track", "fit"]


def test_reset_and_close_reach_the_tracker():
    points, _ = person(5)
    script = Script(points)
    driver = Driver(MODEL, script)
    driver.observe(FRAME, 0.0)
    before = script.resets
    driver.reset()
    assert script.resets == before + 1
    assert driver.box is None
    driver.close()
    assert script.closed


def test_a_still_picture_is_searched():
    points, _ = person(1)

    class Still(Script):
        def find(self, picture):
            assert picture is FRAME
            return Landmarks(points[0], 1.0)

    script = Still([None])
    clip = Driver(MODEL, script).track_clip([(FRAME, 0.0)])
    assert clip.confidence[0] == 1
    assert script.calls == 0


def test_track_clip_needs_a_frame():
    with pytest.raises(ValueError, match="frames: got none, need at least one"):
        Driver(MODEL).track_clip([])


def test_landmarks_of_no_known_layout_are_refused():
    with pytest.raises(ValueError, match=r"landmarks: got shape \(106, 2\)"):
        Driver(MODEL).observe(np.zeros((106, 2)), 0.0)


def test_fit_source_gives_a_portrait_at_rest():
    points, _ = person(1)
    face = fit_source(points[0])
    assert isinstance(face, SourceFace)
    np.testing.assert_array_equal(face.keypoints_px, points[0])
    assert face.box == crop_box(points[0])
    np.testing.assert_allclose(face.tracked, face.box.normalise(points[0]))
    assert np.linalg.norm(face.tracked - face.keypoints, axis=1).mean() * 128 < 0.5
    retarget = Retargeter(MODEL, face.shape, face.expression, face.pose)
    np.testing.assert_allclose(retarget._rest_points, face.keypoints, atol=1e-6)


def test_locate_face_says_what_to_do():
    class Blind:
        def find(self, picture):
            return None

    with pytest.raises(NoFaceError, match=r"no face found in the source picture; take one .* .crop it if need be.$"):
        locate_face(FRAME, Blind())
    with pytest.raises(NoFaceError):
        fit_source(FRAME, tracker=lambda frame: None)
    points, _ = person(1)
    np.testing.assert_array_equal(locate_face(FRAME, lambda frame: Landmarks(points[0], 1.0)), points[0])


@pytest.mark.row(
    "A5",
    "5 % of a still face's detections are wrong, from landmarks to keypoints, offline and live: "
    "jitter at most 0.3 px at 256",
)
def test_detector_glitches_do_not_show_in_the_keypoints(row):
    people, frames = row.amount(1, 20), row.amount(120, 300)
    jitters_px = {"offline": [], "live": []}
    for seed in range(people):
        points = glitches(seed, frames)
        face = fit_source(person(1, seed=seed + 4)[0][0])
        driver = Driver(MODEL, Script(points))
        clip = driver.track_clip((FRAME, i / 30) for i in range(frames))
        retarget = Retargeter(MODEL, face.shape, face.expression, face.pose, reference=choose_reference(clip))
        jitters_px["offline"].append(jitter_px([retarget(m, m.time)[0] for m in clip]))
        driver, retarget = Driver(MODEL, Script(points)), Retargeter(MODEL, face.shape, face.expression, face.pose)
        outs = [retarget(driver.observe(FRAME, i / 30), i / 30)[0] for i in range(frames)]
        jitters_px["live"].append(jitter_px(outs[45:]))  # the shape is learned from the first 30
    worst = {way: max(values) for way, values in jitters_px.items()}
    row.measured(f"{people} drivers of {frames} frames: offline {worst['offline']:.2f} px, live {worst['live']:.2f} px")
    assert max(worst.values()) <= 0.3


def jitter_px(keypoints):
    """Standard deviation over time, px at 256, mean of the keypoints."""
    return (np.array(keypoints).std(axis=0) * 128).mean()


def glitches(seed, frames):
    """Landmarks of a still face with a tracker's noise of 0.25 px at 256, and a wrong one every twentieth frame."""
    points, _ = person(frames, seed=seed, noise_px=0.35, still=True)
    rng = np.random.default_rng(seed + 1)
    wrong = np.flatnonzero(rng.random(frames) < 0.05)
    for i in wrong[np.diff(wrong, prepend=-1) > 1]:  # of one frame: two alike in a row are movement
        size = face_size(points[i])
        points[i] = points[i] * rng.uniform(0.8, 1.2) + rng.normal(size=2) * 0.1 * size + rng.normal(size=(72, 2)) * 5
    return points


def test_real_clips_are_tracked_and_fitted(shared):
    pytest.importorskip("mediapipe")
    av = pytest.importorskip("av")
    for name in ("d0", "d20"):
        with av.open(str(shared / "data" / "videos" / f"{name}.mp4")) as video:
            first = itertools.islice(video.decode(video=0), 60)
            frames = [(frame.to_ndarray(format="rgb24"), frame.time) for frame in first]
        driver = Driver(MODEL)
        clip = driver.track_clip(frames)
        driver.close()
        assert (clip.confidence > 0.9).all()
