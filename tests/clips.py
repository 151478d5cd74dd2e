"""Small clips that the tests of files make for themselves."""

from fractions import Fraction
from itertools import accumulate
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

# name -> (time base, presentation times in ticks)
TIMINGS = {
    "29.97": (Fraction(1, 30000), [i * 1001 for i in range(45)]),
    "29.97 frame ticks": (Fraction(1001, 30000), list(range(45))),
    "23.976": (Fraction(1, 24000), [i * 1001 for i in range(45)]),
    "25": (Fraction(1, 12800), [i * 512 for i in range(45)]),
    "variable": (Fraction(1, 1000), list(accumulate([0, *[20, 60] * 22]))),
    "late start": (Fraction(1, 15360), [7680 + 512 * i for i in range(45)]),
}


def ramp(height: int, width: int, step: int = 0) -> NDArray[np.uint8]:
    """A smooth colour picture without symmetry; `step` makes frames differ."""
    y, x = np.mgrid[0:height, 0:width]
    image = np.stack([x * 160 // max(1, width - 1) + 40, y * 160 // max(1, height - 1) + 40, np.full_like(x, 90)], -1)
    image[: height // 4, : width // 4] = 230
    return ((image + step) % 256).astype(np.uint8)


def tone(seconds: float, rate: int = 44100, click_s: float | None = None) -> NDArray[np.float32]:
    """Mono sound [1, T]: a quiet hum, or silence with a click."""
    t = np.arange(round(seconds * rate)) / rate
    if click_s is None:
        return (0.1 * np.sin(2 * np.pi * 220 * t)).astype(np.float32)[None]
    return np.where(np.abs(t - click_s) < 0.004, np.sin(2 * np.pi * 1500 * t), 0).astype(np.float32)[None]


def make_clip(
    path: Path,
    *,
    time_base: Fraction = Fraction(1, 25),
    pts: list[int] | None = None,
    frames: list | None = None,
    size: tuple[int, int] = (48, 64),
    codec: str = "libx264",
    pixels: str = "yuv420p",
    sound: NDArray | None = None,
    sound_codec: str = "aac",
    rotation: int | None = None,
    hflip: bool = False,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Write a clip with PyAV directly, without our writer; frames default to shifting ramps."""
    import av

    pts = list(range(20)) if pts is None else pts
    frames = [ramp(*size, 3 * i) for i in range(len(pts))] if frames is None else frames
    with av.open(f"file:{path}", "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=Fraction(30), options=options or {})
        stream.height, stream.width, stream.pix_fmt = frames[0].shape[0], frames[0].shape[1], pixels
        stream.time_base = stream.codec_context.time_base = time_base
        if rotation is not None:
            stream.set_display_rotation(rotation, hflip=hflip)
        rate = 48000 if sound_codec == "libopus" else 44100
        track = container.add_stream(sound_codec, rate=rate, layout="mono") if sound is not None else None
        for image, ticks in zip(frames, pts, strict=True):
            frame = av.VideoFrame.from_ndarray(image)
            frame.pts, frame.time_base = ticks, time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if track is not None:
            kind = "s16" if sound_codec.startswith("pcm") else "fltp"
            samples = (sound * 32767).astype(np.int16) if kind == "s16" else sound
            for start in range(0, samples.shape[1], 1024):
                block = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[:, start : start + 1024]), kind, "mono")
                block.sample_rate, block.pts, block.time_base = 44100, start, Fraction(1, 44100)
                container.mux(track.encode(block))
            container.mux(track.encode(None))
    return path


def true_times(path: Path) -> list[Fraction]:
    """The presentation times of a file's frames, read with PyAV directly."""
    import av

    with av.open(f"file:{path}") as container:
        return [frame.pts * frame.time_base for frame in container.decode(video=0)]


def sound_packets(path: Path) -> list[bytes]:
    """The bytes of every packet of the sound."""
    import av

    with av.open(f"file:{path}") as container:
        return [bytes(packet) for packet in container.demux(audio=0) if packet.dts is not None]


def loudest_time(path: Path) -> float:
    """The presentation time of the loudest sample, in seconds."""
    import av

    best = (-1.0, 0.0)
    with av.open(f"file:{path}") as container:
        for frame in container.decode(audio=0):
            loudness = np.abs(frame.to_ndarray().astype(np.float64)).max(axis=0)
            at = int(loudness.argmax())
            best = max(best, (float(loudness[at]), frame.time + at / frame.sample_rate))
    return best[1]
