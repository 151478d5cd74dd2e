"""A renderer that goes on: where memory runs out it takes less of it, where halves overflow it draws in float32."""

import logging
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from fastreenact.models import make_renderer
from fastreenact.models.landmark_warp.warp import LandmarkWarp

log = logging.getLogger("fastreenact")

_Result = TypeVar("_Result")


# What PyTorch says in a plain RuntimeError when memory runs out.
_NO_MEMORY = ("CUDA error: out of memory", "DefaultCPUAllocator: can't allocate memory")


class _Way(NamedTuple):
    """How frames are made."""

    dtype: torch.dtype
    share: int  # the networks draw at this share of the size: 1, 2 for a half, ...
    device: torch.device

    def __str__(self) -> str:
        smaller = "" if self.share == 1 else f", networks at 1/{self.share} of the size"
        return f"{str(self.dtype).removeprefix('torch.')} on {self.device}{smaller}"


class Resident:
    """One portrait: what it was made resident with, and its state in the renderer that draws it."""

    def __init__(self, given: tuple[Any, ...]):
        self.given = given
        self.exact: Resident | None = None  # the same portrait in float32
        self._state: Any = None

    def state(self, renderer: Any) -> Any:
        """Its state in `renderer`, which encodes it at the first call after `forget`."""
        if self._state is None:
            self._state = renderer.encode(*self.given)
        return self._state

    def forget(self) -> None:
        """The renderer is gone."""
        self.exact = self._state = None


class Renderer:
    """`make_renderer`'s form with the same calls. Where a GPU's memory runs out: float16, then the networks at a half
    and at a quarter of the size, their frames scaled up, then the CPU. Where the machine's does: once more with all of
    its own given back, then the networks at a half and at a quarter. Said once each time it comes to that.

    A frame in whose making a half was infinite or NaN is made again in float32, by networks of their own from then on.
    """

    def __init__(
        self,
        model: str,
        size: Any,
        weights: Any,
        dtype: torch.dtype,
        device: torch.device,
        *,
        profile: bool = False,
        exact: bool = False,
    ):
        """As of `make_renderer`; with `exact` it never takes halves or a smaller size."""
        self._given = (model, size, weights)
        self._profile = profile
        self._way = _Way(dtype, 1, device)
        self._ways = _less(self._way, exact or model == "landmark-warp")  # the latter has no networks
        self._inner: Any = None
        self._exact: Renderer | None = None
        self._residents: weakref.WeakSet[Resident] = weakref.WeakSet()
        self.side = int(self._with_less(lambda inner: getattr(inner, "size", None)) or 0)
        """Of square frames, px; 0: frames are as large as the portrait."""

    def encode(self, *given: Any) -> Resident:
        """Make a portrait resident, with the arguments of the renderer's own `encode`; they are kept."""
        resident = Resident(given)
        self._residents.add(resident)
        self._with_less(resident.state)
        return resident

    def drive(
        self, resident: Resident, keypoints: Any, pose: Any, out: Tensor | None = None, timer: Any = None
    ) -> Tensor:
        """As of the renderer, with `out` on any device."""
        frame: Tensor = self._with_less(lambda inner: _drive(inner, resident.state(inner), keypoints, pose, out, timer))
        if self._finite():
            return frame
        return self._in_float32().drive(self._twin(resident), keypoints, pose, out, timer)

    def drive_many(
        self,
        residents: Sequence[Resident],
        keypoints: Sequence[Any],
        poses: Sequence[Any],
        out: Tensor,
        timer: Any = None,
    ) -> Tensor:
        """As of `FusedFace2FaceRho`, for any model: those without it draw frame after frame into `out`."""
        if not hasattr(self._inner, "drive_many"):
            for resident, points, pose, one in zip(residents, keypoints, poses, out, strict=True):
                self.drive(resident, points, pose, one, timer)
            return out
        self._with_less(
            lambda inner: inner.drive_many([r.state(inner) for r in residents], keypoints, poses, out, timer)
        )
        if self._finite():
            return out
        return self._in_float32().drive_many([self._twin(r) for r in residents], keypoints, poses, out, timer)

    def _finite(self) -> bool:
        return bool(getattr(self._inner, "finite", True))

    def _in_float32(self) -> "Renderer":
        if self._exact is None:
            name = str(self._way.dtype).removeprefix("torch.")
            log.warning("values beyond what %s holds: frames with such are made again in float32", name)
            way = torch.float32, self._way.device
            self._exact = Renderer(*self._given, *way, profile=self._profile, exact=True)
        return self._exact

    def _twin(self, resident: Resident) -> Resident:
        if resident.exact is None:
            resident.exact = self._in_float32().encode(*resident.given)
        return resident.exact

    def _with_less(self, work: Callable[[Any], _Result]) -> _Result:
        """`work` with the renderer; as long as memory runs out, with one that needs less."""
        before, failures = self._way, 0
        while True:
            try:
                if self._inner is None:
                    dtype, share, device = self._way
                    self._inner = make_renderer(*self._given, dtype, device, share=share, profile=self._profile)
                result = work(self._inner)
                break
            except (RuntimeError, MemoryError) as error:
                failures += 1
                again = failures == 1 and self._way.device.type == "cpu"
                if not _out_of_memory(error):
                    raise
                if not (again or self._ways):
                    raise MemoryError("not enough memory for frames of this size: choose a smaller one") from error
            # Out here nothing holds the tensors of what failed.
            self._forget()
            if not again:
                self._way = self._ways.pop(0)
        if self._way != before:
            log.warning("out of memory with %s: goes on with %s", before, self._way)
        elif failures:
            log.warning("out of memory with %s: goes on after giving back what it held", before)
        return result

    def _forget(self) -> None:
        """Give back the memory of the renderer and of the portraits in it."""
        for resident in self._residents:
            resident.forget()
        self._inner = self._exact = None
        torch.cuda.empty_cache()


def _less(way: _Way, as_it_is: bool) -> list[_Way]:
    """What to do when memory runs out, one after the other."""
    shares = () if as_it_is else (2, 4)
    if way.device.type == "cpu":
        return [_Way(way.dtype, share, way.device) for share in shares]
    half = torch.float16 if way.dtype == torch.float32 else way.dtype
    ways = [] if as_it_is else [_Way(half, share, way.device) for share in (1, 2, 4)]
    ways += [_Way(torch.float32, share, torch.device("cpu")) for share in (1, *shares)]
    return [other for other in ways if other != way]


def _out_of_memory(error: BaseException | None) -> bool:
    """Whether this or what it came from says so: a capture that fails for it ends with an error of its own."""
    while error is not None:
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or any(text in str(error) for text in _NO_MEMORY):
            return True
        error = error.__cause__ or error.__context__
    return False


def _drive(inner: Any, state: Any, keypoints: Any, pose: Any, out: Tensor | None, timer: Any) -> Tensor:
    """One frame; the landmark warp alone does not write to another device."""
    if out is None or not isinstance(inner, LandmarkWarp) or out.device.type == inner.device.type:
        frame: Tensor = inner.drive(state, keypoints, pose, out, timer)
        return frame
    return out.copy_(inner.drive(state, keypoints, pose, None, timer))
