"""What a training run is made of, and how its weights and learning rate change with the step."""

from dataclasses import asdict, dataclass, fields
from typing import Any

from fastreenact.models.face2face_rho.networks import motion_input_size
from fastreenact.training.losses import FIELD_WEIGHT

# Shares of the whole run. Source: Face2Face^rho, Sec. 4 (constant to 330k of 380k iterations) and released code (the
# field loss falls to nothing in 5 of 105 epochs).
_DECAY_FROM = 330 / 380
_FIELD_UNTIL = 5 / 105

# motion_size from which one pair may be alone: below it the motion network's middle is one pixel, and BatchNorm has no
# variance of one value.
LEAST_ALONE = 128


@dataclass(frozen=True)
class TrainConfig:
    """One run. What the losses depend on; how often things are written does not change them."""

    size: int = 256  # side of the pictures, px
    motion_size: int = 256  # side for which the motion network's landmark images are drawn, a multiple of 64
    steps: int = 380_000
    batch: int = 6  # pairs in a step, of all processes together
    reuse: int = 1  # steps for each new batch of data, where data cost as much as a step
    learning_rate: float = 2e-4
    warm_up: int = 0  # steps over which the learning rate rises to that
    renderer_from: int = 0  # step at which the renderer joins; before, the motion network learns alone on a base
    discriminator_from: int = 0  # step at which the discriminator joins; `steps` leaves it out
    clip: float = 4.0  # gradients longer than this many times their running mean are shortened to that
    ema: float = 0.999  # decay of the averaged weights, reached after a warm-up
    base: bool = False  # draw over the landmark warp: a lever beyond the paper, named in the weights file
    bf16: bool = False  # renderer, discriminator and VGG in bfloat16
    seed: int = 0
    save_every: int = 1000  # steps
    sheet_every: int = 1000

    def __post_init__(self) -> None:
        """Raise ValueError where a number cannot be."""
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
        """What is trained: a name of `fastreenact.training.targets.TARGETS`."""
        return "refined-warp" if self.base else "face2face-rho"

    def learning_rate_at(self, step: int) -> float:
        """Linearly up to its height, constant, then linearly to 0 at the end."""
        start = _DECAY_FROM * self.steps
        rising = (step + 1) / (self.warm_up + 1)
        return self.learning_rate * min(1.0, rising, (self.steps - step) / (self.steps - start))

    def field_weight_at(self, step: int) -> float:
        """Weight of the field loss: linearly from 1000 to 0 over the first 5/105 of the run."""
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
