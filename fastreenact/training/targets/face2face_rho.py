"""Training of Face2Face^rho as published."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from fastreenact.models.face2face_rho import MODEL
from fastreenact.models.face2face_rho.networks import Face2FaceRho, MotionNet, RenderingNet, motion_inputs
from fastreenact.models.face2face_rho.weights import save_face2face_rho
from fastreenact.training import losses
from fastreenact.training.data.batches import Batch
from fastreenact.training.schedule import TrainConfig
from fastreenact.training.targets.target import Autocast, Generated, encoded


class Published:
    """See `Target`."""

    model = MODEL.name

    def networks(self) -> Face2FaceRho:
        """See `Target`."""
        return Face2FaceRho(MotionNet(), RenderingNet())

    def shown(self, nets: Face2FaceRho, batch: Batch, motion_size: int, autocast: Autocast) -> tuple[Tensor, Tensor]:
        """See `Target`."""
        field = self._fields(nets, batch)[2]
        large = F.interpolate(field.permute(0, 3, 1, 2), batch.source.shape[-2:], mode="bilinear")
        moved = F.grid_sample(batch.source, large.permute(0, 2, 3, 1), align_corners=False)
        return moved, self._draw(nets, batch, field, autocast)

    def generate(
        self, nets: Face2FaceRho, batch: Batch, emphasis: Tensor, config: TrainConfig, step: int, autocast: Autocast
    ) -> Generated:
        """See `Target`."""
        fields = self._fields(nets, batch)
        fake = self._draw(nets, batch, fields[2], autocast)
        weight = config.field_weight_at(step)
        parts = {"warp": losses.warp_loss(batch.source, batch.driver, fields), "field": losses.field_loss(fields)}
        total = losses.WARP_WEIGHT * parts["warp"]
        if weight:
            total = total + weight * parts["field"]
        return Generated(fake, parts, total, drawn=True)

    def save(self, nets: Face2FaceRho, path: Path, dtype: torch.dtype) -> Path:
        """See `Target`."""
        return save_face2face_rho(nets, path, dtype)

    def _fields(self, nets: Face2FaceRho, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Three fields [N, h, w, 2] float32, h = M/16, M/8, M/4."""
        small, middle, large = nets.motion(*motion_inputs(batch.source, batch.source_landmarks, batch.driver_landmarks))
        return small, middle, large

    def _draw(self, nets: Face2FaceRho, batch: Batch, field: Tensor, autocast: Autocast) -> Tensor:
        """The driver's picture, [N, 3, S, S] float32."""
        with autocast():
            return nets.renderer.decode(encoded(nets.renderer, batch), field, batch.driver_pose).float()


TARGET = Published()
