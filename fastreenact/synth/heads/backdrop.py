"""What is behind a generated head: walls, rooms, leaves, blurred lights, streets; with the spectrum of nature."""

import functools
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter
from torch import Tensor

Array32 = NDArray[np.float32]
_SIDE = 256  # drawn at this size at most, and enlarged
_TILE = 512
_TILES = 6  # different ones; more would not be told apart


def spectrum_noise(rng: np.random.Generator, height: int, width: int, slope: float, stretch: float = 1.0) -> Array32:
    """Noise [height, width] whose amplitude falls as frequency to the -slope; periodic, mean 0, deviation 1.

    Natural pictures have a slope of about 1 (Field, 1987). stretch > 1 makes streaks along y.
    """
    fy, fx = np.fft.fftfreq(height)[:, None] * stretch, np.fft.rfftfreq(width)[None]
    size = np.hypot(fy, fx)
    size[0, 0] = np.inf
    wave = np.exp(2j * np.pi * rng.random(size.shape)) * rng.rayleigh(1.0, size.shape) * size**-slope
    noise = np.fft.irfft2(wave, (height, width))
    return (noise / noise.std()).astype(np.float32)


@functools.lru_cache(maxsize=_TILES)
def tile(index: int) -> Array32:
    """[512, 512, 3] coloured noise, from smooth to rough by index, repeated in both directions."""
    rng = np.random.default_rng((index, 6))
    slope = 0.9 + 0.2 * index
    grey, *tint = (spectrum_noise(rng, _TILE, _TILE, s) for s in (slope, slope + 0.3, slope + 0.3))
    return np.asarray(grey[..., None] + 0.35 * np.stack([tint[0], -0.5 * (tint[0] + tint[1]), tint[1]], -1), np.float32)


def noise_patch(rng: np.random.Generator, size: int) -> Array32:
    """[size, size, 3] of the coloured noise, anywhere and either way round."""
    y, x = rng.integers(0, _TILE - size + 1, 2) if size < _TILE else (0, 0)
    patch = tile(int(rng.integers(_TILES)))[y : y + size, x : x + size]
    patch = patch[:, :: int(rng.choice((-1, 1)))]
    return patch.swapaxes(0, 1) if rng.random() < 0.3 else patch


class _Canvas:
    """A picture being drawn; coordinates are shares of its side, colours 0..1."""

    def __init__(self, rng: np.random.Generator, size: int):
        self.rng, self.size = rng, size
        self.vivid = rng.random() ** 3
        self.picture = Image.fromarray(np.clip(self._ramp() * 255, 0, 255).astype(np.uint8))
        self.draw = ImageDraw.Draw(self.picture)

    def colours(self, count: int, low: float = 0.02, high: float = 1.0) -> NDArray[np.float64]:
        """[count, 3] from grey to vivid."""
        grey = self.rng.uniform(low, high, (count, 1))
        return np.asarray(np.clip(grey + self.vivid * self.rng.uniform(-0.6, 0.6, (count, 3)), 0, 1))

    def _ramp(self) -> NDArray[Any]:
        """One colour that goes over into another, or light that falls off from a point."""
        base, other = self.colours(2)
        if self.rng.random() < 0.5:
            other = np.clip(base * self.rng.uniform(0.3, 1.3) + self.rng.normal(0, 0.03, 3), 0, 1)
        at = np.linspace(-1, 1, self.size, dtype=np.float32)
        if self.rng.random() < 0.5:
            angle = self.rng.uniform(0, 2 * np.pi)
            share = 0.5 + 0.5 * (np.cos(angle) * at[None] + np.sin(angle) * at[:, None])
        else:
            x, y = self.rng.uniform(-1, 1, 2)
            share = 0.35 * ((at[None] - x) ** 2 + (at[:, None] - y) ** 2)
        return np.asarray(base + (other - base) * np.clip(share, 0, 1)[..., None])

    def box(self, x: float, y: float, w: float, h: float, colour: Any, kind: str = "rectangle") -> None:
        """A rectangle or an ellipse, filled."""
        n = self.size
        fill = tuple((np.clip(np.asarray(colour), 0, 1) * 255).astype(int).tolist())
        getattr(self.draw, kind)([x * n, y * n, (x + max(w, 0)) * n + 0.5, (y + max(h, 0)) * n + 0.5], fill=fill)

    def line(self, points: Any, colour: Any, width: float) -> None:
        """A line through points [N, 2]."""
        fill = tuple((np.clip(np.asarray(colour), 0, 1) * 255).astype(int).tolist())
        self.draw.line(
            (np.asarray(points) * self.size).ravel().tolist(), fill=fill, width=max(1, round(width * self.size))
        )


def _leaves(canvas: _Canvas, count: int = 260) -> None:
    """Overlapping ellipses whose sizes follow a power law: edges and spectrum of natural pictures (dead leaves)."""
    rng = canvas.rng
    size = np.minimum(0.028 * rng.random(count) ** -0.6, 0.45)
    size[::-1].sort()
    hue = canvas.colours(4, 0.05, 0.75)
    if rng.random() < 0.6:
        hue = np.clip(rng.uniform((0.08, 0.14, 0.03), (0.5, 0.6, 0.3), (4, 3)), 0, 1)
    tone = np.clip(hue[rng.integers(0, 4, count)] * rng.uniform(0.3, 1.6, (count, 1)), 0, 1)
    place, long = rng.uniform(-0.1, 1.05, (count, 2)), rng.uniform(0.3, 1.0, (count, 2))
    strokes = rng.random() * 0.7
    for k in range(count):
        if rng.random() < strokes:
            angle = rng.uniform(0, np.pi)
            along = size[k] * 2.0 * np.array([np.cos(angle), np.sin(angle)])
            canvas.line([place[k] - along, place[k] + along * 0.1, place[k] + along], tone[k], size[k] * 0.18)
        else:
            wide, high = size[k] * long[k]
            canvas.box(place[k, 0], place[k, 1], wide, high, tone[k], "ellipse")


def _room(canvas: _Canvas) -> None:
    """Floor, windows, doors, frames, shelves, curtains."""
    rng = canvas.rng
    floor = rng.uniform(0.6, 1.2)
    canvas.box(-0.1, floor, 1.2, 0.6, canvas.colours(1)[0])
    canvas.box(-0.1, floor - 0.02, 1.2, 0.02, canvas.colours(1)[0])
    for _ in range(rng.integers(1, 5)):
        x, y = rng.uniform(-0.2, 0.95), rng.uniform(-0.1, 0.5)
        w, h = rng.uniform(0.12, 0.5, 2)
        frame, fill = canvas.colours(2)
        kind = rng.integers(5)
        if kind == 0:  # window
            canvas.box(x - 0.015, y - 0.015, w + 0.03, h + 0.03, frame)
            canvas.box(x, y, w, h, np.clip(rng.uniform(0.7, 1.1) + rng.normal(0, 0.05, 3), 0, 1))
            for share in np.linspace(0, 1, int(rng.integers(2, 5)))[1:-1]:
                canvas.box(x + share * w, y, 0.01, h, frame)
            canvas.box(x, y + h / 2, w, 0.01, frame)
        elif kind == 1:  # frame on the wall, with a mat
            canvas.box(x, y, w * 0.6, h * 0.6, frame)
            canvas.box(x + 0.012, y + 0.012, w * 0.6 - 0.024, h * 0.6 - 0.024, (0.9, 0.9, 0.88))
            canvas.box(x + 0.03, y + 0.03, w * 0.6 - 0.06, h * 0.6 - 0.06, fill)
        elif kind == 2:  # books
            at = x
            for tone, thick in zip(canvas.colours(24), rng.uniform(0.008, 0.03, 24), strict=True):
                canvas.box(at, y + rng.uniform(0, 0.04), thick - 0.003, 0.16, tone)
                at += thick
            canvas.box(x - 0.02, y + 0.16, at - x + 0.04, 0.015, frame)
        elif kind == 3:  # curtain
            for k, tone in enumerate(rng.uniform(0.5, 1.1, 14)):
                canvas.box(x + k * w / 14, -0.1, w / 14, 1.2, np.clip(fill * tone, 0, 1))
        else:  # door or board
            canvas.box(x, y, w, 1.5 * h + 0.3, fill)
            canvas.box(x + 0.02, y + 0.02, w - 0.04, h * 0.6, np.clip(fill * 0.85, 0, 1))


def _street(canvas: _Canvas) -> None:
    """Sky, houses with rows of windows, ground."""
    rng = canvas.rng
    at = -0.1
    while at < 1.0:
        width, top = rng.uniform(0.12, 0.5), rng.uniform(-0.1, 0.5)
        wall, glass = canvas.colours(2, 0.05, 0.8)
        canvas.box(at, top, width, 1.2, wall)
        step = rng.uniform(0.04, 0.09)
        for y in np.arange(top + step / 2, 1.0, step * 1.4):
            for x in np.arange(at + step / 3, at + width - step / 2, step):
                canvas.box(x, y, step * 0.5, step * 0.8, glass * rng.uniform(0.5, 1.3))
        at += width + rng.uniform(0, 0.1)


def _lights(canvas: _Canvas) -> None:
    """Bright discs out of focus before the dark."""
    rng = canvas.rng
    canvas.picture.paste(Image.fromarray((np.asarray(canvas.picture) * rng.uniform(0.1, 0.6)).astype(np.uint8)))
    radius = rng.uniform(0.01, 0.07)
    for tone in np.clip(rng.uniform(0.2, 1.1, (int(rng.integers(8, 50)), 3)) * rng.uniform(0.5, 1.0, 3) + 0.1, 0, 1):
        x, y = rng.uniform(-0.05, 1.0, 2)
        canvas.box(x, y, radius, radius, tone * 0.8, "ellipse")
        canvas.box(x + 0.1 * radius, y + 0.1 * radius, 0.8 * radius, 0.8 * radius, tone, "ellipse")


def _shapes(canvas: _Canvas) -> None:
    for colour in canvas.colours(int(canvas.rng.integers(1, 14))):
        x, y, w, h = *canvas.rng.uniform(-0.2, 1.0, 2), *canvas.rng.exponential(0.25, 2)
        canvas.box(x, y, w, h, colour, "rectangle" if canvas.rng.random() < 0.6 else "ellipse")


def _writing(canvas: _Canvas) -> None:
    """Rows of small strokes that look like letters."""
    rng = canvas.rng
    high = rng.uniform(0.015, 0.07)
    left, top = rng.uniform(0, 0.7), rng.uniform(0, 0.8)
    ink, paper = canvas.colours(2)
    rows = int(rng.integers(1, 5))
    if rng.random() < 0.6:
        canvas.box(left - high, top - high, 0.5, (rows + 1) * 1.6 * high, paper)
    for row in range(rows):
        for k in range(int(rng.integers(3, 12))):
            if rng.random() < 0.15:
                continue
            x, y = left + k * high * 0.8, top + row * 1.6 * high
            strokes = rng.integers(0, 2, (3, 2)) * (0.5, 1.0) + rng.integers(0, 2, (3, 2)) * (0.1, -0.3)
            canvas.line(np.array([x, y]) + high * strokes, ink, high * 0.15)


@functools.lru_cache(maxsize=4)
def background(seed: int, size: int) -> Tensor:
    """[size, size, 3] linear light behind a head, kept for the next frame of the shot.

    A wall, a room, leaves, houses, lights or shapes, in or out of focus, under uneven light, with fine texture.
    """
    rng = np.random.default_rng((seed, 4))
    n = min(size, _SIDE)
    canvas = _Canvas(rng, n)
    for drawn in {0: (), 1: (_room,), 2: (_leaves,), 3: (_lights,), 4: (_street,), 5: (_shapes,), 6: (_room, _leaves)}[
        int(rng.choice(7, p=(0.26, 0.24, 0.17, 0.08, 0.1, 0.1, 0.05)))
    ]:
        drawn(canvas)
    if rng.random() < 0.12:
        _writing(canvas)
    blur = n * float(rng.choice((0.0, 0.004, 0.012, 0.03), p=(0.2, 0.25, 0.35, 0.2)))
    picture = canvas.picture.filter(ImageFilter.GaussianBlur(blur)) if blur else canvas.picture
    if n != size:
        picture = picture.resize((size, size), Image.Resampling.BICUBIC)
    field = np.asarray(picture, np.float32) / 255
    if size <= _TILE:
        field = field * (1 + rng.uniform(0.0, 0.1) * (rng.random() < 0.6) * noise_patch(rng, size))
        if rng.random() < 0.15:
            field = field + rng.uniform(0.03, 0.2) * noise_patch(rng, size)
    return torch.from_numpy((np.clip(field, 0, 1) ** 2).astype(np.float32))
