"""`Engine`: a portrait is made resident once, then every driving frame gives one animated frame."""

import math
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastreenact.arrays import NUMPY, Kind, as_driver, check_out, each_driver, read_source, whole_number
from fastreenact.face.crop import Box, Paster
from fastreenact.face.driver import Driver
from fastreenact.face.morphable.model import default_model
from fastreenact.face.motion import Motion
from fastreenact.face.retarget import Retargeter
from fastreenact.face.source import SourceFace, fit_source
from fastreenact.face.track.tracker import Tracker
from fastreenact.models import choose
from fastreenact.models.protocol import LEAST_SIZE, MOST_SIZE, Cues, Face, Portrait, lacking
from fastreenact.renderer import Renderer, Resident
from fastreenact.timings import GRAPH, STAGES, StageTimer

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_DEFAULT_FRAME_S = 1 / 30  # the spacing assumed where the caller gives no time
_FORK = {"used": False, "unsafe": False}


def _after_fork() -> None:
    _FORK["unsafe"] = _FORK["used"]


os.register_at_fork(after_in_child=_after_fork)


class _Avatar(NamedTuple):
    """One resident portrait and everything that depends on it alone."""

    face: SourceFace
    portrait: Portrait
    resident: Resident
    offset: np.ndarray  # [72, 2] from the keypoints as retargeted to those that the model is driven with
    paster: Paster | None
    output_size: tuple[int, int]


@dataclass
class _Stream:
    """One driver over time, and how far each portrait has followed it."""

    driver: Driver
    retargets: dict[int, Retargeter]  # by the portrait's number
    face: Face | None = None  # of the last frame that showed one


class _Seen(NamedTuple):
    """One driver's frame."""

    face: Face | None  # None: no frame has shown one yet
    motion: Motion
    time_s: float
    kind: Kind


class Engine:
    """Animate a portrait with a driving face, one frame a call.

    Where a GPU's memory runs out it goes on with less, and where halves overflow in float32 (`fastreenact.renderer`).

    Args:
        source: the portrait: a path, or uint8 [H, W, 3] RGB (NumPy, PyTorch, DLPack).
        model: a name of `fastreenact.models.MODELS`; None: the one that the weights are of, or the default.
        weights: path of a safetensors file, or a loaded model; None takes the weights that ship with the package, where
            the model has such.
        size: side S of square frames of the face, 64 to 2048, or None: the portrait itself, whole and at its own size;
            the size that the weights were trained for where a model draws squares only.
        device: "cpu", "cuda", "cuda:1", ... or None: the GPU where there is one.
        dtype: "float32", "bfloat16" or "float16" (or PyTorch's), of the activations; None is float32 on the CPU,
            float16 on a GPU.
        motion: "relative" moves the portrait by how far the driver moved from a reference frame; "absolute" copies.
        strength: 0 to 2, factor on the motion.
        region: "all", "expression", "pose", "lips" or "eyes": what of the driver is used.
        smooth: filter the coefficients over time.
        paste: give frames of the whole portrait, the animated square pasted back with a soft mask.
        profile: time the stages on the GPU with events, inside the graphs too, and mark them as NVTX ranges; without,
            one entry "graph" of the timings stands for all that a graph does.
        tracker: a `fastreenact.face.track.Tracker` of your own, or None for MediaPipe's face mesh. `Tracker(face=2)`
            follows the second face from the left of the driver; the rule is the largest.
        face: which face of the portrait, from 1, counted from the left; None: the largest.

    Raises:
        NoFaceError: no face in the portrait, or not so many. MediaError, WeightsError: a file cannot be read.
        ValueError, TypeError: an argument is off; the message names it. RuntimeError: in a forked child, see `step`.

    Source: DESIGN of the Face2Face^rho pipeline (ECCV 2022, Fig. 2): source work once, driver work per frame.
    """

    def __init__(
        self,
        source: Any,
        *,
        model: str | None = None,
        weights: Any = None,
        size: int | None = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        motion: str = "relative",
        strength: float = 1.0,
        region: str = "all",
        smooth: bool = True,
        paste: bool = False,
        profile: bool = False,
        tracker: Any = None,
        face: int | None = None,
    ) -> None:
        _refuse_after_fork()
        _FORK["used"] = True
        self.device = resolve_device(device)
        self.dtype = resolve_dtype(dtype, self.device)
        self._choice = choose(model, weights)
        self.model = self._choice.model.name
        if size is not None and not whole_number(size, LEAST_SIZE, MOST_SIZE):
            raise ValueError(f"size is {size!r}; give a whole number from {LEAST_SIZE} to {MOST_SIZE}, or None")
        self._size = size
        self._paste = paste
        self._faces = default_model()
        self._make_retarget = partial(
            Retargeter, self._faces, motion=motion, strength=strength, region=region, smooth=smooth
        )
        self._tracker = Tracker() if tracker is None else tracker
        self._close_tracker = tracker is None
        self._streams = [_Stream(Driver(self._faces, self._tracker, live=True), {})]
        self._make_renderer = partial(Renderer, self._choice, size, self.dtype, self.device, profile=profile)
        self._timer = StageTimer(self.device, profile)
        self._time = 0.0
        self._reference: Motion | None = None
        self._lock = threading.RLock()
        self._avatars: list[_Avatar] = []
        self._closed = False
        self.timings: dict[str, float] = {}
        """Stage -> milliseconds of the last step."""
        self.add(source, face)

    def add(self, source: Any, face: int | None = None) -> int:
        """Make another portrait resident.

        Args:
            source, face: as for the engine itself.
        Returns:
            Its number, for `step(driver, avatar=number)`; the engine's own portrait is 0.
        Raises:
            NoFaceError: no face in it, or not so many. MediaError: the file cannot be read.
        """
        _refuse_after_fork()
        picture = read_source(source)
        with self._lock:
            self._refuse_closed()
            number = len(self._avatars)
            fitted = fit_source(picture, model=self._faces, tracker=self._tracker, face=face)
            retarget = self._retargeter(fitted)
            rest = retarget.rest_keypoints
            offset = fitted.tracked - rest if self._choice.model.tracked else np.zeros_like(rest)
            portrait = Portrait(
                picture,
                fitted.box,
                rest + offset,
                fitted.pose,
                keypoints_px=fitted.keypoints_px,
                points=fitted.points,
                motion=Motion(fitted.pose, fitted.expression),
                shape=fitted.shape,
            )
            side, paster = self._renderer.side, None
            height, width = picture.shape[:2]
            if side is not None:
                if self._paste:
                    paster = Paster(picture, fitted.box, side)
                else:
                    height = width = side
            resident = self._renderer.encode(portrait)
            self._avatars.append(_Avatar(fitted, portrait, resident, offset, paster, (height, width)))
            self._streams[0].retargets[number] = retarget
            return number

    @cached_property
    def _renderer(self) -> Renderer:
        """Made when the first portrait's face was found."""
        return self._make_renderer()

    def step(self, driver: Any, *, time: float | None = None, avatar: int = 0, out: Any = None) -> Any:
        """Animate one frame.

        Args:
            driver: the driving picture, uint8 [H, W, 3] RGB (NumPy, PyTorch on any device, anything with DLPack); or a
                `Motion` already tracked, with its picture a `fastreenact.face.driver.Tracked`; or float landmarks
                [72 | 68 | 468 | 478, 2 or 3] in px, of your own tracker.
            time: seconds, for the filter; None: a thirtieth after the last step (a `Motion` brings its own).
            avatar: which resident portrait.
            out: uint8 [H, W, 3] to write into, NumPy, PyTorch (CPU or GPU) or DLPack; None makes a new array.
        Returns:
            uint8 [H, W, 3] RGB of `output_size`: `out`, or the kind of array that `driver` was, on its device (NumPy
            for a `Motion` or landmarks); the caller's own. A frame without a face holds the last motion and eases back
            to rest.
        Raises:
            TypeError, ValueError: an argument is off. RuntimeError: the engine is used in a forked child, where
            PyTorch's threads do not exist and a convolution would wait for them for ever.
        """
        _refuse_after_fork()
        with self._lock:
            shape = (*self._avatar(avatar).output_size, 3)
            given = check_out(out, shape)
            self._timer.start()
            seen = self._observe(driver, time, self._streams[0])
            self._time = seen.time_s
            frame = seen.kind.empty(shape) if given is None else given
            self._render([avatar], [self._follow(0, avatar, seen)], frame[None])
            return seen.kind.give(frame) if out is None else out

    def step_many(
        self, drivers: Any, *, avatars: Sequence[int] | None = None, time: float | None = None, out: Any = None
    ) -> Any:
        """Animate several frames at once: several drivers, several portraits, or both; on a GPU in one replay.

        Args:
            drivers: a list or tuple of N, each as of `step`, the i-th always the same person: each is followed on its
                own, with its own filter and reference, and the first is the one that `step` follows. Or one driver, as
                of `step`, for all of `avatars`.
            avatars: which resident portrait each frame shows, N numbers; None: 0 for a list of drivers, all portraits
                for one. Their frames are of one size.
            time: seconds, as of `step`.
            out: uint8 [N, H, W, 3] to write into, as of `step`.
        Returns:
            uint8 [N, H, W, 3] RGB: `out`, or the kind of array that the first driver was.
        Raises:
            As `step`, and ValueError: numbers of drivers and portraits that do not fit, frames of several sizes.
        """
        _refuse_after_fork()
        with self._lock:
            each, one_each = each_driver(drivers)
            if avatars is None:
                avatars = [0] * len(each) if one_each else range(len(self._avatars))
            residents = [self._avatar(avatar) for avatar in avatars]
            if not residents or (one_each and len(each) != len(residents)):
                raise ValueError(f"got {len(each)} drivers and {len(residents)} avatars; give as many of both")
            sizes = sorted({resident.output_size for resident in residents})
            if len(sizes) > 1:
                raise ValueError(f"frames of several sizes {sizes} (height, width): use step, or an Engine with a size")
            shape = (len(residents), *sizes[0], 3)
            frames = check_out(out, shape)
            self._timer.start()
            seen = [self._observe(driver, time, self._stream(i)) for i, driver in enumerate(each)]
            self._time, kind = seen[-1].time_s, seen[0].kind
            if one_each:
                cues = [self._follow(i, avatar, seen[i]) for i, avatar in enumerate(avatars)]
            else:  # a portrait that is there twice follows once
                once = {avatar: self._follow(0, avatar, seen[0]) for avatar in sorted(set(avatars))}
                cues = [once[avatar] for avatar in avatars]
            target = kind.empty(shape) if frames is None else frames
            self._render(avatars, cues, target)
            return kind.give(target) if out is None else out

    def animate(self, driver: str | os.PathLike[str], out: str | os.PathLike[str] | None = None, **options: Any) -> Any:
        """Animate a file: `fastreenact.animate` with the engine as its first argument, whose options it takes.

        Other threads' calls wait until the file is done.
        """
        import fastreenact

        _refuse_after_fork()
        if not self._close_tracker:  # the user's own tracks files too
            options.setdefault("tracker", self._tracker)
        with self._lock:
            self._refuse_closed()
            return fastreenact.animate(self, driver, out, **options)

    def use_reference(self, motion: Motion | None) -> None:
        """Fix the driver's neutral frame for relative motion (an offline run looks ahead for it); None: live."""
        with self._lock:
            self._reference = motion
            for stream in self._streams:
                for retarget in stream.retargets.values():
                    retarget.use_reference(motion)

    def reset(self) -> None:
        """Forget the driver: its filter, reference, shape and place in the picture. The portraits stay."""
        with self._lock:
            for stream in self._streams:
                for retarget in stream.retargets.values():
                    retarget.reset()
                stream.driver.reset()
                stream.face = None
            self._time = 0.0

    @property
    def sees_pictures(self) -> bool:
        """Whether the model looks at the driver's pictures: a motion or landmarks alone do not drive it."""
        return bool(self._choice.model.wants & lacking(is_motion=True, is_picture=False))

    @property
    def output_size(self) -> tuple[int, int]:
        """(H, W) of the frames of portrait 0."""
        return self._avatar(0).output_size

    @property
    def source_picture(self) -> np.ndarray:
        """uint8 [H, W, 3] of `output_size`: portrait 0 as its frames show it at rest."""
        first = self._avatar(0)
        if first.paster is not None or self._renderer.side is None:
            return first.portrait.picture
        return first.portrait.crop(first.output_size[0])

    @property
    def face_box(self) -> Box:
        """The square around the face of portrait 0, in pixels of its picture."""
        return self._avatar(0).portrait.box

    def close(self) -> None:
        """Release the tracker and the resident portraits; a closed engine raises when used."""
        with self._lock:
            if self._close_tracker:
                for stream in self._streams:
                    stream.driver.close()
            self._avatars.clear()
            self._closed = True

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _avatar(self, number: int) -> _Avatar:
        self._refuse_closed()
        last = len(self._avatars) - 1
        if not whole_number(number, 0, last):
            raise ValueError(f"avatar is {number!r}; portraits 0 to {last} are resident, add() makes another")
        return self._avatars[number]

    def _refuse_closed(self) -> None:
        if self._closed:
            raise ValueError("this engine is closed; make a new Engine")

    def _stream(self, number: int) -> _Stream:
        """The driver of that number; a new one has a tracker of its own, unless the user's serves all of them."""
        if number == len(self._streams):
            tracker = Tracker() if self._close_tracker else self._tracker
            self._streams.append(_Stream(Driver(self._faces, tracker, live=True), {}))
        return self._streams[number]

    def _observe(self, driver: Any, time: float | None, stream: _Stream) -> _Seen:
        """Track and fit the driver, unless it is tracked already."""
        if time is not None and not math.isfinite(time):
            raise ValueError(f"time is {time}; give seconds, or None")
        kind, picture, points, motion, sighting = as_driver(driver)
        if time is None:
            time = self._time + _DEFAULT_FRAME_S if motion is None else motion.time
        lacks = self._choice.model.wants & lacking(motion is not None, picture is not None)
        if lacks:
            raise ValueError(
                f"{self.model} sees the driver's {' and '.join(sorted(lacks))}, which a motion or landmarks do not "
                "have: drive it with pictures"
            )
        if motion is None:
            motion = stream.driver.observe(points if picture is None else picture, time, timer=self._timer)
            sighting = stream.driver.sighting
        if sighting is not None:
            stream.face = Face(picture, sighting.keypoints_px, sighting.box, sighting.points)
        return _Seen(stream.face, motion, time, kind)

    def _retargeter(self, face: SourceFace) -> Retargeter:
        """For one portrait and one driver."""
        return self._make_retarget(face.shape, face.expression, face.pose, reference=self._reference)

    def _follow(self, stream: int, number: int, seen: _Seen) -> Cues:
        """What one driver's frame offers one portrait."""
        avatar, retargets = self._avatars[number], self._streams[stream].retargets
        if number not in retargets:
            retargets[number] = self._retargeter(avatar.face)

        def follow() -> tuple[np.ndarray, np.ndarray]:
            with self._timer.stage("retarget"):
                keypoints, pose = retargets[number](seen.motion, seen.time_s)
                return keypoints + avatar.offset, pose

        # Until the driver shows a face the portrait's own stands for it: that of a portrait at rest.
        return Cues(avatar.portrait if seen.face is None else seen.face, seen.motion, follow)

    def _render(self, numbers: Sequence[int], cues: list[Cues], frames: Tensor) -> None:
        """Draw into `frames` [N, H, W, 3] on any device, and tell the times."""
        for cue in cues:  # the filter of a driver goes on with time, whatever the model asks for
            cue.led  # noqa: B018
        avatars = [self._avatars[number] for number in numbers]
        pasters = [avatar.paster for avatar in avatars if avatar.paster is not None]
        side = self._renderer.side
        target = NUMPY.empty((len(avatars), side, side, 3)) if pasters and side is not None else frames
        self._renderer.drive([avatar.resident for avatar in avatars], cues, target, self._timer)
        if pasters:
            with self._timer.stage("deliver"):
                for paster, face, frame in zip(pasters, target, frames, strict=True):
                    on_host = frame.device.type == "cpu"
                    pasted = paster.paste(face.numpy(), out=frame.numpy() if on_host else None)
                    if not on_host:
                        frame.copy_(torch.from_numpy(pasted))
        times = self._timer.finish()
        self.timings = {name: times[name] for name in (*STAGES, GRAPH) if name in times}


def _refuse_after_fork() -> None:
    if _FORK["unsafe"]:
        raise RuntimeError(
            "this process was forked from one that had an Engine: PyTorch's threads did not come along and a step "
            "would hang; fork before the first Engine is made, or start it with multiprocessing's 'spawn' method"
        )


def resolve_device(device: str | torch.device | None) -> torch.device:
    """The device that a name means; None is the GPU where there is one. Raises ValueError: a name of none."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device is {device!r}; give 'cpu', 'cuda' or 'cuda:N'") from error
    if chosen.type not in ("cpu", "cuda"):
        raise ValueError(f"device is {device!r}; fastreenact runs on 'cpu' and 'cuda'")
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device is {device!r} but PyTorch finds no GPU; `fastreenact doctor` says why")
    return chosen


def resolve_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """The dtype that a name means; None is that of `device`. Raises ValueError: one that does not run there."""
    if dtype is None:
        return torch.float32 if device.type == "cpu" else torch.float16
    chosen = _DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if chosen is None or chosen not in _DTYPES.values():
        raise ValueError(f"dtype is {dtype!r}; give one of {', '.join(_DTYPES)}")
    if chosen == torch.float16 and device.type == "cpu":
        raise ValueError("dtype is float16, which runs on a GPU only; on the CPU take float32 or bfloat16")
    return chosen
