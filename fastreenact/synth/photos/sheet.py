"""What surrounds a photographed face: the person, cut out over an estimated depth, that goes with the head.

Hair, hat, ears and neck move with the head, the shoulders are at rest, and between them a share of the motion is taken.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from fastreenact.face.morphable.expressions import smoothstep
from fastreenact.rotation import rotation_matrix
from fastreenact.synth.photos.layers import blur, fill, grow

Array = NDArray[np.float32]
CANVAS = 1.3  # side of what is kept of the photograph, against the face's box
NODES = 72  # of the sheet along a side
# Model units from the head's centre, y up.
_OUTLINE = -0.45  # least depth of the head's outline
_JAW = -0.35  # height below which the face is not part of the sheet: it moves over the neck
_NECK = -1.5  # height below which the sheet is a neck
_NECK_DEPTH, _NECK_RADIUS = -0.28, 0.62
_SHOULDERS, _CHIN = -2.2, -1.1  # heights at which the motion begins and at which it is the head's
_REACH = (2.8, 1.8)  # distances from the face from which on nothing, and up to which everything goes with the head


def make_sheet(
    picture: Tensor, person: Tensor, pose: Array, drawn: Tensor, alpha: Tensor
) -> tuple[Tensor, Array, Array]:
    """Cut out the person, without jaw and chin: what they hide is continued from around them.

    Args:
        picture: [3, C, C] 0..1, the photograph.
        person: [C, C] 0..1, the person's share.
        pose: [6] of the head in the box.
        drawn: [C, C, >= 2] depth and face of the head as fitted, premultiplied; alpha: [C, C].

    Returns:
        [4, C, C] with the share; depth and share of the head's motion, both [NODES, NODES].
    """
    side = person.shape[0]
    turn = rotation_matrix(pose[:3])
    deep = (drawn[..., 0] / alpha.clamp_min(1e-3)).clamp_min(_OUTLINE)
    height = torch.from_numpy(_places(side, pose) @ turn[:2, 1]).float() + deep * float(turn[2, 1]) * (alpha > 0.5)
    jaw = ((drawn[..., 1] > 0.3) & (height < _JAW)).float()
    jaw = blur(grow(jaw, side // 50)[None], side / 150)[0]
    colour = picture + (fill(picture, (1 - jaw) * person**2) - picture) * jaw
    share = fill(person[None], 1 - jaw)
    known = alpha * (jaw < 0.01)
    depth, follow = _motion(pose, turn, deep * known, known)
    return torch.cat([colour, share]), depth, follow


def _places(side: int, pose: Array) -> NDArray[np.float64]:
    """[side, side, 2] where pixels or nodes of the photograph lie, model units in camera axes."""
    ramp = (np.arange(side) + 0.5) / side * 2 - 1
    box = np.stack(np.meshgrid(ramp, ramp), axis=-1) * CANVAS
    return np.asarray((box - pose[3:5]) / pose[5] * (1, -1), np.float64)


def _motion(pose: Array, turn: NDArray[np.float64], deep: Tensor, known: Tensor) -> tuple[Array, Array]:
    """Depth and share of the head's motion at the nodes, of the head's depth [C, C] and where it is known."""
    local = _places(NODES, pose) @ turn[:2, :2]  # in the head's axes but for depth
    deep, known = functional.adaptive_avg_pool2d(torch.stack([deep, known])[None], NODES)[0]
    neck = local[..., 1] < _NECK
    round_ = np.sqrt(np.clip(1 - (local[..., 0] / _NECK_RADIUS) ** 2, 0, 1))
    depth = np.where(neck, _NECK_DEPTH + _NECK_RADIUS * round_, (deep / known.clamp_min(1e-3)).numpy())
    weight = (known > 0.5) | torch.from_numpy(neck)
    depth = fill(torch.from_numpy(depth).float()[None], weight.float())[0].numpy()
    away = np.hypot(local[..., 0], local[..., 1] - 0.2)
    follow = smoothstep(local[..., 1], _SHOULDERS, _CHIN) * smoothstep(away, *_REACH)
    return depth, follow.astype(np.float32)


def move_sheet(own: Array, depth: Array, follow: Array, pose: Array, zoom: float, shift: Any) -> Array:
    """Where the nodes of a sheet are when the head has another pose.

    Args:
        own: [6] the photograph's pose.
        depth, follow: of the sheet.
        pose: [6] in the frame.
        zoom, shift: of the camera: what is at rest goes from its place in the box to zoom * place + shift.

    Returns:
        [NODES^2, 3] x, y and depth, normalised units of the frame.
    """
    x = np.concatenate([_places(NODES, own), depth[..., None]], axis=-1)
    flip = (1, -1, 1)
    resting = x * own[5] * zoom * flip + (*(own[3:5] * zoom + shift), 0.0)
    moved = x @ (rotation_matrix(pose[:3]) @ rotation_matrix(own[:3]).T).T * pose[5] * flip + (*pose[3:5], 0.0)
    return np.asarray(resting + (moved - resting) * follow[..., None], np.float32).reshape(-1, 3)
