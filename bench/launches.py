"""What a frame of the inference form makes a GPU do: every launch, its bytes and multiplications, counted as it runs.

The form runs once on the CPU, in bfloat16, whose bytes are those of float16; each op that it calls is a launch there
too (`mbconv` is two where the hidden map goes through memory).
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import torch
from network_case import Portraits
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fastreenact import ops
from fastreenact.fuse import layers as fused_layers
from fastreenact.models.face2face_rho.inference import fuse
from fastreenact.models.face2face_rho.networks import random_face2face_rho
from fastreenact.ops.mbconv import _MBCONV

ARCHITECTURE = 75  # whose plan of `mbconv` is followed
TILE = (8, 16)  # outputs of a block that is one kernel (csrc/mbconv_plan.h); its expanded pixels reach one beyond them
TENSOR_GRAIN = 8  # channels: mma.m16n8k8 multiplies whole eights


@dataclass(frozen=True)
class Launch:
    """One kernel."""

    stage: str
    op: str
    reads: int  # bytes, each tensor once
    writes: int
    multiplications: int = 0  # that the layer has
    tensor: int = 0  # that the tensor cores do: with channels in whole eights, and what tiles compute twice
    depthwise: int = 0  # that the ordinary cores do


def _grain(channels: int) -> int:
    """Channels in whole eights."""
    return -(-channels // TENSOR_GRAIN) * TENSOR_GRAIN


def _size(value: Any) -> int:
    """Bytes of a tensor, as far as it is seen."""
    return int(value.numel() * value.element_size()) if isinstance(value, Tensor) else 0


def _conv(base: Launch, x: dict[str, Any], out: Tensor) -> list[Launch]:
    weights = ops.ConvWeights(x["packed"], x["bias"], x["spec"])
    count = out.shape[0] * weights.multiplications(out.shape[1], out.shape[2])
    channels_in, channels_out = x["spec"][:2]
    tensor = count * _grain(channels_in) * _grain(channels_out) // (channels_in * channels_out)
    return [replace(base, multiplications=count, tensor=tensor)]


def _mbconv(base: Launch, given: dict[str, Any], out: Tensor) -> list[Launch]:
    x, upsample = given["x"], given["size"] is not None
    channels_in, hidden, channels_out = given["spec"][:3]
    weights = ops.MbconvWeights(*(given[name] for name in _WEIGHTS))
    count = out.shape[0] * weights.multiplications(out.shape[1], out.shape[2], upsample)
    pixels, seen = out[..., 0].numel(), x[..., 0].numel()
    depthwise = pixels * hidden * 9
    project = pixels * _grain(hidden) * _grain(channels_out)
    expand = 0 if given["expand"] is None else seen * _grain(channels_in) * _grain(hidden)
    if not expand:
        return [replace(base, multiplications=count, tensor=project, depthwise=depthwise)]
    args = _MBCONV.Arguments(**given | {"x": x.to(torch.float16)}, out=out.to(torch.float16))
    between = _MBCONV.prepare(args, _MBCONV.numbers(args) | {"architecture": ARCHITECTURE})[1].workspace_bytes
    if not between:
        rows, columns = (n // 2 if upsample else n for n in TILE)
        again = (rows + 2) * (columns + 2) / (rows * columns)
        return [replace(base, multiplications=count, tensor=project + int(again * expand), depthwise=depthwise)]
    first = _size(given["expand"]) + _size(given["expand_bias"])
    exact = seen * channels_in * hidden
    rest = replace(base, reads=base.reads - first - _size(x) + between, multiplications=count - exact, tensor=project)
    kernel = Launch(base.stage, base.op, _size(x) + first, between, exact, expand)
    return [kernel, replace(rest, depthwise=depthwise)]


_WEIGHTS = ("expand", "expand_bias", "depthwise", "depthwise_bias", "project", "project_bias", "spec")


def _tail(base: Launch, x: dict[str, Any], out: Tensor) -> list[Launch]:
    names = ("depthwise", "depthwise_bias", "packed", "bias", "spec")
    count = out.shape[0] * ops.TailWeights(*(x[name] for name in names)).multiplications(out.shape[1], out.shape[2])
    pixels, channels = out[..., 0].numel(), x["x"].shape[-1]
    last = pixels * 9 * channels * out.shape[-1]
    tensor = pixels * 9 * _grain(channels) * _grain(out.shape[-1])
    return [replace(base, multiplications=count, tensor=tensor, depthwise=count - last)]


COUNTED = {"conv": _conv, "mbconv": _mbconv, "tail": _tail}


class Trace(TorchDispatchMode):
    """Notes every launch; stands in for the `ops.Replay` that records the form's ops, so that it knows the stage."""

    def __init__(self) -> None:
        super().__init__()
        self.launches: list[Launch] = []
        self._stage = ""

    def mark(self, name: str) -> None:
        """What follows belongs to this stage."""
        self._stage = name

    @contextmanager
    def branch(self) -> Iterator[None]:
        """What could run beside the rest is counted with it."""
        yield

    def join(self) -> None:
        """See `branch`."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        names = [argument.name for argument in func._schema.arguments]
        given = dict(zip(names, args, strict=False)) | (kwargs or {})
        space, op = func._schema.name.split("::")
        if space == "fastreenact":
            self._note(op.removesuffix("_out"), given, result)
        elif _works(given, result, func):
            self._note(op, given, result)
        return result

    def _note(self, op: str, given: dict[str, Any], result: Any) -> None:
        outs = [given.pop(name) for name in list(given) if name == "out" or name.startswith("out_")] or [result]
        if op in ("conv2d", "linear", "mkldnn_convolution", "matmul", "mm", "addmm"):
            raise ValueError(f"{op}: a layer that is none of our ops, whose multiplications would be missed")
        tensors = [value for value in given.values() if isinstance(value, Tensor)]
        reads = sum({(x.data_ptr(), x.shape): _size(x) for x in tensors}.values())
        base = Launch(self._stage, op, reads, sum(map(_size, outs)))
        self.launches += COUNTED[op](base, given, outs[0]) if op in COUNTED else [base]


def _works(given: dict[str, Any], result: Any, func: Any) -> bool:
    """Whether an op of PyTorch moves data: it changes an argument, or gives memory of its own made from some."""
    tensors = [value for value in given.values() if isinstance(value, Tensor)]
    if func._schema.is_mutable or not tensors or not isinstance(result, Tensor):
        return func._schema.is_mutable
    return all(result.untyped_storage().data_ptr() != x.untyped_storage().data_ptr() for x in tensors)


@torch.inference_mode()
def frame(size: int) -> list[Launch]:
    """Launches of one frame of the published form, keypoints to uint8 picture."""
    faces = Portraits(size)
    with mock.patch.object(fused_layers, "WINOGRAD_OUTPUTS", math.inf):  # which a CPU alone uses
        fused = fuse(random_face2face_rho(), size, torch.bfloat16)
    state = fused.encode(faces.image, faces.points[0], faces.poses[0])
    out = torch.empty(1, size, size, 3, dtype=torch.uint8)
    fused.step(state, faces.points[1], faces.poses[1])
    with Trace() as trace:
        fused._last._step(trace, fused._slabs.tensors)
        trace.mark("deliver")
        fused._last.frame(out)
    return trace.launches
