"""One size of the online step for all engines: the same weights, inputs and expected picture, as files.

    python bench/network_case.py SIZE FOLDER [onnx]

Writes inputs.npz (see `Step`), expected.npy (eager PyTorch, float32) and, if asked for, step.onnx.
"""

import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastreenact import ops
from fastreenact.models.face2face_rho.head_pose import head_pose_input
from fastreenact.models.face2face_rho.networks import (
    Face2FaceRho,
    Features,
    motion_input_size,
    motion_inputs,
    random_face2face_rho,
)

INPUTS = ("small", "middle", "large", "f1", "f2", "f3", "f4", "pose")


class Step(nn.Module):
    """Motion, warp and decode of the plain networks as one function of tensors."""

    def __init__(self, model: Face2FaceRho, size: int):
        super().__init__()
        self.motion, self.renderer, self.size = model.motion, model.renderer, size

    def forward(
        self, small: Tensor, middle: Tensor, large: Tensor, f1: Tensor, f2: Tensor, f3: Tensor, f4: Tensor, pose: Tensor
    ) -> Tensor:
        """The picture, [1, 3, S, S]."""
        field = self.motion(small, middle, large)[2]
        return self.renderer.decode(Features(f1, f2, f3, f4, (self.size, self.size)), field, pose)


class Portraits:
    """A smooth picture, and keypoints and head poses of a source and a driver, the same in every process."""

    def __init__(self, size: int):
        rng = np.random.default_rng(0)
        coarse = torch.from_numpy(rng.uniform(0, 255, (1, 3, 9, 9)))
        smooth = nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")
        self.image = smooth.to(torch.uint8)[0].permute(1, 2, 0).contiguous()
        self.points = [rng.uniform(-0.8, 0.8, (72, 2)).astype(np.float32) for _ in range(2)]
        self.poses = [np.array([0.1 * i, -0.1, 0.05, 0, 0, 0.35], np.float32) for i in range(2)]


def step_inputs(model: Face2FaceRho, size: int) -> dict[str, Tensor]:
    """The inputs of `Step` on these portraits."""
    faces = Portraits(size)
    side = motion_input_size(size)
    drawings = [
        [ops.rasterize_landmarks(torch.from_numpy(p)[None], side // k, i) for i, k in enumerate((16, 8, 4))]
        for p in faces.points
    ]
    source, driver = (tuple(d.permute(0, 3, 1, 2).float() * (2 / 255) - 1 for d in three) for three in drawings)
    x = faces.image.permute(2, 0, 1)[None].float() * (2 / 255) - 1
    poses = [
        torch.from_numpy(head_pose_input(pose, points, model.metadata))[None]
        for pose, points in zip(faces.poses, faces.points, strict=True)
    ]
    features = model.renderer.encode(x, poses[0])
    return dict(zip(INPUTS, (*motion_inputs(x, source, driver), *features[:4], poses[1]), strict=True))


def export(step: nn.Module, inputs: dict[str, Tensor], path: Path) -> None:
    """ONNX of `step`, its progress lines kept off the screen."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(step, tuple(inputs.values()), path, dynamo=True, external_data=False, verbose=False)


def write_case(size: int, folder: Path, *, onnx: bool) -> None:
    """See the module."""
    model: Any = random_face2face_rho()
    step = Step(model, size).eval()
    with torch.inference_mode():
        inputs = step_inputs(model, size)
        expected = step(**inputs)
    np.savez(folder / "inputs.npz", **{name: value.numpy() for name, value in inputs.items()})
    np.save(folder / "expected.npy", expected.numpy())
    if onnx:
        plain = {name: torch.from_numpy(value.numpy()) for name, value in inputs.items()}  # not of inference mode
        export(step, plain, folder / "step.onnx")


if __name__ == "__main__":
    write_case(int(sys.argv[1]), Path(sys.argv[2]), onnx="onnx" in sys.argv[3:])
