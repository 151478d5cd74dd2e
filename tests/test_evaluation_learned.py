"""LPIPS, FID and CSIM: with weights from a formula, against numbers that the packages' own networks gave with them."""

import zlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from fastreenact.errors import WeightsError
from fastreenact.evaluation import learned
from fastreenact.evaluation.arcface import ArcFace, aligned
from fastreenact.evaluation.inception import Inception, _average
from fastreenact.evaluation.learned import Learned, load_learned
from fastreenact.evaluation.lpips import Lpips
from fastreenact.evaluation.metrics import frechet
from fastreenact.face.keypoints import PARTS


def formula(state: dict[str, torch.Tensor], gain: float = 6.0) -> dict[str, torch.Tensor]:
    """Weights that anybody can draw again, scaled so that nothing dies out or explodes."""
    found = {}
    for name, value in state.items():
        if name.endswith("num_batches_tracked"):
            found[name] = value
            continue
        noise = np.random.default_rng(zlib.crc32(name.encode())).random(tuple(value.shape), np.float32) * 2 - 1
        if value.ndim > 1:
            noise *= (gain / value[0].numel()) ** 0.5
        elif name.endswith(("running_var", "bn.weight", "prelu.weight")) or (".bn" in name and "weight" in name):
            noise = 1 + np.float32(0.2) * noise
        else:
            noise *= np.float32(0.1)
        found[name] = torch.from_numpy(noise)
    return found


def picture(height: int, width: int, phase: float = 0.0) -> torch.Tensor:
    """[1, 3, height, width] in [-1, 1]."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([torch.sin(0.11 * x + 0.07 * c * y + phase + c) for c in range(3)])[None].float()


def filled(module: torch.nn.Module, gain: float = 6.0) -> torch.nn.Module:
    module.load_state_dict(formula(module.state_dict(), gain))
    return module.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def lpips() -> Lpips:
    module = Lpips().eval().requires_grad_(False)
    state = formula(module.state_dict())
    module.load_state_dict({name: v.abs() if name.startswith("lin") else v for name, v in state.items()})
    return module


@pytest.fixture(scope="module")
def arcface() -> ArcFace:
    return filled(ArcFace(), 3.0)


# Each made once with the other implementation, weights and pictures as here: lpips 0.1.4, pytorch-fid 0.3.0 on
# torchvision 0.28, and the IResNet-50 as insightface describes it.
def test_lpips_as_the_package(lpips):
    assert float(lpips(picture(64, 70), picture(64, 70, 0.5))) == pytest.approx(0.0475185, rel=1e-4)


def test_inception_as_pytorch_fid():
    found = filled(Inception())(picture(90, 70))
    assert found.shape == (1, 2048)
    assert float(found.mean()) == pytest.approx(0.5644625, rel=1e-4)
    assert float(found.std()) == pytest.approx(0.7404948, rel=1e-4)
    np.testing.assert_allclose(
        found[0, [0, 400, 1000, 1700, 2047]], [0.863564, 0.840328, 0.062278, 0.0, 0.032841], rtol=1e-3, atol=1e-3
    )


def test_arcface_as_insightface(arcface):
    found = arcface(picture(112, 112))
    assert found.shape == (1, 512)
    assert float(found.std()) == pytest.approx(0.6414909, rel=1e-3)
    np.testing.assert_allclose(
        found[0, [0, 100, 300, 511]], [0.115321, 0.098414, 0.488757, -0.111319], rtol=1e-3, atol=1e-3
    )


def test_parameter_counts():
    """As published: 23.83 M less the 2.05 M of Inception's last layer; 43.59 M; AlexNet's 2.47 M and 1,152."""
    for module, count in ((Inception(), 21_785_568), (ArcFace(), 43_590_848), (Lpips(), 2_469_696 + 1_152)):
        assert sum(p.numel() for p in module.parameters()) == count


def test_lpips_straightforward(lpips):
    """The formula written out in float64."""
    w = {name: value.double() for name, value in lpips.state_dict().items()}
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])

    def taps(x):
        x = F.relu(F.conv2d(x, w["net.slice1.0.weight"], w["net.slice1.0.bias"], stride=4, padding=2))
        yield x
        for name, padding, pool in (("2.3", 2, True), ("3.6", 1, True), ("4.8", 1, False), ("5.10", 1, False)):
            x = F.max_pool2d(x, 3, 2) if pool else x
            x = F.relu(F.conv2d(x, w[f"net.slice{name}.weight"], w[f"net.slice{name}.bias"], padding=padding))
            yield x

    a, b = (((picture(41, 60, p) - shift[:, None, None]) / scale[:, None, None]).double() for p in (0.0, 0.7))
    total = 0.0
    for i, (f, g) in enumerate(zip(taps(a), taps(b), strict=True)):
        square = (F.normalize(f, eps=1e-10) - F.normalize(g, eps=1e-10)) ** 2
        total += float((square * w[f"lin{i}.model.1.weight"][0][None]).sum(1).mean())
    assert float(lpips(picture(41, 60), picture(41, 60, 0.7))) == pytest.approx(total, rel=1e-4)
    assert float(lpips(picture(41, 60), picture(41, 60))) == 0


def test_inception_does_not_average_the_padding():
    assert torch.equal(_average(torch.ones(1, 2, 5, 4)), torch.ones(1, 2, 5, 4))


def exact(count: int, mean: np.ndarray, deviation: np.ndarray, seed: int) -> np.ndarray:
    """[count, D] whose sample mean and covariance are exactly `mean` and diag(deviation^2)."""
    x = np.random.default_rng(seed).normal(size=(count, len(mean)))
    q = np.linalg.qr(x - x.mean(0))[0]
    return q * np.sqrt(count - 1) * deviation + mean


@pytest.mark.parametrize(("n", "m"), [(9, 9), (9, 40), (300, 17)])
def test_frechet_of_known_gaussians(n, m):
    a, b = (np.arange(1.0, 6.0) * k for k in (0.5, 0.2))
    got, wanted = exact(n, a, a, 1), exact(m, b, b[::-1], 2)
    assert frechet(got, wanted) == pytest.approx(((a - b) ** 2).sum() + ((a - b[::-1]) ** 2).sum())
    assert frechet(got, got) == pytest.approx(0, abs=1e-9)
    # Turned, the covariances no longer commute; the distance of both turned alike stays.
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(5, 5)))[0]
    assert frechet(got @ turn, wanted @ turn) == pytest.approx(frechet(got, wanted))
    s, t = np.cov(got @ turn, rowvar=False), np.cov(wanted, rowvar=False)
    values, vectors = np.linalg.eigh(s)
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    middle = np.sqrt(np.linalg.eigvalsh(root @ t @ root).clip(0)).sum()
    apart = (got @ turn).mean(0) - wanted.mean(0)
    expected = apart @ apart + np.trace(s) + np.trace(t) - 2 * middle
    assert frechet(got @ turn, wanted) == pytest.approx(expected)


def test_frechet_of_few_pictures():
    """Fewer than dimensions: the covariances have no full rank."""
    x = np.random.default_rng(0).normal(size=(6, 50))
    assert frechet(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet(x + 2, x) == pytest.approx(200)
    with pytest.raises(ValueError, match=r"got: got shape \(1, 50\), need \[2 or more, D\]"):
        frechet(x[:1], x)
    with pytest.raises(ValueError, match=r"wanted: got shape \(6, 9\)"):
        frechet(x, x[:, :9])


def a_face(turn: float = 0.3, scale: float = 1.7, x: float = 40.0, y: float = 25.0) -> np.ndarray:
    """Keypoints [72, 2] whose eyes, nose and mouth lie as ArcFace wants them, but turned, scaled and moved."""
    eyes, mouth = [(38.2946, 51.6963), (73.5318, 51.5014)], [(41.5493, 92.3655), (70.7299, 92.2041)]
    places = np.array([*eyes, (56.0252, 71.7366), *mouth]) + 0.5  # published for pixels whose centres are whole
    spin = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    seen = places @ spin.T + (x, y)
    points = np.zeros((72, 2), np.float32)
    points[list(PARTS["left_eye"])], points[list(PARTS["right_eye"])] = seen[0], seen[1]
    points[[30, 52, 57]] = seen[2:]
    return points


def test_aligned():
    """A picture whose colours say where they are, looked at through the similarity that made the keypoints."""
    y, x = np.mgrid[:250, :250] + 0.5
    place = np.stack([x, y, np.zeros_like(x)], -1).astype(np.uint8)
    found = aligned(place, a_face()).astype(float)
    spin = 1.7 * np.array([[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]])
    v, u = np.mgrid[:112, :112] + 0.5
    wanted = np.stack([u, v], -1) @ spin.T + (40, 25)
    inside = ((wanted > 1) & (wanted < 249)).all(-1)
    assert inside.mean() > 0.7
    assert np.abs(found[..., :2] - (wanted - 0.5))[inside].max() < 1.01  # levels are whole numbers
    assert not found[((wanted < -1) | (wanted > 251)).any(-1)].any()


def test_identity(arcface):
    networks = Learned(arcface=arcface)
    pixels = np.random.default_rng(0).integers(0, 256, (240, 240, 3)).astype(np.uint8)
    points = a_face(scale=1.2, x=20, y=20)
    mine = networks.identity(pixels, points)
    assert np.linalg.norm(mine) == pytest.approx(1)
    assert networks.likeness(pixels, points, mine) == pytest.approx(1)
    moved = np.roll(pixels, (7, 5), (0, 1))
    assert networks.likeness(moved, points + np.float32([5, 7]), mine) == pytest.approx(1, abs=1e-3)
    assert networks.likeness(255 - pixels, points, mine) < 0.99
    assert np.isnan(networks.likeness(pixels, None, mine))
    assert networks.compare(pixels, pixels) == {}
    assert networks.features(pixels) is None
    assert Learned().identity(pixels, points) is None


def test_load(lpips, tmp_path):
    path = tmp_path / "alex.safetensors"
    state = {name: value.clone() for name, value in lpips.state_dict().items()}
    save_file(state | {"scaling_layer.shift": torch.zeros(1, 3, 1, 1)}, path)
    networks = load_learned(lpips=path)
    a, b = (np.asarray((picture(64, 64, p)[0].permute(1, 2, 0) + 1) * 127.5).astype(np.uint8) for p in (0.0, 0.5))
    assert networks.compare(a, a) == {"lpips": 0}
    wanted = float(lpips(picture(64, 64), picture(64, 64, 0.5)))
    assert networks.compare(a, b)["lpips"] == pytest.approx(wanted, rel=0.02)
    with pytest.raises(WeightsError, match=r"is not Inception-v3 for FID: Conv2d_1a_3x3\.conv\.weight of shape"):
        load_learned(fid=path)
    del state["lin3.model.1.weight"]
    save_file(state, path)
    with pytest.raises(WeightsError, match=r"is not LPIPS with AlexNet: lin3\.model\.1\.weight of"):
        load_learned(lpips=path)
    path.write_bytes(b"no safetensors")
    with pytest.raises(WeightsError, match="not a readable safetensors file"):
        load_learned(csim=path)
    with pytest.raises(WeightsError, match=r"alex\.pth is not a \.safetensors file: docs/evaluation\.md"):
        load_learned(lpips=tmp_path / "alex.pth")


class FewFeatures(torch.nn.Module):
    """Stands for Inception: the mean colours."""

    def forward(self, x):
        return x.mean((2, 3))


class Colours(torch.nn.Module):
    """Stands for ArcFace: the picture itself, coarsely."""

    def forward(self, x):
        return F.avg_pool2d(x, 16).flatten(1)


def test_in_an_evaluation(lpips, tmp_path, monkeypatch):
    pytest.importorskip("av", reason="PyAV is not installed")
    from fastreenact.evaluation import run

    monkeypatch.setattr(run, "load_learned", lambda *paths: Learned(lpips, FewFeatures(), Colours()))
    monkeypatch.setattr(run.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(run, "_STEADY_FRAMES", 3)
    monkeypatch.setattr(run, "_SIZE_HEADS", 1)
    result = run.evaluate([], tmp_path, heads=2, model="landmark-warp", size=64, device="cpu")
    still, moved = (
        next(r.metrics for r in result.rows if r.method == method) for method in ("source unchanged", "landmark-warp")
    )
    assert 0 < moved["lpips"] < still["lpips"]
    assert -1 <= moved["csim"] < 1
    assert moved["fid"] >= 0
    assert "| LPIPS | FID | CSIM |" in result.text


def test_tensor():
    levels = np.arange(256, dtype=np.uint8)[:, None, None] * np.ones((1, 1, 3), np.uint8)
    found = learned._tensor(levels)
    assert found.shape == (1, 3, 256, 1)
    assert (float(found.min()), float(found.max())) == (-1, 1)
