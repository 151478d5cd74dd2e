"""Weights files: what is written comes back, and everything else is refused with a message that says what to do."""

import hashlib
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

from fastreenact import weights
from fastreenact.errors import WeightsError
from fastreenact.models import shipped_weights
from fastreenact.models.face2face_rho import weights as rho_weights
from fastreenact.models.face2face_rho.networks import random_face2face_rho
from fastreenact.models.face2face_rho.weights import expected_tensors, load_face2face_rho, save_face2face_rho
from fastreenact.models.refined_warp.weights import load_refined_warp
from fastreenact.weights import FORMAT

METADATA = {"format": FORMAT, "model": "face2face-rho", "size": "512", "head_pose": "official"}


@pytest.fixture(scope="module")
def net():
    return random_face2face_rho(5)


@pytest.fixture(scope="module")
def tensors(net):
    return {k: v.half() for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")}


def test_float32_comes_back_bit_for_bit(net, tmp_path):
    back = load_face2face_rho(save_face2face_rho(net, tmp_path / "w.safetensors"))
    assert all(torch.equal(v, back.state_dict()[k]) for k, v in net.state_dict().items())
    assert back.metadata == {"format": FORMAT} | net.metadata
    assert not back.motion.training
    assert not any(p.requires_grad for p in back.renderer.parameters())
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


def test_float16_storage_is_cast_on_load(net, tmp_path):
    path = save_face2face_rho(net, tmp_path / "w.safetensors", torch.float16)
    assert path.stat().st_size < 24e6
    back = load_face2face_rho(path).state_dict()
    for name, value in net.state_dict().items():
        assert back[name].dtype == value.dtype
        torch.testing.assert_close(back[name], value, rtol=1e-3, atol=1e-6)


def test_statistics_beyond_half_precision_are_kept(tmp_path):
    net = random_face2face_rho(2)
    with torch.no_grad():
        net.renderer.en_conv_block[1].running_var[3] = 3e5
    back = load_face2face_rho(save_face2face_rho(net, tmp_path / "w.safetensors", torch.float16))
    assert back.renderer.en_conv_block[1].running_var[3] == 3e5


def test_extra_metadata_is_kept(tmp_path):
    net = random_face2face_rho(0)
    net.metadata |= {"motion_size": "256", "licence": "Apache-2.0"}
    back = load_face2face_rho(save_face2face_rho(net, tmp_path / "w.safetensors", torch.float16))
    assert back.metadata["motion_size"] == "256"
    assert back.metadata["licence"] == "Apache-2.0"


class Bomb:
    """Leaves a trace where it is unpickled."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return (open, (str(self.trace), "w"))


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".pkl", ".ckpt", ".bin", ".PTH"])
def test_pickles_are_refused_unopened(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(pickle.dumps(Bomb(tmp_path / "trace")))
    with pytest.raises(WeightsError, match=r"fastreenact convert RENDERING.pth MOTION.pth"):
        load_face2face_rho(path)
    assert not (tmp_path / "trace").exists()


def test_a_pickle_under_another_name_is_not_unpickled(tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(pickle.dumps(Bomb(tmp_path / "trace")))
    with pytest.raises(WeightsError, match="not a readable safetensors file"):
        load_face2face_rho(path)
    assert not (tmp_path / "trace").exists()


def test_missing_and_foreign_files(tmp_path):
    with pytest.raises(WeightsError, match=r"is not a file: give a .safetensors file"):
        load_face2face_rho(tmp_path / "none.safetensors")
    with pytest.raises(WeightsError, match=r"is not a file"):
        load_face2face_rho(tmp_path)
    big = tmp_path / "big.safetensors"
    with big.open("wb") as file:
        file.truncate(rho_weights._MOST_BYTES + 1)
    with pytest.raises(WeightsError, match="more than Face2Face\\^rho weights can have"):
        load_face2face_rho(big)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "other"}, "format is 'other'"),
        ({"model": "thin-plate"}, "for the model 'thin-plate'"),
        ({"head_pose": "degrees"}, "head_pose must be one of official, standardised, got 'degrees'"),
        ({"head_pose": "standardised"}, "metadata has no head_pose_mean"),
        ({"size": "big"}, "size or motion_size"),
        ({"size": "32"}, "64 to 2048"),
        ({"motion_size": "100"}, "multiple of 64"),
    ],
)
def test_metadata_of_another_kind_is_refused(tensors, tmp_path, change, words):
    save_file(tensors, tmp_path / "w.safetensors", METADATA | change)
    with pytest.raises(WeightsError, match=words):
        load_face2face_rho(tmp_path / "w.safetensors")


def _without(t):
    del t["motion_net.model1_3.bias"]


def _with_more(t):
    t["../../etc/passwd"] = torch.zeros(1)


def _reshaped(t):
    t["motion_net.model1_3.bias"] = torch.zeros(3).half()


def _integers(t):
    t["motion_net.model1_3.bias"] = torch.zeros(2, dtype=torch.int32)


def _not_finite(t):
    t["motion_net.model1_3.bias"] = torch.tensor([0, float("nan")]).half()


def _negative_variance(t):
    t["motion_net.f1_model.1.running_var"] = -torch.ones(64).half()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_without, "1 tensors missing, 0 too many .motion_net.model1_3.bias is missing"),
        (_with_more, "0 tensors missing, 1 too many .../../etc/passwd does not belong"),
        (_reshaped, r"model1_3.bias is F16 \[3\], need F32 or F16 \[2\]"),
        (_integers, r"model1_3.bias is I32 \[2\]"),
        (_not_finite, "model1_3.bias has values that are not finite"),
        (_negative_variance, "running_var has negative variances"),
    ],
)
def test_damaged_tensors_are_refused(tensors, tmp_path, change, words):
    mine = dict(tensors)
    change(mine)
    save_file(mine, tmp_path / "w.safetensors", METADATA)
    with pytest.raises(WeightsError, match=words):
        load_face2face_rho(tmp_path / "w.safetensors")


def test_saving_is_whole_or_not_at_all(tmp_path):
    net = random_face2face_rho(6)
    path = tmp_path / "w.safetensors"
    with torch.no_grad():
        net.motion.model1_3.weight[0, 0, 0, 0] = 1e6
    with pytest.raises(WeightsError, match="not finite"):
        save_face2face_rho(net, path, torch.float16)
    net.metadata["head_pose"] = "none"
    with pytest.raises(WeightsError, match="head_pose must be one of official, standardised, got 'none'"):
        save_face2face_rho(net, path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="float32 or float16"):
        save_face2face_rho(net, path, torch.bfloat16)
    with pytest.raises(ValueError, match=r"must end in .safetensors"):
        save_face2face_rho(net, tmp_path / "w.bin")


def test_expected_tensors_are_the_released_ones():
    expected = expected_tensors()
    sizes = {"rendering_net": 0, "motion_net": 0}
    for name, shape in expected.items():
        if not name.endswith(("running_mean", "running_var")):
            sizes[name.split(".")[0]] += int(torch.tensor(shape).prod())
    assert sizes == {"rendering_net": 4533456, "motion_net": 6781302}  # specs 6.2


def test_shipped_weights_load():
    path = shipped_weights()
    assert path.stat().st_size < 25e6
    model = load_refined_warp(path)
    assert model.metadata["model"] == "refined-warp"
    assert "base" not in model.metadata
    assert model.metadata["licence"] == "Apache-2.0"


def test_shipped_weights_are_checked_by_hash(tmp_path, monkeypatch):
    data = tmp_path / "data"
    data.mkdir()
    monkeypatch.setattr(weights, "__file__", str(tmp_path / "weights.py"))
    ours = "w.safetensors", hashlib.sha256(b"good").hexdigest()
    with pytest.raises(WeightsError, match="is missing: install the package again"):
        weights.shipped(*ours)
    (data / ours[0]).write_bytes(b"good")
    assert weights.shipped(*ours) == data / ours[0]
    (data / ours[0]).write_bytes(b"goof")
    with pytest.raises(WeightsError, match="is damaged"):
        weights.shipped(*ours)


def test_stored_file_has_no_counters(tmp_path, net):
    names = load_file(save_face2face_rho(net, tmp_path / "w.safetensors", torch.float16)).keys()
    assert set(names) == set(expected_tensors())
