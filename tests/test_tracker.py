"""The tracker: what it finds, which face it follows, that it is quiet, and what it says when it cannot."""

import gc
import itertools
import os
import subprocess
import sys
import threading
import time
import types

import numpy as np
import pytest
from PIL import Image

from fastreenact.engine import Engine
from fastreenact.errors import FastreenactError, NoFaceError
from fastreenact.face.driver import Driver
from fastreenact.face.keypoints import face_size, from_mediapipe
from fastreenact.face.source import locate_face
from fastreenact.face.track import backends
from fastreenact.face.track.backends import quiet_stderr
from fastreenact.face.track.tracker import Landmarks, Tracker
from fastreenact.face.track.views import View, views
from fastreenact.models import shipped_weights
from fastreenact.models.refined_warp.weights import load_refined_warp


@pytest.fixture(scope="module")
def astronaut():
    return pytest.importorskip("skimage.data").astronaut()


@pytest.fixture(scope="module")
def loaded():
    pytest.importorskip("mediapipe")
    with Tracker() as tracker:
        yield tracker


@pytest.fixture
def tracker(loaded):
    loaded.reset()
    return loaded


def group(astronaut, heads):
    """Heads of some heights (px) at some x, in one picture of 900 x 360; those of negative height are mirrored."""
    scene = Image.new("RGB", (900, 360), (90, 100, 110))
    for x, height in heads:
        head = astronaut[50:190, 155:295] if height > 0 else astronaut[50:190, 294:154:-1]
        scene.paste(Image.fromarray(head).resize((abs(height), abs(height))), (x, 40))
    return np.array(scene)


def on_canvas(picture, height, width, y, x, scale=1.0):
    canvas = np.full((height, width, 3), 100, np.uint8)
    small = Image.fromarray(picture).resize((round(picture.shape[1] * scale), round(picture.shape[0] * scale)))
    canvas[y : y + small.height, x : x + small.width] = np.asarray(small)
    return canvas


def test_tracker_finds_and_follows_a_face(tracker, astronaut):
    first = tracker(astronaut)
    assert first.points.shape == (478, 3)
    assert first.points.dtype == np.float32
    assert first.confidence == 1.0
    nose = first.points[4]
    np.testing.assert_allclose(nose[:2], (223, 130), atol=12)
    for shift in range(2, 12, 2):
        found = tracker(np.roll(astronaut, shift, axis=1))
        np.testing.assert_allclose(found.points[4, :2], nose[:2] + np.array((shift, 0)), atol=4)


def test_mesh_points_are_those_of_the_landmarks():
    pytest.importorskip("mediapipe")
    from mediapipe.framework.formats.landmark_pb2 import NormalizedLandmark, NormalizedLandmarkList

    places = np.random.default_rng(0).normal(size=(478, 3)).astype(np.float32)
    places[7] = 0.0
    face = NormalizedLandmarkList(landmark=[NormalizedLandmark(x=x, y=y, z=z) for x, y, z in places])
    np.testing.assert_array_equal(backends.mesh_points(face), places)
    face.landmark[3].visibility = 0.5  # longer than the others
    np.testing.assert_array_equal(backends.mesh_points(face), places)
    face.landmark[3].CopyFrom(NormalizedLandmark(x=1.0, y=2.0, visibility=0.5))  # as long as they, but not z
    np.testing.assert_array_equal(backends.mesh_points(face)[3], (1.0, 2.0, 0.0))


def test_tracker_gives_none_without_a_face_and_recovers(tracker, astronaut):
    empty = np.full_like(astronaut, 90)
    assert tracker(empty) is None
    assert tracker(astronaut) is not None
    for _ in range(3):
        lost = tracker(empty)
    assert lost is None
    assert tracker(astronaut) is not None


def test_tracker_takes_frames_of_any_size(tracker, astronaut):
    small = tracker.find(astronaut).points
    for scale in (0.6, 2.3, 4.5):  # the last is beyond 1920 px and thinned out
        side = round(512 * scale)
        tracker.reset()
        found = tracker(np.asarray(Image.fromarray(astronaut).resize((side, side))))
        assert np.abs(found.points / scale - small)[:, :2].mean() < 3


def test_the_largest_face_is_followed(tracker, astronaut):
    head = astronaut[20:240, 120:330]
    picture = on_canvas(head, 500, 900, 40, 30, 0.8)
    picture[100:430, 500:815] = np.asarray(Image.fromarray(head[:, ::-1]).resize((315, 330)))
    for attempt in range(4):
        found = tracker(picture)
        assert found.points[:, 0].mean() > 450, attempt
    assert tracker.find(picture).points[:, 0].mean() > 450


@pytest.mark.parametrize("angle", [0, 30, 90, 180])
def test_stills_are_found_turned(tracker, astronaut, angle):
    picture = np.array(Image.fromarray(astronaut).rotate(angle, expand=True))
    points = tracker.find(picture).points
    # Where the turn puts the upright points: Pillow turns counter-clockwise about the centre.
    t = np.deg2rad(angle)
    offset = tracker.find(astronaut).points[:, :2] - 256
    turned = offset @ np.array(((np.cos(t), -np.sin(t)), (np.sin(t), np.cos(t)))) + np.array(picture.shape[1::-1]) / 2
    np.testing.assert_allclose(points[:, :2], turned, atol=15)
    assert np.abs(points[:, :2] - turned).mean() < 4


def test_stills_are_found_small_and_filling_the_picture(tracker, astronaut):
    far = on_canvas(astronaut, 1200, 1600, 600, 900, 1.0)
    np.testing.assert_allclose(tracker.find(far).points[4, :2], (900 + 223, 600 + 130), atol=12)
    points = tracker.find(astronaut).points
    (x0, y0), (x1, y1) = points[:, :2].min(axis=0).astype(int), points[:, :2].max(axis=0).astype(int)
    close = tracker.find(np.ascontiguousarray(astronaut[y0:y1, x0:x1]))
    np.testing.assert_allclose(close.points[4, :2], points[4, :2] - (x0, y0), atol=8)


def without_a_face(count):
    """Pictures of many kinds and sizes in which there is no face."""
    skimage = pytest.importorskip("skimage.data")
    rng = np.random.default_rng(0)
    yield np.zeros((2000, 3000, 3), np.uint8)
    yield skimage.coffee()
    yield rng.integers(0, 256, (1080, 1920, 3), np.uint8)
    for name in ("rocket", "hubble_deep_field", "retina"):
        yield getattr(skimage, name)()
    for name in ("brick", "gravel", "grass", "moon", "page", "text", "clock"):
        yield np.repeat(getattr(skimage, name)()[..., None], 3, axis=2)
    yield np.zeros((40, 9000, 3), np.uint8)
    yield np.full((9000, 1, 3), 200, np.uint8)
    for _ in range(max(0, count - 15)):  # soft blobs, as a blurred room
        small = rng.integers(0, 256, (rng.integers(3, 24), rng.integers(3, 24), 3), np.uint8)
        size = tuple(int(side) for side in rng.integers(40, 4000, 2))
        yield np.array(Image.fromarray(small).resize(size, Image.Resampling.BICUBIC))


@pytest.mark.row("A1", "no face in the source: `NoFaceError` with advice, within 1 s of one core")
def test_sources_without_a_face_are_refused_within_a_second(tracker, row):
    tracker.find(np.zeros((64, 64, 3), np.uint8))
    weights = load_refined_warp(shipped_weights())
    count, seconds = row.amount(2, 100), []
    for picture in itertools.islice(without_a_face(count), count):
        start = time.process_time()  # all threads together, so that other programs do not count
        with pytest.raises(NoFaceError, match="no face found in the source picture; take one where the face looks tow"):
            Engine(np.ascontiguousarray(picture), weights=weights, tracker=tracker)
        seconds.append(time.process_time() - start)
    row.measured(f"{count} pictures: {np.median(seconds):.2f} s, slowest {max(seconds):.2f} s")
    assert max(seconds) <= 1.0


def test_all_faces_of_a_picture_are_found_from_left_to_right(tracker, astronaut):
    scene = group(astronaut, [(20, 150), (260, -190), (600, 270)])
    xs = [found.points[:, 0].mean() for found in tracker.find_all(scene)]
    np.testing.assert_allclose(xs, (20 + 75, 260 + 95, 600 + 135), atol=20)
    turned = np.ascontiguousarray(np.rot90(astronaut, 2))
    assert len(tracker.find_all(turned)) == 1
    assert locate_face(scene, tracker)[:, 0].mean() > 600
    with pytest.raises(NoFaceError, match=r"face 4 was .*, but only 3 .* from the left at \(\d+, \d+\), .* up to 3"):
        locate_face(scene, tracker, face=4)
    with Engine(scene, model="landmark-warp", tracker=tracker, face=2) as engine:
        assert 260 < engine.face_box.cx < 450
        engine.add(scene, face=1)
        assert engine._avatars[1].face.box.cx < 170


def test_the_largest_of_many_small_ones_is_found(tracker, astronaut):
    scene = group(astronaut, [(10, 70), (110, -75), (210, 80), (320, -90), (440, 130), (600, 72), (700, -74)])
    assert 440 < tracker.find(scene).points[:, 0].mean() < 570


def test_the_face_asked_for_is_followed(tracker, astronaut, monkeypatch):
    monkeypatch.setattr(tracker, "face", 2)
    alone = group(astronaut, [(100, 300)])
    both = group(astronaut, [(100, 300), (600, -220)])
    assert tracker(alone) is None
    for shift in range(0, 60, 10):
        found = tracker(np.roll(both, -shift, axis=1))
        assert 600 - shift < found.points[:, 0].mean() < 820 - shift
    clip = Driver(tracker=tracker).track_clip([(both, 0.0)])
    assert float(clip.metadata["box"].split()[0]) > 600
    assert Driver(tracker=tracker).track_clip([(alone, 0.0)]).confidence[0] == 0


def test_somebody_who_comes_later_is_noticed(tracker, astronaut):
    """Until then the net follows one face, which is quicker; after it ours is waited for."""
    alone, both, other = (group(astronaut, heads) for heads in ([(20, 220)], [(20, 220), (500, -300)], [(500, -300)]))
    for index in range(32):
        assert tracker(both if index > 2 else alone).points[:, 0].mean() < 240
    for _ in range(40):
        assert tracker(other) is None
    assert tracker(both).points[:, 0].mean() < 240


def test_all_portraits_are_found(tracker, shared):
    for path in sorted((shared / "data" / "portraits").glob("*.jpg")):
        picture = np.array(Image.open(path).convert("RGB"))
        found = tracker.find(picture)
        assert found is not None, path.name
        assert 0.1 < face_size(from_mediapipe(found.points)) / min(picture.shape[:2]) < 0.6


def test_every_frame_of_the_clips_is_found(tracker, shared):
    av = pytest.importorskip("av")
    for name in ("d0", "d18"):
        tracker.reset()
        with av.open(str(shared / "data" / "videos" / f"{name}.mp4")) as clip:
            for frame, _ in zip(clip.decode(video=0), range(60), strict=False):
                assert tracker(frame.to_ndarray(format="rgb24")) is not None


QUIET = """
import numpy as np, skimage.data
from fastreenact.face.track.tracker import Tracker
with Tracker() as tracker:
    found = [tracker(skimage.data.astronaut()) is not None for _ in range(4)]
    tracker(np.zeros((50, 70, 3), np.uint8))
    assert all(found) and tracker.find(skimage.data.astronaut()) is not None
"""


def test_tracker_prints_nothing():
    pytest.importorskip("mediapipe")
    pytest.importorskip("skimage.data")
    result = subprocess.run([sys.executable, "-c", QUIET], capture_output=True, text=True, timeout=120, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_quiet_stderr_drops_native_lines_only(capfd):
    with quiet_stderr():
        os.write(2, b"W0000 00:00:17 10981 inference_feedback_manager.cc:114] Feedback manager\n")
        os.write(2, b"INFO: Created TensorFlow Lite XNNPACK delegate for CPU.\n")
        os.write(2, b"I20261120 1 1 gl_context.cc:1] GL version\n")
        os.write(2, b"E0000 00:00:17 1 x.cc:1] an error is no noise\n")
        os.write(2, b"ours\n")
        other = threading.Thread(target=os.write, args=(2, b"another thread's\n"))
        other.start()
        other.join()
    os.write(2, b"after\n")
    error = "E0000 00:00:17 1 x.cc:1] an error is no noise\n"
    assert capfd.readouterr().err == error + "ours\nanother thread's\nafter\n"


def test_quiet_stderr_comes_back_after_an_error(capfd):
    def fail():
        with quiet_stderr():
            os.write(2, b"lost for words\n")
            raise KeyError("x")

    with pytest.raises(KeyError):
        fail()
    os.write(2, b"still here\n")
    assert capfd.readouterr().err == "lost for words\nstill here\n"


def test_quiet_stderr_without_a_stderr(capfd):
    code = (
        "import os, sys; os.close(2); sys.stderr = None\n"
        "from fastreenact.face.track.backends import quiet_stderr\n"
        "with quiet_stderr(): pass\n"
        "print('fine')"
    )
    result = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, timeout=60, check=False)
    assert result.stdout == "fine\n"


def test_views_go_there_and_back():
    rng = np.random.default_rng(0)
    picture = np.zeros((300, 400, 3), np.uint8)
    for view in (View(200, 150, 400, 0), View(120.5, 99, 150, 30), View(200, 150, 900, -90), View(180, 140, 30, 10)):
        part = view.cut(picture)
        assert part.shape[0] == part.shape[1]
        points = rng.random((5, 3)).astype(np.float32) * part.shape[0]
        there = view.back(points)
        x, y = int(there[0, 0]), int(there[0, 1])
        if 5 < x < 394 and 5 < y < 294:
            spot = picture.copy()
            spot[y - 2 : y + 3, x - 2 : x + 3] = 255
            seen = np.argwhere(view.cut(spot)[..., 0] > 128 + 60).mean(axis=0)[::-1]
            np.testing.assert_allclose(seen, points[0, :2], atol=4)
    assert len(list(views(720, 1280))) < 80
    assert len(list(views(1, 100_000))) < 120


class _FakeLandmarker:
    made: list = []  # noqa: RUF012

    def __init__(self, options):
        self.options, self.calls, self.closed = options, [], False
        self.made.append(self)

    @classmethod
    def create_from_options(cls, options):
        if "broken" in options["base_options"]["model_asset_path"]:
            raise RuntimeError("Unable to open zip archive")
        return cls(options)

    def _result(self):
        point = types.SimpleNamespace(x=0.5, y=0.25, z=0.1)
        return types.SimpleNamespace(face_landmarks=[[point] * 478])

    def detect(self, image):
        self.calls.append(("still", image["data"].shape))
        return self._result()

    def detect_for_video(self, image, time_ms):
        self.calls.append((time_ms, image["data"].shape))
        return self._result()

    def close(self):
        self.closed = True


@pytest.fixture
def fake_tasks(monkeypatch):
    """The part of MediaPipe's Tasks API that is used; the real one needs a model file, not to be had offline."""
    vision = types.SimpleNamespace(
        RunningMode=types.SimpleNamespace(VIDEO="video", IMAGE="image"),
        FaceLandmarkerOptions=dict,
        FaceLandmarker=_FakeLandmarker,
    )
    module = types.ModuleType("mediapipe")
    module.tasks = types.SimpleNamespace(vision=vision, BaseOptions=dict)
    module.Image, module.ImageFormat = dict, types.SimpleNamespace(SRGB="srgb")
    monkeypatch.setitem(sys.modules, "mediapipe", module)
    _FakeLandmarker.made = []
    return module


def test_task_file_is_used(fake_tasks, tmp_path):
    path = tmp_path / "face_landmarker.task"
    path.write_bytes(b"x")
    tracker = Tracker(path)
    frame = np.zeros((40, 80, 3), np.uint8)
    found = tracker(frame)
    assert isinstance(found, Landmarks)
    np.testing.assert_allclose(found.points[0], (40, 10, 8))
    tracker(frame)
    modes = {made.options["running_mode"]: made for made in _FakeLandmarker.made}
    assert modes["video"].options["num_faces"] == 1
    assert modes["video"].options["base_options"]["model_asset_path"] == str(path)
    stamps = [call[0] for call in modes["video"].calls]
    assert stamps == sorted(set(stamps))
    tracker.close()
    assert all(made.closed for made in _FakeLandmarker.made)


def test_task_file_that_cannot_be_loaded(fake_tasks, tmp_path):
    path = tmp_path / "broken.task"
    path.write_bytes(b"x")
    with pytest.raises(FastreenactError, match=r"broken.task: MediaPipe cannot load this as a face landmarker: Unable"):
        Tracker(path)(np.zeros((8, 8, 3), np.uint8))


def test_a_forgotten_tracker_gives_its_nets_back(monkeypatch):
    closed = []

    class SolutionBase:
        def __init__(self, **options):
            self.keeps_itself = self  # as MediaPipe's do: only close() gives their memory and threads back
            kept.append(self)

        def close(self):
            closed.append(self)

    kept = []
    mesh = types.SimpleNamespace(SolutionBase=SolutionBase)
    solutions = types.SimpleNamespace(solutions=types.SimpleNamespace(face_mesh=mesh))
    monkeypatch.setattr(backends, "import_mediapipe", lambda part: solutions)
    monkeypatch.setattr(backends, "_mesh_graph", lambda mediapipe: None)
    monkeypatch.setattr(backends, "_run_mesh", lambda mediapipe, mesh, picture, time_us: [])
    tracker = Tracker()
    assert tracker(np.zeros((64, 64, 3), np.uint8)) is None
    assert (len(kept), len(closed)) == (2, 0)
    del tracker
    gc.collect()
    assert len(closed) == 2
    with Tracker() as tracker:
        tracker(np.zeros((64, 64, 3), np.uint8))
    assert len(closed) == len(kept) == 4  # each once
    tracker(np.zeros((64, 64, 3), np.uint8))
    monkeypatch.setattr(os, "getpid", lambda: -1)  # a forked child has none of the nets' threads to wait for
    tracker.close()
    assert len(closed) == 4


def test_a_mediapipe_without_the_mesh_is_named(fake_tasks):
    fake_tasks.__version__ = "1.2.2"
    with pytest.raises(FastreenactError, match=r"MediaPipe 1.2.2 has no `solutions`; install 0.10.21 .*name a .task"):
        Tracker()(np.zeros((8, 8, 3), np.uint8))


def test_missing_mediapipe_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    with pytest.raises(FastreenactError, match=r"needs MediaPipe.*pip install --no-deps -r requirements/track.txt"):
        Tracker()(np.zeros((8, 8, 3), np.uint8))


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (np.zeros((8, 8)), r"frame: got float64 \[8, 8\], need a NumPy uint8 \[H, W, 3\]"),
        (np.zeros((8, 8, 4), np.uint8), r"got uint8 \[8, 8, 4\]"),
        (np.zeros((0, 8, 3), np.uint8), "an empty picture"),
        ("face.jpg", "got str"),
    ],
)
def test_tracker_refuses_frames(frame, message):
    for call in (Tracker(), Tracker().find):
        with pytest.raises(ValueError, match=message):
            call(frame)


def test_tracker_refuses_options(tmp_path):
    for face in (0, "left"):
        with pytest.raises(ValueError, match=f"face: got {face!r}, need a number from 1 .counted from the left"):
            Tracker(face=face)
        with pytest.raises(ValueError, match=f"face: got {face!r}, need a number from 1 .counted from the left"):
            locate_face(np.zeros((8, 8, 3), np.uint8), face=face)
    with pytest.raises(ValueError, match=r"face: got 1, but this tracker finds one face only \(it has no find_all\);"):
        locate_face(np.zeros((8, 8, 3), np.uint8), lambda picture: None, face=1)
    with pytest.raises(ValueError, match="neither 'mesh' nor an existing file; give the path of a face landmarker"):
        Tracker(tmp_path / "no.task")


def test_importing_the_tracker_leaves_mediapipe_alone():
    code = "import sys, fastreenact.face.driver; print('mediapipe' in sys.modules, 'cv2' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout == "False False\n"
    assert backends  # imported above without it as well
