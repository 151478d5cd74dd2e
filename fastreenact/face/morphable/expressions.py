"""The 51 expression modes of the built-in face model, drawn by hand on its mean face.

Names and order are Apple's ARKit blend shapes without `tongueOut`; Left is the subject's left, the image's right
(x > 0). A mode is a displacement [72, 3] in the model's unit (half the width of the face), at full strength (a
coefficient of 1). Every Right mode is the mirror image of its Left one, those of the middle are their own.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from fastreenact.face.keypoints import MIRROR

EXPRESSION_NAMES = (
    "eyeBlinkLeft",
    "eyeLookDownLeft",
    "eyeLookInLeft",
    "eyeLookOutLeft",
    "eyeLookUpLeft",
    "eyeSquintLeft",
    "eyeWideLeft",
    "eyeBlinkRight",
    "eyeLookDownRight",
    "eyeLookInRight",
    "eyeLookOutRight",
    "eyeLookUpRight",
    "eyeSquintRight",
    "eyeWideRight",
    "jawForward",
    "jawLeft",
    "jawRight",
    "jawOpen",
    "mouthClose",
    "mouthFunnel",
    "mouthPucker",
    "mouthLeft",
    "mouthRight",
    "mouthSmileLeft",
    "mouthSmileRight",
    "mouthFrownLeft",
    "mouthFrownRight",
    "mouthDimpleLeft",
    "mouthDimpleRight",
    "mouthStretchLeft",
    "mouthStretchRight",
    "mouthRollLower",
    "mouthRollUpper",
    "mouthShrugLower",
    "mouthShrugUpper",
    "mouthPressLeft",
    "mouthPressRight",
    "mouthLowerDownLeft",
    "mouthLowerDownRight",
    "mouthUpperUpLeft",
    "mouthUpperUpRight",
    "browDownLeft",
    "browDownRight",
    "browInnerUp",
    "browOuterUpLeft",
    "browOuterUpRight",
    "cheekPuff",
    "cheekSquintLeft",
    "cheekSquintRight",
    "noseSneerLeft",
    "noseSneerRight",
)

LID_MEET = 0.14  # closed lids meet low, where the lower one rises to: a share of the eye's opening

# Image right, which is the subject's left; the points of the other side are MIRROR of these.
_BROW = np.array([22, 23, 24, 25, 26])  # inner to outer
_EYE_UPPER, _EYE_LOWER = np.array([45, 46, 47]), np.array([51, 50, 49])  # inner to outer, facing each other
_EYE_INNER, _EYE_OUTER = 44, 48
_UPPER_LIP = np.array([54, 53, 62, 58, 59, 56, 63, 61])  # outer edge, then inner edge
_LOWER_LIP = np.array([68, 69, 71, 66, 65, 67, 70, 64])
_UPPER_OUTER, _UPPER_INNER = _UPPER_LIP[:5], _UPPER_LIP[5:]
_LOWER_OUTER, _LOWER_INNER = _LOWER_LIP[:5], _LOWER_LIP[5:]
_CORNERS = np.array([52, 55, 57, 60])
_MOUTH = np.arange(52, 72)
_JAW_LINE = np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 16, 15, 14, 13, 12, 11, 10, 9])  # temple, chin, temple
# How far the outline's skin follows the jaw, by index 0-8; in the clips the chin sinks half as far as the lower lip.
_JAW_SHARE = np.array([0.0, 0.0, 0.01, 0.05, 0.14, 0.38, 0.56, 0.72, 0.78])

# The axis that an opening jaw seems to turn about: the condyles slide forward meanwhile, so it lies below and behind.
_HINGE = np.array([0.0, -0.3, -0.35])
_JAW_OPEN_RAD = np.deg2rad(27.0)  # about 40 mm between the lips of a face 140 mm wide


def mirrored(displacement: np.ndarray) -> np.ndarray:
    """The same displacement(s) [..., 72, 3] on the other side of the face."""
    return displacement[..., MIRROR, :] * np.array([-1.0, 1.0, 1.0])


def smoothstep(value: Any, low: float, high: float) -> np.ndarray:
    """0 below `low`, 1 above `high`, smooth between (or reversed, with low > high)."""
    t = np.clip((np.asarray(value, np.float64) - low) / (high - low), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


class _Canvas:
    """The mean face and the weights that the modes are drawn with."""

    def __init__(self, mean: np.ndarray):
        self.mean = mean
        self.half_mouth = mean[57, 0]
        self.opening = mean[_EYE_UPPER] - mean[_EYE_LOWER]  # of the left eye, [3, 3]
        self.jaw = np.zeros(72)
        self.jaw[_JAW_LINE] = _JAW_SHARE[[0, 1, 2, 3, 4, 5, 6, 7, 8, 7, 6, 5, 4, 3, 2, 1, 0]]
        self.jaw[_LOWER_LIP] = 0.9 - 0.45 * (mean[_LOWER_LIP, 0] / self.half_mouth) ** 2
        self.jaw[_CORNERS] = 0.34
        # The left side of the mouth: 0 at the right corner, 0.5 in the middle, 1 at the left corner.
        self.left = smoothstep(mean[:, 0], -0.5 * self.half_mouth, 0.5 * self.half_mouth)
        # Pull of the left corner on the mouth: 1 at the corner, fading towards the middle.
        self.corner = np.zeros(72)
        self.corner[_MOUTH] = np.clip((mean[_MOUTH, 0] / self.half_mouth + 0.25) / 1.25, 0.0, 1.0) ** 1.7
        self.corner[[57, 60]] = 1.0

    def zeros(self) -> np.ndarray:
        """No displacement, [72, 3]."""
        return np.zeros((72, 3))


def _blink(c: _Canvas) -> np.ndarray:
    d = c.zeros()
    d[_EYE_UPPER] = (LID_MEET - 1.0) * c.opening
    d[_EYE_LOWER] = LID_MEET * c.opening
    d[_EYE_OUTER, 1] = -0.1 * c.opening[1, 1]
    d[_BROW, 1] = -0.006
    return d


def _lids(c: _Canvas, upper: float, lower: float, sideways: float = 0.0) -> np.ndarray:
    """Lids of the left eye moved by shares of the eye's opening, and sideways in units."""
    d = c.zeros()
    d[_EYE_UPPER] = upper * c.opening
    d[_EYE_LOWER] = lower * c.opening
    d[np.concatenate([_EYE_UPPER, _EYE_LOWER]), 0] += sideways
    return d


def _squint(c: _Canvas) -> np.ndarray:
    d = _lids(c, -0.14, 0.34)
    d[_EYE_OUTER, :2] = (0.006, 0.1 * c.opening[1, 1])
    return d


def _brow(rise: tuple[float, ...], inwards: tuple[float, ...]) -> Callable[[_Canvas], np.ndarray]:
    """The left brow moved up and towards the nose, inner to outer point."""

    def draw(c: _Canvas) -> np.ndarray:
        d = c.zeros()
        d[_BROW, 1] = rise
        d[_BROW, 0] = -np.asarray(inwards)
        d[_BROW, 2] = -0.25 * np.asarray(rise)  # the forehead leans back
        lid = 0.12 * float(np.mean(rise))
        d[_EYE_UPPER, 1] = lid
        return d

    return draw


def _inner_brows(c: _Canvas) -> np.ndarray:
    half = _brow((0.15, 0.13, 0.085, 0.035, 0.0), (0.02, 0.015, 0.01, 0.0, 0.0))(c)
    return half + mirrored(half)


def _jaw_forward(c: _Canvas) -> np.ndarray:
    return c.jaw[:, None] * np.array([0.0, -0.01, 0.13])


def _jaw_left(c: _Canvas) -> np.ndarray:
    d = c.jaw[:, None] * np.array([0.17, 0.0, 0.0])
    d[:, 2] -= 0.06 * c.jaw * np.clip(c.mean[:, 0], -0.5, 0.5)  # it turns a little as it slides
    return d


def _jaw_open(c: _Canvas) -> np.ndarray:
    arm = c.mean - _HINGE
    cos, sin = np.cos(_JAW_OPEN_RAD), np.sin(_JAW_OPEN_RAD)
    turned = np.stack([arm[:, 0], cos * arm[:, 1] - sin * arm[:, 2], sin * arm[:, 1] + cos * arm[:, 2]], axis=1)
    d = c.jaw[:, None] * (turned - arm)
    d[_CORNERS, 0] -= 0.02 * np.sign(c.mean[_CORNERS, 0])
    # Between the corners the lips spread as the round of the mouth grows.
    sides = np.array([65, 66, 64, 59, 58, 61])
    d[sides, 0] += (0.045, 0.035, 0.03, 0.02, 0.005, 0.01)
    d[MIRROR[sides], 0] -= (0.045, 0.035, 0.03, 0.02, 0.005, 0.01)
    d[_UPPER_LIP, 1] += 0.06 - 0.06 * (c.mean[_UPPER_LIP, 0] / c.half_mouth) ** 2
    cheeks = np.array([3, 4, 5, 12, 13, 14])
    d[cheeks, 0] -= 0.02 * np.sign(c.mean[cheeks, 0])
    return d


def _mouth_close(c: _Canvas) -> np.ndarray:
    opened = _jaw_open(c)
    gap = opened[[67, 70, 64]] - opened[[56, 63, 61]]  # what an open jaw puts between the lips
    d = c.zeros()
    d[_UPPER_INNER] = 0.3 * gap
    d[_LOWER_INNER] = -0.7 * gap
    d[_UPPER_OUTER, 1] = 0.22 * gap[1, 1] * np.array([0.6, 0.9, 1.0, 0.9, 0.6])
    d[_LOWER_OUTER] = -0.64 * opened[_LOWER_OUTER]
    d[[7, 8, 16], 1] = 0.03
    return d


def _rounded(c: _Canvas, narrower: float, forward: float) -> np.ndarray:
    """Corners drawn together and lips pushed forward, the inner edges most."""
    d = c.zeros()
    edge = np.clip(np.abs(c.mean[_MOUTH, 0]) / c.half_mouth, 0.0, 1.0)
    d[_MOUTH, 0] = -narrower * c.mean[_MOUTH, 0]
    d[_MOUTH, 2] = forward * (1.0 - 0.35 * edge)
    d[np.concatenate([_UPPER_INNER, _LOWER_INNER]), 2] += 0.4 * forward
    return d


def _funnel(c: _Canvas) -> np.ndarray:
    d = _rounded(c, 0.36, 0.10)
    fade = 1.0 - 0.6 * np.abs(c.mean[:, 0]) / c.half_mouth
    d[_UPPER_OUTER, 1], d[_LOWER_OUTER, 1] = 0.035 * fade[_UPPER_OUTER], -0.07 * fade[_LOWER_OUTER]
    d[_UPPER_INNER, 1], d[_LOWER_INNER, 1] = 0.045 * fade[_UPPER_INNER], -0.085 * fade[_LOWER_INNER]
    return d


def _pucker(c: _Canvas) -> np.ndarray:
    d = _rounded(c, 0.45, 0.12)
    d[[54, 59], 1], d[[68, 65], 1] = 0.025, -0.025  # the lips stay full beside the middle
    return d


def _mouth_left(c: _Canvas) -> np.ndarray:
    d = c.zeros()
    d[_MOUTH, 0] = 0.16
    d[_MOUTH, 1] = 0.03 * (c.left[_MOUTH] - 0.5)
    d[_MOUTH, 2] = -0.10 * c.mean[_MOUTH, 0]
    d[[31, 32, 33, 34, 35], 0] = 0.02
    d[[7, 8, 16], 0] = 0.03
    return d


def _smile(c: _Canvas) -> np.ndarray:
    d = c.corner[:, None] * np.array([0.15, 0.15, -0.12])
    d[_UPPER_OUTER, 1] += 0.02 * c.left[_UPPER_OUTER]
    d[_LOWER_OUTER, 1] += 0.02 * c.left[_LOWER_OUTER]
    d[[35, 34], :2] = ((0.022, 0.012), (0.008, 0.006))
    d[[11, 12, 13], 0] = (0.012, 0.025, 0.022)
    d[_EYE_LOWER, 1] = 0.012
    return d


def _frown(c: _Canvas) -> np.ndarray:
    d = c.corner[:, None] * np.array([0.02, -0.15, -0.03])
    d[_LOWER_OUTER, 1] += 0.02 * (1.0 - c.corner[_LOWER_OUTER]) * c.left[_LOWER_OUTER]
    return d


def _dimple(c: _Canvas) -> np.ndarray:
    return c.corner[:, None] * np.array([0.11, 0.015, -0.10])


def _stretch(c: _Canvas) -> np.ndarray:
    d = c.corner[:, None] * np.array([0.14, -0.07, -0.08])
    d[_LOWER_LIP, 1] -= 0.03 * c.left[_LOWER_LIP]
    return d


def _roll(lip: np.ndarray, outer: np.ndarray, up: float) -> Callable[[_Canvas], np.ndarray]:
    """One lip turned inwards: its outer edge comes towards the opening and all of it goes back."""

    def draw(c: _Canvas) -> np.ndarray:
        d = c.zeros()
        fade = 1.0 - 0.5 * np.abs(c.mean[:, 0]) / c.half_mouth
        d[lip, 2] = -0.06 * fade[lip]
        d[lip, 1] = 0.02 * up * fade[lip]
        d[outer, 1] = up * fade[outer]
        return d

    return draw


def _shrug_lower(c: _Canvas) -> np.ndarray:
    d = c.zeros()
    fade = 1.0 - 0.5 * np.abs(c.mean[:, 0]) / c.half_mouth
    d[_LOWER_OUTER, 1], d[_LOWER_LIP, 2] = 0.09 * fade[_LOWER_OUTER], 0.05 * fade[_LOWER_LIP]
    d[_LOWER_INNER, 1], d[_UPPER_INNER, 1] = 0.055 * fade[_LOWER_INNER], 0.05 * fade[_UPPER_INNER]
    d[_UPPER_OUTER, 1] = 0.03 * fade[_UPPER_OUTER]
    d[_CORNERS, 1] = -0.02
    d[[7, 8, 16], 1] = 0.03
    return d


def _shrug_upper(c: _Canvas) -> np.ndarray:
    d = c.zeros()
    fade = 1.0 - 0.5 * np.abs(c.mean[:, 0]) / c.half_mouth
    d[_UPPER_LIP, 1], d[_UPPER_LIP, 2] = 0.07 * fade[_UPPER_LIP], 0.04 * fade[_UPPER_LIP]
    d[[32, 33, 34], 1] = 0.015
    return d


def _press(c: _Canvas) -> np.ndarray:
    d = c.zeros()
    d[_UPPER_OUTER, 1] = -0.05 * c.left[_UPPER_OUTER]
    d[_LOWER_OUTER, 1] = 0.06 * c.left[_LOWER_OUTER]
    d[_MOUTH, 2] -= 0.03 * c.left[_MOUTH]
    d[[57, 60], 0] = 0.01
    return d


def _lower_down(c: _Canvas) -> np.ndarray:
    d = c.zeros()
    d[_LOWER_LIP, 1] = -0.12 * c.left[_LOWER_LIP]
    d[[57, 60], :2] = (0.01, -0.03)
    return d


def _upper_up(c: _Canvas) -> np.ndarray:
    d = c.zeros()
    d[_UPPER_LIP, 1] = 0.11 * c.left[_UPPER_LIP]
    d[[57, 60], :2] = (0.01, 0.03)
    d[[35, 34], 1] = (0.025, 0.012)
    return d


def _cheek_puff(c: _Canvas) -> np.ndarray:
    d = c.zeros()
    d[[11, 12, 13, 14], 0] = (0.02, 0.04, 0.045, 0.03)
    d[[57, 60], 2] = 0.02
    return d + mirrored(d)


def _cheek_squint(c: _Canvas) -> np.ndarray:
    d = c.zeros()
    d[_EYE_LOWER] = 0.16 * c.opening
    d[[10, 11], 0] = (0.005, 0.01)
    return d


def _sneer(c: _Canvas) -> np.ndarray:
    d = c.zeros()
    d[[35, 34, 33], 1] = (0.06, 0.035, 0.012)
    d[[35, 34], 0] = (0.012, 0.0)
    d[_UPPER_LIP, 1] = 0.04 * c.left[_UPPER_LIP]
    d[[22, 23], 1] = (-0.02, -0.012)
    d[29, 1] = 0.008
    return d


_LEFT: dict[str, Callable[[_Canvas], np.ndarray]] = {
    "eyeBlink": _blink,
    "eyeLookDown": lambda c: _lids(c, -0.3, -0.08),
    "eyeLookIn": lambda c: _lids(c, 0.0, 0.0, -0.012),
    "eyeLookOut": lambda c: _lids(c, 0.0, 0.0, 0.012),
    "eyeLookUp": lambda c: _lids(c, 0.14, 0.08),
    "eyeSquint": _squint,
    "eyeWide": lambda c: _lids(c, 0.38, -0.06),
    "jaw": _jaw_left,
    "mouth": _mouth_left,
    "mouthSmile": _smile,
    "mouthFrown": _frown,
    "mouthDimple": _dimple,
    "mouthStretch": _stretch,
    "mouthPress": _press,
    "mouthLowerDown": _lower_down,
    "mouthUpperUp": _upper_up,
    "browDown": _brow((-0.10, -0.10, -0.085, -0.06, -0.03), (0.045, 0.035, 0.02, 0.01, 0.0)),
    "browOuterUp": _brow((0.02, 0.06, 0.10, 0.13, 0.12), (0.0, 0.0, 0.0, 0.01, 0.015)),
    "cheekSquint": _cheek_squint,
    "noseSneer": _sneer,
}
_MIDDLE: dict[str, Callable[[_Canvas], np.ndarray]] = {
    "jawForward": _jaw_forward,
    "jawOpen": _jaw_open,
    "mouthClose": _mouth_close,
    "mouthFunnel": _funnel,
    "mouthPucker": _pucker,
    "mouthRollLower": _roll(_LOWER_LIP, _LOWER_OUTER, 0.075),
    "mouthRollUpper": _roll(_UPPER_LIP, _UPPER_OUTER, -0.065),
    "mouthShrugLower": _shrug_lower,
    "mouthShrugUpper": _shrug_upper,
    "browInnerUp": _inner_brows,
    "cheekPuff": _cheek_puff,
}


def expression_modes(mean: np.ndarray) -> np.ndarray:
    """Displacements of the 51 expressions on a mean face.

    Args:
        mean: [72, 3] float, the symmetric mean face (x right, y up, z towards the viewer; half the face's width is 1).

    Returns:
        [51, 72, 3] float64 in the same unit, in the order of EXPRESSION_NAMES.
    """
    canvas = _Canvas(np.asarray(mean, np.float64))
    modes = []
    for name in EXPRESSION_NAMES:
        if name in _MIDDLE:
            drawn = _MIDDLE[name](canvas)
            modes.append((drawn + mirrored(drawn)) / 2)
        elif name.endswith("Left"):
            modes.append(_LEFT[name[:-4]](canvas))
        else:
            modes.append(mirrored(_LEFT[name[:-5]](canvas)))
    return np.stack(modes)
