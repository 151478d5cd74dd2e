"""A made-up portrait, a driver who talks, and an engine that tracks him without MediaPipe."""

import numpy as np
import torch

from fastreenact.engine import Engine
from fastreenact.face.morphable.model import default_model
from fastreenact.face.motion import Motion
from fastreenact.face.track.tracker import Landmarks

HEIGHT, WIDTH, FACE_PX = 320, 200, 90


def picture(seed: int = 0) -> np.ndarray:
    """A smooth random portrait, uint8 [HEIGHT, WIDTH, 3]."""
    coarse = torch.rand(1, 3, 12, 10, generator=torch.Generator().manual_seed(seed)) * 255
    fine = torch.nn.functional.interpolate(coarse, (HEIGHT, WIDTH), mode="bicubic").clamp(0, 255)
    return np.ascontiguousarray(fine[0].permute(1, 2, 0).to(torch.uint8).numpy())


def motion(index: int) -> Motion:
    """Frame `index` of a driver that turns, nods and talks."""
    expression = np.zeros(51, np.float32)
    expression[17] = 0.4 * abs(np.sin(0.3 * index))
    pose = np.array([0.1 * np.sin(0.2 * index), 0.2 * np.sin(0.1 * index), 0, 0, 0, 0.42], np.float32)
    return Motion(pose, expression, index / 30)


def landmarks(index: int) -> np.ndarray:
    """The 72 keypoints of that frame in pixels of `picture`."""
    m = motion(index)
    points = default_model().project(np.zeros(50, np.float32), m.expression, m.pose)
    return (points * FACE_PX + (WIDTH / 2, HEIGHT * 0.4)).astype(np.float32)


class PaintedTracker:
    """Reads the frame's number from its first pixel: 255 is a frame without a face."""

    def __call__(self, frame: np.ndarray) -> Landmarks | None:
        index = int(frame[0, 0, 0])
        return None if index == 255 else Landmarks(landmarks(index), 1.0)


def frame(index: int) -> np.ndarray:
    """A driving frame that `PaintedTracker` reads."""
    image = np.full((64, 48, 3), 9, np.uint8)
    image[0, 0, 0] = index
    return image


def source(seed: int = 0) -> np.ndarray:
    image = picture(seed)
    image[0, 0, 0] = 0
    return image


def make(**options: object) -> Engine:
    settings: dict = {"model": "landmark-warp", "device": "cpu", "tracker": PaintedTracker(), **options}
    return Engine(settings.pop("source", source()), **settings)
