"""The exact rewritings of layers: fewer multiplications, the same numbers, in float64."""

import pytest
import torch
import torch.nn.functional as F
from face2face_rho_case import fill, numbers
from torch import Tensor, nn

from fastreenact.fuse import algebra
from fastreenact.models.blocks import DownBlock, InvertedResidual, PoseEncoder, Spade, UpBlock, upsample_to
from fastreenact.models.face2face_rho.networks import RenderingNet
from fastreenact.models.refined_warp.networks import RefinedRenderer
from fastreenact.ops import conv_reference, mbconv_reference, pack_conv, plain_kernel, tail_reference

EXACT = {"rtol": 0, "atol": 1e-12}


def values(name: str, *shape: int) -> Tensor:
    return torch.from_numpy(numbers(name, shape)).double()


def nhwc(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1)


def test_batch_norm_folds_into_the_convolution_before_it():
    block = fill(DownBlock(5, 7)).double()
    x = values("x", 2, 5, 12, 10)
    y = conv_reference(nhwc(x), algebra.convolution(block.conv, block.norm), activation="relu")
    torch.testing.assert_close(y, nhwc(block(x)), **EXACT)


def test_what_does_not_fold_is_refused():
    with pytest.raises(TypeError, match="only a Conv2d followed by a BatchNorm2d"):
        algebra.fold(nn.Linear(2, 2), None)
    with pytest.raises(ValueError, match="without running statistics"):
        algebra.fold(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2, track_running_stats=False))


def test_doubling_before_a_convolution_is_four_small_ones():
    block = fill(UpBlock(5, 7)).double()
    x = values("x", 2, 5, 6, 9)
    kernel = algebra.upsampled(block.conv, block.norm)
    torch.testing.assert_close(conv_reference(nhwc(x), kernel, activation="relu"), nhwc(block(x)), **EXACT)
    plain = pack_conv(algebra.convolution(block.conv), torch.float32)
    assert 9 * pack_conv(kernel, torch.float32).multiplications(12, 18) == 4 * plain.multiplications(12, 18)


def test_a_convolution_splits_by_its_input():
    weight, bias = values("w", 6, 9, 3, 3), values("b", 6)
    kernel = plain_kernel(weight, bias, padding=1)
    x = values("x", 1, 7, 8, 9)
    ranges = slice(0, 3), slice(3, 5), slice(5, 9)
    parts = [conv_reference(x[..., r], k) for r, k in zip(ranges, algebra.split_input(kernel, *ranges), strict=True)]
    torch.testing.assert_close(sum(parts), conv_reference(x, kernel), **EXACT)
    third = algebra.scaled(kernel, 1 / 3)
    torch.testing.assert_close(conv_reference(x, third) * 3 + bias, conv_reference(x, kernel), **EXACT)


@pytest.mark.parametrize("n", [1, 4, 8])
def test_pixels_of_few_channels_go_together(n):
    kernel = plain_kernel(values("w", 2, 5, 3, 3), values("b", 2), padding=1)
    x = values("x", 2, 7, 16, 5)
    wide = conv_reference(x, algebra.space_to_depth(kernel, n), size=(7, 16 // n))
    torch.testing.assert_close(wide.reshape(2, 7, 16, 2), conv_reference(x, kernel), **EXACT)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("n", [1, 2, 4])
def test_a_mean_goes_into_the_convolution_after_it(n, stride):
    kernel = plain_kernel(values("w", 6, 3, 4, 4), values("b", 6), stride=stride, padding=1)
    x = values("x", 2, 3, 8 * n, 12 * n)
    expected = conv_reference(nhwc(F.avg_pool2d(x, n)), kernel)
    height, width = expected.shape[1:3]
    torch.testing.assert_close(
        conv_reference(nhwc(x), algebra.pooled(kernel, n), size=(height, width)), expected, **EXACT
    )


@pytest.mark.parametrize(
    "block",
    [
        InvertedResidual(8, 8),
        InvertedResidual(8, 12, stride=2),
        InvertedResidual(8, 5, expansion=1),
        InvertedResidual(6, 9, last_norm=False),
    ],
)
def test_inverted_residual_folds(block):
    fill(block).double()
    x = values("x", 2, block.conv[0].in_channels, 17, 19)
    torch.testing.assert_close(mbconv_reference(nhwc(x), algebra.inverted_residual(block)), nhwc(block(x)), **EXACT)


@pytest.mark.parametrize("renderer", [RenderingNet, RefinedRenderer])
@pytest.mark.parametrize("size", [7, 8, 26, 39])
def test_tail_knows_the_border(size, renderer):
    net = fill(renderer()).double()
    side = -(-size // 2)
    x = values("x", 1, 8, side, side)
    expected = net.de_conv_block[0](net.de_up_block3[2](upsample_to(x, size, size)))
    kernel = algebra.tail(net.de_up_block3[2][0][0], net.de_conv_block[0])
    torch.testing.assert_close(tail_reference(nhwc(x), kernel, (size, size)), nhwc(expected), **EXACT)


def test_pose_encoder_is_two_convolutions():
    encoder = fill(PoseEncoder()).double()
    pose = values("pose", 3, 6)
    first, second = algebra.pose_cells(encoder)
    hidden = conv_reference(pose[:, None, None], first, activation="relu").view(3, 4, 4, -1)
    torch.testing.assert_close(conv_reference(hidden, second), nhwc(encoder(pose)), **EXACT)


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("length", [4, 16, 17, 21, 32, 48, 57, 63, 64, 66, 79, 80, 81, 90, 128, 180, 360])
def test_spade_tables_are_exact(length, whole):
    spade = fill(Spade(5)).double()
    condition, x = values("pose map", 2, 32, 16, 16), values("x", 2, 5, length, length)
    first, second, index, cells = algebra.spade_tables(spade, length, whole=whole)
    seen = nhwc(condition) if cells is None else nhwc(condition)[:, cells[:, None], cells]
    table = conv_reference(conv_reference(seen, first, activation="relu"), second)
    scale, shift = (t[:, index.long()[:, None], index.long()] for t in table.split(5, -1))
    torch.testing.assert_close(nhwc(x) * scale + shift, nhwc(spade(x, condition)), rtol=0, atol=1e-11)


@pytest.mark.parametrize(("length", "hidden", "table"), [(16, 16, 16), (32, 32, 32), (64, 48, 64), (360, 48, 80)])
def test_spade_tables_are_compact(length, hidden, table):
    """On how many positions the two convolutions work, and that they see fewer than nine inputs each."""
    spade = fill(Spade(5))
    first, second, index, cells = algebra.spade_tables(spade, length)
    assert cells is None
    assert 16 * first.axis_y.phases == hidden
    assert hidden // second.axis_y.step * second.axis_y.phases == table
    assert len(index) == length
    if length >= 64:
        assert sum(first.axis_y.taps) == 5
        assert sum(second.axis_y.taps) == {64: 10, 360: 11}[length]


def test_whole_spade_tables_are_for_plain_convolutions():
    first, second, _, _ = algebra.spade_tables(fill(Spade(5)), 64, whole=True)
    assert 16 * first.axis_y.phases == 64
    assert (second.axis_y.step, second.axis_y.taps) == (1, (3,))


def test_a_planted_error_is_seen():
    block = fill(UpBlock(5, 7)).double()
    x = values("x", 1, 5, 6, 9)
    kernel = algebra.upsampled(block.conv, block.norm)
    kernel.weights[0, 1], kernel.weights[1, 0] = kernel.weights[1, 0], kernel.weights[0, 1]
    with pytest.raises(AssertionError):
        torch.testing.assert_close(conv_reference(nhwc(x), kernel, activation="relu"), nhwc(block(x)), **EXACT)
