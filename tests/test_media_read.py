"""Videos in: upright frames at their true times, sound beside them, damage said."""

import os
import time
from fractions import Fraction
from itertools import pairwise, product
from math import inf

import numpy as np
import pytest

av = pytest.importorskip("av", reason="PyAV is not installed")

from clips import TIMINGS, loudest_time, make_clip, ramp, sound_packets, tone, true_times  # noqa: E402

from fastreenact.errors import MediaError  # noqa: E402
from fastreenact.media import VideoReader, VideoWriter, read_image  # noqa: E402


@pytest.mark.parametrize("timing", TIMINGS)
@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_times_kept(tmp_path, timing, suffix):
    time_base, pts = TIMINGS[timing]
    source = make_clip(tmp_path / "in.mp4", time_base=time_base, pts=pts)
    reader = VideoReader(source)
    read = []
    with VideoWriter(tmp_path / f"out{suffix}", time_base=reader.time_base, fps=reader.fps) as writer:
        for image, ticks in reader.frames():
            read.append(ticks * reader.time_base)
            writer.write(image, ticks)
    assert read == [ticks * time_base for ticks in pts] == true_times(source)
    got = true_times(tmp_path / f"out{suffix}")
    tolerance = Fraction(1, 2000) if suffix == ".mkv" else 0  # Matroska counts milliseconds
    assert len(got) == len(pts) == writer.frames
    assert max(abs(a - b) for a, b in zip(got, read, strict=True)) <= tolerance
    assert [t for _, t in reader] == pytest.approx([float(t) for t in read], abs=1e-9)
    assert reader.n_frames == len(pts)
    assert reader.damage is None


@pytest.mark.row("F6", "videos turned by 0, 90, 180 and 270 degrees, mirrored or not, stand upright, pixel for pixel")
def test_rotation_upright(tmp_path, row):
    image, upright = ramp(32, 48), 0
    for rotation, hflip in product((0, 90, 180, 270), (False, True)):
        clip = make_clip(
            tmp_path / "r.mp4",
            frames=[image] * 3,
            pts=[0, 1, 2],
            codec="libx264rgb",
            pixels="rgb24",
            rotation=rotation,
            hflip=hflip,
            options={"crf": "0"},
        )
        want = np.rot90(image, rotation // 90)
        want = want[:, ::-1] if hflip else want
        reader = VideoReader(clip)
        assert (reader.height, reader.width) == want.shape[:2]
        upright += all(np.array_equal(got, want) for got, _ in reader)
    row.measured(f"{upright} of 8")
    assert upright == 8


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_rotation_of_camera_jpegs(tmp_path, orientation):
    """Frames that carry EXIF, which PyAV 18 has no name for, stand upright as the picture itself does."""
    image_module = pytest.importorskip("PIL.Image")
    exif = image_module.Exif()
    exif[0x0112] = orientation
    image_module.fromarray(ramp(32, 48)).save(tmp_path / "camera.jpg", exif=exif, quality=95)
    got = next(VideoReader(tmp_path / "camera.jpg").frames())[0]
    want = read_image(tmp_path / "camera.jpg")
    assert got.shape == want.shape
    assert np.abs(got.astype(int) - want).mean() < 3


def test_square_pixels(tmp_path):
    path = tmp_path / "wide.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(3, 2)
        for i in range(3):
            frame = av.VideoFrame.from_ndarray(ramp(64, 64))
            frame.pts = i
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert next(iter(VideoReader(path)))[0].shape == (64, 96, 3)


def test_broadcast_times_begin_at_zero(tmp_path):
    pts = [3600 * i for i in range(30)]
    clip = make_clip(tmp_path / "b.ts", time_base=Fraction(1, 90000), pts=pts, sound=tone(1.2))
    assert true_times(clip)[0] > 0  # what a transport stream does
    reader = VideoReader(clip)
    times = [ticks * reader.time_base for _, ticks in reader.frames()]
    assert times[0] < Fraction(1, 20)
    assert {b - a for a, b in pairwise(times)} == {Fraction(1, 25)}
    with VideoWriter(tmp_path / "o.mp4", time_base=reader.time_base, fps=reader.fps, audio=reader.audio()) as writer:
        for image, ticks in reader.frames():
            writer.write(image, ticks)
    assert true_times(tmp_path / "o.mp4") == times
    assert any("broadcast stream" in note for note in writer.notes)
    assert len(sound_packets(tmp_path / "o.mp4")) >= 50


@pytest.mark.parametrize(("start", "end"), [(0.5, 1.1), (None, 0.7), (0.9, None), (0, 5), (0.404, 0.76), (0.5, inf)])
def test_trim(tmp_path, start, end):
    pts = [512 * i for i in range(40)]
    clip = make_clip(tmp_path / "t.mp4", time_base=Fraction(1, 12800), pts=pts, options={"g": "12"})
    want = [i for i in range(40) if i / 25 >= (start or 0) - 1e-9 and (end is None or i / 25 < end - 1e-9)]
    whole = [image for image, _ in VideoReader(clip)]
    reader = VideoReader(clip, start=start, end=end)
    got = list(reader)
    assert [t for _, t in got] == pytest.approx([(i - want[0]) / 25 for i in want], abs=1e-9)
    for (image, _), i in zip(got, want, strict=True):
        np.testing.assert_array_equal(image, whole[i])
    assert abs(reader.n_frames - len(want)) <= 1


@pytest.mark.parametrize("sound_codec", ["aac", "pcm_s16le", "libmp3lame"])
@pytest.mark.parametrize("start", [None, 1.0])
def test_sound_stays_with_picture(tmp_path, sound_codec, start):
    """A flash and a click at 1.6 s stay together, trimmed or not, copied or encoded anew."""
    frames = [np.full((48, 64, 3), 250 if i == 40 else 20, np.uint8) for i in range(60)]
    clip = make_clip(
        tmp_path / "in.mkv", frames=frames, pts=list(range(60)), sound=tone(2.4, click_s=1.6), sound_codec=sound_codec
    )
    before = loudest_time(clip) - 1.6
    reader = VideoReader(clip, start=start)
    out = tmp_path / "out.mp4"
    with VideoWriter(out, time_base=reader.time_base, fps=reader.fps, audio=reader.audio()) as writer:
        for image, ticks in reader.frames():
            writer.write(image, ticks)
    flash = max(VideoReader(out), key=lambda pair: int(pair[0].sum(dtype=np.int64)))[1]
    assert flash == pytest.approx(1.6 - (start or 0), abs=0.002)
    assert loudest_time(out) - flash == pytest.approx(before, abs=0.006)
    assert any("encoded to AAC" in note for note in writer.notes) == (sound_codec == "pcm_s16le")


def test_no_sound(tmp_path):
    reader = VideoReader(make_clip(tmp_path / "v.mp4"))
    assert not reader.has_audio
    assert reader.audio() is None


def test_reader_errors(tmp_path):
    (tmp_path / "junk.mp4").write_bytes(os.urandom(5000))
    (tmp_path / "empty.mp4").write_bytes(b"")
    with av.open(str(tmp_path / "song.m4a"), "w") as container:
        stream = container.add_stream("aac", rate=44100, layout="mono")
        frame = av.AudioFrame.from_ndarray(tone(0.1)[:, :1024].copy(), "fltp", "mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    for name, words in (
        ("none.mp4", "no such file"),
        ("", "is a folder"),
        ("junk.mp4", "cannot be read as a video"),
        ("empty.mp4", "cannot be read as a video"),
        ("song.m4a", "no video stream \\(only sound\\)"),
    ):
        with pytest.raises(MediaError, match=words) as caught:
            VideoReader(tmp_path / name)
        assert "\n" not in str(caught.value)
    clip = make_clip(tmp_path / "v.mp4")
    for start, words in ((9, "9 s"), (1e300, r"1e\+300 s")):
        with pytest.raises(MediaError, match=f"no frame between {words} and its end"):
            VideoReader(clip, start=start)
    for start, end in ((-1, None), (2, 1), (float("nan"), None), (0, 0), (float("inf"), None)):
        with pytest.raises(ValueError, match="0 <= start < end"):
            VideoReader(clip, start=start, end=end)


def test_playlist_reaches_no_network(tmp_path):
    (tmp_path / "list.m3u8").write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n")
    with pytest.raises(MediaError):
        VideoReader(tmp_path / "list.m3u8")


def test_truncated_video_gives_what_came_before(tmp_path):
    clip = tmp_path / "v.mp4"
    with VideoWriter(clip, time_base=Fraction(1, 25)) as writer:
        for i in range(50):
            writer.write(ramp(48, 64, i), i)
    data = clip.read_bytes()
    (tmp_path / "late.mp4").write_bytes(data[: len(data) // 2])
    start = time.perf_counter()
    with pytest.raises(MediaError):  # the index is at the end of a plain mp4
        VideoReader(tmp_path / "late.mp4")
    assert time.perf_counter() - start < 1
    with av.open(str(tmp_path / "f.mp4"), "w", options={"movflags": "frag_keyframe+delay_moov"}) as container:
        stream = container.add_stream("libx264", rate=25, options={"g": "10", "bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        rng = np.random.default_rng(0)
        for i in range(50):
            frame = av.VideoFrame.from_ndarray(rng.integers(0, 255, (48, 64, 3), dtype=np.uint8))
            frame.pts = i
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    data = (tmp_path / "f.mp4").read_bytes()
    (tmp_path / "f.mp4").write_bytes(data[: len(data) // 2])
    reader = VideoReader(tmp_path / "f.mp4")
    assert 20 <= sum(1 for _ in reader) <= 25
    assert reader.damage is not None
