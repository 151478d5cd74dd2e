"""Networks that draw over the landmark warp: inference form against plain one, whole pictures, weights files."""

import numpy as np
import pytest
import torch

from fastreenact.errors import WeightsError
from fastreenact.face.crop import Box
from fastreenact.models.face2face_rho.networks import random_face2face_rho
from fastreenact.models.face2face_rho.weights import load_face2face_rho, save_face2face_rho
from fastreenact.models.landmark_warp.warp import LandmarkWarp, Placement
from fastreenact.models.refined_warp.fused import RefinedNetworks
from fastreenact.models.refined_warp.inference import FusedRefinedWarp, _Cells, _Nodes
from fastreenact.models.refined_warp.networks import (
    MOST_GAIN,
    RefinedWarp,
    compose,
    motion_inputs,
    random_refined_warp,
    resize_field,
)
from fastreenact.models.refined_warp.replayed import ReplayedRefinedWarp
from fastreenact.models.refined_warp.weights import load_refined_warp, save_refined_warp
from fastreenact.ops import compose_frame
from fastreenact.synth.heads.render import make_person, random_expression, random_pose, render
from fastreenact.timings import NO_TIMER
from fastreenact.training.data.batches import batch_of
from fastreenact.training.data.heads import HeadPairs
from fastreenact.training.targets.refined_warp import base_picture
from fastreenact.weights import FORMAT, write


@pytest.fixture(scope="module")
def model():
    """Random weights of a network at 128."""
    model = random_refined_warp(3)
    model.metadata |= {"size": "128", "motion_size": "128"}
    # Small changes, as trained networks make: the picture stays inside its range.
    model.renderer.de_conv_block[0].weight.data *= 0.2
    return model


def fused(model, size):
    """The inference form in float32 on the CPU."""
    return FusedRefinedWarp(RefinedNetworks(model, torch.float32, torch.device("cpu")), size)


def plain(model, batch):
    """[N, 3, S, S] in levels, from the forms that train."""
    with torch.no_grad():
        field = resize_field(batch.base.field, 32, 32).permute(0, 2, 3, 1)
        drawings = batch.source_landmarks, batch.driver_landmarks
        fields = model.motion(*motion_inputs(batch.source, field, *drawings))
        moved = base_picture(batch.source, batch.base, fields[2])
        field = field + fields[2]
        features = model.renderer.encode(batch.source, batch.source_pose)
        picture = compose(model.renderer.draw(features, field, batch.driver_pose, moved), moved)
        return ((picture + 1) * 127.5).clamp(0, 255), (moved + 1) * 127.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", [128, 99, 300])
def test_one_replay_draws_what_frames_by_themselves_are(model, size, dtype):
    """Four frames of two people, mouths and eyes open and shut, heads turned, in both ways of the inference form."""
    networks = RefinedNetworks(model, dtype, torch.device("cpu"))
    ways = FusedRefinedWarp(networks, None), ReplayedRefinedWarp(networks, None), fused(model, None)
    states = ([], [], [])  # by itself, in one replay, and by itself in float32
    pairs = [HeadPairs(size, first=7 + i, people=1).draw(np.random.default_rng((1, i, 2, 0))) for i in range(2)]
    for source, _, _ in pairs:
        for way, own in zip(ways, states, strict=True):
            own.append(way.encode(source.image, source.keypoints, source.pose))
    order = [(0, 0), (1, 1), (1, 0), (0, 1)]
    drivers = [pairs[who][1][which] for who, which in order]
    out = torch.empty(4, size, size, 3, dtype=torch.uint8)
    keypoints, poses = [driver.keypoints for driver in drivers], [driver.pose for driver in drivers]
    assert ways[1].drive([states[1][who] for who, _ in order], keypoints, poses, out, NO_TIMER)
    for (who, _), driver, frame in zip(order, drivers, out, strict=True):
        alone, exact = (ways[k].drive(states[k][who], driver.keypoints, driver.pose).float() for k in (0, 2))
        if dtype == torch.float32:
            apart = (frame - alone).abs()
            assert apart.max() <= 2
            assert (apart <= 1).float().mean() > 0.999
        else:  # each is as far from float32 as the other
            assert (frame - exact).abs().mean() < 1.1 * (alone - exact).abs().mean() + 0.02


@pytest.mark.parametrize("size", [128, 99])
def test_fused_draws_what_the_plain_form_draws(model, size):
    model = RefinedWarp(model.motion, model.renderer, model.metadata | {"size": str(size)})
    data = HeadPairs(size, first=7, people=1)
    batch = batch_of(data, 1, 2, 2, 128, base=True)
    source, drivers, _ = data.draw(np.random.default_rng((1, 0, 2, 0)))
    wanted, moved = plain(model, batch)
    renderer = fused(model, size)
    state = renderer.encode(source.image, source.keypoints, source.pose)
    warp = LandmarkWarp(size, size)
    still = warp.encode(source.image, source.keypoints, source.pose, Box.whole(size))
    for i, driver in enumerate(drivers[:2]):
        found = renderer.drive(state, driver.keypoints, driver.pose).permute(2, 0, 1).float()
        error = (found - wanted[i]).abs()
        # Three roundings to 8 bit on the way, and the warp's own.
        assert error.mean() < 0.5
        assert error.quantile(0.999) <= 2.5
        base = warp.drive(still, driver.keypoints, driver.pose).permute(2, 0, 1).float()
        assert (wanted[i] - base).abs().mean() > 3  # the networks do something,
        assert (moved[i] - base).abs().mean() > 0.5  # to the field too


def test_networks_that_change_nothing_give_the_landmark_warp(model):
    silent = random_refined_warp(3)
    silent.metadata |= {"size": "128", "motion_size": "128"}
    motion = silent.motion
    for layer in (silent.renderer.de_conv_block[0], motion.f1_motion, motion.model1_3, motion.model2_3):
        for parameter in layer.parameters():
            parameter.data.zero_()
    seen = render(make_person(2), random_pose(np.random.default_rng(0)), np.zeros(51, np.float32), 96, 4)
    picture = np.pad(seen.image, ((10, 31), (25, 8), (0, 0)), mode="edge")
    box = Box(25 + 48, 10 + 48, 96)
    renderer = fused(silent, None)
    warp = LandmarkWarp(*picture.shape[:2])
    a, b = (form.encode(picture, seen.keypoints, seen.pose, box) for form in (renderer, warp))
    rng = np.random.default_rng(1)
    for _ in range(3):
        other = render(make_person(2), random_pose(rng), random_expression(rng), 96, 4)
        found = renderer.drive(a, other.keypoints, other.pose).int()
        assert (found - warp.drive(b, other.keypoints, other.pose).int()).abs().max() <= 1


def test_whole_pictures_change_inside_the_box_alone(model):
    seen = render(make_person(2), random_pose(np.random.default_rng(0)), np.zeros(51, np.float32), 96, 4)
    picture = np.pad(seen.image, ((10, 31), (25, 8), (0, 0)), mode="edge")
    box = Box(25 + 48, 10 + 48, 96)
    renderer = fused(model, None)
    state = renderer.encode(picture, seen.keypoints, seen.pose, box)
    frame = renderer.drive(state, seen.keypoints, seen.pose).numpy().astype(int)
    change = np.abs(frame - picture).max(axis=2)
    outside = np.ones(change.shape, bool)
    outside[10 : 10 + 96, 25 : 25 + 96] = False
    assert change[outside].max() <= 1
    assert change[~outside].mean() > 3
    assert change[10:12, 25 : 25 + 96].mean() < 0.2 * change[~outside].mean()  # and fade towards its edge
    out = torch.zeros_like(torch.from_numpy(picture))
    assert renderer.drive(state, seen.keypoints, seen.pose, out=out) is out
    assert np.array_equal(out.numpy(), frame)
    with pytest.raises(ValueError, match=r"out must be uint8 \[137, 129, 3\], got torch.uint8 \[96"):
        renderer.drive(state, seen.keypoints, seen.pose, out=torch.zeros(96, 129, 3, dtype=torch.uint8))


def test_pictures_refused(model):
    renderer = fused(model, 128)
    points, pose = np.zeros((72, 2)), np.ones(6)
    with pytest.raises(ValueError, match=r"uint8 \[128, 128, 3\], got \[64, 64, 3\]"):
        renderer.encode(np.zeros((64, 64, 3), np.uint8), points, pose)
    whole = fused(model, None)
    with pytest.raises(ValueError, match="64 x 32: a picture that is not square needs `box`"):
        whole.encode(np.zeros((32, 64, 3), np.uint8), points, pose)
    with pytest.raises(ValueError, match=r"uint8 \[H, W, 3\], got float32"):
        whole.encode(np.zeros((32, 32, 3), np.float32), points, pose)


@pytest.mark.parametrize("size", [64, 90])
def test_compose_frame_follows_its_formula(size):
    rng = torch.Generator().manual_seed(0)
    raw = torch.randn(64, 64, 4, generator=rng) * 0.3
    surface = torch.randint(0, 256, (size, size, 3), generator=rng, dtype=torch.uint8)
    found = surface.clone()
    compose_frame(raw, found, Box.whole(size), most_gain=MOST_GAIN)
    base = surface.permute(2, 0, 1)[None].double() / 127.5 - 1
    decoded = torch.cat([raw[..., :3].tanh(), 1.5 * (raw[..., 3:] + np.log(2)).sigmoid()], -1).permute(2, 0, 1)[None]
    decoded = torch.nn.functional.interpolate(decoded.double(), (size, size), mode="bilinear")
    wanted = ((compose(decoded, base) + 1) * 127.5).clamp(0, 255)[0].permute(1, 2, 0)
    assert (found.double() - wanted).abs().max() <= 0.51


def test_frames_are_drawn_into_out(model):
    seen = render(make_person(2), random_pose(np.random.default_rng(0)), np.zeros(51, np.float32), 96, 4)
    picture = np.pad(seen.image, ((10, 31), (25, 8), (0, 0)), mode="edge")
    renderer = fused(model, None)
    state = renderer.encode(picture, seen.keypoints, seen.pose, Box(25 + 48, 10 + 48, 96))
    other = render(make_person(2), random_pose(np.random.default_rng(1)), np.zeros(51, np.float32), 96, 4)
    wanted = renderer.drive(state, other.keypoints, other.pose)
    wide = torch.full((139, 131, 4), 77, dtype=torch.uint8)
    for out in (torch.full(picture.shape, 77, dtype=torch.uint8), wide[1:-1, 1:-1, :3]):
        assert renderer.drive(state, other.keypoints, other.pose, out=out) is out
        assert torch.equal(out, wanted)
    wide[1:-1, 1:-1, :3] = 77
    assert (wide == 77).all()
    assert torch.equal(state.image[0], torch.from_numpy(picture))
    with pytest.raises(ValueError, match=r"out must be uint8 \[137, 129, 3\], got torch.float32"):
        renderer.drive(state, other.keypoints, other.pose, out=torch.zeros(picture.shape))


@pytest.mark.parametrize(("box", "seen"), [(Box(30, 23.5, 20), 16), (Box(60, 44, 40), 20), (Box(-3, 25, 90), 32)])
def test_the_networks_see_the_picture_in_their_box(box, seen):
    """Samples of each pixel, two by two where the picture has more; the edge repeated outside."""
    picture = torch.randint(0, 256, (50, 64, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    found = _Cells(16, seen, box, 50, 64, 1, torch.device("cpu")).shrink(picture)
    n = seen * (2 if box.size > 1.5 * seen else 1)
    at = ((torch.arange(n) + 0.5) / n - 0.5) * box.size
    wanted = sample(picture.float(), (at + box.cx) / 32 - 1, (at + box.cy) / 25 - 1)
    wanted = wanted.view(seen, n // seen, seen, n // seen, 3).mean((1, 3))
    assert found.shape == (1, seen, seen, 3)
    assert (found[0] - (wanted / 127.5 - 1)).abs().max() <= 0.51 / 127.5


@pytest.mark.parametrize("step", [1, 3])
@pytest.mark.parametrize("box", [Box(30, 23.5, 40), Box(31.7, 20.2, 77.7), Box(70, -5, 61)], ids=str)
def test_fields_of_nodes_and_of_the_box_are_read_where_they_lie(box, step):
    """Against `grid_sample`; boxes within the picture and beyond it, nodes that do not fill it evenly."""
    height, width, side, fade = 50, 64, 16, 0.08
    rest = torch.from_numpy(Placement(None, (0, 0), step, ()).whole_field(height, width))
    rng = torch.Generator().manual_seed(0)
    nodes = rest + 0.1 * torch.randn(rest.shape, generator=rng)
    at = ((torch.arange(side) + 0.5) * 2 / side - 1) * (box.size / 2)
    h, w = rest.shape[:2]
    x, y = (at + box.cx) * 2 / (w * step) - 1, (at + box.cy) * 2 / (h * step) - 1
    held = sample(nodes - rest, x, y) * torch.tensor((width / box.size, height / box.size))
    wanted = torch.stack(torch.meshgrid(at, at, indexing="xy"), -1) * (2 / box.size) + held
    found = _Cells(side, 8, box, height, width, step, torch.device("cpu")).read(nodes)
    assert (found[0] - wanted).abs().max() < 2e-6

    offset = torch.randn(1, side, side, 2, generator=rng)
    x = ((torch.arange(w) + 0.5) * step - box.cx) * 2 / box.size
    y = ((torch.arange(h) + 0.5) * step - box.cy) * 2 / box.size
    t = [((1 - place.abs()) / (2 * fade)).clamp(0, 1) for place in (x, y)]
    say = [place * place * (3 - 2 * place) for place in t]
    more = sample(offset[0], x, y) * (say[0] * say[1][:, None])[..., None]
    wanted = nodes + more * torch.tensor((box.size / width, box.size / height))
    moving = _Nodes(box, fade, height, width, step, torch.device("cpu"))
    assert (moving.add(nodes, offset, (0, 0, w, h)) - wanted).abs().max() < 5e-6
    left, top, right, low = moving.window
    still = torch.ones(h, w, dtype=torch.bool)
    still[top:low, left:right] = False
    assert (more[still] == 0).all()
    # Without a fade the networks have their say everywhere.
    assert _Nodes(box, 0.0, height, width, step, torch.device("cpu")).window == (0, 0, w, h)


def test_nodes_that_stay_are_those_made_anew():
    """The resident nodes after heads that go far and come back, against a field of its own for each frame."""
    seen = render(make_person(2), random_pose(np.random.default_rng(0)), np.zeros(51, np.float32), 96, 4)
    picture = np.pad(seen.image, ((70, 131), (95, 88), (0, 0)), mode="edge")
    height, width = picture.shape[:2]
    box = Box(95 + 48, 70 + 48, 96)
    warp = LandmarkWarp(height, width)
    base = warp.encode(picture, seen.keypoints, seen.pose, box)
    nodes = _Nodes(box, 0.08, height, width, base.grid.step, torch.device("cpu"))
    windows = set()
    for shift in ((0.0, 0.0), (0.6, -0.3), (-0.5, 0.4), (0.02, 0.0), (9.0, 9.0), (0.0, 0.0)):
        keypoints = seen.keypoints + np.array(shift, np.float32)
        placed, found = nodes.place(warp, base, keypoints, seen.pose)
        wanted = warp.place(base, keypoints, seen.pose).whole_field(height, width)
        np.testing.assert_array_equal(found.numpy(), wanted)
        windows.add((placed.corner, None if placed.field is None else placed.field.shape))
    assert len(windows) >= 4


def sample(values, x, y):
    """[h, w, 2] at columns and rows in -1..1, the edge repeated."""
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)[None]
    values = values.permute(2, 0, 1)[None]
    at = torch.nn.functional.grid_sample(values, grid, padding_mode="border", align_corners=False)
    return at[0].permute(1, 2, 0)


def test_weights_files_say_which_model_they_are_of(model, tmp_path):
    loaded = load_refined_warp(save_refined_warp(model, tmp_path / "w.safetensors"))
    assert loaded.metadata["model"] == "refined-warp"
    assert loaded.renderer.de_conv_block[0].weight.shape == (4, 16, 3, 3)
    published = save_face2face_rho(random_face2face_rho(1), tmp_path / "p.safetensors")
    assert load_face2face_rho(published).renderer.de_conv_block[0].weight.shape == (3, 16, 3, 3)
    for load, path in ((load_refined_warp, published), (load_face2face_rho, tmp_path / "w.safetensors")):
        with pytest.raises(WeightsError, match="is for the model"):
            load(path)


def test_files_from_before_the_model_had_a_name_load(model, tmp_path):
    path = tmp_path / "old.safetensors"
    old = {key: value for key, value in model.metadata.items() if key != "model"}
    write(
        path,
        model.state_dict(),
        {**old, "model": "face2face-rho", "base": "landmark-warp"},
        torch.float32,
        lambda *_: None,
    )
    assert load_refined_warp(path).metadata == {"format": FORMAT, **model.metadata}
    write(path, model.state_dict(), {**old, "model": "face2face-rho", "base": "spline"}, torch.float32, lambda *_: None)
    with pytest.raises(WeightsError, match="draws over 'spline', which this version does not know"):
        load_face2face_rho(path)
    other = random_refined_warp(1)
    other.metadata.pop("model")
    with pytest.raises(WeightsError, match="model"):
        save_refined_warp(other, tmp_path / "o.safetensors")
