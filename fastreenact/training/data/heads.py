"""Generated heads to train on: one person in one shot under several motions."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from fastreenact.face.morphable.model import LOWER_LIDS, UPPER_LIDS, default_model
from fastreenact.models.face2face_rho.head_pose import head_pose_input
from fastreenact.synth.heads.render import Person, Rendered, flow, make_person, random_expression, random_pose, render
from fastreenact.training.data.batches import Draw, Frame

_DRIVERS = 4  # of each source: a person costs more than a frame
_SPREADS = (0.3, 1.2)  # of the poses of a draw: some people hardly move
_FAR_SHARE, _REACHES = 0.3, (0.08, 0.35)  # and some go out of the picture, in normalised units
_NEAR_SHARE, _NEAREST = 0.3, 0.6  # and some stay near the source: so far of the way to a random motion at most
# Some pictures end before their square does, as crops of portraits and frames with bars do: how wide the rest is.
_BAR_SHARE, _BARS = 0.15, (0.02, 0.2)
_PER_PERSON = 60  # draws of each person in what counts as one pass, as for a folder of videos
# What tracking and fitting get wrong. In normalised coordinates (0.6 and 0.2 px at 256): where the tracker puts a
# person's keypoints, in all frames alike, and from frame to frame. In coefficients: the shape, of which one picture
# tells little in depth, and expressions. Together 0.8 px at 256 between drawn and true keypoints of a driver; fits of
# four real clips leave 0.5 to 0.9.
_PLACE_ERROR, _FRAME_ERROR = 0.005, 0.0015
_SHAPE_ERROR, _EXPRESSION_ERROR = 0.5, 0.03
# In deep-set eyes a tracker puts the upper lids too low, alike in all frames: by so much of the way to the lower ones.
_LOW_LIDS_SHARE, _LOW_LIDS = 0.5, 0.45


class HeadPairs:
    """Generated heads as a `Dataset`, their keypoints as inexact as those of an animation.

    Attributes:
        size: side of the pictures, px.
        metadata: the convention of the poses.
        broken: empty.
    """

    def __init__(self, size: int, *, first: int = 0, people: int = 100_000):
        """People have the seeds first to first + people - 1: keep those of training and evaluation apart.

        Raises:
            ValueError: no people, or a negative seed.
        """
        if people < 1 or first < 0:
            raise ValueError(f"people: got {people} from seed {first}, need at least 1 from a seed of at least 0")
        self.size = size
        self.metadata: Mapping[str, str] = {"head_pose": "official"}
        self.broken: dict[str, str] = {}
        self._first, self._people = first, people

    def __len__(self) -> int:
        """60 draws a person."""
        return _PER_PERSON * self._people

    def draw(self, rng: np.random.Generator) -> Draw:
        """A random person in a random shot, the source often calmer than its drivers."""
        person = make_person(self._first + int(rng.integers(self._people)))
        shot, place = int(rng.integers(2**31)), rng.normal(0, _PLACE_ERROR, (72, 2))
        strengths, spread = (rng.random() ** 0.5, *[1.0] * _DRIVERS), rng.uniform(*_SPREADS)
        reach = rng.uniform(*_REACHES) if rng.random() < _FAR_SHARE else 0.0
        motions = [(_pose(rng, spread, reach), random_expression(rng, strength)) for strength in strengths]
        if rng.random() < _NEAR_SHARE:
            shares = (0.0, *rng.uniform(0, _NEAREST, _DRIVERS))
            pose, expression = motions[0]
            motions = [
                (pose + np.float32(t) * (p - pose), expression + np.float32(t) * (e - expression))
                for t, (p, e) in zip(shares, motions, strict=True)
            ]
        source, *drivers = (render(person, *motion, self.size, shot) for motion in motions)
        flows = [_flow(person, driver, source, shot) for driver in drivers]
        if rng.random() < _BAR_SHARE:
            source, drivers, flows = _barred(source, drivers, flows, rng)
        fitted = _Fitted(person, rng)
        tracked = source.keypoints + place
        offset = tracked - fitted.keypoints(source)
        low = rng.uniform(0, _LOW_LIDS) * (rng.random() < _LOW_LIDS_SHARE)
        return Draw(
            self._frame(source, _low_lids(tracked, low), rng),
            [self._frame(driver, _low_lids(fitted.keypoints(driver) + offset, low), rng) for driver in drivers],
            flows,
        )

    def _frame(self, seen: Rendered, place: NDArray[np.floating], rng: np.random.Generator) -> Frame:
        """A picture, and its keypoints about where `place` [72, 2] says."""
        keypoints = (place + rng.normal(0, _FRAME_ERROR, (72, 2))).astype(np.float32)
        return Frame(seen.image, keypoints, seen.pose, head_pose_input(seen.pose, keypoints, self.metadata), seen.mask)


def _barred(
    source: Rendered, drivers: list[Rendered], flows: list[NDArray[np.float32]], rng: np.random.Generator
) -> tuple[Rendered, list[Rendered], list[NDArray[np.float32]]]:
    """The same with one side of all pictures black, or the edge repeated there."""
    side, size = int(rng.choice(4, p=(0.2, 0.5, 0.15, 0.15))), len(source.image)  # top, bottom, left, right
    width = max(1, round(rng.uniform(*_BARS) * size))
    first, black = size - width if side % 2 else 0, rng.random() < 0.5
    at = (slice(first, first + width), slice(None)) if side < 2 else (slice(None), slice(first, first + width))
    edge = first - 1 if side % 2 else width
    next_to = (slice(edge, edge + 1), slice(None)) if side < 2 else (slice(None), slice(edge, edge + 1))

    def cut(seen: Rendered) -> Rendered:
        image, mask = seen.image.copy(), seen.mask.copy()
        image[at], mask[at] = (0 if black else image[next_to]), False
        return seen._replace(image=image, mask=mask)

    cells = (np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1
    still = np.stack(np.broadcast_arrays(cells, cells[:, None]))
    found = []
    for flow_of in flows:
        known = flow_of.copy()
        along = known[1 if side < 2 else 0]
        edge_at = 2 * first / size - 1 if side % 2 else 2 * width / size - 1
        known[2] *= along < edge_at if side % 2 else along > edge_at  # what the bar hides in the source
        known[(slice(0, 2), *at)] = still[(slice(None), *at)]
        known[(2, *at)] = 1.0 if black else 0.0
        found.append(known)
    return cut(source), [cut(driver) for driver in drivers], found


class _Fitted:
    """The face model as it would be fitted to a person: the engine drives with its keypoints, less how far they are off
    in the portrait."""

    def __init__(self, person: Person, rng: np.random.Generator):
        self._model, self._rng = default_model(), rng
        self._shape = (person.shape + rng.normal(0, _SHAPE_ERROR, len(person.shape))).astype(np.float32)

    def keypoints(self, seen: Rendered) -> NDArray[np.float32]:
        """[72, 2] normalised."""
        off = self._rng.normal(0, _EXPRESSION_ERROR, len(seen.expression))
        return self._model.project(self._shape, (seen.expression + off).astype(np.float32), seen.pose)


def _low_lids(keypoints: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    """[72, 2] with the upper lids that share of the way to the lower ones."""
    found = keypoints.copy()
    found[UPPER_LIDS] += share * (keypoints[LOWER_LIDS] - keypoints[UPPER_LIDS])
    return found


def _pose(rng: np.random.Generator, spread: float, reach: float) -> NDArray[np.float32]:
    """A random pose [6], its place and size strewn over `reach` besides."""
    pose = random_pose(rng, spread)
    x, y, size = rng.normal(0, reach, 3)
    pose[3:] += (x, y, pose[5] * np.expm1(np.clip(0.6 * size, -0.4, 0.4)))
    return pose


def _flow(person: Person, driver: Rendered, source: Rendered, shot: int) -> NDArray[np.float32]:
    """[3, S, S] as a batch has it: where the source shows each pixel of the driver, and whether it does."""
    found = flow(person, driver, source, shot)
    inside = (np.abs(found.field) < 1).all(axis=-1)  # NaN is not
    at = (np.arange(found.field.shape[0], dtype=np.float32) + 0.5) * (2 / found.field.shape[0]) - 1
    still = np.stack(np.broadcast_arrays(at, at[:, None]), -1)
    field = np.where(found.behind[..., None], still, np.nan_to_num(found.field))
    known = np.concatenate((field, ((found.visible & inside) | found.behind)[..., None]), axis=-1)
    return np.ascontiguousarray(known.transpose(2, 0, 1), np.float32)
