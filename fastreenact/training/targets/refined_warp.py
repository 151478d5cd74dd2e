"""Training of our networks over the landmark warp."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastreenact.models.face2face_rho.networks import Face2FaceRho, MotionNet
from fastreenact.models.refined_warp import MODEL
from fastreenact.models.refined_warp.networks import RefinedRenderer, RefinedWarp, compose, motion_inputs, resize_field
from fastreenact.models.refined_warp.weights import save_refined_warp
from fastreenact.training import losses
from fastreenact.training.data.bases import Base
from fastreenact.training.data.batches import Batch
from fastreenact.training.schedule import TrainConfig
from fastreenact.training.targets.target import Autocast, Generated, encoded


class Refined:
    """See `Target`."""

    model = MODEL.name

    def networks(self) -> RefinedWarp:
        """Networks that leave the landmark warp as it is."""
        nets = RefinedWarp(MotionNet(), RefinedRenderer())
        motion = nets.motion
        for head in (motion.f1_motion, motion.model1_3, motion.model2_3, nets.renderer.de_conv_block):
            for parameter in head.parameters():
                nn.init.zeros_(parameter)
        return nets

    def shown(self, nets: Face2FaceRho, batch: Batch, motion_size: int, autocast: Autocast) -> tuple[Tensor, Tensor]:
        """See `Target`."""
        base, offset = _base(batch), self._offsets(nets, batch, motion_size)[2]
        moved = base_picture(batch.source, base, offset)
        return moved, compose(self._draw(nets, batch, base, offset, moved, autocast), moved)

    def generate(
        self, nets: Face2FaceRho, batch: Batch, emphasis: Tensor, config: TrainConfig, step: int, autocast: Autocast
    ) -> Generated:
        """See `Target`; until the renderer joins, the picture is the moved base."""
        base, offsets = _base(batch), self._offsets(nets, batch, config.motion_size)
        fake = base_picture(batch.source, base, offsets[2])
        parts = {"warp": losses.weighted_l1(fake, batch.driver, emphasis)}
        total = losses.BASE_WEIGHT * parts["warp"]
        if batch.flow is not None:
            moved = [base.field + on_field(offset, base.field) for offset in offsets]
            parts["flow"] = losses.flow_loss(moved, base.field, batch.flow, batch.mask)
            total = total + losses.FLOW_WEIGHT * parts["flow"]
        if step < config.renderer_from:
            return Generated(fake, parts, total, drawn=False)
        decoded = self._draw(nets, batch, base, offsets[2], fake.detach(), autocast)
        return Generated(compose(decoded, fake), parts, total, drawn=True)

    def save(self, nets: Face2FaceRho, path: Path, dtype: torch.dtype) -> Path:
        """See `Target`."""
        return save_refined_warp(_refined(nets), path, dtype)

    def _offsets(self, nets: Face2FaceRho, batch: Batch, motion_size: int) -> tuple[Tensor, Tensor, Tensor]:
        """Offsets [N, h, w, 2] float32 from the base's field, h = M/16, M/8, M/4."""
        field = resize_field(_base(batch).field, motion_size // 4, motion_size // 4).permute(0, 2, 3, 1)
        inputs = motion_inputs(batch.source, field, batch.source_landmarks, batch.driver_landmarks)
        small, middle, large = nets.motion(*inputs)
        return small, middle, large

    def _draw(
        self, nets: Face2FaceRho, batch: Batch, base: Base, offset: Tensor, moved: Tensor, autocast: Autocast
    ) -> Tensor:
        """Colours and gains over `moved`, [N, 4, S, S] float32."""
        renderer = _refined(nets).renderer
        field = resize_field(base.field, *offset.shape[1:3]).permute(0, 2, 3, 1) + offset
        with autocast():
            return renderer.draw(encoded(renderer, batch), field, batch.driver_pose, moved).float()


TARGET = Refined()


def _refined(nets: Face2FaceRho) -> RefinedWarp:
    if not isinstance(nets, RefinedWarp):
        raise TypeError(f"got {type(nets).__name__}, need networks over the landmark warp")
    return nets


def _base(batch: Batch) -> Base:
    if batch.base is None:
        raise ValueError("the batch has no base: make it with base=True")
    return batch.base


def on_field(offset: Tensor, field: Tensor) -> Tensor:
    """An offset [N, h, w, 2] of the motion network as [N, 2, S, S], to be added to a field of that shape."""
    return resize_field(offset.permute(0, 3, 1, 2), *field.shape[-2:])


def base_picture(source: Tensor, base: Base, offset: Tensor) -> Tensor:
    """The landmark warp with its field moved by `offset`.

    Args:
        source: [N, 3, S, S] in [-1, 1].
        base: of the same pairs.
        offset: [N, h, w, 2], in the field's coordinates; resized bilinearly.
    Returns:
        [N, 3, S, S].
    """
    field = base.field + on_field(offset, base.field)
    moved = F.grid_sample(source, field.permute(0, 2, 3, 1), padding_mode="border", align_corners=False)
    return moved + (base.inside - moved) * base.opacity
