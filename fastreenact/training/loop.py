"""The training loop: steps, averaged weights, state on disk, losses and sheets as it goes."""

import copy
import json
import logging
import os
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastreenact.errors import FastreenactError, WeightsError
from fastreenact.media import write_image
from fastreenact.models.face2face_rho.head_pose import check_convention
from fastreenact.models.face2face_rho.networks import Face2FaceRho
from fastreenact.training import losses, processes
from fastreenact.training.data.bases import Base
from fastreenact.training.data.batches import Batch, Dataset, batch_of, batches
from fastreenact.training.discriminator import Discriminator
from fastreenact.training.reconstruction import PyramidLoss, VggLoss
from fastreenact.training.schedule import LEAST_ALONE, TrainConfig
from fastreenact.training.state import load_state, read_numbers, save_state
from fastreenact.training.targets import TARGETS

STATE, WEIGHTS, LOSSES, SHEETS = "state.safetensors", "weights.safetensors", "losses.jsonl", "sheets"
_SHEET_PAIRS = 4
_RATE_STEPS = 50  # steps over which the speed is taken
_NORM_STEPS = 100  # steps over which the mean gradient norm is taken, about

_log = logging.getLogger(__name__)


class Progress(NamedTuple):
    """Where a run is, after a step."""

    step: int  # steps done
    steps: int
    losses: dict[str, float]
    images_per_s: float
    seconds_left: float


def saved_config(out: str | os.PathLike[str]) -> TrainConfig:
    """Settings of the run in the folder `out`.

    Raises:
        WeightsError: there is no state of a run, or a damaged one. ValueError: settings of another version.
    """
    return TrainConfig.from_dict(read_numbers(Path(out) / STATE)["config"])


class Trainer:
    """Both networks, their averages, the discriminator and three optimisers, and a folder that holds the run.

    A step depends on its number and the state before it alone: pairs are drawn from a random state made of seed and
    step, so that a run broken off anywhere and resumed has the losses it would have had (to the last bit on a CPU; on
    a GPU as far as PyTorch's backward passes are deterministic there).

    The motion network runs in float32 also where `bf16` is set: in bfloat16 a coordinate near 1 is only good to 2^-8,
    half a pixel at 256. Each network's gradient is clipped against the running mean of its own norm: with the published
    weights of the losses norms begin at 1e5 for the generator and 1e2 for the discriminator, and fall by orders.

    Several processes (see `processes`) share a step's pairs, each with draws of its own. Gradients are averaged before
    they are clipped, so that all have the same weights. On GPUs BatchNorm sees the whole batch; on CPUs each process
    normalises by its own share, and the running statistics are averaged. The first process writes.
    """

    def __init__(
        self,
        dataset: Dataset,
        out: str | os.PathLike[str],
        config: TrainConfig,
        *,
        device: torch.device | str = "cpu",
        reconstruction: VggLoss | PyramidLoss | None = None,
        initial: Face2FaceRho | None = None,
        resume: bool = False,
    ):
        """Start a run, or go on with one.

        Args:
            dataset: frames of `config.size`.
            out: folder of the run; made if it is not there.
            config: settings; `saved_config(out)` has those of the run that is to be resumed.
            device: where it runs.
            reconstruction: `VggLoss`, or None for `PyramidLoss`, which needs no weights.
            initial: weights to begin with, of another size or run for example; None begins from nothing. The
                discriminator and the optimisers always begin from nothing.
            resume: go on from the last state in `out`.
        Raises:
            ValueError: the dataset has another size or an unusable head pose convention, or another than `initial`;
                the processes cannot share the batch;
                resumed with `initial`, or with another reconstruction loss, convention or `base` than it began with.
            FastreenactError: the folder holds a run already, and `resume` is False.
            WeightsError: no state to resume, or a damaged one.
        """
        if dataset.size != config.size:
            raise ValueError(f"the dataset makes frames of size {dataset.size}, the run needs {config.size}")
        check_convention(dataset.metadata)
        share, rest = divmod(config.batch, processes.count())
        if rest or (share == 1 and config.motion_size < LEAST_ALONE):
            raise ValueError(
                f"{processes.count()} processes cannot share a batch of {config.batch}: choose a multiple of that"
                + ("" if rest else ", two or more for each, or a motion_size of at least 128")
            )
        self.dataset, self.config, self.out, self.step = dataset, config, Path(out), 0
        self.device, self.target = torch.device(device), TARGETS[config.model]
        self.reconstruction = (PyramidLoss() if reconstruction is None else reconstruction).to(self.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.trained, self.discriminator = self.target.networks(), Discriminator()
        if initial is not None:
            if resume:
                raise ValueError("a run that is resumed has weights already: leave out the initial ones")
            _copy_initial(initial, self.trained, dataset.metadata)
        for net in (self.trained.motion, self.trained.renderer, self.discriminator):
            net.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.trained)
        for net in (self.average.motion, self.average.renderer):
            net.eval().requires_grad_(False)
        if processes.count() > 1 and self.device.type == "cuda":
            for net in (self.trained.motion, self.trained.renderer):
                nn.SyncBatchNorm.convert_sync_batchnorm(net)  # in place; names of parameters and buffers stay
        trained: dict[str, nn.Module] = {
            "motion": self.trained.motion,
            "renderer": self.trained.renderer,
            "discriminator": self.discriminator,
        }
        self._nets = trained | {"motion_ema": self.average.motion, "renderer_ema": self.average.renderer}
        self._optimizers = {
            name: torch.optim.Adam(net.parameters(), lr=config.learning_rate, betas=(0.9, 0.999), fused=True)
            for name, net in trained.items()
        }
        self._norm_means: dict[str, float] = {}
        if resume:
            self._load()
        elif (self.out / STATE).exists():
            raise FastreenactError(f"{self.out} holds a training run already: resume it, or name another folder")
        self.out.mkdir(parents=True, exist_ok=True)
        self._share, self._writes = share, processes.rank() == 0

    def run(self, *, stop: Callable[[], bool] | None = None, progress: Callable[[Progress], None] | None = None) -> int:
        """Train until the last step, or until `stop` says so; the state is saved either way.

        Args:
            stop: asked after every step.
            progress: told after every step.
        Returns:
            Steps done so far.
        Raises:
            FastreenactError: a loss is not finite (the last state saved stays), or the data fails.
        """
        config = self.config
        times = deque([perf_counter()], maxlen=_RATE_STEPS + 1)
        path = self.out / LOSSES if self._writes else Path(os.devnull)
        if self._writes:
            _cut_losses(path, self.step)
        with path.open("a", encoding="ascii") as file:
            for batch in batches(
                self.dataset,
                config.seed,
                range(self.step, config.steps),
                self._share,
                config.motion_size,
                base=self.config.base,
                rank=processes.rank(),
                reuse=config.reuse,
            ):
                values = self._train(self._moved(batch))
                file.write(json.dumps({"step": self.step, **values}) + "\n")
                file.flush()
                self.step += 1
                times.append(perf_counter())
                if progress is not None:
                    progress(_progress(config, self.step, values, times))
                stopped = processes.any_of(stop is not None and stop(), self.device)
                last = stopped or self.step == config.steps
                if self._writes and (last or self.step % config.save_every == 0):
                    self.save()
                if self._writes and (last or self.step % config.sheet_every == 0):
                    self.write_sheet()
                if stopped:
                    break
        return self.step

    def save(self) -> None:
        """Write the full state, and the averaged networks as a weights file in half precision."""
        numbers = {"step": self.step, "config": self.config.to_dict(), "norm_means": self._norm_means}
        numbers |= self._description()
        save_state(self.out / STATE, self._nets, self._optimizers, numbers)
        self.average.metadata = {
            "model": self.target.model,
            "size": str(self.config.size),
            "motion_size": str(self.config.motion_size),
            "training_steps": str(self.step),
            **self.dataset.metadata,
        }
        try:
            self.target.save(self.average, self.out / WEIGHTS, torch.float16)
        except WeightsError as error:  # a weight beyond 65504
            _log.warning("the weights are saved in float32: %s", error)
            self.target.save(self.average, self.out / WEIGHTS, torch.float32)

    def write_sheet(self) -> Path:
        """A picture of a few pairs in rows: source, driver, source warped by the finest field, what is made of it."""
        config = self.config
        settings = config.seed, None, _SHEET_PAIRS, config.motion_size
        batch = self._moved(batch_of(self.dataset, *settings, base=self.config.base))
        with torch.no_grad():
            warped, fake = self.target.shown(self.average, batch, config.motion_size, self._autocast)
        columns = torch.cat([batch.source, batch.driver, warped, fake], 3)
        rows = torch.cat(list(columns), 1).permute(1, 2, 0)
        picture = ((rows.clamp(-1, 1) + 1) * 127.5).round().to("cpu", torch.uint8).contiguous().numpy()
        folder = self.out / SHEETS
        folder.mkdir(exist_ok=True)
        path = folder / f"{self.step:07d}.png"
        write_image(path, picture, force=True)
        return path

    def _train(self, batch: Batch) -> dict[str, float]:
        """One step of all three networks: the losses without their weights, and the norms of the gradients."""
        for optimizer in self._optimizers.values():
            optimizer.param_groups[0]["lr"] = self.config.learning_rate_at(self.step)
        emphasis = losses.face_weights(batch.mask)
        fake, parts, total, drawn = self.target.generate(
            self.trained, batch, emphasis, self.config, self.step, self._autocast
        )
        if drawn:
            with self._autocast(isinstance(self.reconstruction, VggLoss)):
                parts["reconstruction"] = self.reconstruction(fake, batch.driver, emphasis)
            total = total + losses.RECONSTRUCTION_WEIGHT * parts["reconstruction"]
        if self.step >= self.config.discriminator_from:
            judged = self._judge_generated(batch, fake, emphasis)
            parts |= judged
            total = total + losses.ADVERSARIAL_WEIGHT * judged["adversarial"]
            total = total + losses.MATCHING_WEIGHT * judged["matching"]
        parts |= self._descend(total, "motion", *(("renderer",) if drawn else ()))
        if self.step >= self.config.discriminator_from:
            drawing = batch.driver_landmarks[2]
            with self._autocast():
                scores = [self.discriminator(x, drawing).score for x in (batch.driver, fake.detach())]
            parts["discriminator"] = losses.discriminator_loss(scores[0].float(), scores[1].float())
            parts |= self._descend(parts["discriminator"], "discriminator")
        self._update_averages()
        names, values = list(parts), torch.stack([value.detach().float() for value in parts.values()])
        processes.average([values])
        numbers = dict(zip(names, values.tolist(), strict=True))  # the step's one wait for the device
        if not values.isfinite().all():
            bad = ", ".join(name for name, value in zip(names, values, strict=True) if not value.isfinite())
            raise FastreenactError(
                f"step {self.step}: {bad} not finite; the last state saved is good: resume with a lower learning rate"
            )
        return numbers

    def _judge_generated(self, batch: Batch, fake: Tensor, emphasis: Tensor) -> dict[str, Tensor]:
        """The generator's two losses by the discriminator, which learns nothing from them."""
        drawing = batch.driver_landmarks[2]
        self.discriminator.requires_grad_(False)
        with self._autocast():
            with torch.no_grad():
                real = self.discriminator(batch.driver, drawing)
            generated = self.discriminator(fake, drawing)
        self.discriminator.requires_grad_(True)
        taps = [[tap.float() for tap in judgement.taps] for judgement in (real, generated)]
        return {
            "adversarial": losses.adversarial_loss(generated.score.float()),
            "matching": losses.matching_loss(taps[0], taps[1], emphasis),
        }

    def _descend(self, loss: Tensor, *names: str) -> dict[str, Tensor]:
        """Gradients, clipped, and a step of the optimisers named; gives the norms before clipping."""
        for name in names:
            self._optimizers[name].zero_grad(set_to_none=True)
        loss.backward()
        norms = {}
        for name in names:
            gradients = [p.grad for p in self._nets[name].parameters() if p.grad is not None]
            processes.average(gradients)
            norms[f"{name}_norm"] = norm = nn.utils.get_total_norm(gradients)
            self._clip(name, gradients, float(norm))
            self._optimizers[name].step()
        return norms

    def _clip(self, name: str, gradients: list[Tensor], norm: float) -> None:
        """Shorten the gradients of a network to the limit, and note their length for the next limit."""
        mean = self._norm_means.get(name, norm)
        limit = self.config.clip * mean
        if norm > limit:
            torch._foreach_mul_(gradients, limit / norm)
        self._norm_means[name] = mean + (min(norm, limit) - mean) / _NORM_STEPS

    def _update_averages(self) -> None:
        """Draw weights and statistics of the averaged networks towards the trained ones."""
        processes.average(
            [b for net in (self.trained.motion, self.trained.renderer) for b in net.buffers() if b.is_floating_point()]
        )
        share = 1 - self.config.ema_at(self.step)
        with torch.no_grad():
            pairs = ((self.average.motion, self.trained.motion), (self.average.renderer, self.trained.renderer))
            for average, net in pairs:
                for old, new in zip(average.state_dict().values(), net.state_dict().values(), strict=True):
                    if old.is_floating_point():
                        old.lerp_(new, share)
                    else:
                        old.copy_(new)

    def _autocast(self, wanted: bool = True) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=wanted and self.config.bf16)

    def _moved(self, batch: Batch) -> Batch:
        """The batch on the device, pictures channels-last."""

        def to(x: Tensor) -> Tensor:
            if x.ndim != 4:
                return x.to(self.device)
            return x.to(self.device, memory_format=torch.channels_last)

        def all_to(drawings: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
            return to(drawings[0]), to(drawings[1]), to(drawings[2])

        return Batch(
            to(batch.source),
            to(batch.driver),
            all_to(batch.source_landmarks),
            all_to(batch.driver_landmarks),
            to(batch.source_pose),
            to(batch.driver_pose),
            to(batch.mask),
            None if batch.base is None else Base(*(part.to(self.device) for part in batch.base)),
            None if batch.flow is None else batch.flow.to(self.device),
            batch.distinct.to(self.device),
            batch.source_of.to(self.device),
        )

    def _description(self) -> dict[str, Any]:
        """What a resumed run may not change."""
        return {"reconstruction": type(self.reconstruction).__name__, "metadata": dict(self.dataset.metadata)}

    def _load(self) -> None:
        """The last state of the run in `out`."""
        numbers = read_numbers(self.out / STATE)
        for name, value in self._description().items():
            if numbers.get(name) != value:
                raise ValueError(f"the run in {self.out} has {name} {numbers.get(name)!r}, not {value!r}")
        if TrainConfig.from_dict(numbers["config"]).base != self.config.base:
            raise ValueError(f"the run in {self.out} began with base {not self.config.base}, and has to go on with it")
        load_state(self.out / STATE, self._nets, self._optimizers)
        self.step, self._norm_means = int(numbers["step"]), dict(numbers["norm_means"])


def _copy_initial(initial: Face2FaceRho, nets: Face2FaceRho, metadata: Mapping[str, str]) -> None:
    """Weights and statistics of `initial` into both networks, if its head poses mean what the data's mean."""
    for key in ("head_pose", "head_pose_mean", "head_pose_deviation"):
        if initial.metadata.get(key) != metadata.get(key):
            found, wanted = initial.metadata.get(key), metadata.get(key)
            raise ValueError(f"the initial weights have {key} {found!r}, the data has {wanted!r}")
    if type(initial) is not type(nets):
        raise ValueError("of the initial weights and the run, one draws over the landmark warp and one does not")
    nets.motion.load_state_dict(initial.motion.state_dict())
    nets.renderer.load_state_dict(initial.renderer.state_dict())


def _cut_losses(path: Path, step: int) -> None:
    """Take out the losses of steps that are going to be done again, and what a break left half written."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="ascii", errors="replace").splitlines():
        try:
            if json.loads(line)["step"] < step:
                kept.append(line + "\n")
        except (json.JSONDecodeError, KeyError, TypeError):
            continue
    part = path.with_name(path.name + ".part")
    part.write_text("".join(kept), encoding="ascii")
    os.replace(part, path)


def _progress(config: TrainConfig, step: int, values: dict[str, float], times: deque[float]) -> Progress:
    seconds = (times[-1] - times[0]) / (len(times) - 1)
    return Progress(step, config.steps, values, config.batch / seconds, (config.steps - step) * seconds)
