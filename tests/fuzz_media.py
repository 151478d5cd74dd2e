"""Damaged pictures and videos, read in a process of its own: a crash or a hang is seen from outside, with its case.

As a program: `fuzz_media.py pictures|videos FIRST COUNT FOLDER`; its last line says how it went, as JSON. The same case
number gives the same file.
"""

import contextlib
import faulthandler
import io
import json
import os
import re
import subprocess
import sys
import time
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from clips import make_clip, ramp, tone

from fastreenact.errors import MediaError
from fastreenact.media import VideoReader, VideoWriter, read_image

HANG_S = 20


def fuzz(kind: str, first: int, count: int, folder: Path) -> dict:
    """Run cases `first` to `first + count` in a child; fails with the case that crashed, hung or raised wrongly."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    done = subprocess.run(
        [sys.executable, __file__, kind, str(first), str(count), str(folder)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    case = folder / "case"
    at = f"case {case.read_text() if case.exists() else '?'}: exit code {done.returncode}"
    assert done.returncode == 0, f"{at}\n{done.stderr[-3000:]}"
    assert done.stderr == "", done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def damaged(case: int, whole: bytes) -> bytes:
    """One of five kinds of damage at a place that the case number says."""
    rng = np.random.default_rng(case)
    data = np.frombuffer(whole, np.uint8).copy()
    kind = rng.integers(5)
    a, b = sorted(rng.integers(0, len(data), 2).tolist())
    if kind == 0:  # some bytes, anywhere
        places = rng.integers(0, len(data), rng.integers(1, 21))
        data[places] = rng.integers(0, 256, len(places))
    elif kind == 1:  # a few bytes of the header, to the values that hurt
        data[rng.integers(0, min(len(data), 400), rng.integers(1, 5))] = rng.choice([0, 1, 0x7F, 0x80, 0xFF])
    elif kind == 2:  # cut short
        data = data[:a]
    elif kind == 3:  # a hole
        data[a : min(b, a + 2000)] = 0
    else:  # a piece twice
        data = np.concatenate([data[:b], data[a:]])
    return _checked_anew(data.tobytes()) if case % 2 else data.tobytes()


def _checked_anew(data: bytes) -> bytes:
    """PNG chunks with checksums that are right again: otherwise hardly any damage gets past them."""
    if not data.startswith(b"\x89PNG"):
        return data
    out, at = bytearray(data), 8
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4])
        out[end : end + 4] = zlib.crc32(data[at + 4 : end]).to_bytes(4) if end + 4 <= len(data) else b""
        at = end + 4
    return bytes(out)


def picture_files() -> list[bytes]:
    """Small pictures of many kinds: JPEG, PNG, WebP, AVIF."""
    from PIL import Image

    rgb, found = Image.fromarray(ramp(40, 56)), []
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "somebody"
    kinds: list[tuple[Image.Image, str, dict]] = [
        (rgb, "JPEG", {"exif": exif}),
        (rgb, "JPEG", {"progressive": True}),
        (rgb.convert("CMYK"), "JPEG", {}),
        (rgb.convert("L"), "JPEG", {}),
        (rgb, "PNG", {"exif": exif}),
        (rgb.quantize(64), "PNG", {"transparency": 3}),
        (Image.fromarray(np.asarray(rgb)[..., 0].astype(np.uint16) * 257), "PNG", {}),
        (rgb.convert("LA"), "PNG", {}),
        (rgb, "WEBP", {"exif": exif}),
        (rgb.convert("RGBA"), "WEBP", {"lossless": True}),
        (rgb, "WEBP", {"save_all": True, "append_images": [rgb.rotate(90)]}),
        (rgb, "AVIF", {"speed": 10}),
        (rgb.convert("RGBA"), "AVIF", {"speed": 10, "exif": exif}),
    ]
    for picture, name, options in kinds:
        file = io.BytesIO()
        picture.save(file, name, **options)
        found.append(file.getvalue())
    return found


def video_files(folder: Path) -> list[bytes]:
    """Small clips with sound: mp4 with its index last, first and in fragments, mkv, webm."""
    common = {"pts": list(range(24)), "sound": tone(1)}
    webm = {"codec": "libvpx", "sound_codec": "libopus", "options": {"deadline": "realtime", "g": "8"}}
    made = [
        make_clip(folder / "last.mp4", **common),
        make_clip(folder / "first.mp4", **common, container_options={"movflags": "faststart"}, options={"g": "8"}),
        make_clip(
            folder / "parts.mp4",
            **common,
            container_options={"movflags": "frag_keyframe+empty_moov"},
            options={"g": "8"},
        ),
        make_clip(folder / "c.mkv", **common, options={"g": "8"}),
        make_clip(folder / "c.webm", **common, **webm),
    ]
    return [path.read_bytes() for path in made]


def read_picture(path: Path) -> None:
    """What the command does with a portrait."""
    image = read_image(path)
    assert image.dtype == np.uint8
    assert image.shape[2:] == (3,)


def copy_video(path: Path) -> None:
    """What the command does with a driver: frames read, written, sound beside them; all that is written comes back."""
    reader = VideoReader(path)
    out = path.with_name("out.mp4")
    with VideoWriter(out, time_base=reader.time_base, fps=reader.fps, audio=reader.audio(), force=True) as writer:
        for image, pts in reader.frames():
            writer.write(image, pts)
    assert sum(1 for _ in VideoReader(out).frames()) == writer.frames


def peak_memory(*, anew: bool = False) -> int:
    """Bytes: the most that this process held so far, or since the last call with `anew`."""
    if anew:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def main(kind: str, first: int, count: int, folder: Path) -> None:
    """Run the cases and say how it went."""
    faulthandler.enable()
    warnings.filterwarnings("ignore", module="PIL")  # as in the command line: remarks on damaged metadata
    files = picture_files() if kind == "pictures" else video_files(folder)
    read: Callable[[Path], None] = read_picture if kind == "pictures" else copy_video
    path, note = folder / "damaged", os.open(folder / "case", os.O_CREAT | os.O_WRONLY)
    path.write_bytes(files[0])
    read(path)
    peak, slowest, refused = peak_memory(), 0.0, 0
    for case in range(first, first + count):
        os.pwrite(note, b"%-12d" % case, 0)
        path.write_bytes(damaged(case, files[case % len(files)]))
        faulthandler.dump_traceback_later(HANG_S, exit=True)
        start = time.process_time()
        try:
            read(path)
        except MediaError as error:
            refused += 1
            if len(str(error).splitlines()) != 1:
                raise ValueError("an error is one line") from error
        slowest = max(slowest, time.process_time() - start)
        with contextlib.suppress(FileNotFoundError):
            path.with_name("out.mp4").unlink()
    print(json.dumps({"cases": count, "refused": refused, "slowest_s": slowest, "memory": peak_memory() - peak}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
