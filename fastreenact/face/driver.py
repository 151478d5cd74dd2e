"""From a driver's pictures to motion: its face tracked and fitted frame by frame."""

from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from fastreenact.face.crop import Box, crop_box
from fastreenact.face.keypoints import COUNT, from_any
from fastreenact.face.morphable.fit import MAX_SHAPE_FRAMES, Fit, fit, fit_shape
from fastreenact.face.morphable.model import MorphableModel, default_model
from fastreenact.face.motion import Motion, MotionClip
from fastreenact.face.track.tracker import Landmarks, Tracker
from fastreenact.timings import NO_TIMER, Timer

# A live driver's shape is fitted anew when so many good frames have been seen, then it is frozen.
_SHAPE_AT = (1, 5, 15, MAX_SHAPE_FRAMES)
_GOOD_ERROR = 0.05  # normalised units, 6 px at 256: a fit that is further off is not of a whole face
_POOR_ERROR = 0.25  # at and beyond it the confidence is least
_LEAST_CONFIDENCE = 0.1

Keypoints = NDArray[np.float32]  # [72, 2]
_NOTHING: Keypoints = np.zeros((COUNT, 2), np.float32)  # stands for a frame without a face


class FindsFaces(Protocol):
    """What a tracker has to be: `Tracker`, or the user's own."""

    def __call__(self, frame: NDArray[np.uint8]) -> Landmarks | None: ...


class Sighting(NamedTuple):
    """A driver's face in one frame, px of that frame."""

    keypoints_px: Keypoints
    points: NDArray[np.float32]  # as the tracker gave them: [478, 3] from the built-in one
    box: Box  # that of the first face, which stays


@dataclass(frozen=True)
class Tracked:
    """A driver's frame that is tracked already: what a model that looks at pictures is driven with from a file."""

    motion: Motion
    picture: NDArray[np.uint8]  # [H, W, 3] RGB
    sighting: Sighting | None  # in that picture; None: it shows no face


class Driver:
    """Turns the frames of one person into motions.

    The box is that of the first face and stays, so that the head's movement in the picture becomes motion. The shape is
    the person's: fitted over the first 30 good frames, then frozen.
    """

    def __init__(self, model: MorphableModel | None = None, tracker: FindsFaces | None = None, *, live: bool = True):
        """
        Args:
            model: the face model; None is the built-in one.
            tracker: called with a frame, gives `Landmarks` or None; None makes a `Tracker` at the first picture.
            live: `observe` refines the shape; False keeps the one of the first frame, or of the last `track_clip`.
        """
        self.model = model or default_model()
        self.live = live
        self._tracker = tracker
        self.reset()

    def reset(self) -> None:
        """Forget the person: box, shape and the face that the tracker follows."""
        self.box: Box | None = None  # px of the first frame with a face
        self.shape = np.zeros(len(self.model.shape_basis), np.float32)
        self._frame_size: tuple[int, int] | None = None  # of the first frame with a face; None for landmarks
        self._good: list[Keypoints] = []
        self._last: Fit | None = None
        self._points: NDArray[np.float32] | None = None  # of the last frame, px of it
        self._tracked: Keypoints = _NOTHING  # of these points
        self._size: tuple[int, int] | None = None  # of it, where it differs from the first
        reset = getattr(self._tracker, "reset", None)
        if reset is not None:
            reset()

    def close(self) -> None:
        """Close the tracker."""
        close = getattr(self._tracker, "close", None)
        if close is not None:
            close()

    def observe(self, frame: Any, time: float = 0.0, *, timer: Timer = NO_TIMER) -> Motion:
        """The motion of the next frame.

        Args:
            frame: uint8 [H, W, 3] RGB, whose size may change; or landmarks of your own tracker, float [N, 2 or 3] in px
                with N = 72, 68, 468 or 478; or None for a frame that is known to have no face.
            time: s.
            timer: of the stages "track" and "fit".

        Returns:
            The motion; confidence 0 if there is no face.

        Raises:
            ValueError: neither such a picture nor such landmarks.
            FastreenactError: MediaPipe is missing.
        """
        with timer.stage("track"):
            keypoints = self._keypoints(frame)
        with timer.stage("fit"):
            if keypoints is None:
                self._last = None
                return Motion.missing(time)
            seen = self._normalise(keypoints)
            first = not self._good
            if first:
                self._learn_shape(seen)
            motion = self._fit(seen, time)
            if self.live and not first and self._last is not None:
                self._learn_shape(seen)
            return motion

    def track_clip(
        self, frames: Iterable[tuple[Any, float]], progress: Callable[[int], None] | None = None
    ) -> MotionClip:
        """The motions of a whole clip: track all frames, fit the shape, then fit all frames with it.

        Only keypoints are kept (576 bytes a frame). A clip of one frame is searched as a still picture.

        Args:
            frames: (frame, time in s) with frames as in `observe`; times rise.
            progress: called with the number of frames tracked so far; `sighting` is the last one's.

        Returns:
            The clip; confidence 0 where there is no face. `metadata["box"]`: px of the first frame with a face.

        Raises:
            ValueError: no frame, or as `observe`.
        """
        self.reset()
        times, found = array("d"), array("b")

        def tracked() -> Iterator[Keypoints]:
            for frame, time in _still_if_alone(frames, self._still):
                keypoints = self._keypoints(frame)
                times.append(time)
                found.append(keypoints is not None)
                yield _NOTHING if keypoints is None else self._normalise(keypoints)
                if progress is not None:
                    progress(len(times))

        seen: NDArray[np.float32] = np.fromiter(tracked(), np.dtype((np.float32, (COUNT, 2))))
        self._choose_shape(seen, np.flatnonzero(found))

        def motions() -> Iterator[Motion]:
            for points, time, there in zip(seen, times, found, strict=True):
                if not there:
                    self._last = None
                yield self._fit(points, time) if there else Motion.missing(time)

        metadata = {} if self.box is None else {"box": " ".join(f"{value:.6g}" for value in self.box)}
        return MotionClip.from_motions(motions(), metadata)

    def _still(self, frame: Any) -> Any:
        """The landmarks of a picture that stands alone; landmarks as they are."""
        tracker: Any = self._ready_tracker(frame)
        if not hasattr(tracker, "find") or are_landmarks(frame):
            return frame
        face = getattr(tracker, "face", None)
        found = tracker.find(frame) if face is None else next(iter(tracker.find_all(frame)[face - 1 :]), None)
        if found is None:
            return None
        self._frame_size = frame.shape[:2]
        return found.points

    def _ready_tracker(self, frame: Any) -> FindsFaces | None:
        if self._tracker is None and not are_landmarks(frame):
            self._tracker = Tracker()
        return self._tracker

    def _keypoints(self, frame: Any) -> Keypoints | None:
        """The 72 keypoints of a frame, px of the first frame with a face."""
        self._points = self._size = None
        if frame is None:
            return None
        if are_landmarks(frame):
            self._tracked, self._points = from_any(frame), np.asarray(frame, np.float32)
            return self._tracked
        tracker = self._ready_tracker(frame)
        found = tracker(frame) if tracker is not None else None
        if found is None:
            return None
        keypoints = self._tracked = from_any(found.points)
        self._points = found.points
        size = (frame.shape[0], frame.shape[1])
        if self._frame_size is None:
            self._frame_size = size
        elif size != self._frame_size:
            self._size = size
            keypoints = _as_in(self._frame_size, keypoints, size)
        return keypoints

    @property
    def sighting(self) -> Sighting | None:
        """The face in the last frame that was tracked, in that frame's own pixels; None: it had none."""
        if self._points is None or self.box is None:
            return None
        box = self.box
        if self._size is not None and self._frame_size is not None:
            centre = _as_in(self._size, np.array([box[:2]], np.float32), self._frame_size)[0]
            box = Box(float(centre[0]), float(centre[1]), box.size * _scale(self._size, self._frame_size))
        return Sighting(self._tracked, self._points, box)

    def _normalise(self, keypoints: Keypoints) -> Keypoints:
        if self.box is None:
            self.box = crop_box(keypoints)
        return self.box.normalise(keypoints)

    def _fit(self, seen: Keypoints, time: float) -> Motion:
        result = fit(self.model, seen, self.shape, self._last)
        self._last = result if result.error < _GOOD_ERROR else None
        excess = (result.error - _GOOD_ERROR) / (_POOR_ERROR - _GOOD_ERROR)
        confidence = min(1.0, max(_LEAST_CONFIDENCE, 1.0 - excess))
        return Motion(result.pose, result.expression, time, confidence)

    def _learn_shape(self, seen: Keypoints) -> None:
        """Refine the shape with a good frame, at the frames named in _SHAPE_AT."""
        if len(self._good) < MAX_SHAPE_FRAMES:
            self._good.append(seen)
            if len(self._good) in _SHAPE_AT:
                self.shape = fit_shape(self.model, np.stack(self._good))

    def _choose_shape(self, seen: NDArray[np.float32], found: NDArray[np.intp]) -> None:
        """Offline: the shape from the first 30 good frames of those at `found`, or from all there are."""
        if not len(found):
            return
        first = fit_shape(self.model, seen[found[:MAX_SHAPE_FRAMES]])
        good: list[Keypoints] = []
        for i in found:
            if fit(self.model, seen[i], first, None).error < _GOOD_ERROR:
                good.append(seen[i].copy())  # a view would keep all frames
            if len(good) == MAX_SHAPE_FRAMES:
                break
        self.shape = fit_shape(self.model, np.stack(good)) if good else first
        self._good = good or [seen[found[0]].copy()]


def are_landmarks(frame: Any) -> bool:
    """Whether a driver or portrait is given as landmarks, [N, 2 or 3], instead of a picture."""
    return isinstance(frame, np.ndarray) and frame.ndim == 2


def _as_in(first: tuple[int, int], keypoints: Keypoints, size: tuple[int, int]) -> Keypoints:
    """Keypoints in a frame of `size` (H, W) as they would lie in one of size `first`: same centre, same area."""
    scale = _scale(first, size)
    centre, first_centre = np.array(size[::-1]) / 2, np.array(first[::-1]) / 2
    return ((keypoints - centre) * scale + first_centre).astype(np.float32)


def _scale(first: tuple[int, int], size: tuple[int, int]) -> float:
    """How many pixels of a frame of size `first` are one of a frame of `size`, at the same area."""
    return float(np.sqrt((first[0] * first[1]) / (size[0] * size[1])))


def _still_if_alone(frames: Iterable[tuple[Any, float]], still: Callable[[Any], Any]) -> Iterator[tuple[Any, float]]:
    """The frames as they are; a single one goes through `still`."""
    rest = iter(frames)
    first = next(rest, None)
    if first is None:
        raise ValueError("frames: got none, need at least one")
    second = next(rest, None)
    if second is None:
        yield still(first[0]), first[1]
        return
    yield first
    yield second
    yield from rest
