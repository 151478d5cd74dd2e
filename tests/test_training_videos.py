"""Folders of videos as training data: shots, keypoints, cache, and what happens to broken files."""

import functools
import os
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("av", reason="PyAV is not installed")

from fastreenact.errors import FastreenactError, MediaError
from fastreenact.face.crop import crop_box
from fastreenact.face.morphable.model import EXPRESSION_NAMES
from fastreenact.face.source import fit_source
from fastreenact.face.track.tracker import Landmarks
from fastreenact.media import VideoWriter
from fastreenact.models.face2face_rho.head_pose import head_pose_input
from fastreenact.synth.heads.render import make_person, random_expression, random_pose, render
from fastreenact.training.data import video_shots
from fastreenact.training.data.batches import batch_of
from fastreenact.training.data.face_mask import face_mask
from fastreenact.training.data.video_cache import read_frames
from fastreenact.training.data.video_shots import read_shots
from fastreenact.training.data.videos import CACHE, VideoFolder

RNG = np.random.default_rng
SIDE = 96  # px of the clips


class KnownHeads:
    """A tracker that has seen all the frames before and knows where their keypoints are."""

    def __init__(self):
        self.glances, self.points, self.calls, self.resets = [], [], 0, 0

    def learn(self, frame, keypoints):
        self.glances.append(glance(frame))
        self.points.append(None if keypoints is None else (keypoints + 1) * (SIDE / 2))

    def __call__(self, frame):
        self.calls += 1
        nearest = int(np.abs(np.stack(self.glances) - glance(frame)).sum((1, 2, 3)).argmin())
        points = self.points[nearest]
        return None if points is None else Landmarks(points.astype(np.float32), 1.0)

    def reset(self):
        self.resets += 1


def glance(frame):
    return frame.reshape(12, 8, 12, 8, 3).mean((1, 3))  # blind to what the encoder changes


@functools.cache
def head(person, i, x=0.0, shot=3):
    """A person who nods and talks, `x` aside."""
    expression = np.zeros(51, np.float32)
    expression[EXPRESSION_NAMES.index("jawOpen")] = 0.25 + 0.25 * np.sin(i)
    pose = np.array([0.1 * np.sin(0.7 * i), 0.25 * np.sin(0.5 * i), 0, x, 0.1, 0.45], np.float32)
    return render(make_person(person), pose, expression, SIDE, shot)


def write(path, frames, fps=10):
    with VideoWriter(path, time_base=Fraction(1, fps), fps=fps, quality=8, force=True) as writer:
        for i, frame in enumerate(frames):
            writer.write(frame, i)
    return path


def clip(path, tracker, person=1, frames=8, **options):
    """A clip of one head that the tracker knows; returns what is true of its frames."""
    seen = [head(person, i, **options) for i in range(frames)]
    for one in seen:
        tracker.learn(one.image, one.keypoints)
    write(path, [one.image for one in seen])
    return seen


@pytest.fixture
def tracker():
    return KnownHeads()


@pytest.fixture
def folder(tmp_path, tracker):
    """Two people, a clip each."""
    (tmp_path / "below").mkdir()
    clip(tmp_path / "a.mp4", tracker, 1)
    clip(tmp_path / "below" / "b.mkv", tracker, 2, frames=6)
    return tmp_path


def test_a_draw_is_frames_of_one_person(folder, tracker):
    data = VideoFolder(folder, 64, tracker=tracker)
    assert len(data) == 120
    assert data.broken == {}
    means, counts = set(), set()
    for seed in range(30):
        draw = data.draw(RNG(seed))
        frames = [draw.source, *draw.drivers]
        counts.add(len(draw.drivers))
        assert len({frame.image.tobytes() for frame in frames}) == len(frames)
        colours = np.array([frame.image[2:8, 2:-2].mean((0, 1)) for frame in frames])  # the background of the shot
        assert np.ptp(colours, axis=0).max() < 12
        means.add(round(float(colours.mean()) / 8))
        for frame in frames:
            assert frame.image.shape == (64, 64, 3)
            assert frame.image.dtype == np.uint8
            assert frame.keypoints.shape == (72, 2)
            assert frame.keypoints.dtype == frame.pose.dtype == frame.head_pose.dtype == np.float32
            assert np.array_equal(frame.head_pose, head_pose_input(frame.pose, frame.keypoints, data.metadata))
            assert frame.mask.shape == (64, 64)
            assert 0.1 < frame.mask.mean() < 0.4
    assert len(means) > 1  # both people
    assert counts == {1, 2, 3, 4}


def test_keypoints_are_those_that_the_engine_would_have(tmp_path, tracker):
    # A face that the model cannot draw: what it is off by is the same in all frames, as the engine takes it to be.
    odd = RNG(0).normal(0, 0.015, (72, 2)).astype(np.float32)
    seen = [head(1, i) for i in range(8)]
    for one in seen:
        tracker.learn(one.image, one.keypoints + odd)
    write(tmp_path / "a.mp4", [one.image for one in seen])
    px = np.stack([(one.keypoints + odd + 1) * (SIDE / 2) for one in seen])
    true = crop_box(px[0]).normalise(px)
    scale = fit_source(px[0]).pose[5]
    data = VideoFolder(tmp_path, 64, tracker=tracker)
    (stored, *_) = read_frames(data._videos[0].entry, [0])
    assert np.linalg.norm(stored.tracked - stored.keypoints, axis=1).mean() > 0.01
    for seed in range(5):
        draw = data.draw(RNG(seed))
        assert np.abs(true - draw.source.keypoints).max((1, 2)).min() < 1e-5  # as tracked, in the engine's box
        for driver in draw.drivers:
            far = np.linalg.norm(true - driver.keypoints, axis=2).mean(1).min()
            assert 1e-4 < far < 0.006  # 0.4 px at 128; not as tracked
            assert abs(driver.pose[5] / scale - 1) < 0.05


def test_pictures_are_cut_as_the_engine_cuts(tmp_path, tracker):
    seen = clip(tmp_path / "a.mp4", tracker)
    box = crop_box((seen[0].keypoints + 1) * (SIDE / 2))
    data = VideoFolder(tmp_path, 64, tracker=tracker)
    whole = [Image.fromarray(np.pad(one.image, ((40, 40), (40, 40), (0, 0)), "edge")) for one in seen]
    corners = np.array([box.cx, box.cy, box.cx, box.cy]) + 40 + np.array([-1, -1, 1, 1]) * box.size / 2
    wanted = np.stack([np.asarray(one.resize((64, 64), box=tuple(corners)), np.float64) for one in whole])
    for seed in range(5):
        draw = data.draw(RNG(seed))
        for frame in (draw.source, *draw.drivers):
            assert np.abs(wanted - frame.image).mean((1, 2, 3)).min() < 4  # H.264, JPEG and the filter


def test_same_random_state_same_draw(folder, tracker):
    one = VideoFolder(folder, 64, tracker=tracker)
    other = VideoFolder(folder, 64, tracker=tracker)
    wanted = [one.draw(RNG(seed)) for seed in range(4)]
    for seed in (3, 1, 0, 2):
        again = other.draw(RNG(seed))
        assert np.array_equal(again.source.image, wanted[seed].source.image)
        for a, b in zip(again.drivers, wanted[seed].drivers, strict=True):
            assert np.array_equal(a.keypoints, b.keypoints)


def test_batches_are_made_of_it(folder, tracker):
    batch = batch_of(VideoFolder(folder, 64, tracker=tracker), 0, 0, 4, 128, base=False)
    assert batch.source.shape == batch.driver.shape == (4, 3, 64, 64)
    assert batch.mask.any(dim=(1, 2, 3)).all()


def test_second_start_tracks_nothing(folder, tracker):
    told = []
    VideoFolder(folder, 64, tracker=tracker, progress=lambda *what: told.append(what))
    assert told[0][:2] == ("video 1/2", 1)
    assert ("video 2/2", 6, 6) in told
    calls = tracker.calls
    told.clear()
    data = VideoFolder(folder, 64, tracker=tracker, progress=lambda *what: told.append(what))
    assert tracker.calls == calls
    assert told == []
    assert len(data) == 120
    assert sorted(path.suffix for path in (folder / CACHE).iterdir()) == [".safetensors", ".safetensors"]


def test_an_interrupted_start_goes_on(folder, tracker):
    class Impatient(KnownHeads):
        def __call__(self, frame):
            if tracker.calls == 10:  # in the second video
                raise KeyboardInterrupt
            return tracker(frame)

    with pytest.raises(KeyboardInterrupt):
        VideoFolder(folder, 64, tracker=Impatient())
    assert len(list((folder / CACHE).iterdir())) == 1
    VideoFolder(folder, 64, tracker=tracker)
    assert tracker.calls == 10 + 6


def test_draws_of_several_threads_are_those_of_one(folder, tracker):
    data = VideoFolder(folder, 64, tracker=tracker)
    wanted = [data.draw(RNG(seed)).source.image for seed in range(40)]
    with ThreadPoolExecutor(4) as executor:
        found = [draw.source.image for draw in executor.map(lambda seed: data.draw(RNG(seed)), range(40))]
    assert np.array_equal(wanted, found)


def test_names_of_any_kind(tmp_path, tracker):
    for name in (b"\xff.mp4", "ä" * 125 + ".mp4", "a#b.mp4", "a: b\n.mp4"):
        clip(tmp_path / "a.mp4", tracker)
        (tmp_path / "a.mp4").rename(tmp_path / os.fsdecode(name))
    for _ in range(2):
        data = VideoFolder(tmp_path, 64, tracker=tracker)
        assert len(data) + 60 * len(data.broken) == 240
        assert all(name == "\\xff.mp4" for name in data.broken)  # FFmpeg may refuse it
        "".join(data.broken).encode()


def test_changed_videos_and_other_sizes_are_done_anew(folder, tracker):
    VideoFolder(folder, 64, tracker=tracker)
    calls = tracker.calls
    clip(folder / "a.mp4", tracker, 1, frames=12)
    data = VideoFolder(folder, 64, tracker=tracker)
    assert tracker.calls == calls + 12
    assert sorted(int(video.ends[-1]) for video in data._videos) == [6, 12]
    VideoFolder(folder, 80, tracker=tracker)
    assert tracker.calls == calls + 12 + 18
    assert len(list((folder / CACHE).iterdir())) == 4  # two sizes of two videos, nothing left over


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: b"",
        lambda data: b"\x80\x04" + data[2:],
        lambda data: data.replace(b'"shots":"[8]"', b'"shots":"[9]"'),
        lambda data: data.replace(b"[8]", b"[8}"),
        lambda data: data.replace(b"video-1", b"video-0"),
    ],
)
def test_damaged_entries_are_made_anew(tmp_path, tracker, damage):
    clip(tmp_path / "a.mp4", tracker)
    wanted = VideoFolder(tmp_path, 64, tracker=tracker).draw(RNG(0))
    calls = tracker.calls
    (entry,) = (tmp_path / CACHE).iterdir()
    good = entry.read_bytes()
    assert damage(good) != good
    entry.write_bytes(damage(good))
    data = VideoFolder(tmp_path, 64, tracker=tracker)
    assert data.broken == {}
    assert np.array_equal(data.draw(RNG(0)).source.image, wanted.source.image)
    assert tracker.calls == 2 * calls
    VideoFolder(tmp_path, 64, tracker=tracker)
    assert tracker.calls == 2 * calls


def test_every_changed_bit_is_noticed(tmp_path, tracker):
    clip(tmp_path / "a.mp4", tracker, frames=5)
    VideoFolder(tmp_path, 64, tracker=tracker)
    (entry,) = (tmp_path / CACHE).iterdir()
    good = entry.read_bytes()
    start = 8 + int.from_bytes(good[:8], "little")  # of the tensors
    assert len(read_frames(entry, list(range(5)))) == 5
    for place in [*range(start, start + 5 * 12, 7), *RNG(0).integers(start, len(good), 60).tolist()]:
        raw = bytearray(good)
        raw[place] ^= 1 << place % 8
        entry.write_bytes(raw)
        with pytest.raises(ValueError, match=r"frame . is"):
            read_frames(entry, list(range(5)))


def test_an_entry_found_damaged_in_a_draw_is_left_out(folder, tracker):
    data = VideoFolder(folder, 64, tracker=tracker)
    entry = next((folder / CACHE).glob("a-*"))
    entry.write_bytes(entry.read_bytes()[:-3000] + bytes(3000))
    for seed in range(20):
        data.draw(RNG(seed))
    assert list(data.broken) == ["a.mp4"]
    assert "damaged" in data.broken["a.mp4"]
    assert not entry.exists()
    next((folder / CACHE).glob("b-*")).unlink()
    with pytest.raises(FastreenactError, match="100 draws in a row met damaged files"):
        data.draw(RNG(0))
    assert VideoFolder(folder, 64, tracker=tracker).broken == {}


def test_cuts_divide_a_video(tmp_path, tracker):
    seen = [head(1, i, shot=3) for i in range(7)] + [head(2, i, shot=8) for i in range(6)]
    assert np.abs(seen[6].image.astype(int) - seen[7].image).mean() > 25
    for one in seen:
        tracker.learn(one.image, one.keypoints)
    shots, left_out = read_shots(write(tmp_path / "a.mp4", [one.image for one in seen]), 64, tracker)
    assert [len(shot.jpegs) for shot in shots] == [7, 6]
    assert left_out == ""
    assert tracker.resets == 2  # at the start and at the cut
    data = VideoFolder(tmp_path, 64, tracker=tracker)
    for seed in range(20):
        draw = data.draw(RNG(seed))
        colours = np.array([frame.image[2:8, 2:-2].mean((0, 1)) for frame in (draw.source, *draw.drivers)])
        assert np.ptp(colours, axis=0).max() < 12


@pytest.mark.parametrize(
    ("change", "shots"),
    [
        (lambda points, i: points, [12]),
        (lambda points, i: points + np.float32(0.4 * (i > 5)), [6, 6]),  # 0.45 of the face size at once
        (lambda points, i: points + np.float32(0.03 * max(i - 3, 0)), [12]),  # walks, but stays in the middle
        (lambda points, i: points + np.float32(0.06 * i), [5, 5]),  # walks out of it: 0.04 of the box's side a frame
        (lambda points, i: points * np.float32(0.5 + 0.03 * i), [7, 5]),  # comes nearer
        (lambda points, i: None if i == 6 else points, [6, 5]),
        (lambda points, i: None if i in (4, 9) else points, []),
    ],
)
def test_a_face_that_jumps_leaves_or_is_lost_divides_a_video(tmp_path, tracker, change, shots):
    seen = [head(1, i) for i in range(12)]
    for i, one in enumerate(seen):
        tracker.learn(one.image, change(seen[0].keypoints, i))
    found, left_out = read_shots(write(tmp_path / "a.mp4", [one.image for one in seen]), 64, tracker)
    assert [len(shot.jpegs) for shot in found] == shots
    assert ("5 frames without a cut" in left_out) == (not shots)
    assert all(np.abs(shot.tracked[0].mean(0)).max() < 0.25 for shot in found)  # each in a box of its own


def test_frames_that_the_model_does_not_fit_are_left_out(tmp_path, tracker):
    seen = [head(1, i) for i in range(12)]
    for i, one in enumerate(seen):
        crooked = RNG(0).normal(0, 0.1 * (i == 4), (72, 2)).astype(np.float32)
        tracker.learn(one.image, one.keypoints + crooked)
    (shot,), _ = read_shots(write(tmp_path / "a.mp4", [one.image for one in seen]), 64, tracker)
    assert len(shot.jpegs) == len(shot.pose) == len(shot.keypoints) == len(shot.tracked) == 11


def test_ten_frames_a_second_and_fewer_of_long_shots(tmp_path, tracker, monkeypatch):
    seen = [head(1, i) for i in range(36)]
    for one in seen:
        tracker.learn(one.image, one.keypoints)
    path = write(tmp_path / "a.mp4", [one.image for one in seen], fps=30)
    (shot,), _ = read_shots(path, 64, tracker)
    assert len(shot.jpegs) == tracker.calls == 12
    monkeypatch.setattr(video_shots, "_SHOT_FRAMES", 10)
    (thinned,), _ = read_shots(path, 64, tracker)
    assert tracker.calls == 24  # all are looked at still
    assert thinned.jpegs == [shot.jpegs[i] for i in (0, 2, 4, 6, 8, 10)]


@pytest.mark.parametrize("cut", ["picture", "jump"])
def test_the_rest_of_a_long_video_is_left_out(tmp_path, tracker, monkeypatch, cut):
    seen = [head(1 + i // 6, i, shot=3 + 5 * (i // 6)) for i in range(18)]
    for i, one in enumerate(seen):
        tracker.learn(one.image, one.keypoints + np.float32(0.4 * (i // 6 % 2) * (cut == "jump")))
    path = write(tmp_path / "a.mp4", [one.image for one in seen])
    if cut == "jump":
        monkeypatch.setattr(video_shots, "_CUT_LEVELS", 999.0)
    assert len(read_shots(path, 64, tracker)[0]) == 3
    monkeypatch.setattr(video_shots, "_VIDEO_FRAMES", 12)
    assert len(read_shots(path, 64, tracker)[0]) == 2


def test_broken_videos_are_skipped_and_listed(folder, tracker):
    good = (folder / "a.mp4").read_bytes()
    (folder / "cut short.mp4").write_bytes(good[: len(good) // 2])
    (folder / "empty.MOV").write_bytes(b"")
    (folder / "text.avi").write_text("no video")
    (folder / "._a.mp4").write_bytes(b"a note of some system")
    (folder / "notes.txt").write_text("ignored")
    clip(folder / "short.mp4", tracker, 1, frames=4)
    landscape = [np.full((SIDE, SIDE, 3), 10 * i, np.uint8) for i in range(8)]
    for frame in landscape:
        tracker.learn(frame, None)
    write(folder / "landscape.mp4", landscape)
    for _ in range(2):  # tracked, and out of the cache
        calls = tracker.calls
        data = VideoFolder(folder, 64, tracker=tracker)
        assert len(data) == 120
        assert set(data.broken) == {"cut short.mp4", "empty.MOV", "text.avi", "short.mp4", "landscape.mp4"}
        assert data.broken["landscape.mp4"] == "no face found"
        assert "5 frames" in data.broken["short.mp4"]
        assert "cannot be read as a video" in data.broken["text.avi"]
        assert not any("\n" in reason for reason in data.broken.values())
    assert tracker.calls == calls


def test_damage_ends_a_video(tmp_path, tracker):
    seen = [head(1, i) for i in range(30)]
    for one in seen:
        tracker.learn(one.image, one.keypoints)
    path = write(tmp_path / "a.mp4", [one.image for one in seen])
    raw = bytearray(path.read_bytes())
    start, length = len(raw) // 2, len(raw) // 5
    raw[start : start + length] = bytes(length)
    path.write_bytes(raw)
    data = VideoFolder(tmp_path, 64, tracker=tracker)
    assert "only what comes before is used" in data.broken["a.mp4"]
    assert 5 <= data._videos[0].ends[-1] < 20
    data.draw(RNG(0))


def test_small_faces_are_not_enlarged(tmp_path, tracker):
    clip(tmp_path / "a.mp4", tracker)
    with pytest.raises(MediaError, match=r"1 skipped: a.mp4: its faces are too small.*need 128"):
        VideoFolder(tmp_path, 256, tracker=tracker)


def test_errors_say_what_to_do(tmp_path, tracker):
    with pytest.raises(MediaError, match="is not a folder: name one"):
        VideoFolder(tmp_path / "gone", 64, tracker=tracker)
    with pytest.raises(MediaError, match=r"holds no video .*name another folder"):
        VideoFolder(tmp_path, 64, tracker=tracker)
    (tmp_path / "a.mp4").write_bytes(b"")
    with pytest.raises(MediaError, match=r"no video in it can be used .1 skipped: a.mp4.*give clips of a second"):
        VideoFolder(tmp_path, 64, tracker=tracker)
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(MediaError, match=r"taken cannot be made .*another folder for the cache"):
        VideoFolder(tmp_path, 64, cache=tmp_path / "taken", tracker=tracker)
    with pytest.raises(ValueError, match="size: got 63, need 64 to 2048"):
        VideoFolder(tmp_path, 63, tracker=tracker)


def test_a_cache_that_cannot_be_written_ends_it(folder, tracker, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", full)
        with pytest.raises(MediaError, match=r"cannot be written .No space left on device.: make room"):
            VideoFolder(folder, 64, cache=folder / "of its own", tracker=tracker)
    assert list((folder / "of its own").iterdir()) == []
    assert not (folder / CACHE).exists()


def test_mask_is_the_face_of_generated_heads():
    overlaps = []
    for seed in range(6):
        rng = RNG(seed)
        seen = render(make_person(seed), random_pose(rng), random_expression(rng), SIDE, seed)
        found = face_mask(seen.keypoints, seen.pose, SIDE)
        assert (found & seen.mask).sum() > 0.9 * seen.mask.sum()
        overlaps.append((found & seen.mask).sum() / (found | seen.mask).sum())
    assert max(overlaps) > 0.9  # of a face that no hair covers


def test_mask_takes_in_whole_pixels():
    corners = np.array([(-0.5, -0.25), (0.5, -0.25), (0.5, 0.75), (-0.5, 0.75)] * 18, np.float32)
    low = np.array([0, 0, 0, 0, 0.75, 1e-3], np.float32)  # a forehead that is a dot on the lower edge
    mask = face_mask(corners, low, 16)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    assert (rows[0], columns[0]) in ((5, 3), (6, 4))
    assert (rows[-1], columns[-1]) in ((13, 11), (14, 12))
    assert mask[6:14, 4:12].all()


def test_real_tracker(shared, tmp_path):
    pytest.importorskip("mediapipe")
    (tmp_path / "clip.mp4").symlink_to(shared / "data" / "videos" / "d18.mp4")
    data = VideoFolder(tmp_path, 128)
    assert data.broken == {}
    frames = int(data._videos[0].ends[-1])
    assert 60 < frames < 80  # of 216 at 30 a second
    source = data.draw(RNG(0)).source
    portrait = fit_source(source.image)
    assert np.linalg.norm(portrait.keypoints_px / 64 - 1 - source.keypoints, axis=1).mean() < 0.02  # 1.3 px
    stored = read_frames(data._videos[0].entry, list(range(frames)))
    off = [np.linalg.norm(frame.tracked - frame.keypoints, axis=1).mean() for frame in stored]
    assert np.mean(off) < 0.008  # 0.5 px
