"""What keeps a motion calm: a bilateral filter over time and a gate that holds back one-frame glitches of a detector.

Both are causal, and count time in frames of a 30 fps clip, so that a clip of another rate is treated alike.
"""

import numpy as np
from numpy.typing import NDArray

FPS = 30.0  # the rate that all constants of this module and of the no-face behaviour are given for
_GROUPS = (0, 3, 5, 6)  # where rotation, translation, log scale and expression start in a state
STATE_SIZE = 57

# Source: our reading of Face2Face^rho, Sec. 3.1 ("bilateral filtering on the fitted coefficients", no numbers given).
_WINDOW = 5  # earlier frames looked at
_SIGMA_TIME = 2.0  # frames
_SIGMA_VALUE = np.array((0.05, 0.01, 0.01, 0.3))  # rad, units of the box, log scale, norm of the expression


class BilateralFilter:
    """Averages a state over the last frames that resemble it: noise goes, real movement stays undelayed.

    y = sum_k w_k x_k / sum_k w_k per group, w_k = exp(-age_k^2 / 2 sigma_time^2) exp(-|x_k - x|^2 / 2 sigma_group^2)
    """

    def __init__(self) -> None:
        self._state = np.zeros((_WINDOW + 1, STATE_SIZE))
        self._age = np.full(_WINDOW + 1, np.inf)  # frames since each row was written
        self._difference = np.empty_like(self._state)
        self._group = np.repeat(np.arange(4), np.diff((*_GROUPS, STATE_SIZE)))
        self._next = 0

    def reset(self) -> None:
        """Forget all frames."""
        self._age.fill(np.inf)

    def __call__(self, state: NDArray[np.float64], frames: float = 1.0) -> NDArray[np.float64]:
        """Filter one frame.

        Args:
            state: [57] rotation vector (rad), translation (units of the box), log scale, expression.
            frames: time since the last call, in frames of 30 fps.

        Returns:
            [57], the caller's.
        """
        self._age += frames
        self._state[self._next] = state
        self._age[self._next] = 0.0
        self._next = (self._next + 1) % len(self._age)
        np.subtract(self._state, state, out=self._difference)
        np.square(self._difference, out=self._difference)
        distance2 = np.add.reduceat(self._difference, _GROUPS, axis=1)  # [6, 4]
        exponent = distance2 / (-2 * _SIGMA_VALUE**2) - (self._age**2 / (2 * _SIGMA_TIME**2))[:, None]
        weight = np.exp(exponent)
        weight /= weight.sum(axis=0)
        return np.einsum("kg,kg->g", weight[:, self._group], self._state)


_GLITCH = 0.012  # of the face size: mean movement of the keypoints in one frame that a face at rest does not make
_GLITCH_RATIO = 4.0  # times the movement of the frames before
_MAX_HELD = 3  # frames; what lasts longer is no glitch


class GlitchGate:
    """Tells a one-frame glitch of a detector from movement: a sudden jump waits for the next frame to confirm it."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all frames: the next one passes."""
        self._last: NDArray[np.floating] | None = None  # keypoints of the last frame that passed
        self._pending: NDArray[np.floating] | None = None  # of the frame that was held back
        self._usual = 0.0  # movement per frame of late, of the face size
        self._held = 0

    def __call__(self, keypoints: NDArray[np.floating], size: float, frames: float = 1.0) -> bool:
        """Whether the frame may pass; if not, use the last one that did.

        Args:
            keypoints: [72, 2] in any unit.
            size: of the face, in that unit.
            frames: time since the last call, in frames of 30 fps.
        """
        if self._last is not None:
            jump = _mean_distance(keypoints, self._last) / size
            sudden = jump > max(_GLITCH * max(frames, 1.0), _GLITCH_RATIO * self._usual)
            if sudden and not self._confirmed(keypoints, jump * size):
                self._pending = keypoints
                self._held += 1
                return False
            self._usual += 0.3 * (jump / (self._held + 1) - self._usual)
        self._last, self._pending, self._held = keypoints, None, 0
        return True

    def _confirmed(self, keypoints: NDArray[np.floating], jump: float) -> bool:
        """Whether the frame held back was movement: this one lies towards it (two unrelated glitches do not)."""
        if self._held >= _MAX_HELD:
            return True
        return self._pending is not None and _mean_distance(keypoints, self._pending) < 0.75 * jump


def _mean_distance(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    difference = a - b
    return float(np.sqrt(np.einsum("kd,kd->k", difference, difference)).mean())
