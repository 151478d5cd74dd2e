"""`convert`: the official pair becomes one checked file; a hostile or foreign one becomes a one-line error."""

import os
import pickle
import sys
from dataclasses import replace
from pathlib import Path

import inverted_model
import pytest
import torch
from safetensors.torch import load_file

from fastreenact.app.cli import main
from fastreenact.errors import WeightsError
from fastreenact.models import MODELS
from fastreenact.models.convert import convert as convert_official
from fastreenact.models.face2face_rho.networks import random_face2face_rho
from fastreenact.models.face2face_rho.weights import load_face2face_rho
from fastreenact.models.protocol import Official


def convert(rendering, motion, out, **options):
    return convert_official(MODELS["face2face-rho"].official, [rendering, motion], out, **options)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Paths of a rendering and a motion checkpoint as the official repository stores them, and the networks."""
    folder = tmp_path_factory.mktemp("official")
    net = random_face2face_rho(11)
    paths = folder / "105_rendering_net.pth", folder / "105_motion_net.pth"
    torch.save(net.renderer.state_dict(), paths[0])
    torch.save(net.motion.state_dict(), paths[1])
    return *paths, net


def test_the_official_pair_becomes_one_file(pair, tmp_path):
    rendering, motion, net = pair
    out = convert(rendering, motion, tmp_path / "-a name.safetensors", size=256)
    back = load_face2face_rho(out)
    assert all(torch.equal(v, back.state_dict()[k]) for k, v in net.state_dict().items())
    assert back.metadata["size"] == "256"
    assert back.metadata["head_pose"] == "official"
    assert [p.name for p in tmp_path.iterdir()] == [out.name]
    with pytest.raises(WeightsError, match=r"exists; --force replaces it"):
        convert(rendering, motion, out)


def one_line(error):
    assert "\n" not in str(error.value)
    assert "Traceback" not in str(error.value)


def test_swapped_files_are_noticed(pair, tmp_path):
    rendering, motion, _ = pair
    out = tmp_path / "out.safetensors"
    with pytest.raises(
        WeightsError, match=r"is not the released RenderingNet: .*; RENDERING comes before MOTION"
    ) as error:
        convert(motion, rendering, out)
    one_line(error)
    assert not out.exists()


class Bomb:
    """Leaves a trace where it is unpickled."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return (os.mkdir, (str(self.trace),))


def test_a_hostile_pickle_runs_nothing(pair, tmp_path):
    path = tmp_path / "evil.pth"
    torch.save({"a": Bomb(tmp_path / "trace")}, path)
    with pytest.raises(WeightsError, match="not a checkpoint of plain tensors") as error:
        convert(path, pair[1], tmp_path / "out.safetensors")
    one_line(error)
    plain = tmp_path / "plain.pth"
    plain.write_bytes(pickle.dumps(Bomb(tmp_path / "trace")))
    with pytest.raises(WeightsError, match="not a checkpoint of plain tensors"):
        convert(pair[0], plain, tmp_path / "out.safetensors")
    assert "weights_only" not in str(error.value)  # PyTorch's advice is to switch it off
    assert sorted(p.name for p in tmp_path.iterdir()) == ["evil.pth", "plain.pth"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: {"state_dict": 3}, "not a bare state dict"),
        (lambda s: s | {"model1_3.bias": torch.zeros(3)}, r"model1_3.bias is \[3\], need \[2\]"),
        (lambda s: s | {"model1_3.bias": torch.tensor([0, float("inf")])}, "not finite"),
    ],
)
def test_foreign_checkpoints_are_refused(pair, tmp_path, change, words):
    path = tmp_path / "motion.pth"
    torch.save(change(dict(pair[2].motion.state_dict())), path)
    with pytest.raises(WeightsError, match=words) as error:
        convert(pair[0], path, tmp_path / "out.safetensors")
    one_line(error)
    assert [p.name for p in tmp_path.iterdir()] == ["motion.pth"]


def test_paths_are_checked_before_anything_is_read(pair, tmp_path):
    rendering, motion, _ = pair
    with pytest.raises(WeightsError, match=r"RENDERING: .* is not a file"):
        convert(tmp_path / "none.pth", motion, tmp_path / "o.safetensors")
    with pytest.raises(WeightsError, match=r"OUT: .* must end in .safetensors"):
        convert(rendering, motion, tmp_path / "o.pth")
    with pytest.raises(WeightsError, match=r"the folder .* does not exist"):
        convert(rendering, motion, tmp_path / "no" / "o.safetensors")


def test_metadata_is_checked(pair, tmp_path):
    with pytest.raises(WeightsError, match="size"):
        convert(pair[0], pair[1], tmp_path / "o.safetensors", size=63)


def test_the_size_is_that_of_the_released_weights(pair, tmp_path):
    assert load_face2face_rho(convert(*pair[:2], tmp_path / "o.safetensors")).metadata["size"] == "512"


@pytest.fixture
def other(monkeypatch, tmp_path):
    """Another model with checkpoints of its own, three; its converter is found by name in the other process too."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    named = tuple((name, f"the {name.lower()}'s file") for name in ("SHAPE", "POSE", "DEPTH"))
    official = Official("three_checkpoints", named, "three.safetensors", 128)
    monkeypatch.setitem(MODELS, "inverted", replace(inverted_model.MODEL, networks="Three", official=official))
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate("abc"):
        torch.save({"value": torch.full((2,), float(number))}, f"{name}.pth")


def test_another_models_checkpoints_are_converted(other, capsys):
    assert main(["convert", "--model", "inverted", "a.pth", "b.pth", "c.pth"]) == 0
    assert capsys.readouterr().out == "three.safetensors: converted\n"
    written = load_file("three.safetensors")
    assert {name: value.tolist() for name, value in written.items()} == {
        "a.pth": [0, 0],
        "b.pth": [1, 1],
        "c.pth": [2, 2],
        "size": [128],
    }
    assert "three_checkpoints" not in sys.modules  # pickle was read elsewhere
    assert main(["convert", "--model", "inverted", "a.pth", "b.pth", "c.pth", "--size", "64"]) == 1
    assert "three.safetensors exists" in capsys.readouterr().err
    assert main(["convert", "--model", "inverted", "a.pth", "b.pth"]) == 1
    assert capsys.readouterr().err == "fastreenact: error: got 2 checkpoints, need 3: SHAPE POSE DEPTH\n"
    assert main(["convert", "a.pth", "b.pth"]) == 1  # of the first model that has such
    assert "is not the released RenderingNet" in capsys.readouterr().err


def test_the_help_names_every_model_that_has_checkpoints(other, capsys):
    assert main(["convert", "--help"]) == main(["--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "face2face-rho: RENDERING MOTION; inverted: SHAPE POSE DEPTH" in shown
    assert "default: face2face_rho.safetensors or three.safetensors in this folder" in shown
    assert "official Face2Face^rho and Three checkpoints to safetensors" in shown
