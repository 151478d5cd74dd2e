"""Who a generated person is, in a few numbers: complexion, age, hair, beard, make-up, what is worn."""

from typing import Any

import numpy as np

from fastreenact.synth.heads.mesh import Array

# sRGB, light to dark; measured by eye on photographs of portraits.
_SKIN = np.array([
    (0.93, 0.76, 0.69), (0.88, 0.69, 0.58), (0.78, 0.58, 0.46), (0.62, 0.43, 0.32), (0.45, 0.3, 0.22),
    (0.32, 0.21, 0.16),
])  # fmt: skip
_HAIR = np.array([
    (0.06, 0.05, 0.05), (0.13, 0.08, 0.06), (0.24, 0.15, 0.1), (0.36, 0.24, 0.15), (0.5, 0.27, 0.14), (0.66, 0.5, 0.31),
    (0.8, 0.68, 0.48), (0.55, 0.54, 0.53), (0.82, 0.81, 0.79),
])  # fmt: skip
HATS = ("beanie", "cap", "brim", "scarf")


def linear(colour: Any) -> Array:
    """sRGB as the square that stands for it here."""
    return np.asarray(colour, np.float64) ** 2


class Traits:
    """What is drawn once for a person."""

    def __init__(self, rng: np.random.Generator):
        tone = rng.beta(1.1, 1.4) * (len(_SKIN) - 1)
        low = int(min(tone, len(_SKIN) - 2))
        jitter = rng.normal(0, 0.02, 3) + rng.normal(0, 0.03)
        self.skin = linear(np.clip(_SKIN[low] + (tone - low) * (_SKIN[low + 1] - _SKIN[low]) + jitter, 0.1, 0.98))
        self.female = rng.random() < 0.5
        self.age = rng.beta(1.6, 2.0)
        grey = rng.random() < self.age**2
        dark = int(tone > 3.0)
        hair = rng.integers(7, 9) if grey else rng.integers(0, 2 if dark else 7)
        self.hair = linear(np.clip(_HAIR[hair] * rng.uniform(0.85, 1.15) + rng.normal(0, 0.01, 3), 0.1, 0.9))
        if rng.random() < 0.04:
            self.hair = linear(rng.uniform(0.1, 0.8, 3))
        self.brow = self.hair * rng.uniform(0.25, 0.8) if not grey else linear(_HAIR[rng.integers(0, 8)])
        self.beard = 0.0 if self.female or rng.random() < 0.6 else rng.uniform(0.2, 1.0)
        self.stubble = 0.0 if self.female else rng.random() * (rng.random() < 0.7)
        own = 0.0 if self.female else rng.random() * (rng.random() < 0.5)
        self.moustache = self.beard if rng.random() < 0.7 else own
        self.makeup = rng.random() if self.female and rng.random() < 0.7 else 0.0
        self.length = rng.uniform(0.3, 1.0) if rng.random() < (0.75 if self.female else 0.12) else 0.0
        self.volume = rng.uniform(0.08, 0.28) if self.length or self.female else rng.uniform(0.03, 0.22)
        self.bald = not self.female and rng.random() < 0.15
        self.hat = str(rng.choice(HATS, p=(0.3, 0.25, 0.2, 0.25))) if rng.random() < 0.13 else ""
        self.phones = not self.hat and rng.random() < 0.05
        self.earrings = rng.random() < (0.4 if self.female else 0.05)
        self.glasses = rng.random() < 0.2
        self.freckles = rng.random() * (rng.random() < 0.3) * (tone < 2)
