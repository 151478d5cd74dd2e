"""Pictures in and out: what is seen, and what is left behind when something fails; file names of every kind."""

import os
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

av = pytest.importorskip("av", reason="PyAV is not installed")
image_module = pytest.importorskip("PIL.Image", reason="Pillow is not installed")

from clips import make_clip, ramp  # noqa: E402
from pictures import tiff, write_png  # noqa: E402

from fastreenact.errors import MediaError  # noqa: E402
from fastreenact.media import VideoReader, VideoWriter, in_a_row, is_picture, read_image, write_image  # noqa: E402
from fastreenact.media.files import fit_name, part_path, shown  # noqa: E402

HOSTILE = [
    "-dash.X",
    "two\nlines.X",
    "quote'\"`$(x).X",
    "sm\N{GRINNING FACE}le.X",
    "a:b%03d.X",
    "\udcff\udcfe.X",
    "e" * 251 + ".X",
]


def picture_of(array, mode=None):
    return image_module.fromarray(array) if mode is None else image_module.fromarray(array).convert(mode)


@pytest.mark.row("F6", "pictures with EXIF orientation 1 to 8 stand upright, lossless ones pixel for pixel")
def test_read_image_exif_upright(tmp_path, row):
    upright = ramp(20, 30)
    undo = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }
    names = [f"p{orientation}.{suffix}" for orientation in undo for suffix in ("png", "webp", "tif", "jpg")]
    wrong = []
    for name in names:
        picture = picture_of(np.ascontiguousarray(undo[int(name[1])](upright)))
        exif = picture.getexif()
        exif[0x0112] = int(name[1])
        picture.save(tmp_path / name, exif=exif, **({"lossless": True} if "webp" in name else {}))
        got = read_image(tmp_path / name)
        apart = np.abs(got.astype(int) - upright).mean() if got.shape == upright.shape else 255
        if apart > (4 if "jpg" in name else 0):
            wrong.append(name)
    row.measured(f"{len(names) - len(wrong)} of {len(names)}: PNG, WebP and TIFF pixel for pixel, JPEG upright")
    assert wrong == []


def test_read_image_with_damaged_exif(tmp_path):
    picture_of(ramp(20, 30)).save(tmp_path / "p.png", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    np.testing.assert_array_equal(read_image(tmp_path / "p.png"), ramp(20, 30))


@pytest.mark.row("F7", "gray, transparent, palette and 16-bit pictures read as their 8-bit RGB original, CMYK as seen")
def test_read_image_modes(tmp_path, row):
    rgb = ramp(16, 24)
    gray, palette = rgb[..., 0], picture_of(rgb).quantize(256)
    gray16, opaque = gray.astype(np.uint16) * 257, np.full((16, 24, 1), 65535, np.uint16)
    grays = {
        "gray.png": picture_of(gray),
        "gray16.png": picture_of(gray16),
        "gray16.tif": picture_of(gray16),
        "gray32.tif": picture_of(gray16.astype(np.int32)),
        "opaque.png": picture_of(gray, "LA"),
    }
    colours = dict.fromkeys(("rgb.webp", "rgb.bmp", "rgb.tif", "rgb.ppm", "rgb.tga", "rgb.jp2"), picture_of(rgb)) | {
        "rgba.png": picture_of(rgb, "RGBA"),
        "rgba.webp": picture_of(rgb, "RGBA"),
    }
    others = {"palette.png": palette, "palette.gif": palette, "bit.png": picture_of(rgb, "1")}
    expected = dict.fromkeys(grays, np.repeat(gray[..., None], 3, 2)) | dict.fromkeys(colours, rgb)
    for name, picture in (grays | colours | others).items():
        picture.save(tmp_path / name, **({"lossless": True} if "webp" in name else {}))
        expected.setdefault(name, np.asarray(picture.convert("RGB")))
    write_png(tmp_path / "rgb16.png", rgb.astype(np.uint16) * 257)
    write_png(tmp_path / "rgba16.png", np.concatenate([rgb.astype(np.uint16) * 257, opaque], 2))
    (tmp_path / "big-endian.tif").write_bytes(tiff(gray16.astype(">u2"), order=">"))
    expected |= {"rgb16.png": rgb, "rgba16.png": rgb, "big-endian.tif": expected["gray.png"]}
    errors = {}
    for name, want in expected.items():
        got = read_image(tmp_path / name)
        assert got.dtype == np.uint8, name
        assert got.flags.c_contiguous, name
        errors[name] = int(np.abs(got.astype(int) - want).max())
    flat = np.full((32, 32, 3), (200, 60, 30), np.uint8)
    picture_of(flat, "CMYK").save(tmp_path / "c.jpg", quality=98)
    printed = int(np.abs(read_image(tmp_path / "c.jpg").astype(int) - flat).max())
    row.measured(f"{len(errors)} kinds of file: at most {max(errors.values())} of 255; CMYK JPEG {printed}")
    assert max(errors.values()) <= 1, errors
    assert printed <= 4


def test_read_image_alpha_on_white(tmp_path):
    rgba = np.zeros((4, 4, 4), np.uint8)
    rgba[..., 0] = 200
    rgba[:, 1:, 3] = (0, 255, 128)
    picture_of(rgba).save(tmp_path / "a.png")
    got = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(got[:, 1], np.full((4, 3), 255))
    np.testing.assert_array_equal(got[:, 2], np.broadcast_to((200, 0, 0), (4, 3)))
    assert abs(int(got[0, 3, 1]) - 127) <= 1


def test_read_image_colour_profile(tmp_path):
    from PIL import ImageCms

    rgb = np.full((8, 8, 3), (200, 60, 30), np.uint8)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture_of(rgb).save(tmp_path / "s.png", icc_profile=srgb)
    picture_of(rgb).save(tmp_path / "broken.png", icc_profile=srgb[:200])
    np.testing.assert_array_equal(read_image(tmp_path / "s.png"), rgb)
    np.testing.assert_array_equal(read_image(tmp_path / "broken.png"), rgb)


@pytest.mark.row("F8", "a picture cut at 10 to 90% is refused, never half of it taken")
def test_read_image_truncated(tmp_path, row):
    noise = picture_of(np.random.default_rng(0).integers(0, 255, (80, 80, 3), dtype=np.uint8))
    kinds = [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        ("AVIF", {"speed": 10}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("GIF", {}),
        ("BMP", {}),
        ("PPM", {}),
        ("TGA", {}),
        ("JPEG2000", {}),
    ]
    taken = []
    for name, options in kinds:
        noise.save(tmp_path / "whole", name, **options)
        data = (tmp_path / "whole").read_bytes()
        for share in range(10, 100, 10):
            (tmp_path / "cut").write_bytes(data[: len(data) * share // 100])
            try:
                read_image(tmp_path / "cut")
                said = "nothing"
            except MediaError as error:
                said = str(error)
            if not re.fullmatch("cut cannot be read as a picture .*: save or copy it anew, as JPEG or PNG", said):
                taken.append((name, share, said))
    row.measured(f"{len(kinds)} kinds cut at 9 places: {len(taken)} taken")
    assert taken == []


def test_read_image_errors(tmp_path):
    (tmp_path / "text.png").write_text("not a picture")
    os.mkfifo(tmp_path / "pipe.png")
    for path, words in (
        (tmp_path / "none.png", "no such file"),
        (tmp_path, "is a folder, not a picture"),
        (tmp_path / "pipe.png", "is a device or a pipe"),
        (tmp_path / ("x" * 300), "name too long"),
        (tmp_path / "text.png", "not a picture format"),
        (tmp_path / "nul\0.png", "no such file"),
    ):
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
        True,
        True,
        True,
        False,
        False,
        False,
    ]


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


@pytest.mark.row("S5", "hostile file names (quotes, newlines, a leading dash, 255 bytes, no UTF-8): written and read")
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_file_names(row, tmp_path, name, monkeypatch):
    row.measured(f"{len(HOSTILE)} of {len(HOSTILE)} names, as picture and as video")
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
