"""A renderer that goes on: where memory runs out it takes less of it, where halves overflow it draws in float32."""

import logging
import weakref
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from fastreenact.models import Choice
from fastreenact.models.protocol import Cues, Form, Portrait
from fastreenact.timings import NO_TIMER, Timer

log = logging.getLogger("fastreenact")

_Result = TypeVar("_Result")

# What PyTorch says in a plain RuntimeError when memory runs out.
_NO_MEMORY = ("CUDA error: out of memory", "DefaultCPUAllocator: can't allocate memory")


class Fallback(NamedTuple):
    """How frames are made: as asked for, or with less memory."""

    dtype: torch.dtype
    share: int  # the networks draw at this share of the size: 1, 2 for a half, ...
    device: torch.device

    def __str__(self) -> str:
        smaller = "" if self.share == 1 else f", networks at 1/{self.share} of the size"
        return f"{str(self.dtype).removeprefix('torch.')} on {self.device}{smaller}"


class Resident:
    """One portrait, and its state in the form that draws it."""

    def __init__(self, portrait: Portrait) -> None:
        self.portrait = portrait
        self.exact: Resident | None = None  # the same portrait in float32
        self.state: object = None
        """In the renderer's form; None: it has to be encoded, anew where a form was given up."""

    def forget(self) -> None:
        """The form is gone."""
        self.exact = self.state = None


class Renderer:
    """A model's form with the same two calls. Where a GPU's memory runs out: float16, then the networks at a half and
    at a quarter of the size, their frames scaled up, then the CPU. Where the machine's does: once more with all of its
    own given back, then the networks at a half and at a quarter. Said once each time it comes to that.

    A frame in whose making a half was infinite or NaN is made again in float32, by networks of their own from then on.
    """

    def __init__(
        self,
        choice: Choice,
        size: int | None,
        dtype: torch.dtype,
        device: torch.device,
        *,
        profile: bool = False,
        exact: bool = False,
    ) -> None:
        """
        Args:
            choice: the model and its weights.
            size, dtype, device, profile: as of `fastreenact.models.protocol.Loader.form`.
            exact: never take halves or a smaller size.
        """
        self._choice, self._size, self._profile = choice, size, profile
        self._loader = choice.model.loader
        self._now = Fallback(dtype, 1, device)
        self._fallbacks = _fallbacks(self._now, choice.model.shares, exact)
        self._form: Form[object] | None = None
        self._exact: Renderer | None = None
        self._residents: weakref.WeakSet[Resident] = weakref.WeakSet()
        self.side = self._with_fallbacks(lambda form: form.side)
        """Of square frames, px; None: frames are as large as the portrait."""

    def encode(self, portrait: Portrait) -> Resident:
        """Make a portrait resident; it is kept."""
        resident = Resident(portrait)
        self._residents.add(resident)
        self._with_fallbacks(lambda form: self._states(form, [resident]))
        return resident

    def drive(
        self, residents: Sequence[Resident], cues: Sequence[Cues], out: Tensor, timer: Timer = NO_TIMER
    ) -> Tensor:
        """Draw N frames into `out` uint8 [N, H, W, 3], on any device: each resident as its cues lead it.

        Returns:
            `out`.
        """
        finite = self._with_fallbacks(lambda form: form.drive(self._states(form, residents), cues, out, timer))
        return out if finite else self._in_float32(residents, cues, out, timer)

    def _states(self, form: Form[object], residents: Sequence[Resident]) -> list[object]:
        for resident in residents:
            if resident.state is None:
                resident.state = form.encode(resident.portrait)
        return [resident.state for resident in residents]

    def _in_float32(self, residents: Sequence[Resident], cues: Sequence[Cues], out: Tensor, timer: Timer) -> Tensor:
        if self._exact is None:
            name = str(self._now.dtype).removeprefix("torch.")
            log.warning("values beyond what %s holds: frames with such are made again in float32", name)
            self._exact = Renderer(
                self._choice, self._size, torch.float32, self._now.device, profile=self._profile, exact=True
            )
        twins = []
        for resident in residents:
            if resident.exact is None:
                resident.exact = self._exact.encode(resident.portrait)
            twins.append(resident.exact)
        return self._exact.drive(twins, cues, out, timer)

    def _with_fallbacks(self, work: Callable[[Form[object]], _Result]) -> _Result:
        """`work` with the form; as long as memory runs out, with one that needs less."""
        before, failures = self._now, 0
        while True:
            try:
                if self._form is None:
                    dtype, share, device = self._now
                    self._form = self._loader.form(
                        self._choice.weights, self._size, dtype, device, share, self._profile
                    )
                result = work(self._form)
                break
            except (RuntimeError, MemoryError) as error:
                failures += 1
                again = failures == 1 and self._now.device.type == "cpu"
                if not _out_of_memory(error):
                    raise
                if not (again or self._fallbacks):
                    raise MemoryError("not enough memory for frames of this size: choose a smaller one") from error
            # Out here nothing holds the tensors of what failed.
            self._forget()
            if not again:
                self._now = self._fallbacks.pop(0)
        if self._now != before:
            log.warning("out of memory with %s: goes on with %s", before, self._now)
        elif failures:
            log.warning("out of memory with %s: goes on after giving back what it held", before)
        return result

    def _forget(self) -> None:
        """Give back the memory of the form and of the portraits in it."""
        for resident in self._residents:
            resident.forget()
        self._form = self._exact = None
        torch.cuda.empty_cache()


def _fallbacks(first: Fallback, shares: tuple[int, ...], exact: bool) -> list[Fallback]:
    """What to do when memory runs out, one after the other."""
    whole = exact or len(shares) == 1  # as it is, or on the CPU: nothing in between
    smaller = () if whole else shares[1:]
    if first.device.type == "cpu":
        return [Fallback(first.dtype, share, first.device) for share in smaller]
    half = torch.float16 if first.dtype == torch.float32 else first.dtype
    found = [] if whole else [Fallback(half, share, first.device) for share in shares]
    found += [Fallback(torch.float32, share, torch.device("cpu")) for share in (1, *smaller)]
    return [other for other in found if other != first]


def _out_of_memory(error: BaseException | None) -> bool:
    """Whether this or what it came from says so: a capture that fails for it ends with an error of its own."""
    while error is not None:
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or any(text in str(error) for text in _NO_MEMORY):
            return True
        error = error.__cause__ or error.__context__
    return False
