"""`fastreenact train`: a run from data to weights, stopped politely and resumed."""

import logging
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple, TextIO

import torch

from fastreenact.errors import MediaError
from fastreenact.models import choose
from fastreenact.progress import Line, ProgressLine
from fastreenact.training import processes
from fastreenact.training.data.batches import Dataset, Mixture, VoxCelebFolder, broken_summary
from fastreenact.training.data.heads import HeadPairs
from fastreenact.training.data.videos import VideoFolder
from fastreenact.training.loop import WEIGHTS, Progress, Trainer, saved_config
from fastreenact.training.reconstruction import VggLoss, load_vgg19
from fastreenact.training.schedule import TrainConfig

SKIPPED = "skipped.txt"
_ON_TERMINAL_S, _ELSEWHERE_S = 0.2, 30.0  # between two progress lines

_log = logging.getLogger(__name__)


class Result(NamedTuple):
    """How a run ended."""

    weights: Path
    step: int  # steps done
    steps: int
    skipped: int  # files of the data that could not be used; the run's skipped.txt lists them


def train(
    out: Path,
    *,
    resume: bool,
    stream: TextIO,
    heads: int | None = None,
    photos: Path | None = None,
    videos: Path | None = None,
    data: Path | None = None,
    shares: Mapping[str, float] | None = None,
    vgg: Path | None = None,
    initial: Path | None = None,
    device: str | None = None,
    **changes: Any,
) -> Result | None:
    """Train until the last step, SIGINT or SIGTERM; the state is saved. `torchrun` may start several of these.

    Args:
        out: folder of the run.
        resume: go on with the run in `out`, with its settings where `changes` has no others.
        stream: where progress lines go.
        heads: train on generated heads, of so many people.
        photos: train on the portraits in this folder.
        videos: train on the videos in this folder.
        data: train on this folder of the VoxCeleb layout.
        shares: of the draws from each of these, by the names above; those left out have 1.
        vgg: VGG-19 weights (.safetensors) for the reconstruction loss.
        initial: weights (.safetensors) to begin with.
        device: None takes the GPU where there is one.
        changes: settings of `TrainConfig`; those that are None are left as they are. A new run draws over the landmark
            warp unless `base` is False.
    Returns:
        `Result`; None in all processes but the first.
    Raises:
        ValueError: nothing to train on.
        ValueError, MediaError, WeightsError, FastreenactError: as `TrainConfig`, the data sets and `Trainer` say.
    """
    given = {name: value for name, value in changes.items() if value is not None}
    config = replace(saved_config(out) if resume else TrainConfig(base=True), **given)
    if out.exists() and not out.is_dir():
        raise MediaError(f"{out} is not a folder: name one for the run")
    reconstruction = None if vgg is None else VggLoss(load_vgg19(vgg))
    start: Any = None if initial is None else choose(None, initial).weights
    with processes.joined(torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))) as own:
        first = processes.rank() == 0
        if not first:
            processes.wait()  # videos are tracked by one
        dataset = _dataset(config.size, heads, photos, videos, data, shares or {}, stream)
        if first:
            processes.wait()
        trainer = Trainer(dataset, out, config, device=own, reconstruction=reconstruction, initial=start, resume=resume)
        _log.info("%d draws a pass, %s, %s", len(dataset), own, broken_summary(dataset))
        line = _Line(stream)
        try:
            with _asked_to_stop() as stop:
                step = trainer.run(stop=stop, progress=line if first else None)
        finally:
            line.close()
            broken = dataset.broken
            if broken and first:
                listed = "".join(f"{path}: {reason}\n" for path, reason in sorted(broken.items()))
                (out / SKIPPED).write_text(listed, encoding="utf-8")
    return Result(out / WEIGHTS, step, config.steps, len(broken)) if first else None


def _dataset(
    size: int,
    heads: int | None,
    photos: Path | None,
    videos: Path | None,
    data: Path | None,
    shares: Mapping[str, float],
    stream: TextIO,
) -> Dataset:
    """What is to be trained on; a mixture where it is several."""
    parts: dict[str, Dataset] = {}
    if heads is not None:
        parts["heads"] = HeadPairs(size, people=heads)
    if photos is not None:
        from fastreenact.training.data.photos import PhotoFolder

        parts["photos"] = PhotoFolder(photos, size)
    if videos is not None:
        with ProgressLine(stream) as line:
            parts["videos"] = VideoFolder(videos, size, progress=line)
    if data is not None:
        parts["data"] = VoxCelebFolder(data, size)
    if not parts:
        raise ValueError("nothing to train on: give --heads, --photos, --videos or --data, or several of them")
    return Mixture(parts, shares)


def progress_text(progress: Progress) -> str:
    """`120/1000  8.7 images/s  1:02:05 left  reconstruction 3.21  warp 0.021`."""
    left = round(progress.seconds_left)
    names = [name for name in ("reconstruction", "warp") if name in progress.losses]
    shown = "  ".join(f"{name} {progress.losses[name]:.3g}" for name in names)
    return (
        f"{progress.step}/{progress.steps}  {progress.images_per_s:.1f} images/s  "
        f"{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d} left  {shown}"
    )


class _Line:
    """Draws over one line of a terminal, and leaves the last one standing; elsewhere a line now and then."""

    def __init__(self, stream: TextIO):
        self._stream, self._written = stream, perf_counter()
        self._line = Line(stream, bar_format="{desc}", mininterval=_ON_TERMINAL_S, leave=False)

    def __call__(self, progress: Progress) -> None:
        text, last = progress_text(progress), progress.step == progress.steps
        self._line.leave = True
        self._line.set_description_str(text, refresh=False)
        self._line.show(progress.step, last)
        if self._line.disable and (last or perf_counter() - self._written >= _ELSEWHERE_S):
            self._written = perf_counter()
            self._stream.write(text + "\n")
            self._stream.flush()

    def close(self) -> None:
        self._line.close()


@contextmanager
def _asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Whether SIGINT or SIGTERM came; a second one ends the program at once, as it would have."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before: dict[int, Any] = {}

    def note(number: int, _frame: object) -> None:
        asked.set()
        signal.signal(number, before[number])

    for wanted in (signal.SIGINT, signal.SIGTERM):
        before[wanted] = signal.signal(wanted, note)
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
