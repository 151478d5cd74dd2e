"""A real clip as the truth of a reenactment: its first face is the portrait, every n-th frame after it a driver."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastreenact.errors import NoFaceError
from fastreenact.face.crop import Box, crop
from fastreenact.face.keypoints import from_any
from fastreenact.face.morphable.fit import Fit, fit, fit_shape
from fastreenact.face.morphable.model import MorphableModel, default_model
from fastreenact.face.motion import Motion
from fastreenact.face.source import SourceFace, fit_source
from fastreenact.media import VideoReader
from fastreenact.media.files import shown

MAX_FRAMES = 1000  # drivers of a clip, which stay in memory: 200 MB at 256 px

Picture = NDArray[np.uint8]
Keypoints = NDArray[np.float32]  # [72, 2] px
Progress = Callable[[str, int, int | None], None]


class Faces:
    """Tracks square pictures of one size, each by itself, and fits what was tracked."""

    def __init__(self, tracker: Any, size: int):
        """
        Args:
            tracker: a `Tracker` (its `find` is used), or a callable that gives `Landmarks` or None.
            size: side of the pictures, px.
        """
        self.model: MorphableModel = default_model()
        self.tracker, self.size = tracker, size
        self._find = getattr(tracker, "find", tracker)
        self._box = Box.whole(size)

    def __call__(self, picture: Picture) -> Keypoints | None:
        """The keypoints [72, 2] px of a picture; None without a face."""
        found = self._find(picture)
        return None if found is None else from_any(found.points)

    def portrait(self, picture: Picture) -> SourceFace:
        """A portrait's face, as the engine sees it."""
        return fit_source(picture, model=self.model, tracker=self.tracker)

    def shape(self, keypoints: list[Keypoints]) -> NDArray[np.float32]:
        """The one shape [50] of a person's keypoints."""
        return fit_shape(self.model, self._box.normalise(np.stack(keypoints)))

    def fit(self, keypoints: Keypoints, shape: NDArray[np.float32]) -> Fit:
        """Pose and expression of one picture."""
        return fit(self.model, self._box.normalise(keypoints), shape, None)


@dataclass
class Clip:
    """What is true of a clip."""

    name: str
    source: Picture  # [H, W, 3] the whole frame that serves as portrait
    shape: NDArray[np.float32]  # [50] of the portrait, from this one frame
    still: Picture  # [size, size, 3] the same, cut as the drivers are
    rest: Keypoints  # of `still`
    frames: list[Picture] = field(default_factory=list)  # the drivers, cut by the portrait's box
    keypoints: list[Keypoints] = field(default_factory=list)  # of the drivers
    again: list[Keypoints | None] = field(default_factory=list)  # tracked on cuts one pixel aside, px of `frames`
    times: list[float] = field(default_factory=list)  # s
    motions: list[Motion] = field(default_factory=list)  # of the drivers, fitted with the portrait's shape, in its box
    own_shape: NDArray[np.float32] = field(default_factory=lambda: np.zeros(50, np.float32))  # from the whole clip
    own_motions: list[Motion] = field(default_factory=list)  # as `motions`, but fitted with `own_shape`
    faceless: int = 0  # frames left out because the tracker finds no face in them
    notes: list[str] = field(default_factory=list)

    @property
    def large(self) -> NDArray[np.intp]:
        """Which drivers are the quarter that is furthest from the portrait: mean distance of the keypoints."""
        moved = [float(np.linalg.norm(points - self.rest, axis=1).mean()) for points in self.keypoints]
        return np.sort(np.argsort(moved, kind="stable")[len(moved) * 3 // 4 :])


def read_clip(
    path: str | os.PathLike[str], name: str, faces: Faces, every: int, progress: Progress | None = None
) -> Clip:
    """Read, cut, track and fit a clip.

    The portrait is the first of the frames taken that shows a face. All drivers are cut by its box, so that the head
    moves in them as it does in the clip.

    Args:
        path: a video.
        name: what it is called in tables.
        faces: at the size of the evaluation.
        every: every n-th frame is taken.
        progress: called as (stage, frames done, frames in all or None).

    Raises:
        MediaError: the video cannot be read. NoFaceError: it shows no face, or in one frame only.
    """
    reader = VideoReader(path)
    clip: Clip | None = None
    total = None if reader.n_frames is None else min(-(-reader.n_frames // every), MAX_FRAMES + 1)
    face: SourceFace | None = None
    faceless = 0
    for index, (frame, time) in enumerate(reader):
        if index % every:
            continue
        if clip is None:
            face = _portrait_or_none(frame, faces)
        cut = None if face is None else crop(frame, face.box, faces.size)
        found = None if cut is None else faces(cut)
        if face is None or cut is None or found is None:
            faceless += 1
        elif clip is None:
            clip = Clip(name, frame, face.shape, cut, found)
        else:
            _add(clip, frame, cut, found, time, face.box, faces)
            if len(clip.frames) == MAX_FRAMES:
                clip.notes.append(f"{shown(path)}: the first {MAX_FRAMES} drivers only, the rest is left out")
                break
        if progress is not None:
            progress("track", index // every + 1, total)
    if clip is None or not clip.frames:
        raise NoFaceError(
            f"{shown(path)}: fewer than two frames with a face, taking one frame in {every}; take more, or another clip"
        )
    clip.faceless = faceless
    clip.notes += [f"{shown(path)}: {reader.damage}"] if reader.damage else []
    clip.motions = _motions(clip, clip.shape, faces)
    clip.own_shape = faces.shape([clip.rest, *clip.keypoints])
    clip.own_motions = _motions(clip, clip.own_shape, faces)
    return clip


def _portrait_or_none(frame: Picture, faces: Faces) -> SourceFace | None:
    try:
        return faces.portrait(frame)
    except NoFaceError:
        return None


def _motions(clip: Clip, shape: NDArray[np.float32], faces: Faces) -> list[Motion]:
    fits = [faces.fit(points, shape) for points in clip.keypoints]
    return [Motion(found.pose, found.expression, time) for found, time in zip(fits, clip.times, strict=True)]


def _add(clip: Clip, frame: Picture, cut: Picture, found: Keypoints, time: float, box: Box, faces: Faces) -> None:
    """One more driver; its motion is fitted when all are known."""
    pixel = box.size / faces.size
    aside = crop(frame, Box(box.cx + pixel, box.cy + pixel, box.size), faces.size)
    again = faces(aside)
    clip.frames.append(cut)
    clip.keypoints.append(found)
    clip.again.append(None if again is None else again + np.float32(1.0))
    clip.times.append(time)
