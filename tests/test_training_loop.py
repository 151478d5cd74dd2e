"""The training loop at 64 px: a few steps, what it leaves on disk, and going on after a break."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from training_case import Discs, disc, keypoints

from fastreenact.errors import FastreenactError, WeightsError
from fastreenact.face.morphable.model import EXPRESSION_NAMES
from fastreenact.models.face2face_rho.inference import fuse
from fastreenact.models.face2face_rho.networks import random_face2face_rho
from fastreenact.models.face2face_rho.weights import load_face2face_rho
from fastreenact.synth.heads.render import make_person, render
from fastreenact.training.data.batches import Batch, Dataset, Draw, Frame, batches
from fastreenact.training.data.batches import batch_of as make_batch
from fastreenact.training.data.heads import HeadPairs, _flow
from fastreenact.training.loop import LOSSES, SHEETS, STATE, WEIGHTS, Progress, Trainer, saved_config
from fastreenact.training.schedule import TrainConfig
from fastreenact.training.targets.refined_warp import base_picture
from fastreenact.training.targets.target import encoded as encoded_by

SMALL = TrainConfig(
    size=64, motion_size=128, steps=3, batch=1, discriminator_from=1, save_every=2, sheet_every=100, seed=3
)

OVERFIT = 200  # steps that two pairs are trained on


@pytest.fixture
def out(tmp_path: Path) -> Iterator[Path]:
    """A folder for runs that does not stay: a full state has 215 MB."""
    yield tmp_path / "runs"
    shutil.rmtree(tmp_path / "runs", ignore_errors=True)


def batch_of(dataset: Dataset, seed: int, step: int | None, batch: int) -> Batch:
    return make_batch(dataset, seed, step, batch, 128, base=False)


def lines(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / LOSSES).read_text().splitlines()]


def die_at_3(progress: Progress) -> None:
    if progress.step == 3:
        raise ConnectionError("power cut")


def test_a_killed_run_resumes_to_the_same_losses(out):
    whole, broken = out / "whole", out / "broken"
    first = Trainer(Discs(), whole, replace(SMALL, save_every=100))
    assert first.run() == 3
    with pytest.raises(ConnectionError):
        Trainer(Discs(), broken, SMALL).run(progress=die_at_3)
    assert [line["step"] for line in lines(broken)] == [0, 1, 2]  # the state is of step 2
    with (broken / LOSSES).open("a") as file:
        file.write('{"step": 3, "wa')  # half a line, as a power cut leaves it
    assert saved_config(broken) == SMALL
    again = Trainer(Discs(), broken, SMALL, resume=True)
    assert again.step == 2
    assert again.run() == 3
    assert lines(broken) == lines(whole)
    assert again._norm_means == first._norm_means
    for name, net in first._nets.items():
        for key, value in net.state_dict().items():
            assert torch.equal(again._nets[name].state_dict()[key], value), key
    assert again.run() == 3  # nothing is left to do
    assert len(lines(broken)) == 3
    # The discriminator joins at step 1.
    assert "discriminator" not in lines(whole)[0]
    assert {"warp", "field", "reconstruction", "adversarial", "matching", "discriminator"} < set(lines(whole)[1])

    with pytest.raises(FastreenactError, match="holds a training run already"):
        Trainer(Discs(), whole, SMALL)
    other = Discs()
    other.metadata = {"head_pose": "official"}
    with pytest.raises(ValueError, match=r"has metadata .*standardised.*, not .*official"):
        Trainer(other, whole, SMALL, resume=True)
    with (whole / STATE).open("r+b") as state:
        state.truncate(1000)
    with pytest.raises(WeightsError, match="not a readable state"):
        Trainer(Discs(), whole, SMALL, resume=True)


def test_learns_one_pair(out):
    class One(Discs):
        def draw(self, rng: np.random.Generator) -> Draw:
            return super().draw(np.random.default_rng(5))

    trainer = Trainer(One(), out, replace(SMALL, steps=1000, discriminator_from=1000, learning_rate=2e-3))
    trainer.save = lambda: None  # nobody wants it
    trainer.run(stop=lambda: trainer.step == 24)
    losses = lines(out)
    assert losses[-1]["reconstruction"] < 0.6 * losses[0]["reconstruction"]
    assert min(line["warp"] for line in losses) < 0.6 * losses[0]["warp"]


class Two(HeadPairs):
    """Two generated heads in turn, each turned a little and with the mouth opened."""

    def __init__(self) -> None:
        super().__init__(64)
        self.turn = cycle((1, 5))

    def draw(self, rng: np.random.Generator) -> Draw:
        seed, calm = next(self.turn), np.zeros(51, np.float32)
        person, speaks = make_person(seed), calm + 0.2 * (np.array(EXPRESSION_NAMES) == "jawOpen")
        source, driver = (
            render(person, [0, yaw, 0, 0, 0.1, 0.45], expression, 64, seed)
            for yaw, expression in ((0.0, calm), (0.03, speaks))
        )
        frames = [self._frame(seen, seen.keypoints, rng) for seen in (source, driver)]
        return Draw(frames[0], frames[1:], [_flow(person, driver, source, seed)])


def psnr(made: torch.Tensor, batch: Batch) -> float:
    """In dB: inside the face masks, or of the whole pictures where that is worse."""
    error = ((made.clamp(-1, 1) - batch.driver) * 127.5).square().mean(1, keepdim=True)
    inside = (error * batch.mask).sum() / batch.mask.sum()
    return float(10 * torch.log10(255**2 / torch.maximum(inside, error.mean())))


@pytest.mark.slow
def test_overfits_two_heads_to_30_db(out):
    batch = make_batch(Two(), 0, 0, 2, 64, base=True)
    assert psnr(base_picture(batch.source, batch.base, torch.zeros(2, 16, 16, 2)), batch) < 28
    config = TrainConfig(
        size=64,
        motion_size=64,
        steps=OVERFIT,
        batch=2,
        learning_rate=1e-3,
        warm_up=10,
        discriminator_from=OVERFIT,
        ema=0.0,
        base=True,
    )
    trainer = Trainer(HeadPairs(64), out, config)
    for _ in range(OVERFIT):
        trainer._train(batch)
        trainer.step += 1
    with torch.no_grad():
        made = trainer.target.shown(trainer.average, batch, trainer.config.motion_size, trainer._autocast)[1]
    assert psnr(made, batch) >= 30


def test_what_a_run_leaves_behind(out):
    told: list[Progress] = []
    data = Discs()
    trainer = Trainer(data, out, replace(SMALL, batch=2, motion_size=64))
    assert trainer.run(stop=lambda: len(told) == 1, progress=told.append) == 1
    assert (told[0].step, told[0].steps) == (1, 3)
    assert told[0].images_per_s > 0
    assert told[0].seconds_left == pytest.approx(2 * 2 / told[0].images_per_s)
    assert told[0].losses == {k: v for k, v in lines(out)[0].items() if k != "step"}
    assert sorted(p.name for p in out.iterdir()) == sorted([LOSSES, SHEETS, STATE, WEIGHTS])

    sheet = np.array(Image.open(out / SHEETS / "0000001.png"))
    assert sheet.shape == (4 * 64, 4 * 64, 3)
    batch = batch_of(data, 3, None, 4)
    shown = torch.from_numpy(sheet[:64, 64:128]).permute(2, 0, 1) / 127.5 - 1
    assert torch.allclose(shown, batch.driver[0], atol=1e-2)

    assert (out / WEIGHTS).stat().st_size < 25e6
    model = load_face2face_rho(out / WEIGHTS)
    assert model.metadata["motion_size"] == model.metadata["size"] == "64"
    assert model.metadata["head_pose"] == "standardised"
    assert model.metadata["training_steps"] == "1"
    for name, value in trainer.average.renderer.state_dict().items():
        stored = model.renderer.state_dict()[name]
        if value.is_floating_point():
            assert torch.allclose(stored, value, rtol=1e-3, atol=1e-6), name
    picture, _ = disc(64, 0.1, (200, 140, 120))
    pose = np.array([0, 0, 0, 0.1, 0, 1], np.float32)
    fast = fuse(model, 64)
    frame = fast.drive(fast.encode(picture, keypoints(0.1), pose), keypoints(0.2), pose)
    assert frame.shape == (64, 64, 3)


def test_begins_with_given_weights(out):
    initial = random_face2face_rho(4)
    initial.metadata = dict(Discs().metadata)
    trainer = Trainer(Discs(), out, SMALL, initial=initial)
    for net in (trainer.trained.motion, trainer.average.motion):
        for name, value in net.state_dict().items():
            assert torch.equal(value, initial.motion.state_dict()[name]), name
    assert torch.equal(trainer.trained.renderer.de_conv_block[0].weight, initial.renderer.de_conv_block[0].weight)
    assert all(p.requires_grad for p in trainer.trained.motion.parameters())
    assert trainer.trained.motion.training
    initial.metadata["head_pose"] = "official"
    with pytest.raises(ValueError, match="initial weights have head_pose 'official', the data has 'standardised'"):
        Trainer(Discs(), out, SMALL, initial=initial)
    with pytest.raises(ValueError, match="has weights already"):
        Trainer(Discs(), out, SMALL, initial=initial, resume=True)


def test_bfloat16_is_close_and_keeps_fields_exact(out):
    exact = Trainer(Discs(), out / "exact", SMALL)
    half = Trainer(Discs(), out / "half", replace(SMALL, bf16=True))
    batch = batch_of(Discs(), 0, 0, 1)
    a, b = (t._train(t._moved(batch)) for t in (exact, half))
    assert a["warp"] == b["warp"]
    assert a["field"] == b["field"]
    assert a["reconstruction"] != b["reconstruction"]
    assert a["reconstruction"] == pytest.approx(b["reconstruction"], rel=0.05)
    assert all(p.dtype == torch.float32 for p in half.trained.renderer.parameters())


def test_a_source_is_encoded_once_for_its_drivers(out, monkeypatch):
    class Four(Discs):
        def draw(self, rng: np.random.Generator) -> Draw:
            draws = [super(Four, self).draw(rng) for _ in range(4)]
            return Draw(draws[0].source, [draw.drivers[0] for draw in draws])

    initial = random_face2face_rho(4)
    initial.metadata = dict(Discs().metadata)
    trainer = Trainer(Four(), out, SMALL, initial=initial)
    batch = batch_of(Four(), 0, 0, 6)
    assert batch.source_of.tolist() == [0] * 4 + [1] * 2
    encoded = []
    encode = trainer.average.renderer.encode
    monkeypatch.setattr(
        trainer.average.renderer, "encode", lambda *given: encoded.append(len(given[0])) or encode(*given)
    )
    with torch.no_grad():
        once = encoded_by(trainer.average.renderer, batch)
        each = torch.arange(6)
        again = encoded_by(trainer.average.renderer, batch._replace(distinct=each, source_of=each))
    assert encoded == [2, 6]
    assert once.size == again.size
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(once[:4], again[:4], strict=True))
    assert not torch.allclose(once.f4[3], once.f4[4], atol=1e-2)


def test_averages_and_clipping(out):
    trainer = Trainer(Discs(), out, replace(SMALL, discriminator_from=4, steps=10, learning_rate=1e-3))
    before = trainer.trained.renderer.de_conv_block[0].weight.detach().clone()
    judge = [p.detach().clone() for p in trainer.discriminator.parameters()]
    trainer._train(trainer._moved(batch_of(Discs(), 0, 0, 1)))
    after = trainer.trained.renderer.de_conv_block[0].weight.detach()
    average = trainer.average.renderer.de_conv_block[0].weight
    assert not torch.equal(before, after)
    assert torch.allclose(average, 0.1 * before + 0.9 * after, atol=1e-7)  # at step 0 the decay is 1/10
    assert all(torch.equal(a, b) for a, b in zip(judge, trainer.discriminator.parameters(), strict=True))
    assert not any(m.training for m in trainer.average.renderer.modules())

    trainer.step = 9  # the last
    losses = trainer._train(trainer._moved(batch_of(Discs(), 0, 9, 1)))
    rates = [optimizer.param_groups[0]["lr"] for optimizer in trainer._optimizers.values()]
    assert rates == pytest.approx([1e-3 * 19 / 25] * 3)
    assert "discriminator" in losses
    assert not any(torch.equal(a, b) for a, b in zip(judge, trainer.discriminator.parameters(), strict=True))

    trainer._norm_means["motion"] = 10.0
    gradients = [torch.full((4,), 30.0), torch.full((4,), -40.0)]  # norm 100
    trainer._clip("motion", gradients, 100.0)
    assert gradients[0].tolist() == pytest.approx([12.0] * 4)  # to four times the mean
    assert trainer._norm_means["motion"] == pytest.approx(10 + 30 / 100)
    trainer._clip("motion", gradients, 40.0)
    assert gradients[1].tolist() == pytest.approx([-16.0] * 4)


def test_the_renderer_may_join_later(out):
    """Until then the motion network learns on the landmark warp alone, and nothing of the renderer changes."""
    data = HeadPairs(64, people=2)
    trainer = Trainer(data, out, replace(SMALL, base=True, renderer_from=1, discriminator_from=4))
    before = {name: value.clone() for name, value in trainer.trained.renderer.state_dict().items()}
    head = trainer.trained.motion.model2_3.weight.detach().clone()
    batch = trainer._moved(make_batch(data, 0, 0, 2, 128, base=True))
    losses = trainer._train(batch)
    assert "reconstruction" not in losses
    assert {"warp", "flow", "motion_norm"} <= set(losses)
    assert "renderer_norm" not in losses
    assert all(torch.equal(value, before[name]) for name, value in trainer.trained.renderer.state_dict().items())
    assert not torch.equal(head, trainer.trained.motion.model2_3.weight)
    trainer.step = 1
    losses = trainer._train(batch)
    assert {"reconstruction", "renderer_norm"} <= set(losses)
    assert not torch.equal(before["de_conv_block.0.weight"], trainer.trained.renderer.de_conv_block[0].weight)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_state(out):
    class Poisoned(Discs):
        def frame(self, x: float, colour: tuple[int, int, int]) -> Frame:
            frame = super().frame(x, colour)
            return frame._replace(head_pose=frame.head_pose * np.float32("nan"))

    trainer = Trainer(Discs(), out, replace(SMALL, discriminator_from=3))
    trainer.run(stop=lambda: True)
    before = (out / STATE).stat().st_mtime_ns
    trainer.dataset = Poisoned()
    with pytest.raises(FastreenactError, match=r"step 1: .*reconstruction.* not finite; the last state saved"):
        trainer.run()
    assert (out / STATE).stat().st_mtime_ns == before
    assert [line["step"] for line in lines(out)] == [0]


def test_dataset_and_folder_refused(out):
    with pytest.raises(ValueError, match="makes frames of size 96, the run needs 64"):
        Trainer(Discs(96), out, SMALL)
    data = Discs()
    data.metadata = {"head_pose": "mine"}
    with pytest.raises(ValueError, match="head_pose must be one of"):
        Trainer(data, out, SMALL)
    with pytest.raises(WeightsError, match="no run to resume"):
        saved_config(out)
    with pytest.raises(WeightsError, match="no run to resume"):
        Trainer(Discs(), out, SMALL, resume=True)


def test_batches_come_in_order_and_alone():
    data = Discs()
    found = list(batches(data, 7, range(2, 5), 2, 128, base=False))
    assert len(found) == 3
    for step, batch in zip(range(2, 5), found, strict=True):
        assert torch.equal(batch.driver, batch_of(data, 7, step, 2).driver)
    assert not torch.equal(found[0].driver, found[1].driver)
    assert not torch.equal(batch_of(data, 7, None, 1).driver, batch_of(data, 7, 0, 1).driver)
    assert list(batches(data, 7, range(0), 2, 128, base=False)) == []


def test_schedule():
    config = TrainConfig(steps=380_000)
    assert [config.learning_rate_at(s) for s in (0, 329_999)] == [2e-4, 2e-4]
    assert config.learning_rate_at(355_000) == pytest.approx(1e-4)
    assert config.learning_rate_at(380_000) == 0
    assert config.field_weight_at(0) == 1000
    assert config.field_weight_at(380_000 * 5 // 210) == pytest.approx(500, rel=1e-3)
    assert config.field_weight_at(20_000) == 0
    assert config.ema_at(0) == 0.1
    assert config.ema_at(100_000) == 0.999
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"size": 32}, "size must be 64 to 2048"),
        ({"motion_size": 100}, "multiple of 64"),
        ({"learning_rate": float("nan")}, "learning_rate must be above 0"),
        ({"clip": 0.0}, "clip must be above 0"),
        ({"ema": 1.0}, "ema must be"),
        ({"seed": -1}, "seed must not be negative"),
        ({"reuse": 0}, "reuse must be at least 1"),
        ({"renderer_from": 5}, "renderer_from needs a base"),
        ({"motion_size": 64, "batch": 1}, "batch of 1 needs"),
    ],
)
def test_settings_refused(change, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**change)


def test_stored_settings_refused():
    values = TrainConfig().to_dict()
    for broken in (values | {"speed": 1}, values | {"steps": "many"}):
        with pytest.raises(ValueError, match="do not fit this version"):
            TrainConfig.from_dict(broken)
    del values["warm_up"]  # as a version before it stored them
    assert TrainConfig.from_dict(values) == TrainConfig()
