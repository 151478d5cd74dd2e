"""`evaluate`: reenact clips, measure against the truth and the baselines, write tables and contact sheets."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastreenact.engine import Engine
from fastreenact.errors import FastreenactError, MediaError
from fastreenact.evaluation import metrics
from fastreenact.evaluation.clips import Clip, Faces, Keypoints, Picture, Progress, read_clip
from fastreenact.evaluation.report import Evaluation, Row, check_folder, sheet, sheet_name, sheet_places, write
from fastreenact.face.crop import crop
from fastreenact.face.driver import SourceFace
from fastreenact.face.motion import Motion
from fastreenact.face.tracker import Tracker
from fastreenact.media import read_image
from fastreenact.media_files import shown

UNCHANGED, TRUE_IMAGE, BASELINE = "source unchanged", "true image, tracked again", "landmark-warp"
PIXELS = ("psnr_db", "psnr_face_db", "ssim", "ssim_face")
TRACKED = ("akd_px", "ard_deg", "geodesic_deg", "expression_percent")
ACROSS = TRACKED[1:]  # what can be said without a true image
_MOST_DB = 60.0  # a frame counts at most so much, so that equal pictures (inf) do not swallow the mean


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


Measure = Callable[[int, Picture], list[float]]  # number of the driver, output -> metrics


class _Measured(NamedTuple):
    """One method on one clip."""

    values: NDArray[np.float64]  # [T, metrics], NaN where it could not be measured
    frames: list[Picture]  # for the contact sheet


def evaluate(
    clips: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    cross: Sequence[str | os.PathLike[str]] = (),
    model: str | None = None,
    weights: Any = None,
    size: int = 256,
    every: int = 6,
    device: str | None = None,
    dtype: str | None = None,
    tracker: Any = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure a model on real clips: self-reenactment, and with `cross` the motion given to other portraits.

    Args:
        clips: videos; each one's first face is the portrait, every n-th frame after it a driver.
        out: folder for evaluation.md, evaluation.json and the contact sheets; made if need be.
        cross: portraits that get every clip's motion.
        model, weights, device, dtype: as for `Engine`.
        size: side of the pictures that are compared, px.
        every: every n-th frame of a clip is taken.
        tracker: a `Tracker`, or your own with `find` or as a callable; None makes one. It tracks truth and outputs.
        force: overwrite what an earlier run wrote.
        progress: called as (stage, done, total or None).

    Returns:
        The rows, and what had to be skipped.

    Raises:
        MediaError: no clip could be evaluated, or the folder cannot be written. ValueError: an argument is off.

    Source: Face2Face^rho, Sec. 4 (self- and cross-reenactment); the protocol in full is in docs/evaluation.md.
    """
    if every < 1:
        raise ValueError(f"every: got {every}, need 1 or more")
    if not clips:
        raise ValueError("clips: got none, need at least one video")
    names, portrait_names = _names(clips), _names(cross)
    sheets = [sheet_name(clip, portrait) for clip in names for portrait in (None, *portrait_names)]
    result = Evaluation(check_folder(out, sheets, force=force), size, every)
    options = {"model": model, "weights": weights, "device": device, "dtype": dtype}
    with contextlib.ExitStack() as stack:
        own = stack.enter_context(Tracker()) if tracker is None else tracker
        task = _Task(Faces(own, size), _Renderers(own, size, options), result, force, progress)
        portraits = list(task.portraits(cross, portrait_names))
        for path, name in zip(clips, names, strict=True):
            try:
                clip = read_clip(path, name, task.faces, every, progress)
            except FastreenactError as error:
                result.skipped.append(str(error))
                continue
            result.skipped += clip.notes
            task.self_reenactment(clip)
            for portrait, picture, face in portraits:
                task.cross_reenactment(clip, portrait, picture, face)
        result.model = task.renderers.model
    if not result.rows:
        raise MediaError(f"none of the clips can be evaluated: {'; '.join(result.skipped)}")
    write(result, force=force)
    return result


class _Task(NamedTuple):
    """One evaluation while it runs."""

    faces: Faces
    renderers: _Renderers
    result: Evaluation
    force: bool
    progress: Progress | None

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
        masks = [metrics.face_mask(points, size, size) for points in clip.keypoints]

        def measure(i: int, got: Picture) -> list[float]:
            true = clip.frames[i]
            return [
                min(_MOST_DB, metrics.psnr(got, true)), min(_MOST_DB, metrics.psnr(got, true, masks[i])),
                metrics.ssim(got, true), metrics.ssim(got, true, masks[i]), *geometry(i, self.faces(got)),
            ]  # fmt: skip

        def geometry(i: int, points: Keypoints | None) -> list[float]:
            akd = np.nan if points is None else metrics.akd_px(points, clip.keypoints[i])
            return [akd, *self._tracked(points, clip.shape, clip.motions[i])]

        with self.renderers.of(clip.source) as methods:
            measured = {
                name: self._render(engine, clip.still, clip.motions, measure, f"{clip.name} {name}")
                for name, engine in methods.items()
            }
        noise = [[np.nan] * len(PIXELS) + geometry(i, points) for i, points in enumerate(clip.again)]
        values = {name: done.values for name, done in measured.items()} | {TRUE_IMAGE: np.array(noise)}
        self.result.faceless[clip.name] = clip.faceless
        self._report(clip, None, values, PIXELS + TRACKED, measured)

    def cross_reenactment(self, clip: Clip, portrait: str, picture: Picture, face: SourceFace) -> None:
        """Another portrait with the clip's motion: there is no true image, so only what can be tracked is measured."""

        def measure(i: int, got: Picture) -> list[float]:
            return self._tracked(self.faces(got), face.shape, clip.own_motions[i])

        still = crop(picture, face.box, self.faces.size)
        with self.renderers.of(picture) as methods:
            measured = {
                name: self._render(engine, still, clip.own_motions, measure, f"{clip.name} {portrait} {name}")
                for name, engine in methods.items()
            }
        noise = [self._tracked(p, clip.own_shape, clip.own_motions[i]) for i, p in enumerate(clip.again)]
        values = {name: done.values for name, done in measured.items()} | {TRUE_IMAGE: np.array(noise)}
        self._report(clip, portrait, values, ACROSS, measured)

    def _render(
        self, engine: Engine | None, still: Picture, motions: list[Motion], measure: Measure, stage: str
    ) -> _Measured:
        """Every frame of a method, measured; those for the contact sheet are kept."""
        values, frames, places = [], [], set(sheet_places(len(motions)))
        for i, motion in enumerate(motions):
            got = still if engine is None else engine.step(motion)
            values.append(measure(i, got))
            if i in places:
                frames.append(got)
            if self.progress is not None:
                self.progress(stage, i + 1, len(motions))
        return _Measured(np.array(values), frames)

    def _tracked(self, points: Keypoints | None, shape: NDArray[np.float32], wanted: Motion) -> list[float]:
        """ACROSS of tracked keypoints; NaN for a lost face."""
        if points is None:
            return [np.nan] * len(ACROSS)
        got = self.faces.fit(points, shape)
        return [
            metrics.ard_deg(got.pose, wanted.pose),
            metrics.geodesic_deg(got.pose, wanted.pose),
            metrics.expression_distance(self.faces.model, got.expression, wanted.expression),
        ]

    def _report(
        self, clip: Clip, portrait: str | None, values: dict[str, NDArray[np.float64]], names: tuple[str, ...],
        measured: dict[str, _Measured],
    ) -> None:  # fmt: skip
        """Rows for all drivers and for the quarter with the largest motion; the contact sheet."""
        for part, chosen in (("all", np.arange(len(clip.frames))), ("largest motion", clip.large)):
            for method, found in values.items():
                self.result.rows.append(_row(clip.name, portrait, method, part, found[chosen], names))
        pictures = {"driver": [clip.frames[i] for i in sheet_places(len(clip.frames))]}
        pictures |= {name: done.frames for name, done in measured.items()}
        path = self.result.folder / sheet_name(clip.name, portrait)
        self.result.sheets.append(sheet(pictures, path, force=self.force))


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


def _row(
    clip: str, portrait: str | None, method: str, part: str, values: NDArray[np.float64], names: tuple[str, ...]
) -> Row:
    """Means over the frames that could be measured."""
    lost = int(np.isnan(values[:, -1]).sum())
    means: dict[str, float | None] = {}
    for name, column in zip(names, values.T, strict=True):
        known = column[~np.isnan(column)]
        means[name] = float(known.mean()) if len(known) else None
    return Row(clip, portrait, method, part, len(values), lost, means)
