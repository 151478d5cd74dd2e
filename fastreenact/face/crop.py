"""The square of a picture that is animated: where it lies, how it is cut out and put back."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fastreenact.face.keypoints import COUNT, face_size


class Box(NamedTuple):
    """A square in pixels; normalised coordinates are -1 and 1 on its edges (align_corners=False)."""

    cx: float  # centre, px
    cy: float
    size: float  # side, px

    @classmethod
    def whole(cls, side: float) -> "Box":
        """All of a square picture of that side, px."""
        return cls(side / 2, side / 2, side)

    def normalise(self, px: Any) -> NDArray[np.float32]:
        """Pixels [..., 2] -> float32 [..., 2]: (px - centre) / (size / 2)."""
        centre = np.array((self.cx, self.cy))
        return ((np.asarray(px) - centre) * (2.0 / self.size)).astype(np.float32)

    def denormalise(self, c: Any) -> NDArray[np.float32]:
        """Normalised coordinates [..., 2] -> pixels float32 [..., 2]."""
        centre = np.array((self.cx, self.cy))
        return (np.asarray(c) * (self.size / 2.0) + centre).astype(np.float32)


_BOX_PER_FACE = 2.2  # side of the box per face size: hair and neck are in, as in FOMM's and LivePortrait's crops
_SHIFT_UP = 0.1  # of the side: there is more head above the brows than below the chin


def crop_box(keypoints: Any) -> Box:
    """The square around a face: 2.2 times the face size, shifted up by a tenth of its side.

    Args:
        keypoints: [72, >= 2] px.

    Returns:
        The box; it may reach beyond the picture.

    Raises:
        ValueError: another shape, a coordinate that is not finite, or a face without extent.
    """
    points = np.asarray(keypoints, np.float64)
    if points.ndim != 2 or points.shape[0] != COUNT or points.shape[1] < 2:
        raise ValueError(f"keypoints: got shape {points.shape}, need [72, 2]")
    if not np.isfinite(points[:, :2]).all():
        raise ValueError("keypoints: some coordinates are NaN or infinite")
    size = _BOX_PER_FACE * face_size(points)
    if size <= 0:
        raise ValueError("keypoints: all points coincide, so there is no face to frame")
    centre = (points[:, :2].min(axis=0) + points[:, :2].max(axis=0)) / 2
    return Box(float(centre[0]), float(centre[1]) - _SHIFT_UP * size, size)


def crop(image: NDArray[np.uint8], box: Box, size: int) -> NDArray[np.uint8]:
    """Cut a box out of a picture; the edge is repeated outside.

    Cubic, averaged over the area of an output pixel when shrinking.

    Args:
        image: uint8 [H, W, 3].
        box: px.
        size: side of the result, px.

    Returns:
        uint8 [size, size, 3].

    Raises:
        ValueError: not such a picture, a size below 1, or a box that is not finite or far larger than the picture.
    """
    height, width = _checked(image, box, size)
    x0, y0, x1, y1 = _bounds(box)
    rows = np.clip(np.arange(y0, y1), 0, height - 1)
    columns = np.clip(np.arange(x0, x1), 0, width - 1)
    if x0 >= 0 and y0 >= 0 and x1 <= width and y1 <= height:
        part = image[y0:y1, x0:x1]
    else:
        part = image[rows[:, None], columns]
    left, top = box.cx - box.size / 2 - x0, box.cy - box.size / 2 - y0
    right, bottom = min(left + box.size, x1 - x0), min(top + box.size, y1 - y0)
    picture = Image.fromarray(np.ascontiguousarray(part))
    return np.array(picture.resize((size, size), Image.Resampling.BICUBIC, (left, top, right, bottom)))


_FEATHER = 0.12  # of the side of the box: how far in from its edges the mask rises from 0 to 1


class Paster:
    """Puts the animated crop back into its portrait, with a soft mask inside the box; outside nothing changes.

    out = portrait + mask (crop - portrait), the mask a smooth step from the edges of the box inwards
    """

    def __init__(self, image: NDArray[np.uint8], box: Box, size: int):
        """
        Args:
            image: the portrait, uint8 [H, W, 3]; kept, not changed.
            box: where the crop was cut out, px.
            size: side of the crop, px.

        Raises:
            ValueError: as `crop`, or a box that does not overlap the portrait.
        """
        height, width = _checked(image, box, size)
        left, top = box.cx - box.size / 2, box.cy - box.size / 2
        # Only pixels wholly inside the box and the picture.
        x0, x1 = max(0, int(np.ceil(left))), min(width, int(np.floor(left + box.size)))
        y0, y1 = max(0, int(np.ceil(top))), min(height, int(np.floor(top + box.size)))
        if x0 >= x1 or y0 >= y1:
            raise ValueError(f"box: {box} does not overlap the {width} x {height} picture")
        self._image, self._size = image, size
        self._region = (slice(y0, y1), slice(x0, x1))
        scale = size / box.size
        self._source = (  # the region in the crop's own pixels; never negative, rounding may exceed the far edges
            (x0 - left) * scale,
            (y0 - top) * scale,
            min((x1 - left) * scale, size),
            min((y1 - top) * scale, size),
        )
        along_x = _rise((np.arange(x0, x1) + 0.5 - left) / box.size)
        along_y = _rise((np.arange(y0, y1) + 0.5 - top) / box.size)
        mask = np.round(256 * along_y[:, None] * along_x).astype(np.uint16)[..., None]  # [h, w, 1], 0 to 256
        # Most of the box is the crop's alone; only the four strips around are blended.
        rows, columns = _full(along_y), _full(along_x)
        whole = slice(0, mask.shape[1])
        strips = (
            (slice(0, rows.start), whole),
            (slice(rows.stop, mask.shape[0]), whole),
            (rows, slice(0, columns.start)),
            (rows, slice(columns.stop, mask.shape[1])),
        )
        under = image[self._region]
        self._inside = (rows, columns)
        self._strips = [
            (strip, mask[strip], under[strip] * (256 - mask[strip]) + np.uint16(128))
            for strip in strips
            if mask[strip].size
        ]

    def paste(self, face: NDArray[np.uint8], out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """The portrait with the animated crop in it.

        Args:
            face: uint8 [size, size, 3].
            out: uint8 [H, W, 3] to write to; None makes a new one.

        Returns:
            `out`.

        Raises:
            ValueError: a face or an `out` of another shape or dtype.
        """
        if face.shape != (self._size, self._size, 3) or face.dtype != np.uint8:
            raise ValueError(f"face: got {face.dtype} {list(face.shape)}, need uint8 {[self._size, self._size, 3]}")
        if out is None:
            out = self._image.copy()
        elif out.shape != self._image.shape or out.dtype != np.uint8:
            raise ValueError(f"out: got {out.dtype} {list(out.shape)}, need uint8 {list(self._image.shape)}")
        else:
            np.copyto(out, self._image)
        region = out[self._region]
        shape = (region.shape[1], region.shape[0])
        resized = Image.fromarray(face).resize(shape, Image.Resampling.BILINEAR, self._source)
        moved = np.asarray(resized)
        region[self._inside] = moved[self._inside]
        for strip, mask, under in self._strips:
            mixed = moved[strip] * mask
            mixed += under
            mixed >>= 8
            region[strip] = mixed
        return out


def _checked(image: NDArray[np.uint8], box: Box, size: int) -> tuple[int, int]:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        got = f"{image.dtype} {list(image.shape)}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ValueError(f"image: got {got}, need a NumPy uint8 [H, W, 3] picture (RGB)")
    if size < 1:
        raise ValueError(f"size: got {size}, need at least 1 pixel")
    largest = 8 * max(image.shape[:2])
    if not np.isfinite(box).all() or not 1 <= box.size <= largest:
        raise ValueError(f"box: got {box}, need finite numbers and a side from 1 to {largest} px (8 times the picture)")
    return image.shape[0], image.shape[1]


def _bounds(box: Box) -> tuple[int, int, int, int]:
    """The pixels that a box touches: x0, y0, x1, y1."""
    left, top = box.cx - box.size / 2, box.cy - box.size / 2
    return (int(np.floor(left)), int(np.floor(top)), int(np.ceil(left + box.size)), int(np.ceil(top + box.size)))


def _rise(place: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """The mask along one axis: 0 at the edges of the box (places 0 and 1), 1 from _FEATHER on inwards."""
    t = np.clip(np.minimum(place, 1 - place) / _FEATHER, 0, 1)
    return t * t * (3 - 2 * t)


def _full(mask: NDArray[np.floating[Any]]) -> slice:
    """Where the mask along one axis is 1."""
    full = np.flatnonzero(mask >= 1)
    return slice(int(full[0]), int(full[-1]) + 1) if len(full) else slice(0, 0)
