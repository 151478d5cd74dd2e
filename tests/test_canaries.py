"""M3: no op writes beside its outputs: 64 bytes before and after each, and what lies between the rows of a slice."""

import ctypes
import math

import numpy as np
import pytest
import torch
from op_calls import FAMILIES, Draw, make_call
from torch import Tensor

from fastreenact import _C
from fastreenact.face.crop import Box
from fastreenact.face.morphable.fit import fit
from fastreenact.face.morphable.model import default_model
from fastreenact.models.landmark_warp.warp import LandmarkWarp
from fastreenact.ops.render_mesh import _RENDER_IDS
from fastreenact.ops.shrink import _SHRINK

CANARY = 64  # bytes
PATTERN = 0xA5


class Guarded:
    """A tensor of its own in the middle of memory of a known pattern."""

    def __init__(self, like: Tensor, *, apart: bool) -> None:
        """
        Args:
            like: shape, dtype and values.
            apart: leave gaps between pixels, rows and pictures, as a slice of a wider tensor has them.
        """
        shape = [size + (2 if apart and axis else 0) for axis, size in enumerate(like.shape)]
        length = math.prod(shape) * like.element_size()
        self._memory = torch.full((length + 2 * CANARY,), PATTERN, dtype=torch.uint8)
        wide = self._memory[CANARY : CANARY + length].view(like.dtype).view(shape)
        self.tensor = wide[tuple(slice(1, 1 + n) if apart and axis else slice(n) for axis, n in enumerate(like.shape))]
        self.tensor.copy_(like)

    def intact(self) -> bool:
        """Whether all but the tensor is as it was; the tensor is not, after this."""
        self.tensor.view(torch.uint8)[...] = PATTERN
        return bool((self._memory == PATTERN).all())


def may_be_apart(family: str, name: str, like: Tensor) -> bool:
    """Whether an op takes a slice for this output."""
    return (
        family not in ("tail", "compose_frame", "render_mesh", "landmark_nodes", "landmark_covers")
        and name != "flag"
        and like.dim() > 1
    )


@pytest.mark.row("M3", "64 bytes before and after every output, and the gaps of a slice, stay as they were")
def test_canaries(row):
    calls = outputs = 0
    for family in FAMILIES:
        for seed in range(row.amount(6, 400)):
            call = make_call(family, seed)
            expected = {name: value.clone() for name, value in call.outputs.items()}
            call.op(**call.arguments, **expected)
            for apart in (False, True):
                guarded = {
                    name: Guarded(value, apart=apart and may_be_apart(family, name, value))
                    for name, value in call.outputs.items()
                }
                call.op(**call.arguments, **{name: found.tensor for name, found in guarded.items()})
                for name, found in guarded.items():
                    # Every value is written: what was there before is not what comes out.
                    assert torch.equal(found.tensor, expected[name]), f"{family} {seed}: {name} differs"
                    assert found.intact(), f"{family} {seed}: beside {name}"
                    outputs += 1
                calls += 1
    row.measured(f"{calls} calls of {len(FAMILIES)} ops, {outputs} outputs: all intact")


class GuardedCall:
    """A call of the extension whose outputs lie in guarded memory; what it wrote is copied to where it belongs."""

    def __init__(self, call, views, outputs, seen):
        self._call, self._views, self._outputs, self._seen = call, views, outputs, seen
        self.workspace_bytes = call.workspace_bytes

    def __call__(self, *addresses):
        memory, given = {}, list(addresses)
        for place, (name, view) in enumerate(self._views.items()):
            if name in self._outputs and view is not None:
                sizes, _, dtype = view
                size = math.prod(sizes) * {0: 4, 1: 2, 3: 1, -1: 4}[dtype]
                there = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(addresses[place]))
                memory[name] = Around(there)
                given[place] = memory[name].inner.ctypes.data
        self._call(*given)
        for name, found in memory.items():
            self._seen(found, name)


class Around:
    """A copy of an array with a pattern before and after it."""

    def __init__(self, array):
        self.array, self._memory = array, np.full(array.nbytes + 2 * CANARY, PATTERN, np.uint8)
        self.inner = self._memory[CANARY:-CANARY].view(array.dtype).reshape(array.shape)
        self.inner[:] = array

    def done(self, what):
        assert (self._memory[:CANARY] == PATTERN).all(), f"before {what}"
        assert (self._memory[-CANARY:] == PATTERN).all(), f"after {what}"
        self.array[:] = self.inner


@pytest.fixture
def raw_outputs(monkeypatch):
    """The compiled functions below write into guarded memory; what they wrote is copied to where it was asked for."""
    on_tensors = {"shrink": ("out",), "render_mesh": ("ids", "barycentrics")}
    on_arrays = {
        "rasterize_lines": ("out",),
        "fit_face": ("rotation", "camera", "expression", "residual"),
        "slit_cover": ("opacity", "field"),
        "landmark_field": ("out",),
    }
    counts = dict.fromkeys((*on_tensors, *on_arrays), 0)

    def seen(name):
        def one(found, key):
            found.done(f"{name}: {key}")
            counts[name] += 1

        return one

    def guard_call(name, outputs):
        made = getattr(_C, name)
        monkeypatch.setattr(
            _C, name, lambda views, **numbers: GuardedCall(made(views, **numbers), views, outputs, seen(name))
        )

    def guard_arrays(name, outputs):
        compiled = getattr(_C, name)

        def guarded(**given):
            memory = {key: Around(given[key]) for key in outputs}
            compiled(**given | {key: found.inner for key, found in memory.items()})
            for key, found in memory.items():
                seen(name)(found, key)

        monkeypatch.setattr(_C, name, guarded)

    for name, outputs in on_tensors.items():
        guard_call(name, outputs)
    for name, outputs in on_arrays.items():
        guard_arrays(name, outputs)
    plans = (_SHRINK._plans, _RENDER_IDS._plans)  # made with the calls above
    for known in plans:
        known.clear()
    yield counts
    for known in plans:
        known.clear()


@pytest.mark.row("M3", "the same around outputs that no caller gives")
def test_canaries_of_inner_outputs(row, raw_outputs):
    for seed in range(row.amount(6, 400)):
        for family in ("shrink", "rasterize_lines", "render_mesh_ids"):
            call = make_call(family, seed)
            call.op(**call.arguments)
    model, draw = default_model(), Draw(torch.Generator().manual_seed(0))
    shape, rest = np.zeros(50, np.float32), np.array((0, 0, 0, 0, 0, 0.45), np.float32)
    for _ in range(row.amount(2, 40)):
        size = draw.whole(64, 200)
        renderer, box = LandmarkWarp(size, size), Box.whole(size)
        portrait = draw.normal(size, size, 3, dtype=torch.uint8).numpy()
        state = renderer.encode(portrait, model.project(shape, np.zeros(51, np.float32), rest), rest, box)
        for _ in range(4):
            pose = rest + draw.normal(6).numpy() * np.float32((0.3, 0.3, 0.3, 0.1, 0.1, 0.02))
            points = model.project(shape, draw.normal(51).abs().clamp(0, 1).numpy(), pose)
            found = fit(model, points, shape)
            guarded = Guarded(torch.zeros(size, size, 3, dtype=torch.uint8), apart=False)
            renderer.drive(state, points, found.pose, out=guarded.tensor)
            assert guarded.intact()
    row.measured(", ".join(f"{name} {count}" for name, count in raw_outputs.items()) + " outputs: all intact")
    assert min(raw_outputs.values()) > 0
