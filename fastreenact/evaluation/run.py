"""`evaluate`: reenact clips and generated heads, measure against truth and baselines, write tables and sheets."""

import contextlib
import importlib.util
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fastreenact.engine import Engine
from fastreenact.errors import FastreenactError, MediaError
from fastreenact.evaluation import metrics
from fastreenact.evaluation.clips import Clip, Faces, Picture, Progress, read_clip
from fastreenact.evaluation.heads import BASELINE, TRUE_IMAGE, UNCHANGED, Methods, judge_heads
from fastreenact.evaluation.judge import Judge, Sample, Truth, row
from fastreenact.evaluation.learned import Learned, load_learned
from fastreenact.evaluation.numbers import numbers
from fastreenact.evaluation.report import (
    CLIPS,
    CROSS_CLIPS,
    CROSS_HEADS,
    LARGEST,
    SELF_HEADS,
    Evaluation,
    check_folder,
    sheet,
    sheet_name,
    sheet_places,
    write,
)
from fastreenact.evaluation.sizes import judge_sizes
from fastreenact.evaluation.steady import judge_steadiness
from fastreenact.face.crop import crop
from fastreenact.face.motion import Motion
from fastreenact.face.source import SourceFace
from fastreenact.face.track.tracker import Tracker
from fastreenact.media import read_image
from fastreenact.media.files import shown

_HEAD_SHEETS = {SELF_HEADS: "heads-self.png", CROSS_HEADS: "heads-cross.png"}
_STEADY_HEADS, _STEADY_FRAMES, _SIZE_HEADS = 8, 60, 4  # at most, of the heads asked for


class _Renderers:
    """The landmark warp and the model that is evaluated, for one portrait after the other; absolute motion."""

    def __init__(self, tracker: Any, size: int, options: dict[str, Any]):
        self._settings = {"size": size, "motion": "absolute", "smooth": False, "tracker": tracker}
        self._options = options
        self.model = ""  # that is evaluated; known with the first portrait

    @contextlib.contextmanager
    def of(self, source: Picture) -> Iterator[dict[str, Engine | None]]:
        """Name of the method -> its engine for this portrait; None is the portrait as it is."""
        with contextlib.ExitStack() as stack:
            engine = stack.enter_context(Engine(source, **self._options, **self._settings))
            methods: dict[str, Engine | None] = {UNCHANGED: None}
            if engine.model != BASELINE:
                options = self._options | {"model": BASELINE, "weights": None}
                methods[BASELINE] = stack.enter_context(Engine(source, **options, **self._settings))
            methods[engine.model] = engine
            self.model = engine.model
            yield methods


class _Measured(NamedTuple):
    """One method on one clip."""

    samples: list[Sample]
    frames: list[Picture]  # for the contact sheet


def evaluate(
    clips: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    heads: int = 0,
    cross: Sequence[str | os.PathLike[str]] = (),
    model: str | None = None,
    weights: Any = None,
    size: int = 256,
    every: int = 6,
    device: str | None = None,
    dtype: str | None = None,
    lpips: str | os.PathLike[str] | None = None,
    fid: str | os.PathLike[str] | None = None,
    csim: str | os.PathLike[str] | None = None,
    tracker: Any = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure a model on real clips, on generated heads, or on both.

    Args:
        clips: videos; each one's first face is the portrait, every n-th frame after it a driver.
        out: folder for evaluation.md, evaluation.json and the contact sheets; made if need be.
        heads: so many generated heads: self- and cross-reenactment, steadiness and other sizes; 0: none.
        cross: portraits that get every clip's motion.
        model, weights, device, dtype: as for `Engine`.
        size: side of the pictures that are compared, px.
        every: every n-th frame of a clip is taken.
        lpips, fid, csim: weights for these metrics, as `load_learned` takes them; None: not measured.
        tracker: a `Tracker`, or your own with `find` or as a callable; None makes one. It tracks truth and outputs.
            Heads can do without: where MediaPipe is not installed, only their pictures are compared.
        force: overwrite what an earlier run wrote.
        progress: called as (stage, done, total or None).

    Returns:
        The rows, and what had to be skipped.

    Raises:
        MediaError: no clip could be evaluated, or the folder cannot be written. WeightsError: a file is not usable.
        ValueError: an argument is off.

    Source: Face2Face^rho, Sec. 4 (self- and cross-reenactment); the protocol in full is in docs/evaluation.md.
    """
    if every < 1 or heads < 0:
        raise ValueError(f"every: got {every}, need 1 or more; heads: got {heads}, need 0 or more")
    if not clips and not heads:
        raise ValueError("clips: got none, need at least one video, or generated heads (--heads)")
    names, portrait_names = _names(clips), _names(cross)
    sheets = [sheet_name(clip, portrait) for clip in names for portrait in (None, *portrait_names)]
    sheets += _HEAD_SHEETS.values() if heads else []
    result = Evaluation(check_folder(out, sheets, force=force), size, every)
    options = {"model": model, "weights": weights, "device": device, "dtype": dtype}
    learned = load_learned(lpips, fid, csim)
    with contextlib.ExitStack() as stack:
        own = tracker
        if own is None and (clips or importlib.util.find_spec("mediapipe")):
            own = stack.enter_context(Tracker())
        if heads:
            _heads(
                heads,
                Methods(**options),
                Judge(None if own is None else Faces(own, size), learned),
                result,
                force,
                progress,
            )
        if clips:
            task = _Task(Faces(own, size), _Renderers(own, size, options), learned, result, force, progress)
            task.run(clips, names, cross, portrait_names)
    if not result.rows:
        raise MediaError(f"none of the clips can be evaluated: {'; '.join(result.skipped)}")
    result.numbers = numbers(result.rows, result.model)
    write(result, force=force)
    return result


def _heads(
    count: int, methods: Methods, judge: Judge, result: Evaluation, force: bool, progress: Progress | None
) -> None:
    """Everything that generated heads are good for."""
    result.model = methods.model
    if judge.faces is None:
        result.skipped.append("MediaPipe is not installed: of the generated heads only the pictures are compared")
    found = judge_heads(count, result.size, methods, judge, progress)
    result.rows += found.rows(count)
    steady = min(count, _STEADY_HEADS)
    result.rows += judge_steadiness(steady, _STEADY_FRAMES, result.size, methods, progress)
    result.rows += judge_sizes(min(count, _SIZE_HEADS), result.size, methods, progress)
    for test, pictures in found.sheets.items():
        result.sheets.append(sheet(pictures, result.folder / _HEAD_SHEETS[test], force=force))


class _Task(NamedTuple):
    """The evaluation on clips while it runs."""

    faces: Faces
    renderers: _Renderers
    learned: Learned
    result: Evaluation
    force: bool
    progress: Progress | None

    def run(
        self,
        clips: Sequence[str | os.PathLike[str]],
        names: list[str],
        cross: Sequence[str | os.PathLike[str]],
        portrait_names: list[str],
    ) -> None:
        """Every clip that can be read, by itself and with every portrait."""
        portraits = list(self.portraits(cross, portrait_names))
        for path, name in zip(clips, names, strict=True):
            try:
                clip = read_clip(path, name, self.faces, self.result.every, self.progress)
            except FastreenactError as error:
                self.result.skipped.append(str(error))
                continue
            self.result.skipped += clip.notes
            self.self_reenactment(clip)
            for portrait, picture, face in portraits:
                self.cross_reenactment(clip, portrait, picture, face)
            self.result.model = self.renderers.model

    def portraits(
        self, paths: Sequence[str | os.PathLike[str]], names: list[str]
    ) -> Iterator[tuple[str, Picture, SourceFace]]:
        """Name, picture and face of every portrait that can be used."""
        for path, name in zip(paths, names, strict=True):
            try:
                picture = read_image(path)
                yield name, picture, self.faces.portrait(picture)
            except FastreenactError as error:
                text = str(error)
                self.result.skipped.append(text if shown(path) in text else f"{shown(path)}: {text}")

    def self_reenactment(self, clip: Clip) -> None:
        """The clip's own portrait: everything is measured."""
        size = self.faces.size
        truths = [
            Truth(frame, metrics.face_mask(points, size, size), points, points, clip.shape, motion)
            for frame, points, motion in zip(clip.frames, clip.keypoints, clip.motions, strict=True)
        ]
        self._clip(clip, None, clip.source, clip.still, clip.motions, truths, truths)
        self.result.faceless[clip.name] = clip.faceless

    def cross_reenactment(self, clip: Clip, portrait: str, picture: Picture, face: SourceFace) -> None:
        """Another portrait with the clip's motion: there is no true image, so only what can be tracked is measured."""
        truths, own = (
            [Truth(None, None, None, None, shape, motion) for motion in clip.own_motions]
            for shape in (face.shape, clip.own_shape)
        )
        still = crop(picture, face.box, self.faces.size)
        self._clip(clip, portrait, picture, still, clip.own_motions, truths, own)

    def _clip(
        self,
        clip: Clip,
        portrait: str | None,
        source: Picture,
        still: Picture,
        motions: list[Motion],
        truths: list[Truth],
        own: list[Truth],
    ) -> None:
        """Every method, measured against `truths`; the true frames, tracked again, against `own`. Rows and a sheet."""
        judge = Judge(self.faces, self.learned)
        rest = self.faces(still)
        identity = None if rest is None else self.learned.identity(still, rest)
        measured: dict[str, _Measured] = {}
        with self.renderers.of(source) as methods:
            for method, engine in methods.items():
                stage = " ".join(filter(None, (clip.name, portrait, method)))
                measured[method] = self._render(engine, still, motions, truths, judge, identity, stage)
        samples = {name: done.samples for name, done in measured.items()}
        samples[TRUE_IMAGE] = [
            Sample(judge.tracked(points, truth), points is None) for points, truth in zip(clip.again, own, strict=True)
        ]
        wanted = [seen for seen in map(self.learned.features, clip.frames) if seen is not None]
        test = CLIPS if portrait is None else CROSS_CLIPS
        for part, chosen in (("all", range(len(motions))), (LARGEST, clip.large.tolist())):
            for method, found in samples.items():
                names = (test, clip.name, portrait, method, part)
                self.result.rows.append(row(names, [found[i] for i in chosen], [wanted[i] for i in chosen if wanted]))
        pictures = {"driver": [clip.frames[i] for i in sheet_places(len(clip.frames))]}
        pictures |= {name: done.frames for name, done in measured.items()}
        path = self.result.folder / sheet_name(clip.name, portrait)
        self.result.sheets.append(sheet(pictures, path, force=self.force))

    def _render(
        self,
        engine: Engine | None,
        still: Picture,
        motions: list[Motion],
        truths: list[Truth],
        judge: Judge,
        identity: Any,
        stage: str,
    ) -> _Measured:
        """Every frame of a method, measured; those for the contact sheet are kept."""
        samples, frames, places = [], [], set(sheet_places(len(motions)))
        for i, (motion, truth) in enumerate(zip(motions, truths, strict=True)):
            got = still if engine is None else engine.step(motion)
            samples.append(judge.sample(got, truth, identity))
            if i in places:
                frames.append(got)
            if self.progress is not None:
                self.progress(stage, i + 1, len(motions))
        return _Measured(samples, frames)


def _names(paths: Sequence[str | os.PathLike[str]]) -> list[str]:
    """The files' stems, told apart where they are the same."""
    names: list[str] = []
    for path in paths:
        stem = shown(Path(path).stem)
        name, count = stem, 1
        while name in names:
            count += 1
            name = f"{stem}-{count}"
        names.append(name)
    return names
