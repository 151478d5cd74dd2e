"""Generated heads as the truth of a reenactment, also of what no clip has: a person under another's motion."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from fastreenact.engine import resolve_device, resolve_dtype
from fastreenact.evaluation.clips import Keypoints, Picture, Progress
from fastreenact.evaluation.judge import Judge, Sample, Truth, row
from fastreenact.evaluation.report import CROSS_HEADS, SELF_HEADS, Row
from fastreenact.face.crop import Box
from fastreenact.models import MODELS, Choice, choose
from fastreenact.models.protocol import Cues, Portrait
from fastreenact.renderer import Renderer
from fastreenact.rotation import rotation_matrix, rotation_vector
from fastreenact.synth.heads.render import Person, Rendered, make_person, random_expression, random_pose, render

UNCHANGED, TRUE_IMAGE, BASELINE = "source unchanged", "true image, tracked again", "landmark-warp"
USUAL, LARGE = "poses as they come", "heads turned by 30 to 45 degrees"
FIRST_PERSON = 1_000_000  # seeds from here on are for evaluation: training takes people below, 0 to 99,999 by default
FIRST_SHOT = 1 << 31  # training draws its shots below
_CALM = 0.5  # a portrait's pose and expression beside those of a driver
_EACH = 2  # drivers of each part

_SHEET_HEADS = 4  # whose first motion of each part is shown

Array = NDArray[np.float32]
Drive = Callable[[Array, Array], Picture]  # keypoints [72, 2] and pose [6], normalised


class Target(NamedTuple):
    """What a head has to become."""

    test: str  # SELF_HEADS or CROSS_HEADS
    part: str  # USUAL or LARGE
    driver: Picture  # whose motion it is
    true: Rendered  # the head itself under this motion, with the keypoints that it is driven to


class Case(NamedTuple):
    """One portrait and its targets."""

    person: Person
    other: Person  # whose motion it gets in cross-reenactment
    shot: int
    source: Rendered
    targets: list[Target]


def head_case(index: int, size: int) -> Case:
    """The `index`-th test: a calm portrait, its own motions, and those of somebody else in another shot."""
    rng = np.random.default_rng((FIRST_PERSON, index))
    person, other = (make_person(FIRST_PERSON + 2 * index + k) for k in range(2))
    shot, elsewhere = FIRST_SHOT + 2 * index, FIRST_SHOT + 2 * index + 1
    source = render(person, random_pose(rng, _CALM), random_expression(rng, _CALM), size, shot)
    targets = []
    for test in (SELF_HEADS, CROSS_HEADS):
        for part in (USUAL, LARGE):
            for _ in range(_EACH):
                pose = random_pose(rng) if part == USUAL else _turned(rng)
                expression = random_expression(rng)
                true = render(person, pose, expression, size, shot)
                seen = true if test == SELF_HEADS else render(other, pose, expression, size, elsewhere)
                targets.append(Target(test, part, seen.image, true))
    return Case(person, other, shot, source, targets)


def _turned(rng: np.random.Generator) -> Array:
    """A pose with the head turned to a side by 30 to 45 degrees."""
    pose = random_pose(rng)
    yaw = np.radians(rng.uniform(30, 45)) * rng.choice((-1, 1))
    aside, nod = rotation_matrix(np.array([[0, yaw, 0], [pose[0], 0, pose[2]]]))
    pose[:3] = rotation_vector(aside @ nod)
    return pose


class Methods:
    """The model that is evaluated and the landmark warp, at any size, for heads whose keypoints are known."""

    def __init__(self, model: str | None, weights: Any, device: str | None, dtype: str | None):
        """As for `Engine`."""
        self.device = resolve_device(device)
        self.dtype = resolve_dtype(dtype, self.device)
        self._choice = choose(model, weights)
        self.model = self._choice.model.name

    def at(self, size: int) -> dict[str, Renderer]:
        """Name -> renderer of squares of `size` px."""
        choices = {BASELINE: Choice(MODELS[BASELINE], None), self.model: self._choice}
        return {name: Renderer(choice, size, self.dtype, self.device) for name, choice in choices.items()}


def encoded(renderers: dict[str, Renderer], source: Rendered) -> dict[str, Drive]:
    """Name -> how a portrait is driven: (keypoints, pose) -> picture. First the portrait as it is."""
    height, width = source.image.shape[:2]
    portrait = Portrait(source.image, Box.whole(width), source.keypoints, source.pose)

    def one(renderer: Renderer) -> Drive:
        resident = renderer.encode(portrait)

        def drive(keypoints: Any, pose: Any) -> Picture:
            out = torch.empty(1, height, width, 3, dtype=torch.uint8)
            return renderer.drive([resident], [Cues.known(keypoints, pose)], out)[0].numpy()

        return drive

    return {UNCHANGED: lambda keypoints, pose: source.image} | {name: one(r) for name, r in renderers.items()}


@dataclass
class HeadResults:
    """What was measured, and pictures for the contact sheets."""

    samples: dict[tuple[str, str, str], list[Sample]] = field(default_factory=dict)  # of (test, part, method)
    features: dict[tuple[str, str], list[Any]] = field(default_factory=dict)  # of the true images of (test, part)
    sheets: dict[str, dict[str, list[Picture]]] = field(default_factory=dict)  # test -> row -> pictures

    def add(self, target: Target, method: str, sample: Sample) -> None:
        """One more output."""
        self.samples.setdefault((target.test, target.part, method), []).append(sample)

    def show(self, target: Target, pictures: dict[str, Picture]) -> None:
        """One more column of a sheet."""
        rows = self.sheets.setdefault(target.test, {})
        for name, picture in pictures.items():
            rows.setdefault(name, []).append(picture)

    def rows(self, count: int) -> list[Row]:
        """One for each test, part and method."""
        return [
            row((test, f"{count} heads", None, method, part), samples, self.features.get((test, part), ()))
            for (test, part, method), samples in self.samples.items()
        ]


def judge_heads(count: int, size: int, methods: Methods, judge: Judge, progress: Progress | None = None) -> HeadResults:
    """Drive generated heads that no training has seen, and measure against what they really become.

    Args:
        count: heads, each with 4 motions of its own and 4 of somebody else, half of them turned far.
        size: side of the pictures, px.
        methods: what is measured, beside the source unchanged.
        judge: how it is measured.
        progress: called as (stage, heads done, count).
    """
    renderers, found = methods.at(size), HeadResults()
    for index in range(count):
        case = head_case(index, size)
        driven = encoded(renderers, case.source)
        identity = judge.learned.identity(case.source.image, to_px(case.source.keypoints, size))
        for number, (target, truth) in enumerate(zip(case.targets, _truths(case, judge, size), strict=True)):
            true = target.true
            outputs = {name: drive(true.keypoints, true.pose) for name, drive in driven.items()}
            for name, got in outputs.items():
                found.add(target, name, judge.sample(got, truth, identity))
            if judge.faces is not None:
                again = judge.faces(_moved(true.image))
                aside = None if again is None else again + np.float32(1.0)
                found.add(target, TRUE_IMAGE, Sample(judge.tracked(aside, truth), aside is None))
            seen = judge.learned.features(true.image)
            if seen is not None:
                found.features.setdefault((target.test, target.part), []).append(seen)
            if index < _SHEET_HEADS and number % _EACH == 0:
                del outputs[UNCHANGED]
                shown = {"source": case.source.image, "driver": target.driver, "true image": true.image}
                found.show(target, shown | outputs)
        if progress is not None:
            progress("generated heads", index + 1, count)
    return found


def to_px(keypoints: Array, size: int) -> Keypoints:
    """Normalised keypoints of a head's picture in its pixels."""
    return Box.whole(size).denormalise(keypoints)


def _moved(picture: Picture) -> Picture:
    """The picture one pixel to the left and up, its edge repeated."""
    return np.ascontiguousarray(np.pad(picture, ((0, 1), (0, 1), (0, 0)), mode="edge")[1:, 1:])


def _truths(case: Case, judge: Judge, size: int) -> list[Truth]:
    """What each target should show. Tracked truth is fitted with one shape of the person, as the outputs will be."""
    faces = judge.faces
    points = [None if faces is None else faces(target.true.image) for target in case.targets]
    known = [p for p in points if p is not None]
    shape = None if faces is None or not known else faces.shape(known)
    truths = []
    for target, found in zip(case.targets, points, strict=True):
        motion = None if faces is None or found is None or shape is None else faces.fit(found, shape)
        keypoints = to_px(target.true.keypoints, size)
        truths.append(Truth(target.true.image, target.true.mask, keypoints, found, shape, motion))
    return truths
