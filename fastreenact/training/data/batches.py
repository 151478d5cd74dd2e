"""What training is fed with: frames of one person, batches of them, and the folder of the official VoxCeleb layout."""

import os
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fastreenact import ops
from fastreenact.errors import FastreenactError, MediaError
from fastreenact.media import read_image
from fastreenact.models.face2face_rho.head_pose import pose_of_official
from fastreenact.models.protocol import LEAST_SIZE, MOST_SIZE
from fastreenact.training.data.bases import Base, join_bases, landmark_bases

_DRAWN_AT = (16, 8, 4)  # layout 0, 1, 2 is drawn at motion_size / this
_PER_PERSON = 60  # pairs of each person in what counts as one pass. Source: released code, num_repeats
_LOADERS = 2  # threads that make batches, and batches that wait ready
_KEPT = 128  # batches in memory that may be used again
_DRAWS = 100  # broken pairs in a row before a folder counts as unusable


def checked_size(size: int) -> int:
    """`size` of the pictures, px; raises ValueError where models do not go there."""
    if not LEAST_SIZE <= size <= MOST_SIZE:
        raise ValueError(f"size: got {size}, need {LEAST_SIZE} to {MOST_SIZE} px")
    return size


class Frame(NamedTuple):
    """One picture of a face and what is known of it."""

    image: NDArray[np.uint8]  # [S, S, 3] RGB
    keypoints: NDArray[np.float32]  # [72, 2], -1 and 1 at the picture's edges
    pose: NDArray[np.float32]  # [6] rx, ry, rz, tx, ty, scale, as `face.fit` gives it
    head_pose: NDArray[np.float32]  # [6] as the network takes it
    mask: NDArray[np.bool_]  # [S, S] the face; False everywhere where it is not known


class Draw(NamedTuple):
    """One source, and what has to become of it."""

    source: Frame
    drivers: list[Frame]  # one or more: the same person in the same shot
    flows: list[NDArray[np.float32]] | None = None  # [3, S, S] for each driver where it is known, as in `Batch`


class Dataset(Protocol):
    """Anything to train on; the same random state draws the same, whatever was asked before."""

    size: int  # S, side of the pictures, px
    metadata: Mapping[str, str]  # `head_pose` and what belongs to it, for the weights file (see models.head_pose)

    @property
    def broken(self) -> dict[str, str]:
        """What was skipped so far, and why."""

    def __len__(self) -> int:
        """Draws that count as one pass."""

    def draw(self, rng: np.random.Generator) -> Draw:
        """One source with its drivers; may be called by several threads at once."""


class Batch(NamedTuple):
    """N pairs of source and driver. M is the motion size."""

    source: Tensor  # [N, 3, S, S] RGB in [-1, 1]
    driver: Tensor  # likewise: what the network has to make of the source
    source_landmarks: tuple[Tensor, Tensor, Tensor]  # [N, 3, h, h] in [-1, 1], h = M/16, M/8, M/4
    driver_landmarks: tuple[Tensor, Tensor, Tensor]
    source_pose: Tensor  # [N, 6] as the network takes it
    driver_pose: Tensor
    mask: Tensor  # [N, 1, S, S], 1 on the driver's face; 0 everywhere where there is no mask
    base: Base | None  # the landmark warp of each pair, for networks that draw over it
    flow: Tensor | None  # [N, 3, S, S]: where the source shows what the driver shows (x, y), and 1 where it does
    distinct: Tensor  # [K] int64: a pair with each source, for pairs of one draw share theirs
    source_of: Tensor  # [N] int64: which of the K sources a pair has


def batch_of(
    dataset: Dataset, seed: int, step: int | None, batch: int, motion_size: int, *, base: bool, rank: int = 0
) -> Batch:
    """The batch of a step, the same whenever it is asked for; step None: one that no step trains on the same way.

    Args:
        seed: of the run.
        step: its number.
        batch: N.
        motion_size: M that the landmark images are drawn for.
        base: whether to make the landmark warp of each pair.
        rank: of the process, where several share a step; each has draws of its own.
    """
    key = (seed, 1, 0) if step is None else (seed, rank and rank + 1, step)
    pairs: list[tuple[Frame, Frame]] = []
    distinct: list[int] = []
    source_of: list[int] = []
    bases: list[Base] = []
    flows: list[NDArray[np.float32]] = []
    place = 0
    while len(pairs) < batch:
        drawn = dataset.draw(np.random.default_rng((*key, place)))
        drivers = drawn.drivers[: batch - len(pairs)]
        distinct.append(len(pairs))
        source_of += [place] * len(drivers)
        pairs += [(drawn.source, driver) for driver in drivers]
        bases += landmark_bases(drawn.source, drivers) if base else []
        flows += (drawn.flows or _no_flows(len(drivers), dataset.size))[: len(drivers)]
        place += 1
    sources, drivers = [list(frames) for frames in zip(*pairs, strict=True)]
    return Batch(
        _pictures(sources),
        _pictures(drivers),
        _drawings(sources, motion_size),
        _drawings(drivers, motion_size),
        _poses(sources),
        _poses(drivers),
        torch.from_numpy(np.stack([f.mask for f in drivers])).float()[:, None],
        join_bases(bases) if base else None,
        torch.from_numpy(np.stack(flows)) if base else None,
        torch.tensor(distinct),
        torch.tensor(source_of),
    )


def _no_flows(count: int, size: int) -> list[NDArray[np.float32]]:
    return [np.zeros((3, size, size), np.float32)] * count


def _pictures(frames: list[Frame]) -> Tensor:
    return torch.stack([picture_tensor(frame.image) for frame in frames])


def _poses(frames: list[Frame]) -> Tensor:
    return torch.from_numpy(np.stack([frame.head_pose for frame in frames]))


def _drawings(frames: list[Frame], motion_size: int) -> tuple[Tensor, Tensor, Tensor]:
    return draw_landmarks(np.stack([frame.keypoints for frame in frames]), motion_size)


def batches(
    dataset: Dataset,
    seed: int,
    steps: range,
    batch: int,
    motion_size: int,
    *,
    base: bool,
    rank: int = 0,
    reuse: int = 1,
) -> Iterator[Batch]:
    """The batches of `steps` in turn; the next ones are made by threads meanwhile.

    Args:
        dataset, seed, batch, motion_size, base, rank: as `batch_of` has them.
        steps: their numbers.
        reuse: every so many steps a batch is new, the others take one of the last ones again.
    """
    made: dict[int, Future[Batch]] = {}
    ahead: deque[Future[Batch]] = deque()
    executor = ThreadPoolExecutor(_LOADERS)

    def ask(step: int) -> Future[Batch]:
        number = _which(seed, step, reuse)
        if number not in made:
            made[number] = executor.submit(batch_of, dataset, seed, number, batch, motion_size, base=base, rank=rank)
        for old in [n for n in made if n <= step // reuse - (_KEPT if reuse > 1 else 0)]:
            if old != number:
                del made[old]
        return made[number]

    try:
        coming = iter(steps)
        while True:
            ahead.extend(ask(step) for step in islice(coming, _LOADERS - len(ahead)))
            if not ahead:
                return
            yield ahead.popleft().result()
    finally:
        executor.shutdown(cancel_futures=True)


def _which(seed: int, step: int, reuse: int) -> int:
    """The number of the batch that a step takes: a new one, or one of the last `_KEPT`."""
    newest, again = divmod(step, reuse)
    if not again or not newest:
        return newest
    return newest - int(np.random.default_rng((seed, 2, step)).integers(min(_KEPT, newest + 1)))


def draw_landmarks(keypoints: NDArray[np.float32], motion_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Landmark images of keypoints [N, 72, 2]: [N, 3, h, h] in [-1, 1], h = M/16, M/8, M/4 for M `motion_size`."""
    points = torch.from_numpy(np.ascontiguousarray(keypoints, np.float32))
    small, middle, large = (
        ops.rasterize_landmarks(points, motion_size // part, layout).permute(0, 3, 1, 2).float() * (2 / 255) - 1
        for layout, part in enumerate(_DRAWN_AT)
    )
    return small, middle, large


def picture_tensor(image: NDArray[np.uint8]) -> Tensor:
    """uint8 [H, W, 3] -> float32 [3, H, W] in [-1, 1]."""
    return torch.from_numpy(image).permute(2, 0, 1).float().contiguous() * (2 / 255) - 1


def broken_summary(dataset: Dataset) -> str:
    """How much of the data was skipped, with the first few of it, on one line."""
    broken = dict(dataset.broken)
    first = "; ".join(f"{path}: {reason}" for path, reason in list(broken.items())[:3])
    return f"{len(broken)} skipped: {first}" if broken else "nothing skipped"


class Mixture:
    """Several data sets as one: each draw comes from one of them, by chance, as often as its share says.

    Attributes:
        size, metadata: what all of them have.
    """

    def __init__(self, parts: Mapping[str, Dataset], shares: Mapping[str, float]):
        """
        Args:
            parts: name -> data set.
            shares: name -> share of the draws, on any scale; those left out have 1.
        Raises:
            ValueError: sizes or conventions that differ, a share of what is not there, or one that is not above 0.
        """
        names, first = ", ".join(parts), next(iter(parts.values()))
        for name, part in parts.items():
            if (part.size, dict(part.metadata)) != (first.size, dict(first.metadata)):
                raise ValueError(f"{name} has another size or head pose convention than the rest of {names}")
        for name, share in shares.items():
            if name not in parts:
                raise ValueError(f"shares: {name} is not among the data ({names})")
            if not 0 < share < float("inf"):
                raise ValueError(f"shares: {name} must be above 0 and finite, got {share}")
        self.size, self.metadata = first.size, first.metadata
        self._parts = dict(parts)
        self._ends = np.cumsum([shares.get(name, 1.0) for name in parts])

    @property
    def broken(self) -> dict[str, str]:
        """What was skipped so far in any of them, and why: name/path -> reason."""
        return {f"{name}/{path}": why for name, part in self._parts.items() for path, why in dict(part.broken).items()}

    def __len__(self) -> int:
        """As many draws as all of them have."""
        return sum(map(len, self._parts.values()))

    def draw(self, rng: np.random.Generator) -> Draw:
        """A draw of one of them."""
        at = np.searchsorted(self._ends, rng.random() * self._ends[-1], side="right")
        return list(self._parts.values())[at].draw(rng)


class VoxCelebFolder:
    """A folder as the official training code reads it.

    `list.txt` names one folder a line, PERSON#VIDEO..., each with `img/N.jpg` (or .png), `landmark/N.txt` (72 lines of
    x y in [-1, 1]), `headpose/N.txt` (6 lines) and, where there are face masks, `mask/N.png` (255 on the face). A pair
    is two frames of one video of a person, the earlier one the source. Files that cannot be used are skipped, and
    `broken` says which and why.

    Source: Face2Face^rho, released code.
    """

    def __init__(self, root: str | os.PathLike[str], size: int = 256):
        """Look through the folder; pictures are read when pairs are asked for.

        Args:
            root: the folder with `list.txt`.
            size: S, side of the pictures, px; others are resized (bilinear).
        Raises:
            MediaError: no `list.txt`, or no video in it has two usable frames.
        """
        self.size = size
        self.metadata: Mapping[str, str] = {"head_pose": "official"}
        self.broken: dict[str, str] = {}
        """What was skipped so far, and why: path below the root -> reason."""
        self._lock = threading.Lock()
        self._root = Path(root)
        listing = self._root / "list.txt"
        if not listing.is_file():
            raise MediaError(f"{listing} is missing: name the folder of the VoxCeleb layout that holds list.txt")
        people: dict[str, list[tuple[str, list[str]]]] = {}
        for name in listing.read_text(encoding="utf-8", errors="replace").splitlines():
            if name.strip() and (frames := self._frames(name.strip())):
                people.setdefault(name.strip().split("#")[0], []).append((name.strip(), frames))
        self._people = list(people.values())
        if not self._people:
            raise MediaError(f"{listing}: no video in it has two usable frames ({broken_summary(self)})")

    def __len__(self) -> int:
        """60 pairs a person."""
        return _PER_PERSON * len(self._people)

    def draw(self, rng: np.random.Generator) -> Draw:
        """Two frames of a random video of a random person.

        Raises:
            FastreenactError: a hundred pairs in a row were broken.
        """
        for _ in range(_DRAWS):
            videos = self._people[rng.integers(len(self._people))]
            folder, names = videos[rng.integers(len(videos))]
            first, second = sorted(rng.choice(len(names), 2, replace=False))
            source, driver = self._read(folder, names[first]), self._read(folder, names[second])
            if source is not None and driver is not None:
                return Draw(source, [driver])
        raise FastreenactError(f"{_DRAWS} pairs in a row could not be read ({broken_summary(self)})")

    def _frames(self, folder: str) -> list[str]:
        """File names of the complete frames of a video, in time; none where there are fewer than two."""
        images = self._root / folder / "img"
        if not images.is_dir():
            self.broken[folder] = "has no folder img"
            return []
        names = []
        for image in sorted(images.iterdir()):
            if image.suffix.lower() not in (".jpg", ".jpeg", ".png"):
                continue
            needed = {kind: self._beside(folder, kind, image.name) for kind in ("landmark", "headpose")}
            lacking = [kind for kind, file in needed.items() if not file.is_file()]
            if not (image.stem.isascii() and image.stem.isdigit()):
                self.broken[f"{folder}/img/{image.name}"] = "its name is not a number"
            elif lacking:
                self.broken[f"{folder}/img/{image.name}"] = f"has no {' and no '.join(lacking)} file"
            else:
                names.append(image.name)
        if len(names) < 2:
            self.broken[folder] = f"has {len(names)} usable frames, two are needed"
            return []
        return sorted(names, key=lambda name: int(Path(name).stem))

    def _beside(self, folder: str, kind: str, image: str) -> Path:
        """The file of another kind that belongs to a picture."""
        return self._root / folder / kind / (Path(image).stem + (".png" if kind == "mask" else ".txt"))

    def _read(self, folder: str, name: str) -> Frame | None:
        """One frame, or None and a note in `broken`."""
        key = f"{folder}/img/{name}"
        with self._lock:
            if key in self.broken:
                return None
        try:
            return self._load(folder, name)
        except (OSError, ValueError, MediaError) as error:
            with self._lock:
                self.broken[key] = " ".join(str(error).split())
            return None

    def _load(self, folder: str, name: str) -> Frame:
        keypoints = _numbers(self._beside(folder, "landmark", name), (72, 2))
        head_pose = _numbers(self._beside(folder, "headpose", name), (6,))
        image = read_image(self._root / folder / "img" / name)
        mask_file = self._beside(folder, "mask", name)
        mask = np.zeros((self.size, self.size, 3), np.uint8)
        if mask_file.is_file():
            mask = self._resized(read_image(mask_file))
        pose = pose_of_official(head_pose)
        return Frame(self._resized(image), keypoints, pose, head_pose, mask[..., 0] == 255)

    def _resized(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if image.shape[:2] == (self.size, self.size):
            return image
        return np.array(Image.fromarray(image).resize((self.size, self.size), Image.Resampling.BILINEAR))


def _numbers(file: Path, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Finite numbers of a text file, as many as `shape` takes."""
    values = np.array(file.read_text(encoding="ascii").split(), np.float32)
    if values.size != np.prod(shape):
        raise ValueError(f"{file.parent.name}/{file.name} holds {values.size} numbers, need {int(np.prod(shape))}")
    if not np.isfinite(values).all():
        raise ValueError(f"{file.parent.name}/{file.name} holds numbers that are not finite")
    return values.reshape(shape)
