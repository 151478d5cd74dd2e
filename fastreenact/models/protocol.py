"""The contract between the engine and its models: what each side offers, and the two calls between them.

The engine tracks, follows and delivers, for any model. A model says what it is in a `Model` (a line of the table
`fastreenact.models.MODELS`) and brings a `Form`: its networks as they run. Nothing heavy is imported here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, TypeVar, cast

if TYPE_CHECKING:
    import os

    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

    from fastreenact.face.crop import Box
    from fastreenact.face.motion import Motion
    from fastreenact.timings import Timer

    Floats = NDArray[np.float32]
    Picture = NDArray[np.uint8]

LEAST_SIZE, MOST_SIZE = 64, 2048  # of square frames, px

Cue = Literal["keypoints", "pose", "motion", "picture", "points", "landmarks"]
"""What a model may want of a driver: the portrait's keypoints and head pose under its motion, that motion's
coefficients, its picture (and crops of it), the tracker's points, the 68-point layout."""


def lacking(is_motion: bool, is_picture: bool) -> frozenset[Cue]:
    """What a driver cannot offer: a motion has neither picture nor landmarks, landmarks have no picture."""
    if is_picture:
        return frozenset()
    return frozenset(("picture", "points", "landmarks") if is_motion else ("picture", "points"))


class Face:
    """A face in a picture: a portrait's, or a driver's in one frame. Everything is made when it is first asked for."""

    def __init__(
        self, picture: Picture | None, keypoints_px: Floats | None, box: Box | None, points: Floats | None = None
    ) -> None:
        """
        Args:
            picture: uint8 [H, W, 3] RGB; None where the face is known without one (a template, landmarks).
            keypoints_px: [72, 2] as tracked, px of the picture; None where only a motion is known.
            box: the square around the face, px: a portrait's own, or that of the driver's first frame, which stays, so
                that a head that moves in the picture moves in the box.
            points: as the tracker gave them, px: [478, 3] from the built-in one.
        """
        self._picture, self._keypoints_px, self._box, self._points = picture, keypoints_px, box, points
        self._crops: dict[tuple[int, Box], Picture] = {}

    @property
    def picture(self) -> Picture:
        """uint8 [H, W, 3] RGB."""
        return _there(self._picture, "picture")

    @property
    def keypoints_px(self) -> Floats:
        """[72, 2] as tracked, px of the picture."""
        return _there(self._keypoints_px, "tracked keypoints")

    @property
    def box(self) -> Box:
        """The square around the face, px."""
        return _there(self._box, "box around the face")

    @property
    def points(self) -> Floats:
        """As the tracker gave them, px: [478, 3] from the built-in one."""
        return _there(self._points, "tracker's points")

    @cached_property
    def landmarks(self) -> Floats:
        """[68, 2] the 68-point layout (iBUG), px of the picture."""
        from fastreenact.face.keypoints import to_68

        return to_68(self.keypoints_px)

    def crop(self, size: int, box: Box | None = None) -> Picture:
        """The face cut out of the picture.

        Args:
            size: side of the result, px.
            box: the square to cut, px; None: the face's own `box`. `fastreenact.face.crop.crop_box(face.keypoints_px)`
                is one that follows a driver's face.
        Returns:
            uint8 [size, size, 3] RGB; beyond the picture its edge is repeated. Not to be written into.
        """
        from fastreenact.face.crop import crop

        key = size, self.box if box is None else box
        if key not in self._crops:
            self._crops[key] = crop(self.picture, key[1], size)
        return self._crops[key]


class Portrait(Face):
    """What a resident portrait offers."""

    def __init__(
        self,
        picture: Picture,
        box: Box,
        keypoints: Floats,
        pose: Floats,
        *,
        keypoints_px: Floats | None = None,
        points: Floats | None = None,
        motion: Motion | None = None,
        shape: Floats | None = None,
    ) -> None:
        """
        Args:
            picture, box, points, keypoints_px: as of a `Face`; keypoints that are not given lie where `keypoints` do.
            keypoints: [72, 2] at rest, normalised to `box` (-1 and 1 on its edges): where a driver at rest leaves them.
            pose: [6] rx, ry, rz (rad), tx, ty, scale of the head, normalised to the box.
            motion: what the face does in the portrait: expression and pose.
            shape: [50] of the morphable model.
        """
        super().__init__(picture, box.denormalise(keypoints) if keypoints_px is None else keypoints_px, box, points)
        self.keypoints, self.pose = keypoints, pose
        self._motion, self._shape = motion, shape

    @property
    def motion(self) -> Motion:
        """What the face does in the portrait: expression and pose."""
        return _there(self._motion, "fitted motion")

    @property
    def shape(self) -> Floats:
        """[50] of the morphable model."""
        return _there(self._shape, "fitted shape")

    def square(self, side: int) -> Portrait:
        """The box alone, as a portrait of side x side px."""
        from fastreenact.face.crop import Box

        return Portrait(
            self.crop(side), Box.whole(side), self.keypoints, self.pose, motion=self._motion, shape=self._shape
        )


class Cues:
    """What one frame of a driver offers for one portrait. Everything is made when it is first asked for, and once."""

    def __init__(self, face: Face, motion: Motion | None, follow: Callable[[], tuple[Floats, Floats]]) -> None:
        """
        Args:
            face: the driver's: of this frame, or of the last one that showed it, shared by all portraits it leads; the
                portrait's own as long as none has shown it.
            motion: the driver's, with confidence 0 where no face was found.
            follow: gives the portrait's keypoints and pose; filters over time, so it is called once.
        """
        self.face = face
        self._motion, self._follow = motion, follow

    @classmethod
    def known(cls, keypoints: Floats, pose: Floats) -> Cues:
        """For whoever has the portrait's keypoints [72, 2] and pose [6] without a driver."""
        return cls(Face(None, None, None), None, lambda: (keypoints, pose))

    @property
    def motion(self) -> Motion:
        """The driver's: expression and pose; confidence 0 where no face was found."""
        return _there(self._motion, "motion")

    @cached_property
    def led(self) -> tuple[Floats, Floats]:
        """The portrait led by the driver's motion: its keypoints [72, 2], normalised to its box, and its pose [6]."""
        return self._follow()

    @property
    def keypoints(self) -> Floats:
        """[72, 2] the portrait's keypoints under the driver's motion, normalised to the portrait's box."""
        return self.led[0]

    @property
    def pose(self) -> Floats:
        """[6] the portrait's head pose under the driver's motion, normalised to the portrait's box."""
        return self.led[1]


State = TypeVar("State")


class Form(Protocol[State]):
    """A model as it runs, in one dtype on one device. One thread at a time: buffers may be shared between calls."""

    side: int | None
    """Of its square frames of the face, px; None: frames are as large as the portrait."""

    def encode(self, portrait: Portrait) -> State:
        """Make a portrait resident: all that depends on it alone. The state lives as long as the caller keeps it."""

    def drive(self, states: Sequence[State], cues: Sequence[Cues], out: Tensor, timer: Timer) -> bool:
        """Draw N frames: each state, of `encode` of this object, as its cues lead it; a state may come more than once.

        Args:
            states, cues: N of both.
            out: uint8 [N, H, W, 3] RGB to write into, on any device; all N portraits' frames have this size.
            timer: told of the stages.
        Returns:
            Whether all that the frames were made of was finite, as far as it shows; the engine makes frames again in
            float32 where not.
        """


class Loader(Protocol):
    """What the module `Model.home` holds."""

    def load(self, path: str | os.PathLike[str]) -> object:
        """The model's weights from a file, checked; WeightsError: they are not its own, damaged or unusable."""

    def form(
        self, weights: object, size: int | None, dtype: torch.dtype, device: torch.device, share: int, profile: bool
    ) -> Form[object]:
        """The form that runs.

        Args:
            weights: of `load`, or a loaded model that the caller made; None for a model without weights.
            size: side of square frames, px; None: the whole portrait where the model takes it, or the weights' own.
            dtype: of activations.
            device: where it runs.
            share: the networks draw at this share of the size (1, 2 for a half, ...), scaled up: memory is short.
            profile: on a GPU, have events inside the graphs that time the stages.
        Raises:
            ValueError: a size out of range, weights that do not fit.
        """


class Official(NamedTuple):
    """Checkpoints that a paper's authors gave out, of which `fastreenact convert` makes a weights file."""

    home: str
    """Module with its `fastreenact.models.convert.Converter`."""
    checkpoints: tuple[tuple[str, str], ...]
    """The name of each and a line for `--help`, in the order in which they are given."""
    out: str
    """The weights file where the user names none."""
    size: int
    """Side that they were trained for, px."""


@dataclass(frozen=True)
class Model:
    """What a model says about itself, known without importing it."""

    name: str
    summary: str
    """A line for `--help` and the documentation."""
    home: str
    """Module with its `Loader`."""
    wants: frozenset[Cue]
    """What it reads of a driver's frame; the engine refuses a driver that cannot offer it."""
    whole: bool = False
    """Whether it takes the whole picture, at its own size, where nobody names a size."""
    tracked: bool = False
    """Whether it wants keypoints as tracked in the portrait, instead of as the fitted face model has them."""
    shares: tuple[int, ...] = (1,)
    """Shares of the size at which it can draw where memory runs out, the whole first."""
    weights: Literal["none", "asked for", "shipped"] = "asked for"
    shipped: tuple[str, str] = ("", "")
    """File under fastreenact/data and its sha256, where weights ship with the package."""
    former: tuple[Mapping[str, str], ...] = ()
    """Metadata of files from before the model had this name."""
    how_to_get: str = ""
    """For whoever has no weights: what to do."""
    networks: str = ""
    """What its networks are called, after their paper; models may share them."""
    official: Official | None = None
    """What can be converted; None: nothing."""
    target: str = ""
    """Module with the `TARGET` of its training (`fastreenact.training.targets`); empty: it is not trained here."""
    over_base: bool = False
    """Whether its training draws over the landmark warp."""

    @property
    def loader(self) -> Loader:
        """Imports the model."""
        return cast(Loader, import_module(self.home))

    def renamed(self, metadata: Mapping[str, str]) -> dict[str, str]:
        """Metadata of a weights file, under the name of today where the model had another when it was written."""
        for old in self.former:
            if old.items() <= metadata.items():
                return {key: value for key, value in metadata.items() if key not in old} | {"model": self.name}
        return dict(metadata)

    def wrote(self, metadata: Mapping[str, str]) -> bool:
        """Whether a weights file with this metadata is of this model."""
        return self.renamed(metadata).get("model") == self.name


_Value = TypeVar("_Value")


def _there(value: _Value | None, what: str) -> _Value:
    if value is None:
        raise ValueError(f"this frame or portrait has no {what}: give a picture that can be tracked")
    return value
