"""Whether activations on real pictures stay within what training met: beyond it, what the networks do is chance."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from fastreenact.evaluation.clips import Clip, Faces, Picture
from fastreenact.face.morphable.fit import Fit
from fastreenact.face.motion import Motion
from fastreenact.models import MODELS
from fastreenact.models.face2face_rho.head_pose import head_pose_input
from fastreenact.models.face2face_rho.networks import Face2FaceRho
from fastreenact.training.data.batches import Draw, Frame, batch_of
from fastreenact.training.targets import TARGETS

_AT_ONCE = 8  # pairs


class Excess(NamedTuple):
    """How far the inputs of one BatchNorm leave the range known."""

    layer: str
    share: float  # of the values
    furthest: float  # value beyond its channel's range, as a share of the layer's widest range


@dataclass
class Ranges:
    """Least and greatest input of every channel of every BatchNorm of a model."""

    model: Face2FaceRho
    found: dict[str, tuple[Tensor, Tensor]]  # layer -> [C], [C]


def known_ranges(model: Face2FaceRho, draws: Iterable[Draw]) -> Ranges:
    """The ranges that a model's activations have on what it was trained on.

    Args:
        model: in eval mode, on the CPU.
        draws: pictures of the size that it was trained for.
    """
    found: dict[str, tuple[Tensor, Tensor]] = {}

    def widen(name: str, x: Tensor) -> None:
        least, most = x.amin((0, 2, 3)), x.amax((0, 2, 3))
        if name in found:
            least, most = torch.minimum(least, found[name][0]), torch.maximum(most, found[name][1])
        found[name] = (least, most)

    _watch(model, draws, widen)
    return Ranges(model, found)


def leave_ranges(known: Ranges, draws: Iterable[Draw]) -> list[Excess]:
    """How far other pictures leave these ranges, the furthest layer first."""
    outside: dict[str, tuple[int, int, float]] = {}  # layer -> values outside, values, furthest

    def compare(name: str, x: Tensor) -> None:
        least, most = (bound[:, None, None] for bound in known.found[name])
        beyond = torch.maximum(least - x, x - most)
        far = float(beyond.max() / (most - least).max())
        count, values, furthest = outside.get(name, (0, 0, 0.0))
        outside[name] = (count + int((beyond > 0).sum()), values + x.numel(), max(furthest, far))

    _watch(known.model, draws, compare)
    found = [Excess(name, count / values, furthest) for name, (count, values, furthest) in outside.items()]
    return sorted(found, key=lambda excess: excess.furthest, reverse=True)


def clip_draw(clip: Clip, faces: Faces, model: Face2FaceRho) -> Draw:
    """A clip as the networks meet it: its portrait, and its drivers with the keypoints that the engine would make."""
    size = int(model.metadata["size"])

    def frame(picture: Picture, keypoints: NDArray[np.float32], motion: Motion | Fit) -> Frame:
        small = np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BOX))
        return Frame(
            small,
            keypoints,
            motion.pose,
            head_pose_input(motion.pose, keypoints, model.metadata),
            np.zeros((size, size), np.bool_),
        )

    rest = (clip.rest * (2 / faces.size) - 1).astype(np.float32)
    still = faces.fit(clip.rest, clip.shape)
    offset = rest - faces.model.project(clip.shape, still.expression, still.pose)
    drivers = [
        frame(picture, faces.model.project(clip.shape, motion.expression, motion.pose) + offset, motion)
        for picture, motion in zip(clip.frames, clip.motions, strict=True)
    ]
    return Draw(frame(clip.still, rest, still), drivers)


class _Given:
    """A data set of a few drivers of one source."""

    def __init__(self, draw: Draw, model: Face2FaceRho):
        self.size = len(draw.source.image)
        self.metadata: Mapping[str, str] = model.metadata
        self.broken: dict[str, str] = {}
        self._draw = draw

    def __len__(self) -> int:
        return 1

    def draw(self, _rng: np.random.Generator) -> Draw:
        return self._draw


def _in_parts(draws: Iterable[Draw]) -> Iterator[Draw]:
    for draw in draws:
        for i in range(0, len(draw.drivers), _AT_ONCE):
            yield Draw(draw.source, draw.drivers[i : i + _AT_ONCE])


def _watch(model: Face2FaceRho, draws: Iterable[Draw], see: Callable[[str, Tensor], None]) -> None:
    """Run both networks on all pairs; `see` is told the inputs [N, C, h, w] of every BatchNorm, float32."""
    motion_size = int(model.metadata.get("motion_size", model.metadata["size"]))
    handles = [
        layer.register_forward_pre_hook(lambda _, x, name=f"{net}.{name}": see(name, x[0]))
        for net, module in (("motion_net", model.motion), ("rendering_net", model.renderer))
        for name, layer in module.named_modules()
        if isinstance(layer, nn.BatchNorm2d)
    ]
    try:
        for draw in _in_parts(draws):
            with torch.no_grad():
                pairs = len(draw.drivers)
                name = model.metadata["model"]
                batch = batch_of(_Given(draw, model), 0, 0, pairs, motion_size, base=MODELS[name].over_base)
                TARGETS[name].shown(model, batch, motion_size, nullcontext)
    finally:
        for handle in handles:
            handle.remove()
