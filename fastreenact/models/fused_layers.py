"""Pieces of the inference forms: folded convolutions, inverted residuals and SPADE tables, channels-last.

Tensors are channels-last: [N, C, H, W] views of NHWC memory where a convolution reads or writes them, plain
[N, H, W, C] where one of our ops does.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastreenact import ops
from fastreenact.models.layers import InvertedResidual, PoseEncoder, Spade, nearest_index

# Two 3x3 convolutions see 2 px beyond a cell: farther inside, a cell of any width is constant.
_DISTINCT_PER_CELL = 5
_POSE_CELLS = 16
# A map above this is computed in bands, which stay in the cache. Besides, maps of 32 MiB and more go back to the system
# after each use and are faulted in anew. The step at 512 takes 92 ms instead of 100, at 1440 652 instead of 1375 (in
# float32 on one core).
BAND_BYTES = 8 << 20


def nhwc(x: Tensor) -> Tensor:
    """[N, C, H, W] -> its [N, H, W, C] view."""
    return x.permute(0, 2, 3, 1)


def nchw(x: Tensor) -> Tensor:
    """[N, H, W, C] -> its [N, C, H, W] view, which is channels-last."""
    return x.permute(0, 3, 1, 2)


def relu_(x: Tensor) -> Tensor:
    """ReLU in place. On the CPU a bfloat16 is clamped as the whole number it looks like: a sixth of PyTorch's time."""
    if x.dtype == torch.bfloat16 and x.device.type == "cpu":
        x.view(torch.int16).clamp_(min=0)
        return x
    return x.relu_()


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


class Conv:
    """A convolution with everything linear after it folded in, then optionally ReLU."""

    def __init__(
        self,
        folded: tuple[Tensor, Tensor | None],
        like: Tensor,
        *,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        relu: bool = False,
    ):
        weight, bias = folded
        # oneDNN repacks weights at every call, from channels-last several times faster than from NCHW.
        self.weight = weight.to(like).contiguous(memory_format=torch.channels_last)
        self.bias = None if bias is None else bias.to(like)
        self.stride, self.padding, self.groups, self.relu = stride, padding, groups, relu
        # PyTorch sends small float32 maps, and on one thread all 1x1 convolutions, to a kernel of half the speed.
        direct = like.device.type == "cpu" and like.dtype == torch.float32 and torch.backends.mkldnn.is_available()
        self._run = self._onednn if direct else self._any
        self._short = like.device.type == "cpu" and like.dtype == torch.bfloat16 and groups == 1

    def __call__(self, x: Tensor) -> Tensor:
        """[N, C_in, H, W] channels-last -> [N, C_out, ...] channels-last."""
        y = self._run(x)
        return relu_(y) if self.relu else y

    def _any(self, x: Tensor) -> Tensor:
        if self._short:
            height, width = ((n + 2 * self.padding - self.weight.shape[-1]) // self.stride + 1 for n in x.shape[2:])
            # Many weights for few pixels: repacking them takes longer than multiplying (at 256 1.9 of 19 ms, one core).
            if 32 * x.shape[0] * height * width <= self.weight[0].numel():
                return self._as_product(x, height, width)
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, 1, self.groups)

    def _as_product(self, x: Tensor, height: int, width: int) -> Tensor:
        p, k, s = self.padding, self.weight.shape[-1], self.stride
        windows = F.pad(nhwc(x), (0, 0, p, p, p, p)).unfold(1, k, s).unfold(2, k, s)  # N, H, W, C, k, k
        columns = windows.permute(0, 1, 2, 4, 5, 3).reshape(-1, k * k * x.shape[1])
        return nchw(F.linear(columns, nhwc(self.weight).flatten(1), self.bias).view(x.shape[0], height, width, -1))

    def _onednn(self, x: Tensor) -> Tensor:
        padding, stride = (self.padding, self.padding), (self.stride, self.stride)
        return torch.mkldnn_convolution(x, self.weight, self.bias, padding, stride, (1, 1), self.groups)


class FusedInvertedResidual:
    """`InvertedResidual` as two or three folded convolutions."""

    def __init__(self, block: InvertedResidual, like: Tensor):
        layers = list(block.conv)
        self.residual = block.residual
        self.convs: list[Conv] = []
        for i, layer in enumerate(layers):
            if isinstance(layer, nn.Conv2d):
                norm = layers[i + 1] if i + 1 < len(layers) else None
                relu = i + 2 < len(layers) and isinstance(layers[i + 2], nn.ReLU)
                folded = fold(layer, norm if isinstance(norm, nn.BatchNorm2d) else None)
                stride, padding, groups = layer.stride[0], int(layer.padding[0]), layer.groups
                self.convs.append(Conv(folded, like, stride=stride, padding=padding, groups=groups, relu=relu))

    def __call__(self, x: Tensor) -> Tensor:
        """[N, C_in, H, W] channels-last -> [N, C_out, H / stride, W / stride] channels-last."""
        width = self.convs[0].weight.shape[0]
        rows = BAND_BYTES // (width * x.shape[0] * x.shape[3] * x.element_size())
        if len(self.convs) == 3 and x.device.type == "cpu" and rows < x.shape[2]:
            return self._in_bands(x, max(rows // self.convs[1].stride, 1))
        y = x
        for conv in self.convs:
            y = conv(y)
        return y.add_(x) if self.residual else y

    def _in_bands(self, x: Tensor, rows: int) -> Tensor:
        """The same, `rows` output rows at a time with one row of overlap: the hidden maps stay small."""
        expand, depthwise, project = self.convs
        stride = depthwise.stride
        height, width = (-(-n // stride) for n in x.shape[2:])
        y = nchw(x.new_empty(x.shape[0], height, width, project.weight.shape[0]))
        for top in range(0, height, rows):
            bottom = min(top + rows, height)
            above = min(top, 1)
            hidden = depthwise(expand(x[:, :, (top - above) * stride : (bottom - 1) * stride + 2]))
            band = project(hidden[:, :, above : above + bottom - top])
            y[:, :, top:bottom] = band.add_(x[:, :, top:bottom]) if self.residual else band
        return y


def fuse_blocks(stage: nn.Module, like: Tensor) -> list[FusedInvertedResidual]:
    """Every inverted residual of a stage, in order."""
    return [FusedInvertedResidual(m, like) for m in stage.modules() if isinstance(m, InvertedResidual)]


def apply_blocks(blocks: list[FusedInvertedResidual], x: Tensor) -> Tensor:
    """Run `blocks` one after another."""
    for block in blocks:
        x = block(x)
    return x


class FusedPoseEncoder:
    """`PoseEncoder` as two matrix products, as its transposed convolutions never overlap; always float32."""

    def __init__(self, encoder: PoseEncoder, device: torch.device):
        first: Any = encoder.embedding_module1[0]
        norm: Any = encoder.embedding_module1[1]
        second: Any = encoder.embedding_module2[0]
        scale = exact(norm.weight) * (exact(norm.running_var) + norm.eps).rsqrt()
        shift = exact(norm.bias) - exact(norm.running_mean) * scale
        dims, hidden = first.weight.shape[:2]
        w1 = exact(first.weight) * scale[None, :, None, None]  # [dims, hidden, 4, 4]
        self.w1 = w1.permute(0, 2, 3, 1).reshape(dims, 16 * hidden).to(device, torch.float32)
        self.b1 = shift.repeat(16).to(device, torch.float32)
        w2 = exact(second.weight)  # [hidden, channels, 4, 4]
        self.hidden, self.channels = hidden, w2.shape[1]
        self.w2 = w2.permute(0, 2, 3, 1).reshape(hidden, 16 * self.channels).to(device, torch.float32)

    def __call__(self, head_pose: Tensor) -> Tensor:
        """float32 [1, dims] -> float32 [16, 16, channels]."""
        hidden = torch.addmm(self.b1, head_pose, self.w1).relu_().view(16, self.hidden)
        cells = (hidden @ self.w2).view(4, 4, 4, 4, self.channels)  # Y, X, y, x, channel
        return cells.permute(0, 2, 1, 3, 4).reshape(_POSE_CELLS, _POSE_CELLS, self.channels)


def compact_axis(length: int) -> tuple[Tensor, Tensor]:
    """The positions of an axis at which a SPADE table can differ, exact for every length.

    A nearest-upsampled 16-cell map, convolved 3x3 twice, is constant inside a cell but for 2 px at either end: a cell
    of 5 px or more is represented by 5 positions, a narrower one by all of its own. Values at these positions, computed
    on the shortened axis, are those of the full axis because every position keeps neighbours of the same value.

    Returns:
        cell: int64 [T], the pose cell that each table position shows.
        index: int32 [length], the table position of each pixel.
    """
    cells: list[int] = []
    index: list[int] = []
    for cell, width in enumerate(nearest_index(_POSE_CELLS, length).bincount(minlength=_POSE_CELLS).tolist()):
        kept = min(width, _DISTINCT_PER_CELL)
        for i in range(width):
            local = i if i < 2 or width <= kept else max(2, kept - (width - i))
            index.append(len(cells) + local)
        cells += [cell] * kept
    return torch.tensor(cells), torch.tensor(index, dtype=torch.int32)


class SpadeTable:
    """One SPADE layer as tables: y = x * scale + shift, both read through an index. BatchNorm is folded in."""

    def __init__(self, spade: Spade, height: int, width: int, like: Tensor):
        (self.cell_y, self.index_y), (self.cell_x, self.index_x) = (
            tuple(t.to(like.device) for t in compact_axis(n)) for n in (height, width)
        )
        norm = spade.param_free_norm
        if norm.running_mean is None or norm.running_var is None:
            raise ValueError("a SPADE layer without running statistics cannot be fused")
        inverse = (exact(norm.running_var) + norm.eps).rsqrt()
        mean = exact(norm.running_mean)
        gamma_w, gamma_b = fold(spade.mlp_gamma, None)
        beta_w, beta_b = fold(spade.mlp_beta, None)
        scale_w, scale_b = gamma_w * inverse[:, None, None, None], (gamma_b + 1) * inverse
        shift_w, shift_b = beta_w - scale_w * mean[:, None, None, None], beta_b - scale_b * mean
        self.shared = Conv(fold(spade.mlp_shared[0], None), like, padding=1, relu=True)
        self.affine = Conv((torch.cat([scale_w, shift_w]), torch.cat([scale_b, shift_b])), like, padding=1)
        self.channels = len(mean)

    def __call__(self, pose: Tensor) -> tuple[Tensor, Tensor]:
        """[16, 16, K] -> scale and shift, [1, T, T, C] views of one NHWC tensor."""
        condition = pose[self.cell_y[:, None], self.cell_x][None]
        table = nhwc(self.affine(self.shared(nchw(condition))))
        return table[..., : self.channels], table[..., self.channels :]

    def apply(self, x: Tensor, table: tuple[Tensor, Tensor], out: Tensor | None = None) -> Tensor:
        """ReLU of the affine map of `x` [1, H, W, c], for the first c channels, into those of `out` [1, H, W, C]."""
        scale, shift = (t[..., : x.shape[-1]] for t in table)
        target = None if out is None else out[..., : x.shape[-1]]
        return ops.spade(x, scale, shift, self.index_y, self.index_x, activation="relu", out=target)

    def warp(self, features: Tensor, field: Tensor, table: tuple[Tensor, Tensor], first: int, out: Tensor) -> None:
        """`features` [1, H, W, c] sampled by `field`, affine and ReLU, into `out` from channel `first`."""
        scale, shift = (t[..., first:] for t in table)
        index_y, index_x, target = self.index_y, self.index_x, out[..., first:]
        ops.warp(
            features, field, scale=scale, shift=shift, index_y=index_y, index_x=index_x, activation="relu", out=target
        )
