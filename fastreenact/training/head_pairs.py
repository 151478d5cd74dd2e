"""Pairs for training from generated heads: one person in one shot under two motions."""

from collections.abc import Mapping

import numpy as np
import torch

from fastreenact.models.head_pose import head_pose_input
from fastreenact.training.data import Pair, draw_landmarks, picture_tensor
from fastreenact.training.heads import Rendered, make_person, random_expression, random_pose, render

_PER_PERSON = 60  # pairs of each person in what counts as one pass, as for a folder of videos


class HeadPairs:
    """Generated heads as `fastreenact.training.data.PairDataset`.

    Attributes:
        size: side of the pictures, px.
        motion_size: the landmark images are drawn at 1/16, 1/8 and 1/4 of it.
        metadata: the convention of the poses.
    """

    def __init__(self, size: int, motion_size: int = 256, *, first: int = 0, people: int = 100_000):
        """People have the seeds first to first + people - 1: keep those of training and evaluation apart.

        Raises:
            ValueError: no people, or a negative seed.
        """
        if people < 1 or first < 0:
            raise ValueError(f"people: got {people} from seed {first}, need at least 1 from a seed of at least 0")
        self.size, self.motion_size = size, motion_size
        self.metadata: Mapping[str, str] = {"head_pose": "official"}
        self._first, self._people = first, people

    def __len__(self) -> int:
        """60 pairs a person."""
        return _PER_PERSON * self._people

    def pair(self, rng: np.random.Generator) -> Pair:
        """A random person in a random shot, twice, the source often calmer than the driver."""
        person = make_person(self._first + int(rng.integers(self._people)))
        shot = int(rng.integers(2**31))
        source, driver = (
            render(person, random_pose(rng), random_expression(rng, strength), self.size, shot)
            for strength in (rng.random() ** 0.5, 1.0)
        )
        return Pair(
            picture_tensor(source.image), picture_tensor(driver.image),
            draw_landmarks(source.keypoints, self.motion_size), draw_landmarks(driver.keypoints, self.motion_size),
            self._pose(source), self._pose(driver), torch.from_numpy(driver.mask).float()[None],
        )  # fmt: skip

    def _pose(self, seen: Rendered) -> torch.Tensor:
        return torch.from_numpy(head_pose_input(seen.pose, seen.keypoints, self.metadata))
