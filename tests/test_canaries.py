"""M3: no op writes beside its outputs: 64 bytes before and after each, and what lies between the rows of a slice."""

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
    return family not in ("tail", "compose_frame", "render_mesh") and name != "flag" and like.dim() > 1


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


@pytest.fixture
def raw_outputs(monkeypatch):
    """The compiled functions below write into guarded memory; what they wrote is copied to where it was asked for."""
    counts = dict.fromkeys(("shrink", "rasterize_lines", "render_mesh", "fit_face", "slit_cover", "landmark_field"), 0)

    def guard(name, sizes):
        compiled = getattr(_C, name)

        def guarded(**params):
            memory = {}
            for key, size in sizes(params).items():
                if params[key]:
                    memory[key] = np.full(size + 2 * CANARY, PATTERN, np.uint8)
                    there = np.ctypeslib.as_array((np.ctypeslib.ctypes.c_uint8 * size).from_address(params[key]))
                    memory[key][CANARY:-CANARY] = there
            compiled(**params | {key: value.ctypes.data + CANARY for key, value in memory.items()})
            for key, value in memory.items():
                assert (value[:CANARY] == PATTERN).all(), f"{name}: before {key}"
                assert (value[-CANARY:] == PATTERN).all(), f"{name}: after {key}"
                size = len(value) - 2 * CANARY
                there = np.ctypeslib.as_array((np.ctypeslib.ctypes.c_uint8 * size).from_address(params[key]))
                there[:] = value[CANARY:-CANARY]
                counts[name] += 1

        monkeypatch.setattr(_C, name, guarded)

    guard("shrink", lambda p: {"out": 3 * p["side"] ** 2 * (4 if p["dtype"] == 0 else 2)})
    guard("rasterize_lines", lambda p: {"out": p["m"] * p["height"] * p["width"]})
    guard(
        "render_mesh",
        lambda p: {
            "ids": 4 * p["n"] * p["height"] * p["width"],
            "barycentrics": 12 * p["n"] * p["height"] * p["width"],
        },
    )
    guard("fit_face", lambda p: {"rotation": 72, "camera": 24, "expression": 51 * 8, "residual": 2 * 72 * 8})
    guard("slit_cover", lambda p: {"opacity": 4 * p["width"] * p["height"], "field": 8 * p["width"] * p["height"]})
    guard("landmark_field", lambda p: {"out": 4 * ((p["rows"] - 1) * p["out_stride"] + 2 * p["columns"])})
    return counts


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
