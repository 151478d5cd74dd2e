"""Pictures in and out: what is seen, and what is left behind when something fails; file names of every kind."""

import contextlib
import os
import struct
import time
import zlib
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

av = pytest.importorskip("av", reason="PyAV is not installed")
image_module = pytest.importorskip("PIL.Image", reason="Pillow is not installed")

from clips import make_clip, ramp  # noqa: E402

from fastreenact.errors import MediaError  # noqa: E402
from fastreenact.media import VideoReader, VideoWriter, in_a_row, is_picture, read_image, write_image  # noqa: E402
from fastreenact.media_files import fit_name, part_path, shown  # noqa: E402

HOSTILE = ["-dash.X", "two\nlines.X", "quote'\"`$(x).X", "sm\N{GRINNING FACE}le.X", "a:b%03d.X", "\udcff\udcfe.X",
           "e" * 251 + ".X"]


def picture_of(array, mode=None):
    return image_module.fromarray(array) if mode is None else image_module.fromarray(array).convert(mode)


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
    frames[0].save(tmp_path / "pages.tif", save_all=True, append_images=frames[1:])
    assert [is_picture(tmp_path / name) for name in ("p.png", "p.mp4", "pages.tif", "moving.gif", "v.mp4", "none")] == [
        True, True, True, False, False, False]


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
