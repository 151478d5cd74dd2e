"""Finding a face and its 478 points: in a video, frame after frame, or thoroughly in a single picture."""

import os
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from fastreenact.face.track.backends import Backend, Mesh, Picture, Points, TaskFile, quiet_stderr
from fastreenact.face.track.people import Identities
from fastreenact.face.track.views import View, view_of, views

_LONG_SIDE = 1920  # px; larger frames are thinned out: at 1080p that costs as much as it saves (both about 3 ms)
_PATIENCE = 30  # frames for which a lost face is remembered, so that it is preferred to a larger one
_SAME = 0.2  # of the face size: how far two looks at one face may differ
_APART = 0.5  # of the face size: two faces are no nearer to each other
_MOST_FACES = 8  # looked for in a picture, and followed in a video
_LOOK_EVERY = 30  # frames after which a video is searched for people who have come: 3 ms


class Landmarks(NamedTuple):
    """One face in one frame."""

    points: Points  # [478, 3] px
    confidence: float  # 0 to 1; the face mesh only says found or not, which is 1


class Tracker:
    """Finds a face in each frame of a video, following it once found.

    The largest face is taken first, and followed. As soon as a frame shows several, all are, so that people may pass
    each other: ours is waited for while somebody covers it, three seconds long. A face that is alone and lost is looked
    for nearby for a second; then the largest is taken again.
    Not for use by two threads at once. Nothing is loaded before the first frame; all of it works offline.
    """

    def __init__(self, backend: str | os.PathLike[str] = "mesh", *, face: int | None = None):
        """
        Args:
            backend: "mesh" is the face mesh inside MediaPipe 0.10.21's package; anything else is the path of a face
                landmarker `.task` file for MediaPipe's Tasks API.
            face: which one is followed, from 1, counted from the left in the first frame that shows so many; until then
                no face is found. None: the largest.

        Raises:
            ValueError: a face that is no number from 1, or a backend that is neither "mesh" nor a file.
        """
        if face is not None and (not isinstance(face, int) or face < 1):
            raise ValueError(f"face: got {face!r}, need a number from 1 (counted from the left) or None (largest)")
        if backend != "mesh" and not Path(backend).is_file():
            raise ValueError(
                f"backend: {os.fspath(backend)!r} is neither 'mesh' nor an existing file; give the path of a face "
                "landmarker .task file (docs/tracking.md says where MediaPipe offers it)"
            )
        self._task = None if backend == "mesh" else os.fspath(backend)
        self.face = face
        self._video: Backend | None = None
        self._still: Backend | None = None
        self._settled = False  # a face was found and the native libraries have said all they say
        self.reset()

    def reset(self) -> None:
        """Forget the face that is followed; the next frame starts with the largest, or with `face`."""
        self._last: Points | None = None
        self._lost = self._frames = self._followed = 0
        self._identities: Identities | None = None  # once there are several
        if self._video is not None:
            self._video.close()
            self._video = None

    def __call__(self, frame: Picture) -> Landmarks | None:
        """Find the face in the next frame of a video.

        Args:
            frame: uint8 [H, W, 3] RGB, any size.

        Returns:
            Its landmarks in pixels of `frame`; None if there is no face.

        Raises:
            ValueError: not such an array.
            FastreenactError: MediaPipe is not installed or cannot be loaded.
        """
        frame = _checked(frame)
        step = -(-max(frame.shape[:2]) // _LONG_SIDE)
        seen = frame if step == 1 else np.ascontiguousarray(frame[::step, ::step])
        alone = self._identities is None
        if self._frames % _LOOK_EVERY == 0 or (alone and (self._last is None or self._lost)):
            self._look_around(seen, step)
        self._frames += 1
        if self._video is None or (self._last is None and self.face is not None):
            return None
        faces = [face * step for face in self._detect(self._video, seen)]
        points = self._nearest(faces) if self._identities is None else self._identities(faces)
        if points is None:
            self._lost += 1
            if self._lost > _PATIENCE and self._identities is None:
                self._last = None
            return None
        self._last, self._lost = points, 0
        return Landmarks(points, 1.0)

    def find(self, picture: Picture) -> Landmarks | None:
        """Find the largest face in a single picture: at several scales, in parts of it, and turned.

        Args:
            picture: uint8 [H, W, 3] RGB, any size.

        Returns:
            Its landmarks in pixels; None if there is no face.

        Raises:
            As `__call__`.
        """
        found = max(next(self._found(picture), []), key=_size, default=None)
        return None if found is None else Landmarks(found, 1.0)

    def find_all(self, picture: Picture) -> list[Landmarks]:
        """Find every upright face in a single picture, from left to right; if there is none, one that is turned.

        Args, Raises: as `find`; half a second, however many there are.
        """
        found: list[Points] = []
        for faces in self._found(picture, upright=True):
            for points in faces:
                apart = (np.linalg.norm(points.mean(axis=0) - other.mean(axis=0)) / _size(other) for other in found)
                if min(apart, default=1.0) > _APART:
                    found.append(points)
        return [Landmarks(points, 1.0) for points in _left_to_right(found)] or [*filter(None, [self.find(picture)])]

    def _found(self, picture: Picture, upright: bool = False) -> Iterator[list[Points]]:
        """What is found in a picture at one scale and angle after the other, where it is anything."""
        picture = _checked(picture)
        step = -(-max(picture.shape[:2]) // _LONG_SIDE)
        seen = picture if step == 1 else np.asarray(Image.fromarray(picture).reduce(step))
        for (_, angle_deg), alike in groupby(views(*seen.shape[:2]), lambda view: (view.size, view.angle_deg)):
            if upright and angle_deg:
                return
            # Once more on each face alone: the net sees it at its full resolution, and a cup that it took for a face
            # from afar does not pass twice.
            firsts = [face * step for view in alike for face in self._look(seen, view)]
            faces = [
                second
                for first in firsts
                for second in self._look(picture, view_of(first, angle_deg))
                if float(np.linalg.norm((first - second)[:, :2], axis=1).mean()) < _SAME * _size(second)
            ]
            if faces:
                yield faces

    def close(self) -> None:
        """Give back MediaPipe's memory and threads; the tracker can be used again and then loads them anew."""
        self.reset()
        if self._still is not None:
            self._still.close()
            self._still = None

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _make(self, video: bool, faces: int) -> Backend:
        with quiet_stderr():
            backend: Backend = Mesh(video, faces) if self._task is None else TaskFile(self._task, video, faces)
            backend(np.zeros((64, 64, 3), np.uint8))  # returns only when all of the net is loaded
        return backend

    def _detect(self, backend: Backend, picture: Picture) -> list[Points]:
        if self._settled:
            return backend(picture)
        with quiet_stderr():
            faces = backend(picture)
        self._settled = bool(faces)
        return faces

    def _nearest(self, faces: list[Points]) -> Points | None:
        """The face nearest to the last one; the largest if there is none."""
        if self._last is None or not faces:
            return max(faces, key=_size, default=None)
        centre = self._last.mean(axis=0)
        return min(faces, key=lambda face: float(np.linalg.norm((face.mean(axis=0) - centre)[:2])))

    def _look_around(self, seen: Picture, step: int) -> None:
        """Search the frame for every face: start with ours, and follow as many as there are."""
        faces = [face * step for face in self._detect(self._still_net(), seen)]
        if self._last is None and self.face is not None:
            if len(faces) < self.face:
                return
            self._last = _left_to_right(faces)[self.face - 1]
        if self._video is not None and len(faces) <= self._followed:
            return
        self._followed = max(1, len(faces))
        if self._video is not None:
            self._video.close()
        self._video = self._make(True, self._followed)
        if self._followed > 1 and self._identities is None:
            self._identities = Identities(self._last)

    def _look(self, picture: Picture, view: View) -> list[Points]:
        return [view.back(face) for face in self._detect(self._still_net(), view.cut(picture))]

    def _still_net(self) -> Backend:
        if self._still is None:
            self._still = self._make(False, _MOST_FACES)
        return self._still


def _checked(frame: Any) -> Picture:
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        got = f"{frame.dtype} {list(frame.shape)}" if isinstance(frame, np.ndarray) else type(frame).__name__
        raise ValueError(f"frame: got {got}, need a NumPy uint8 [H, W, 3] picture (RGB)")
    if not frame.size:
        raise ValueError(f"frame: got {list(frame.shape)}, an empty picture")
    return np.ascontiguousarray(frame)


def _left_to_right(faces: list[Points]) -> list[Points]:
    return sorted(faces, key=lambda face: float(face[:, 0].mean()))


def _size(points: Points) -> float:
    return float((points[:, :2].max(axis=0) - points[:, :2].min(axis=0)).max())
