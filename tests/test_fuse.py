"""The inference form of Face2Face^rho equals the plain form at every kind of size, and keeps what it promises."""

import contextlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import NETWORK_TOLERANCE, assert_close, assert_frames_close
from face2face_rho_case import face, model, numbers, picture, plain_frame

from fastreenact import ops
from fastreenact.models.blocks import resize_nearest
from fastreenact.models.face2face_rho.head_pose import head_pose_input, official_head_pose
from fastreenact.models.face2face_rho.inference import FusedFace2FaceRho, fuse

# bfloat16 keeps 8 bits and the decoder is some 40 layers deep; measured 0.021 to 0.027 relative L2 on these weights.
BFLOAT16_RELATIVE = 0.04


@pytest.fixture(scope="module")
def net():
    return model()


def drive_raw(fused: FusedFace2FaceRho, state, driver):
    """The picture before it is rounded to 8 bits, [1, 3, S, S] after tanh, and the frame."""
    frame = fused.drive(state, *driver)
    return fused.step(state, *driver).permute(0, 3, 1, 2).float().tanh(), frame


@pytest.mark.parametrize(
    ("size", "motion_size"), [(64, None), (65, None), (97, None), (130, 64), (256, None), (333, None), (328, 64)]
)
def test_equals_the_plain_form(net, size, motion_size):
    fused = fuse(net, size, motion_size=motion_size)
    source, driver, image = face("source"), face("driver"), picture(size)
    expected = plain_frame(net, image, source, driver, motion_size)
    raw, frame = drive_raw(fused, fused.encode(image, *source), driver)
    assert_close(raw, expected, NETWORK_TOLERANCE)
    assert_frames_close(frame, ops.to_frame(expected)[0])
    assert frame.float().std() > 10


def test_bfloat16_stays_near_the_plain_form(net):
    fused = fuse(net, 97, torch.bfloat16)
    source, driver, image = face("source"), face("driver"), picture(97)
    expected = plain_frame(net, image, source, driver)
    raw, _ = drive_raw(fused, fused.encode(image, *source), driver)
    assert (raw - expected).norm() <= BFLOAT16_RELATIVE * expected.norm()


def test_sources_do_not_disturb_each_other(net):
    fused = fuse(net, 64)
    first = fused.encode(picture(64), *face("source"))
    alone = fused.drive(first, *face("driver"))
    second = fused.encode(picture(64)[::-1].copy(), *face("other source"))
    other = fused.drive(second, *face("other driver"))
    assert torch.equal(fused.drive(first, *face("driver")), alone)
    assert not torch.equal(other, alone)


def test_places_of_forgotten_sources_are_used_again(net):
    fused = fuse(net, 64)
    first = fused.encode(picture(64), *face("source"))
    alone = fused.drive(first, *face("driver"))
    others = [fused.encode(picture(64)[::-1].copy(), *face(name)) for name in "abcd"]
    assert len({state.index for state in (first, *others)}) == 5
    capacity = fused._slabs.tensors[0].shape[0]
    assert capacity == 8
    for _ in range(20):
        others[0] = None
        others[0] = fused.encode(picture(64), *face("other source"))
    assert fused._slabs.tensors[0].shape[0] == capacity
    assert torch.equal(fused.drive(first, *face("driver")), alone)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_several_at_once_are_each_as_alone(net, dtype):
    fused = fuse(net, 64, dtype)
    sources = [fused.encode(picture(64)[:: 1 - 2 * i].copy(), *face(name)) for i, name in enumerate(("source", "b"))]
    drivers = [face(name) for name in ("driver", "other driver", "third")]
    pairs = [(sources[1], drivers[0]), (sources[0], drivers[1]), (sources[0], drivers[0]), (sources[1], drivers[2])]
    alone = torch.stack([fused.drive(source, *driver) for source, driver in pairs])
    states, keypoints, poses = zip(*((source, *driver) for source, driver in pairs), strict=True)
    out = torch.zeros(4, 64, 64, 3, dtype=torch.uint8)
    assert fused.drive_many(states, keypoints, poses, out) is out
    assert torch.equal(out, alone)
    more = [fused.encode(picture(64), *face(name)) for name in "cd"]  # the slabs grow and move
    assert torch.equal(fused.drive_many(states, keypoints, poses), alone)
    assert not torch.equal(fused.drive_many([more[0]] * 4, keypoints, poses), alone)
    with pytest.raises(ValueError, match=r"out must be uint8 \[4, 64, 64, 3\]"):
        fused.drive_many(states, keypoints, poses, out[:3])


def test_at_most_four_numbers_of_pictures_are_kept(net):
    fused = fuse(net, 64)
    state, (keypoints, pose) = fused.encode(picture(64), *face("source")), face("driver")
    alone = fused.drive(state, keypoints, pose)
    for n in (2, 3, 1, 4, 5, 2):
        frames = fused.drive_many([state] * n, [keypoints] * n, [pose] * n)
        assert all(torch.equal(frame, alone) for frame in frames)
    assert list(fused._steps) == [1, 4, 5, 2]


@pytest.mark.parametrize("where", ["field", "picture"])
def test_halves_that_overflow_are_noticed_in_their_frame(net, where):
    fused = fuse(net, 64, torch.bfloat16)
    state = fused.encode(picture(64), *face("source"))
    step = fused._step_of(1)
    bias = step.motion.heads[2].conv.weights.bias if where == "field" else step.decoder.res[0].weights.project_bias
    healthy = bias[1].item()
    for value, finite in ((healthy, True), (float("inf"), False), (healthy, True), (float("nan"), False)):
        bias[1] = value
        fused.drive(state, *face("driver"))
        assert fused.finite == finite


def test_out_is_written_and_the_callers_own(net):
    fused = fuse(net, 64)
    state = fused.encode(picture(64), *face("source"))
    mine = torch.zeros(64, 64, 3, dtype=torch.uint8)
    frame = fused.drive(state, *face("driver"))
    assert fused.drive(state, *face("driver"), mine) is mine
    assert torch.equal(mine, frame)
    frame.add_(1)  # not an inference tensor
    memory = np.zeros((64, 64, 3), np.uint8)
    fused.drive(state, *face("driver"), out=torch.from_numpy(memory))
    assert np.array_equal(memory, mine.numpy())


def test_stages_are_timed_under_their_names(net):
    names = []

    class Timer:
        @contextlib.contextmanager
        def stage(self, name):
            names.append(name)
            yield

        def add(self, name, ms):
            assert ms >= 0
            names.append(name)

    fused = fuse(net, 64)
    fused.drive(fused.encode(picture(64), *face("source")), *face("driver"), timer=Timer())
    assert names == ["decode", "rasterize", "motion", "warp", "decode", "deliver"]


def test_metadata_fixes_the_motion_size():
    fixed = fuse(model(motion_size="128"), 333)
    assert fixed.motion_size == 128
    assert fuse(model(), 333).motion_size == 384
    assert fixed.size == 333


def test_wrong_arguments_are_refused(net):
    fused = fuse(net, 64)
    points, pose = face("source")
    with pytest.raises(ValueError, match=r"image must be uint8 \[64, 64, 3\], got torch.uint8 \[65, 65, 3\]"):
        fused.encode(picture(65), points, pose)
    with pytest.raises(ValueError, match="image must be uint8"):
        fused.encode(picture(64).astype(np.float32), points, pose)
    with pytest.raises(ValueError, match=r"keypoints must be \[72, 2\], got \[71, 2\]"):
        fused.encode(picture(64), points[:71], pose)
    state = fused.encode(picture(64), points, pose)
    with pytest.raises(ValueError, match=r"out must be uint8 \[64, 64, 3\], got torch.uint8 \[64, 64, 4\]"):
        fused.drive(state, points, pose, torch.zeros(64, 64, 4, dtype=torch.uint8))
    with pytest.raises(ValueError, match="pose must be finite with a scale above 0"):
        fused.drive(state, points, np.full(6, np.nan))
    with pytest.raises(ValueError, match="size must be 64 to 2048"):
        fuse(net, 63)
    with pytest.raises(ValueError, match="dtype must be float32, bfloat16"):
        fuse(net, 64, torch.float16)


def test_keypoints_that_are_not_finite_draw_nothing(net):
    fused = fuse(net, 64)
    points, pose = face("driver")
    state = fused.encode(picture(64), *face("source"))
    points[3:9] = np.nan
    frame = fused.drive(state, points, pose)
    assert frame.float().std() > 10


def test_official_head_pose_is_the_released_formula():
    # specs 3.4, constants from the released code
    rotation, tx, ty, scale, dx, dy = np.array([0.1, -0.2, 0.05]), 0.03, -0.04, 6.0, 0.011, -0.007
    pose = official_head_pose(rotation, tx + dx, ty + dy, scale)
    place = [
        0.2582781138863169 + 0.256 * (tx + dx),
        -0.26074984122168304 - 0.256 * (ty + dy),
        scale / 4122.399989645386,
    ]
    np.testing.assert_allclose(pose, [*rotation, *place], rtol=1e-6)


def test_official_head_pose_lies_where_the_released_ones_do():
    points = np.zeros((72, 2), np.float32)
    points[30] = (0.05, 0.1)
    pose = head_pose_input([0.1, 0.2, 0.0, 0.02, 0.0, 0.35], points, {"head_pose": "official"})
    assert 0.22 <= pose[3] <= 0.29  # specs 3.4, typical values
    assert -0.31 <= pose[4] <= -0.21
    assert 0.0011 <= pose[5] <= 0.0019


def test_standardised_head_pose():
    words = {"head_pose": "standardised", "head_pose_mean": "0,0,0,0.1,0,-1", "head_pose_deviation": "1,2,1,1,1,0.5"}
    pose = head_pose_input([0.1, 0.2, 0.3, 0.2, 0.5, np.exp(-0.5)], np.zeros((72, 2)), words)
    np.testing.assert_allclose(pose, [0.1, 0.1, 0.3, 0.1, 0.5, 1.0], rtol=1e-6)
    points = np.zeros((72, 2))
    for change, message in (
        ({"head_pose_mean": "0,0"}, "six finite numbers"),
        ({"head_pose_mean": "a,b"}, "six numbers separated by commas"),
        ({"head_pose_deviation": "0,1,1,1,1,1"}, "must be above 0"),
        ({"head_pose": "other"}, "one of official, standardised"),
    ):
        with pytest.raises(ValueError, match=message):
            head_pose_input(np.ones(6), points, words | change)
    with pytest.raises(ValueError, match="has no head_pose_mean"):
        head_pose_input(np.ones(6), points, {"head_pose": "standardised"})
    with pytest.raises(ValueError, match=r"pose must be \[6\] and keypoints \[72, 2\]"):
        head_pose_input(np.ones(5), points, words)


def test_planted_error_is_seen(net):
    source, driver, image = face("source"), face("driver"), picture(64)
    fused = fuse(net, 64)
    state = fused.encode(image, *source)
    with torch.inference_mode():
        fused._slabs.tensors[0].copy_(fused._slabs.tensors[0].roll(1, 2))
    expected = plain_frame(net, image, source, driver)
    raw, _ = drive_raw(fused, state, driver)
    with pytest.raises(AssertionError):
        assert_close(raw, expected, NETWORK_TOLERANCE)


def test_resized_pose_map_is_what_spade_reads():
    x = torch.from_numpy(numbers("map", (1, 2, 16, 16)))
    assert torch.equal(resize_nearest(x, 64, 64), F.interpolate(x, size=(64, 64), mode="nearest"))
