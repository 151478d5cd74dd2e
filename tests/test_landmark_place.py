"""landmark_place and landmark_nodes against what the landmark warp does in NumPy, and their kernels on the host."""

import dataclasses

import numpy as np
import pytest
import torch
from host_emulation import build, gpu_call
from torch import Tensor

pytest.importorskip("scipy", reason="SciPy is not installed")
from test_landmark_warp import JAW, NEUTRAL, REST, SMILE, _random_motion, project, resident

from fastreenact.face.crop import Box
from fastreenact.models.landmark_warp.device import pack_head
from fastreenact.models.landmark_warp.warp import LandmarkWarp, Placement, State, checked
from fastreenact.ops import landmark_covers, landmark_nodes, landmark_place
from fastreenact.ops.landmark_covers import _LANDMARK_COVERS
from fastreenact.ops.landmark_nodes import _LANDMARK_NODES
from fastreenact.ops.landmark_place import _LANDMARK_PLACE, FRAME_BYTES

PICTURES = [
    (256, 256, Box(128, 128, 256)),
    (301, 477, Box(200, 160, 230)),
    (720, 500, Box(250, 300, 480)),  # two pixels a node
    (200, 200, Box(180, 30, 220)),  # half of it beyond the picture
    (64, 64, Box(32, 32, 40)),  # a node a pixel
]


def inputs(
    states: list[State], keypoints: list[np.ndarray], poses: list[np.ndarray], index: list[int]
) -> dict[str, Tensor]:
    """Arguments of landmark_place."""
    read = [checked(*pair) for pair in zip(keypoints, poses, strict=True)]
    points, turns = (torch.from_numpy(np.stack(part)) for part in zip(*read, strict=True))
    return {
        "heads": torch.stack([pack_head(state) for state in states]),
        "source_index": torch.tensor(index, dtype=torch.int32),
        "keypoints": points,
        "poses": turns,
        "frames": torch.full((len(index), FRAME_BYTES), 77, dtype=torch.uint8),
    }


def placed(states: list[State], keypoints: list[np.ndarray], poses: list[np.ndarray], index: list[int]) -> Tensor:
    """Frames of these heads."""
    return landmark_place(**inputs(states, keypoints, poses, index))


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


OPEN = NEUTRAL.copy()
OPEN[[JAW, SMILE]] = 0.8


@pytest.mark.parametrize("size", [97, 256, 700])
def test_covers_are_those_of_numpy(size):
    """Laid over skin in slices of a wider memory, whose rest stays."""
    renderer, state = resident(size, size, Box.whole(size))
    poses = [REST, REST + np.float32((0.1, 0.2, -0.3, 0.05, 0.02, 0.03)), REST + np.float32((0, 0.9, 0, 0.6, 0, 0))]
    keypoints = [project(OPEN, pose) for pose in poses]
    skin = np.random.default_rng(size).integers(0, 256, (size, size, 3), dtype=np.uint8)
    memory = torch.full((5, size + 2, size + 3, 3), 77, dtype=torch.uint8)
    surface = memory[1:4, 1:-1, 1:-2]
    surface.copy_(torch.from_numpy(skin).expand_as(surface))
    landmark_covers(placed([state], keypoints, poses, [0] * 3), surface)
    for found, points, pose in zip(surface, keypoints, poses, strict=True):
        expected = skin.copy()
        renderer.cover(expected, renderer.place(state, points, pose))
        apart = np.abs(found.numpy().astype(int) - expected)
        assert apart.max() <= 2
        assert (apart > 0).mean() < 1e-3
    assert (surface[0].numpy() != skin).any(axis=-1).sum() > 0.001 * size * size
    surface.fill_(77)
    assert (memory == 77).all()


def test_covers_stay_within_a_smaller_picture():
    _, state = resident(97, 97, Box.whole(97))
    frames = placed([state], [project(OPEN)], [REST], [0])
    memory = torch.full((97, 97, 3), 77, dtype=torch.uint8)
    landmark_covers(frames, memory[None, :48, :50])
    assert (memory[48:] == 77).all()
    assert (memory[:, 50:] == 77).all()
    assert (memory[:48, :50] != 77).any()


def two_portraits() -> tuple[list[State], list[np.ndarray], list[np.ndarray]]:
    """Of one picture size and one distance of nodes, and four frames' motions."""
    states = [resident(128, 160, box)[1] for box in (Box(80, 64, 128), Box(70, 60, 124))]
    assert (states[0].grid.step, states[0].grid.coarse) == (states[1].grid.step, states[1].grid.coarse)
    return states, *motions(4, 9)


def test_frames_take_their_own_portrait():
    states, keypoints, poses = two_portraits()
    index = [1, 0, 1, 1]
    together = nodes_of(placed(states, keypoints, poses, index), states[0], 128, 160)
    for n, chosen in enumerate(index):
        alone = placed([states[chosen]], keypoints[n : n + 1], poses[n : n + 1], [0])
        np.testing.assert_array_equal(together[n], nodes_of(alone, states[chosen], 128, 160)[0])
    assert np.abs(together[0] - together[2]).max() > 0.01
    with pytest.raises(ValueError, match="source_index: got 2 at position 3"):
        placed(states, keypoints, poses, [0, 1, 0, 2])


RUN = """
#include "NAME.cu"
using namespace fastreenact;

extern "C" void run(const void* packed, int backwards) {
    PARAMS p;
    std::memcpy(static_cast<void*>(&p), packed, sizeof p);
    host::launch([&] { NAME_kernel(p); }, SHAPE, backwards);
}
"""
KERNELS = {
    "landmark_place": ("LandmarkPlaceParams", "landmark_place_shape(p)"),
    "landmark_nodes": ("LandmarkNodesParams", "landmark_nodes_shape(p)"),
    "landmark_covers": ("LandmarkCoversParams", "picture_shape(100, 30, p.n)"),
}


def kernel_of(folder, name, **options):
    params, shape = KERNELS[name]
    code = RUN.replace("NAME", name).replace("PARAMS", params).replace("SHAPE", shape)
    return build(folder, code, kernels=name, **options)


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    return {name: kernel_of(tmp_path_factory.mktemp(name), name) for name in KERNELS}


def on_host(kernels, states, given, backwards):
    """Nodes and a picture by the kernels; a head that is not there gives rest."""
    grid, n = states[0].grid, len(given["source_index"])
    call = gpu_call(_LANDMARK_PLACE, **given)
    kernels["landmark_place"].run(call.launches()[0][1], backwards)
    out = torch.full((n, -(-128 // grid.step), -(-160 // grid.step), 2), float("nan"))
    sizes = {"step": grid.step, "coarse": grid.coarse, "size": [128, 160]}
    kernels["landmark_nodes"].run(
        gpu_call(_LANDMARK_NODES, frames=given["frames"], out=out, **sizes).launches()[0][1], 0
    )
    surface = torch.full((n, 128, 160, 3), 200, dtype=torch.uint8)
    kernels["landmark_covers"].run(
        gpu_call(_LANDMARK_COVERS, frames=given["frames"], surface=surface).launches()[0][1], backwards
    )
    return out, surface


@pytest.mark.parametrize("backwards", [0, 1])
def test_kernels_do_what_the_cpu_does(kernels, backwards):
    states, keypoints, poses = two_portraits()
    keypoints[1:3] = [project(OPEN, poses[1]), project(OPEN, REST)]
    poses[2] = REST
    given = inputs(states, keypoints, poses, [1, 0, 7, -1])
    nodes, surface = on_host(kernels, states, given, backwards)
    frames = placed(states, keypoints[:2], poses[:2], [1, 0])
    np.testing.assert_allclose(nodes[:2], nodes_of(frames, states[0], 128, 160), atol=2e-5)
    still = torch.from_numpy(Placement(None, (0, 0), states[0].grid.step, ()).whole_field(128, 160))
    assert torch.equal(nodes[2:], still.expand_as(nodes[2:]))
    expected = torch.full((2, 128, 160, 3), 200, dtype=torch.uint8)
    landmark_covers(frames, expected)
    apart = (surface[:2].int() - expected.int()).abs()
    assert apart.max() <= 1
    assert (surface[1] != 200).any()
    assert (surface[2:] == 200).all()


def test_hostile_coordinates_stay_inside(kernels):
    """Such as `checked` lets through, and those that it refuses."""
    states, keypoints, poses = two_portraits()
    given = inputs(states, keypoints, poses, [0, 1, 0, 1])
    given["keypoints"][0], given["keypoints"][1, 5:9] = 1e6, float("nan")
    given["keypoints"][2, :, 0], given["poses"][3] = float("inf"), 1e30
    for backwards in (0, 1):
        nodes, _ = on_host(kernels, states, given, backwards)
        assert nodes.shape[0] == 4
    landmark_place(**given)
    nodes_of(given["frames"], states[0], 128, 160)


BARRIER = "landmark_nodes.h", "top, node);\n        }\n        team.sync();", "top, node);\n        }"
PLANTS = [
    ("landmark_place", "landmark_solve.h", "if (team.takes(0)) w.rows[best] = replaced, w.rows[k] = pivot;", ""),
    ("landmark_place", "landmark_place.h", "gain = 1.5 / (0.5 + 0.5 * asked)", "gain = 1.5"),
    ("landmark_nodes", *BARRIER),
    ("landmark_covers", "landmark_covers.h", "(opacity > 0.0f)", "(opacity > 0.5f)"),
]


@pytest.mark.parametrize(("name", "file", "old", "new"), PLANTS, ids=range(4))
def test_kernels_notice_an_error(kernels, name, file, old, new, tmp_path):
    """A pivot that is not looked for, points thrown about, a barrier that is missing, a layer without soft edges."""
    wrong = kernels | {name: kernel_of(tmp_path, name, plant=(file, old, new))}
    states, keypoints, poses = two_portraits()
    keypoints[1] = project(OPEN, poses[1])
    right, planted = (
        [on_host(each, states, inputs(states, keypoints, poses, [1, 0, 0, 1]), backwards) for backwards in (0, 1)]
        for each in (kernels, wrong)
    )
    apart = [
        not torch.allclose(a, b, atol=2e-5) or (c.int() - d.int()).abs().max() > 1
        for (a, c), (b, d) in zip(right, planted, strict=True)
    ]
    assert any(apart)


@pytest.mark.gpu
def test_ops_on_a_gpu_give_what_the_cpu_gives():
    states, keypoints, poses = two_portraits()
    given = inputs(states, keypoints, poses, [1, 0, 1, 1])
    there = {name: value.cuda() for name, value in given.items()}
    moved = [
        dataclasses.replace(state, layers=tuple((layer, image.cuda()) for layer, image in state.layers))
        for state in states
    ]
    there["heads"] = torch.stack([pack_head(state) for state in moved]).cuda()  # with the addresses there
    nodes = nodes_of(landmark_place(**given), states[0], 128, 160)
    grid = states[0].grid
    out = torch.empty(nodes.shape, device="cuda")
    landmark_nodes(landmark_place(**there), grid.step, grid.coarse, (128, 160), out)
    np.testing.assert_allclose(out.cpu(), nodes, atol=2e-5)
    surface = torch.full((4, 128, 160, 3), 200, dtype=torch.uint8)
    found = landmark_covers(there["frames"], surface.cuda()).cpu()
    assert (found.int() - landmark_covers(given["frames"], surface).int()).abs().max() <= 1
