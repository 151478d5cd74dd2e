"""Files that want to crash, hang or fill the memory, and sizes and kinds of pixels that nobody expects."""

import io
import os
import struct
import time
from fractions import Fraction

import numpy as np
import pytest

av = pytest.importorskip("av", reason="PyAV is not installed")
image_module = pytest.importorskip("PIL.Image", reason="Pillow is not installed")

from clips import make_clip, ramp  # noqa: E402
from fuzz_media import fuzz, peak_memory  # noqa: E402
from pictures import png_file, tiff, write_png  # noqa: E402

from fastreenact.arrays import as_picture  # noqa: E402
from fastreenact.errors import MediaError  # noqa: E402
from fastreenact.media import VideoReader, VideoWriter, read_image, write_image  # noqa: E402


@pytest.mark.row("F1", "damaged JPEG, PNG, WebP and AVIF: a picture or a MediaError, in 2 s and 1 GB, never a crash")
def test_damaged_pictures(tmp_path, row):
    done = fuzz("pictures", 0, row.amount(1200, 50_000), tmp_path)
    row.measured(
        f"{done['cases']:,} files, {done['refused']:,} refused, 0 crashes; slowest {done['slowest_s']:.2f} s, "
        f"{done['memory'] / 1e6:.0f} MB more memory"
    )
    assert done["slowest_s"] <= 2
    assert done["memory"] <= 1e9
    assert 0 < done["refused"] < done["cases"]


@pytest.mark.row("F2", "damaged mp4, mkv and webm, copied with their sound: a video or a MediaError, no crash, no hang")
def test_damaged_videos(tmp_path, row):
    done = fuzz("videos", 0, row.amount(40, 1000), tmp_path)
    row.measured(
        f"{done['cases']:,} files, {done['refused']:,} refused, 0 crashes, 0 hangs; slowest "
        f"{done['slowest_s']:.2f} s, {done['memory'] / 1e6:.0f} MB more memory"
    )
    assert done["slowest_s"] <= 20
    assert done["memory"] <= 1e9
    assert 0 < done["refused"] < done["cases"]


def changed(data, mark, offset, new):
    """`data` with `new` written `offset` bytes after the first `mark`."""
    at = data.index(mark) + offset
    return data[:at] + new + data[at + len(new) :]


def bombs():
    """Files of a few kilobytes that say they are larger than 200 million pixels."""
    huge = {
        "JPEG": [(b"\xff\xc0", 5, ">HH", 65500)],
        "GIF": [(b"GIF", 6, "<HH", 65535)],
        "BMP": [(b"BM", 18, "<ii", 20000)],
        "AVIF": [(b"ispe", 8, ">II", 16000)],
        "JPEG2000": [(b"ihdr", 4, ">II", 20000), (b"\xff\x51", 6, ">II", 20000)],
        "TGA": [(b"", 12, "<HH", 65535)],
    }
    files = {"PNG": png_file(20000, 20000, 8, 2, bytes(100_000)), "PPM": b"P6 20000 20000 255\n" + bytes(100)}
    for name, places in huge.items():
        file = io.BytesIO()
        image_module.fromarray(ramp(32, 32)).save(file, name)
        files[name] = file.getvalue()
        for mark, offset, layout, side in places:
            files[name] = changed(files[name], mark, offset, struct.pack(layout, side, side))
    file = io.BytesIO()
    image_module.fromarray(ramp(32, 32)).save(file, "WEBP", lossless=True)
    webp = io.BytesIO()
    frames = [image_module.fromarray(ramp(32, 32, i)) for i in (0, 9)]
    frames[0].save(webp, "WEBP", save_all=True, append_images=frames[1:])
    files["moving"] = changed(webp.getvalue(), b"VP8X", 12, (8000).to_bytes(3, "little") * 2)
    files["WEBP"] = changed(file.getvalue(), b"VP8L", 9, struct.pack("<I", 16382 | 16382 << 14))  # 14 bits a side
    return files


@pytest.mark.row("F4", "pictures over 200 million pixels are refused in 0.1 s and 50 MB; the limit is adjustable")
def test_picture_bombs(tmp_path, row):
    before, slowest, files = image_module.MAX_IMAGE_PIXELS, 0.0, bombs()
    write_image(tmp_path / "small.png", ramp(10, 10))
    read_image(tmp_path / "small.png")
    memory = peak_memory(anew=True)
    for name, data in files.items():
        (tmp_path / f"bomb.{name}").write_bytes(data)
        start = time.process_time()
        with pytest.raises(MediaError, match=r"more than the limit of (200|50) million.*: make it smaller, or "):
            read_image(tmp_path / f"bomb.{name}")
        slowest = max(slowest, time.process_time() - start)
    grown = peak_memory() - memory
    row.measured(f"{len(files)} formats refused; slowest {1000 * slowest:.0f} ms, {grown / 1e6:.0f} MB more memory")
    assert slowest <= 0.1
    assert grown <= 50e6
    assert before == image_module.MAX_IMAGE_PIXELS
    with pytest.raises(MediaError, match="10 x 10 pixels"):
        read_image(tmp_path / "small.png", max_pixels=99)


@pytest.mark.row("F4", "videos beyond 8192 pixels, with 10^6 fps or 10^9 frames in a header: read or refused at once")
def test_video_bombs(tmp_path, row):
    mp4 = make_clip(tmp_path / "v.mp4", size=(16, 16), pts=list(range(5))).read_bytes()
    webm = make_clip(tmp_path / "v.webm", size=(16, 16), pts=[0, 1, 2], codec="libvpx").read_bytes()
    wide = make_clip(tmp_path / "wide.mkv", frames=[np.zeros((16, 8400, 3), np.uint8)] * 2, pts=[0, 1]).read_bytes()
    files = {
        "wide.mkv": (wide, "is 8400 x 16 pixels; the limit is 8192 a side: scale it down"),
        "inside.webm": (changed(webm, b"\x9d\x01\x2a", 3, struct.pack("<HH", 16383, 16383)), "16383 x|no frame can be"),
        "fast.mp4": (changed(mp4, b"mdhd", 16, struct.pack(">I", 512_000_000)), None),
        "many.mp4": (changed(mp4, b"stsz", 8, struct.pack(">II", 1, 10**9)), "holds no frame"),
        "long.mp4": (changed(mp4, b"stts", 12, struct.pack(">I", 10**9)), None),
    }
    stretched = tmp_path / "stretched.mp4"
    with av.open(str(stretched), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 3000, 16, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(3)
        container.mux([*stream.encode(av.VideoFrame.from_ndarray(ramp(16, 3000))), *stream.encode(None)])
    files["stretched.mp4"] = (stretched.read_bytes(), "is 9000 x 16 pixels")
    memory, slowest = peak_memory(anew=True), 0.0
    for name, (data, words) in files.items():
        (tmp_path / name).write_bytes(data)
        start = time.process_time()
        if words is None:
            reader = VideoReader(tmp_path / name)
            assert sum(1 for _ in reader.frames()) == 5, name
            with VideoWriter(tmp_path / "o.mp4", time_base=reader.time_base, fps=reader.fps, force=True) as writer:
                for image, pts in reader.frames():
                    writer.write(image, pts)
            assert len(list(VideoReader(tmp_path / "o.mp4"))) == 5
        else:
            with pytest.raises(MediaError, match=words):
                print(name, VideoReader(tmp_path / name))
        slowest = max(slowest, time.process_time() - start)
    grown = peak_memory() - memory
    row.measured(f"{len(files)} headers; slowest {slowest:.2f} s, {grown / 1e6:.0f} MB more memory")
    assert slowest <= 1
    assert grown <= 100e6


SIZES = [(side, side) for side in (1, 2, 3, 15, 16, 17, 255, 256, 257, 511, 512)]
SIZES += [(15, 18), (34, 17), (1080, 1920), (2160, 3840), (4320, 7680)]


@pytest.mark.row("F5", "sizes from 1 x 1 to 8K, 1, 3 and 4 channels, 8 and 16 bits and floating point: read or refused")
def test_sizes_channels_and_depths(tmp_path, row):
    sizes, read, refused = SIZES[: row.amount(13, len(SIZES))], 0, 0
    for height, width in sizes:
        rgb = ramp(height, width)
        for channels in (1, 3, 4):
            image = np.dstack([rgb, np.full((height, width), 255, np.uint8)])[..., :channels]
            want = np.broadcast_to(image[..., :3], (height, width, 3))
            for depth in (np.uint8, np.uint16, np.float32):
                path = tmp_path / f"{height}.{channels}.{np.dtype(depth).name}"
                if depth == np.float32:
                    path.write_bytes(tiff((image / 255).astype(depth)))
                    with pytest.raises(MediaError, match=r"cannot be read as a picture \(.*\): save or copy it anew"):
                        read_image(path)
                    refused += 1
                else:
                    write_png(path, image.astype(depth) * (1 if depth == np.uint8 else 257))
                    np.testing.assert_array_equal(read_image(path), want, err_msg=path.name)
                    read += 1
                path.unlink()
                if channels != 3 or depth != np.uint8:
                    with pytest.raises((TypeError, ValueError), match=r"give .*RGB"):
                        as_picture(image.astype(depth), "source")
    row.measured(f"{len(sizes)} sizes: {read} pictures read to the value, {refused} of floating point refused")
    assert read == 6 * len(sizes)


@pytest.mark.row("F5", "frames of all these sizes are written and come back, odd ones with a row or column more")
def test_sizes_encode(tmp_path, row):
    sizes = SIZES[: row.amount(13, len(SIZES))]
    for height, width in sizes:
        with VideoWriter(tmp_path / "o.mp4", time_base=Fraction(1, 25), quality=1, force=True) as writer:
            for i in range(2):
                writer.write(ramp(height, width), i)
        got = [image for image, _ in VideoReader(tmp_path / "o.mp4")]
        assert [image.shape for image in got] == [(height + height % 2, width + width % 2, 3)] * 2
        assert any("padded to" in note for note in writer.notes) == bool(height % 2 or width % 2)
        if width > 3:  # the smallest have no colours of their own at half the resolution
            assert np.abs(got[1][:height, :width].astype(int) - ramp(height, width)).mean() < 3
        if width % 2 and width > 3:
            assert np.abs(got[0][:height, width].astype(int) - got[0][:height, width - 1]).max() < 30, (height, width)
    row.measured(f"{len(sizes)} of {len(sizes)} sizes")


def test_nothing_is_left_open(tmp_path):
    """Refused files are closed again."""
    (tmp_path / "p.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    (tmp_path / "v.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(100))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with pytest.raises(MediaError):
            read_image(tmp_path / "p.png")
        with pytest.raises(MediaError):
            VideoReader(tmp_path / "v.mp4")
    assert len(os.listdir("/proc/self/fd")) == before
