"""The kernel of `conv`: its geometry, its weights in exact numbers, and these packed for a device."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fastreenact.ops import checks
from fastreenact.ops.packing import PANEL, pack_fragments, padded, panels, transformed, unpack_fragments

MAX_PHASES = 5  # kMaxPhases of csrc/conv.h


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


class Geometry(NamedTuple):
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
    spec: list[int]  # `Geometry` as numbers, which the schema of an op can hold

    @property
    def channels_out(self) -> int:
        """Cout."""
        return self.spec[1]

    def multiplications(self, height: int, width: int) -> int:
        """Of one output [height, width, Cout]."""
        g = geometry(self.spec)
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


def output_size(axis_y: Axis, axis_x: Axis, height: int, width: int) -> tuple[int, int]:
    """All outputs that see the picture: of a plain convolution as padding says, otherwise every cell's."""
    sizes = []
    for axis, length in ((axis_y, height), (axis_x, width)):
        if axis.phases == 1:
            sizes.append((length - 2 * axis.offset[0] - axis.taps[0]) // axis.step + 1)
        else:
            sizes.append(-(-length // axis.step) * axis.phases)
    return sizes[0], sizes[1]


def geometry(spec: list[int]) -> Geometry:
    """The numbers of a spec by name."""
    axes, i = [], 4
    for _ in range(2):
        phases, step = spec[i : i + 2]
        offset, taps = spec[i + 2 : i + 2 + phases], spec[i + 2 + phases : i + 2 + 2 * phases]
        axes.append(Axis(step, tuple(offset), tuple(taps)))
        i += 2 + 2 * phases
    return Geometry(spec[0], spec[1], checks.DTYPE_OF[spec[2]], bool(spec[3]), axes[0], axes[1], tuple(spec[i:]))


def unpack(packed: Tensor, bias: Tensor, g: Geometry) -> ConvKernel:
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
