"""One file in, one file out: track the driver, look ahead for its neutral frame, render, keep times and sound."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fastreenact.errors import MediaError, NoFaceError
from fastreenact.media import in_a_row, is_picture, picture_format, read_image, write_image
from fastreenact.media.files import check_out, fit_name, shown
from fastreenact.media.read import VideoReader
from fastreenact.media.write import VideoWriter

if TYPE_CHECKING:
    from fastreenact.face.driver import Sighting
    from fastreenact.face.motion import Motion, MotionClip

# called as (stage, frames done, frames expected or None); stages are "track" and "render"
Progress = Callable[[str, int, int | None], None]
Trim = tuple[float | None, float | None]
Saw = Callable[["Sighting | None"], None]  # called with the face in each frame, or None where it shows none

_LOOKAHEAD = 30  # frames searched for the driver's neutral one (DESIGN.md, Faces)
_TEMPLATE_TIME_BASE = Fraction(1, 90000)  # for templates that name none: exact at 24, 25, 29.97, 30, 50 and 60 fps


class Animates(Protocol):
    """What is needed of an engine: `fastreenact.Engine` has it."""

    @property
    def output_size(self) -> tuple[int, int]:
        """(H, W) of its frames."""

    @property
    def source_picture(self) -> NDArray[np.uint8]:
        """uint8 [H, W, 3]: the portrait as its frames show it at rest."""

    @property
    def sees_pictures(self) -> bool:
        """Whether its model looks at the driver's pictures: it is driven with a `fastreenact.face.driver.Tracked`."""

    def step(self, driver: Any, *, time: float | None = None, out: Any = None) -> Any:
        """One frame, for a `Motion` or a `Tracked` at a time in seconds, into `out` where that is given."""

    def use_reference(self, motion: "Motion | None") -> None:
        """Fix the driver's neutral frame."""

    def reset(self) -> None:
        """Forget the driver."""


@dataclass(frozen=True)
class AnimateResult:
    """What was written."""

    path: Path
    frames: int
    seconds: float
    """Wall time of the whole run."""
    notes: list[str] = field(default_factory=list)
    """What a user should know about the result, one line each."""
    damaged: bool = False
    """The driver is damaged: the result ends or jumps where it breaks."""


def animate(
    engine: Animates,
    driver: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    side_by_side: bool = False,
    trim: Trim | None = None,
    quality: str | int = "medium",
    template_out: str | os.PathLike[str] | None = None,
    sound: bool = True,
    force: bool = False,
    progress: Progress | None = None,
    tracker: Any = None,
) -> AnimateResult:
    """Animate the engine's portrait with a file.

    A video gives a video with the same frames at the same times and its sound; a motion template gives a video at the
    template's times, from zero; a picture gives a picture, moved by how far the face in it is from a frontal, neutral
    one. The clip is read once to track it and, for `side_by_side` or a model that looks at it, again to show it: memory
    does not grow with length, but for 6 kB a frame that such a model needs to know of faces.

    Args:
        engine: holds the portrait; its driver state is reset before and after.
        driver: video, picture or motion template (.safetensors).
        out: file to write; None: ANIMATED--DRIVER in the current folder.
        side_by_side: show portrait, driver and result in a row.
        trim: (start, end) in seconds of the driver, either may be None; the result starts at time zero.
        quality: "low", "medium", "high" or x264's CRF, 0 to 51.
        template_out: also save the tracked motion there (.safetensors).
        sound: keep the driver's sound.
        force: overwrite existing files, once their successors are complete.
        progress: called after every frame.
        tracker: a face tracker to use instead of MediaPipe's mesh; `Tracker(face=2)` follows the second from
            the left.

    Returns:
        AnimateResult.

    Raises:
        MediaError: a file cannot be read or written. NoFaceError: the driver shows no face at all.
        ValueError: `quality` or `trim` is off.
        KeyboardInterrupt: stopped; `out` is untouched, the rendered part is kept beside it and named in the message.
    """
    started = perf_counter()
    driver = Path(driver)
    target = Path(out) if out is not None else default_out("animated", driver)
    template = Path(template_out) if template_out is not None else None
    check_paths(driver, target, template, force=force)
    run = _Run(engine, driver, target, template, side_by_side, quality, sound, force, progress, tracker)
    work = {"picture": run.picture, "template": run.template, "video": run.video}[driver_kind(driver)]
    engine.reset()
    try:
        frames = work(trim)
    finally:
        engine.use_reference(None)
        engine.reset()
    return AnimateResult(target, frames, perf_counter() - started, run.notes, run.damaged)


def track(
    driver: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    trim: Trim | None = None,
    force: bool = False,
    progress: Progress | None = None,
    tracker: Any = None,
) -> AnimateResult:
    """Track a video or picture and save its motion as a template; arguments and errors as for `animate`."""
    started = perf_counter()
    driver, target = Path(driver), Path(out)
    check_paths(driver, target, target, force=force)
    if driver_kind(driver) == "template":
        raise MediaError(f"{shown(driver)} is a motion template already: name a video or a picture")
    notes: list[str] = []
    if is_picture(driver):
        clip, damaged = track_picture(read_image(driver), driver, tracker), False
        notes += _untrimmed(driver, trim)
    else:
        reader = _reader(driver, trim)
        clip, _ = track_video(reader, tracker=tracker, progress=progress)
        damaged = _note_reading(reader, clip, notes)
    clip.save(target)
    return AnimateResult(target, len(clip), perf_counter() - started, notes, damaged)


@dataclass
class _Run:
    """One call of `animate`: its options, and what it has to say about the result."""

    engine: Animates
    driver: Path
    out: Path
    template_out: Path | None
    row: bool
    quality: str | int
    sound: bool
    force: bool
    progress: Progress | None
    tracker: Any
    notes: list[str] = field(default_factory=list)
    damaged: bool = False
    faces: list["Sighting | None"] = field(default_factory=list)  # the driver's, a frame each, where a model sees them

    def picture(self, trim: Trim | None) -> int:
        image = read_image(self.driver)
        if self.out.suffix.lower() in (".mp4", ".m4v", ".mov", ".mkv"):
            raise MediaError(
                f"{shown(self.driver)} is a picture, so {shown(self.out)} would hold one frame: "
                "name a .png, or drive with a video"
            )
        picture_format(self.out)  # a name that will not do is refused before the template is written
        self.notes += _untrimmed(self.driver, trim)
        clip = track_picture(image, self.driver, self.tracker, self._saw)
        self._save_template(clip)
        self.engine.use_reference(_neutral_like(clip[0]))
        frame = self.engine.step(self._seen(clip, 0, image), time=0.0)
        panels = (self.engine.source_picture, image, frame)
        write_image(self.out, in_a_row(panels, frame.shape[0]) if self.row else frame, force=self.force)
        return 1

    def template(self, trim: Trim | None) -> int:
        from fastreenact.face.motion import MotionClip

        clip = MotionClip.load(self.driver)
        if getattr(self.tracker, "face", None) is not None:
            self.notes.append(f"{shown(self.driver)} is the motion of one face already: none is chosen by its number")
        if trim is not None:
            try:
                clip = clip.trim(trim[0] or 0.0, trim[1])
            except ValueError as error:
                raise MediaError(f"{shown(self.driver)}: {error}") from error
        if not (clip.confidence > 0).any():
            raise _no_face(self.driver, len(clip))
        self._save_template(clip)
        time_base = _clip_time_base(clip)
        pts = _rising([round((t - float(clip.time[0])) / time_base) for t in clip.time.tolist()])
        fps = Fraction(len(clip) - 1) / (pts[-1] * time_base) if len(clip) > 1 else Fraction(25)
        writer = VideoWriter(self.out, time_base=time_base, fps=fps, quality=self.quality, force=self.force)
        self._render(writer, clip, pts, None)
        return len(clip)

    def video(self, trim: Trim | None) -> int:
        reader = _reader(self.driver, trim)
        # Made before the tracking, which takes long: a name or a quality that will not do is refused at once.
        writer = VideoWriter(
            self.out,
            time_base=reader.time_base,
            fps=reader.fps,
            quality=self.quality,
            audio=reader.audio() if self.sound else None,
            force=self.force,
        )
        try:
            clip, pts = track_video(reader, tracker=self.tracker, progress=self.progress, saw=self._saw)
            self._save_template(clip)
        except BaseException:
            writer.abandon(keep=False)
            raise
        self.damaged = _note_reading(reader, clip, self.notes)
        self._render(writer, clip, pts, reader.frames() if self.row or self.engine.sees_pictures else None)
        return len(clip)

    @property
    def _saw(self) -> Saw | None:
        """Keeps the faces of the one pass that tracks, where the model looks at them."""
        return self.faces.append if self.engine.sees_pictures else None

    def _seen(self, clip: "MotionClip", index: int, picture: NDArray[np.uint8] | None) -> Any:
        """What the engine is driven with: the motion, and with it the picture for a model that looks at it."""
        from fastreenact.face.driver import Tracked

        if picture is None or not self.engine.sees_pictures:
            return clip[index]
        return Tracked(clip[index], picture, self.faces[index])

    def _save_template(self, clip: "MotionClip") -> None:
        if self.template_out is not None:
            clip.save(self.template_out)

    def _render(
        self,
        writer: VideoWriter,
        clip: "MotionClip",
        pts: list[int],
        driver_frames: Iterator[tuple[NDArray[np.uint8], int]] | None,
    ) -> None:
        from fastreenact.face.retarget import choose_reference

        frame = np.empty((*self.engine.output_size, 3), np.uint8)
        shown_driver: NDArray[np.uint8] | None = None
        try:
            with writer:
                # A single frame would be its own reference and move nothing.
                alone = len(clip) == 1 and clip[0].found
                self.engine.use_reference(
                    _neutral_like(clip[0]) if alone else choose_reference(clip, lookahead=_LOOKAHEAD)
                )
                for i, ticks in enumerate(pts):
                    if driver_frames is not None:
                        shown_driver = next(driver_frames, (shown_driver, 0))[0]
                    self.engine.step(self._seen(clip, i, shown_driver), time=float(clip.time[i]), out=frame)
                    image = frame
                    if self.row:
                        panels = [self.engine.source_picture, shown_driver, frame]
                        image = in_a_row([panel for panel in panels if panel is not None], frame.shape[0])
                    writer.write(image, ticks)
                    if self.progress is not None:
                        self.progress("render", i + 1, len(pts))
        except KeyboardInterrupt:
            kept = f"; they are in {shown(writer.part)}" if writer.part.exists() else ""
            raise KeyboardInterrupt(f"stopped after {writer.frames} of {len(pts)} frames{kept}") from None
        self.notes += writer.notes


def track_video(
    reader: VideoReader, *, tracker: Any = None, progress: Progress | None = None, saw: Saw | None = None
) -> tuple["MotionClip", list[int]]:
    """Track every frame of a video, once.

    Returns:
        The motion clip, one entry a frame, and the frames' pts in ticks of the reader's time base.

    Raises:
        NoFaceError: no frame shows a face.
    """
    pts: list[int] = []

    def frames() -> Iterator[tuple[NDArray[np.uint8], float]]:
        for image, ticks in reader.frames():
            pts.append(ticks)
            yield image, float(ticks * reader.time_base)
            if progress is not None:
                progress("track", len(pts), reader.n_frames)

    clip = _track_frames(frames(), tracker, saw)
    if not (clip.confidence > 0).any():
        raise _no_face(reader.path, len(clip), tracker)
    clip.metadata["time_base"] = str(reader.time_base)
    clip.metadata["fps"] = f"{float(reader.fps):.6g}"
    return clip, pts


def track_picture(image: NDArray[np.uint8], path: Path, tracker: Any = None, saw: Saw | None = None) -> "MotionClip":
    """Track a single picture, as a clip of one frame at time 0."""
    clip = _track_frames([(image, 0.0)], tracker, saw)
    if not (clip.confidence > 0).any():
        raise _no_face(path, 1, tracker)
    return clip


def driver_kind(driver: Path) -> str:
    """ "template", "picture" or "video", by suffix for templates and by content for the rest."""
    if driver.suffix.lower() == ".safetensors":
        return "template"
    return "picture" if is_picture(driver) else "video"


def default_out(source: str | os.PathLike[str], driver: str | os.PathLike[str]) -> Path:
    """SOURCE--DRIVER.mp4 in the current folder, .png when the driver is a picture."""
    driver = Path(driver)
    return Path(fit_name(f"{Path(source).stem}--{driver.stem}", ".png" if driver_kind(driver) == "picture" else ".mp4"))


def _track_frames(
    frames: Iterable[tuple[NDArray[np.uint8], float]], tracker: Any, saw: Saw | None = None
) -> "MotionClip":
    """Track and fit, with MediaPipe's mesh or the caller's tracker; the tests put something quicker in its place."""
    from fastreenact.face.driver import Driver

    driver = Driver(tracker=tracker, live=False)
    try:
        return driver.track_clip(frames, None if saw is None else lambda _: saw(driver.sighting))
    finally:
        if tracker is None:  # the caller's own stays open
            driver.close()


def _reader(driver: Path, trim: Trim | None) -> VideoReader:
    start, end = trim if trim is not None else (None, None)
    return VideoReader(driver, start=start, end=end)


def check_paths(driver: Path, out: Path, template_out: Path | None, *, force: bool, source: Path | None = None) -> None:
    """Raise MediaError before the work where it would have to be raised after it."""
    for given in (driver, source):
        if given is not None and not given.exists():
            raise MediaError(f"{shown(given)}: no such file")
    for target in [out] + ([template_out] if template_out is not None else []):
        check_out(target, force=force)
        for name, given in (("driver", driver), ("portrait", source)):
            if given is not None and target.exists() and os.path.samefile(target, given):
                raise MediaError(f"{shown(target)} is the {name} itself: choose another name")
    if template_out is not None and template_out.suffix.lower() != ".safetensors":
        raise MediaError(f"{shown(template_out)}: motion templates are written as .safetensors; choose this ending")


def _note_reading(reader: VideoReader, clip: "MotionClip", notes: list[str]) -> bool:
    """Say what is odd about the driver; True if it is damaged."""
    notes += reader.notes
    missing = int((clip.confidence == 0).sum())
    if missing:
        notes.append(f"{missing} of {len(clip)} frames show no face: the last motion is held, then eases to rest")
    if reader.damage is not None:
        notes.append(f"{shown(reader.path)} is damaged ({reader.damage}): {len(clip)} frames could be read")
    return reader.damage is not None


def _untrimmed(picture: Path, trim: Trim | None) -> list[str]:
    return [] if trim is None else [f"{shown(picture)} is a picture, which has no times: nothing is trimmed"]


def _no_face(path: Path, frames: int, tracker: Any = None) -> NoFaceError:
    where = "" if frames == 1 else f" in any of its {frames} frames"
    if getattr(tracker, "face", None) is not None:
        return NoFaceError(
            f"{shown(path)}: face {tracker.face} was asked for, but so many were not found{where}; "
            "give a smaller number, or none for the largest"
        )
    return NoFaceError(
        f"{shown(path)}: no face found{where}; take one where the face is upright, lit and not smaller "
        "than about a tenth of the picture"
    )


def _neutral_like(motion: "Motion") -> "Motion":
    """A frontal face without expression at the place and size of `motion`'s: the reference for a single picture."""
    from fastreenact.face.motion import Motion

    pose = motion.pose.copy()
    pose[:3] = 0
    return Motion(pose, np.zeros_like(motion.expression), motion.time, motion.confidence)


def _clip_time_base(clip: "MotionClip") -> Fraction:
    """The tick of the video that the clip was tracked from, where it is named."""
    try:
        time_base = Fraction(clip.metadata.get("time_base", ""))
    except (ValueError, ZeroDivisionError):
        return _TEMPLATE_TIME_BASE
    return time_base if Fraction(1, 10_000_000) < time_base <= 1 else _TEMPLATE_TIME_BASE


def _rising(pts: list[int]) -> list[int]:
    """Two frames that fall on one tick are one tick apart."""
    for i in range(1, len(pts)):
        pts[i] = max(pts[i], pts[i - 1] + 1)
    return pts
