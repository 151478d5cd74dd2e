"""Evaluation on generated heads, at small sizes; the tracker, where there is one, is off by a known amount."""

import inspect
import json

import numpy as np
import pytest

from fastreenact.app.cli import main
from fastreenact.errors import FastreenactError
from fastreenact.evaluation import run, sizes, steady
from fastreenact.evaluation.clips import Faces
from fastreenact.evaluation.heads import (
    BASELINE,
    FIRST_PERSON,
    FIRST_SHOT,
    LARGE,
    TRUE_IMAGE,
    UNCHANGED,
    USUAL,
    Methods,
    encoded,
    head_case,
    judge_heads,
    to_px,
)
from fastreenact.evaluation.judge import Judge
from fastreenact.evaluation.learned import Learned
from fastreenact.evaluation.metrics import head_angles_deg, psnr
from fastreenact.evaluation.numbers import numbers
from fastreenact.evaluation.report import CLIPS, CROSS_HEADS, LARGEST, SELF_HEADS, SIZES, STEADY, Row
from fastreenact.face.track.tracker import Landmarks
from fastreenact.media import read_image
from fastreenact.models.face2face_rho.networks import random_face2face_rho
from fastreenact.models.refined_warp.networks import random_refined_warp
from fastreenact.training.data.heads import HeadPairs

SIZE = 64
WARP = Methods("landmark-warp", None, "cpu", None)
OFF = 2.0  # px


class OffTracker:
    """Knows the keypoints of the true images; finds them 2 px aside in what is asked between: two outputs and a cut."""

    def __init__(self, count: int):
        targets = [target.true for index in range(count) for target in head_case(index, SIZE).targets]
        self.all = [to_px(true.keypoints, SIZE) for true in targets]
        self.known = {true.image.tobytes(): points for true, points in zip(targets, self.all, strict=True)}
        self.others = 0

    def __call__(self, picture):
        points = self.known.get(picture.tobytes())
        if points is None:
            points = self.all[self.others // 3] + np.float32(OFF)
            self.others += 1
        return Landmarks(points, 1.0)


def rows_of(results, method, test=SELF_HEADS, part=USUAL):
    return next(r for r in results if (r.method, r.test, r.part) == (method, test, part))


def test_head_case():
    case, again = head_case(3, SIZE), head_case(3, SIZE)
    assert np.array_equal(case.source.image, again.source.image)
    assert [(t.test, t.part) for t in case.targets] == [
        (test, part) for test in (SELF_HEADS, CROSS_HEADS) for part in (USUAL, LARGE) for _ in range(2)
    ]
    assert not np.array_equal(case.source.image, head_case(4, SIZE).source.image)
    turns = [
        abs(head_angles_deg(t.true.pose)[0]) for i in range(4) for t in head_case(i, SIZE).targets if t.part == LARGE
    ]
    assert min(turns) > 29  # the nod before it changes the turn a little
    assert max(turns) < 50
    for target, known in zip(case.targets, again.targets, strict=True):
        assert np.array_equal(target.true.image, known.true.image)
        assert np.array_equal(target.driver, target.true.image) == (target.test == SELF_HEADS)


def test_heads_are_not_those_of_training():
    options = inspect.signature(HeadPairs).parameters
    assert options["first"].default + options["people"].default <= FIRST_PERSON
    for index in (0, 5):
        case = head_case(index, SIZE)
        assert case.person.seed >= FIRST_PERSON
        assert case.other.seed >= FIRST_PERSON
        assert case.shot >= FIRST_SHOT


def test_pictures_without_a_tracker():
    results = judge_heads(3, SIZE, WARP, Judge(None, Learned()))
    rows = results.rows(3)
    assert {r.method for r in rows} == {UNCHANGED, BASELINE}
    assert {tuple(r.metrics) for r in rows} == {("psnr_db", "psnr_face_db", "ssim", "ssim_face")}
    assert {(r.frames, r.lost, r.clip) for r in rows} == {(6, None, "3 heads")}
    for test in (SELF_HEADS, CROSS_HEADS):
        for part in (USUAL, LARGE):
            still, moved = (rows_of(rows, name, test, part).metrics for name in (UNCHANGED, BASELINE))
            assert moved["psnr_face_db"] > still["psnr_face_db"] + 1
    wanted = []
    for index in range(3):
        case = head_case(index, SIZE)
        wanted += [
            psnr(case.source.image, t.true.image, t.true.mask)
            for t in case.targets
            if (t.test, t.part) == (CROSS_HEADS, LARGE)
        ]
    assert rows_of(rows, UNCHANGED, CROSS_HEADS, LARGE).metrics["psnr_face_db"] == pytest.approx(np.mean(wanted))
    assert list(results.sheets[SELF_HEADS]) == ["source", "driver", "true image", BASELINE]
    assert {len(pictures) for pictures in results.sheets[CROSS_HEADS].values()} == {6}


def test_tracked():
    rows = judge_heads(2, SIZE, WARP, Judge(Faces(OffTracker(2), SIZE), Learned())).rows(2)
    noise = rows_of(rows, TRUE_IMAGE)
    assert set(noise.metrics) == {"akd_px", "ard_deg", "geodesic_deg", "expression_percent"}
    assert noise.metrics["akd_px"] == pytest.approx(OFF + 1, abs=1e-4)  # looked at one pixel aside, and put back
    assert rows_of(rows, TRUE_IMAGE, CROSS_HEADS, LARGE).frames == 4
    assert rows_of(rows, BASELINE, CROSS_HEADS, LARGE).metrics["akd_px"] == pytest.approx(OFF, abs=1e-4)
    # Aside is the same head at another place.
    assert noise.metrics["ard_deg"] < 0.2
    assert noise.metrics["expression_percent"] < 0.2
    assert noise.lost == 0


def test_lost_faces_are_counted():
    class Blind(OffTracker):
        def __call__(self, picture):
            return super().__call__(picture) if picture.tobytes() in self.known else None

    rows = judge_heads(1, SIZE, WARP, Judge(Faces(Blind(1), SIZE), Learned())).rows(1)
    moved = rows_of(rows, BASELINE)
    assert (moved.lost, moved.frames, moved.metrics["akd_px"]) == (2, 2, None)
    assert moved.metrics["psnr_db"] > 5


def test_steadiness():
    rows = {(r.clip, r.method): r.metrics for r in steady.judge_steadiness(1, 20, SIZE, WARP)}
    assert rows[steady.STILL, BASELINE]["levels"] < 0.02
    noisy = rows[steady.NOISY, BASELINE]
    assert 0.01 < noisy["levels"] < 1
    assert rows[steady.NOISY, UNCHANGED] == {"levels": 0, "levels_face": 0}
    smooth, still = (rows[steady.SMOOTH, name] for name in (BASELINE, UNCHANGED))
    assert smooth["levels_face"] < still["levels_face"]
    assert min(still.values()) > 0.3


def test_flicker_of_a_picture_that_flickers():
    true = steady._smooth(head_case(0, SIZE), 5, SIZE)
    assert steady._flicker([t.image for t in true], true)[0].values == {"levels": 0, "levels_face": 0}
    dark = [(t.image // 2 + 40 + 10 * (i % 2)).astype(np.uint8) for i, t in enumerate(true)]
    halved = [(t.image // 2 + 40).astype(np.uint8) for t in true]
    calm, wild = (np.mean([s.values["levels"] for s in steady._flicker(p, true)]) for p in (halved, dark))
    assert wild > calm + 7


def test_sizes():
    assert sizes.sizes_of(256) == [256, 512, 1024, 1440]
    assert sizes.sizes_of(600) == [600, 1200]
    rows = {(r.clip, r.method): r.metrics["psnr_face_db"] for r in sizes.judge_sizes(1, SIZE, WARP)}
    assert list(dict.fromkeys(clip for clip, _ in rows)) == ["64 px", "128 px", "256 px", "360 px"]
    for side in (128, 256, 360):
        assert rows[f"{side} px", BASELINE] > rows["64 px", BASELINE] - 1.5
        assert rows[f"{side} px", BASELINE] > rows[f"{side} px", UNCHANGED] + 1


@pytest.mark.parametrize("make", [random_face2face_rho, random_refined_warp])
def test_any_renderer(make):
    weights = make(0)
    methods = Methods(None, weights, "cpu", None)
    assert methods.model == weights.metadata["model"]
    source = head_case(0, SIZE).source
    driven = encoded(methods.at(SIZE), source)
    assert list(driven) == [UNCHANGED, BASELINE, methods.model]
    got = [drive(source.keypoints, source.pose) for drive in driven.values()]
    assert np.array_equal(got[0], source.image)
    assert psnr(got[1], source.image) > 30
    assert got[2].shape == (SIZE, SIZE, 3)


def a_row(test, clip, method, part="all", **found):
    return Row(test, clip, None, method, part, 4, 0, found)


def test_numbers():
    rows = [
        a_row(SELF_HEADS, "9 heads", BASELINE, USUAL, psnr_face_db=22.5),
        a_row(SELF_HEADS, "9 heads", "mine", USUAL, psnr_face_db=26.1),
        a_row(SELF_HEADS, "9 heads", "mine", LARGE, psnr_face_db=1.0),
        a_row(CROSS_HEADS, "9 heads", BASELINE, USUAL, psnr_face_db=22.5),
        a_row(CROSS_HEADS, "9 heads", "mine", USUAL, psnr_face_db=24.1),
        a_row(CLIPS, "d", UNCHANGED, psnr_face_db=27.0, ssim=0.9, akd_px=5.0, ard_deg=9.0),
        a_row(CLIPS, "d", BASELINE, psnr_face_db=25.0, ssim=0.8, akd_px=1.2, ard_deg=3.0),
        a_row(CLIPS, "d", "mine", psnr_face_db=26.0, ssim=0.89, akd_px=1.5, ard_deg=3.4),
        a_row(CLIPS, "d", BASELINE, LARGEST, psnr_face_db=20.0),
        a_row(CLIPS, "d", "mine", LARGEST, psnr_face_db=21.6),
        a_row(STEADY, steady.STILL, "mine", levels=0.1),
        a_row(STEADY, steady.NOISY, "mine", levels=0.6),
        a_row(STEADY, steady.SMOOTH, BASELINE, levels=2.0, levels_face=3.0),
        a_row(STEADY, steady.SMOOTH, "mine", levels=2.1, levels_face=2.9),
        a_row(SIZES, "256 px", "mine", psnr_face_db=26.0),
        a_row(SIZES, "1440 px", "mine", psnr_face_db=24.0),
    ]
    found = numbers(rows, "mine")
    assert [(n.bound, n.reached) for n in found] == [
        (26, True),
        (25.5, True),
        (24, True),
        (25.5, False),  # heads
        (27, False),
        (pytest.approx(0.88), True),
        (pytest.approx(1.4), False),
        (3.5, True),
        (21.5, True),  # the clip
        (0.5, True),
        (0.5, False),
        (3.0, True),
        (24.5, False),
    ]
    assert numbers(rows, BASELINE) == []


def test_command_without_mediapipe(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(run, "_STEADY_FRAMES", 4)
    out = tmp_path / "out"
    assert main(["evaluate", "--heads", "1", "--size", "64", "--model", "landmark-warp", "-o", str(out)]) == 0
    captured = capsys.readouterr()
    assert captured.err == (
        "fastreenact: note: MediaPipe is not installed: of the generated heads only the pictures are compared\n"
    )
    text = (out / "evaluation.md").read_text()
    assert captured.out == text + "\n"
    assert "## Generated heads, cross-reenactment, heads turned by 30 to 45 degrees" in text
    assert text.count("The same portraits under somebody else's motions") == 1
    assert "One frame in" not in text
    data = json.loads((out / "evaluation.json").read_text())
    assert {row["test"] for row in data["rows"]} == {SELF_HEADS, CROSS_HEADS, STEADY, SIZES}
    assert data["numbers"] == []
    assert read_image(out / "heads-self.png").shape == (4 * SIZE, 2 * SIZE, 3)
    assert main(["evaluate", "--heads", "1", "-o", str(out)]) == 1
    assert "exists already" in capsys.readouterr().err


def test_refuses(tmp_path):
    with pytest.raises(ValueError, match=r"heads: got -1"):
        run.evaluate([], tmp_path, heads=-1)
    with pytest.raises(FastreenactError, match="not a file"):
        run.evaluate([], tmp_path / "o", heads=1, weights=tmp_path / "none.safetensors")


def test_numbers_are_in_the_report(tmp_path, monkeypatch):
    monkeypatch.setattr(run.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(run, "_STEADY_FRAMES", 3)
    monkeypatch.setattr(run, "_SIZE_HEADS", 1)
    monkeypatch.setattr(sizes, "_SCALES", (1, 2))
    result = run.evaluate([], tmp_path, heads=1, weights=random_face2face_rho(0), size=SIZE, device="cpu")
    assert result.model == "face2face-rho"
    assert len(result.numbers) == 2 * 2 + 3 + 1
    assert "| at least 26.00 dB | no |" in result.text
