"""Videos out: H.264 at the times it is given, sound copied beside it, the file complete or not there."""

import logging
import os
from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from math import ceil
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from fastreenact.errors import MediaError
from fastreenact.media.files import check_frame, check_out, part_path, shown, uninterrupted
from fastreenact.media.read import AudioTrack, reason

if TYPE_CHECKING:
    from av import AudioFrame, AudioStream, Packet, VideoStream
    from av.container import OutputContainer

_log = logging.getLogger("fastreenact")

QUALITIES = {"low": 28, "medium": 22, "high": 17}  # x264's constant rate factor; 23 is its own default
_ENCODERS = ("libx264", "libopenh264", "mpeg4")  # the first that this FFmpeg build has

# Sound that players take in the container as it is; other codecs are encoded to AAC. Matroska takes all.
_COPIED = {
    ".mp4": {"aac", "mp3", "mp3float", "ac3", "eac3", "alac", "opus", "flac"},
    ".mov": {"aac", "mp3", "mp3float", "ac3", "eac3", "alac", "pcm_s16le", "pcm_s24le", "pcm_s16be", "pcm_s24be"},
}
_COPIED[".m4v"] = _COPIED[".mp4"]

# Fragments of half a second make the part file playable if the process dies; the finished file is an ordinary mp4.
# delay_moov: only then does FFmpeg write the edit lists that keep times before zero exact.
# max_interleave_delta, microseconds: where the sound ends early, frames would wait 10 s for more of it.
_ALL_OPTIONS = {"flush_packets": "1", "max_interleave_delta": "100000"}
_MOV_OPTIONS = {"movflags": "hybrid_fragmented+delay_moov", "frag_duration": "500000", **_ALL_OPTIONS}
_MKV_OPTIONS = {"cluster_time_limit": "500", **_ALL_OPTIONS}
_CONTAINERS = {
    ".mp4": ("mp4", _MOV_OPTIONS),
    ".m4v": ("mp4", _MOV_OPTIONS),
    ".mov": ("mov", _MOV_OPTIONS),
    ".mkv": ("matroska", _MKV_OPTIONS),
}
SUFFIXES = tuple(_CONTAINERS)


def crf_of(quality: str | int) -> int:
    """x264's constant rate factor for low, medium, high or a number from 0 (lossless) to 51."""
    if isinstance(quality, str) and quality.lower() in QUALITIES:
        return QUALITIES[quality.lower()]
    try:
        crf = int(quality)
    except (TypeError, ValueError):
        crf = -1
    if not 0 <= crf <= 51:
        raise ValueError(f"quality is {quality!r}; needs {', '.join(QUALITIES)} or a number from 0 (best) to 51")
    return crf


class VideoWriter:
    """Write frames as H.264, yuv420p, BT.709, into NAME.part.SUFFIX, renamed to NAME.SUFFIX by `close`.

    The size is that of the first frame; an odd side is padded by one repeated row or column. As a context manager: left
    by an exception, the part file is removed; left by KeyboardInterrupt, it is finished, kept and playable.

    Args:
        path: .mp4, .m4v, .mov or .mkv.
        time_base: seconds per tick of the pts given to `write`.
        fps: average rate, for the encoder's rate control; the times are those of the pts.
        quality: low, medium, high or a CRF number.
        audio: sound to put beside the frames; closed with the writer.
        force: overwrite an existing file when complete.

    Attributes:
        part: Path of the growing file.
        frames: written so far.
        notes: what a user should know, one line each.

    Raises:
        MediaError: the name is taken and `force` is False, another suffix, no folder; from `write` and `close`: the
            disk is full or the encoder refuses.
        ValueError: `quality` is unknown.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        time_base: Fraction,
        fps: Fraction | float = 25,
        quality: str | int = "medium",
        audio: AudioTrack | None = None,
        force: bool = False,
    ) -> None:
        self.path = Path(path)
        self.part = part_path(self.path)
        self.frames = 0
        self.notes: list[str] = []
        self._crf = crf_of(quality)
        self._suffix = self.path.suffix.lower()
        if self._suffix not in SUFFIXES:
            raise MediaError(f"{shown(path)}: videos are written as {', '.join(SUFFIXES)}; choose one of these endings")
        check_out(self.path, force=force)
        self._time_base = Fraction(time_base)
        self._fps = Fraction(fps).limit_denominator(1_000_000)
        self._audio = audio
        self._sound: Iterator[tuple[Packet, float]] | None = None
        self._next_sound: tuple[Packet, float] | None = None
        self._container: OutputContainer | None = None
        self._reached = 0.0  # seconds, of the last frame
        self._waiting: deque[Packet] = deque()  # encoded, not yet muxed
        self._times: deque[int] = deque()  # ticks: of these and of the frames still in the encoder

    def write(self, image: NDArray[np.uint8], pts: int, *, duration: int = 0) -> None:
        """Append a frame.

        Args:
            image: uint8 [H, W, 3] RGB, of the first frame's size.
            pts: presentation time in ticks of `time_base`, larger than the last one.
            duration: in ticks, 0 where unknown; only the last frame's is seen by players.
        """
        from av import VideoFrame
        from av.error import FFmpegError
        from av.video.reformatter import Interpolation

        try:
            if self._container is None:
                self._open(image)
            if image.shape != self._shape:
                raise ValueError(f"image is {list(image.shape)}; the first frame was {list(self._shape)}")
            pad_y, pad_x = image.shape[0] % 2, image.shape[1] % 2
            if pad_y or pad_x:
                image = np.pad(image, ((0, pad_y), (0, pad_x), (0, 0)), mode="edge")
            frame = VideoFrame.from_ndarray(np.ascontiguousarray(image)).reformat(
                format="yuv420p",
                src_colorspace="ITU709",
                dst_colorspace="ITU709",
                src_color_range="JPEG",
                dst_color_range="MPEG",
                interpolation=int(Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT),
            )
            frame.pts, frame.time_base, frame.duration = pts, self._time_base, duration
            with uninterrupted():
                self._reached = float(pts * self._time_base)
                self._mux_sound(self._reached)
                self._times.append(pts)
                self._mux_video(self._video.encode(frame))
                self.frames += 1
        except (FFmpegError, OSError, OverflowError) as error:  # the last: a time beyond 64 bits
            raise self._failure(error) from error

    def close(self) -> None:
        """Finish the file and give it its name; without a frame written, nothing appears."""
        with uninterrupted():
            if not self._finish(float("inf")):
                return
            try:
                os.replace(self.part, self.path)
            except OSError as error:
                raise self._failure(error) from error

    def abandon(self, *, keep: bool) -> None:
        """Stop without giving the file its name; with `keep` the part file is finished and stays, playable."""
        if keep:
            with uninterrupted():
                self._finish(self._reached)
            return
        self._close_all()
        self.part.unlink(missing_ok=True)

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon(keep=issubclass(kind, KeyboardInterrupt))

    def _open(self, image: NDArray[np.uint8]) -> None:
        """Create the part file with its streams, once the size is known."""
        import av

        check_frame(image)
        self._shape = image.shape
        height, width = (side + side % 2 for side in image.shape[:2])
        if (height, width) != image.shape[:2]:
            self.notes.append(
                f"{image.shape[1]} x {image.shape[0]} padded to {width} x {height}: H.264 needs even sides"
            )
        encoder = _encoder()
        if encoder != _ENCODERS[0]:
            self.notes.append(f"this FFmpeg build has no {_ENCODERS[0]}: encoded with {encoder}")
        kind, options = _CONTAINERS[self._suffix]
        if kind != "matroska":
            # a clip that starts late is delayed in units of this; FFmpeg's default is milliseconds
            ticks = self._time_base.denominator
            options = options | {"movie_timescale": str(ticks * ceil(1000 / ticks) if ticks < 1 << 24 else 1000)}
        self._container = av.open(f"file:{self.part}", "w", format=kind, options=options)
        self._video = cast("VideoStream", self._container.add_stream(encoder, rate=self._fps))
        self._set_up_video(encoder, width, height)
        if self._audio is not None:
            self._sound = self._sound_packets(self._audio, self._container)
            self._next_sound = next(self._sound, None)

    def _set_up_video(self, encoder: str, width: int, height: int) -> None:
        video = self._video
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        video.time_base = video.codec_context.time_base = self._time_base
        video.codec_context.gop_size = max(1, min(250, round(2 * self._fps)))  # a key frame every 2 s to seek by
        context = video.codec_context
        context.colorspace = context.color_primaries = context.color_trc = 1  # BT.709
        context.color_range = 1  # limited
        if encoder == "libx264":
            # No B-frames: with them hybrid_fragmented writes an edit list that can hide the last frame (FFmpeg 8).
            # veryfast, measured on two of the clips: 18% larger files at the same PSNR, encoded 1.5 times as fast.
            # The encoder holds a frame back for each thread (of which it would take 1.5 a core) and all that it looks
            # ahead at. With half a second of fragment, 0.4 s of them keep what a killed run loses under a second.
            held = max(0, int(0.4 * self._fps) - 2)
            threads = min(4, 1 + held // 3)
            ahead = min(10, held - (threads - 1))  # 10 is what veryfast takes
            video.options = {
                "preset": "veryfast",
                "crf": str(self._crf),
                "bf": "0",
                "threads": str(threads),
                "rc-lookahead": str(ahead),
            }
        else:
            bits_per_pixel = 0.1 * 2 ** ((23 - self._crf) / 6)  # 6 steps of CRF halve the rate (x264)
            context.bit_rate = max(100_000, int(width * height * float(self._fps) * bits_per_pixel))

    def _sound_packets(self, audio: AudioTrack, container: "OutputContainer") -> Iterator[tuple["Packet", float]]:
        """Add the sound stream now; then yield its packets for muxing, each with its time in seconds."""
        # AAC of a broadcast stream keeps its description in every packet; the containers here want it once, up front
        bare = audio.codec == "aac" and not audio.stream.codec_context.extradata
        if not bare and (self._suffix == ".mkv" or audio.codec in _COPIED[self._suffix]):
            stream = container.add_stream_from_template(audio.stream)
            return self._copied_packets(audio, stream)
        rate = audio.stream.codec_context.sample_rate or 48000
        target = container.add_stream("aac", rate=min(rate, 96000))
        target.layout = "mono" if audio.stream.codec_context.channels == 1 else "stereo"
        self.notes.append(
            f"sound in {audio.codec}{' of a broadcast stream' if bare else ''} does not go into "
            f"{self._suffix} as it is: encoded to AAC"
        )
        return self._encoded_packets(audio, target)

    def _copied_packets(self, audio: AudioTrack, stream: "AudioStream") -> Iterator[tuple["Packet", float]]:
        for packet in audio.packets():
            seconds = float((packet.dts or 0) * packet.time_base)
            if self._suffix == ".mkv" and packet.pts is not None and packet.pts < 0:
                continue  # Matroska has no edit list: a packet before zero would move everything else
            packet.stream = stream
            yield packet, seconds

    def _encoded_packets(self, audio: AudioTrack, target: "AudioStream") -> Iterator[tuple["Packet", float]]:
        from av.error import FFmpegError

        for packet in audio.packets():
            try:
                frames = packet.decode()
            except FFmpegError as error:
                audio.damage = reason(error)
                continue
            for frame in cast("list[AudioFrame]", frames):
                for encoded in target.encode(frame):
                    yield encoded, float((encoded.dts or 0) * encoded.time_base)
        for encoded in target.encode(None):
            yield encoded, float((encoded.dts or 0) * encoded.time_base)

    def _mux_sound(self, until: float) -> None:
        """Mux the sound up to a time, so that the muxer has to hold back little of either stream."""
        while self._container and self._sound and self._next_sound is not None and self._next_sound[1] <= until:
            self._container.mux(self._next_sound[0])
            self._next_sound = next(self._sound, None)

    def _mux_video(self, packets: "list[Packet]", *, last: bool = False) -> None:
        """Mux what the encoder gave, each packet once its duration is known.

        In a fragment that the sound begins, FFmpeg (8) does not take the first frame's own time but the end of the
        frame before: a duration that is guessed would shift it. The encoder has no B-frames, so packets keep the order.
        """
        self._waiting.extend(packets)
        while self._container is not None and self._waiting and (last or len(self._times) > 1):
            packet, pts = self._waiting.popleft(), self._times.popleft()
            if self._times:
                packet.duration = round((self._times[0] - pts) * self._time_base / packet.time_base)
            self._container.mux(packet)

    def _finish(self, until: float) -> bool:
        """Flush encoder and sound (up to a time) and write the trailer; False when there was nothing to finish."""
        from av.error import FFmpegError

        if self._container is None:
            self._close_all()
            return False
        try:
            self._mux_video(self._video.encode(None), last=True)
            self._mux_sound(until)
            self._container.close()
        except (FFmpegError, OSError) as error:
            raise self._failure(error) from error
        if self._audio is not None and self._audio.damage:
            self.notes.append(f"the sound track is damaged ({self._audio.damage}): copied up to there")
        self._close_all()
        return True

    def _failure(self, error: Exception) -> MediaError:
        """Close and remove what there is, and say what happened."""
        self._close_all()
        self.part.unlink(missing_ok=True)
        advice = "make room on the disk" if getattr(error, "errno", None) == 28 else "nothing was kept"
        return MediaError(f"{shown(self.path)} cannot be written ({reason(error)}): {advice}")

    def _close_all(self) -> None:
        from av.error import FFmpegError

        container, self._container, self._sound = self._container, None, None
        if container is not None:
            try:
                container.close()
            except (FFmpegError, OSError) as error:
                _log.debug("closing %s: %s", shown(self.part), error)
        if self._audio is not None:
            self._audio.close()


def _encoder() -> str:
    """The best video encoder of this FFmpeg build."""
    import av

    for name in _ENCODERS:
        if name in av.codecs_available:
            return name
    raise MediaError(
        f"this FFmpeg build has none of the encoders {', '.join(_ENCODERS)}: reinstall PyAV (pip install av)"
    )
