"""Videos out: the same times, colours and sound, and what is left behind when something fails."""

import os
from fractions import Fraction

import numpy as np
import pytest

av = pytest.importorskip("av", reason="PyAV is not installed")

from clips import TIMINGS, make_clip, ramp, sound_packets, tone, true_times  # noqa: E402

from fastreenact.errors import MediaError  # noqa: E402
from fastreenact.media import VideoReader, VideoWriter  # noqa: E402
from fastreenact.media.write import crf_of  # noqa: E402


def test_no_length_loses_a_frame(tmp_path):
    """However the file is cut into fragments, every frame comes back, and every packet of sound."""
    sound = make_clip(tmp_path / "s.mp4", pts=list(range(40)), frames=[ramp(16, 16)] * 40, sound=tone(1.6))
    for count in range(1, 36):
        audio, pts = VideoReader(sound).audio(), [40 * i + i % 3 for i in range(count)]
        with VideoWriter(tmp_path / "o.mp4", time_base=Fraction(1, 1000), audio=audio, force=True) as writer:
            for i, ticks in enumerate(pts):
                writer.write(ramp(16, 16, 9 * i), ticks)
        assert [t * 1000 for t in true_times(tmp_path / "o.mp4")] == pts
        assert sound_packets(tmp_path / "o.mp4") == sound_packets(sound)


def test_sound_copied_byte_for_byte(tmp_path):
    time_base, pts = TIMINGS["29.97"]
    clip = make_clip(tmp_path / "in.mp4", time_base=time_base, pts=pts, sound=tone(1.5))
    reader = VideoReader(clip)
    assert reader.has_audio
    for suffix in (".mp4", ".mov"):
        with VideoWriter(tmp_path / f"out{suffix}", time_base=reader.time_base, audio=reader.audio()) as writer:
            for image, ticks in reader.frames():
                writer.write(image, ticks)
        assert sound_packets(tmp_path / f"out{suffix}") == sound_packets(clip)
        assert true_times(tmp_path / f"out{suffix}") == true_times(clip)
        assert writer.notes == []


def test_colours_kept(tmp_path):
    """Flat patches survive writing and reading; the file says which matrix and range it uses."""
    values = (16, 60, 128, 200, 240)
    patches = [(r, g, b) for r in values for g in values for b in values]
    image = np.zeros((5 * 16, 25 * 16, 3), np.uint8)
    for k, colour in enumerate(patches):
        y, x = divmod(k, 25)
        image[y * 16 : (y + 1) * 16, x * 16 : (x + 1) * 16] = colour
    with VideoWriter(tmp_path / "c.mp4", time_base=Fraction(1, 25), quality=4) as writer:
        for i in range(2):
            writer.write(image, i)
    got = next(iter(VideoReader(tmp_path / "c.mp4")))[0]
    errors = [
        np.abs(got[y * 16 + 4 : y * 16 + 12, x * 16 + 4 : x * 16 + 12].astype(int) - patches[y * 25 + x]).max()
        for y in range(5)
        for x in range(25)
    ]
    assert max(errors) <= 4
    assert np.mean(errors) <= 2
    with av.open(str(tmp_path / "c.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert (context.colorspace, context.color_primaries, context.color_trc, context.color_range) == (1, 1, 1, 1)
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")


@pytest.mark.parametrize("matrix", ["ITU601", "ITU709"])
@pytest.mark.parametrize("full", [False, True])
def test_colours_read_by_their_tags(tmp_path, matrix, full):
    image = np.zeros((48, 96, 3), np.uint8)
    image[:, :32], image[:, 32:64], image[:, 64:] = (200, 40, 40), (40, 200, 40), (40, 40, 200)
    with av.open(str(tmp_path / "c.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "4"})
        stream.width, stream.height, stream.pix_fmt = 96, 48, "yuv420p"
        context = stream.codec_context
        context.colorspace = {"ITU601": 6, "ITU709": 1}[matrix]
        context.color_range = 2 if full else 1
        for i in range(2):
            frame = av.VideoFrame.from_ndarray(image).reformat(
                format="yuv420p",
                src_colorspace=matrix,
                dst_colorspace=matrix,
                src_color_range="JPEG",
                dst_color_range="JPEG" if full else "MPEG",
            )
            frame.pts = i
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    got = next(iter(VideoReader(tmp_path / "c.mp4")))[0]
    for x in (16, 48, 80):
        assert np.abs(got[24, x].astype(int) - image[24, x]).max() <= 4


def test_part_file_until_the_end(tmp_path):
    out = tmp_path / "o.mp4"
    out.write_bytes(b"precious")
    with pytest.raises(MediaError, match="exists already"):
        VideoWriter(out, time_base=Fraction(1, 25))
    with VideoWriter(out, time_base=Fraction(1, 25), force=True) as writer:
        assert not writer.part.exists()
        for i in range(60):  # the encoder and a fragment of half a second hold some back
            writer.write(ramp(48, 64, i), i)
        assert writer.part.name == "o.part.mp4"
        assert writer.part.exists()
        assert out.read_bytes() == b"precious"
    assert [p.name for p in tmp_path.iterdir()] == ["o.mp4"]
    assert len(list(VideoReader(out))) == 60


@pytest.mark.parametrize(("error", "kept"), [(KeyboardInterrupt, True), (RuntimeError, False)])
def test_part_file_after_an_exception(tmp_path, error, kept):
    out = tmp_path / "o.mp4"
    out.write_bytes(b"precious")
    with pytest.raises(error), VideoWriter(out, time_base=Fraction(1, 25), force=True) as writer:  # noqa: PT012
        for i in range(10):
            writer.write(ramp(48, 64, i), i)
        raise error
    assert out.read_bytes() == b"precious"
    assert writer.part.exists() == kept
    if kept:
        assert len(list(VideoReader(writer.part))) == 10


def test_nothing_written_nothing_left(tmp_path):
    VideoWriter(tmp_path / "o.mp4", time_base=Fraction(1, 25)).close()
    assert list(tmp_path.iterdir()) == []


def test_writer_errors(tmp_path):
    (tmp_path / "d.mp4").mkdir()
    os.mkfifo(tmp_path / "pipe.mp4")
    for name, words in (
        ("o.avi", "choose one of these endings"),
        ("no/o.mp4", "does not exist"),
        ("d.mp4", "is a folder"),
        ("pipe.mp4", "not a file"),
    ):
        with pytest.raises(MediaError, match=words):
            VideoWriter(tmp_path / name, time_base=Fraction(1, 25), force=True)
    writer = VideoWriter(tmp_path / "late.mp4", time_base=Fraction(1, 25))
    with pytest.raises(MediaError, match=r"late\.mp4 cannot be written"):
        writer.write(ramp(32, 32), 1 << 64)
    assert not writer.part.exists()
    writer = VideoWriter(tmp_path / "o.mp4", time_base=Fraction(1, 25))
    writer.write(ramp(32, 32), 0)
    with pytest.raises(ValueError, match="the first frame was"):
        writer.write(ramp(32, 34), 1)
    writer.abandon(keep=False)


@pytest.mark.parametrize(("quality", "crf"), [("low", 28), ("Medium", 22), ("high", 17), ("0", 0), (51, 51)])
def test_quality(quality, crf):
    assert crf_of(quality) == crf


@pytest.mark.parametrize("quality", ["best", "52", -1, "", "1.5", None])
def test_quality_unknown(quality):
    with pytest.raises(ValueError, match="low, medium, high"):
        crf_of(quality)


@pytest.mark.parametrize("name", ["d0", "d3", "d18", "d20"])
def test_real_clips(tmp_path, shared, name):
    clip = shared / "data" / "videos" / f"{name}.mp4"
    if not clip.exists():
        pytest.skip(f"{name}.mp4 is not there")
    reader = VideoReader(clip, end=1.0)
    with VideoWriter(tmp_path / "o.mp4", time_base=reader.time_base, fps=reader.fps, audio=reader.audio()) as writer:
        for image, ticks in reader.frames():
            writer.write(image, ticks)
    assert true_times(tmp_path / "o.mp4") == [t for t in true_times(clip) if t < 1]
    differences = [
        np.abs(a.astype(int) - b).mean() for (a, _), (b, _) in zip(reader, VideoReader(tmp_path / "o.mp4"), strict=True)
    ]
    assert max(differences) < 3
