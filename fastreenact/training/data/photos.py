"""Any folder of portraits as training data: each still picture is made a head that moves."""

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastreenact.errors import FastreenactError, MediaError, NoFaceError
from fastreenact.face.keypoints import MIRROR
from fastreenact.face.source import fit_source
from fastreenact.face.track.tracker import Tracker
from fastreenact.media import read_image
from fastreenact.models.face2face_rho.head_pose import head_pose_input
from fastreenact.synth.heads.render import random_expression
from fastreenact.synth.heads.scene import Scene, make_scene, photograph
from fastreenact.synth.photos.head import PhotoHead, prepare
from fastreenact.synth.photos.layers import Cutout
from fastreenact.synth.photos.render import Seen, flow, render
from fastreenact.training.data.batches import Draw, Frame, broken_summary, checked_size

Array = NDArray[np.float32]

SUFFIXES = (".avif", ".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
_PER_PHOTO = 60  # draws of each photograph in what counts as one pass, as of each person elsewhere
_DRIVERS = 4  # of a draw
_DRAWS = 100  # unusable photographs in a row before the folder counts as unusable
_KEPT_BYTES = 2_000_000_000  # of prepared photographs; those not used for longest are prepared anew
_LEAST_DETAIL = 0.6  # px of the photograph for a pixel of a frame
_GOOD_FIT = 0.05  # normalised units, as for a driver's frame
_LEAST_SEEN = 0.95  # rad of yaw from which on a photograph shows too little of the other side
_IRISES = (468, 473)  # of the tracker's 478 points, image left first
_TURN = np.array((0.1, 0.2, 0.08))  # rad, deviations of the head's turns from the photograph's
_SPREADS = (0.3, 1.3)  # of the poses of a draw: some people hardly move
_TURN_LIMIT = np.array((0.3, 0.4, 0.3))
_FLIP_POSE = np.array((1, -1, -1, -1, 1, 1), np.float32)
_FLIP_FLOW = np.array((-1, 1, 1), np.float32)[:, None, None]
_TURN_KEPT = 0.75  # share of the photograph's own turn that is kept: frames are a little more frontal than it


class _Camera(NamedTuple):
    """Of one draw."""

    scene: Scene
    zoom: float
    shift: Array  # [2] normalised
    flipped: bool


class PhotoFolder:
    """Photographs of any people as `fastreenact.training.data.batches.Dataset`.

    The face is tracked and fitted; its colours are put on the surface of a generated head with that shape, what is
    hidden is taken from the other side or continued; the rest of the person goes with the head down to the shoulders;
    the background stays. A draw is one photograph under several motions, all rendered, with exact keypoints.
    A photograph is read when it is first drawn and then kept in memory: 2 MB at 256 px, 2 GB in all.

    Attributes:
        size: S, side of the pictures, px.
        metadata: the convention of the head poses.
        broken: photograph, by its path in the folder -> why it was skipped; known once it was drawn.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        size: int = 256,
        *,
        tracker: Any = None,
        cut_out: Callable[[NDArray[np.uint8]], Array] | None = None,
    ):
        """Look for photographs in the folder and below it, and prepare the first that can be used.

        Args:
            root: the folder.
            size: S, 64 to 2048.
            tracker: as for `face.source.locate_face`; None makes a `Tracker`.
            cut_out: gives the share [H, W], 0..1, that the person covers of the pixels of a picture; None: `Cutout`.

        Raises:
            MediaError: no folder, or no photograph in it that can be used.
            FastreenactError: MediaPipe is missing. ValueError: a size out of range.
        """
        self.size = checked_size(size)
        self.metadata: Mapping[str, str] = {"head_pose": "official"}
        self.broken: dict[str, str] = {}
        self._root = Path(root)
        if not self._root.is_dir():
            raise MediaError(f"{self._root} is not a folder: name one that holds photographs of faces")
        self._tracker = Tracker() if tracker is None else tracker
        self._cut_out = Cutout() if cut_out is None else cut_out
        self._lock, self._tracking = threading.Lock(), threading.Lock()
        self._kept: OrderedDict[str, PhotoHead] = OrderedDict()
        found = (path for path in self._root.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
        self._names = sorted(path.relative_to(self._root).as_posix() for path in found)
        if all(self._head(name) is None for name in self._names):
            raise MediaError(
                f"{self._root}: no photograph in it can be used ({broken_summary(self)}); give pictures of one face "
                f"each ({', '.join(SUFFIXES)}), with hair and neck at least {_LEAST_DETAIL * size:.0f} px large"
            )

    def __len__(self) -> int:
        """60 draws a photograph."""
        return _PER_PHOTO * len(self._names)

    def draw(self, rng: np.random.Generator) -> Draw:
        """A random photograph under random motions, the source often calmer than its drivers.

        Raises:
            FastreenactError: a hundred photographs in a row could not be used.
        """
        for _ in range(_DRAWS):
            head = self._head(self._names[rng.integers(len(self._names))])
            if head is not None:
                break
        else:
            raise FastreenactError(f"{_DRAWS} photographs in a row could not be used ({broken_summary(self)})")
        camera = _random_camera(rng)
        strengths = (rng.random() ** 0.5, *[1.0] * _DRIVERS)
        spread = rng.uniform(*_SPREADS)
        motions = [(_random_pose(head.pose, camera, spread, rng), random_expression(rng, s)) for s in strengths]
        source, *drivers = (render(head, *motion, camera.zoom, camera.shift, self.size) for motion in motions)
        frames = [self._frame(s, pose, camera, rng) for s, (pose, _) in zip((source, *drivers), motions, strict=True)]
        flows = [flow(driver, source) for driver in drivers]
        if camera.flipped:
            flows = [np.ascontiguousarray(f[..., ::-1] * _FLIP_FLOW) for f in flows]
        return Draw(frames[0], frames[1:], flows)

    def _frame(self, seen: Seen, pose: Array, camera: _Camera, rng: np.random.Generator) -> Frame:
        image = photograph(camera.scene, seen.picture.clamp(0, 1).square().numpy(), rng)
        keypoints, mask = seen.keypoints, seen.mask
        if camera.flipped:
            image, mask = np.ascontiguousarray(image[:, ::-1]), np.ascontiguousarray(mask[:, ::-1])
            keypoints = np.ascontiguousarray(keypoints[MIRROR] * np.array((-1, 1), np.float32))
            pose = pose * _FLIP_POSE
        return Frame(image, keypoints, pose, head_pose_input(pose, keypoints, self.metadata), mask)

    def _head(self, name: str) -> PhotoHead | None:
        """A photograph, prepared; None and a note in `broken` if it cannot be used."""
        with self._lock:
            if name in self.broken:
                return None
            if name in self._kept:
                self._kept.move_to_end(name)
                return self._kept[name]
        try:
            head = self._prepared(name)
        except (MediaError, NoFaceError, ValueError, np.linalg.LinAlgError) as error:
            with self._lock:
                self.broken[name] = " ".join(str(error).split())
            return None
        with self._lock:
            self._kept[name] = head
            while len(self._kept) > max(1, _KEPT_BYTES // head.nbytes):
                self._kept.popitem(last=False)
        return head

    def _prepared(self, name: str) -> PhotoHead:
        image = read_image(self._root / name)
        with self._tracking:
            found = getattr(self._tracker, "find", self._tracker)(image)
        if found is None:
            raise NoFaceError("no face found")
        face = fit_source(found.points)
        least = _LEAST_DETAIL * self.size
        if face.box.size < least:
            raise MediaError(f"the face with hair and neck is {face.box.size:.0f} px large, need {least:.0f}")
        if np.linalg.norm(face.tracked - face.keypoints, axis=1).mean() > _GOOD_FIT:
            raise NoFaceError("the face model does not fit what was found")
        if abs(face.pose[1]) > _LEAST_SEEN:
            raise NoFaceError("the face is turned too far away")
        irises = found.points[list(_IRISES), :2] if len(found.points) > max(_IRISES) else None
        return prepare(image, face, irises, self.size, self._cut_out)


def _random_camera(rng: np.random.Generator) -> _Camera:
    scene = make_scene(int(rng.integers(2**31)))
    shift = rng.uniform(-0.06, 0.06, 2).astype(np.float32)
    return _Camera(scene, float(rng.uniform(0.9, 1.1)), shift, bool(rng.random() < 0.5))


def _random_pose(own: Array, camera: _Camera, spread: float, rng: np.random.Generator) -> Array:
    """A pose [6] in the frame, turned by up to about 25 degrees from the photograph's own."""
    turn = _TURN_KEPT * own[:3] + spread * rng.normal(0, _TURN)
    turn = np.clip(turn, own[:3] - _TURN_LIMIT, own[:3] + _TURN_LIMIT)
    place = (own[3:5] + spread * rng.normal(0, (0.04, 0.03))) * camera.zoom + camera.shift
    scale = own[5] * camera.zoom * np.exp(np.clip(rng.normal(0, 0.03), -0.08, 0.08))
    return np.array([*turn, *place, scale], np.float32)
