"""mbconv: an inverted residual in one pass: expand 1x1, ReLU, depthwise 3x3, ReLU, project 1x1."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastreenact.ops import checks
from fastreenact.ops.define import Op, Out, architecture
from fastreenact.ops.packing import (
    PANEL,
    depthwise_order,
    multiplies_pairs,
    pack_fragments,
    padded,
    panels,
    unpack_fragments,
)


@dataclass(frozen=True, eq=False)
class MbconvKernel:
    """An inverted residual in exact numbers, what normalises folded in; float64.

    Attributes:
        expand: [hidden, Cin], None where the hidden map is the input itself; expand_bias: [hidden].
        depthwise: [hidden, 3, 3], zeros beyond the map; depthwise_bias: [hidden].
        project: [Cout, hidden]; project_bias: [Cout].
        stride: of the depthwise convolution, 1 or 2.
        residual: whether the input is added to the output.
    """

    expand: Tensor | None
    expand_bias: Tensor | None
    depthwise: Tensor
    depthwise_bias: Tensor
    project: Tensor
    project_bias: Tensor
    stride: int = 1
    residual: bool = False


@dataclass(frozen=True, eq=False)
class MbconvWeights:
    """A `MbconvKernel` packed for one device and precision."""

    expand: Tensor | None  # 1x1 weights as `panels` has them for the CPU, `pack_fragments` for a GPU
    expand_bias: Tensor | None  # float32; biases and the depthwise weights are padded to whole panels
    depthwise: Tensor  # float32 [9, hidden]
    depthwise_bias: Tensor
    project: Tensor
    project_bias: Tensor
    spec: list[int]  # Cin, hidden, Cout, dtype, stride, residual, half_sums

    @property
    def channels_out(self) -> int:
        """Cout."""
        return self.spec[2]

    def multiplications(self, height: int, width: int, upsample: bool = False) -> int:
        """Of one output [height, width, Cout]."""
        return sum(self.multiplications_by_kind(height, width, upsample))

    def multiplications_by_kind(self, height: int, width: int, upsample: bool = False) -> tuple[int, int]:
        """The same, of the 1x1 convolutions and of the depthwise one, where of a doubled map's nine taps four count."""
        channels_in, hidden, channels_out, _, stride, _, _ = self.spec
        pixels, taps = height * width, 4 if upsample else 9
        expanded = -(-height // 2) * -(-width // 2) if upsample else pixels * stride * stride
        expand = 0 if self.expand is None else expanded * channels_in * hidden
        return expand + pixels * hidden * channels_out, pixels * hidden * taps


def pack_mbconv(
    kernel: MbconvKernel, dtype: torch.dtype, device: torch.device | str = "cpu", *, half_sums: bool = False
) -> MbconvWeights:
    """`kernel` ready for `mbconv`, its 1x1 weights rounded to `dtype` (float32, bfloat16, or float16 on a GPU).

    `half_sums`: float16 is summed in float16 over 64 products, then in float32, which the tensor cores of compute
    capability 7.5 do twice as fast.
    """
    device = torch.device(device)
    hidden, channels_out = len(kernel.depthwise), len(kernel.project)
    channels_in = hidden if kernel.expand is None else kernel.expand.shape[1]
    if kernel.stride not in (1, 2) or (kernel.residual and (kernel.stride != 1 or channels_in != channels_out)):
        raise ValueError(
            f"kernel: got stride {kernel.stride}, residual {kernel.residual}, {channels_in} to {channels_out} "
            "channels, needs stride 1 or 2, and a residual only at stride 1 between equal channels"
        )
    if half_sums and dtype != torch.float16:
        raise ValueError(f"half_sums: got dtype {dtype}, needs float16")
    if device.type == "cpu" and dtype != torch.float32 and channels_in % 2:
        raise ValueError(f"kernel: got {channels_in} input channels, needs an even number in {dtype}")

    def products(matrix: Tensor) -> Tensor:
        return panels(matrix, dtype) if device.type == "cpu" else pack_fragments(matrix, dtype, device)

    depthwise = F.pad(kernel.depthwise.flatten(1).t().float(), (0, -hidden % PANEL)).contiguous()
    depthwise_bias, project = padded(kernel.depthwise_bias), kernel.project
    if device.type == "cpu":
        project = F.pad(project, (0, -hidden % PANEL))
        if multiplies_pairs(dtype):
            order = depthwise_order(len(depthwise_bias))
            depthwise, depthwise_bias, project = depthwise[:, order], depthwise_bias[order], project[:, order]
    return MbconvWeights(
        None if kernel.expand is None else products(kernel.expand),
        None if kernel.expand_bias is None else padded(kernel.expand_bias).to(device),
        depthwise.to(device),
        depthwise_bias.to(device),
        products(project),
        padded(kernel.project_bias).to(device),
        [channels_in, hidden, channels_out, checks.DTYPES[dtype], kernel.stride, int(kernel.residual), int(half_sums)],
    )


def mbconv(
    x: Tensor, weights: MbconvWeights, *, upsample: tuple[int, int] | None = None, out: Tensor | None = None
) -> Tensor:
    """An inverted residual block on channels-last maps; its hidden map never exists as a whole.

    y = project(relu(depthwise(relu(expand(x))))), + x with a residual; with `upsample`, x doubled by nearest first

    Args:
        x: [N, H, W, Cin] of the weights' dtype, channels contiguous.
        weights: from `pack_mbconv`.
        upsample: height and width of x doubled, cropped: 2 H or 2 H - 1, and so on; only without stride and residual.
        out: [N, Ho, Wo, Cout] of the same dtype to write into.
    Returns:
        [N, ceil(H / stride), ceil(W / stride), Cout], or of the size `upsample`: `out` if given. Sums are float32
        inside, the hidden map is rounded to the dtype.
    Raises:
        TypeError: an argument is no tensor or has a dtype that is not listed.
        ValueError: a shape, stride or device that does not fit; an input requires grad.
    Source: MobileNetV2 (Sandler et al. 2018), Sec. 3.3.
    """
    checks.need_packed("weights", weights, MbconvWeights, "pack_mbconv")
    w, size = weights, None if upsample is None else checks.need_size("upsample", upsample)
    arguments = (x, w.expand, w.expand_bias, w.depthwise, w.depthwise_bias, w.project, w.project_bias, w.spec, size)
    return _MBCONV(*arguments, out=out)


def mbconv_reference(x: Tensor, kernel: MbconvKernel, *, upsample: tuple[int, int] | None = None) -> Tensor:
    """What `mbconv` means, in plain PyTorch: any device, in the dtype of the kernel."""
    values = y = x.to(kernel.depthwise.dtype).permute(0, 3, 1, 2)
    if upsample is not None:
        y = F.interpolate(y, scale_factor=2, mode="nearest")[..., : upsample[0], : upsample[1]]
    if kernel.expand is not None:
        y = F.conv2d(y, kernel.expand[:, :, None, None], kernel.expand_bias).relu()
    y = F.conv2d(y, kernel.depthwise[:, None], kernel.depthwise_bias, kernel.stride, 1, 1, len(kernel.depthwise)).relu()
    y = F.conv2d(y, kernel.project[:, :, None, None], kernel.project_bias)
    return (y + values if kernel.residual else y).permute(0, 2, 3, 1)


def _output_size(x: Tensor, spec: list[int], size: list[int] | None) -> tuple[int, int]:
    stride = spec[4]
    if size is not None:
        return size[0], size[1]
    return -(-x.shape[1] // stride), -(-x.shape[2] // stride)


def _check(a: Any) -> Out:
    """Raise what `mbconv` raises for tensors."""
    x, _, _, _, _, project, _, spec, size, out = a
    checks.need_forward_only("mbconv", x=x, out=out)
    checks.need_dtype("x", x, (checks.DTYPE_OF[spec[3]],))
    checks.need_shape("x", x, (None, None, None, spec[0]), "[N, H, W, Cin]")
    checks.need_channels_last("x", x)
    checks.need_same_device(x, weights=project, out=out)
    if size is not None:
        fits = all(2 * n - 1 <= m <= 2 * n for n, m in zip(x.shape[1:3], size, strict=True))
        if len(size) != 2 or spec[4] != 1 or spec[5] or not fits:
            raise ValueError(
                f"upsample: got {size} for x {list(x.shape)}, needs its doubled height and width or one less, and "
                "weights without stride and residual"
            )
    if out is not None:
        checks.need_dtype("out", out, (x.dtype,))
        checks.need_shape("out", out, (x.shape[0], *_output_size(x, spec, size), spec[2]), "[N, Ho, Wo, Cout]")
        checks.need_writable("out", out)
    return Out((x.shape[0], *_output_size(x, spec, size), spec[2]))


def _numbers(a: Any) -> dict[str, Any]:
    _, hidden, _, _, stride, residual, half_sums = a.spec
    return {
        "hidden": hidden,
        "stride": stride,
        "upsample": a.size is not None,
        "residual": bool(residual),
        "half_sums": bool(half_sums),
        "architecture": architecture(a.x.device),
    }


def _fallback(a: Any) -> None:
    kernel = _unpacked(*a[1:8])
    a.out.copy_(mbconv_reference(a.x, kernel, upsample=None if a.size is None else tuple(a.size)))


def _unpacked(
    expand: Tensor | None,
    expand_bias: Tensor | None,
    depthwise: Tensor,
    depthwise_bias: Tensor,
    project: Tensor,
    project_bias: Tensor,
    spec: list[int],
) -> MbconvKernel:
    """What `pack_mbconv` packed for a GPU, in float32."""
    channels_in, hidden, channels_out, _, stride, residual, _ = spec
    return MbconvKernel(
        None if expand is None else unpack_fragments(expand, hidden, channels_in).float(),
        None if expand_bias is None else expand_bias[:hidden],
        depthwise[:, :hidden].t().reshape(hidden, 3, 3),
        depthwise_bias[:hidden],
        unpack_fragments(project, channels_out, hidden).float(),
        project_bias[:channels_out],
        stride,
        bool(residual),
    )


_MBCONV = Op(
    mbconv,
    _check,
    arguments="Tensor x, Tensor? expand, Tensor? expand_bias, Tensor depthwise, Tensor depthwise_bias, Tensor project, "
    "Tensor project_bias, int[] spec, int[]? size",
    packed=("expand", "expand_bias", "depthwise", "depthwise_bias", "project", "project_bias"),
    numbers=_numbers,
    cuda=True,
    fallback=_fallback,
)
