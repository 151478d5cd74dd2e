"""`make_renderer`: both models by name, at their own sizes, with the interface that the engine relies on."""

import numpy as np
import pytest
import torch
from face2face_rho_case import face, model, picture

from fastreenact.face.crop import Box
from fastreenact.face.morphable.model import default_model
from fastreenact.models import MODELS, make_renderer
from fastreenact.weights import save_face2face_rho

FLOAT = torch.float32


def test_names():
    assert list(MODELS) == ["face2face-rho", "landmark-warp"]
    with pytest.raises(ValueError, match="model is 'other'; there are face2face-rho, landmark-warp"):
        make_renderer("other", None, None, FLOAT, "cpu")


def test_weights_come_from_a_file_or_a_model(tmp_path):
    net = model(size="96")
    loaded = make_renderer("face2face-rho", None, net, FLOAT, "cpu")
    assert loaded.size == 96
    read = make_renderer("face2face-rho", None, save_face2face_rho(net, tmp_path / "w.safetensors"), FLOAT, "cpu")
    frames = [m.drive(m.encode(picture(96), *face("source")), *face("driver")) for m in (loaded, read)]
    assert torch.equal(*frames)
    assert make_renderer("face2face-rho", 64, net, FLOAT, "cpu").size == 64


def test_square_landmark_warp_takes_the_picture_as_its_box():
    warp = make_renderer("landmark-warp", 128, None, FLOAT, "cpu")
    assert warp.size == 128
    pose = np.array([0, 0, 0, 0, 0, 0.4], np.float32)
    faces = default_model()
    points = faces.project(np.zeros(50), np.zeros(51), pose)
    own = warp.drive(warp.encode(picture(128), points, pose), points, pose)
    given = warp.drive(warp.encode(picture(128), points, pose, Box(64, 64, 128)), points, pose)
    assert torch.equal(own, given)
    assert own.shape == (128, 128, 3)


def test_landmark_warp_of_a_whole_picture():
    assert make_renderer("landmark-warp", (90, 120), None, FLOAT, "cpu").width == 120
    assert make_renderer("landmark-warp", None, None, FLOAT, "cpu").size == 512
    with pytest.raises(ValueError, match="the landmark warp has no weights"):
        make_renderer("landmark-warp", 64, model(), FLOAT, "cpu")
