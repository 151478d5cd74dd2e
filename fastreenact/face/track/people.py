"""Which of several faces is whose from frame to frame, by place, speed and size, so that people may pass each other."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastreenact.face.track.backends import Points

_PATIENCE = 90  # frames after which a face that stays away is forgotten
_FAR = 1.2  # face sizes (and twice the log of sizes' ratio): a face that differs more from what is expected is another
_SIZE_WEIGHT = 2.0
_ALIKE = 0.2  # log of sizes' ratio: a face that comes while ours is away is ours, wherever it comes, if it is as large
# A face mesh of somebody half covered is pulled over both faces: nearer to another face than this share of its size, it
# may differ by so much (log of sizes' ratio) from what it was when it was clear.
_NEAR, _PULLED = 0.6, 0.05
_SPEED_SHARE = 0.3  # of a new speed in the running mean


@dataclass(slots=True)
class _Person:
    centre: NDArray[np.float32]  # px
    speed: NDArray[np.float32]  # px per frame
    size: float  # px
    clear_size: float  # px, when nobody was near
    unseen: int = 0  # frames


class Identities:
    """Follows every face, so that one that is covered for a while is waited for and not taken over by its neighbour."""

    def __init__(self, ours: Points | None = None) -> None:
        """
        Args:
            ours: where our face was last; None: the largest of the first frame is ours.
        """
        self._ours = None if ours is None else _person(*_measure(ours))
        self._people = [] if self._ours is None else [self._ours]

    def __call__(self, faces: list[Points]) -> Points | None:
        """Our face among those of a frame: the largest at first, then the same one; None while it is away."""
        for person in self._people:
            person.centre = person.centre + person.speed
        measured = [_measure(face) for face in faces]
        owners = self._match(measured)
        seen = [owner for owner in owners if owner is not None]
        for person in self._people:
            person.unseen = 0 if any(person is owner for owner in seen) else person.unseen + 1
        self._people = [person for person in self._people if person.unseen <= _PATIENCE]
        if not any(person is self._ours for person in self._people):
            self._ours = None
        for i, (centre, size) in enumerate(measured):
            owner = owners[i]
            if owner is None:
                owner = owners[i] = _person(centre, size)
                self._people.append(owner)
            else:
                owner.speed = owner.speed + _SPEED_SHARE * (centre - owner.centre)
                owner.centre, owner.size = centre, size
        if self._ours is None and faces:
            self._ours = owners[int(np.argmax([size for _, size in measured]))]
        ours = self._ours
        if ours is None or ours.unseen or self._pulled(ours, owners):
            return None
        return next(face for face, owner in zip(faces, owners, strict=True) if owner is ours)

    @staticmethod
    def _pulled(ours: _Person, owners: list[_Person | None]) -> bool:
        """Whether our face is one with its neighbour's."""
        others = [other for other in owners if other is not None and other is not ours]
        if all(np.linalg.norm(other.centre - ours.centre) > _NEAR * ours.size for other in others):
            ours.clear_size = ours.size
        return abs(float(np.log(ours.size / ours.clear_size))) > _PULLED

    def _match(self, measured: list[tuple[NDArray[np.float32], float]]) -> list[_Person | None]:
        """Who each face is, the surest first; None for somebody new."""
        costs = sorted(
            (self._cost(person, centre, size), i, j)
            for i, (centre, size) in enumerate(measured)
            for j, person in enumerate(self._people)
        )
        owners: list[_Person | None] = [None] * len(measured)
        taken: set[int] = set()
        for cost, i, j in costs:
            if cost < _FAR and owners[i] is None and j not in taken:
                owners[i] = self._people[j]
                taken.add(j)
        new = [i for i, owner in enumerate(owners) if owner is None]
        if self._ours is not None and self._ours.unseen and len(new) == 1:
            away = not any(owner is self._ours for owner in owners)
            if away and abs(float(np.log(measured[new[0]][1] / self._ours.size))) < _ALIKE:
                owners[new[0]] = self._ours
        return owners

    @staticmethod
    def _cost(person: _Person, centre: NDArray[np.float32], size: float) -> float:
        away = float(np.linalg.norm(centre - person.centre)) / person.size
        return away + _SIZE_WEIGHT * abs(float(np.log(size / person.size)))


def _person(centre: NDArray[np.float32], size: float) -> _Person:
    return _Person(centre, np.zeros(2, np.float32), size, size)


def _measure(face: Points) -> tuple[NDArray[np.float32], float]:
    low, high = face[:, :2].min(axis=0), face[:, :2].max(axis=0)
    return (low + high) / 2, max(float((high - low).max()), 1.0)
