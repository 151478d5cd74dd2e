"""What a training run is made of, and how its weights and learning rate change with the step."""

import argparse
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from fastreenact.models import MODELS
from fastreenact.models.protocol import LEAST_SIZE, MOST_SIZE

# Shares of the whole run. Source: Face2Face^rho, Sec. 4 (constant to 330k of 380k iterations) and released code (the
# field loss falls to nothing in 5 of 105 epochs).
_DECAY_FROM = 330 / 380
_FIELD_UNTIL = 5 / 105

# motion_size from which one pair may be alone: below it the motion network's middle is one pixel, and BatchNorm has no
# variance of one value.
LEAST_ALONE = 128


_SIZE, _COUNT, _STEPS = (LEAST_SIZE, MOST_SIZE), (1, 1_000_000), (0, 1_000_000_000)  # bounds of what can be asked for


def _setting(default: Any, says: str, **words: Any) -> Any:
    """A field that the command line has an argument for: its help, with the default in it, and its other keywords.

    `whole` gives the bounds of a whole number.
    """
    return field(default=default, metadata={"help": says.format(default), **words})


@dataclass(frozen=True)
class TrainConfig:
    """One run. What the losses depend on; how often things are written does not change them.

    Imports nothing heavy, since `fastreenact train --help` reads it.
    """

    size: int = _setting(256, "side of the pictures, 64 to 2048 (default {})", metavar="S", whole=_SIZE)
    motion_size: int = _setting(
        256, "side for which the motion network sees landmarks, a multiple of 64 (default {})", metavar="M", whole=_SIZE
    )
    base: bool = _setting(
        False,
        "draw over the landmark warp (default), or from nothing, as published",  # the default of a new run's command
        action=argparse.BooleanOptionalAction,
    )
    steps: int = _setting(380_000, "length of the whole run (default {})", metavar="N", whole=_STEPS)
    batch: int = _setting(6, "pairs in a step (default {})", metavar="N", whole=_COUNT)  # of all processes together
    learning_rate: float = _setting(2e-4, "default 2e-4", metavar="X")
    warm_up: int = _setting(0, "steps over which it rises to that (default {})", metavar="N", whole=_STEPS)
    ema: float = _setting(0.999, "decay of the averaged weights (default {})", metavar="X")  # after a warm-up
    reuse: int = _setting(  # where data cost as much as a step
        1, "steps for each new batch of data; the others take recent ones again (default {})", metavar="N", whole=_COUNT
    )
    renderer_from: int = _setting(
        0,
        "step at which the renderer joins; before, the motion network learns alone (default {})",
        metavar="N",
        whole=_STEPS,
    )
    discriminator_from: int = _setting(  # `steps` leaves it out
        0, "step at which the discriminator joins (default {})", metavar="N", whole=_STEPS
    )
    bf16: bool = _setting(False, "renderer and discriminator in bfloat16", action="store_true")  # and VGG
    save_every: int = _setting(1000, "steps between two states on disk (default {})", metavar="N", whole=_COUNT)
    sheet_every: int = 1000
    clip: float = 4.0  # gradients longer than this many times their running mean are shortened to that
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise ValueError where a number cannot be."""
        from fastreenact.models.face2face_rho.networks import motion_input_size

        motion_input_size(self.size, self.motion_size)
        for name in ("steps", "batch", "reuse", "save_every", "sheet_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("learning_rate", "clip"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be above 0 and finite, got {getattr(self, name)}")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema must be from 0 to below 1, got {self.ema}")
        for name in ("renderer_from", "discriminator_from", "seed", "warm_up"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative")
        if self.renderer_from and not self.base:
            raise ValueError("renderer_from needs a base: without one nothing is drawn before the renderer joins")
        if self.batch == 1 and self.motion_size < LEAST_ALONE:
            raise ValueError(f"a batch of 1 needs a motion_size of at least {LEAST_ALONE}")

    @property
    def model(self) -> str:
        """What is trained: the first of `fastreenact.models.MODELS` that can be, over the landmark warp or not."""
        return next(name for name, model in MODELS.items() if model.target and model.over_base == self.base)

    def learning_rate_at(self, step: int) -> float:
        """Linearly up to its height, constant, then linearly to 0 at the end."""
        start = _DECAY_FROM * self.steps
        rising = (step + 1) / (self.warm_up + 1)
        return self.learning_rate * min(1.0, rising, (self.steps - step) / (self.steps - start))

    def field_weight_at(self, step: int) -> float:
        """Weight of the field loss: linearly from 1000 to 0 over the first 5/105 of the run."""
        from fastreenact.training.losses import FIELD_WEIGHT

        return FIELD_WEIGHT * max(0.0, 1 - step / (_FIELD_UNTIL * self.steps))

    def ema_at(self, step: int) -> float:
        """Decay of the averaged weights: young averages forget faster."""
        return min(self.ema, (1 + step) / (10 + step))

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "TrainConfig":
        """Back from JSON; what an older version did not store has its default.

        Raises:
            ValueError: names or types that are not this class's.
        """
        types = {field.name: type(field.default) for field in fields(cls)}
        if any(type(value) is not types.get(name) for name, value in values.items()):
            raise ValueError("the run's settings do not fit this version")
        return cls(**values)
