"""A video as shots of one face: tracked, cut out as the engine cuts, fitted, its frames kept as JPEG."""

import io
import math
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fastreenact.face.crop import Box, crop, crop_box
from fastreenact.face.driver import Driver
from fastreenact.face.keypoints import face_size, from_any
from fastreenact.face.morphable.model import default_model
from fastreenact.media.read import VideoReader

Array = NDArray[np.float32]
Progress = Callable[[str, int, int | None], None]

LEAST_FRAMES = 5  # of a shot
_EVERY_S = 0.099  # between two frames looked at: ten a second, for closer ones show the same
_SHOT_FRAMES = 300  # a longer shot is thinned out
_VIDEO_FRAMES = 1200  # then the rest of the video is left out
_GLANCE = 32  # a frame's rows and columns that are compared, about
# Levels that frames in a row differ by on average. Measured: four clips of a talking head stay below 18,
# 99 % of their frames below 8; pictures of different clips differ by 45 to 87.
_CUT_LEVELS = 25.0
_CUT_JUMP = 0.4  # of the face size, the mean distance that keypoints move in _EVERY_S; the four clips stay below 0.1
# How far the box that the engine would cut may move from the shot's (share of its side), and grow or shrink: then a new
# shot begins in a new box, so that sources lie in their pictures about as portraits do.
_DRIFT, _GROWTH = 0.2, 1.4
_LEAST_BOX = 0.5  # of the side that it is scaled to: what is enlarged more than twice teaches blur
_JPEG_QUALITY = 92


class Shot(NamedTuple):
    """T frames of one face in one box."""

    jpegs: list[bytes]  # T pictures of size x size
    pose: Array  # [T, 6] in the box
    keypoints: Array  # [T, 72, 2] in the box, the fitted model's
    tracked: Array  # [T, 72, 2] in the box, as the tracker sees them


class _Take:
    """A shot while it is read."""

    def __init__(self, box: Box, keypoints: Array, size: int):
        self.box = box
        self.kept: list[tuple[bytes, Array, float]] = []  # JPEG, keypoints px, time s
        self._size, self._last, self._spacing = size, keypoints, _EVERY_S

    def goes_on(self, box: Box, keypoints: Array) -> bool:
        """Whether a face is still about where this shot's box is, and no jump away from its last place."""
        jump = float(np.linalg.norm(keypoints - self._last, axis=1).mean()) / face_size(self._last)
        drift = math.hypot(box.cx - self.box.cx, box.cy - self.box.cy) / self.box.size
        growth = max(box.size / self.box.size, self.box.size / box.size)
        return jump < _CUT_JUMP and drift < _DRIFT and growth < _GROWTH

    def add(self, frame: NDArray[np.uint8], keypoints: Array, time: float) -> None:
        """The next frame tracked; kept if it is its turn."""
        self._last = keypoints
        if self.kept and time - self.kept[-1][2] < self._spacing:
            return
        written = io.BytesIO()
        picture = Image.fromarray(crop(frame, self.box, self._size))
        picture.save(written, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
        self.kept.append((written.getvalue(), keypoints, time))
        if len(self.kept) > _SHOT_FRAMES:
            del self.kept[1::2]
            self._spacing *= 2

    def shot(self) -> Shot | None:
        """The frames that the model fits, with one face shape; None where they are too few."""
        if len(self.kept) < LEAST_FRAMES:
            return None
        model = default_model()
        driver = Driver(model, live=False)
        clip = driver.track_clip((keypoints, time) for _, keypoints, time in self.kept)
        good = np.flatnonzero(clip.confidence == 1)
        if len(good) < LEAST_FRAMES:
            return None
        # Lips as the engine has them.
        fitted = model.project(driver.shape, clip.expression, clip.pose, lips_meet=True)
        tracked = self.box.normalise(np.stack([keypoints for _, keypoints, _ in self.kept]))
        return Shot([self.kept[i][0] for i in good], clip.pose[good], fitted[good], tracked[good])


class _Cuts:
    """Tells the frame after a cut: all of the picture changes at once."""

    def __init__(self) -> None:
        self._last: NDArray[np.int16] | None = None

    def __call__(self, frame: NDArray[np.uint8]) -> bool:
        rows, columns = (max(1, side // _GLANCE) for side in frame.shape[:2])
        last, self._last = self._last, frame[::rows, ::columns].astype(np.int16)
        return last is not None and float(np.abs(self._last - last).mean()) > _CUT_LEVELS


def read_shots(
    path: str | os.PathLike[str], size: int, tracker: Any, progress: Callable[[int, int | None], None] | None = None
) -> tuple[list[Shot], str]:
    """Track a video, ten frames a second, and divide it where the face or the picture jumps.

    A shot ends where the face is lost, jumps or leaves the middle of its box, and where the picture changes all at
    once; a dissolve goes unnoticed. Of a long shot every second, fourth, ... frame is kept, 300 at most; after 1200
    frames the rest of the video is left out.

    Args:
        path: a video.
        size: side of the pictures, px.
        tracker: a `Tracker`, or a callable that gives `Landmarks` or None.
        progress: called as (frames read, frames in all or None).

    Returns:
        The shots with at least 5 frames that the face model fits; and what was left out, "" where nothing was.

    Raises:
        MediaError: the video cannot be read. ValueError: the tracker gives what is no face.
    """
    reader = VideoReader(path)
    reset: Callable[[], None] = getattr(tracker, "reset", lambda: None)
    reset()
    shots: list[Shot] = []
    take: _Take | None = None
    cut, largest, looked_at = _Cuts(), 0.0, -math.inf
    for index, (frame, time) in enumerate(reader):
        if reader.damage:  # the frames that follow are patched together from what is left
            break
        if sum(len(shot.jpegs) for shot in shots) >= _VIDEO_FRAMES:
            break
        if progress is not None:
            progress(index + 1, reader.n_frames)
        if cut(frame):
            _end(take, shots)
            take = None
            reset()
        if time - looked_at < _EVERY_S:
            continue
        looked_at = time
        found = tracker(frame)
        keypoints = np.zeros((0, 2), np.float32) if found is None else from_any(found.points)
        box = None if found is None else crop_box(keypoints)
        if take is not None and (box is None or not take.goes_on(box, keypoints)):
            _end(take, shots)
            take = None
        if box is None:
            continue
        largest = max(largest, box.size)
        if take is None and box.size >= _LEAST_BOX * size:
            take = _Take(box, keypoints, size)
        if take is not None:
            take.add(frame, keypoints, time)
    _end(take, shots)
    return shots, _left_out(shots, largest, size, reader.damage)


def _end(take: _Take | None, shots: list[Shot]) -> None:
    """Put a shot that has ended to the others."""
    shot = None if take is None else take.shot()
    if shot is not None:
        shots.append(shot)


def _left_out(shots: list[Shot], largest: float, size: int, damage: str | None) -> str:
    """Why there are no shots, or not all that there might be."""
    if damage:
        return f"damaged ({damage}): " + ("only what comes before is used" if shots else "too little comes before")
    if shots:
        return ""
    if not largest:
        return "no face found"
    if largest < _LEAST_BOX * size:
        return f"its faces are too small: with hair and neck {largest:.0f} px, need {math.ceil(_LEAST_BOX * size)}"
    return f"no face is seen in {LEAST_FRAMES} frames without a cut, taking ten frames a second"
