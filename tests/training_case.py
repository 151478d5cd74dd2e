"""Small data for the tests of training: drawn heads in memory, and a folder of the VoxCeleb layout."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from fastreenact.face.morphable.model import default_model
from fastreenact.training.data.batches import Draw, Frame
from fastreenact.training.loop import Trainer

RNG = np.random.default_rng


def keypoints(x: float = 0.0, turn: float = 0.0) -> np.ndarray:
    """[72, 2] of the mean face, moved and turned."""
    model = default_model()
    pose = np.array([0.0, turn, 0.0, x, 0.0, 0.45], np.float32)
    return np.asarray(model.project(np.zeros(50, np.float32), np.zeros(51, np.float32), pose), np.float32)


def disc(size: int, x: float, colour: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """A shaded disc on a gradient, uint8 [S, S, 3], and where it is, bool [S, S]."""
    at = (np.arange(size) + 0.5) * 2 / size - 1
    inside = (at[None] - x) ** 2 + at[:, None] ** 2 < 0.25
    picture = np.empty((size, size, 3))
    picture[:] = (128 + 60 * at)[:, None, None]
    picture[inside] = colour
    picture[inside] += 40 * np.broadcast_to(at[None, :, None] - x, picture.shape)[inside]
    return picture.clip(0, 255).astype(np.uint8), inside


class Discs:
    """Discs that move sideways: two colours, as many places as one likes."""

    def __init__(self, size: int = 64):
        self.size = size
        self.broken: dict[str, str] = {}
        self.metadata: Mapping[str, str] = {
            "head_pose": "standardised",
            "head_pose_mean": "0,0,0,0,0,0",
            "head_pose_deviation": "1,1,1,1,1,1",
        }

    def __len__(self) -> int:
        return 8

    def draw(self, rng: np.random.Generator) -> Draw:
        colour = ((200, 140, 120), (90, 60, 150))[rng.integers(2)]
        source, driver = (self.frame(x, colour) for x in rng.uniform(-0.3, 0.3, 2))
        return Draw(source, [driver])

    def frame(self, x: float, colour: tuple[int, int, int]) -> Frame:
        picture, inside = disc(self.size, x, colour)
        pose = np.array([0, 0, 0, x, 0, 0.45], np.float32)
        return Frame(picture, keypoints(x), pose, np.array([0, 0, 0, x, 0, 0], np.float32), inside)


def write_folder(root: Path, videos: dict[str, list[int]], size: int = 80, *, masks: bool = True) -> None:
    """A folder of the VoxCeleb layout with the frames named; frame N shows the disc at N / 100."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "list.txt").write_text("".join(f"{name}\n" for name in videos))
    for video, frames in videos.items():
        for kind in ("img", "landmark", "headpose", "mask"):
            (root / video / kind).mkdir(parents=True)
        for n in frames:
            picture, inside = disc(size, n / 100, (200, 140, 120))
            Image.fromarray(picture).save(root / video / "img" / f"{n}.png")
            if masks:
                Image.fromarray(inside.astype(np.uint8) * 255).save(root / video / "mask" / f"{n}.png")
            np.savetxt(root / video / "landmark" / f"{n}.txt", keypoints(n / 100))
            np.savetxt(root / video / "headpose" / f"{n}.txt", [0, 0, 0, n / 100, 0, 0.0015])


def digest(trainer: Trainer) -> str:
    """A hash of everything the networks hold."""
    found = hashlib.sha256()
    for net in trainer._nets.values():
        for value in net.state_dict().values():
            found.update(value.contiguous().numpy().tobytes())
    return found.hexdigest()
