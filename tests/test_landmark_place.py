"""landmark_place and landmark_nodes against what the landmark warp does in NumPy, and their kernels on the host."""

import numpy as np
import pytest
import torch
from conftest import assert_close
from torch import Tensor

pytest.importorskip("scipy", reason="SciPy is not installed")
from test_landmark_warp import NEUTRAL, REST, _random_motion, project, resident  # noqa: E402

from fastreenact.face.crop import Box
from fastreenact.models.landmark_warp.device import pack_head
from fastreenact.models.landmark_warp.warp import LandmarkWarp, State, checked
from fastreenact.ops import landmark_nodes, landmark_place
from fastreenact.ops.landmark_place import FRAME_BYTES

PICTURES = [
    (256, 256, Box(128, 128, 256)),
    (301, 477, Box(200, 160, 230)),
    (720, 500, Box(250, 300, 480)),  # two pixels a node
    (200, 200, Box(180, 30, 220)),  # half of it beyond the picture
    (64, 64, Box(32, 32, 40)),  # a node a pixel
]


def placed(states: list[State], keypoints: list[np.ndarray], poses: list[np.ndarray], index: list[int]) -> Tensor:
    """Frames of these heads."""
    read = [checked(*pair) for pair in zip(keypoints, poses, strict=True)]
    points, turns = (torch.from_numpy(np.stack(part)) for part in zip(*read, strict=True))
    heads = torch.stack([pack_head(state) for state in states])
    frames = torch.full((len(index), FRAME_BYTES), 77, dtype=torch.uint8)
    return landmark_place(heads, torch.tensor(index, dtype=torch.int32), points, turns, frames)


def nodes_of(frames: Tensor, state: State, height: int, width: int) -> np.ndarray:
    """All nodes of a picture, by the op, with a sentinel around."""
    grid = state.grid
    h, w = -(-height // grid.step), -(-width // grid.step)
    memory = torch.full((len(frames) + 2, h, w, 2), 7.0)
    landmark_nodes(frames, grid.step, grid.coarse, (height, width), memory[1:-1])
    assert (memory[0] == 7).all()
    assert (memory[-1] == 7).all()
    return memory[1:-1].numpy()


def nodes_in_numpy(renderer: LandmarkWarp, state: State, keypoints: np.ndarray, pose: np.ndarray) -> np.ndarray:
    return renderer.place(state, keypoints, pose).whole_field(renderer.height, renderer.width)


def motions(count: int, seed: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    found = [_random_motion(rng) for _ in range(count)]
    return [project(*motion) for motion in found], [pose for _, pose in found]


@pytest.mark.parametrize(("height", "width", "box"), PICTURES)
def test_nodes_are_those_of_numpy(height, width, box):
    renderer, state = resident(height, width, box)
    keypoints, poses = motions(8, 3)
    found = nodes_of(placed([state], keypoints, poses, [0] * 8), state, height, width)
    for ours, points, pose in zip(found, keypoints, poses, strict=True):
        error = np.abs(ours - nodes_in_numpy(renderer, state, points, pose)) * np.array((width, height)) / 2
        assert error.max() < 4e-4 * box.size
        assert np.sqrt((error**2).mean()) < 4e-5 * box.size
