"""What generated heads look like: features at their keypoints, shadows, wrinkles, surroundings."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from fastreenact.face.morphable.model import EXPRESSION_NAMES
from fastreenact.synth.heads.backdrop import background
from fastreenact.synth.heads.light import lit
from fastreenact.synth.heads.mesh import surface
from fastreenact.synth.heads.render import make_person
from fastreenact.synth.heads.scene import make_scene, photograph
from fastreenact.synth.heads.skin import draw_skin, regions, skin_uv, wrinkled
from fastreenact.synth.heads.traits import Traits


def at_keypoints(picture: torch.Tensor, points: list[int], below: float = 0.0) -> np.ndarray:
    """A picture of the skin [H, W] at keypoints, or `below` them, rad."""
    place = torch.from_numpy(skin_uv(surface().plane[points] - (0.0, below)).astype(np.float32))
    return functional.grid_sample(picture[None, None], place[None, None], align_corners=False)[0, 0, 0].numpy()


def test_features_are_drawn_where_the_keypoints_are():
    r = regions()
    outer = [53, 62, 58, 69, 71, 66]
    assert np.abs(at_keypoints(r["lips"], outer) - 0.5).max() < 0.35  # on the edge
    assert at_keypoints(r["lips"], [62, 53], below=0.05).min() > 0.9
    assert at_keypoints(r["lips"], [71, 69], below=0.05).max() < 0.1
    brows = [18, 19, 20, 23, 24, 25]
    inside, above = at_keypoints(r["brow"], brows, below=0.045), at_keypoints(r["brow"], brows, below=-0.02)
    assert inside.max() < 0.6  # of the half width
    assert above.min() > 1.0
    assert at_keypoints(r["lash"], [37, 38, 39, 45, 46, 47]).min() > 0.9


def test_what_is_before_a_lamp_casts_a_shadow():
    wall = [(-2.0, -2.0, -1.0), (2.0, -2.0, -1.0), (2.0, 2.0, -1.0), (-2.0, 2.0, -1.0)]
    before = [(-0.5, -0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.6, 0.5)]
    seen_from_front = [(0.0, 0.0, -1.0), (1.5, 0.0, -1.0), (0.0, 0.0, 0.5)]
    x = torch.tensor(wall + before + seen_from_front)
    triangles = torch.tensor([(0, 1, 2), (0, 2, 3), (4, 5, 6)], dtype=torch.int32)
    shares = lit(x, triangles, torch.tensor([0.0, 0.0, 1.0]))[7:]
    np.testing.assert_allclose(shares.numpy(), [0.0, 1.0, 1.0], atol=0.01)
    aside = torch.tensor([0.8, 0.0, 0.6])  # the shadow falls to the left
    assert lit(x, triangles, aside)[7] > 0.8


@pytest.mark.parametrize("name", ["mouthSmileLeft", "browDownRight", "browInnerUp"])
def test_expressions_wrinkle_the_skin(name):
    rng = np.random.default_rng(1)
    skin = draw_skin(Traits(rng), rng)
    calm = np.zeros(len(EXPRESSION_NAMES), np.float32)
    assert wrinkled(skin, 1.0, calm) is skin
    moved = calm.copy()
    moved[EXPRESSION_NAMES.index(name)] = 1.0
    share = (wrinkled(skin, 1.0, moved) / skin - 1).abs().mean(0)
    assert 0.05 < share.max() < 0.6
    assert (share < 0.01).float().mean() > 0.6  # most of the skin stays


def test_a_person_has_only_what_is_seen():
    look = make_person(3).look
    count = len(look.kept)
    assert np.isfinite(look.rest).all()
    for array in (look.rest, look.albedo, look.gloss, look.open, look.texture, look.tangent, look.face):
        assert len(array) == count
    for triangles in (look.triangles, look.casting):
        assert 0 <= int(triangles.min()) <= int(triangles.max()) < count
    assert (look.open > 0).all()
    assert (look.open <= 1).all()


def test_backgrounds_differ_and_reproduce():
    first = background(1, 48).clone()
    background.cache_clear()
    assert torch.equal(background(1, 48), first)
    means = [background(seed, 48).mean((0, 1)) for seed in range(12)]
    assert torch.stack(means).std(0).min() > 0.05
    big = background(3, 320)
    assert big.shape == (320, 320, 3)
    assert torch.isfinite(big).all()


def test_a_camera_keeps_its_tone_and_changes_its_noise():
    grey = np.full((64, 64, 3), 0.25, np.float32)
    seed = next(s for s in range(100) if make_scene(s).noise > 2 and not make_scene(s).vignette)
    a, b = (photograph(make_scene(seed), grey.copy(), np.random.default_rng(k)).astype(float) for k in (0, 1))
    assert np.abs(a - b).mean() > 1
    np.testing.assert_allclose(a.mean((0, 1)), b.mean((0, 1)), atol=1.5)
