"""`evaluate`, with faces drawn so that a tracker of a few lines finds their keypoints by colour."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("av", reason="PyAV is not installed")

from clips import make_clip

from fastreenact.app.cli import main
from fastreenact.errors import MediaError, NoFaceError
from fastreenact.evaluation import clips as clips_module
from fastreenact.evaluation import metrics, run
from fastreenact.evaluation.clips import Faces, read_clip
from fastreenact.evaluation.learned import Learned
from fastreenact.evaluation.report import Row, means, table
from fastreenact.face.morphable.model import default_model
from fastreenact.face.track.tracker import Landmarks
from fastreenact.media import read_image, write_image
from fastreenact.models.face2face_rho.networks import random_face2face_rho

SIZE = 64
POINTS = default_model().project(np.zeros(50), np.zeros(51), np.array([0, 0, 0, 0, 0.05, 0.42]))  # [72, 2] in -1..1
DRIVERS = [(0, 0, 0), (2, 0, 4), (4, -1, 8), (6, -2, 12), (8, -3, 16), (10, -4, 20)]  # x, y px, roll degrees


def face(x: float, y: float, roll: float, side: int = 120) -> np.ndarray:
    """A picture whose red and green say which place of the face a pixel shows; blue says that there is one."""
    py, px = np.mgrid[:side, :side] + 0.5
    angle = math.radians(roll)
    dx, dy = (px - side / 2 - x) / (side / 2), (py - side / 2 - y) / (side / 2)
    u, v = dx * math.cos(angle) - dy * math.sin(angle), dx * math.sin(angle) + dy * math.cos(angle)
    places = [np.clip(128 + 120 * place, 0, 255) for place in (u, v)]
    return np.stack([*places, np.full_like(u, 200)], axis=-1).round().astype(np.uint8)


class ColourTracker:
    """Finds each keypoint where its colour is; a picture without blue shows no face."""

    def __call__(self, picture: np.ndarray) -> Landmarks | None:
        if picture[..., 2].mean() < 100:
            return None
        y, x = np.mgrid[: picture.shape[0], : picture.shape[1]] + 0.5
        points = []
        for u, v in POINTS:
            away = (picture[..., 0] - (128 + 120 * u)) ** 2 + (picture[..., 1] - (128 + 120 * v)) ** 2
            weight = np.exp(-(away - away.min()) / 20)
            points.append([(weight * x).sum() / weight.sum(), (weight * y).sum() / weight.sum()])
        return Landmarks(np.array(points, np.float32), 1.0)

    def __enter__(self) -> "ColourTracker":
        return self

    def __exit__(self, *_: object) -> None:
        return None


def lossless(path: Path, frames: list[np.ndarray]) -> Path:
    return make_clip(path, pts=list(range(len(frames))), frames=frames, codec="ffv1", pixels="bgr0")


@pytest.fixture
def clip(tmp_path):
    return lossless(tmp_path / "turns.mkv", [face(*driver) for driver in DRIVERS])


def evaluate(clips, out, **options):
    settings = {"model": "landmark-warp", "size": SIZE, "every": 1, "tracker": ColourTracker(), "device": "cpu"}
    return run.evaluate(clips, out, **(settings | options))


def find(result, **wanted):
    """The one row with these fields."""
    rows = [row for row in result.rows if all(getattr(row, name) == value for name, value in wanted.items())]
    assert len(rows) == 1
    return rows[0]


def test_self_reenactment(clip, tmp_path):
    out = tmp_path / "out" / "folder"
    result = evaluate([clip], out)
    assert result.model == "landmark-warp"
    assert result.skipped == []
    still, moved, noise = (
        find(result, method=name, part="all")
        for name in ("source unchanged", "landmark-warp", "true image, tracked again")
    )
    assert (still.frames, still.lost, moved.lost) == (5, 0, 0)
    assert noise.metrics["akd_px"] < 0.1
    assert moved.metrics["akd_px"] < 0.2
    assert still.metrics["akd_px"] > 2
    assert "psnr_db" not in noise.metrics
    # The head only rolls, 12 degrees on average: one of three angles.
    assert still.metrics["geodesic_deg"] == pytest.approx(12, abs=0.5)
    assert still.metrics["ard_deg"] == pytest.approx(4, abs=0.3)
    assert max(noise.metrics["ard_deg"], moved.metrics["ard_deg"]) < 0.7
    assert noise.metrics["expression_percent"] < 0.5
    for name in ("psnr_face_db", "ssim_face"):
        assert moved.metrics[name] > still.metrics[name]
    large = find(result, method="source unchanged", part="largest motion")
    assert large.frames == 2
    assert large.metrics["geodesic_deg"] == pytest.approx(18, abs=0.7)


def test_self_reenactment_pixels_are_of_the_true_frames(clip, tmp_path):
    result = evaluate([clip], tmp_path / "out")
    truth = read_clip(clip, "turns", Faces(ColourTracker(), SIZE), 1)
    expected = np.mean([metrics.psnr(truth.still, frame) for frame in truth.frames])
    assert find(result, method="source unchanged", part="all").metrics["psnr_db"] == pytest.approx(expected)
    found = np.asarray(truth.keypoints) - [ColourTracker()(frame).points for frame in truth.frames]
    assert np.abs(found).max() < 1e-5
    again = np.asarray(truth.again) - truth.keypoints  # the pixel that the second cut is aside is taken out again
    assert np.abs(again.mean(axis=(0, 1))).max() < 0.05


def test_files(clip, tmp_path):
    out = tmp_path / "out"
    result = evaluate([clip], out)
    assert sorted(path.name for path in out.iterdir()) == ["evaluation.json", "evaluation.md", "turns.png"]
    data = json.loads((out / "evaluation.json").read_text())
    assert data["rows"] == [vars(row) for row in result.rows]
    assert (data["model"], data["size"], data["every"]) == ("landmark-warp", SIZE, 1)
    text = (out / "evaluation.md").read_text()
    assert text == result.text
    assert "| turns | landmark-warp | " in text
    assert "## Self-reenactment, the quarter of frames with the largest motion" in text
    assert read_image(out / "turns.png").shape == (3 * SIZE, 5 * SIZE, 3)
    with pytest.raises(MediaError, match=r"evaluation.md exists already"):
        evaluate([clip], out)
    evaluate([clip], out, force=True)
    for name in ("evaluation.json", "evaluation.md"):
        (out / name).unlink()
    with pytest.raises(MediaError, match=r"turns.png exists already"):  # said before anything is rendered
        evaluate([clip], out)


def test_cross_reenactment(clip, tmp_path):
    write_image(tmp_path / "other.png", face(5, 5, -6, 150))
    write_image(tmp_path / "empty.png", np.zeros((40, 40, 3), np.uint8))
    result = evaluate([clip], tmp_path / "out", cross=[tmp_path / "other.png", tmp_path / "empty.png"])
    still, moved = (
        find(result, portrait="other", part="all", method=name) for name in ("source unchanged", "landmark-warp")
    )
    assert set(still.metrics) == {"ard_deg", "geodesic_deg", "expression_percent"}
    assert still.metrics["geodesic_deg"] == pytest.approx(18, abs=1)
    assert moved.metrics["geodesic_deg"] < 2.5
    assert find(result, portrait="other", part="all", method="true image, tracked again").metrics["ard_deg"] < 0.3
    assert len(result.skipped) == 1
    assert result.skipped[0].startswith("empty.png: no face found")
    assert (tmp_path / "out" / "turns--other.png").is_file()
    assert "## Cross-reenactment, all frames" in result.text
    assert "* empty.png: no face found" in result.text


def test_frames_without_a_face_are_left_out(tmp_path):
    black = np.zeros((120, 120, 3), np.uint8)
    path = lossless(tmp_path / "gaps.mkv", [black, face(0, 0, 0), black, face(3, 0, 0), face(6, 0, 0)])
    result = evaluate([path], tmp_path / "out")
    assert find(result, method="source unchanged", part="all").frames == 2
    assert result.faceless == {"gaps": 2}
    assert "* gaps: 2 frames without a face left out" in result.text
    with pytest.raises(NoFaceError, match=r"gaps\.mkv: fewer than two frames with a face, taking one frame in 3"):
        read_clip(path, "gaps", Faces(ColourTracker(), SIZE), 3)


def test_long_clips_are_cut(clip, tmp_path, monkeypatch):
    monkeypatch.setattr(clips_module, "MAX_FRAMES", 3)
    result = evaluate([clip], tmp_path / "out")
    assert find(result, method="landmark-warp", part="all").frames == 3
    assert result.skipped == ["turns.mkv: the first 3 drivers only, the rest is left out"]


def test_bad_clips_are_skipped_and_listed(clip, tmp_path):
    black = lossless(tmp_path / "black.mkv", [np.zeros((64, 64, 3), np.uint8)] * 3)
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    bad = [tmp_path / "missing.mp4", black, tmp_path / "broken.mp4"]
    result = evaluate([*bad, clip], tmp_path / "out")
    assert {row.clip for row in result.rows} == {"turns"}
    assert [line.split(":")[0].split(" ")[0] for line in result.skipped] == ["missing.mp4", "black.mkv", "broken.mp4"]
    with pytest.raises(MediaError, match="none of the clips can be evaluated: missing"):
        evaluate(bad, tmp_path / "out2")
    assert list((tmp_path / "out2").iterdir()) == []


def test_two_clips_of_one_name_get_means(clip, tmp_path):
    (tmp_path / "b").mkdir()
    other = lossless(tmp_path / "b" / "turns.mkv", [face(*driver) for driver in DRIVERS[:3]])
    result = evaluate([clip, other], tmp_path / "out")
    first, second = (find(result, clip=name, method="landmark-warp", part="all") for name in ("turns", "turns-2"))
    expected = (first.metrics["akd_px"] + second.metrics["akd_px"]) / 2
    mean = means([first, second])
    assert len(mean) == 1
    assert mean[0].metrics["akd_px"] == pytest.approx(expected)
    assert (mean[0].frames, means([first])) == (7, [])
    assert result.text.count("| mean | landmark-warp | ") == 2


def test_a_model_stands_beside_the_landmark_warp(clip, tmp_path):
    result = evaluate([clip], tmp_path / "out", model=None, weights=random_face2face_rho(0), every=3)
    assert result.model == "face2face-rho"
    methods = [row.method for row in result.rows if row.part == "all"]
    assert methods == ["source unchanged", "landmark-warp", "face2face-rho", "true image, tracked again"]
    row = find(result, method="face2face-rho", part="all")
    assert (row.metrics["akd_px"] is None) == (row.lost == row.frames)  # random weights may draw no face at all
    assert row.metrics["psnr_face_db"] < find(result, method="landmark-warp", part="all").metrics["psnr_face_db"]


def test_learned_metrics_of_clips(clip, tmp_path, monkeypatch):
    class Colours(torch.nn.Module):
        """Stands for Inception and ArcFace: the picture, coarsely."""

        def forward(self, x):
            return torch.nn.functional.adaptive_avg_pool2d(x, 4).flatten(1)

    monkeypatch.setattr(run, "load_learned", lambda *paths: Learned(None, Colours(), Colours()))
    write_image(tmp_path / "other.png", face(5, 5, -6, 150))
    result = evaluate([clip], tmp_path / "out", cross=[tmp_path / "other.png"])
    still, moved = (
        find(result, portrait=None, method=name, part="all").metrics for name in ("source unchanged", "landmark-warp")
    )
    assert 0 <= moved["fid"] < still["fid"]
    assert moved["csim"] > 0.97  # upright again, all are one face
    across = find(result, portrait="other", method="landmark-warp", part="largest motion").metrics
    assert across["csim"] > 0.9
    assert across["fid"] > 0
    assert set(across) == {"ard_deg", "geodesic_deg", "expression_percent", "csim", "fid"}


def test_table_escapes_names():
    text = table([Row("self-reenactment", "a|b", None, "m", "all", 3, 1, {"akd_px": None, "ssim": 0.5})])
    assert text.splitlines()[-1] == "| a\\|b | m | 0.500 |  | 1 of 3 |"


def test_refuses(clip, tmp_path):
    with pytest.raises(ValueError, match="clips: got none"):
        evaluate([], tmp_path / "out")
    with pytest.raises(ValueError, match="every: got 0"):
        evaluate([clip], tmp_path / "out", every=0)
    (tmp_path / "file").write_text("x")
    with pytest.raises(MediaError, match="cannot be used as a folder"):
        evaluate([clip], tmp_path / "file")


def test_command(clip, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run, "Tracker", ColourTracker)
    out = tmp_path / "out"
    options = ["--size", "64", "--every", "2", "--model", "landmark-warp", "--device", "cpu", "-o", str(out)]
    assert main(["evaluate", str(clip), str(tmp_path / "gone.mp4"), *options]) == 0
    captured = capsys.readouterr()
    assert captured.out == (out / "evaluation.md").read_text() + "\n"
    assert captured.err == "fastreenact: note: gone.mp4: no such file\n"
    assert main(["evaluate", str(clip), *options]) == 1
    assert "exists already" in capsys.readouterr().err


def test_real_clip(shared, tmp_path):
    pytest.importorskip("mediapipe", reason="MediaPipe is not installed")
    video = shared / "data" / "videos" / "d0.mp4"
    if not video.is_file():
        pytest.skip("needs ../shared/data/videos, which is not here")
    result = run.evaluate([video], tmp_path / "out", model="landmark-warp", every=30, device="cpu")
    still, moved, noise = (
        find(result, method=name, part="all").metrics
        for name in ("source unchanged", "landmark-warp", "true image, tracked again")
    )
    assert noise["akd_px"] < 0.3
    assert moved["akd_px"] < 0.5 * still["akd_px"]
    assert moved["ard_deg"] < still["ard_deg"]
    assert moved["psnr_face_db"] > still["psnr_face_db"] + 2
