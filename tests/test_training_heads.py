"""Generated heads: what is claimed to be true of a picture is true of it."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from fastreenact.face.morphable.model import EXPRESSION_NAMES, default_model
from fastreenact.synth.heads.mesh import surface, triangulate
from fastreenact.synth.heads.parts import parts
from fastreenact.synth.heads.render import flow, make_person, random_expression, random_pose, render
from fastreenact.synth.heads.scene import make_scene
from fastreenact.training.data import heads as head_pairs
from fastreenact.training.data.heads import HeadPairs

SIZE = 96
FRONT = np.array([0, 0, 0, 0, 0.1, 0.45], np.float32)
MODEL = default_model()


def expression(**values: float) -> np.ndarray:
    coefficients = np.zeros(len(EXPRESSION_NAMES), np.float32)
    for name, value in values.items():
        coefficients[EXPRESSION_NAMES.index(name)] = value
    return coefficients


CALM = expression()


def shot() -> int:
    """The first seed whose camera adds little: comparisons of pixels are about the head."""
    scenes = ((seed, make_scene(seed)) for seed in range(500))
    return next(seed for seed, scene in scenes if not scene.quality and not scene.blur and scene.noise < 1)


def bald_person(start: int = 0):
    """The first person without glasses and long hair."""
    p = parts()
    for seed in range(start, start + 50):
        person = make_person(seed)
        worn = [range(p.where[name].start, p.where[name].stop) for name in ("glasses", "curtain", "brim", "phones")]
        if not any(np.isin(part, person.look.kept).any() for part in worn):
            return person
    raise LookupError("no such person")


def test_triangulation_covers_the_square():
    points = np.concatenate([[(0, 0), (1, 0), (0, 1), (1, 1)], np.random.default_rng(0).uniform(0.05, 0.95, (60, 2))])
    a, b, c = (points[triangulate(points)[:, k]] for k in range(3))
    areas = ((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]) / 2
    assert (areas > 0).all()
    np.testing.assert_allclose(areas.sum(), 1.0, rtol=1e-9)


def test_the_keypoints_are_vertices_that_move_as_in_the_model():
    s = surface()
    np.testing.assert_allclose(s.rest[:72], MODEL.mean, atol=1e-6)
    np.testing.assert_allclose(s.follow[:72], np.eye(72), atol=1e-12)


def test_every_mode_moves_more_of_the_surface_than_its_keypoints_and_none_tears_it():
    s = surface()
    modes = np.concatenate([MODEL.shape_basis, MODEL.expression_basis])
    for mode in modes[np.abs(modes).max((1, 2)) > 1e-3]:
        moved = np.linalg.norm(s.follow @ mode, axis=1)
        greatest = np.linalg.norm(mode, axis=1).max()
        assert (moved[72:] > 0.05 * greatest).any()
        assert moved.max() < 2.0 * greatest


@pytest.mark.parametrize("seed", [0, 1])
def test_render_gives_the_projection_of_the_model(seed):
    rng = np.random.default_rng(seed)
    person, pose, moved = make_person(seed), random_pose(rng), random_expression(rng)
    seen = render(person, pose, moved, 48, seed)
    np.testing.assert_allclose(seen.keypoints, MODEL.project(person.shape, moved, pose), atol=1e-6)
    np.testing.assert_array_equal(seen.pose, pose)
    np.testing.assert_array_equal(seen.expression, moved)
    assert seen.image.shape == (48, 48, 3)
    assert seen.image.dtype == np.uint8


def test_seeds_reproduce_and_differ():
    first, again = (render(make_person(3), FRONT, CALM, SIZE, 7).image for _ in range(2))
    np.testing.assert_array_equal(first, again)
    for person, seed in ((4, 7), (3, 8)):
        other = render(make_person(person), FRONT, CALM, SIZE, seed).image
        assert np.abs(first.astype(int) - other).mean() > 5


def test_the_mask_covers_the_keypoints():
    for seed in range(4):
        seen = render(bald_person(10 * seed), FRONT, CALM, SIZE, seed)
        inner = seen.keypoints[27:]  # the outline lies on the mask's edge, and hair may hide brows
        x, y = ((inner + 1) * SIZE / 2).astype(int).T
        assert seen.mask[y, x].mean() > 0.95
        assert 0.05 < seen.mask.mean() < 0.5


def changed(a, b, points) -> tuple[float, float]:
    """Mean change in levels inside the box of some keypoints, and outside it."""
    difference = np.abs(a.image.astype(int) - b.image).mean(-1)
    both = (np.concatenate([a.keypoints[points], b.keypoints[points]]) + 1) * SIZE / 2
    low, high = both.min(0), both.max(0)
    box = np.zeros(difference.shape, bool)
    box[int(low[1]) : int(high[1]) + 2, int(low[0]) : int(high[0]) + 2] = True
    return float(difference[box].mean()), float(difference[~box].mean())


def test_a_blink_closes_the_eyes():
    person, seed = bald_person(), shot()
    opened = render(person, FRONT, expression(eyeWideLeft=0.5, eyeWideRight=0.5), SIZE, seed)
    closed = render(person, FRONT, expression(eyeBlinkLeft=1, eyeBlinkRight=1), SIZE, seed)
    eyes, elsewhere = changed(opened, closed, np.arange(36, 52))
    assert eyes > 8
    assert eyes > 4 * elsewhere


def test_gaze_moves_the_irises_only():
    person, seed = bald_person(), shot()
    seen = [
        render(
            person,
            FRONT,
            expression(
                eyeLookOutLeft=a,
                eyeLookInRight=a,
                eyeLookInLeft=b,
                eyeLookOutRight=b,
                eyeWideLeft=0.5,
                eyeWideRight=0.5,
            ),
            SIZE,
            seed,
        )
        for a, b in ((0.8, 0), (0, 0.8))
    ]
    eyes, elsewhere = changed(*seen, np.arange(36, 52))
    assert eyes > 3
    assert eyes > 4 * elsewhere


def test_an_open_jaw_shows_the_mouth():
    person, seed = bald_person(), shot()
    calm, opened = (render(person, FRONT, expression(jawOpen=v), SIZE, seed) for v in (0.0, 0.8))
    inside, elsewhere = changed(calm, opened, np.arange(52, 72))
    assert inside > 8
    assert inside > 4 * elsewhere
    # From the front each pixel of the opening shows teeth, tongue or the cavity: none the skin's colour or background.
    x, y = ((opened.keypoints[[63, 70]] + 1) * SIZE / 2).astype(int).T
    column = opened.image[y[0] + 1 : y[1] - 1, x[0]].astype(int)
    assert opened.mask[y[0] : y[1], x[0]].all()
    assert column.min() < 0.6 * calm.image[y[0] : y[1], x[0]].mean()


def test_flow_brings_one_frame_onto_the_other():
    person, seed = bald_person(), shot()
    turned = FRONT + np.array([0.05, 0.25, 0.05, 0.04, -0.02, 0.01], np.float32)
    size = 128
    seen = render(person, FRONT, CALM, size, seed)
    other = render(person, turned, expression(jawOpen=0.4, mouthSmileLeft=0.5, mouthSmileRight=0.5), size, seed)
    found = flow(person, seen, other, seed)
    of_face = found.visible & seen.mask
    assert of_face.sum() > 0.7 * seen.mask.sum()
    picture = torch.from_numpy(other.image).float().permute(2, 0, 1)[None]
    field = torch.from_numpy(np.nan_to_num(found.field, nan=-2.0))[None]
    warped = functional.grid_sample(picture, field, align_corners=False)[0].permute(1, 2, 0).numpy()
    left = np.abs(warped - seen.image)[of_face].mean()
    unwarped = np.abs(other.image.astype(float) - seen.image)[of_face].mean()
    assert left < 0.5 * unwarped  # what is left is light on a turned face
    # At the keypoints that both show, the flow is that of the model.
    inner = np.array([30, 27, 28, 29, 33])
    x, y = ((seen.keypoints[inner] + 1) * size / 2).astype(int).T
    np.testing.assert_allclose(found.field[y, x], other.keypoints[inner], atol=3 / size)


def test_flow_onto_itself_is_identity():
    person = bald_person()
    seen = render(person, FRONT, CALM, SIZE, 1)
    found = flow(person, seen, seen, 1)
    at = (np.arange(SIZE) + 0.5) * 2 / SIZE - 1
    there = ~np.isnan(found.field[..., 0])
    np.testing.assert_allclose(found.field[there], np.stack(np.meshgrid(at, at), -1)[there], atol=1e-3)
    assert found.visible[there].mean() > 0.99


@pytest.mark.parametrize(
    ("pose", "moved", "size", "message"),
    [
        (FRONT[:5], CALM, 64, "pose: .*6"),
        (FRONT, CALM[:3], 64, "expression: .*51"),
        (FRONT, CALM * np.nan, 64, "finite"),
        (FRONT, CALM, 8, "at least 16"),
    ],
)
def test_render_says_what_is_wrong(pose, moved, size, message):
    with pytest.raises(ValueError, match=message):
        render(make_person(0), pose, moved, size, 0)


def test_flow_needs_frames_of_one_size():
    person = make_person(0)
    with pytest.raises(ValueError, match="size"):
        flow(person, render(person, FRONT, CALM, 32, 0), render(person, FRONT, CALM, 48, 0), 0)


def test_draws_are_those_of_the_training_loop_and_reproduce():
    dataset = HeadPairs(48, first=5, people=3)
    first, again, other = (dataset.draw(np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert len(dataset) == 180
    assert dataset.broken == {}
    for frame in (first.source, *first.drivers):
        assert frame.image.shape == (48, 48, 3)
        assert frame.mask.shape == (48, 48)
        assert frame.head_pose.shape == (6,)
    assert np.array_equal(first.source.image, again.source.image)
    for a, b, c in zip(first.drivers, again.drivers, other.drivers, strict=True):
        assert np.array_equal(a.image, b.image)
        assert np.array_equal(a.keypoints, b.keypoints)
        assert not np.array_equal(a.image, c.image)
        assert not np.array_equal(a.image, first.source.image)


def test_some_draws_go_far_in_the_picture():
    draws = [HeadPairs(32, people=5).draw(np.random.default_rng(seed)) for seed in range(12)]
    poses = [[frame.pose for frame in draw.drivers] for draw in draws]
    spans = np.ptp(np.array(poses)[:, :, 3:], axis=1)  # [12, 3]
    assert (spans[:, :2].max(axis=1) > 0.3).sum() >= 2
    assert np.median(spans[:, :2].max(axis=1)) < 0.2
    assert (np.array(poses)[..., 5] > 0.2).all()


def test_true_flow_of_a_draw_holds_the_background_still():
    """Sampling the source by the true flow gives the driver where it is known; the background does not move."""
    draw = HeadPairs(64, people=50).draw(np.random.default_rng(3))  # in calm light
    assert draw.flows is not None
    source = torch.from_numpy(draw.source.image).permute(2, 0, 1)[None].float()
    for driver, known in zip(draw.drivers, draw.flows, strict=True):
        field, seen = torch.from_numpy(known[:2]), known[2] == 1
        still = np.abs(known[0] - ((np.arange(64) + 0.5) / 32 - 1)) < 1e-6
        assert (still & seen)[:4, :4].all()  # the corner shows background
        moved = torch.nn.functional.grid_sample(source, field.permute(1, 2, 0)[None], align_corners=False)[0]
        wanted = torch.from_numpy(driver.image).permute(2, 0, 1).float()
        error, unmoved = ((x - wanted).abs().mean(0).numpy()[seen & ~still].mean() for x in (moved, source[0]))
        assert error < 0.6 * unmoved


def test_keypoints_err_as_those_of_an_animation(monkeypatch):
    """The portrait's as a tracker's; the drivers' besides by what the fit of a portrait cannot know."""
    drawn = []

    def spy(*given):
        drawn.append(render(*given))
        return drawn[-1]

    monkeypatch.setattr(head_pairs, "render", spy)
    dataset = HeadPairs(48, people=50)
    tracked, fitted, shared = [], [], []
    for seed in range(12):
        drawn.clear()
        draw = dataset.draw(np.random.default_rng(seed))
        errors = np.array(
            [frame.keypoints - true.keypoints for frame, true in zip((draw.source, *draw.drivers), drawn, strict=True)]
        )
        tracked.append(errors[0].std())
        fitted += list(np.linalg.norm(errors[1:] - errors[0], axis=2).mean(1) * 128)
        shared.append(np.corrcoef(errors[0].ravel(), errors[1:].mean(0).ravel())[0, 1])
    assert np.mean(tracked) == pytest.approx(np.hypot(0.005, 0.0015), rel=0.15)
    assert 0.5 < np.mean(fitted) < 1.0  # px at 256
    assert np.mean(shared) > 0.7


def test_some_draws_stay_near_the_source():
    draws = [HeadPairs(32, people=5).draw(np.random.default_rng(seed)) for seed in range(20)]
    turned = [max(np.abs(driver.pose[:3] - draw.source.pose[:3]).max() for driver in draw.drivers) for draw in draws]
    assert sum(turn < 0.2 for turn in turned) >= 3
    assert sum(turn > 0.3 for turn in turned) >= 4


@pytest.mark.parametrize(("first", "people"), [(0, 0), (-1, 5)])
def test_pairs_need_people(first, people):
    with pytest.raises(ValueError, match="people"):
        HeadPairs(48, first=first, people=people)


@pytest.mark.parametrize("seed", range(6))
def test_bars_lie_over_all_pictures_of_a_draw(seed):
    """One side black and at rest, or the edge repeated and unknown; what the source's bar hides is not visible."""
    person = make_person(3)
    poses = [random_pose(np.random.default_rng(i)) for i in range(2)]
    source, driver = (render(person, pose, CALM, 64, 1) for pose in poses)
    flowing = head_pairs._flow(person, driver, source, 1)
    cut, (seen,), (known,) = head_pairs._barred(source, [driver], [flowing], np.random.default_rng(seed))
    changed = [np.abs(a.image.astype(int) - b.image).max(2) > 0 for a, b in ((cut, source), (seen, driver))]
    rows, columns = (np.flatnonzero((changed[0] | changed[1]).any(axis)) for axis in (1, 0))
    bar = np.zeros((64, 64), bool)
    bar[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    assert 0 < bar.mean() <= 0.21
    assert not seen.mask[bar].any()
    assert np.array_equal(seen.mask[~bar], driver.mask[~bar])
    black = (seen.image[bar] == 0).all()
    still = np.stack(np.meshgrid(*[(np.arange(64) + 0.5) / 32 - 1] * 2)).astype(np.float32)
    np.testing.assert_allclose(known[:2, bar], still[:, bar], atol=1e-6)
    assert (known[2, bar] == black).all()
    x, y = ((known[:2] + 1) * 32).astype(int).clip(0, 63)
    into = bar[y, x] & ~bar
    assert not known[2, into].any()
    assert np.array_equal(known[2, ~into & ~bar], flowing[2, ~into & ~bar])


def test_low_lids():
    """The upper lids go towards the lower ones, opposite each other; nothing else moves."""
    points = default_model().project(np.zeros(50, np.float32), np.zeros(51, np.float32), FRONT).astype(np.float64)
    lowered = head_pairs._low_lids(points, 0.4)
    moved = np.flatnonzero(np.abs(lowered - points).max(1))
    assert moved.tolist() == [37, 38, 39, 45, 46, 47]
    for upper, lower in ((37, 43), (38, 42), (39, 41), (45, 51), (46, 50), (47, 49)):
        gap, before = points[lower] - lowered[upper], points[lower] - points[upper]
        np.testing.assert_allclose(gap, 0.6 * before)
        assert abs(before[0]) < 0.4 * abs(before[1])  # opposite
