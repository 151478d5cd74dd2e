"""The table of models: names, weights and which model they are of, and the contract's forms at their own sizes."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from contract_case import CPU, ByHand
from face2face_rho_case import face, model, picture

import fastreenact
from fastreenact.errors import WeightsError
from fastreenact.face.crop import Box
from fastreenact.face.morphable.model import default_model
from fastreenact.models import DEFAULT, MODELS, choose, shipped_weights
from fastreenact.models.face2face_rho.weights import save_face2face_rho
from fastreenact.models.refined_warp.networks import random_refined_warp
from fastreenact.models.refined_warp.weights import save_refined_warp
from fastreenact.training.schedule import TrainConfig
from fastreenact.training.targets import TARGETS

FLOAT = torch.float32


def test_names():
    assert list(MODELS) == ["refined-warp", "face2face-rho", "landmark-warp"]
    assert DEFAULT is MODELS["refined-warp"]
    with pytest.raises(ValueError, match="model is 'other'; there are refined-warp, face2face-rho, landmark-warp"):
        choose("other", None)


def test_the_table_imports_nothing_heavy():
    code = (
        "import sys; from fastreenact.models import MODELS; "
        "[(model.summary, model.official, model.target) for model in MODELS.values()]; "
        "print(sorted({'numpy', 'torch', 'triton', 'fastreenact._C'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("where", ["engine.py", "renderer.py", "weights.py", "app/animate.py", "app/cli/*.py"])
def test_who_serves_all_models_knows_none_by_name(where):
    names = {*MODELS, *(model.home.split(".")[2] for model in MODELS.values()), "refined warp", "RefinedWarp"}
    files = sorted(Path(fastreenact.__file__).parent.glob(where))
    assert files
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert not [name for name in names if name in text], file


def test_what_can_be_trained_is_said_once():
    assert (
        [name for name, model in MODELS.items() if model.target] == list(TARGETS) == ["refined-warp", "face2face-rho"]
    )
    for name, target in TARGETS.items():
        assert target.model == name
        assert MODELS[name].networks == "Face2Face^rho"
    assert [TrainConfig(base=base).model for base in (True, False)] == list(TARGETS)


def test_weights_say_which_model_they_are_of(tmp_path):
    published, refined = model(), random_refined_warp()
    files = [save_face2face_rho(published, tmp_path / "p.safetensors")]
    files.append(save_refined_warp(refined, tmp_path / "r.safetensors"))
    for name, all_of in (
        ("face2face-rho", (published, files[0])),
        ("refined-warp", (refined, files[1], str(shipped_weights()))),
    ):
        for weights in all_of:
            assert choose(None, weights).model.name == choose(name, weights).model.name == name
            other = "refined-warp" if name == "face2face-rho" else "face2face-rho"
            with pytest.raises(WeightsError, match=f"of the model {name}, not of {other}: leave model out"):
                choose(other, weights)
    assert choose(None, None).model is DEFAULT
    assert choose("landmark-warp", None).weights is None
    with pytest.raises(WeightsError, match="model face2face-rho needs weights, and none were given: make them of"):
        choose("face2face-rho", None)
    with pytest.raises(ValueError, match="weights were given, but the landmark warp has none"):
        choose("landmark-warp", published)
    with pytest.raises(WeightsError, match="these weights are for the model None; there are"):
        choose(None, object())


def test_weights_come_from_a_file_or_a_model(tmp_path):
    net = model(size="96")
    loaded = ByHand("face2face-rho", None, net, FLOAT)
    assert loaded.renderer.side == 96
    read = ByHand(
        "face2face-rho", None, choose(None, save_face2face_rho(net, tmp_path / "w.safetensors")).weights, FLOAT
    )
    frames = [m.drive(m.encode(picture(96), *face("source")), *face("driver")) for m in (loaded, read)]
    assert torch.equal(*frames)
    assert ByHand("face2face-rho", 64, net, FLOAT).renderer.side == 64


def test_square_landmark_warp_takes_the_picture_as_its_box():
    warp = ByHand("landmark-warp", 128, None, FLOAT)
    assert warp.renderer.side == 128
    pose = np.array([0, 0, 0, 0, 0, 0.4], np.float32)
    faces = default_model()
    points = faces.project(np.zeros(50), np.zeros(51), pose)
    own = warp.drive(warp.encode(picture(128), points, pose), points, pose)
    given = warp.drive(warp.encode(picture(128), points, pose, Box(64, 64, 128)), points, pose)
    assert torch.equal(own, given)
    assert own.shape == (128, 128, 3)


def test_landmark_warp_of_a_whole_picture():
    warp = ByHand("landmark-warp", None, None, FLOAT)
    assert warp.renderer.side is None
    pose = np.array([0, 0, 0, 0, 0, 0.4], np.float32)
    points = default_model().project(np.zeros(50), np.zeros(51), pose)
    whole = np.ascontiguousarray(picture(128)[:90, :120])
    assert warp.drive(warp.encode(whole, points, pose, Box(60, 45, 80)), points, pose).shape == (90, 120, 3)


@pytest.mark.parametrize("name", ["refined-warp", "face2face-rho"])
def test_weights_of_another_model_are_refused_by_the_form(name):
    with pytest.raises(TypeError, match="weights are NoneType, need those of"):
        MODELS[name].loader.form(None, None, FLOAT, CPU, 1, False)
