"""Face2Face^rho's plain form against the official implementation's outputs, at every kind of size."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from face2face_rho_case import SCALES, model, numbers

from fastreenact.models.blocks import nearest_index, resize_nearest, upsample_to
from fastreenact.models.face2face_rho.networks import (
    Face2FaceRho,
    Features,
    MotionNet,
    RenderingNet,
    motion_input_size,
    motion_inputs,
    random_face2face_rho,
)
from fastreenact.models.refined_warp.networks import RefinedRenderer

SELF_GOLDEN = Path(__file__).parent / "data" / "face2face_rho_72.npz"


@pytest.fixture(scope="module")
def golden():
    """The folder of the official implementation's outputs."""
    folder = Path(__file__).parents[2] / "shared" / "golden"
    if not folder.is_dir():
        pytest.skip("the official implementation's outputs (../shared/golden) are not here")
    return folder


@pytest.fixture(scope="module")
def official(golden):
    """The recipe's module, both networks with its weights, the outputs."""
    spec = importlib.util.spec_from_file_location("golden_fill", golden / "fill.py")
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    keys = json.loads((golden / "face2face_rho_keys.json").read_text())
    nets = {"motion_net": MotionNet().eval(), "rendering_net": RenderingNet().eval()}
    for prefix, net in nets.items():
        mine = {k: shape for k, shape in keys.items() if k.startswith(f"{prefix}.")}
        state = {k.removeprefix(f"{prefix}."): torch.as_tensor(recipe.parameter(k, shape)) for k, shape in mine.items()}
        net.load_state_dict(state, strict=True)
    return recipe, Face2FaceRho(nets["motion_net"], nets["rendering_net"]), np.load(golden / "face2face_rho.npz")


def forward(net, image, source, driver, source_pose, driver_pose):
    """Three fields, and the picture rendered with a field near the identity."""
    with torch.no_grad():
        fields = net.motion(*motion_inputs(image, source, driver))
        axis = torch.linspace(-1, 1, fields[2].shape[1])
        identity = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)
        moved = identity + 0.05 * torch.tanh(fields[2])
        return fields, net.renderer.decode(net.renderer.encode(image, source_pose), moved, driver_pose)


def test_names_and_shapes_are_the_official_ones(golden):
    keys = json.loads((golden / "face2face_rho_keys.json").read_text())
    mine = {k: list(v.shape) for k, v in Face2FaceRho(MotionNet(), RenderingNet()).state_dict().items()}
    assert mine == keys


@pytest.mark.parametrize(("size", "every"), [(256, 1), (512, 4), (1440, 8)])
def test_matches_the_official_outputs(official, size, every):
    recipe, net, outputs = official
    side = motion_input_size(size)

    def unit(name, *shape):
        return torch.from_numpy(recipe.unit(f"{name}@{size}", shape))

    drawings = [
        [unit(f"{who}_landmark_img{i}", 1, 3, side // k, side // k) for i, k in enumerate(SCALES)]
        for who in ("src", "drv")
    ]
    poses = [unit(f"{who}_headpose", 1, 6) for who in ("src", "drv")]
    fields, image = forward(net, unit("src_img", 1, 3, size, size), *drawings, *poses)
    for i, field in enumerate(fields):
        np.testing.assert_allclose(field[:, ::every, ::every], outputs[f"motion{i}@{size}"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(image[..., ::every, ::every], outputs[f"render@{size}"], rtol=0, atol=1e-4)


def own_case(size=72):
    """Inputs by name at a size whose maps are all rounded up."""
    side = motion_input_size(size)
    drawings = [
        [torch.tanh(torch.from_numpy(numbers(f"{who}{k}", (1, 3, side // k, side // k)))) for k in SCALES]
        for who in ("source", "driver")
    ]
    image = torch.tanh(torch.from_numpy(numbers("image", (1, 3, size, size))))
    poses = [torch.from_numpy(numbers(f"{who}.pose", (1, 6))) for who in ("source", "driver")]
    return forward(model(), image, *drawings, *poses)


def test_matches_its_own_recorded_outputs():
    # Recorded from this implementation when it matched the official outputs to 6e-6.
    fields, image = own_case()
    recorded = np.load(SELF_GOLDEN)
    for i, field in enumerate(fields):
        np.testing.assert_allclose(field[:, :: 2**i, :: 2**i], recorded[f"field{i}"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(image[..., ::3, ::3], recorded["image"], rtol=0, atol=1e-4)
    assert image.std() > 0.1


@pytest.mark.parametrize(
    ("size", "motion_size"), [(64, None), (65, None), (97, None), (97, 64), (130, 256), (333, None)]
)
def test_any_size_runs(size, motion_size):
    side = motion_input_size(size, motion_size)
    net = random_face2face_rho(1)
    generator = torch.Generator().manual_seed(size)
    image = torch.randn(2, 3, size, size, generator=generator).tanh()
    drawings = [torch.randn(2, 3, side // k, side // k, generator=generator).tanh() for k in SCALES]
    fields, out = forward(net, image, drawings, drawings[::1], torch.zeros(2, 6), torch.ones(2, 6))
    assert [tuple(f.shape) for f in fields] == [(2, side // k, side // k, 2) for k in SCALES]
    assert out.shape == image.shape
    assert torch.isfinite(out).all()
    assert out.abs().max() < 1


def test_gradients_reach_every_parameter_of_the_way():
    net = random_face2face_rho(2)
    x = torch.rand(1, 3, 64, 64) * 2 - 1
    drawings = [torch.rand(1, 3, 64 // k, 64 // k) for k in SCALES]
    field = net.motion(*motion_inputs(x, drawings, drawings))[2]
    net.renderer.decode(net.renderer.encode(x, torch.zeros(1, 6)), field, torch.zeros(1, 6)).square().sum().backward()
    without = [k for m in (net.motion, net.renderer) for k, p in m.named_parameters() if p.grad is None]
    assert without == []


@pytest.mark.parametrize(("length_in", "length_out"), [(16, 82), (368, 360), (128, 123), (7, 7), (5, 13), (1440, 92)])
def test_nearest_index_is_the_whole_number_floor(length_in, length_out):
    index = nearest_index(length_in, length_out)
    assert index.tolist() == [i * length_in // length_out for i in range(length_out)]
    x = torch.arange(length_in).view(1, 1, length_in, 1).expand(1, 2, length_in, length_in)
    assert torch.equal(resize_nearest(x, length_out, length_out)[0, 0, :, 0], index)


def test_upsampled_maps_are_cropped():
    x = torch.arange(6.0).view(1, 1, 2, 3)
    assert upsample_to(x, 3, 5).tolist() == [[[[0, 0, 1, 1, 2], [0, 0, 1, 1, 2], [3, 3, 4, 4, 5]]]]


def test_motion_input_size():
    assert [motion_input_size(s) for s in (64, 65, 256, 1440, 2048)] == [64, 128, 256, 1472, 2048]
    assert motion_input_size(1440, 256) == 256
    for size, motion_size, words in (
        (63, None, "size must be"),
        (2049, None, "size must be"),
        (64, 100, "multiple of 64"),
    ):
        with pytest.raises(ValueError, match=words):
            motion_input_size(size, motion_size)


def test_wrong_shapes_are_refused():
    net = RenderingNet().eval()
    zeros = torch.zeros
    with pytest.raises(ValueError, match=r"multiple M of 64, got \[\(9, 5, 5\)"):
        MotionNet()(zeros(1, 9, 5, 5), zeros(1, 9, 10, 10), zeros(1, 9, 20, 20))
    with pytest.raises(ValueError, match=r"image must have the shape \[any, 3, any, any\], got \[1, 1, 64, 64\]"):
        net.encode(zeros(1, 1, 64, 64), zeros(1, 6))
    with pytest.raises(ValueError, match=r"head_pose must have the shape \[1, 6\], got \[1, 5\]"):
        net.encode(zeros(1, 3, 64, 64), zeros(1, 5))
    features = Features(zeros(1, 28, 16, 16), zeros(1, 72, 8, 8), zeros(1, 140, 4, 4), zeros(1, 280, 4, 4), (64, 64))
    with pytest.raises(ValueError, match="motion_field must have the shape"):
        net.decode(features, zeros(1, 2, 16, 16), zeros(1, 6))
    with pytest.raises(ValueError, match=r"base must have the shape \[1, 3, 64, 64\]"):
        RefinedRenderer().draw(features, zeros(1, 16, 16, 2), zeros(1, 6), zeros(1, 3, 64, 32))


def test_random_weights_are_reproducible():
    first, second, other = (random_face2face_rho(seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert not torch.equal(first["motion_net.model1_3.weight"], other["motion_net.model1_3.weight"])
