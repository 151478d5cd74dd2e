"""Light and camera of a shot of a generated head, and the fine texture of skin, hair and cloth. From random states."""

import functools
import io
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from torch import Tensor
from torch.nn import functional

from fastreenact.synth.heads.backdrop import spectrum_noise

Array32 = NDArray[np.float32]
_TEXTURE_SIDE = 512
_TEXTURES = 4  # different ones; more would not be told apart
_TEXEL = 1 / 210  # model units: a texel of the finest texture, about


class Scene(NamedTuple):
    """Light and camera of a shot."""

    sky: Array32  # [3] ambient light from above, linear
    ground: Array32  # [3] from below
    lights: Array32  # [L, 3] towards the light, in camera axes; the first casts shadows
    colours: Array32  # [L, 3]
    softness: float  # 0 hard, 1 lights half of what is turned away
    shadow: float  # 0 none, 1 black
    penumbra: float  # width of a shadow's edge, cells of the depth map
    body_turn: float  # share of the head's turning that the shoulders follow
    body_follow: float  # share of its way in the picture that they go along
    body_place: Array32  # [3] tx, ty, scale where they rest
    blur: float  # standard deviation as a share of the picture's side
    sharpening: float  # by the camera
    noise: float  # standard deviation in levels
    grain: float  # size of the noise in px, 1 or more
    quality: int  # of JPEG; 0 none
    exposure: float
    gain: Array32  # [3] white balance
    contrast: float
    bend: float  # how much highlights and shadows are flattened
    saturation: float
    vignette: float
    texture: int


def _lamps(rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Directions [L, 3] and colours [L, 3], the strongest first."""
    count = int(rng.integers(1, 4))
    azimuth, height = rng.normal(0, 0.8, count), rng.uniform(-0.1, 1.15, count)
    lamps = np.column_stack([np.sin(azimuth) * np.cos(height), np.sin(height), np.cos(azimuth) * np.cos(height)])
    strength = np.sort(rng.dirichlet(np.ones(count)))[::-1, None] * rng.uniform(0.6, 1.6)
    colours = strength * (1 + rng.normal(0, 0.14, (count, 1)) * (1.0, 0.1, -1.0))
    if rng.random() < 0.12:  # lamps of strong colour
        colours = colours * rng.uniform(0.1, 1.4, (count, 3))
    if rng.random() < 0.15:  # one more from behind
        side = rng.choice((-1, 1)) * rng.uniform(0.6, 0.9)
        lamps = np.concatenate([lamps, np.array([(side, 0.3, -0.6)]) / np.linalg.norm((side, 0.3, 0.6))])
        colours = np.concatenate([colours, rng.uniform(0.5, 2.0) * rng.uniform(0.6, 1.0, (1, 3))])
    return lamps, colours


def make_scene(seed: int) -> Scene:
    """Light and camera of a shot, decided by `seed`."""
    rng = np.random.default_rng((seed, 2))
    lamps, colours = _lamps(rng)
    ambient = rng.uniform(0.08, 0.45) * (1 + rng.normal(0, 0.07, 3))
    frontal = 0.8 * ambient.mean() + float((colours.mean(1) * lamps[:, 2].clip(0)).sum())
    # A camera does not leave a face black, nor white; now and then nearly.
    exposure = np.clip(1.0, rng.uniform(0.5, 0.9) / frontal, rng.uniform(1.0, 1.6) / frontal)
    if rng.random() < 0.2:
        exposure *= rng.choice((rng.uniform(0.4, 0.7), rng.uniform(1.2, 1.9)))
    sharp = rng.random() < 0.6
    stance = np.random.default_rng((seed, 12))
    return Scene(
        sky=(ambient * 1.15).astype(np.float32),
        ground=(ambient * rng.uniform(0.35, 0.9)).astype(np.float32),
        lights=lamps.astype(np.float32),
        colours=colours.astype(np.float32),
        softness=float(rng.uniform(0.0, 0.3)),
        shadow=float(rng.uniform(0.3, 1.0)),
        penumbra=float(rng.uniform(0.7, 2.5)),
        body_turn=float(rng.uniform(0.0, 0.35)),
        body_follow=float(np.clip(stance.uniform(-0.2, 1.3), 0, 1)),
        body_place=np.array([*stance.normal((0, 0.1), (0.05, 0.04)), stance.uniform(0.4, 0.5)], np.float32),
        blur=0.0 if sharp else float(rng.uniform(0.001, 0.0045)),
        sharpening=float(rng.uniform(0.2, 1.0) * (rng.random() < 0.2)),
        noise=float(rng.gamma(1.2, 0.9)) * (rng.random() < 0.75),
        grain=float(rng.choice((1.0, 1.0, 2.0))),
        quality=int(rng.integers(35, 97)) * int(rng.random() < 0.6),
        exposure=float(exposure),
        gain=(1 + rng.normal(0, 0.06, 3)).astype(np.float32),
        contrast=float(rng.uniform(0.85, 1.2)),
        bend=float(rng.uniform(0.0, 0.8)),
        saturation=float(rng.choice((rng.uniform(0.6, 1.25), 1.0, 0.0), p=(0.6, 0.37, 0.03))),
        vignette=float(rng.uniform(0, 0.5) * (rng.random() < 0.3)),
        texture=int(rng.integers(_TEXTURES)),
    )


@functools.lru_cache(maxsize=_TEXTURES * 4)
def texture(index: int, level: int) -> Tensor:
    """[1, 3, 512 >> level, ...]: pores and blotches of skin; strands of hair along v; weave and folds of cloth."""
    if level:
        return functional.avg_pool2d(texture(index, level - 1), 2) * 1.12  # some contrast of what is averaged stays
    rng = np.random.default_rng((index, 3))
    n = _TEXTURE_SIDE
    skin = 0.8 * spectrum_noise(rng, n, n, 0.5) + 0.45 * spectrum_noise(rng, n, n, 1.5)
    hair = 0.75 * spectrum_noise(rng, n, n, 0.8, 16.0) + 0.75 * spectrum_noise(rng, n, n, 1.1, 8.0)
    x = np.arange(n) * (2 * np.pi / n)
    threads = np.sin(x * (64 + 16 * index))[None] * np.sin(x * (64 + 16 * index))[:, None]
    cloth = 0.6 * threads + 0.5 * spectrum_noise(rng, n, n, 0.7) + 0.7 * spectrum_noise(rng, n, n, 1.7)
    return torch.from_numpy(np.clip(np.stack([skin, hair, cloth]), -2.5, 2.5).astype(np.float32))[None]


def texture_for(index: int, pixel: float) -> Tensor:
    """The texture thinned out so that a texel is not much smaller than a pixel of `pixel` model units."""
    return texture(index, int(np.clip(np.log2(max(pixel / _TEXEL, 1.0)) + 0.2, 0, 4)))


@functools.cache
def _camera_noise() -> Array32:
    """[2, 640, 640, 3] deviation 1, from pixel to pixel and over two pixels."""
    rng = np.random.default_rng(21)
    fine = rng.standard_normal((640, 640, 3)).astype(np.float32)
    fine = 0.7 * fine + 0.7 * fine.mean(axis=-1, keepdims=True) * np.sqrt(3)
    coarse = (fine + np.roll(fine, 1, 0) + np.roll(fine, 1, 1) + np.roll(fine, (1, 1), (0, 1))) / 2
    return np.stack([fine, coarse])


@functools.lru_cache(maxsize=4)
def _corners(size: int) -> Array32:
    """[S, S, 1] squared distance from the middle."""
    at = np.linspace(-1, 1, size, dtype=np.float32)
    return np.asarray((at[None] ** 2 + at[:, None] ** 2)[..., None] / 2)


def photograph(scene: Scene, picture: Array32, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Linear light [S, S, 3] as a camera delivers it: white balance, tone, blur, sharpening, noise, JPEG; uint8."""
    size = len(picture)
    seen = picture * scene.gain
    if scene.vignette:
        seen *= 1 - scene.vignette * _corners(size)
    if scene.saturation != 1.0:
        grey = seen @ np.array([[0.3], [0.59], [0.11]], np.float32)
        seen = grey + scene.saturation * (seen - grey)
    tone = np.sqrt(np.clip(seen, 0, 2.0))
    if scene.bend:  # towards a curve that is steep in the middle and flat at both ends
        kept = np.minimum(tone, 1.0)
        tone = tone + scene.bend * (kept * kept * (3 - 2 * kept) - kept)
    levels = (tone - 0.5) * (255 * scene.contrast) + 127.5
    if scene.blur * size > 0.2 or scene.sharpening:
        image = Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8))
        if scene.blur * size > 0.2:
            image = image.filter(ImageFilter.GaussianBlur(scene.blur * size))
        if scene.sharpening:
            image = image.filter(ImageFilter.UnsharpMask(1 + size / 256, int(100 * scene.sharpening), 0))
        levels = np.asarray(image, np.float32)
    if scene.noise:
        levels = levels + scene.noise * _noise_at(rng, int(scene.grain) - 1, size)
    image8 = np.clip(levels + 0.5, 0, 255).astype(np.uint8)
    if scene.quality:
        file = io.BytesIO()
        Image.fromarray(image8).save(file, "JPEG", quality=scene.quality)
        image8 = np.array(Image.open(file))
    return image8


def _noise_at(rng: np.random.Generator, kind: int, size: int) -> Array32:
    """[S, S, 3] of the camera noise, anywhere; tiled where a picture is larger."""
    field = _camera_noise()[kind]
    y, x = rng.integers(0, 640, 2)
    if size > 320:
        repeats = -(-size // 640) + 1
        field = np.tile(field, (repeats, repeats, 1))
    y, x = y % (len(field) - size + 1), x % (len(field) - size + 1)
    return field[y : y + size, x : x + size]
