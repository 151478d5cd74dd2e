"""conv: a dense convolution with what is added and ReLU in one pass; its kernel may repeat with the output's place."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fastreenact import _C
from fastreenact.ops import checks
from fastreenact.ops.define import architecture, cuda_kernels, register
from fastreenact.ops.packing import PANEL, pack_fragments, padded, panels, transformed, unpack_fragments

MAX_PHASES = 5  # kMaxPhases of csrc/conv.h
_ACTIVATIONS = (None, "relu")


class Axis(NamedTuple):
    """Which inputs an output sees along one axis: output phases * cell + phase sees taps[phase] inputs from
    step * cell + offset[phase] on."""

    step: int
    offset: tuple[int, ...]
    taps: tuple[int, ...]

    @property
    def phases(self) -> int:
        """How many outputs share a cell."""
        return len(self.taps)


@dataclass(frozen=True, eq=False)
class ConvKernel:
    """A convolution in exact numbers, before it is packed for a device.

    Attributes:
        axis_y, axis_x: its geometry.
        weights: of phase (y, x), [Cout, taps_y, taps_x, Cin] float64.
        bias: [Cout] float64.
    """

    axis_y: Axis
    axis_x: Axis
    weights: dict[tuple[int, int], Tensor]
    bias: Tensor

    @property
    def channels(self) -> tuple[int, int]:
        """Cin, Cout."""
        first = self.weights[0, 0]
        return first.shape[3], first.shape[0]


def plain_kernel(weight: Tensor, bias: Tensor | None, *, stride: int = 1, padding: int = 0) -> ConvKernel:
    """An ordinary convolution: weight [Cout, Cin, ky, kx], bias [Cout] or None, zeros beyond the picture."""
    axes = [Axis(stride, (-padding,), (taps,)) for taps in weight.shape[2:]]
    exact = torch.zeros(len(weight), dtype=torch.float64) if bias is None else bias.double()
    return ConvKernel(axes[0], axes[1], {(0, 0): weight.double().permute(0, 2, 3, 1)}, exact)


class _Geometry(NamedTuple):
    channels_in: int
    channels_out: int
    dtype: torch.dtype
    winograd: bool
    axis_y: Axis
    axis_x: Axis
    at: tuple[int, ...]  # where each phase's weights begin, in elements: [y * MAX_PHASES + x]


@dataclass(frozen=True, eq=False)
class ConvWeights:
    """A `ConvKernel` packed for one device and precision."""

    # Of each phase [Cout, taps_y * taps_x * Cin]: on the CPU `panels`, elsewhere `pack_fragments`; for Winograd's
    # algorithm 16 times [Cout, Cin].
    packed: Tensor
    bias: Tensor  # float32, padded to whole panels
    spec: list[int]  # `_Geometry` as numbers, which the schema of an op can hold

    @property
    def channels_out(self) -> int:
        """Cout."""
        return self.spec[1]

    def multiplications(self, height: int, width: int) -> int:
        """Of one output [height, width, Cout]."""
        g = _geometry(self.spec)
        return g.channels_in * g.channels_out * _taps(g.axis_y, height) * _taps(g.axis_x, width)


def _taps(axis: Axis, length: int) -> int:
    """How many inputs all outputs of an axis see."""
    return sum(taps * len(range(phase, length, axis.phases)) for phase, taps in enumerate(axis.taps))


def suits_winograd(kernel: ConvKernel) -> bool:
    """A plain 3x3 with stride 1 between so many channels that the products outweigh the transforms."""
    plain = all(axis.step == 1 and axis.taps == (3,) for axis in (kernel.axis_y, kernel.axis_x))
    channels_in, channels_out = kernel.channels
    return plain and channels_in % PANEL == 0 and channels_in >= 64 and channels_out >= 64


def pack_conv(
    kernel: ConvKernel, dtype: torch.dtype, device: torch.device | str = "cpu", *, winograd: bool = False
) -> ConvWeights:
    """`kernel` ready for `conv`, its weights rounded to `dtype` (float32, bfloat16, or float16 on a GPU).

    `winograd`, for a kernel that `suits_winograd` on the CPU, multiplies 2.25 times less and reads 1.8 times the
    weights: it pays from about 256 outputs on. In bfloat16 the transformed values are rounded as well.
    """
    device, axis_y, axis_x = torch.device(device), kernel.axis_y, kernel.axis_x
    for axis in (axis_y, axis_x):
        if not 1 <= axis.phases <= MAX_PHASES or len(axis.offset) != axis.phases or min(axis.taps) < 1:
            raise ValueError(f"kernel: got the axis {axis}, needs 1 to {MAX_PHASES} phases of 1 tap and more")
    at, parts, length = [0] * MAX_PHASES**2, [], 0
    on_cpu = device.type == "cpu"
    if winograd:
        if not (on_cpu and suits_winograd(kernel)):
            raise ValueError("winograd: needs the CPU and a plain 3x3 kernel with stride 1 and 64 channels or more")
        parts = [panels(matrix, dtype) for matrix in transformed(kernel.weights[0, 0])]
    for (y, x), weight in sorted(kernel.weights.items() if not winograd else ()):
        matrix = weight.flatten(1)
        parts.append(panels(matrix, dtype) if on_cpu else pack_fragments(matrix, dtype, device).flatten())
        at[y * MAX_PHASES + x], length = length, length + len(parts[-1])
    numbers = [*kernel.channels, checks.DTYPES[dtype], int(winograd)]
    for axis in (axis_y, axis_x):
        numbers += [axis.phases, axis.step, *axis.offset, *axis.taps]
    return ConvWeights(torch.cat(parts), padded(kernel.bias).to(device), numbers + at)


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
    height, width = size or _output_size(kernel.axis_y, kernel.axis_x, x.shape[1], x.shape[2])
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


def _output_size(axis_y: Axis, axis_x: Axis, height: int, width: int) -> tuple[int, int]:
    """All outputs that see the picture: of a plain convolution as padding says, otherwise every cell's."""
    sizes = []
    for axis, length in ((axis_y, height), (axis_x, width)):
        if axis.phases == 1:
            sizes.append((length - 2 * axis.offset[0] - axis.taps[0]) // axis.step + 1)
        else:
            sizes.append(-(-length // axis.step) * axis.phases)
    return sizes[0], sizes[1]


def _geometry(spec: list[int]) -> _Geometry:
    """The numbers of a spec by name."""
    axes, i = [], 4
    for _ in range(2):
        phases, step = spec[i : i + 2]
        offset, taps = spec[i + 2 : i + 2 + phases], spec[i + 2 + phases : i + 2 + 2 * phases]
        axes.append(Axis(step, tuple(offset), tuple(taps)))
        i += 2 + 2 * phases
    return _Geometry(spec[0], spec[1], checks.DTYPE_OF[spec[2]], bool(spec[3]), axes[0], axes[1], tuple(spec[i:]))


def _check(
    x: Tensor,
    packed: Tensor,
    bias: Tensor,
    add: Tensor | None,
    source_index: Tensor | None,
    residual: Tensor | None,
    g: _Geometry,
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
        height, width = _output_size(g.axis_y, g.axis_x, x.shape[1], x.shape[2])
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
        g = _geometry(spec)
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
    g = _geometry(spec)
    out.copy_(
        conv_reference(
            x,
            _unpack(packed, bias, g),
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


def _unpack(packed: Tensor, bias: Tensor, g: _Geometry) -> ConvKernel:
    """The kernel that was packed for a GPU, in float32."""
    weights = {}
    for y, taps_y in enumerate(g.axis_y.taps):
        for x, taps_x in enumerate(g.axis_x.taps):
            depth = taps_y * taps_x * g.channels_in
            blocks_n, blocks_k = -(-g.channels_out // 16), -(-depth // 16)
            at = g.at[y * MAX_PHASES + x]
            blocks = packed[at : at + blocks_n * blocks_k * 256].view(blocks_n, blocks_k, 256)
            matrix = unpack_fragments(blocks, g.channels_out, depth).float()
            weights[y, x] = matrix.reshape(g.channels_out, taps_y, taps_x, g.channels_in)
    return ConvKernel(g.axis_y, g.axis_x, weights, bias[: g.channels_out])


def _new(x: Tensor, g: _Geometry) -> Tensor:
    """An empty output of the natural size."""
    return x.new_empty(
        x.shape[0], *_output_size(g.axis_y, g.axis_x, x.shape[1], x.shape[2]), g.channels_out, dtype=g.dtype
    )


def _implementation(
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
    _check(x, packed, bias, add, source_index, residual, _geometry(spec), None)
    out = _new(x, _geometry(spec))
    _run(x, packed, bias, add, source_index, residual, spec, activation, x_scale, x_shift, out)
    return out


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
    _check(x, packed, bias, add, source_index, residual, _geometry(spec), None)
    return _new(x, _geometry(spec))


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
    _check(x, packed, bias, add, source_index, residual, _geometry(spec), out)


_ARGUMENTS = (
    "Tensor x, Tensor packed, Tensor bias, Tensor? add, Tensor? source_index, Tensor? residual, int[] spec, "
    "str? activation, float x_scale, float x_shift"
)
_conv = register(f"conv({_ARGUMENTS}) -> Tensor", _implementation, _fake)
_conv_out = register(f"conv_out({_ARGUMENTS}, Tensor(a!) out) -> ()", _run, _fake_out)
