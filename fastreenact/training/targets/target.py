"""What a model says of its training: its networks, what a batch has to bring, its pictures and its losses."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from fastreenact.models.face2face_rho.networks import Face2FaceRho, Features, RenderingNet
from fastreenact.training.data.batches import Batch
from fastreenact.training.schedule import TrainConfig

Autocast = Callable[[], AbstractContextManager[object]]
"""The context that renderers run in: bfloat16 where the run asks for it."""


class Generated(NamedTuple):
    """What the networks make of a batch."""

    fake: Tensor  # [N, 3, S, S]
    parts: dict[str, Tensor]  # losses without their weights
    total: Tensor  # their weighted sum
    drawn: bool  # whether the renderer took part


class Target(Protocol):
    """A pair of networks to be trained."""

    model: str
    """Its name in weights files."""

    def networks(self) -> Face2FaceRho:
        """New networks, as training begins."""

    def shown(self, nets: Face2FaceRho, batch: Batch, motion_size: int, autocast: Autocast) -> tuple[Tensor, Tensor]:
        """The source as the motion network moves it, and the picture that is made of it: [N, 3, S, S] each."""

    def generate(
        self, nets: Face2FaceRho, batch: Batch, emphasis: Tensor, config: TrainConfig, step: int, autocast: Autocast
    ) -> Generated:
        """The picture of a step, with its losses but for reconstruction and the discriminator's."""

    def save(self, nets: Face2FaceRho, path: Path, dtype: torch.dtype) -> Path:
        """Write a weights file; raises WeightsError where `dtype` does not hold the values."""


def encoded(renderer: RenderingNet, batch: Batch) -> Features:
    """What the renderer knows of the sources of all pairs; each source is encoded once."""
    known = renderer.encode(batch.source[batch.distinct], batch.source_pose[batch.distinct])
    f1, f2, f3, f4 = (maps.index_select(0, batch.source_of) for maps in known[:4])
    return Features(f1, f2, f3, f4, known.size)
