"""Deterministic weights and inputs for the tests of Face2Face^rho, and the plain form's way to a frame."""

import zlib
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastreenact import ops
from fastreenact.models.face2face_rho.head_pose import head_pose_input
from fastreenact.models.face2face_rho.networks import (
    Face2FaceRho,
    MotionNet,
    RenderingNet,
    motion_input_size,
    motion_inputs,
)

SCALES = (16, 8, 4)


def numbers(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal float32 values that depend on `name` alone (NumPy keeps its old generator's stream fixed)."""
    return np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)


def fill(net: nn.Module) -> nn.Module:
    """Weights by name, scaled so that activations stay near 1 and fields point into the picture."""
    state = {}
    for name, value in net.state_dict().items():
        x = numbers(name, tuple(value.shape)) if value.ndim else np.zeros((), np.int64)
        if name.endswith("running_var"):
            x = 1 + 0.5 * np.abs(x)
        elif value.ndim == 1:
            x = 0.1 * x + (1 if name.endswith("weight") else 0)
        elif value.ndim > 1:
            gain = {2: 0.03, 3: 0.7}.get(value.shape[0], 1.4)  # field heads and the picture stay in range
            x = x * gain * np.float32(np.prod(value.shape[1:])) ** -0.5
        state[name] = torch.from_numpy(np.asarray(x, np.float32)).to(value.dtype)
    net.load_state_dict(state, strict=True)
    return net.eval().requires_grad_(False)


def model(**metadata: str) -> Face2FaceRho:
    """Both networks with weights by name."""
    motion, renderer = MotionNet(), RenderingNet()
    fill(motion)
    fill(renderer)
    words = {"format": "fastreenact-weights-1", "model": "face2face-rho", "size": "256", "head_pose": "official"}
    return Face2FaceRho(motion, renderer, words | metadata)


def face(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints [72, 2] in about [-1.1, 1.1] and pose [6]."""
    pose = np.concatenate([0.2 * numbers(f"{name}.pose", (5,)), [0.45]]).astype(np.float32)
    return 0.5 * numbers(f"{name}.points", (72, 2)), pose


def picture(size: int) -> np.ndarray:
    """uint8 [S, S, 3], smooth like a photograph: in noise a field's rounding would show a hundred times larger."""
    coarse = torch.from_numpy(numbers("picture", (1, 3, 9, 9)))
    smooth = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=False)
    return (128 + 60 * smooth).clamp(0, 255).to(torch.uint8)[0].permute(1, 2, 0).contiguous().numpy()


def plain_frame(
    net: Face2FaceRho, image: np.ndarray, source: Any, driver: Any, motion_size: int | None = None
) -> Tensor:
    """The plain form's picture [1, 3, S, S] in (-1, 1) for `face`s of source and driver."""
    side = motion_input_size(len(image), motion_size)

    def drawings(points: np.ndarray) -> tuple[Tensor, ...]:
        x = [ops.rasterize_landmarks(torch.from_numpy(points)[None], side // k, i) for i, k in enumerate(SCALES)]
        return tuple(d.permute(0, 3, 1, 2).float() * (2 / 255) - 1 for d in x)

    def pose(points: np.ndarray, six: np.ndarray) -> Tensor:
        return torch.from_numpy(head_pose_input(six, points, net.metadata))[None]

    x = torch.from_numpy(image)[None].permute(0, 3, 1, 2).float() * (2 / 255) - 1
    with torch.no_grad():
        field = net.motion(*motion_inputs(x, drawings(source[0]), drawings(driver[0])))[2]
        return net.renderer.decode(net.renderer.encode(x, pose(*source)), field, pose(*driver))
