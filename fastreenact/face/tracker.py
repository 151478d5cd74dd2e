"""Finding a face and its 478 points: in a video, frame after frame, or thoroughly in a single picture."""

import os
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from fastreenact.face.backends import Backend, Mesh, Picture, Points, TaskFile, quiet_stderr
from fastreenact.face.identities import Identities
from fastreenact.face.views import View, view_of, views

_LONG_SIDE = 1920  # px; larger frames are thinned out: at 1080p that costs as much as it saves (both about 3 ms)
_PATIENCE = 30  # frames for which a lost face is remembered, so that it is preferred to a larger one
_SAME = 0.2  # of the face size: how far two looks at one face may differ
_STILL_FACES = 4  # looked for in a single picture

class Landmarks(NamedTuple):
    """One face in one frame."""

    points: Points  # [478, 3] px
    confidence: float  # 0 to 1; the face mesh only says found or not, which is 1


class Tracker:
    """Finds a face in each frame of a video, following it once found.

    The largest face is taken first; while it stays, and for a second after it is lost, the face nearest to it.
    Not for use by two threads at once. Nothing is loaded before the first frame; all of it works offline.
    """

    def __init__(self, backend: str | os.PathLike[str] = "mesh", *, max_faces: int = 1):
        """
        Args:
            backend: "mesh" is the face mesh inside MediaPipe 0.10.21's package; anything else is the path of a face
                landmarker `.task` file for MediaPipe's Tasks API.
            max_faces: how many faces are followed at once; more than 1 keeps crossing faces apart and costs about 1 ms
                more.

        Raises:
            ValueError: max_faces below 1, or a backend that is neither "mesh" nor a file.
        """
        if max_faces < 1:
            raise ValueError(f"max_faces: got {max_faces}, need at least 1")
        if backend != "mesh" and not Path(backend).is_file():
            raise ValueError(
                f"backend: {os.fspath(backend)!r} is neither 'mesh' nor an existing file; give the path of a face "
                "landmarker .task file (docs/tracking.md says where MediaPipe offers it)"
            )
        self._task = None if backend == "mesh" else os.fspath(backend)
        self._max_faces = max_faces
        self._video: Backend | None = None
        self._still: Backend | None = None
        self._settled = False  # a face was found and the native libraries have said all they say
        self.reset()

    def reset(self) -> None:
        """Forget the face that is followed; the next frame starts with the largest."""
        self._last: Points | None = None
        self._lost = 0
        self._identities = Identities() if self._max_faces > 1 else None
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
        if self._video is None:
            self._video = self._make(video=True)
        shown = seen
        if self._last is None or self._lost:
            shown = self._only_ours(seen, step)
        faces = [face * step for face in self._detect(self._video, shown)]
        points = self._identities(faces) if self._identities is not None else self._ours(faces)
        if points is None:
            self._lost += 1
            if self._lost > _PATIENCE:
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
        picture = _checked(picture)
        step = -(-max(picture.shape[:2]) // _LONG_SIDE)
        seen = picture if step == 1 else np.asarray(Image.fromarray(picture).reduce(step))
        for view in views(seen.shape[0], seen.shape[1]):
            for face in sorted(self._look(seen, view), key=_size, reverse=True):
                # Once more on the face alone: the net sees it at its full resolution, and a cup that it took for a face
                # from afar does not pass twice.
                first = face * step
                for second in self._look(picture, view_of(first, view.angle_deg)):
                    if float(np.linalg.norm((first - second)[:, :2], axis=1).mean()) < _SAME * _size(second):
                        return Landmarks(second, 1.0)
        return None

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

    def _make(self, video: bool) -> Backend:
        faces = self._max_faces if video else _STILL_FACES
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

    def _ours(self, faces: list[Points]) -> Points | None:
        """The face nearest to the last one; the largest if there is none."""
        if self._last is None or not faces:
            return max(faces, key=_size, default=None)
        centre = self._last.mean(axis=0)
        return min(faces, key=lambda face: float(np.linalg.norm((face.mean(axis=0) - centre)[:2])))

    def _only_ours(self, seen: Picture, step: int) -> Picture:
        """The frame on which tracking starts: if it shows several faces, with all but ours painted over."""
        if self._still is None:
            self._still = self._make(video=False)
        faces = self._detect(self._still, seen)
        if len(faces) <= self._max_faces:
            return seen
        found = self._ours([face * step for face in faces])
        if found is None:
            return seen
        ours = found / step
        low, high = ours[:, :2].min(axis=0), ours[:, :2].max(axis=0)
        margin = 0.3 * float((high - low).max())
        x0, y0 = np.maximum(low - margin, 0).astype(int)
        x1, y1 = (high + margin).astype(int) + 1
        shown = np.full_like(seen, 127)
        shown[y0:y1, x0:x1] = seen[y0:y1, x0:x1]
        return shown

    def _look(self, picture: Picture, view: View) -> list[Points]:
        if self._still is None:
            self._still = self._make(video=False)
        part = view.cut(picture)
        return [view.back(face) for face in self._detect(self._still, part)]


def _checked(frame: Any) -> Picture:
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        got = f"{frame.dtype} {list(frame.shape)}" if isinstance(frame, np.ndarray) else type(frame).__name__
        raise ValueError(f"frame: got {got}, need a NumPy uint8 [H, W, 3] picture (RGB)")
    if not frame.size:
        raise ValueError(f"frame: got {list(frame.shape)}, an empty picture")
    return np.ascontiguousarray(frame)


def _size(points: Points) -> float:
    return float((points[:, :2].max(axis=0) - points[:, :2].min(axis=0)).max())


