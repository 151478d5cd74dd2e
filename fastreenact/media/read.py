"""Videos in: upright RGB frames with their true presentation times, and the sound's packets beside them."""

import contextlib
import os
from collections.abc import Generator, Iterable, Iterator
from fractions import Fraction
from itertools import chain
from math import ceil, inf
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fastreenact.errors import MediaError
from fastreenact.media.cut import cut_short
from fastreenact.media.files import check_in, shown, turned

if TYPE_CHECKING:
    from av import AudioStream, Packet, VideoFrame, VideoStream
    from av.container import InputContainer

MAX_VIDEO_SIDE = 8192  # pixels (RELIABILITY.md, F4)
_OPUS_PREROLL_S = Fraction(80, 1000)  # what an Opus decoder needs before its output is right (RFC 7845, section 4.6)
_MATRICES = {1: "ITU709", 4: "FCC", 5: "ITU601", 6: "ITU601", 7: "SMPTE240M", 9: "BT2020", 10: "BT2020"}
_TS_DISCONT = 0x200  # AVFMT_TS_DISCONT: times of this format start anywhere
_CUT = "cut short"
_FULL_RANGE = 2  # AVCOL_RANGE_JPEG
_FULL_FORMATS = ("rgb", "bgr", "gbr", "argb", "abgr", "0", "pal", "gray", "mono", "yuvj")  # full range unless tagged


class VideoReader:
    """A video file as upright RGB frames in presentation order; every iteration starts anew.

    Times count from the clip's own zero; with `start`, from the first frame kept. Pixels are made square, and a clip
    that changes its size keeps the first one. Memory does not grow with length.

    Args:
        path: any container and codec that the installed FFmpeg libraries read.
        start: seconds; frames before it are left out.
        end: seconds; frames at or after it are left out. None: to the end.

    Attributes:
        height, width: pixels of an upright frame.
        time_base: Fraction, seconds per tick of `frames`' pts.
        fps: Fraction, average frame rate (an estimate where the file does not say).
        n_frames: estimated number of frames that will come, None where unknown.
        duration: seconds that will come (estimate), None where unknown.
        rotation: degrees counterclockwise by which the file says that its frames are turned to stand upright.
        has_audio: whether there is a sound track.
        damage: after an iteration that met damaged data, one line about it; else None.
        notes: what a user should know, one line each.

    Raises:
        MediaError: the file is missing, damaged from the start, has no video stream, or nothing is left after the trim.
        ValueError: `start` or `end` is negative, `start` is infinite, or `end` is not after `start`.
    """

    def __init__(self, path: str | os.PathLike[str], *, start: float | None = None, end: float | None = None) -> None:
        if (start is not None and not 0 <= start < inf) or (end is not None and not end > (start or 0)):
            raise ValueError(f"trim is {start}:{end}; needs 0 <= start < end, in seconds")
        end = None if end == inf else end
        self.path = Path(path)
        self.start, self.end = start, end
        self.damage: str | None = None
        self.notes: list[str] = []
        with open_media(self.path) as container:
            stream = _video_stream(container, self.path)
            self._check_size(stream.codec_context.width, stream.codec_context.height)  # before a frame is unpacked
            self.time_base = stream.time_base or Fraction(1, 90000)
            self.fps = Fraction(stream.average_rate or stream.guessed_rate or 25)
            self._pixel_aspect = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or Fraction(1)
            self.has_audio = _sound_stream(container) is not None
            self._zero = _clip_zero(container, self.time_base)
            self.duration, self.n_frames = self._extent(container, stream)
        self._lo = None if start is None else self._zero + ceil(Fraction(start) / self.time_base - Fraction(1, 2))
        self._hi = None if end is None else self._zero + ceil(Fraction(end) / self.time_base - Fraction(1, 2))
        self._look_at_first_frame()

    def _extent(self, container: "InputContainer", stream: "VideoStream") -> tuple[float | None, int | None]:
        """Estimate (seconds, frames) after the trim from what the headers claim."""
        ticks = stream.duration
        whole = float(ticks * self.time_base) if ticks else (container.duration / 1e6 if container.duration else None)
        if whole is None and stream.frames:
            whole = float(stream.frames / self.fps)
        if whole is None:
            return (self.end - (self.start or 0), None) if self.end is not None else (None, None)
        kept = max(0.0, min(whole, self.end if self.end is not None else whole) - (self.start or 0.0))
        if stream.frames and self.start is None and self.end is None:
            return kept, int(stream.frames)
        return kept, round(kept * self.fps)

    def _look_at_first_frame(self) -> None:
        """Learn size, rotation and first time; the cheapest proof that the file decodes at all."""
        first = next(self._decoded(), None)
        if first is None:
            if self.damage:
                raise MediaError(f"{shown(self.path)} is damaged ({self.damage}): no frame can be decoded; get it anew")
            if self.start is not None or self.end is not None:
                raise MediaError(
                    f"{shown(self.path)} has no frame between {self.start or 0:g} s and "
                    f"{'its end' if self.end is None else f'{self.end:g} s'}: trim less"
                )
            raise MediaError(f"{shown(self.path)} holds no frame")
        self.damage = None
        frame, pts = first
        self.rotation = frame.rotation % 360
        if frame.color_trc in (16, 18):  # AVCOL_TRC_SMPTE2084 and ARIB_STD_B67: high dynamic range
            self.notes.append(f"{shown(self.path)} is an HDR video: its colours look flat beside the result")
        self._origin = pts if (self._lo is not None or pts < self._zero) else self._zero
        self._size = (max(1, round(frame.width * self._pixel_aspect)), frame.height)
        self._check_size(*self._size)
        # once: a frame whose side data was looked at waits for the garbage collector (PyAV 18), which grows
        self._orientation = _orientation(frame)
        self.height, self.width = self._upright(frame).shape[:2]

    def _check_size(self, width: int, height: int) -> None:
        if max(width, height) > MAX_VIDEO_SIDE:
            raise MediaError(
                f"{shown(self.path)} is {width} x {height} pixels; the limit is {MAX_VIDEO_SIDE} a side: scale it down"
            )

    def frames(self) -> Iterator[tuple[NDArray[np.uint8], int]]:
        """Yield (uint8 [H, W, 3] RGB, pts): pts in ticks of `time_base` from the clip's zero, strictly increasing."""
        for frame, pts in self._decoded():
            yield self._upright(frame), pts - self._origin

    def __iter__(self) -> Iterator[tuple[NDArray[np.uint8], float]]:
        """Yield (uint8 [H, W, 3] RGB, time in seconds)."""
        for image, pts in self.frames():
            yield image, float(pts * self.time_base)

    def audio(self) -> "AudioTrack | None":
        """Open the main sound track, trimmed and timed as the frames are; None without one."""
        if not self.has_audio:
            return None
        return AudioTrack(
            self.path,
            self._origin * self.time_base,
            self.start is not None,
            None if self._hi is None else self._hi * self.time_base,
        )

    def _decoded(self) -> Iterator[tuple["VideoFrame", int]]:
        """Yield the frames kept by the trim as (frame, pts from the file)."""
        self.damage = None
        if not self._lo:
            yield from self._kept(self._all_frames(None))
            return
        frames = self._all_frames(self._lo)
        first = next(frames, None)
        if first is None or first.pts is None or first.pts > self._lo:
            frames.close()  # the index sent us too far: count from the beginning instead
            yield from self._kept(self._all_frames(None))
        else:
            yield from self._kept(chain([first], frames))

    def _kept(self, frames: Iterable["VideoFrame"]) -> Iterator[tuple["VideoFrame", int]]:
        step = max(1, round(1 / (self.fps * self.time_base)))
        last: int | None = None
        for frame in frames:
            pts = frame.pts
            if pts is None:
                pts = self._zero if last is None else last + step
            if last is not None and pts <= last:
                pts = last + 1  # two frames at one time cannot be written, and dropping one would lose it
            last = pts
            if self._hi is not None and pts >= self._hi:
                return
            if self._lo is None or pts >= self._lo:
                if frame.is_corrupt and self.damage is None:
                    self.damage = f"the frame at {float((pts - self._zero) * self.time_base):.2f} s is broken"
                yield frame, pts

    def _all_frames(self, from_pts: int | None) -> Generator["VideoFrame", None, None]:
        """Decode from the beginning, or from the key frame before `from_pts`."""
        from av.error import FFmpegError

        with open_media(self.path) as container:
            stream = _video_stream(container, self.path)
            stream.thread_type = "AUTO"
            if from_pts is not None:
                # not seekable, or a time beyond 64 bits: read from the beginning
                with contextlib.suppress(FFmpegError, OverflowError):
                    container.seek(from_pts, stream=stream)
            for packet in self._packets(container, stream):
                try:
                    decoded = packet.decode()
                except (FFmpegError, OSError) as error:
                    self._note_damage(error)
                    continue
                yield from decoded
            try:  # where the file broke off, frames are still inside the decoder
                yield from stream.codec_context.decode(None)
            except FFmpegError as error:
                self._note_damage(error)

    def _packets(self, container: "InputContainer", stream: "VideoStream") -> Iterator["Packet"]:
        """The stream's packets up to its end or to where the file breaks off.

        A last one that is cut short is left out: its error comes late, from a thread of the decoder, and PyAV would
        drop good frames with it.
        """
        from av.error import FFmpegError

        packets, cut = container.demux(stream), None
        while True:
            try:
                packet = next(packets, None)
            except (FFmpegError, OSError) as error:
                self._note_damage(error)
                return
            if packet is None or not (packet.size or packet.dts):  # the last is empty
                if self.damage is None and (cut is not None or cut_short(self.path)):
                    self.damage = _CUT
                return
            if cut is not None:
                self.damage = self.damage or "a frame is damaged"
                yield cut
            cut = packet if packet.is_corrupt else None
            if cut is None:
                yield packet

    def _upright(self, frame: "VideoFrame") -> NDArray[np.uint8]:
        """To RGB with the matrix and range that the frame names, square pixels, turned upright (PyAV turns nothing)."""
        from av.video.reformatter import Interpolation

        width, height = self._size
        full = frame.color_range == _FULL_RANGE or (
            frame.color_range == 0 and frame.format.name.startswith(_FULL_FORMATS)
        )
        # untagged video: high definition is BT.709, smaller is BT.601, as players take it
        matrix = _MATRICES.get(frame.colorspace, "ITU709" if height >= 720 or width >= 1280 else "ITU601")
        rgb = frame.reformat(
            width=width,
            height=height,
            format="rgb24",
            src_colorspace=matrix,
            dst_colorspace=matrix,
            src_color_range="JPEG" if full else "MPEG",
            dst_color_range="JPEG",
            interpolation=int(Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT),
        )
        return turned(np.asarray(rgb.to_ndarray(), np.uint8), *self._orientation)

    def _note_damage(self, error: Exception) -> None:
        if self.damage is None:
            self.damage = reason(error)

    def __repr__(self) -> str:
        return f"VideoReader({shown(self.path)!r}, {self.width}x{self.height}, {float(self.fps):.5g} fps)"


class AudioTrack:
    """The packets of a file's main sound track, on the clock of its VideoReader."""

    def __init__(self, path: Path, origin: Fraction, trimmed: bool, end: Fraction | None) -> None:
        self._stack = contextlib.ExitStack()
        self._container = self._stack.enter_context(open_media(path))
        stream = _sound_stream(self._container)
        if stream is None:
            self.close()
            raise MediaError(f"{shown(path)} has no sound that can be read")
        self.stream = stream
        self.codec = self.stream.codec_context.name
        self.damage: str | None = None
        self._origin, self._trimmed, self._end = origin, trimmed, end

    def packets(self) -> Iterator["Packet"]:
        """Yield packets with their pts and dts moved to the clip's zero.

        After a trim the first packets lie before zero: a decoder needs them to be right at zero, and a container's edit
        list hides them.
        """
        from av.error import FFmpegError

        base = self.stream.time_base or Fraction(1, 90000)
        shift = round(self._origin / base)
        if self._trimmed and shift > 0:
            with contextlib.suppress(FFmpegError):
                self._container.seek(max(0, round((self._origin - 1) / base)), stream=self.stream)
        held: list[Packet] = []  # candidates for the pre-roll
        last: int | None = None
        source = self._container.demux(self.stream)
        while True:
            try:
                packet = next(source, None)
            except (FFmpegError, OSError) as error:
                self.damage = reason(error)
                packet = None
            if packet is None:
                break
            if packet.dts is None or packet.pts is None:
                continue  # the flush packet at the end
            if packet.pts < packet.dts or (last is not None and packet.dts <= last) or packet.is_corrupt:
                self.damage = self.damage or "packets out of order"
                continue  # no container takes them
            last = packet.dts
            if self._end is not None and packet.pts * base >= self._end:
                break
            packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
            if not self._trimmed or packet.pts >= 0:
                yield from held
                held.clear()
                yield packet
            else:
                held.append(packet)
                held = held[-self._preroll(packet) :]
        yield from held

    def _preroll(self, packet: "Packet") -> int:
        """How many packets before zero to keep: the one that covers it, and one more (Opus: 80 ms more)."""
        if self.codec == "opus" and packet.duration and self.stream.time_base:
            return 1 + ceil(_OPUS_PREROLL_S / (packet.duration * self.stream.time_base))
        return 2

    def close(self) -> None:
        self._stack.close()

    def __enter__(self) -> "AudioTrack":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextlib.contextmanager
def open_media(path: Path) -> Iterator["InputContainer"]:
    """Open a local media file; a playlist in it cannot reach the network. Errors become MediaError."""
    import av
    from av.error import FFmpegError, InvalidDataError

    check_in(path, "video")
    try:
        # "file:" keeps a colon in the name from being read as a protocol
        container = av.open(f"file:{path}", options={"protocol_whitelist": "file"}, metadata_errors="replace")
    except (FFmpegError, OSError, ValueError) as error:
        if isinstance(error, InvalidDataError | EOFError) and cut_short(path):
            raise MediaError(f"{shown(path)} is {_CUT}, before its index: get it anew") from error
        raise MediaError(
            f"{shown(path)} cannot be read as a video ({reason(error)}): if it plays elsewhere, convert it to mp4 first"
        ) from error
    with container:
        yield container


def reason(error: Exception) -> str:
    """The short text of an FFmpeg or system error."""
    return str(getattr(error, "strerror", None) or error).split("\n")[0][:120]


def _video_stream(container: "InputContainer", path: Path) -> "VideoStream":
    """The main video stream; cover art of a song is none."""
    from av.stream import Disposition

    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams:
        if cut_short(path):
            raise MediaError(f"{shown(path)} is {_CUT}, within its index: get it anew")
        held = " (only sound)" if container.streams.audio else ""
        raise MediaError(f"{shown(path)} has no video stream{held}: name a video")
    best = container.streams.best("video")
    stream = next((s for s in streams if best is not None and s.index == best.index), streams[0])
    if stream.codec_context is None:
        raise MediaError(f"{shown(path)} holds a video in a codec that cannot be decoded here: convert it to mp4 first")
    return stream


def _sound_stream(container: "InputContainer") -> "AudioStream | None":
    """The main sound stream of those that can be decoded."""
    best = container.streams.best("audio")
    streams = [s for s in container.streams.audio if s.codec_context is not None and s.codec_context.sample_rate]
    return next((s for s in streams if best is not None and s.index == best.index), streams[0] if streams else None)


def _clip_zero(container: "InputContainer", time_base: Fraction) -> int:
    """Ticks at which the clip begins: broadcast streams start anywhere, everything else at 0."""
    if not container.format.flags & _TS_DISCONT or not container.start_time:
        return 0
    earliest = min(
        (s.start_time * s.time_base for s in container.streams if s.start_time is not None and s.time_base is not None),
        default=Fraction(0),
    )
    return round(earliest / time_base)


def _orientation(frame: "VideoFrame") -> tuple[bool, bool, bool]:
    """(transpose first, then mirror left-right, flip top-bottom) asked for by the display matrix: its 8 cases."""
    from av.sidedata.sidedata import Type

    try:
        matrix = frame.side_data.get(Type.DISPLAYMATRIX)  # type: ignore[call-overload]
    except ValueError:  # side data newer than PyAV, such as the EXIF of a camera's JPEGs; it still tells the rotation
        turns = frame.rotation // 90 % 4
        return turns % 2 == 1, turns >= 2, turns in (1, 2)
    if matrix is None:
        return False, False, False
    # rows of 16.16 fixed point: x' = a x + c y, y' = b x + d y (FFmpeg, libavutil/display.h)
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
    transposed = abs(a) + abs(d) < abs(b) + abs(c)
    return (True, c < 0, b < 0) if transposed else (False, a < 0, d < 0)
