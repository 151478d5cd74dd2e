"""The contract between engine and models, with models that the engine has never heard of."""

import logging

import inverted_model
import numpy as np
import pytest
import torch
from clips import make_clip
from engine_case import FACE_PX, HEIGHT, WIDTH, PaintedTracker, frame, landmarks, make, motion, source
from stand_ins import KINDS, SIDE, Home, describe

from fastreenact.errors import WeightsError
from fastreenact.face.crop import Box
from fastreenact.face.driver import Sighting, Tracked
from fastreenact.face.motion import MotionClip
from fastreenact.face.track.tracker import Landmarks
from fastreenact.media import write_image
from fastreenact.models import MODELS
from fastreenact.models.protocol import Cues, Face, Portrait, lacking


@pytest.fixture
def inverted(monkeypatch):
    monkeypatch.setitem(MODELS, "inverted", inverted_model.MODEL)
    return "inverted"


@pytest.fixture(params=KINDS)
def kind(request, monkeypatch):
    """Name and loader of a stand-in."""
    home = Home(KINDS[request.param][0])
    monkeypatch.setitem(MODELS, request.param, describe(request.param, home))
    return request.param, home


def settings(name, portrait=None):
    """Options of an engine; the student is trained for one portrait."""
    given = {"model": name, "size": SIDE}
    if name == "student-stand-in":
        given["weights"] = float((source() if portrait is None else portrait).mean())
    return given


def engine_of(name, monkeypatch, **options):
    if name == "student-stand-in":  # a loaded model: choose() passes it on where the model may have weights
        object.__setattr__(MODELS[name], "weights", "asked for")
        monkeypatch.setattr(type(MODELS[name]), "wrote", lambda self, metadata: True)
    return make(**settings(name), **options)


def test_the_colour_inverting_model_runs_every_way(inverted, tmp_path):
    with make(model=inverted) as engine:
        assert engine.model == "inverted"
        assert engine.output_size == (HEIGHT, WIDTH)
        assert not engine.sees_pictures
        for driver in (frame(3), motion(3), landmarks(3), frame(255)):
            assert np.array_equal(engine.step(driver), 255 - source())
        assert engine.add(source(1)) == 1
        many = engine.step_many([frame(1), motion(2)], avatars=[1, 0])
        assert np.array_equal(many, np.stack([255 - source(1), 255 - source()]))
        assert "decode" in engine.timings
        driver = make_clip(tmp_path / "driver.mp4", frames=[frame(i) for i in range(3)], pts=[0, 1, 2])
        assert engine.animate(driver, tmp_path / "out.mp4").frames == 3
    with make(model=inverted, size=96, paste=True) as engine:
        assert engine.step(frame(0)).shape == (HEIGHT, WIDTH, 3)
    with make(model=inverted, size=96) as engine:
        assert np.array_equal(engine.step(frame(0)), 255 - engine.source_picture)


def test_stand_ins_run_through_step_and_step_many(kind, monkeypatch):
    name, _ = kind
    with engine_of(name, monkeypatch, smooth=False) as engine:
        if name != "student-stand-in":
            engine.add(source(1))
        frames = [engine.step(driving(index)) for index in (1, 9)]
        for shown in frames:
            assert shown.shape == (SIDE, SIDE, 3)
            assert len(np.unique(shown.reshape(-1, 3), axis=0)) == 1
        assert not np.array_equal(*frames)  # what it was offered has changed
        other = 0 if name == "student-stand-in" else 1
        many = engine.step_many([driving(1), driving(9)], avatars=[0, other])
        assert many.shape == (2, SIDE, SIDE, 3)
        alone = engine.step_many(driving(4), avatars=[0, other])
        seen = name in ("mega-stand-in", "live-stand-in")  # the others know the portrait's face, which is the same
        assert np.array_equal(alone[0], alone[1]) != seen
        assert engine.step(driving(255)).shape == (SIDE, SIDE, 3)  # no face: the last one is offered again


def driving(index):
    """A driver's frame whose colours tell which it is."""
    picture = np.full((HEIGHT, WIDTH, 3), 3 * (index % 80), np.uint8)
    picture[0, 0, 0] = index
    return picture


def test_what_a_driver_cannot_offer_is_said(kind, monkeypatch):
    name, _ = kind
    wants = frozenset(KINDS[name][1])
    with engine_of(name, monkeypatch) as engine:
        assert engine.sees_pictures == bool(wants & {"picture", "points", "landmarks"})
        for driver, lacks in ((motion(1), lacking(True, False)), (landmarks(1), lacking(False, False))):
            if wants & lacks:
                with pytest.raises(ValueError, match=f"{name} sees the driver's .* drive it with pictures"):
                    engine.step(driver)
            else:
                assert engine.step(driver).shape == (SIDE, SIDE, 3)


def test_stand_ins_animate_files(kind, monkeypatch, tmp_path):
    name, _ = kind
    driver = make_clip(tmp_path / "driver.mp4", frames=[frame(i) for i in range(4)], pts=[0, 1, 2, 3])
    clip = MotionClip.from_motions([motion(i) for i in range(3)])
    with engine_of(name, monkeypatch) as engine:
        assert engine.animate(driver, tmp_path / "out.mp4", side_by_side=True).frames == 4
        template = tmp_path / "t.safetensors"
        clip.save(template)
        if engine.sees_pictures:
            with pytest.raises(ValueError, match="drive it with pictures"):
                engine.animate(template, tmp_path / "t.mp4")
        else:
            assert engine.animate(template, tmp_path / "t.mp4").frames == 3


def test_stand_ins_go_down_the_ladder(kind, monkeypatch, caplog):
    name, home = kind
    caplog.set_level(logging.WARNING, logger="fastreenact")
    home.fails = 2
    with engine_of(name, monkeypatch) as engine:
        assert engine.step(driving(2)).shape == (SIDE, SIDE, 3)
    assert home.made == [(torch.float32, 1), (torch.float32, 1), (torch.float32, 2)]  # as it was, then at a half
    assert [record.getMessage() for record in caplog.records] == [
        "out of memory with float32 on cpu: goes on with float32 on cpu, networks at 1/2 of the size"
    ]


def test_frames_that_are_not_finite_are_made_again_in_float32(kind, monkeypatch, caplog):
    name, home = kind
    caplog.set_level(logging.WARNING, logger="fastreenact")
    drive = home.kind.drive
    made = home.made
    monkeypatch.setattr(home.kind, "drive", lambda *given: drive(*given) and made[-1][0] == torch.float32)
    with engine_of(name, monkeypatch, dtype="bfloat16") as engine:
        engine.step(driving(2))
    assert [dtype for dtype, _ in made] == [torch.bfloat16, torch.float32]
    assert "made again in float32" in caplog.text


def test_a_student_refuses_another_person(monkeypatch):
    home = Home(KINDS["student-stand-in"][0])
    monkeypatch.setitem(MODELS, "student-stand-in", describe("student-stand-in", home))
    with engine_of("student-stand-in", monkeypatch) as engine, pytest.raises(WeightsError, match="of another person"):
        engine.add(
            np.maximum(source(1), 100) * (np.arange(HEIGHT * WIDTH) > 0).reshape(HEIGHT, WIDTH, 1).astype(np.uint8)
        )


def test_everything_is_made_when_asked_for_and_once():
    asked = []
    face = Face(None, np.zeros((72, 2), np.float32), Box(0, 0, 1))
    cues = Cues(face, None, lambda: asked.append(1) or (np.zeros((72, 2), np.float32), np.zeros(6, np.float32)))
    assert not asked
    assert cues.keypoints.shape == (72, 2)
    assert cues.pose.shape == (6,)
    assert asked == [1]
    assert face.landmarks is face.landmarks
    for missing in ("picture", "points"):
        with pytest.raises(ValueError, match="give a picture that can be tracked"):
            getattr(face, missing)
    with pytest.raises(ValueError, match="portrait has no motion"):
        cues.motion  # noqa: B018
    picture = source()
    portrait = Portrait(picture, Box(90, 120, FACE_PX), np.zeros((72, 2), np.float32), np.zeros(6, np.float32))
    assert portrait.crop(32) is portrait.crop(32)
    assert portrait.square(32).crop(32).shape == (32, 32, 3)
    np.testing.assert_allclose(portrait.keypoints_px, np.tile((90, 120), (72, 1)))


@pytest.fixture
def watched(monkeypatch):
    """The cues of every frame that a model is given which looks at pictures and points."""
    seen = []

    class Watching(KINDS["mega-stand-in"][0]):
        def levels(self, state, cue):
            seen.append(cue)
            return super().levels(state, cue)

    monkeypatch.setitem(MODELS, "mega-stand-in", describe("mega-stand-in", Home(Watching)))
    return seen


def test_the_trackers_points_arrive(watched):
    with make(model="mega-stand-in", size=SIDE, tracker=PaintedTracker()) as engine:
        for index in (3, 255):
            engine.step(driving(index))
    np.testing.assert_array_equal(watched[0].face.points, landmarks(3))
    assert np.array_equal(watched[0].face.picture, driving(3))
    assert watched[1].face is watched[0].face  # the last face seen
    assert [cue.motion.found for cue in watched] == [True, False]


class TwoPeople:
    """Sees two people in every frame but the first, which shows one; gives the second where asked for, and counts."""

    def __init__(self, face=None):
        self.face, self.calls = face, 0

    def __call__(self, frame):
        self.calls += 1
        people = self.people(self.calls - 1)
        return people[(self.face or 1) - 1] if len(people) >= (self.face or 1) else None

    def find_all(self, picture):
        self.calls += 1
        return self.people(1)

    def find(self, picture):
        return self.find_all(picture)[0]

    @staticmethod
    def people(number):
        first, second = landmarks(number), landmarks(40 + 5 * number) + np.float32(30)
        return [Landmarks(points, 1.0) for points in ([first] if number == 0 else [first, second])]


def test_a_file_is_tracked_once_and_the_chosen_face_is_the_one_seen(watched, tmp_path):
    frames = [np.full((HEIGHT, WIDTH, 3), 40 * (i + 1), np.uint8) for i in range(5)]
    driver = make_clip(tmp_path / "driver.mp4", frames=frames, pts=[0, 1, 2, 3, 4])
    own, chosen = TwoPeople(), TwoPeople(face=2)
    with make(model="mega-stand-in", size=SIDE, tracker=own) as engine:
        engine.step(driving(3))  # of somebody else, whom animate forgets
        watched.clear()
        before = own.calls
        engine.animate(driver, tmp_path / "out.mp4", tracker=chosen, template_out=tmp_path / "t.safetensors")
        assert (own.calls, chosen.calls) == (before, 5)
        np.testing.assert_array_equal(watched[0].face.picture, source())  # no second face yet: the portrait's own
        for number in range(1, 5):
            face = watched[number].face
            np.testing.assert_array_equal(face.points, TwoPeople.people(number)[1].points)
            np.testing.assert_array_equal(face.keypoints_px, face.points)
            np.testing.assert_allclose(face.picture.mean(), frames[number].mean(), atol=2)
            assert face.box == watched[1].face.box
        clip = MotionClip.load(tmp_path / "t.safetensors")
        assert [cue.motion.found for cue in watched] == [False, True, True, True, True]
        for cue, motion_of_file in zip(watched, clip, strict=True):
            np.testing.assert_array_equal(cue.motion.expression, motion_of_file.expression)
            np.testing.assert_array_equal(cue.motion.pose, motion_of_file.pose)


def test_a_picture_is_searched_once_and_the_chosen_face_is_the_one_seen(watched, tmp_path):
    write_image(tmp_path / "driver.png", driving(7))
    own, chosen = TwoPeople(), TwoPeople(face=2)
    with make(model="mega-stand-in", size=SIDE, tracker=own) as engine:
        before = own.calls
        engine.animate(tmp_path / "driver.png", tmp_path / "out.png", tracker=chosen)
        assert (own.calls, chosen.calls) == (before, 1)
    np.testing.assert_array_equal(watched[-1].face.points, TwoPeople.people(1)[1].points)
    np.testing.assert_array_equal(watched[-1].face.picture, driving(7))


def test_until_a_driver_shows_a_face_the_portraits_own_stands_for_it(watched):
    with make(model="mega-stand-in", size=SIDE) as engine:
        engine.step(driving(255))
        engine.step(driving(3))
        engine.reset()
        engine.step(driving(255))
    for cue in (watched[0], watched[2]):
        np.testing.assert_array_equal(cue.face.picture, source())
        np.testing.assert_array_equal(cue.face.points, landmarks(0))
    np.testing.assert_array_equal(watched[1].face.picture, driving(3))


def test_a_frame_tracked_before_is_not_tracked_again(watched):
    points = landmarks(5)
    tracker = TwoPeople()
    with make(model="mega-stand-in", size=SIDE, tracker=tracker) as engine:
        before = tracker.calls
        given = Tracked(motion(5), driving(9), Sighting(points, points, Box(90, 120, FACE_PX)))
        assert engine.step(given).shape == engine.step_many([given])[0].shape == (SIDE, SIDE, 3)
        assert tracker.calls == before
        with pytest.raises(TypeError, match="driver is NoneType; give a uint8"):
            engine.step(Tracked(motion(5), None, None))
    assert watched[0].face.points is points
    assert watched[0].motion.time == motion(5).time
