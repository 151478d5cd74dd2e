"""tail: the decoder's last layers in one pass: nearest x2, depthwise 3x3, ReLU, and what follows as one 3x3."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastreenact.ops import checks
from fastreenact.ops.define import Op, Out
from fastreenact.ops.packing import PANEL, panels

CHANNELS = 8  # of the input: kChannels of csrc/tail.cpp
_TOGETHER = 4  # pixels whose outputs share a panel there


@dataclass(frozen=True, eq=False)
class TailKernel:
    """The layers in exact numbers, float64.

    Attributes:
        depthwise: [8, 3, 3]; depthwise_bias: [8].
        weight: [Cout, 8, 3, 3] of the last convolution, Cout at most 4, zeros beyond the picture.
        bias: [3, 3, Cout]: of the first, inner and last row, and column: taps outside may lack their part of it.
    """

    depthwise: Tensor
    depthwise_bias: Tensor
    weight: Tensor
    bias: Tensor


@dataclass(frozen=True, eq=False)
class TailWeights:
    """A `TailKernel` packed for one device and precision."""

    depthwise: Tensor  # float32 [9, 8]
    depthwise_bias: Tensor  # float32 [8]
    packed: Tensor  # on the CPU panels of four pixels' outputs; elsewhere float32 [8, 3, 3, 4], rounded to the dtype
    bias: Tensor  # float32 [3, 3, PANEL]
    spec: list[int]  # Cout, dtype

    @property
    def channels_out(self) -> int:
        """Cout."""
        return self.spec[0]

    def multiplications(self, height: int, width: int) -> int:
        """Of one output [height, width, Cout]: of the depthwise convolution's taps those that see different values."""
        return height * width * CHANNELS * (4 + 9 * self.spec[0])


def pack_tail(kernel: TailKernel, dtype: torch.dtype, device: torch.device | str = "cpu") -> TailWeights:
    """`kernel` ready for `tail`, its last weights rounded to `dtype` (float32, bfloat16, or float16 on a GPU)."""
    device = torch.device(device)
    channels_out = len(kernel.weight)
    if kernel.weight.shape[1:] != (CHANNELS, 3, 3) or not 1 <= channels_out * _TOGETHER <= PANEL:
        raise ValueError(f"kernel: got a weight {list(kernel.weight.shape)}, needs [1 to 4, {CHANNELS}, 3, 3]")
    if device.type == "cpu":
        # [pixel, output], [row, column of the four pixels' window, channel]: each pixel sees three of the columns.
        wide = torch.zeros(_TOGETHER, channels_out, 3, _TOGETHER + 2, CHANNELS, dtype=torch.float64)
        for pixel in range(_TOGETHER):
            wide[pixel, :, :, pixel : pixel + 3] = kernel.weight.permute(0, 2, 3, 1)
        packed = panels(wide.flatten(2).flatten(0, 1), dtype)
    else:
        rounded = kernel.weight.to(dtype).float().permute(1, 2, 3, 0)
        packed = F.pad(rounded, (0, _TOGETHER - channels_out)).contiguous().to(device)
    bias = F.pad(kernel.bias.float(), (0, PANEL - channels_out)).contiguous()
    depthwise = kernel.depthwise.flatten(1).t().float().contiguous()
    return TailWeights(
        depthwise.to(device),
        kernel.depthwise_bias.float().to(device),
        packed,
        bias.to(device),
        [channels_out, checks.DTYPES[dtype]],
    )


def tail(x: Tensor, weights: TailWeights, size: tuple[int, int], *, out: Tensor | None = None) -> Tensor:
    """The picture from the decoder's last map.

    y = conv3x3(relu(depthwise3x3(x doubled by nearest)))

    Args:
        x: [N, ceil(H / 2), ceil(W / 2), 8] of the weights' dtype, channels contiguous.
        weights: from `pack_tail`.
        size: H and W, at least 2 each.
        out: [N, H, W, Cout] of the same dtype to write into, its pixels contiguous.
    Returns:
        [N, H, W, Cout] before any activation: `out` if given. Sums are float32 inside.
    Raises:
        TypeError: an argument is no tensor or has a dtype that is not listed.
        ValueError: a shape, stride or device that does not fit; an input requires grad.
    Source: Face2Face^rho, Sec. 3.2, Fig. 2, the last up-sampling block.
    """
    checks.need_packed("weights", weights, TailWeights, "pack_tail")
    w, size = weights, checks.need_size("size", size)  # type: ignore[assignment]
    arguments = (x, w.depthwise, w.depthwise_bias, w.packed, w.bias, w.spec, size)
    return _TAIL(*arguments, out=out)


def tail_reference(x: Tensor, kernel: TailKernel, size: tuple[int, int]) -> Tensor:
    """What `tail` means, in plain PyTorch: any device, in the dtype of the kernel."""
    y = F.interpolate(x.to(kernel.weight.dtype).permute(0, 3, 1, 2), scale_factor=2, mode="nearest")
    y = y[..., : size[0], : size[1]]
    y = F.conv2d(y, kernel.depthwise[:, None], kernel.depthwise_bias, 1, 1, 1, CHANNELS).relu()
    y = F.conv2d(y, kernel.weight, None, 1, 1).permute(0, 2, 3, 1)
    rows, columns = (torch.ones(n, dtype=torch.long) for n in size)
    for index in (rows, columns):
        index[0], index[-1] = 0, 2
    return y + kernel.bias[rows[:, None], columns]


def _check(a: Any) -> Out:
    """Raise what `tail` raises for tensors."""
    x, _, _, packed, _, spec, size, out = a
    checks.need_forward_only("tail", x=x, out=out)
    checks.need_dtype("x", x, (checks.DTYPE_OF[spec[1]],))
    if len(size) != 2 or min(size) < 2:
        raise ValueError(f"size: got {size}, needs a height and a width of at least 2")
    halves = tuple(-(-n // 2) for n in size)
    checks.need_shape("x", x, (None, *halves, CHANNELS), "[N, ceil(H / 2), ceil(W / 2), 8]")
    checks.need_channels_last("x", x)
    checks.need_same_device(x, weights=packed, out=out)
    if out is not None:
        checks.need_dtype("out", out, (x.dtype,))
        checks.need_shape("out", out, (x.shape[0], *size, spec[0]), "[N, H, W, Cout]")
        checks.need_writable("out", out)
        if out.stride(2) != spec[0]:
            raise ValueError(f"out: got strides {list(out.stride())}, needs contiguous rows")
    return Out((x.shape[0], *size, spec[0]))


def _fallback(a: Any) -> None:
    weight = a.packed.permute(3, 0, 1, 2)[: a.spec[0]].contiguous()
    depthwise, bias = a.depthwise.t().reshape(CHANNELS, 3, 3), a.bias[..., : a.spec[0]].contiguous()
    a.out.copy_(tail_reference(a.x, TailKernel(depthwise, a.depthwise_bias, weight, bias), tuple(a.size)))


_TAIL = Op(
    tail,
    _check,
    arguments="Tensor x, Tensor depthwise, Tensor depthwise_bias, Tensor packed, Tensor bias, int[] spec, int[] size",
    packed=("depthwise", "depthwise_bias", "packed", "bias"),
    cuda=True,
    fallback=_fallback,
)
