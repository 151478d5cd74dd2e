"""From what the driver does to where the portrait's keypoints go: relative or absolute, on the source's own shape."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastreenact.face.keypoints import face_size
from fastreenact.face.morphable.model import EXPRESSION_NAMES, MorphableModel
from fastreenact.face.motion import Motion, MotionClip
from fastreenact.face.smoothing import FPS, STATE_SIZE, BilateralFilter, GlitchGate
from fastreenact.rotation import rotation_matrix, rotation_vector

MOTIONS = ("relative", "absolute")
# Region -> the first words of the names of the expressions that it moves; None is all of them.
_EXPRESSIONS: dict[str, tuple[str, ...] | None] = {
    "all": None,
    "expression": None,
    "pose": (),
    "lips": ("jaw", "mouth"),
    "eyes": ("eye",),
}
REGIONS = tuple(_EXPRESSIONS)
_POSE_REGIONS = ("all", "pose")

# All in frames of 30 fps.
_HOLD = 15.0  # how long the last motion stays when the face is lost
_EASE = 10.0  # then how long the way to rest takes
_REFERENCE_BLEND = 10.0  # how long a live change of reference takes
_LOST_MEMORY = 3.0  # after a longer loss the filter starts anew

_RETURN_STEP = 0.05  # of the face size: the most a keypoint moves in one frame while a lost face comes back
_TRIES = 8  # keypoints move almost in proportion to the state, so 2 are the rule
_BETTER = 0.98  # a live reference gives way to one whose score is below this share of its own
_EXPRESSION_LOW, _EXPRESSION_HIGH = -0.3, 1.3  # beyond them a linear face model stops looking like a face

_BLINKS = np.array([EXPRESSION_NAMES.index(name) for name in ("eyeBlinkLeft", "eyeBlinkRight")])
_LEAST_OPEN = 0.4  # share of the eye: a reference that is closed further is no measure of how far it can close

State = NDArray[np.float64]  # [57] rotation vector, tx, ty, log scale, expression


def reference_score(motion: Motion) -> float:
    """How far a motion is from neutral: |expression| + |rotation|."""
    return float(np.linalg.norm(motion.expression) + np.linalg.norm(motion.pose[:3]))


def choose_reference(clip: MotionClip, lookahead: int = 30) -> Motion | None:
    """The most neutral frame among the first of a clip, as reference for relative motion.

    argmin |expression| + |rotation|

    Args:
        clip: the driver.
        lookahead: how many frames with a face are looked at.

    Returns:
        The motion of that frame; None if no frame has a face.
    """
    found = np.flatnonzero(clip.confidence > 0)[:lookahead]
    if not len(found):
        return None
    return min((clip[int(i)] for i in found), key=reference_score)


class Retargeter:
    """Moves one portrait by a driver's motions, frame after frame.

    relative: R = R_d R_ref^T R_s, t = t_s + (t_d - t_ref) s_s / s_ref, s = s_s s_d / s_ref, e = e_s + e_d - e_ref;
    of the blinks the change counts by (1 - e_s) / (1 - e_ref), so that the portrait's eyes close when the driver's do
    absolute: R = R_d, t = t_d, s = s_d, e = e_d

    Source: Face2Face^rho, Sec. 3.1 (the driver's keypoints are made with the source's shape); relative motion is ours.
    """

    def __init__(
        self,
        model: MorphableModel,
        source_shape: Any,
        source_expression: Any,
        source_pose: Any,
        *,
        motion: str = "relative",
        smooth: bool = True,
        strength: float = 1.0,
        region: str = "all",
        reference: Motion | None = None,
    ):
        """
        Args:
            model: the face model that source and driver were fitted with.
            source_shape: [50].
            source_expression: [51].
            source_pose: [6] rx, ry, rz (rad), tx, ty, scale (units of the source's box).
            motion: "relative" moves the portrait by how far the driver moved from a reference frame; "absolute" copies.
            smooth: filter over time and hold back one-frame glitches.
            strength: 0 to 2; scales relative motion; absolute motion goes that share of the way from source to driver.
            region: "all"; "expression" (the head stays); "pose" (the face stays); "lips" (with the jaw) or "eyes" (lids
                and gaze), which leave the head and everything else at rest.
            reference: the driver's neutral frame; None takes the best so far and blends each change over 10 frames.

        Raises:
            ValueError: an unknown motion or region, a strength outside [0, 2], an argument of another shape.
        """
        if motion not in MOTIONS:
            raise ValueError(f"motion: got {motion!r}, need one of {', '.join(MOTIONS)}")
        if region not in _EXPRESSIONS:
            raise ValueError(f"region: got {region!r}, need one of {', '.join(REGIONS)}")
        if not 0 <= strength <= 2:
            raise ValueError(f"strength: got {strength}, need 0 to 2 (1 is the driver's own)")
        source = Motion(source_pose, source_expression)  # checks both
        self._absolute, self._smooth, self._strength = motion == "absolute", smooth, float(strength)
        words = _EXPRESSIONS[region]
        self._mask = np.array([words is None or name.startswith(words) for name in EXPRESSION_NAMES], np.float64)
        self._move_pose = region in _POSE_REGIONS
        self._model, self._shape = model, np.asarray(source_shape, np.float32)
        self._rest = _state(source)
        self._rest_rotation = rotation_matrix(self._rest[:3])
        self._rest_points = self._project(self._rest)
        self._step = _RETURN_STEP * face_size(self._rest_points)
        # A portrait may have been fitted beyond the range; it is never pushed further out.
        self._low = np.minimum(_EXPRESSION_LOW, self._rest[6:])
        self._high = np.maximum(_EXPRESSION_HIGH, self._rest[6:])
        self._filter, self._gate = BilateralFilter(), GlitchGate()
        self.use_reference(reference)
        self.reset()

    def reset(self) -> None:
        """Forget the driver: filter, clock and a reference found live; a reference that was given stays."""
        self._filter.reset()
        self._gate.reset()
        self._time: float | None = None
        self._lost = math.inf  # frames since a face was seen
        self._returning = False
        self._unfiltered = 0.0  # frames since the filter saw one
        self._driver: State | None = None  # last motion that passed the gate, filtered
        self._out = self._held = self._rest
        self._points = self._rest_points
        if not self._given:
            self._reference: State | None = None
            self._best = math.inf

    @property
    def rest_keypoints(self) -> NDArray[np.float32]:
        """[72, 2] where a driver at rest leaves the portrait's keypoints, normalised to its box."""
        return self._rest_points.copy()

    def use_reference(self, reference: Motion | None) -> None:
        """Fix the driver's neutral frame for relative motion; None: find it live.

        Raises:
            ValueError: a motion without a face.
        """
        if reference is not None and not reference.found:
            raise ValueError("reference: this motion has confidence 0 (no face); choose a frame with a face")
        self._given = reference is not None
        self._reference = None if reference is None else _state(reference)
        self._target = self._reference
        self._best = math.inf
        self._blend = 0.0  # frames until the reference is the target

    def __call__(self, motion: Motion, time: float | None = None) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """One frame.

        Args:
            motion: of the driver; without a face (confidence 0) the last holds for 15 frames, then eases to rest in 10.
            time: s; None counts one frame of 30 fps, and so does a time that does not rise.

        Returns:
            keypoints [72, 2] float32, normalised to the source's box; pose [6] float32, likewise.
        """
        frames = self._elapsed(time)
        if motion.found:
            self._take(motion, frames)
            self._show(self._retarget(), frames)
            self._held = self._out
        else:
            self._lose(frames)
        pose = self._out[:6].astype(np.float32)
        pose[5] = math.exp(self._out[5])
        return self._points.copy(), pose

    def _elapsed(self, time: float | None) -> float:
        last, self._time = self._time, time
        if time is None or last is None or time <= last:
            return 1.0
        return (time - last) * FPS

    def _take(self, motion: Motion, frames: float) -> None:
        """Take a motion in: gate, filter, reference."""
        if self._lost > _LOST_MEMORY:
            self._filter.reset()
        if self._lost > 0:  # the way back is slow anyway
            self._gate.reset()
        self._lost = 0.0
        state = _state(motion)
        if self._smooth:
            points = self._project(state)
            self._unfiltered += frames
            if self._gate(points, face_size(points), frames):
                self._driver = self._filter(state, self._unfiltered)
                self._unfiltered = 0.0
        else:
            self._driver = state
        if not self._given and self._driver is not None:
            self._follow_reference(self._driver, frames)

    def _follow_reference(self, driver: State, frames: float) -> None:
        """Live reference: the best frame so far, a change blended in."""
        if self._reference is not None and self._target is not None and self._blend > 0:
            share = min(1.0, frames / self._blend)
            self._reference = self._reference + share * (self._target - self._reference)
            self._blend = max(0.0, self._blend - frames)
        score = float(np.linalg.norm(driver[6:]) + np.linalg.norm(driver[:3]))
        if score < _BETTER * self._best or self._reference is None:
            self._best, self._target, self._blend = score, driver, _REFERENCE_BLEND
            self._reference = driver if self._reference is None else self._reference

    def _retarget(self) -> State:
        """The portrait's state for the driver's: see the class."""
        driver, reference, rest, strength = self._driver, self._reference, self._rest, self._strength
        if driver is None or reference is None:  # only before the first face
            return rest
        out = rest.copy()
        if self._move_pose:
            origin = self._rest_rotation if self._absolute else rotation_matrix(reference[:3])
            turn = rotation_matrix(driver[:3]) @ origin.T
            if strength != 1.0:
                turn = rotation_matrix(strength * rotation_vector(turn))
            out[:3] = rotation_vector(turn @ self._rest_rotation)
            if self._absolute:
                out[3:6] += strength * (driver[3:6] - rest[3:6])
            else:
                ratio = math.exp(rest[5] - reference[5])
                out[3:5] += strength * ratio * (driver[3:5] - reference[3:5])
                out[5] += strength * (driver[5] - reference[5])
        origin = rest if self._absolute else reference
        change = driver[6:] - origin[6:]
        if not self._absolute:
            change[_BLINKS] *= _blink_gain(rest, reference)
        out[6:] += (strength * self._mask) * change
        np.clip(out[6:], self._low, self._high, out=out[6:])
        return out

    def _show(self, state: State, frames: float) -> None:
        """Make a state the portrait's; after a loss no keypoint moves further in a frame than _RETURN_STEP allows."""
        points = self._project(state)
        if self._returning:
            limit = self._step * min(1.0, frames)
            share, start, end = 1.0, self._out, state
            jump = _longest(points, self._points)
            self._returning = jump > limit
            for _ in range(_TRIES):
                if jump <= limit:
                    break
                share *= 0.98 * limit / jump
                state = start + share * (end - start)
                points = self._project(state)
                jump = _longest(points, self._points)
            else:  # no time has passed to speak of
                state, points = start, self._points
        self._out, self._points = state, points

    def _lose(self, frames: float) -> None:
        """A frame without a face: hold, then ease to rest."""
        self._lost += frames
        self._returning = True
        gone = min(1.0, max(0.0, self._lost - _HOLD) / _EASE)
        if gone > 0:
            share = gone * gone * (3.0 - 2.0 * gone)
            self._out = self._held + share * (self._rest - self._held)
            self._points = self._project(self._out)

    def _project(self, state: State) -> NDArray[np.float32]:
        pose = state[:6].copy()
        pose[5] = math.exp(pose[5])
        # Lips that are closed in the portrait cannot close further, however far the driver's were open.
        return self._model.project(self._shape, state[6:], pose, lips_meet=True)


def _state(motion: Motion) -> State:
    state = np.empty(STATE_SIZE)
    state[:6], state[6:] = motion.pose, motion.expression
    state[5] = math.log(state[5])
    return state


def _blink_gain(rest: State, reference: State) -> NDArray[np.float64]:
    """Factor on the change of the blinks: the portrait's eyes close when the driver's do, however open both were."""
    share: NDArray[np.float64] = (1.0 - rest[6:][_BLINKS]) / np.maximum(1.0 - reference[6:][_BLINKS], _LEAST_OPEN)
    return np.maximum(share, 0.0)


def _longest(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    difference = a - b
    return math.sqrt(float(np.einsum("kd,kd->k", difference, difference).max()))
