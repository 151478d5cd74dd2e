"""Losses against values worked out by hand, on sizes where that can be done."""

import math

import pytest
import torch
import torch.nn.functional as F
from conftest import assert_close
from safetensors.torch import save_file

from fastreenact.errors import WeightsError
from fastreenact.training import losses
from fastreenact.training.discriminator import Discriminator
from fastreenact.training.reconstruction import (
    PyramidLoss,
    Vgg19,
    VggLoss,
    gradient_loss,
    load_vgg19,
    reduce,
    structure_loss,
)


def test_identity_field_reaches_both_ends():
    field = losses.identity_field(2, 3)
    assert field.tolist() == [[[-1, -1], [0, -1], [1, -1]], [[-1, 1], [0, 1], [1, 1]]]


def test_field_loss_is_the_mean_over_fields():
    still = [losses.identity_field(n, n)[None].repeat(2, 1, 1, 1) for n in (4, 8, 16)]
    assert losses.field_loss(still) == 0
    still[1] = still[1] + torch.tensor([0.3, -0.1])
    assert losses.field_loss(still).item() == pytest.approx((0.3 + 0.1) / 2 / 3, rel=1e-5)


def _exact_field(n: int) -> torch.Tensor:
    """The field that samples each pixel's own centre."""
    centres = (torch.arange(n) + 0.5) * 2 / n - 1
    return torch.stack([centres.expand(n, n), centres[:, None].expand(n, n)], 2)[None]


@pytest.mark.parametrize("side", [128, 160])
def test_warp_loss_of_a_shift(side, generator):
    source = torch.rand(1, 3, side, side, generator=generator) * 2 - 1
    driver = torch.roll(source, -3, 3)
    shift = torch.tensor([6 / side, 0.0])  # three pixels to the right
    error = losses.warp_loss(source, driver, [_exact_field(side) + shift])
    # Only the three columns beyond the edge differ: zeros there, the rolled ones wanted.
    expected = driver[..., -3:].abs().sum() / driver.numel()
    assert error.item() == pytest.approx(expected.item(), rel=1e-3)
    other_way = losses.warp_loss(source, driver, [_exact_field(side) - shift])
    assert other_way > 10 * error


def test_warp_loss_enlarges_small_fields_and_averages():
    source, driver = torch.full((2, 3, 64, 64), 0.5), torch.full((2, 3, 64, 64), -0.25)
    inside = torch.zeros(2, 4, 4, 2)
    outside = torch.full((2, 16, 16, 2), 5.0)  # zeros are read there
    assert losses.warp_loss(source, driver, [inside]).item() == pytest.approx(0.75)
    assert losses.warp_loss(source, driver, [inside, outside]).item() == pytest.approx((0.75 + 0.25) / 2)
    # A field of 2 x 2 is enlarged before it samples: what lies between its points is interpolated, not repeated.
    ramp = torch.linspace(-1, 1, 128).expand(1, 3, 128, 128)
    corners = torch.tensor([[[-0.5, 0.0], [0.5, 0.0]]] * 2)[None]
    flat = torch.zeros(1, 3, 128, 128)
    expected = F.interpolate(torch.tensor([[[-0.5, 0.5]]]), 128, mode="linear").abs().mean()
    assert losses.warp_loss(ramp, flat, [corners]).item() == pytest.approx(expected.item(), rel=1e-2)


def test_flow_loss_is_relative_to_the_base_of_each_pair_and_region():
    flow = torch.zeros(2, 3, 2, 2)
    flow[:, 2] = 1
    flow[:, :, 1, 1] = torch.tensor([7.0, 7.0, 0.0])  # not visible: whatever stands there
    mask = torch.tensor([[1.0, 0.0], [0.0, 0.0]]).expand(2, 1, 2, 2)
    base = torch.tensor([0.2, 0.02])[:, None, None, None] * torch.ones(2, 2, 2, 2)
    noise = 0.004
    assert_close(losses.flow_loss([torch.zeros_like(base)] * 3, base, flow, mask), torch.zeros(()))
    wanted = (0.2 / (0.2 + noise) + 0.02 / (0.02 + noise)) / 2 * 1.3
    assert losses.flow_loss([base], base, flow, mask).item() == pytest.approx(wanted)
    face = base * (1 - mask)  # the face is right
    assert losses.flow_loss([face], base, flow, mask).item() == pytest.approx(wanted * 0.3 / 1.3)
    assert losses.flow_loss([base, face], base, flow, mask).item() == pytest.approx(wanted * 1.6 / 2.6)
    flow[:, 2] = 0
    assert losses.flow_loss([base], base, flow, mask).item() == 0


def test_face_weights_are_four_only_where_the_mask_is_one():
    mask = torch.tensor([[[[0.0, 0.999], [1.0, 0.5]]]])
    assert losses.face_weights(mask).tolist() == [[[[1, 1], [4, 1]]]]
    a, b = torch.zeros(1, 2, 2, 2), torch.full((1, 2, 2, 2), 0.1)
    assert losses.weighted_l1(a, b, losses.face_weights(mask)).item() == pytest.approx(0.1 * 7 / 4)
    # Nearest resizing takes the top left of each group.
    assert losses.weighted_l1(a[..., :1, :1], b[..., :1, :1], losses.face_weights(mask)).item() == pytest.approx(0.1)


def test_matching_loss_sums_the_taps():
    real = [torch.zeros(1, 4, 2, 2), torch.zeros(1, 8, 1, 1)]
    fake = [torch.ones(1, 4, 2, 2), torch.full((1, 8, 1, 1), 2.0)]
    assert losses.matching_loss(real, fake, None) == 3
    weights = torch.full((1, 1, 4, 4), 4.0)
    assert losses.matching_loss(real, fake, weights) == 12


def test_least_squares_losses():
    real, fake = torch.tensor([1.0, 0.5]), torch.tensor([0.0, 0.5])
    assert losses.adversarial_loss(fake).item() == pytest.approx((1 + 0.25) / 2)
    assert losses.discriminator_loss(real, fake).item() == pytest.approx(0.125 + 0.125)


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
def test_reduce_is_a_gaussian_and_every_nth_pixel(factor, generator):
    x = torch.rand(1, 2, 17, 24, generator=generator)
    small = reduce(x, factor)
    assert small.shape == (1, 2, -(-17 // factor), 24 // factor)
    if factor == 1:
        assert small is x
        return
    deviation = (factor - 1) / 2
    radius = round(4 * deviation)
    line = torch.tensor([math.exp(-(i**2) / (2 * deviation**2)) for i in range(-radius, radius + 1)])
    kernel = torch.outer(line, line) / line.sum() ** 2
    padded = F.pad(x, (radius,) * 4)
    y, i = 1, 2  # one pixel, by the definition
    window = padded[0, 1, y * factor : y * factor + 2 * radius + 1, i * factor : i * factor + 2 * radius + 1]
    assert small[0, 1, y, i].item() == pytest.approx((window * kernel).sum().item(), rel=1e-5)


def test_pyramid_loss_terms(generator):
    x = torch.rand(2, 3, 32, 32, generator=generator) * 2 - 1
    assert PyramidLoss()(x, x, None).item() == pytest.approx(0, abs=1e-5)
    assert gradient_loss(x, x + 0.3, None).item() == pytest.approx(0, abs=1e-6)
    ramp = torch.linspace(0, 3.1, 32).expand(1, 1, 32, 32)  # steps of 0.1 across, none down
    assert gradient_loss(ramp, torch.zeros_like(ramp), None).item() == pytest.approx(0.1, rel=1e-4)
    # Flat pictures: ssim = (2 a b + C1) / (a^2 + b^2 + C1).
    a, b = torch.full((1, 3, 16, 16), 0.5), torch.full((1, 3, 16, 16), -0.25)
    ssim = (2 * 0.5 * -0.25 + 0.0004) / (0.25 + 0.0625 + 0.0004)
    assert structure_loss(a, b, None).item() == pytest.approx((1 - ssim) / 2, rel=1e-3)
    assert structure_loss(x, -x, None) > structure_loss(x, 0.5 * x, None)


def test_structure_loss_agrees_with_scikit_image(generator):
    metrics = pytest.importorskip("skimage.metrics")
    x, y = (torch.rand(1, 1, 40, 40, generator=generator) * 2 - 1 for _ in range(2))
    _, full = metrics.structural_similarity(
        x[0, 0].numpy(), y[0, 0].numpy(), data_range=2, win_size=7, use_sample_covariance=False, full=True
    )
    weights = torch.zeros(1, 1, 40, 40)
    weights[..., 3:-3, 3:-3] = 1  # away from the edges, which are treated differently
    expected = ((1 - full[3:-3, 3:-3]) / 2).sum() / 1600
    assert structure_loss(x, y, weights).item() == pytest.approx(expected, rel=1e-4)


def test_pyramid_loss_weighs_the_face():
    real = torch.zeros(1, 3, 32, 32)
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., :16] = 1
    inside, outside = real.clone(), real.clone()
    inside[..., 4:12, 4:12] = 0.5
    outside[..., 4:12, 20:28] = 0.5
    weights = losses.face_weights(mask)
    loss = PyramidLoss()
    assert loss(inside, real, weights).item() > 1.5 * loss(outside, real, weights).item()
    everywhere = torch.full_like(weights, 4.0)
    assert loss(inside, real, everywhere).item() == pytest.approx(4 * loss(inside, real, None).item(), rel=1e-5)


def test_losses_have_gradients(generator):
    fake = (torch.rand(1, 3, 64, 64, generator=generator) * 2 - 1).requires_grad_()
    real = torch.rand(1, 3, 64, 64, generator=generator) * 2 - 1
    field = _exact_field(16).requires_grad_()
    parts = [PyramidLoss()(fake, real, None), losses.warp_loss(real, -real, [field]), losses.field_loss([field])]
    for part, leaf in zip(parts, (fake, field, field), strict=True):
        (gradient,) = torch.autograd.grad(part, leaf, retain_graph=True)
        assert gradient.isfinite().all()
        assert (gradient != 0).double().mean() > 0.5


def test_structure_loss_gradient_is_right(generator):
    x, y = (torch.rand(1, 1, 8, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    assert torch.autograd.gradcheck(lambda z: structure_loss(z, y, None), x.requires_grad_())


def test_discriminator_shapes_and_parameters(generator):
    net = Discriminator()
    assert sum(p.numel() for p in net.parameters()) == 2_761_921  # the official one's
    assert tuple(net.state_dict()["discs.1.down_blocks.3.conv.weight"].shape) == (512, 256, 4, 4)
    image, drawing = (torch.rand(2, 3, n, n, generator=generator) for n in (64, 16))
    taps, score = net(image, drawing)
    assert [tuple(t.shape[1:]) for t in taps] == [(64, 30, 30), (128, 13, 13), (256, 5, 5), (512, 2, 2)]
    assert score.shape == (2, 1, 2, 2)
    assert not torch.equal(score, net(image, -drawing).score), "the condition is not used"


@pytest.mark.parametrize(
    ("image", "drawing", "message"),
    [((1, 3, 32, 32), (1, 3, 8, 8), "at least 64"), ((1, 3, 64, 64), (2, 3, 16, 16), r"\[1, 3, h, h\]")],
)
def test_discriminator_refuses(image, drawing, message):
    with pytest.raises(ValueError, match=message):
        Discriminator()(torch.zeros(image), torch.zeros(drawing))


def test_vgg_loss_from_a_file(tmp_path, generator):
    vgg = Vgg19()
    file = tmp_path / "vgg19.safetensors"
    save_file(vgg.state_dict() | {"classifier.0.bias": torch.zeros(3)}, file)
    loaded = load_vgg19(file)
    fake = (torch.rand(1, 3, 32, 32, generator=generator) * 2 - 1).requires_grad_()
    real = torch.rand(1, 3, 32, 32, generator=generator) * 2 - 1
    loss = VggLoss(loaded)
    expected = torch.zeros(())
    for factor in (1, 2):  # 8 and 4 px are too small for the fifth tap
        pairs = zip(vgg(reduce(fake, factor)), vgg(reduce(real, factor)), strict=True)
        expected = expected + sum((a - b).abs().mean() for a, b in pairs)
    value = loss(fake, real, None)
    assert_close(value.detach(), expected.detach())
    assert loss(fake, real, torch.full((1, 1, 32, 32), 4.0)).item() == pytest.approx(4 * value.item(), rel=1e-5)
    value.backward()
    assert fake.grad is not None
    assert fake.grad.abs().sum() > 0
    assert not any(p.requires_grad for p in loss.parameters())


def test_vgg_file_refused(tmp_path):
    with pytest.raises(WeightsError, match=r"not a \.safetensors file"):
        load_vgg19(tmp_path / "vgg19.pth")
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"no")
    with pytest.raises(WeightsError, match="not a readable"):
        load_vgg19(damaged)
    other = tmp_path / "other.safetensors"
    save_file({"features.0.weight": torch.zeros(64, 3, 5, 5)}, other)
    with pytest.raises(WeightsError, match=r"features\.0\.weight of shape \[64, 3, 3, 3\] is not in it"):
        load_vgg19(other)
