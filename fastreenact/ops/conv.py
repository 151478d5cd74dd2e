"""conv: a dense convolution with what is added and ReLU in one pass; its kernel may repeat with the output's place."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastreenact import _C
from fastreenact.ops import checks
from fastreenact.ops.conv_kernel import ConvKernel, ConvWeights, Geometry, geometry, output_size, unpack
from fastreenact.ops.define import architecture, cuda_kernels, register, returning

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
    checks.need_tensor("x", x)
    for name, optional in (("add", add), ("source_index", source_index), ("residual", residual), ("out", out)):
        if optional is not None:
            checks.need_tensor(name, optional)
    checks.need_packed("weights", weights, ConvWeights, "pack_conv")
    checks.need_choice("activation", activation, _ACTIVATIONS)
    checks.need_number("x_scale", x_scale)
    checks.need_number("x_shift", x_shift)
    rest = (add, source_index, residual, weights.spec, activation, x_scale, x_shift)
    if out is None:
        return _conv(x, weights.packed, weights.bias, *rest)
    _conv_out(x, weights.packed, weights.bias, *rest, out)
    return out


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
    device = devices.pop()
    kernels = None if device.type == "cpu" else cuda_kernels()
    if kernels is None:
        for call in calls:
            conv(**call)
        return
    launch = [_keywords(**call) for call in calls]
    present = [params for params in launch if params is not None]
    if present:
        _launch(kernels, present, device)


def _keywords(
    x: Tensor,
    weights: ConvWeights,
    *,
    out: Tensor,
    add: Tensor | None = None,
    source_index: Tensor | None = None,
    residual: Tensor | None = None,
    activation: str | None = None,
    x_scale: float = 1.0,
    x_shift: float = 0.0,
) -> dict[str, Any] | None:
    """`_prepare` for the keywords of `conv`."""
    checks.need_choice("activation", activation, _ACTIVATIONS)
    return _prepare(
        x, weights.packed, weights.bias, add, source_index, residual, weights.spec, activation, x_scale, x_shift, out
    )


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


def _check(
    x: Tensor,
    packed: Tensor,
    bias: Tensor,
    add: Tensor | None,
    source_index: Tensor | None,
    residual: Tensor | None,
    g: Geometry,
    out: Tensor | None,
) -> None:
    """Raise what `conv` raises for tensors."""
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


class _Plan:
    """A checked call: everything that its tensors' addresses do not change."""

    def __init__(
        self,
        x: Tensor,
        packed: Tensor,
        bias: Tensor,
        add: Tensor | None,
        source_index: Tensor | None,
        residual: Tensor | None,
        out: Tensor,
        spec: list[int],
        activation: str | None,
        x_scale: float,
        x_shift: float,
    ) -> None:
        g = geometry(spec)
        _check(x, packed, bias, add, source_index, residual, g, out)
        self.empty = out.numel() == 0
        self.addends = 0 if add is None else add.shape[0]
        half = residual is not None and tuple(residual.shape[1:3]) != tuple(out.shape[1:3])
        self.fixed = {
            "x_shape": tuple(x.shape),
            "x_stride": x.stride(),
            "weights_at": g.at,
            "add_stride": checks.broadcast_strides(add),
            "residual_stride": checks.broadcast_strides(residual),
            "out_shape": tuple(out.shape),
            "out_stride": out.stride(),
            "axis_y": (g.axis_y.phases, *g.axis_y),
            "axis_x": (g.axis_x.phases, *g.axis_x),
            "x_scale": x_scale,
            "x_shift": x_shift,
            "x_dtype": checks.DTYPES[x.dtype],
            "dtype": spec[2],
            "out_dtype": checks.DTYPES[out.dtype],
            "activation": checks.ACTIVATIONS[activation],
            "residual_half": half,
            "winograd": g.winograd,
        }


_plans: dict[Any, _Plan] = {}


def _prepare(
    x: Tensor,
    packed: Tensor,
    bias: Tensor,
    add: Tensor | None,
    source_index: Tensor | None,
    residual: Tensor | None,
    spec: list[int],
    activation: str | None,
    x_scale: float,
    x_shift: float,
    out: Tensor,
) -> dict[str, Any] | None:
    """The checked keywords of `_C.conv`, or None where nothing is to be done."""
    tensors = (x, packed, bias, add, source_index, residual, out)
    key = (*map(checks.signature, tensors), tuple(spec), activation, x_scale, x_shift, torch.is_grad_enabled())
    plan = _plans.get(key)
    if plan is None:
        plan = checks.remember(_plans, key, _Plan(*tensors, spec, activation, x_scale, x_shift))
    if plan.empty:
        return None
    checks.need_apart("out", out, "x", x)
    if add is not None:
        checks.need_apart("out", out, "add", add)
    if residual is not None:
        checks.need_apart("out", out, "residual", residual, same_allowed=True)
    if source_index is not None:
        checks.need_apart("out", out, "source_index", source_index)
    if (
        source_index is not None
        and source_index.device.type == "cpu"
        and not (int(source_index.min()) >= 0 and int(source_index.max()) < plan.addends)
    ):
        raise ValueError(
            f"source_index: got {source_index.tolist()}, needs 0 to {plan.addends - 1}, the pictures of add"
        )
    return {
        "x": x.data_ptr(),
        "weights": packed.data_ptr(),
        "bias": bias.data_ptr(),
        "add": 0 if add is None else add.data_ptr(),
        "residual": 0 if residual is None else residual.data_ptr(),
        "out": out.data_ptr(),
        "source_index": 0 if source_index is None else source_index.data_ptr(),
        **plan.fixed,
    }


def _run(
    x: Tensor,
    packed: Tensor,
    bias: Tensor,
    add: Tensor | None,
    source_index: Tensor | None,
    residual: Tensor | None,
    spec: list[int],
    activation: str | None,
    x_scale: float,
    x_shift: float,
    out: Tensor,
) -> None:
    params = _prepare(x, packed, bias, add, source_index, residual, spec, activation, x_scale, x_shift, out)
    if params is None:
        return
    if x.device.type == "cpu":
        _C.conv(**params)
        return
    kernels = cuda_kernels()
    if kernels is not None:
        _launch(kernels, [params], x.device)
        return
    g = geometry(spec)
    out.copy_(
        conv_reference(
            x,
            unpack(packed, bias, g),
            add=add,
            source_index=source_index,
            residual=residual,
            activation=activation,
            x_scale=x_scale,
            x_shift=x_shift,
            size=(out.shape[1], out.shape[2]),
        )
    )


def _launch(kernels: Any, convs: list[dict[str, Any]], device: torch.device) -> None:
    """One launch on the current stream of `device`."""
    with torch.cuda.device(device):
        stream = torch.cuda.current_stream().cuda_stream
        kernels.conv_cuda(convs=convs, architecture=architecture(device), stream=stream)


def _fake(
    x: Tensor,
    packed: Tensor,
    bias: Tensor,
    add: Tensor | None,
    source_index: Tensor | None,
    residual: Tensor | None,
    spec: list[int],
    activation: str | None,
    x_scale: float,
    x_shift: float,
) -> Tensor:
    g = geometry(spec)
    _check(x, packed, bias, add, source_index, residual, g, None)
    size = output_size(g.axis_y, g.axis_x, x.shape[1], x.shape[2])
    return x.new_empty(x.shape[0], *size, g.channels_out, dtype=g.dtype)


def _fake_out(
    x: Tensor,
    packed: Tensor,
    bias: Tensor,
    add: Tensor | None,
    source_index: Tensor | None,
    residual: Tensor | None,
    spec: list[int],
    activation: str | None,
    x_scale: float,
    x_shift: float,
    out: Tensor,
) -> None:
    _check(x, packed, bias, add, source_index, residual, geometry(spec), out)


_ARGUMENTS = (
    "Tensor x, Tensor packed, Tensor bias, Tensor? add, Tensor? source_index, Tensor? residual, int[] spec, "
    "str? activation, float x_scale, float x_shift"
)
_conv = register(f"conv({_ARGUMENTS}) -> Tensor", returning(_fake, _run), _fake)
_conv_out = register(f"conv_out({_ARGUMENTS}, Tensor(a!) out) -> ()", _run, _fake_out)
