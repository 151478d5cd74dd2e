"""conv: a dense convolution with what is added and ReLU in one pass; its kernel may repeat with the output's place."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastreenact.ops import checks
from fastreenact.ops.conv_kernel import ConvKernel, ConvWeights, geometry, output_size, unpack
from fastreenact.ops.define import Op, Out, architecture, batched

_ACTIVATIONS = (None, "relu")


def conv(
    x: Tensor,
    weights: ConvWeights,
    *,
    add: Tensor | None = None,
    source_index: Tensor | None = None,
    residual: Tensor | None = None,
    activation: str | None = None,
    x_scale: float = 1.0,
    x_shift: float = 0.0,
    out: Tensor | None = None,
) -> Tensor:
    """Convolve channels-last maps; what is added and the activation belong to the same pass.

    y = act(conv(x * x_scale + x_shift) + bias + add) + residual

    Args:
        x: [N, H, W, Cin] uint8, float32 or the weights' dtype, channels contiguous; zeros beyond the picture.
        weights: from `pack_conv`.
        add: [A, Ho, Wo, Cout] of the dtype of `out`, or None; one picture for all, one for each, or any number
            with `source_index`.
        source_index: int32 [N], the picture of `add` that each output takes; 0 to A - 1, which is checked on the CPU
            alone: a GPU would have to be waited for.
        residual: [N, Ho, Wo, Cout] of the dtype of `out`, or of half its size, rounded up, and doubled by nearest;
            None; may be `out` itself.
        activation: None or "relu".
        x_scale, x_shift: make the convolved values of x.
        out: [N, Ho, Wo, Cout] in the weights' dtype or float32 to write into; it may be smaller than all outputs, which
            are then cropped.
    Returns:
        [N, Ho, Wo, Cout] in the weights' dtype: `out` if given. Sums are float32 inside.
    Raises:
        TypeError: an argument is no tensor or has a dtype that is not listed.
        ValueError: a shape, stride, device or word that does not fit; an input requires grad.
    """
    checks.need_packed("weights", weights, ConvWeights, "pack_conv")
    checks.need_choice("activation", activation, _ACTIVATIONS)
    checks.need_number("x_scale", x_scale)
    checks.need_number("x_shift", x_shift)
    rest = (add, source_index, residual, weights.spec, activation, x_scale, x_shift)
    return _CONV(x, weights.packed, weights.bias, *rest, out=out)


def conv_many(calls: Sequence[Mapping[str, Any]]) -> None:
    """Several convolutions that do not depend on each other: on a GPU one launch.

    Args:
        calls: for each of up to four the keywords of `conv`, `out` among them; their weights are of one dtype.
    Raises:
        TypeError, ValueError: as `conv`, or more than four calls, several dtypes or devices.
    """
    if not 1 <= len(calls) <= 4:
        raise ValueError(f"calls: got {len(calls)}, needs 1 to 4")
    for call in calls:
        checks.need_packed("calls: weights", call.get("weights"), ConvWeights, "pack_conv")
    dtypes = {call["weights"].spec[2] for call in calls}
    devices = {call["weights"].packed.device for call in calls}
    if len(dtypes) > 1 or len(devices) > 1:
        raise ValueError("calls: needs weights of one dtype on one device")
    with batched("conv", devices.pop()):
        for call in calls:
            conv(**call)


def conv_reference(
    x: Tensor,
    kernel: ConvKernel,
    *,
    add: Tensor | None = None,
    source_index: Tensor | None = None,
    residual: Tensor | None = None,
    activation: str | None = None,
    x_scale: float = 1.0,
    x_shift: float = 0.0,
    size: tuple[int, int] | None = None,
) -> Tensor:
    """What `conv` means, in plain PyTorch: any device, in the dtype of the kernel; `size` is that of `out`."""
    work = kernel.bias.dtype
    height, width = size or output_size(kernel.axis_y, kernel.axis_x, x.shape[1], x.shape[2])
    y = x.new_empty(x.shape[0], height, width, kernel.channels[1], dtype=work)
    values = (x.to(work) * x_scale + x_shift).permute(0, 3, 1, 2)
    for (py, px), weight in kernel.weights.items():
        part = y[:, py :: kernel.axis_y.phases, px :: kernel.axis_x.phases]
        if part.numel() == 0:
            continue
        padding: list[int] = []
        for axis, phase, length, cells in (
            (kernel.axis_x, px, x.shape[2], part.shape[2]),
            (kernel.axis_y, py, x.shape[1], part.shape[1]),
        ):
            end = axis.step * (cells - 1) + axis.offset[phase] + axis.taps[phase]
            padding += [-axis.offset[phase], end - length]  # negative: cropped
        seen = F.pad(values, padding)
        steps = kernel.axis_y.step, kernel.axis_x.step
        part.copy_(F.conv2d(seen, weight.permute(0, 3, 1, 2), None, steps).permute(0, 2, 3, 1))
    y += kernel.bias
    if add is not None:
        y += (add if source_index is None else add[source_index.long()]).to(work)
    if activation is not None:
        y = y.relu()
    if residual is not None:
        if residual.shape[1:3] != y.shape[1:3]:
            residual = residual.repeat_interleave(2, 1).repeat_interleave(2, 2)[:, :height, :width]
        y += residual.to(work)
    return y


def _check(a: Any) -> Out:
    """Raise what `conv` raises for tensors."""
    x, packed, _, add, source_index, residual, spec, _, _, _, out = a
    g = geometry(spec)
    checks.need_forward_only("conv", x=x, add=add, residual=residual, out=out)
    checks.need_dtype("x", x, (torch.uint8, torch.float32, g.dtype, torch.bfloat16))
    checks.need_shape("x", x, (None, None, None, g.channels_in), "[N, H, W, Cin]")
    checks.need_channels_last("x", x)
    checks.need_same_device(x, weights=packed, add=add, source_index=source_index, residual=residual, out=out)
    wanted = out.dtype if out is not None else g.dtype
    checks.need_dtype("out", x.new_empty(0, dtype=wanted), (g.dtype, torch.float32))
    if out is None:
        height, width = output_size(g.axis_y, g.axis_x, x.shape[1], x.shape[2])
        if min(height, width) < 0:
            raise ValueError(f"x: got shape {list(x.shape)}, smaller than the kernel")
    else:
        checks.need_shape("out", out, (x.shape[0], None, None, g.channels_out), "[N, Ho, Wo, Cout]")
        checks.need_writable("out", out)
        height, width = out.shape[1:3]
    for name, tensor in (("add", add), ("residual", residual)):
        if tensor is not None:
            checks.need_dtype(name, tensor, (wanted,))
    if add is not None:
        checks.need_shape("add", add, (None, height, width, g.channels_out), "[A, Ho, Wo, Cout]")
        checks.need_channels_last("add", add)
        if source_index is None and add.shape[0] not in (1, x.shape[0]):
            raise ValueError(f"add: got {add.shape[0]} pictures, needs 1, {x.shape[0]}, or `source_index` to choose by")
    if source_index is not None:
        checks.need_dtype("source_index", source_index, (torch.int32,))
        checks.need_shape("source_index", source_index, (x.shape[0],), "[N]")
        checks.need_contiguous("source_index", source_index)
        if add is None:
            raise ValueError("source_index: got one, needs `add`, whose pictures it chooses")
    if residual is not None:
        half = residual.shape[1:3] == (-(-height // 2), -(-width // 2))
        shape = tuple(residual.shape[1:3]) if half else (height, width)
        checks.need_shape("residual", residual, (x.shape[0], *shape, g.channels_out), "that of out, or half of it")
        checks.need_channels_last("residual", residual)
    return Out((x.shape[0], height, width, g.channels_out), wanted)


def _numbers(a: Any) -> dict[str, Any]:
    g = geometry(a.spec)
    return {
        "axis_y": (g.axis_y.phases, *g.axis_y),
        "axis_x": (g.axis_x.phases, *g.axis_x),
        "weights_at": g.at,
        "dtype": a.spec[2],
        "winograd": g.winograd,
        "activation": checks.ACTIVATIONS[a.activation],
        "x_scale": a.x_scale,
        "x_shift": a.x_shift,
        "architecture": architecture(a.x.device),
    }


def _fallback(a: Any) -> None:
    rest = {name: getattr(a, name) for name in ("add", "source_index", "residual", "activation", "x_scale", "x_shift")}
    kernel = unpack(a.packed, a.bias, geometry(a.spec))
    a.out.copy_(conv_reference(a.x, kernel, size=tuple(a.out.shape[1:3]), **rest))


_CONV = Op(
    conv,
    _check,
    arguments="Tensor x, Tensor packed, Tensor bias, Tensor? add, Tensor? source_index, Tensor? residual, int[] spec, "
    "str? activation, float x_scale, float x_shift",
    may_alias=("residual",),
    packed=("packed", "bias"),
    numbers=_numbers,
    cuda=True,
    fallback=_fallback,
)
