"""Parts of a picture, turned and resized: what a face is looked for in."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastreenact.face.track.backends import Picture, Points

_SIDES = (64, 640)  # px, least and most of a part as the net gets it


class View(NamedTuple):
    """A square part of a picture, turned; what lies outside the picture is grey."""

    cx: float  # centre, px
    cy: float
    size: float  # side, px
    angle_deg: float  # the content is turned by this much counter-clockwise

    def cut(self, picture: Picture) -> Picture:
        from PIL import Image

        side = self._side()
        # Pillow maps output pixels to input ones: x = a u + b v + c, y = d u + e v + f.
        (a, b), (d, e) = self._turn() * (self.size / side)
        c = self.cx - (a + b) * side / 2
        f = self.cy - (d + e) * side / 2
        image, shrink = Image.fromarray(picture), self.size / side
        if shrink >= 2:  # average first, so that nothing is skipped
            image = image.reduce(int(shrink))
            ratio = np.array((image.width / picture.shape[1], image.height / picture.shape[0]))
            a, b, c, d, e, f = a * ratio[0], b * ratio[0], c * ratio[0], d * ratio[1], e * ratio[1], f * ratio[1]
        part = image.transform(
            (side, side),
            Image.Transform.AFFINE,
            (a, b, c, d, e, f),
            Image.Resampling.BILINEAR,
            fillcolor=(127, 127, 127),
        )
        return np.asarray(part)

    def back(self, points: Points) -> Points:
        """Points in the cut part (px of its own side) -> px of the picture."""
        side = self._side()
        scale = self.size / side
        out = points * scale
        out[:, :2] = (points[:, :2] - side / 2) @ (self._turn() * scale).T + (self.cx, self.cy)
        return out.astype(np.float32)

    def _side(self) -> int:
        return int(min(max(self.size, _SIDES[0]), _SIDES[1]))

    def _turn(self) -> NDArray[np.float64]:
        angle = np.deg2rad(self.angle_deg)
        return np.array(((np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle))))


def views(height: int, width: int) -> Iterator[View]:
    """What to look at in a picture, the likely first: the whole, wider, parts of it, turned."""
    cx, cy, side = width / 2, height / 2, float(max(height, width))
    for scale in (1.0, 1.6, 2.4):  # a face that fills the picture is found when it is smaller
        yield View(cx, cy, side * scale, 0.0)
    short = float(min(height, width))
    # Small faces; parts overlap by a half. A strip is not cut into ever more of them: a face needs room.
    for part in dict.fromkeys(max(share * short, side / 12) for share in (1.0, 0.6, 0.4)):
        for y in _starts(height, part):
            for x in _starts(width, part):
                yield View(x + part / 2, y + part / 2, part, 0.0)
    for angle in (30.0, -30.0, 60.0, -60.0, 90.0, -90.0, 180.0):
        for scale in (1.0, 1.6):
            yield View(cx, cy, side * scale, angle)


def _starts(length: int, part: float) -> NDArray[np.float64]:
    count = max(1, int(np.ceil((length - part) / (part / 2) - 1e-9)) + 1)
    return np.linspace(0, length - part, count)


def view_of(points: Points, angle_deg: float) -> View:
    """The view of a face alone, turned as the view it was found in."""
    low, high = points[:, :2].min(axis=0), points[:, :2].max(axis=0)
    centre = (low + high) / 2
    return View(float(centre[0]), float(centre[1]), 2.0 * float((high - low).max()), angle_deg)
