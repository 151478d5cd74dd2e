"""slit_cover, lay_cover: what shows between two curves, lids or lips, and how it is laid over a picture."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastreenact import _C

Floats = NDArray[np.float32]


class SlitShape(NamedTuple):
    """A slit in a picture and the layer behind it, in px of the picture."""

    upper: Floats  # [K, 2] contiguous: its upper edge, (along, across) in the slit's frame; along never falls
    lower: Floats  # [K, 2] contiguous: its lower edge
    frame: tuple[float, ...]  # its centre (x, y), then its unit vectors along and across
    layer: tuple[float, ...]  # from px to -1 to 1 of the layer: x times [0] plus y times [1] plus [2]; and so on for y
    left: int  # of the window that is looked at
    top: int
    inset: float  # the layer begins so far inside the edges,
    soft: float  # and is opaque so much further in
    gain: float  # on the opacity


def slit_cover(shape: SlitShape, opacity: Floats, field: Floats) -> None:
    """How opaque a layer is between the edges of a slit, and where it is read, at each pixel of a window.

    opacity = gain ramp((distance from the nearer edge - inset) / soft), ramp(t) = t^2 (3 - 2 t) between 0 and 1

    Args:
        shape: the slit and the layer.
        opacity: [h, w, 1] float32, contiguous, written.
        field: [h, w, 2] float32, contiguous, written: where the layer is read, -1 and 1 its edges.

    Raises:
        TypeError: an array of another type or shape, or that is not contiguous.
    """
    _C.slit_cover(**shape._asdict(), opacity=opacity, field=field)


def slit_cover_reference(shape: SlitShape, height: int, width: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What `slit_cover` means, in NumPy and float64: opacity [h, w, 1] and field [h, w, 2]."""
    x, y = np.meshgrid(np.arange(width) + shape.left + 0.5, np.arange(height) + shape.top + 0.5)
    centre_x, centre_y, *axes = shape.frame
    along, across = ((x - centre_x) * axes[i] + (y - centre_y) * axes[i + 1] for i in (0, 2))
    above, below = (np.interp(along, *edge.T.astype(np.float64)) for edge in (shape.upper, shape.lower))
    t = np.clip((np.minimum(across - above, below - across) - shape.inset) / shape.soft, 0.0, 1.0)
    field = [x * shape.layer[i] + y * shape.layer[i + 1] + shape.layer[i + 2] for i in (0, 3)]
    return (shape.gain * t * t * (3.0 - 2.0 * t))[..., None], np.stack(field, -1)


def lay_cover(layer: NDArray[np.uint8], opacity: Floats, field: Floats, surface: NDArray[np.uint8]) -> None:
    """Lay a picture over another, in place, as far as it is opaque.

    surface += (bilinear(layer, field) - surface) opacity, rounded to nearest; the layer's edges go on outside

    Args:
        layer: uint8 [a, b, 3], contiguous.
        opacity: [h, w, 1] float32, contiguous, 0 to 1.
        field: [h, w, 2] float32, contiguous: -1 and 1 are the layer's edges.
        surface: uint8 [h, w, 3], packed pixels; rows may lie apart.

    Raises:
        TypeError, ValueError: an array of another type or shape, or that lies otherwise.
    """
    _C.lay_cover(layer=layer, opacity=opacity, field=field, surface=surface)


def lay_cover_reference(
    layer: NDArray[np.uint8], opacity: Floats, field: Floats, surface: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """What `lay_cover` means, in NumPy and float64: the surface afterwards."""
    taps = []
    for axis, size in ((0, layer.shape[1]), (1, layer.shape[0])):
        at = np.clip((field[..., axis].astype(np.float64) + 1) * size / 2 - 0.5, 0, size - 1)
        low = at.astype(int)
        taps.append((low, np.minimum(low + 1, size - 1), (at - low)[..., None]))
    (left, right, x), (top, bottom, y) = taps
    above, below = ((1 - x) * layer[row, left] + x * layer[row, right] for row in (top, bottom))
    laid = surface + ((1 - y) * above + y * below - surface) * opacity.astype(np.float64)
    return np.floor(laid + 0.5).astype(np.uint8)
