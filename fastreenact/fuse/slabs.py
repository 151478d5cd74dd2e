"""Slabs: what resident portraits are known by, side by side on the device, so that a number chooses among them."""

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Place:
    """One portrait's place in the slabs, free again when this is gone."""

    index: int


class Slabs:
    """Tensors [A, ...] that grow as portraits are added; their order is that of the parts of a portrait."""

    def __init__(self, dtype: torch.dtype, device: torch.device, moved: Callable[[], None]) -> None:
        """
        Args:
            dtype: of floating point parts, whatever they come as; others stay what they are.
            device: where they lie.
            moved: called when the slabs have grown: whoever knows their addresses has to forget them.
        """
        self._dtype, self._device, self._moved = dtype, device, moved
        self.tensors: list[Tensor] = []
        self._free: list[int] = []

    def put(self, parts: Sequence[Tensor]) -> Place:
        """Copies of `parts`, [1, ...] each, into a free place."""
        if not self._free:
            self._grow(parts)
        index = self._free.pop()
        for slab, part in zip(self.tensors, parts, strict=True):
            slab[index] = part[0].to(slab.dtype)
        place = Place(index)
        weakref.finalize(place, self._free.append, index)
        return place

    def _grow(self, parts: Sequence[Tensor]) -> None:
        used = len(self.tensors[0]) if self.tensors else 0
        count = max(2 * used, 1)
        grown = []
        for i, part in enumerate(parts):
            dtype = self._dtype if part.dtype.is_floating_point else part.dtype
            slab = torch.zeros(count, *part.shape[1:], dtype=dtype, device=self._device)
            if used:
                slab[:used] = self.tensors[i]
            grown.append(slab)
        self.tensors = grown
        self._free += reversed(range(used, count))
        self._moved()
