"""Files in, files out: frames, times and sound of the driver, and nothing left behind when it goes wrong."""

from fractions import Fraction
from itertools import accumulate

import numpy as np
import pytest

pytest.importorskip("av", reason="PyAV is not installed")

from clips import TIMINGS, make_clip, ramp, sound_packets, tone, true_times
from fakes import FakeEngine, a_template, fake_tracking

from fastreenact.app import animate as animate_module
from fastreenact.app.animate import animate, check_paths, default_out, driver_kind, track
from fastreenact.errors import MediaError, NoFaceError
from fastreenact.face.motion import MotionClip
from fastreenact.face.track.tracker import Tracker
from fastreenact.media import VideoReader, read_image, write_image


@pytest.fixture(autouse=True)
def _quick_tracking(monkeypatch):
    monkeypatch.setattr(animate_module, "_track_frames", fake_tracking)


@pytest.mark.parametrize("timing", TIMINGS)
def test_video_frames_times_and_sound(tmp_path, timing):
    time_base, pts = TIMINGS[timing]
    driver = make_clip(tmp_path / "d.mp4", time_base=time_base, pts=pts, sound=tone(2))
    engine = FakeEngine()
    result = animate(engine, driver, tmp_path / "o.mp4")
    assert true_times(tmp_path / "o.mp4") == [ticks * time_base for ticks in pts]
    assert sound_packets(tmp_path / "o.mp4") == sound_packets(driver)
    assert (result.path, result.frames, result.notes, result.damaged) == (tmp_path / "o.mp4", len(pts), [], False)
    assert result.seconds > 0
    assert engine.times == pytest.approx([float(ticks * time_base) for ticks in pts], abs=1e-9)
    levels = [int(image[8, 8, 0]) for image, _ in VideoReader(tmp_path / "o.mp4")]
    assert levels == pytest.approx([60 + 2 * i for i in range(len(pts))], abs=3)


def test_reference_is_the_most_neutral_of_the_first_30(tmp_path):
    levels = [150] * 5 + [60] + [120] * 30 + [20] * 5
    driver = make_clip(
        tmp_path / "d.mp4",
        frames=[np.full((48, 64, 3), level, np.uint8) for level in levels],
        pts=list(range(len(levels))),
    )
    engine = FakeEngine()
    animate(engine, driver, tmp_path / "o.mp4")
    reference, after = engine.references
    assert reference.pose[1] == pytest.approx(60 / 255, abs=0.02)
    assert after is None
    assert engine.resets == 2


@pytest.mark.row("V1", "as many frames out as in, at the same times, where a fifth of them shows no face")
def test_every_frame_comes_out(tmp_path, row, request, monkeypatch):
    def faces_come_and_go(frames, tracker, saw):
        return fake_tracking(((image * (i % 15 < 12), t) for i, (image, t) in enumerate(frames)), tracker)

    monkeypatch.setattr(animate_module, "_track_frames", faces_come_and_go)
    clips = [
        make_clip(tmp_path / f"{timing}.{suffix}", time_base=time_base, pts=pts)
        for timing, (time_base, pts) in TIMINGS.items()
        for suffix in ("mp4", "mkv", "mov")
    ]
    if row.full:
        clips += sorted((request.getfixturevalue("shared") / "data" / "videos").glob("*.mp4"))
    total = wrong = 0
    for clip in clips:
        times = true_times(clip)
        result = animate(FakeEngine(), clip, tmp_path / "o.mp4", force=True)
        wrong += true_times(tmp_path / "o.mp4") != times or not any("show no face" in note for note in result.notes)
        total += len(times)
    row.measured(f"{len(clips)} clips, {total:,} frames: {wrong} clips differ")
    assert wrong == 0


def test_frames_without_a_face(tmp_path):
    levels = [0 if 10 <= i < 14 else 100 for i in range(30)]
    driver = make_clip(
        tmp_path / "d.mp4", frames=[np.full((48, 64, 3), level, np.uint8) for level in levels], pts=list(range(30))
    )
    engine = FakeEngine()
    result = animate(engine, driver, tmp_path / "o.mp4")
    assert result.frames == len(true_times(tmp_path / "o.mp4")) == 30
    assert [motion.confidence for motion in engine.steps] == [level > 0 for level in levels]
    assert any("4 of 30 frames show no face" in note for note in result.notes)


@pytest.mark.parametrize("kind", ["video", "picture", "template"])
def test_no_face_at_all(tmp_path, kind):
    black = np.zeros((48, 64, 3), np.uint8)
    if kind == "video":
        driver = make_clip(tmp_path / "d.mp4", frames=[black] * 5, pts=list(range(5)))
    elif kind == "picture":
        driver = tmp_path / "d.png"
        write_image(driver, black)
    else:
        driver = a_template(tmp_path / "d.safetensors", [0, 0.1], found=False)
    out = tmp_path / ("o.png" if kind == "picture" else "o.mp4")
    with pytest.raises(NoFaceError, match=r"no face found.*take one where"):
        animate(FakeEngine(), driver, out)
    assert [p.name for p in tmp_path.iterdir()] == [driver.name]


def test_side_by_side(tmp_path):
    driver = make_clip(tmp_path / "d.mp4", size=(64, 64))
    plain, row = tmp_path / "o.mp4", tmp_path / "row.mp4"
    animate(FakeEngine(), driver, plain)
    animate(FakeEngine(), driver, row, side_by_side=True)
    assert true_times(row) == true_times(plain)
    driven = [image for image, _ in VideoReader(driver)]
    for i, (image, _) in enumerate(VideoReader(row)):
        assert image.shape == (32, 48 + 32 + 48, 3)
        assert abs(int(image[16, 20, 0]) - 99) <= 3  # the portrait
        assert abs(float(image[:, 48:80].mean()) - float(driven[i].mean())) < 4  # the driver's own frame
        assert abs(int(image[16, 100, 0]) - (60 + 2 * i)) <= 3  # the result


def test_trim_video_with_sound(tmp_path):
    driver = make_clip(tmp_path / "d.mp4", pts=list(range(50)), sound=tone(2))
    result = animate(FakeEngine(), driver, tmp_path / "o.mp4", trim=(0.4, 1.2))
    assert true_times(tmp_path / "o.mp4") == [Fraction(i, 25) for i in range(20)]
    assert result.frames == 20
    copied, whole = sound_packets(tmp_path / "o.mp4"), sound_packets(driver)
    assert 34 <= len(copied) <= 38  # 0.8 s are 34.5 packets of 1024 samples
    assert set(copied) <= set(whole)


def test_sound_left_out(tmp_path):
    driver = make_clip(tmp_path / "d.mp4", sound=tone(0.8))
    animate(FakeEngine(), driver, tmp_path / "o.mp4", sound=False)
    assert not VideoReader(tmp_path / "o.mp4").has_audio


def test_picture_driver_writes_a_picture(tmp_path):
    write_image(tmp_path / "d.png", ramp(40, 40))
    engine = FakeEngine()
    result = animate(engine, tmp_path / "d.png", tmp_path / "o.png", template_out=tmp_path / "t.safetensors")
    assert result.frames == 1
    np.testing.assert_array_equal(read_image(tmp_path / "o.png"), np.full((32, 48, 3), 60, np.uint8))
    reference = engine.references[0]
    np.testing.assert_array_equal(reference.pose[:3], 0)  # moved from a frontal, neutral face at the same place
    np.testing.assert_array_equal(reference.pose[3:], engine.steps[0].pose[3:])
    assert not reference.expression.any()
    assert len(MotionClip.load(tmp_path / "t.safetensors")) == 1
    animate(FakeEngine(), tmp_path / "d.png", tmp_path / "row.png", side_by_side=True)
    assert read_image(tmp_path / "row.png").shape == (32, 48 + 32 + 48, 3)
    with pytest.raises(MediaError, match="is a picture"):
        animate(FakeEngine(), tmp_path / "d.png", tmp_path / "o.mp4")
    with pytest.raises(MediaError, match="pictures are written as"):
        animate(FakeEngine(), tmp_path / "d.png", tmp_path / "o.txt", template_out=tmp_path / "u.safetensors")
    assert not (tmp_path / "u.safetensors").exists()
    trimmed = animate(FakeEngine(), tmp_path / "d.png", tmp_path / "trimmed.png", trim=(1, 2))
    assert trimmed.notes == ["d.png is a picture, which has no times: nothing is trimmed"]
    assert track(tmp_path / "d.png", tmp_path / "v.safetensors", trim=(1, None)).notes == trimmed.notes


@pytest.mark.parametrize(
    "times",
    [
        [i / 25 for i in range(20)],
        [i * 1001 / 30000 for i in range(20)],
        [t / 1000 for t in accumulate([5000, *[20, 60] * 9])],
        [2.5],
    ],
)
def test_template_driver(tmp_path, times):
    template = a_template(tmp_path / "t.safetensors", times)
    result = animate(FakeEngine(), template, tmp_path / "o.mp4")
    assert result.frames == len(times)
    got = [float(t) for t in true_times(tmp_path / "o.mp4")]
    assert got == pytest.approx([t - times[0] for t in times], abs=1e-5)


@pytest.mark.parametrize("timing", TIMINGS)
def test_template_out_gives_the_same_times(tmp_path, timing):
    time_base, pts = TIMINGS[timing]
    driver = make_clip(tmp_path / "d.mp4", time_base=time_base, pts=pts)
    engine, again = FakeEngine(), FakeEngine()
    animate(engine, driver, tmp_path / "o.mp4", template_out=tmp_path / "t.safetensors")
    animate(again, tmp_path / "t.safetensors", tmp_path / "again.mp4")
    first = true_times(tmp_path / "o.mp4")
    assert true_times(tmp_path / "again.mp4") == [t - first[0] for t in first]
    for a, b in zip(engine.steps, again.steps, strict=True):
        np.testing.assert_array_equal(a.pose, b.pose)
        np.testing.assert_array_equal(a.expression, b.expression)


def test_template_has_one_face(tmp_path):
    template = a_template(tmp_path / "t.safetensors", [0, 0.04])
    result = animate(FakeEngine(), template, tmp_path / "o.mp4", tracker=Tracker(face=2))
    assert any("one face already" in note for note in result.notes)


def test_trim_template(tmp_path):
    template = a_template(tmp_path / "t.safetensors", [i / 25 for i in range(50)])
    assert animate(FakeEngine(), template, tmp_path / "o.mp4", trim=(1.0, None)).frames == 25
    assert true_times(tmp_path / "o.mp4")[0] == 0
    with pytest.raises(MediaError, match="no frame"):
        animate(FakeEngine(), template, tmp_path / "p.mp4", trim=(9, None))


@pytest.mark.parametrize("time_base", ["0", "-1/3", "rubbish", "9"])
def test_template_with_a_senseless_time_base(tmp_path, time_base):
    template = a_template(tmp_path / "t.safetensors", [0, 0.04, 0.08], metadata={"time_base": time_base})
    animate(FakeEngine(), template, tmp_path / "o.mp4")
    assert [float(t) for t in true_times(tmp_path / "o.mp4")] == pytest.approx([0, 0.04, 0.08], abs=1e-5)


def test_stop_keeps_out_and_a_playable_part(tmp_path):
    driver = make_clip(tmp_path / "d.mp4", sound=tone(0.8))
    out = tmp_path / "o.mp4"
    out.write_bytes(b"precious")
    engine = FakeEngine(stop_at=12)
    with pytest.raises(KeyboardInterrupt, match=r"stopped after 12 of 20 frames; they are in o\.part\.mp4"):
        animate(engine, driver, out, force=True)
    assert out.read_bytes() == b"precious"
    assert len(true_times(tmp_path / "o.part.mp4")) == 12
    assert engine.references[-1] is None


def test_stop_while_tracking_leaves_nothing(tmp_path):
    driver = make_clip(tmp_path / "d.mp4")

    def stop(stage, done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        animate(FakeEngine(), driver, tmp_path / "o.mp4", progress=stop)
    assert [p.name for p in tmp_path.iterdir()] == ["d.mp4"]


def test_progress_counts_both_passes(tmp_path):
    driver = make_clip(tmp_path / "d.mp4")
    calls = []
    animate(FakeEngine(), driver, tmp_path / "o.mp4", progress=lambda *call: calls.append(call))
    assert calls == [("track", i, 20) for i in range(1, 21)] + [("render", i, 20) for i in range(1, 21)]


def test_odd_output_is_said(tmp_path):
    driver = make_clip(tmp_path / "d.mp4")
    result = animate(FakeEngine(size=(33, 47)), driver, tmp_path / "o.mp4")
    assert result.notes == ["47 x 33 padded to 48 x 34: H.264 needs even sides"]


def test_refusals_before_any_work(tmp_path):
    driver = make_clip(tmp_path / "d.mp4")
    (tmp_path / "old.mp4").write_bytes(b"precious")
    cases = [
        ({"out": tmp_path / "old.mp4"}, MediaError, "exists already"),
        ({"out": driver, "force": True}, MediaError, "is the driver itself"),
        ({"out": tmp_path / "o.gif"}, MediaError, "choose one of these endings"),
        ({"out": tmp_path / "o.mp4", "template_out": tmp_path / "t.npz"}, MediaError, "written as .safetensors"),
        ({"out": tmp_path / "o.mp4", "template_out": tmp_path / "old.mp4"}, MediaError, "exists already"),
        ({"out": tmp_path / "o.mp4", "quality": "best"}, ValueError, "low, medium, high"),
        ({"out": tmp_path / "o.mp4", "trim": (3, 1)}, ValueError, "0 <= start < end"),
    ]
    for options, kind, words in cases:
        engine = FakeEngine()
        with pytest.raises(kind, match=words):
            animate(engine, driver, **options)
        assert engine.steps == []
    with pytest.raises(MediaError, match="no such file"):
        animate(FakeEngine(), tmp_path / "none.mp4", tmp_path / "o.mp4")
    with pytest.raises(MediaError, match="is the portrait itself"):
        check_paths(driver, tmp_path / "old.mp4", None, force=True, source=tmp_path / "old.mp4")
    assert (tmp_path / "old.mp4").read_bytes() == b"precious"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d.mp4", "old.mp4"]


def test_damaged_driver_gives_what_could_be_read(tmp_path):
    noise = np.random.default_rng(0).integers(20, 255, (50, 48, 64, 3), dtype=np.uint8)
    whole = make_clip(tmp_path / "w.mkv", frames=list(noise), pts=list(range(50)), options={"g": "10"})
    data = bytearray(whole.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 3000] = bytes(3000)
    (tmp_path / "d.mkv").write_bytes(data)
    result = animate(FakeEngine(), tmp_path / "d.mkv", tmp_path / "o.mp4")
    assert result.damaged
    assert any("is damaged" in note for note in result.notes)
    assert result.frames == len(true_times(tmp_path / "o.mp4")) > 20


def test_track(tmp_path):
    time_base, pts = TIMINGS["variable"]
    driver = make_clip(tmp_path / "d.mp4", time_base=time_base, pts=pts)
    result = track(driver, tmp_path / "t.safetensors", trim=(0.2, None))
    clip = MotionClip.load(tmp_path / "t.safetensors")
    assert result.frames == len(clip) == sum(ticks >= 200 for ticks in pts)
    assert clip.time[0] == 0
    assert clip.metadata["box"] == "1 2 3"
    write_image(tmp_path / "p.png", ramp(20, 20))
    assert track(tmp_path / "p.png", tmp_path / "p.safetensors").frames == 1
    with pytest.raises(MediaError, match="exists already"):
        track(driver, tmp_path / "t.safetensors")
    with pytest.raises(MediaError, match="template already"):
        track(tmp_path / "t.safetensors", tmp_path / "u.safetensors")
    with pytest.raises(MediaError, match=r"written as \.safetensors"):
        track(driver, tmp_path / "t.pkl")


def test_kinds_and_default_names(tmp_path):
    driver = make_clip(tmp_path / "my driver.mp4")
    write_image(tmp_path / "p.png", ramp(8, 8))
    kinds = {"my driver.mp4": "video", "p.png": "picture", "T.SafeTensors": "template"}
    assert {name: driver_kind(tmp_path / name) for name in kinds} == kinds
    assert str(default_out("/x/face.jpg", driver)) == "face--my driver.mp4"
    assert str(default_out("face.jpg", tmp_path / "p.png")) == "face--p.png"
    assert len(str(default_out("f" * 200 + ".jpg", "d" * 200 + ".safetensors"))) <= 255


def test_real_clip_is_tracked(tmp_path, shared, monkeypatch):
    """The whole way with MediaPipe and the real engine, on half a second of a real clip."""
    monkeypatch.undo()
    pytest.importorskip("mediapipe", reason="MediaPipe is not installed")
    portrait, clip = shared / "data" / "portraits" / "mona_lisa.jpg", shared / "data" / "videos" / "d3.mp4"
    if not (portrait.exists() and clip.exists()):
        pytest.skip("the clips are not there")
    from fastreenact.engine import Engine

    with Engine(read_image(portrait)[100:600, 100:600], model="landmark-warp", size=128) as engine:
        result = animate(engine, clip, tmp_path / "o.mp4", trim=(2.0, 2.5))
    assert result.frames == len(true_times(tmp_path / "o.mp4")) == 15
    frames = [image for image, _ in VideoReader(tmp_path / "o.mp4")]
    assert frames[0].shape == (128, 128, 3)
    assert frames[0].std() > 20
