"""The inference form of Face2Face^rho equals the plain form at every kind of size, and keeps what it promises."""

import contextlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import NETWORK_TOLERANCE, TOLERANCES, assert_close, assert_frames_close
from face2face_rho_case import face, fill, model, numbers, picture, plain_frame

from fastreenact import ops
from fastreenact.models import fuse_face2face_rho
from fastreenact.models.face2face_rho import RenderingNet
from fastreenact.models.fuse_face2face_rho import FusedFace2FaceRho, fuse
from fastreenact.models.fused_layers import (
    Conv,
    FusedInvertedResidual,
    FusedPoseEncoder,
    SpadeTable,
    compact_axis,
    relu_,
)
from fastreenact.models.head_pose import head_pose_input, official_head_pose
from fastreenact.models.layers import InvertedResidual, PoseEncoder, Spade, resize_nearest, upsample_to

# bfloat16 keeps 8 bits and the decoder is some 40 layers deep; measured 0.021 to 0.027 relative L2 on these weights.
BFLOAT16_RELATIVE = 0.04


@pytest.fixture(scope="module")
def net():
    return model()


def drive_raw(fused: FusedFace2FaceRho, state, driver):
    """The picture before it is rounded to 8 bits, [1, 3, S, S] after tanh, and the frame."""
    seen = {}
    tail = fused._decoder.tail

    def spy(x):
        seen["image"] = tail(x).clone()
        return seen["image"]

    fused._decoder.tail = spy
    try:
        frame = fused.drive(state, *driver)
    finally:
        fused._decoder.tail = tail
    return seen["image"].permute(0, 3, 1, 2).float().tanh(), frame


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


@pytest.mark.parametrize("length", [4, 16, 17, 21, 66, 79, 80, 81, 90, 128])
def test_spade_tables_are_exact(length):
    spade = fill(Spade(5)).double()
    pose = torch.from_numpy(numbers("pose map", (16, 16, 32))).double()
    x = torch.from_numpy(numbers("x", (1, 5, length, length))).double()
    expected = spade(x, pose.permute(2, 0, 1)[None])
    table = SpadeTable(spade, length, length, torch.empty(0, dtype=torch.float64))
    scale, shift = (t[:, table.index_y.long()[:, None], table.index_x.long()] for t in table(pose))
    torch.testing.assert_close(x.permute(0, 2, 3, 1) * scale + shift, expected.permute(0, 2, 3, 1), rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("length", "positions"), [(16, 16), (64, 64), (79, 79), (80, 80), (81, 80), (360, 80), (512, 80)]
)
def test_compact_axis_is_short(length, positions):
    cell, index = compact_axis(length)
    assert len(cell) == positions
    assert torch.equal(cell[index.long()], torch.arange(length) * 16 // length)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(
    ("channels", "side", "kernel", "stride"), [(256, 4, 3, 1), (128, 7, 4, 2), (64, 1, 1, 1), (5, 9, 3, 1)]
)
def test_conv_takes_any_way(dtype, channels, side, kernel, stride):
    x = torch.from_numpy(numbers("x", (1, channels, side, side))).to(dtype)
    weight = torch.from_numpy(numbers("weight", (24, channels, kernel, kernel))) * (channels * kernel**2) ** -0.5
    bias = torch.from_numpy(numbers("bias", (24,)))
    conv = Conv((weight, bias), torch.empty(0, dtype=dtype), stride=stride, padding=kernel // 2)
    y = conv(x.contiguous(memory_format=torch.channels_last))
    expected = F.conv2d(x.double(), weight.to(dtype).double(), bias.to(dtype).double(), stride, kernel // 2)
    assert y.dtype == dtype
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert_close(y, expected, TOLERANCES.get(dtype, (1e-12, 1e-12)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_relu_in_place(dtype):
    values = [-float("inf"), -3e38, -1.0, -1e-40, -0.0, 0.0, 1e-40, 1.0, 3e38, float("inf")]
    x = torch.tensor(values * 7, dtype=dtype).view(1, 2, 5, 7).to(memory_format=torch.channels_last)
    expected = x.relu()
    assert relu_(x) is x
    assert torch.equal(x, expected)


def test_pose_encoder_is_two_products():
    encoder = fill(PoseEncoder())
    pose = torch.from_numpy(numbers("pose", (1, 6)))
    expected = encoder(pose)[0].permute(1, 2, 0)
    assert_close(FusedPoseEncoder(encoder, torch.device("cpu"))(pose), expected)


@pytest.mark.parametrize(
    "block",
    [InvertedResidual(8, 8), InvertedResidual(8, 12, stride=2), InvertedResidual(8, 5, expansion=1),
     InvertedResidual(6, 9, last_norm=False)],
)  # fmt: skip
def test_inverted_residual_is_folded(block):
    fill(block)
    x = torch.from_numpy(numbers("x", (2, block.conv[0].in_channels, 17, 19)))
    fused = FusedInvertedResidual(block, torch.empty(0))
    y = fused(x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(y, block(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [7, 8, 26, 39])
@pytest.mark.parametrize("band_bytes", [1, 700, 4000, 8 << 20])
def test_tail_knows_the_border_and_its_bands(size, band_bytes, monkeypatch):
    monkeypatch.setattr(fuse_face2face_rho, "BAND_BYTES", band_bytes)
    net = fill(RenderingNet())
    x = torch.from_numpy(numbers("x", (1, 8, -(-size // 2), -(-size // 2))))
    expected = torch.atanh(net.de_conv_block(net.de_up_block3[2](upsample_to(x, size, size))).double())
    tail = fuse_face2face_rho._FusedTail(net, size, torch.empty(0))
    y = tail(x.contiguous(memory_format=torch.channels_last)).permute(0, 3, 1, 2)
    torch.testing.assert_close(y.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rows", [1, 2, 5, 16, 17])
@pytest.mark.parametrize("block", [InvertedResidual(8, 8), InvertedResidual(8, 12, stride=2)])
@pytest.mark.parametrize("height", [17, 18])
def test_bands_change_nothing(block, rows, height):
    fill(block)
    x = torch.from_numpy(numbers("x", (1, 8, height, 19))).contiguous(memory_format=torch.channels_last)
    fused = FusedInvertedResidual(block, torch.empty(0))
    torch.testing.assert_close(fused._in_bands(x, rows), fused(x), rtol=1e-6, atol=1e-6)


def test_sources_do_not_disturb_each_other(net):
    fused = fuse(net, 64)
    first = fused.encode(picture(64), *face("source"))
    alone = fused.drive(first, *face("driver"))
    second = fused.encode(picture(64)[::-1].copy(), *face("other source"))
    other = fused.drive(second, *face("other driver"))
    assert torch.equal(fused.drive(first, *face("driver")), alone)
    assert not torch.equal(other, alone)


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

    fused = fuse(net, 64)
    fused.drive(fused.encode(picture(64), *face("source")), *face("driver"), timer=Timer())
    assert names == ["rasterize", "motion", "decode", "warp", "decode", "deliver"]


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
    shifted = state.__class__(state.f1.roll(1, 2), state.f2, state.f34, state.motion)
    expected = plain_frame(net, image, source, driver)
    raw, _ = drive_raw(fused, shifted, driver)
    with pytest.raises(AssertionError):
        assert_close(raw, expected, NETWORK_TOLERANCE)


def test_resized_pose_map_is_what_spade_reads():
    x = torch.from_numpy(numbers("map", (1, 2, 16, 16)))
    assert torch.equal(resize_nearest(x, 64, 64), F.interpolate(x, size=(64, 64), mode="nearest"))
