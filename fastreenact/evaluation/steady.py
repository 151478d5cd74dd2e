"""Does the picture stand still when the driver does, and move without flicker when the driver moves smoothly?"""

import itertools

import numpy as np
from numpy.typing import NDArray

from fastreenact.evaluation import metrics
from fastreenact.evaluation.clips import Picture, Progress
from fastreenact.evaluation.heads import FIRST_SHOT, Case, Methods, encoded, head_case, to_px
from fastreenact.evaluation.judge import Sample, row
from fastreenact.evaluation.report import STEADY, Row
from fastreenact.face.driver import Driver
from fastreenact.face.morphable.model import default_model
from fastreenact.face.retarget import Retargeter
from fastreenact.face.smoothing import FPS
from fastreenact.synth.heads.render import Rendered, random_expression, random_pose, render
from fastreenact.synth.heads.scene import make_scene

STILL, NOISY, SMOOTH = "still driver", "still driver, tracked with noise", "smooth motion"
NOISE_PX = 0.3  # standard deviation of a keypoint; what the tracker has on real pictures of 256 px
_NOISE_SIDE = 256  # px
_SETTLE = 15  # frames that the filter has to come to rest
_QUIET = 0.4  # levels; camera noise below it is lost in rounding

Array = NDArray[np.float32]


def judge_steadiness(
    heads: int, frames: int, size: int, methods: Methods, progress: Progress | None = None
) -> list[Row]:
    """How much pictures change that should not, in levels of 255.

    still: mean |out(t) - out(t - 1)|, the driver's keypoints at rest, fitted, smoothed and retargeted as in `Engine`;
    noisy: the same, each keypoint of each frame moved by Gaussian noise of 0.3 px at 256;
    smooth: mean |out(t) - out(t - 1) - (true(t) - true(t - 1))|, exact keypoints of a head that moves to and fro.

    Args:
        heads: over so many is averaged.
        frames: of each; of the still ones the first 15 do not count.
        size: side of the pictures, px.
        methods: what is measured, beside the source unchanged.
        progress: called as (stage, heads done, heads).

    Returns:
        A row for each of the three and each method.
    """
    renderers = methods.at(size)
    found: dict[tuple[str, str], list[Sample]] = {}
    for index in range(heads):
        case = head_case(index, size)
        for kind, motions in ((STILL, _still(case, frames, 0.0)), (NOISY, _still(case, frames, NOISE_PX))):
            for name, drive in encoded(renderers, case.source).items():
                found.setdefault((kind, name), []).extend(_changes([drive(*m) for m in motions], motions, size))
        true = _smooth(case, frames, size)
        for name, drive in encoded(renderers, true[0]).items():
            pictures = [drive(t.keypoints, t.pose) for t in true]
            found.setdefault((SMOOTH, name), []).extend(_flicker(pictures, true))
        if progress is not None:
            progress("steadiness", index + 1, heads)
    return [row((STEADY, kind, None, name, "all"), samples) for (kind, name), samples in found.items()]


def _still(case: Case, frames: int, noise_px: float) -> list[tuple[Array, Array]]:
    """Keypoints and poses of a portrait whose driver, somebody else, keeps still."""
    rng = np.random.default_rng((FIRST_SHOT, case.shot))
    model = default_model()
    seen = model.project(case.other.shape, random_expression(rng), random_pose(rng))
    points, noise = to_px(seen, _NOISE_SIDE), rng.normal(0, noise_px, (_SETTLE + frames, *seen.shape))
    driver = Driver(model)
    retarget = Retargeter(model, case.person.shape, case.source.expression, case.source.pose)
    times = [t / FPS for t in range(_SETTLE + frames)]
    motions = [driver.observe((points + noise[t]).astype(np.float32), time) for t, time in enumerate(times)]
    return [retarget(motion, time) for motion, time in zip(motions, times, strict=True)][_SETTLE:]


def _changes(pictures: list[Picture], motions: list[tuple[Array, Array]], size: int) -> list[Sample]:
    """How much each picture differs from the one before: on the whole, and in the face."""
    samples = []
    for before, picture, (keypoints, _) in zip(pictures[:-1], pictures[1:], motions[1:], strict=True):
        change = np.abs(picture.astype(np.int16) - before)
        mask = metrics.face_mask(to_px(keypoints, size), size, size)
        samples.append(Sample({"levels": float(change.mean()), "levels_face": float(change[mask].mean())}))
    return samples


def _smooth(case: Case, frames: int, size: int) -> list[Rendered]:
    """A head that moves from its portrait to somewhere else and back, each of pose and expression in its own time."""
    rng = np.random.default_rng((FIRST_SHOT, case.shot, 1))
    pose, expression = random_pose(rng), random_expression(rng)
    scenes = itertools.count(FIRST_SHOT + (case.shot << 8))  # of these, one whose camera does not flicker itself
    shot = next(s for s in scenes if make_scene(s).noise < _QUIET and not make_scene(s).quality)
    found = []
    for t in range(frames):
        there, said = (0.5 - 0.5 * np.cos(2 * np.pi * t / (FPS * period_s)) for period_s in (2.0, 1.3))
        found.append(
            render(
                case.person,
                case.source.pose + there * (pose - case.source.pose),
                case.source.expression + said * (expression - case.source.expression),
                size,
                shot,
            )
        )
    return found


def _flicker(pictures: list[Picture], true: list[Rendered]) -> list[Sample]:
    """How far the change from picture to picture is from the true one."""
    samples = []
    for t in range(1, len(true)):
        off = [
            picture.astype(np.int16) - known.image
            for picture, known in zip(pictures[t - 1 : t + 1], true[t - 1 : t + 1], strict=True)
        ]
        change = np.abs(off[1] - off[0])
        samples.append(Sample({"levels": float(change.mean()), "levels_face": float(change[true[t].mask].mean())}))
    return samples
