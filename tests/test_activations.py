"""Ranges of activations, with random networks at a small size."""

import numpy as np
import pytest
from torch import nn

from fastreenact.evaluation.activations import clip_draw, known_ranges, leave_ranges
from fastreenact.evaluation.clips import Clip, Faces
from fastreenact.face.morphable.fit import Fit
from fastreenact.models.face2face_rho.networks import random_face2face_rho
from fastreenact.models.refined_warp.networks import random_refined_warp
from fastreenact.training.data.heads import HeadPairs

SIZE = 64


@pytest.fixture(scope="module")
def draws():
    return [HeadPairs(SIZE, people=9).draw(np.random.default_rng(seed)) for seed in range(2)]


def model(make):
    made = make()
    made.metadata |= {"size": str(SIZE), "motion_size": "64"}
    return made


@pytest.mark.parametrize("make", [random_face2face_rho, random_refined_warp])
def test_ranges(draws, make):
    known = known_ranges(model(make), draws)
    norms = [
        m for net in (known.model.motion, known.model.renderer) for m in net.modules() if isinstance(m, nn.BatchNorm2d)
    ]
    assert len(known.found) == len(norms)
    assert not any(norm._forward_pre_hooks for norm in norms)
    same = leave_ranges(known, draws)
    assert len(same) == len(norms)
    assert all(layer.share == 0 and layer.furthest <= 0 for layer in same)

    noise = np.random.default_rng(0).integers(0, 2, (SIZE, SIZE, 3), np.uint8) * np.uint8(255)
    harsh = [draw._replace(source=draw.source._replace(image=noise)) for draw in draws]
    other = leave_ranges(known, harsh)
    first = next(layer for layer in other if layer.layer == "rendering_net.en_conv_block.1")
    assert first.share > 0.01
    assert first.furthest > 0.05
    assert [layer.furthest for layer in other] == sorted((layer.furthest for layer in other), reverse=True)


def test_clip_draw():
    """A clip's keypoints are those of the engine: the portrait's as tracked, drivers' of the model, as far off."""
    faces = Faces(lambda picture: None, 128)
    shape = np.random.default_rng(0).normal(0, 0.5, 50).astype(np.float32)
    poses = np.array([(0.05, 0.1, 0, 0, 0.1, 0.45), (0, 0.3, 0.1, 0.1, 0.1, 0.5)], np.float32)
    moved = np.zeros((2, 51), np.float32)
    moved[1, 25] = 0.5
    points = [faces.model.project(shape, e, pose) for e, pose in zip(moved, poses, strict=True)]
    pictures = [np.full((128, 128, 3), level, np.uint8) for level in (90, 160)]
    clip = Clip("clip", pictures[0], shape, pictures[0], (points[0] + 1) * 64)
    clip.frames, clip.motions = [pictures[1]], [Fit(poses[1], moved[1], 0.0)]
    draw = clip_draw(clip, faces, model(random_refined_warp))
    assert draw.source.image.shape == (SIZE, SIZE, 3)
    assert (draw.drivers[0].image == 160).all()
    np.testing.assert_allclose(draw.source.keypoints, points[0], atol=1e-6)
    np.testing.assert_allclose(draw.drivers[0].keypoints, points[1], atol=0.01)
    np.testing.assert_array_equal(draw.drivers[0].pose, poses[1])
