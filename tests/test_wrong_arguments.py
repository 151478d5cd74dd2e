"""M4: an op refuses what does not fit with TypeError or ValueError, and copies nothing behind the caller's back."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from op_calls import FAMILIES, Call, make_call
from torch import Tensor

DTYPES = [
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.complex64,
]


def tensor_changes(value: Tensor, output: bool) -> Iterator[tuple[str, Any]]:
    """What may be wrong with a tensor."""
    yield "None", None
    yield "list", value.tolist()
    yield "number", 3
    yield "word", "tensor"
    if value.dtype != torch.bfloat16:
        array = value.numpy().copy()
        array.setflags(write=False)
        yield "read-only array", array
    for dtype in DTYPES:
        if dtype != value.dtype:
            yield f"dtype {dtype}", torch.zeros(value.shape, dtype=dtype)
    yield "one axis more", value[None].clone()
    yield "one axis less", value[0].clone()
    yield "no axes", value.new_zeros(())
    for axis, size in enumerate(value.shape):
        for wrong in (0, size - 1, size + 1):
            if wrong >= 0:
                shape = (*value.shape[:axis], wrong, *value.shape[axis + 1 :])
                yield f"axis {axis} {'is 0' if wrong == 0 else 'off by one'}", value.new_zeros(shape)
    yield "another device", value.to("meta")
    yield "sparse", value.to_sparse()
    yield "strides of the last axis", value.new_zeros(*value.shape[:-1], 2 * value.shape[-1])[..., ::2]
    if value.dim() > 1:
        yield "permuted", value.new_zeros(value.shape[::-1]).permute(*range(value.dim())[::-1])
    if output:
        yield "expanded", value.new_zeros((1,) * value.dim()).expand(value.shape)
    if value.is_floating_point():
        yield "requires grad", value.clone().requires_grad_()


def other_changes(value: Any) -> Iterator[tuple[str, Any]]:
    """What may be wrong with a number, a word, a list of numbers, or weights."""
    if isinstance(value, bool):
        return
    yield "tensor", torch.zeros(3)
    yield "dictionary", {}
    if isinstance(value, str) or value is None:
        yield "word", "other"
        yield "number", 1
        yield "empty word", ""
        yield "list", ["other"]
        return
    yield "None", None
    yield "word", "3"
    if isinstance(value, (int, float)):
        yield "list", [value]
        yield "complex", 1j
        yield "NaN", float("nan")
        yield "infinity", float("inf")
    if isinstance(value, int):
        yield "fraction", value + 0.5
        yield "negative", -1
        yield "0", 0
    if isinstance(value, (tuple, list)):
        yield "number", 5
        yield "one less", value[:-1]
        yield "one more", (*value, value[0])
        yield "empty", ()
        yield "words", ["a"] * len(value)
        yield "negative", [-1] * len(value)
        yield "NaN", [float("nan")] * len(value)
        yield "nothing", [None] * len(value)


def overlaps(call: Call) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each output in the memory of each input, and of each other output."""
    tensors = {k: v for k, v in (call.arguments | call.outputs).items() if isinstance(v, Tensor)}
    for name, out in call.outputs.items():
        for other, tensor in tensors.items():
            if other == name or 0 in (out.numel(), tensor.numel()):
                continue
            memory = torch.zeros(out.nbytes + tensor.nbytes + 64, dtype=torch.uint8)
            for shift in {0, (tensor.nbytes - 1) // 8 * 8}:
                first, second = memory[: tensor.nbytes], memory[shift : shift + out.nbytes]
                first = first.view(tensor.dtype).view(tensor.shape).copy_(tensor)
                yield f"{name} in {other}", {other: first, name: second.view(out.dtype).view(out.shape)}


def cases(family: str, call: Call) -> Iterator[tuple[str, dict[str, Any]]]:
    """What is wrong, and all arguments; without what an op takes all the same."""
    valid = call.arguments | call.outputs
    for name, value in valid.items():
        changes = tensor_changes(value, name in call.outputs) if isinstance(value, Tensor) else other_changes(value)
        may = MAY.get(family, {}).get(name, ()) + (("None",) if name in OPTIONAL else ())
        for words, wrong in changes:
            if not words.startswith(may):
                yield f"{name}: {words}", valid | {name: wrong}
    for words, changed in overlaps(call):
        if words not in MAY.get(family, {}):
            yield words, valid | changed


OPTIONAL = {"out", "flag", "source_index", "scale", "shift", "residual", "background", "upsample", "activation"}
SIZES_1_2, ANY_STRIDES, ANY_NUMBER = ("axis 1", "axis 2"), ("strides", "permuted"), ("axis 0",)
# What is no mistake: axes whose size is free, strides where any will do, one picture for all.
MAY: dict[str, dict[str, tuple[str, ...]]] = {
    "warp": {
        "features": ("axis 0 off", *SIZES_1_2),
        "field": (*(f"{axis} off" for axis in SIZES_1_2), *ANY_STRIDES),
        "scale": ("axis 0 off",),
        "shift": ("axis 0 off",),
        "size": (),
    },
    "grid_sample_3d": {"volume": ("axis 1 off", "axis 2 off", "axis 3 off"), "grid": ANY_STRIDES},
    "spade": {"gamma_table": ("axis 0 off",), "beta_table": ("axis 0 off",), "out in x": ()},
    "norm_act": {"shift": ("one axis less",)},
    "conv": {
        "x": (*SIZES_1_2, "dtype torch.uint8", "dtype torch.float32", "dtype torch.bfloat16"),
        "add": ("axis 0 off",),
        "out in residual": (),
        "x_scale": ("negative", "0"),
        "x_shift": ("negative", "0"),
    },
    "to_frame": {
        "image": ("dtype torch.float32", "dtype torch.bfloat16", *ANY_STRIDES),
        "flag": ("strides", "expanded"),
    },
    "compose_frame": {
        "raw": ("dtype torch.float32", "dtype torch.bfloat16"),
        "surface": ("axis 0", "axis 1"),
        "most_gain": ("word",),
        "fade": ("0",),
        "flag": ("strides", "expanded"),
    },
    "shrink": {"picture": ("axis 0 off", "axis 1 off", "one axis more", "another device")},
    "rasterize_landmarks": {"keypoints": ANY_STRIDES, "layout": ("0",)},
    "rasterize_landmarks_all": {"keypoints": ANY_STRIDES},
    "rasterize_lines": {"lines": ANY_NUMBER},
    "render_mesh": {"triangles": ANY_NUMBER, "attributes": ("one axis less",), "background": ("one axis more",)},
    "render_mesh_ids": {"vertices": ("axis 0", "axis 1 off"), "triangles": ANY_NUMBER},
    "dictionary_read": {"v": ("axis 0 off",)},
    "landmark_covers": {"surface": SIZES_1_2},
}
# Calls with sizes above 1 everywhere, so that strides matter, and with every optional argument.
SEEDS = {"warp": 30, "spade": 3, "conv": 6, "rasterize_landmarks": 1, "rasterize_landmarks_all": 2}


# Further values, refused by what they are.
EXTRA: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "rasterize_lines": [
        (f"lines: {value}", {"lines": torch.tensor([[0, 0, 5, value]])})
        for value in (2**31 + 1, -(2**31) - 1, -(2**63))
    ],
    "conv": [("source_index: with gaps", {"source_index": torch.tensor([0, 7, 0, 7], dtype=torch.int32)[::2]})],
}


@pytest.mark.filterwarnings("ignore")  # of PyTorch, about arrays that are read only
@pytest.mark.row("M4", "wrong arguments: only TypeError and ValueError, at least 50 for each op")
def test_wrong_arguments_are_refused(row):
    counts, failures = {}, []
    for family in FAMILIES:
        call, counts[family] = make_call(family, SEEDS.get(family, 0)), 0
        extra = [(words, call.arguments | call.outputs | changed) for words, changed in EXTRA.get(family, [])]
        for words, arguments in [*cases(family, call), *extra]:
            counts[family] += 1
            try:
                call.op(**arguments)
            except (TypeError, ValueError) as error:
                if not str(error):
                    failures.append(f"{family}: {words}: no message")
            except Exception as error:
                failures.append(f"{family}: {words}: {type(error).__name__} {error}")
            else:
                failures.append(f"{family}: {words}: taken")
    row.measured(
        f"{sum(counts.values())} cases, {min(counts.values())} and more for each of {len(counts)} ops: "
        f"{len(failures)} otherwise"
    )
    assert failures == []
    assert min(counts.values()) >= 50


@pytest.mark.row("M4", "no silent copies: what an op is given is what it reads and writes")
def test_nothing_is_copied(row):
    copies, calls = {"aten::clone", "aten::contiguous", "aten::_to_copy", "aten::copy_"}, 0
    for family in FAMILIES:
        if family == "dictionary_read":  # PyTorch's arithmetic, which copies by its nature
            continue
        call = make_call(family, SEEDS.get(family, 0))
        call.op(**call.arguments, **call.outputs)  # tables that are made once
        with torch.autograd.profiler.profile() as profile:
            call.op(**call.arguments, **call.outputs)
        found = {event.name for event in profile.function_events} & copies
        assert not found, f"{family}: {found}"
        calls += 1
    row.measured(f"{calls} ops, 0 copies")
