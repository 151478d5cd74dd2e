"""Exact algebra: layers rewritten into fewer multiplications that give the same numbers. All in float64.

Each function takes layers of a loaded network and gives what one of our ops computes; the rewritings are equal, not
approximate (tests hold them to 1e-12).
"""

from itertools import product
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastreenact.ops import Axis, ConvKernel, MbconvKernel, TailKernel, plain_kernel

POSE_CELLS = 16
_THIRD = ((0,), (1,), (2,))  # three taps that see three values

# Nearest x2, then 3x3: an output sees two inputs an axis.
_UPSAMPLED = ((-1, ((0,), (1, 2))), (0, ((0, 1), (2,))))
# A 3x3 over a map enlarged by nearest: the first, an inner and the last pixel of a cell.
_CELL_FIRST = ((-1, ((0,), (1, 2))), (0, ((0, 1, 2),)), (0, ((0, 1), (2,))))
# Another over that: of the first, second, inner, last but one and last pixel of a cell, whose neighbours are the three
# of the first convolution.
_CELL_SECOND = ((-1, _THIRD), (0, ((0,), (1, 2))), (1, ((0, 1, 2),)), (1, ((0, 1), (2,))), (1, _THIRD))


class InvertedResidual(Protocol):
    """Expand, depthwise and project with their norms in one sequence, and whether the input is added."""

    conv: nn.Sequential
    residual: bool


def nearest_index(length_in: int, length_out: int) -> Tensor:
    """Nearest-resize index, int64 [length_out]: output i reads input floor(i * length_in / length_out).

    In whole numbers: `F.interpolate` computes it in float32 and is off by one at some sizes (325 to 328 among them).
    """
    return torch.arange(length_out) * length_in // length_out


def exact(x: Tensor) -> Tensor:
    """float64 on the CPU, where weights are folded."""
    return x.detach().to("cpu", torch.float64)


def fold(conv: nn.Module, norm: nn.Module | None) -> tuple[Tensor, Tensor]:
    """Weight and bias, float64, of `conv` followed by `norm` with its running statistics."""
    if not isinstance(conv, nn.Conv2d) or not (norm is None or isinstance(norm, nn.BatchNorm2d)):
        raise TypeError(f"only a Conv2d followed by a BatchNorm2d folds, got {type(conv)} and {type(norm)}")
    weight = exact(conv.weight)
    bias = torch.zeros(len(weight), dtype=torch.float64) if conv.bias is None else exact(conv.bias)
    if norm is None:
        return weight, bias
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError("a BatchNorm without running statistics cannot be folded")
    scale = (exact(norm.running_var) + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * exact(norm.weight)
    shift = -exact(norm.running_mean) * scale
    if norm.bias is not None:
        shift = shift + exact(norm.bias)
    return weight * scale[:, None, None, None], bias * scale + shift


def convolution(conv: Any, norm: nn.Module | None = None) -> ConvKernel:
    """`conv` and the BatchNorm after it as one convolution."""
    return plain_kernel(*fold(conv, norm), stride=conv.stride[0], padding=int(conv.padding[0]))


def upsampled(conv: Any, norm: nn.Module | None = None) -> ConvKernel:
    """Nearest x2, then a 3x3 with padding 1: four 2x2 convolutions, 4/9 of the multiplications."""
    return merged(*fold(conv, norm), _UPSAMPLED, 1)


def merged(weight: Tensor, bias: Tensor, phases: tuple[Any, ...], step: int) -> ConvKernel:
    """A 3x3 kernel [Cout, Cin, 3, 3] whose taps that see the same value are summed.

    Args:
        phases: of both axes, for each the first input it sees and which taps fall on each input from there on.
        step: inputs from cell to cell.
    """
    axis = Axis(step, tuple(offset for offset, _ in phases), tuple(len(groups) for _, groups in phases))
    weights = {}
    for (y, (_, rows)), (x, (_, columns)) in product(enumerate(phases), repeat=2):
        parts = [[weight[:, :, list(r)][..., list(c)].sum((2, 3)) for c in columns] for r in rows]
        weights[y, x] = torch.stack([torch.stack(row, 1) for row in parts], 1)
    return ConvKernel(axis, axis, weights, bias)


def inverted_residual(block: InvertedResidual) -> MbconvKernel:
    """An inverted residual with its BatchNorms folded in."""
    layers = list(block.conv)
    folded, stride = [], 1
    for i, layer in enumerate(layers):
        if isinstance(layer, nn.Conv2d):
            norm = layers[i + 1] if i + 1 < len(layers) else None
            folded.append(fold(layer, norm if isinstance(norm, nn.BatchNorm2d) else None))
            stride = max(stride, layer.stride[0])
    (depthwise, depthwise_bias), (project, project_bias) = folded[-2:]
    expand, expand_bias = folded[0] if len(folded) == 3 else (None, None)
    return MbconvKernel(
        None if expand is None else expand[:, :, 0, 0],
        expand_bias,
        depthwise[:, 0],
        depthwise_bias,
        project[:, :, 0, 0],
        project_bias,
        stride,
        block.residual,
    )


def tail(block: InvertedResidual, last: nn.Conv2d) -> TailKernel:
    """The last inverted residual (expansion 1) and the 3x3 after it: its 1x1 and the 3x3 are one 3x3.

    Zero padding meets the 1x1's bias: at the border the taps outside lack it.
    """
    first = inverted_residual(block)
    weight, bias = fold(last, None)
    taps = torch.einsum("omyx,m->yxo", weight, first.project_bias)  # what each tap adds of the bias
    inside = ((1, 2), (0, 1, 2), (0, 1))  # taps of the first, an inner and the last row or column
    biases = torch.stack([torch.stack([taps[list(r)][:, list(c)].sum((0, 1)) for c in inside]) for r in inside])
    return TailKernel(
        first.depthwise, first.depthwise_bias, torch.einsum("omyx,mi->oiyx", weight, first.project), biases + bias
    )


def split_input(kernel: ConvKernel, *ranges: slice) -> list[ConvKernel]:
    """A convolution as a sum of several, each of some input channels; the first keeps the bias."""
    parts = []
    for i, channels in enumerate(ranges):
        weights = {phase: weight[..., channels] for phase, weight in kernel.weights.items()}
        bias = kernel.bias if i == 0 else torch.zeros_like(kernel.bias)
        parts.append(ConvKernel(kernel.axis_y, kernel.axis_x, weights, bias))
    return parts


def scaled(kernel: ConvKernel, factor: float) -> ConvKernel:
    """The convolution of `factor` times its input, without bias."""
    weights = {phase: weight * factor for phase, weight in kernel.weights.items()}
    return ConvKernel(kernel.axis_y, kernel.axis_x, weights, torch.zeros_like(kernel.bias))


def pooled(kernel: ConvKernel, n: int) -> ConvKernel:
    """The mean of n x n pixels, then the plain convolution `kernel`: one convolution of the large picture."""
    if kernel.axis_y.phases != 1 or kernel.axis_y != kernel.axis_x:
        raise ValueError(f"only a plain square convolution takes a mean before it, got {kernel.axis_y}")
    axis = kernel.axis_y
    wide = Axis(axis.step * n, (axis.offset[0] * n,), (axis.taps[0] * n,))
    weight = kernel.weights[0, 0].repeat_interleave(n, 1).repeat_interleave(n, 2) / n**2
    return ConvKernel(wide, wide, {(0, 0): weight}, kernel.bias)


def space_to_depth(kernel: ConvKernel, n: int) -> ConvKernel:
    """A plain convolution to few channels, n neighbouring pixels of a row as one: its output [H, W / n, n * Cout] lies
    in memory as [H, W, Cout] does.

    More multiplications, some by zero, but a processor does 16 at once, and few channels waste them.
    """
    if kernel.axis_x.phases != 1 or kernel.axis_x.step != 1:
        raise ValueError(f"only a plain convolution of stride 1 takes pixels together, got {kernel.axis_x}")
    axis = kernel.axis_x
    weight = kernel.weights[0, 0]
    wide = weight.new_zeros(n, *weight.shape[:2], axis.taps[0] + n - 1, weight.shape[3])
    for pixel in range(n):
        wide[pixel, :, :, pixel : pixel + axis.taps[0]] = weight
    axis_x = Axis(n, axis.offset, (axis.taps[0] + n - 1,))
    return ConvKernel(kernel.axis_y, axis_x, {(0, 0): wide.flatten(0, 1)}, kernel.bias.repeat(n))


def pose_cells(encoder: Any) -> tuple[ConvKernel, ConvKernel]:
    """A `PoseEncoder` as two convolutions: its transposed convolutions never overlap.

    Returns:
        [1, 1, 1, dims] -> [1, 1, 1, 4 * 4 * hidden], the hidden map [1, 4, 4, hidden] as it lies in memory, then ReLU;
        [1, 4, 4, hidden] -> [1, 16, 16, channels].
    """
    first, norm, second = encoder.embedding_module1[0], encoder.embedding_module1[1], encoder.embedding_module2[0]
    scale = exact(norm.weight) * (exact(norm.running_var) + norm.eps).rsqrt()
    shift = exact(norm.bias) - exact(norm.running_mean) * scale
    w1 = (exact(first.weight) * scale[:, None, None]).permute(2, 3, 1, 0).flatten(0, 2)  # [4 * 4 * hidden, dims]
    w2 = exact(second.weight)  # [hidden, channels, 4, 4]
    axis = Axis(1, (0,) * 4, (1,) * 4)
    weights = {(y, x): w2[:, :, y, x].t()[:, None, None] for y, x in product(range(4), repeat=2)}
    return (
        plain_kernel(w1[:, :, None, None], shift.repeat(16)),
        ConvKernel(axis, axis, weights, torch.zeros(w2.shape[1], dtype=torch.float64)),
    )


def spade_affine(spade: Any) -> tuple[Tensor, Tensor]:
    """Weight and bias of one convolution for scale and shift: y = x * scale + shift, the BatchNorm folded in."""
    norm = spade.param_free_norm
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError("a SPADE layer without running statistics cannot be fused")
    inverse, mean = (exact(norm.running_var) + norm.eps).rsqrt(), exact(norm.running_mean)
    gamma_w, gamma_b = fold(spade.mlp_gamma, None)
    beta_w, beta_b = fold(spade.mlp_beta, None)
    scale_w, scale_b = gamma_w * inverse[:, None, None, None], (gamma_b + 1) * inverse
    shift_w, shift_b = beta_w - scale_w * mean[:, None, None, None], beta_b - scale_b * mean
    return torch.cat([scale_w, shift_w]), torch.cat([scale_b, shift_b])


def spade_tables(
    spade: Any, length: int, *, whole: bool = False
) -> tuple[ConvKernel, ConvKernel, Tensor, Tensor | None]:
    """The two convolutions of a SPADE layer over the pose map enlarged by nearest to `length`, on a compact grid.

    Inside a cell the enlarged map is constant, and 2 px from its ends so is what two 3x3 convolutions make of it: a
    cell shows at most five different pixels an axis, and of the taps those that see the same value are summed.

    Args:
        whole: where cells are 4 px wide, the hidden map has its two inner pixels twice, so that the second convolution
            is a plain one: for Winograd's algorithm, which then multiplies less than merged taps do.

    Returns:
        first: [16, 16] -> hidden map; then ReLU.
        second: hidden map -> scale and shift.
        index: int32 [length], the table position that each pixel reads.
        cell: int64, which pose cells the first convolution sees, or None for all 16 in order.
    """
    shared, affine = fold(spade.mlp_shared[0], None), spade_affine(spade)
    widths = nearest_index(POSE_CELLS, length).bincount(minlength=POSE_CELLS).tolist()
    least, most = min(widths), max(widths)
    if least >= 4:
        second = _CELL_SECOND if most > 4 else tuple(p for i, p in enumerate(_CELL_SECOND) if i != 2)
        kept = len(second)
        kernels = merged(*shared, _CELL_FIRST, 1), merged(*affine, second, 3)
        if whole and most == 4:
            pixels = tuple(_CELL_FIRST[i] for i in (0, 1, 1, 2))
            kernels = merged(*shared, pixels, 1), plain_kernel(*affine, padding=1)
    elif least == most:
        first = {2: merged(*shared, _UPSAMPLED, 1), 3: merged(*shared, _CELL_FIRST, 1)}
        kept = most
        kernels = first.get(most, plain_kernel(*shared, padding=1)), plain_kernel(*affine, padding=1)
    else:  # cells of different widths, some of them narrow: each pixel, up to five a cell
        cells = [cell for cell, width in enumerate(widths) for _ in range(min(width, 5))]
        starts = F.pad(torch.tensor([min(width, 5) for width in widths]).cumsum(0), (1, 0))
        index = [int(starts[cell]) + i for cell, width in enumerate(widths) for i in _positions(width, min(width, 5))]
        plain = plain_kernel(*shared, padding=1), plain_kernel(*affine, padding=1)
        return (*plain, torch.tensor(index, dtype=torch.int32), torch.tensor(cells))
    index = [cell * kept + i for cell, width in enumerate(widths) for i in _positions(width, kept)]
    return (*kernels, torch.tensor(index, dtype=torch.int32), None)


def _positions(width: int, kept: int) -> list[int]:
    """Which of a cell's `kept` positions each of its pixels shows: two from either end, the rest the middle one."""
    return [i if i < 2 or width <= kept == width else max(2, kept - (width - i)) for i in range(width)]
