"""Generated heads to train on: one person in one shot under several motions."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from fastreenact.models.head_pose import head_pose_input
from fastreenact.training.data import Draw, Frame
from fastreenact.training.heads import Person, Rendered, flow, make_person, random_expression, random_pose, render

_DRIVERS = 4  # of each source: a person costs more than a frame
_SPREADS = (0.3, 1.2)  # of the poses of a draw: some people hardly move
_FAR_SHARE, _REACHES = 0.3, (0.08, 0.35)  # and some go out of the picture, in normalised units
_PER_PERSON = 60  # draws of each person in what counts as one pass, as for a folder of videos
# What a tracker gets wrong, in normalised coordinates (0.6 px and 0.3 px at 256): where it puts a person's keypoints,
# in all frames alike, and from frame to frame.
_PLACE_ERROR, _FRAME_ERROR = 0.005, 0.0025


class HeadPairs:
    """Generated heads as `fastreenact.training.data.Dataset`, their keypoints as inexact as a tracker's.

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
        source, *drivers = (
            render(person, _pose(rng, spread, reach), random_expression(rng, strength), self.size, shot)
            for strength in strengths
        )
        flows = [_flow(person, driver, source, shot) for driver in drivers]
        return Draw(self._frame(source, place, rng), [self._frame(driver, place, rng) for driver in drivers], flows)

    def _frame(self, seen: Rendered, place: NDArray[np.float64], rng: np.random.Generator) -> Frame:
        keypoints = (seen.keypoints + place + rng.normal(0, _FRAME_ERROR, (72, 2))).astype(np.float32)
        return Frame(
            seen.image, keypoints, seen.pose, head_pose_input(seen.pose, keypoints, self.metadata), seen.mask
        )


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
