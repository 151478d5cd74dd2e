"""What is around a generated head: light, background, texture of skin and hair, camera. All from random states."""

import functools
import io
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter
from torch import Tensor

from fastreenact.training.head_look import Look

Array32 = NDArray[np.float32]
_TEXTURE_SIDE = 512
_TEXTURES = 6  # different ones; more would not be told apart


class Scene(NamedTuple):
    """Light and camera of a shot."""

    sky: Array32  # [3] ambient light from above, linear
    ground: Array32  # [3] from below
    lights: Array32  # [L, 3] towards the light, in camera axes
    colours: Array32  # [L, 3]
    softness: float  # 0 hard, 1 lights half of what is turned away
    body_turn: float  # share of the head's turning that the shoulders follow
    blur: float  # standard deviation as a share of the picture's side
    noise: float  # standard deviation in levels
    quality: int  # of JPEG; 0 none
    contrast: float
    texture: int


def make_scene(seed: int) -> Scene:
    """Light, camera and surroundings of a shot, decided by `seed`."""
    rng = np.random.default_rng((seed, 2))
    count = int(rng.integers(1, 4))
    azimuth, height = rng.normal(0, 0.8, count), rng.uniform(-0.15, 1.1, count)
    lights = np.column_stack([np.sin(azimuth) * np.cos(height), np.sin(height), np.cos(azimuth) * np.cos(height)])
    warmth = rng.normal(0, 0.14, (count, 1)) * (1.0, 0.1, -1.0)
    strength = rng.dirichlet(np.ones(count))[:, None] * rng.uniform(0.6, 1.5)
    ambient = rng.uniform(0.1, 0.4)
    tint = 1 + rng.normal(0, 0.06, 3)
    frontal = 0.9 * ambient + float((strength[:, 0] * lights[:, 2].clip(0)).sum())
    exposure = max(1.0, rng.uniform(0.5, 0.9) / frontal)  # a camera does not leave a face black
    ambient, strength = ambient * exposure, strength * exposure
    return Scene(
        (ambient * tint * 1.1).astype(np.float32), (ambient * tint * rng.uniform(0.4, 0.9)).astype(np.float32),
        lights.astype(np.float32), (strength * (1 + warmth)).astype(np.float32), float(rng.uniform(0.0, 0.4)),
        float(rng.uniform(0.0, 0.35)), float(rng.uniform(0.0, 0.0025) * (rng.random() < 0.6)),
        float(rng.gamma(1.3, 1.0)), int(rng.integers(45, 97)) * int(rng.random() < 0.6), float(rng.uniform(0.9, 1.15)),
        int(rng.integers(_TEXTURES)),
    )  # fmt: skip


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


@functools.lru_cache(maxsize=_TEXTURES)
def texture(index: int) -> Tensor:
    """[1, 2, 512, 512]: pores and blotches of skin; strands of hair along v."""
    rng = np.random.default_rng((index, 3))
    n = _TEXTURE_SIDE
    skin = 0.6 * spectrum_noise(rng, n, n, 0.9) + 0.7 * spectrum_noise(rng, n, n, 1.7)
    hair = 0.7 * spectrum_noise(rng, n, n, 0.9, 16.0) + 0.6 * spectrum_noise(rng, n, n, 1.5, 4.0)
    return torch.from_numpy(np.clip(np.stack([skin, hair]), -2.5, 2.5))[None]


@functools.lru_cache(maxsize=4)
def background(seed: int, size: int) -> Tensor:
    """[size, size, 3] linear light behind a head, kept for the next frame of the shot.

    Noise with the spectrum of natural pictures, gradients, shapes, in and out of focus.
    """
    rng = np.random.default_rng((seed, 4))
    vivid = rng.random() ** 2

    def colours(count: int) -> NDArray[np.float64]:
        grey = rng.uniform(0.02, 1.0, (count, 1))
        return np.asarray(np.clip(grey + vivid * rng.uniform(-0.6, 0.6, (count, 3)), 0, 1))

    base, other = colours(2)
    ramp = np.linspace(-1, 1, size, dtype=np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    share = np.clip(0.5 + 0.5 * (np.cos(angle) * ramp[None] + np.sin(angle) * ramp[:, None]), 0, 1)[..., None]
    field: NDArray[Any] = base + (other - base) * share * rng.random()
    if rng.random() < 0.65:
        picture = Image.fromarray((np.clip(field, 0, 1) * 255).astype(np.uint8))
        draw = ImageDraw.Draw(picture)
        for _ in range(rng.integers(1, 14)):
            x, y, w, h = rng.uniform(-0.2, 1.0, 2).tolist() + rng.exponential(0.25, 2).tolist()
            colour = tuple((colours(1)[0] * 255).astype(int).tolist())
            corners = [x * size, y * size, (x + w) * size + 1, (y + h) * size + 1]
            if rng.random() < 0.6:
                draw.rectangle(corners, fill=colour)
            else:
                draw.ellipse(corners, fill=colour)
        picture = picture.filter(ImageFilter.GaussianBlur(float(size * rng.choice([0.0, 0.004, 0.015, 0.04]))))
        field = np.asarray(picture, np.float64) / 255
    if rng.random() < 0.6:
        n = min(size, 256)
        slope = rng.uniform(1.0, 2.0)
        grey = spectrum_noise(rng, n, n, slope)[..., None]
        tint = [spectrum_noise(rng, n, n, slope + 0.3) for _ in range(2)]
        tinted: NDArray[Any] = grey + 0.4 * vivid * np.stack([*tint, -tint[0] - tint[1]], axis=-1)
        if n != size:
            tinted = np.kron(tinted, np.ones((-(-size // n), -(-size // n), 1), np.float32))[:size, :size]
        field = field + rng.uniform(0.01, 0.16) * tinted
    return torch.from_numpy((np.clip(field, 0, 1) ** 2).astype(np.float32))


def shade(scene: Scene, look: Look, normals: Tensor) -> Tensor:
    """Light that vertices send to the camera, [V, 3] linear: soft diffuse, ambient from above and below, highlights.

    Args:
        normals: [V, 3] in camera axes.
    """
    sky, ground = torch.from_numpy(scene.sky), torch.from_numpy(scene.ground)
    up = normals[:, 1:2] * 0.5 + 0.5
    light = ground + (sky - ground) * up
    lights, colours = torch.from_numpy(scene.lights), torch.from_numpy(scene.colours)
    facing = normals @ lights.T
    light = light + ((facing + scene.softness) / (1 + scene.softness)).clamp_min(0) @ colours
    half = lights + torch.tensor([0.0, 0.0, 1.0])
    half = half / half.norm(dim=1, keepdim=True).clamp_min(1e-6)
    gloss = torch.from_numpy(look.gloss)
    shine = (normals @ half.T).clamp_min(0) ** gloss[:, 1:2]
    return torch.from_numpy(look.albedo) * light + gloss[:, :1] * (shine @ colours)


def photograph(scene: Scene, picture: Array32, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Linear light [S, S, 3] as a camera delivers it: tone, blur, noise, JPEG; uint8."""
    levels = (np.sqrt(np.clip(picture, 0, 1)) - 0.5) * (255 * scene.contrast) + 127.5
    if scene.blur * len(levels) > 0.2:
        soft = Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8))
        levels = np.asarray(soft.filter(ImageFilter.GaussianBlur(scene.blur * len(levels))), np.float32)
    levels = levels + scene.noise * rng.standard_normal(levels.shape, np.float32)
    image = np.clip(levels + 0.5, 0, 255).astype(np.uint8)
    if scene.quality:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=scene.quality)
        image = np.array(Image.open(file))
    return image
