"""Pictures and videos in and out: what is seen, when it is seen, and what is left behind when something fails."""

import contextlib
import os
import struct
import subprocess
import sys
import time
import zlib
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

av = pytest.importorskip("av", reason="PyAV is not installed")
image_module = pytest.importorskip("PIL.Image", reason="Pillow is not installed")

from clips import TIMINGS, loudest_time, make_clip, ramp, sound_packets, tone, true_times  # noqa: E402

from fastreenact.errors import MediaError  # noqa: E402
from fastreenact.media import VideoReader, VideoWriter, in_a_row, is_picture, read_image, write_image  # noqa: E402
from fastreenact.media_files import fit_name, part_path, shown  # noqa: E402
from fastreenact.media_write import crf_of  # noqa: E402

HOSTILE = ["-dash.X", "two\nlines.X", "quote'\"`$(x).X", "sm\N{GRINNING FACE}le.X", "a:b%03d.X", "\udcff\udcfe.X",
           "e" * 251 + ".X"]


def picture_of(array, mode=None):
    return image_module.fromarray(array) if mode is None else image_module.fromarray(array).convert(mode)


# Pictures


@pytest.mark.parametrize("orientation", range(1, 9))
def test_read_image_exif_upright(tmp_path, orientation):
    upright = ramp(20, 30)
    undo = {1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
            5: lambda a: a.transpose(1, 0, 2), 6: lambda a: np.rot90(a, 1),
            7: lambda a: a[::-1, ::-1].transpose(1, 0, 2), 8: lambda a: np.rot90(a, -1)}[orientation]
    picture = picture_of(np.ascontiguousarray(undo(upright)))
    exif = picture.getexif()
    exif[0x0112] = orientation
    picture.save(tmp_path / "p.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "p.png"), upright)


def test_read_image_modes(tmp_path):
    rgb = ramp(16, 24)
    gray = rgb[..., 0]
    expected = {}
    picture_of(gray).save(tmp_path / "gray.png")
    picture_of(gray.astype(np.uint16) * 257).save(tmp_path / "gray16.png")
    expected["gray.png"] = expected["gray16.png"] = np.repeat(gray[..., None], 3, 2)
    picture_of(rgb).quantize(256).save(tmp_path / "palette.png")
    expected["palette.png"] = np.asarray(picture_of(rgb).quantize(256).convert("RGB"))
    picture_of(rgb).save(tmp_path / "rgb.webp", lossless=True)
    picture_of(rgb).save(tmp_path / "rgb.bmp")
    picture_of(rgb).save(tmp_path / "rgb.tif")
    expected |= dict.fromkeys(("rgb.webp", "rgb.bmp", "rgb.tif"), rgb)
    for name, want in expected.items():
        got = read_image(tmp_path / name)
        assert got.dtype == np.uint8, name
        assert got.flags.c_contiguous, name
        assert np.abs(got.astype(int) - want).max() <= 1, name


def test_read_image_alpha_on_white(tmp_path):
    rgba = np.zeros((4, 4, 4), np.uint8)
    rgba[..., 0] = 200
    rgba[:, 1:, 3] = (0, 255, 128)
    picture_of(rgba).save(tmp_path / "a.png")
    got = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(got[:, 1], np.full((4, 3), 255))
    np.testing.assert_array_equal(got[:, 2], np.broadcast_to((200, 0, 0), (4, 3)))
    assert abs(int(got[0, 3, 1]) - 127) <= 1


def test_read_image_cmyk(tmp_path):
    rgb = np.full((32, 32, 3), (200, 60, 30), np.uint8)
    picture_of(rgb, "CMYK").save(tmp_path / "c.jpg", quality=98)
    assert np.abs(read_image(tmp_path / "c.jpg").astype(int) - rgb).max() <= 4


def test_read_image_colour_profile(tmp_path):
    from PIL import ImageCms

    rgb = np.full((8, 8, 3), (200, 60, 30), np.uint8)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture_of(rgb).save(tmp_path / "s.png", icc_profile=srgb)
    picture_of(rgb).save(tmp_path / "broken.png", icc_profile=srgb[:200])
    np.testing.assert_array_equal(read_image(tmp_path / "s.png"), rgb)
    np.testing.assert_array_equal(read_image(tmp_path / "broken.png"), rgb)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_read_image_truncated(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 255, (80, 80, 3), dtype=np.uint8)
    picture_of(noise).save(tmp_path / f"whole{suffix}")
    data = (tmp_path / f"whole{suffix}").read_bytes()
    for share in range(10, 100, 10):
        (tmp_path / f"cut{suffix}").write_bytes(data[: len(data) * share // 100])
        with pytest.raises(MediaError, match="cannot be read as a picture") as caught:
            read_image(tmp_path / f"cut{suffix}")
        assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_read_image_mutated(tmp_path):
    rng = np.random.default_rng(1)
    for suffix in (".png", ".jpg", ".webp", ".gif", ".tif"):
        picture_of(ramp(40, 40)).save(tmp_path / f"whole{suffix}")
        data = np.frombuffer((tmp_path / f"whole{suffix}").read_bytes(), np.uint8)
        for _ in range(60):
            damaged = data.copy()
            damaged[rng.integers(0, len(data), 6)] = rng.integers(0, 256, 6)
            (tmp_path / "m").write_bytes(damaged.tobytes())
            with contextlib.suppress(MediaError):
                assert read_image(tmp_path / "m", max_pixels=10_000_000).shape[2] == 3


def test_read_image_bomb(tmp_path):
    header = struct.pack(">IIBBBBB", 20000, 20000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    body = b"IDAT" + zlib.compress(b"\0" * 100_000)
    data += struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    (tmp_path / "bomb.png").write_bytes(data)
    before = image_module.MAX_IMAGE_PIXELS
    start = time.perf_counter()
    with pytest.raises(MediaError, match="more than the limit of 200 million"):
        read_image(tmp_path / "bomb.png")
    assert time.perf_counter() - start < 0.1
    assert before == image_module.MAX_IMAGE_PIXELS
    write_image(tmp_path / "small.png", ramp(10, 10))
    with pytest.raises(MediaError, match="10 x 10 pixels"):
        read_image(tmp_path / "small.png", max_pixels=99)


def test_read_image_errors(tmp_path):
    (tmp_path / "text.png").write_text("not a picture")
    for path, words in ((tmp_path / "none.png", "no such file"), (tmp_path, "is a folder"),
                        (tmp_path / "text.png", "not a picture format"), (tmp_path / "nul\0.png", "cannot be read")):
        with pytest.raises(MediaError, match=words):
            read_image(path)


def test_is_picture(tmp_path):
    write_image(tmp_path / "p.png", ramp(8, 8))
    (tmp_path / "p.mp4").write_bytes((tmp_path / "p.png").read_bytes())
    frames = [picture_of(ramp(8, 8, 40 * i)) for i in range(3)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:], duration=40)
    make_clip(tmp_path / "v.mp4")
    assert [is_picture(tmp_path / name) for name in ("p.png", "p.mp4", "moving.gif", "v.mp4", "none")] == [
        True, True, False, False, False]


def test_write_image_whole_or_not(tmp_path, monkeypatch):
    image = ramp(9, 7)
    path = tmp_path / "o.png"
    write_image(path, image)
    np.testing.assert_array_equal(read_image(path), image)
    with pytest.raises(MediaError, match="exists already"):
        write_image(path, image)

    def full(self, file, **_):
        Path(file).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(image_module.Image, "save", full)
    with pytest.raises(MediaError, match="No space left"):
        write_image(path, 255 - image, force=True)
    monkeypatch.undo()
    np.testing.assert_array_equal(read_image(path), image)
    assert [p.name for p in tmp_path.iterdir()] == ["o.png"]


def test_write_image_errors(tmp_path):
    with pytest.raises(MediaError, match="choose one of these endings"):
        write_image(tmp_path / "a.xyz", ramp(4, 4))
    with pytest.raises(MediaError, match="does not exist"):
        write_image(tmp_path / "none" / "a.png", ramp(4, 4))
    for bad in (ramp(4, 4).astype(np.float32), ramp(4, 4)[..., 0], np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(ValueError, match="uint8 \\[H, W, 3\\] is needed"):
            write_image(tmp_path / "a.png", bad)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_file_names(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture, video = Path(name.replace(".X", ".png")), Path(name.replace(".X", ".mp4"))
    write_image(picture, ramp(8, 8))
    np.testing.assert_array_equal(read_image(picture), ramp(8, 8))
    with VideoWriter(video, time_base=Fraction(1, 25)) as writer:
        for i in range(3):
            writer.write(ramp(32, 32), i)
    assert len(list(VideoReader(video))) == 3
    assert sorted(os.listdir(tmp_path)) == sorted([str(picture), str(video)])
    assert shown(picture).isprintable()


def test_names_fit():
    long = part_path(Path("x" * 251 + ".mp4"))
    assert len(os.fsencode(long.name)) <= 255
    assert long.suffixes[-2:] == [".part", ".mp4"]
    assert fit_name("\N{GRINNING FACE}" * 100, ".mp4") != fit_name("\N{GRINNING FACE}" * 101, ".mp4")


def test_in_a_row():
    row = in_a_row([ramp(20, 30), ramp(40, 40), ramp(10, 10)], 20)
    assert row.shape == (20, 30 + 20 + 20, 3)
    np.testing.assert_array_equal(row[:, :30], ramp(20, 30))


# Reading videos


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


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("hflip", [False, True])
def test_rotation_upright(tmp_path, rotation, hflip):
    image = ramp(32, 48)
    clip = make_clip(tmp_path / "r.mp4", frames=[image] * 3, pts=[0, 1, 2], codec="libx264rgb", pixels="rgb24",
                     rotation=rotation, hflip=hflip, options={"crf": "0"})
    want = np.rot90(image, rotation // 90)
    want = want[:, ::-1] if hflip else want
    reader = VideoReader(clip)
    assert (reader.height, reader.width) == want.shape[:2]
    for got, _ in reader:
        np.testing.assert_array_equal(got, want)


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


@pytest.mark.parametrize(("start", "end"), [(0.5, 1.1), (None, 0.7), (0.9, None), (0.0, 5.0), (0.404, 0.76)])
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
    clip = make_clip(tmp_path / "in.mkv", frames=frames, pts=list(range(60)), sound=tone(2.4, click_s=1.6),
                     sound_codec=sound_codec)
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
    for name, words in (("none.mp4", "no such file"), ("", "is a folder"), ("junk.mp4", "cannot be read as a video"),
                        ("empty.mp4", "cannot be read as a video"), ("song.m4a", "no video stream \\(only sound\\)")):
        with pytest.raises(MediaError, match=words) as caught:
            VideoReader(tmp_path / name)
        assert "\n" not in str(caught.value)
    clip = make_clip(tmp_path / "v.mp4")
    with pytest.raises(MediaError, match="no frame between 9 s and its end"):
        VideoReader(clip, start=9)
    for start, end in ((-1, None), (2, 1), (float("nan"), None), (0, 0)):
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


# Writing videos


def test_colours_kept(tmp_path):
    """Flat patches survive writing and reading; the file says which matrix and range it uses."""
    values = (16, 60, 128, 200, 240)
    patches = [(r, g, b) for r in values for g in values for b in values]
    image = np.zeros((5 * 16, 25 * 16, 3), np.uint8)
    for k, colour in enumerate(patches):
        y, x = divmod(k, 25)
        image[y * 16:(y + 1) * 16, x * 16:(x + 1) * 16] = colour
    with VideoWriter(tmp_path / "c.mp4", time_base=Fraction(1, 25), quality=4) as writer:
        for i in range(2):
            writer.write(image, i)
    got = next(iter(VideoReader(tmp_path / "c.mp4")))[0]
    errors = [np.abs(got[y * 16 + 4:y * 16 + 12, x * 16 + 4:x * 16 + 12].astype(int) - patches[y * 25 + x]).max()
              for y in range(5) for x in range(25)]
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
                format="yuv420p", src_colorspace=matrix, dst_colorspace=matrix, src_color_range="JPEG",
                dst_color_range="JPEG" if full else "MPEG")
            frame.pts = i
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    got = next(iter(VideoReader(tmp_path / "c.mp4")))[0]
    for x in (16, 48, 80):
        assert np.abs(got[24, x].astype(int) - image[24, x]).max() <= 4


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (15, 17), (33, 64), (64, 33), (511, 511)])
def test_odd_sizes_padded(tmp_path, size):
    height, width = size
    image = ramp(height, width)
    with VideoWriter(tmp_path / "o.mp4", time_base=Fraction(1, 25), quality=1) as writer:
        for i in range(3):
            writer.write(image, i)
    reader = VideoReader(tmp_path / "o.mp4")
    got = [frame for frame, _ in reader]
    assert len(got) == 3
    assert got[0].shape == (height + height % 2, width + width % 2, 3)
    assert any("padded to" in note for note in writer.notes)
    if width % 2 and width > 2:
        assert np.abs(got[0][:height, width].astype(int) - got[0][:height, width - 1]).max() < 30


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
    for name, words in (("o.avi", "choose one of these endings"), ("no/o.mp4", "does not exist"),
                        ("d.mp4", "is a folder"), ("pipe.mp4", "not a file")):
        with pytest.raises(MediaError, match=words):
            VideoWriter(tmp_path / name, time_base=Fraction(1, 25), force=True)
    writer = VideoWriter(tmp_path / "o.mp4", time_base=Fraction(1, 25))
    writer.write(ramp(32, 32), 0)
    with pytest.raises(ValueError, match="the first frame was"):
        writer.write(ramp(32, 34), 1)
    writer.abandon(keep=False)


@pytest.mark.parametrize(("quality", "crf"), [("low", 28), ("Medium", 22), ("high", 17), ("0", 0), (51, 51)])
def test_quality(quality, crf):
    assert crf_of(quality) == crf


@pytest.mark.parametrize("quality", ["best", "52", -1, "", "1.5"])
def test_quality_unknown(quality):
    with pytest.raises(ValueError, match="low, medium, high"):
        crf_of(quality)


_FULL_DISK = """
import resource, signal, sys
import numpy as np
from fractions import Fraction
from itertools import pairwise
from fastreenact.errors import MediaError
from fastreenact.media import VideoWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
rng = np.random.default_rng(0)
try:
    with VideoWriter(sys.argv[1], time_base=Fraction(1, 25)) as writer:
        for i in range(200):
            writer.write(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8), i)
except MediaError as error:
    print(error)
    raise SystemExit(7)
"""

_KILLED = """
import sys, time
from fractions import Fraction
from itertools import pairwise
from clips import ramp
from fastreenact.media import VideoWriter
writer = VideoWriter(sys.argv[1], time_base=Fraction(1, 30), fps=30)
for i in range(90):
    writer.write(ramp(48, 64, i), i)
print("written", flush=True)
time.sleep(60)
"""


def test_full_disk(tmp_path):
    done = subprocess.run([sys.executable, "-c", _FULL_DISK, str(tmp_path / "o.mp4")], capture_output=True, text=True,
                          timeout=60, check=False)
    assert done.returncode == 7, done.stderr
    assert "cannot be written" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_killed_process_leaves_a_playable_part(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    child = subprocess.Popen([sys.executable, "-c", _KILLED, str(tmp_path / "o.mp4")], stdout=subprocess.PIPE,
                             env=environment)
    assert child.stdout is not None
    assert child.stdout.readline() == b"written\n"
    child.kill()
    child.wait(20)
    child.stdout.close()
    assert [p.name for p in tmp_path.iterdir()] == ["o.part.mp4"]
    assert len(list(VideoReader(tmp_path / "o.part.mp4"))) >= 60  # at most a second is lost


def test_memory_does_not_grow_with_length(tmp_path):
    frames = [ramp(256, 256, i) for i in range(50)] * 12
    clip = make_clip(tmp_path / "in.mp4", pts=list(range(600)), frames=frames)
    resident = []
    with VideoWriter(tmp_path / "o.mp4", time_base=Fraction(1, 25), fps=25) as writer:
        for i, (image, ticks) in enumerate(VideoReader(clip).frames()):
            writer.write(image, ticks)
            if i in (200, 599):
                resident.append(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
    assert resident[1] - resident[0] < 5e6  # 400 frames are 79 MB


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
    differences = [np.abs(a.astype(int) - b).mean() for (a, _), (b, _) in
                   zip(reader, VideoReader(tmp_path / "o.mp4"), strict=True)]
    assert max(differences) < 3
