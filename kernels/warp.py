"""The GPU's `warp`: channels-last feature maps sampled bilinearly by one motion field, the epilogue in the same pass."""

import math
from contextlib import nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

_ELEMENTS = 2048  # pixels x channels of one program: 16 per thread of four warps
_MAX_BLOCK_CHANNELS = 128


@triton.jit
def _warp_kernel(
    features_ptr,  # [N, H, W, C]
    field_ptr,  # [N, h, w, 2] float32
    scale_ptr,  # [.., C] by the strides below; unused without AFFINE
    shift_ptr,
    index_y_ptr,  # [out H] int32, rows of the tables; unused without TABLE
    index_x_ptr,  # [out W] int32
    out_ptr,  # [N, out H, out W, C]
    height,
    width,
    channels,
    out_height,
    out_width,
    field_height,
    field_width,
    stride_features_n,
    stride_features_y,
    stride_features_x,
    stride_field_n,
    stride_field_y,
    stride_field_x,
    stride_affine_n,
    stride_affine_y,
    stride_affine_x,
    stride_out_n,
    stride_out_y,
    stride_out_x,
    AFFINE: tl.constexpr,
    TABLE: tl.constexpr,
    ACTIVATION: tl.constexpr,
    ALIGN: tl.constexpr,  # divides the channels and every stride: that many channels make one memory access
    BLOCK_X: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """One program: BLOCK_X output pixels of one row of one picture, BLOCK_C of their channels."""
    row = tl.program_id(0).to(tl.int64)
    n = row // out_height
    y = row - n * out_height
    x = tl.program_id(1).to(tl.int64) * BLOCK_X + tl.arange(0, BLOCK_X)
    channel = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    in_row = x < out_width
    in_channels = channel // ALIGN < channels // ALIGN  # constant over ALIGN channels, so that accesses stay whole

    # the field, nearest: floor(i * h / H) in whole numbers
    field = field_ptr + n * stride_field_n + (y * field_height // out_height) * stride_field_y
    field += (x * field_width // out_width) * stride_field_x
    at_x = ((tl.load(field, mask=in_row, other=-2.0) + 1.0) * width - 1.0) * 0.5
    at_y = ((tl.load(field + 1, mask=in_row, other=-2.0) + 1.0) * height - 1.0) * 0.5
    # false for NaN; what passes has a finite floor
    touches = (at_x > -1.0) & (at_x < width) & (at_y > -1.0) & (at_y < height)
    at_x = tl.where(touches, at_x, 0.0)
    at_y = tl.where(touches, at_y, 0.0)
    left_f = tl.floor(at_x)
    top_f = tl.floor(at_y)
    right_weight = at_x - left_f
    bottom_weight = at_y - top_f
    left = left_f.to(tl.int64)
    top = top_f.to(tl.int64)

    first = n * stride_features_n + top * stride_features_y + left * stride_features_x
    value = tl.zeros([BLOCK_X, BLOCK_C], dtype=tl.float32)
    for dy in tl.static_range(2):
        for dx in tl.static_range(2):
            weight = bottom_weight if dy == 1 else 1.0 - bottom_weight
            weight *= right_weight if dx == 1 else 1.0 - right_weight
            inside = touches & (top + dy >= 0) & (top + dy < height) & (left + dx >= 0) & (left + dx < width)
            corner = first + dy * stride_features_y + dx * stride_features_x
            corner = tl.multiple_of(corner[:, None] + channel[None, :], [1, ALIGN])
            sample = tl.load(features_ptr + corner, mask=inside[:, None] & in_channels[None, :], other=0.0)
            value += weight[:, None] * sample.to(tl.float32)

    mask = in_row[:, None] & in_channels[None, :]
    if AFFINE:
        table_y = y
        table_x = x
        if TABLE:
            table_y = tl.load(index_y_ptr + y).to(tl.int64)
            table_x = tl.load(index_x_ptr + x, mask=in_row, other=0).to(tl.int64)
        affine = n * stride_affine_n + table_y * stride_affine_y + table_x * stride_affine_x
        affine = tl.multiple_of(affine[:, None] + channel[None, :], [1, ALIGN])
        scale = tl.load(scale_ptr + affine, mask=mask, other=0.0).to(tl.float32)
        shift = tl.load(shift_ptr + affine, mask=mask, other=0.0).to(tl.float32)
        value = value * scale + shift
    if ACTIVATION == 1:
        value = tl.where(value < 0.0, 0.0, value)  # NaN stays NaN
    elif ACTIVATION == 2:
        value = tl.where(value > 20.0, 20.0, value)  # exp stays finite, tanh(20) rounds to 1, NaN stays NaN
        value = 1.0 - 2.0 / (tl.exp(2.0 * value) + 1.0)

    out = n * stride_out_n + y * stride_out_y + x * stride_out_x
    out = tl.multiple_of(out[:, None] + channel[None, :], [1, ALIGN])
    tl.store(out_ptr + out, value.to(out_ptr.dtype.element_ty), mask=mask)


def warp(
    features: Tensor,
    field: Tensor,
    out: Tensor,
    *,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    index_y: Tensor | None = None,
    index_x: Tensor | None = None,
    activation: int = 0,
) -> None:
    """Launch the kernel on the current stream; `fastreenact.ops.warp` checks the arguments and says what they mean.

    Args:
        features: [N, H, W, C], channels contiguous.
        field: [N, h, w, 2] float32, x and y side by side.
        out: [N, out H, out W, C], channels contiguous; any strides else.
        scale, shift: [C], or [N, T, T, C] with equal strides and channels contiguous; without indices T x T is out H x W.
        index_y, index_x: [out H] and [out W] int32: the row and column of the tables for an output pixel.
        activation: 0 none, 1 ReLU, 2 tanh.
    """
    n, height, width, channels = features.shape
    out_height, out_width = out.shape[1:3]
    if out.numel() == 0:
        return
    affine_strides = scale.stride()[:3] if scale is not None and scale.dim() == 4 else (0, 0, 0)
    strides = (*features.stride()[:3], *affine_strides, *out.stride()[:3])
    align = math.gcd(16 // features.element_size(), channels, *strides)
    block_c = min(triton.next_power_of_2(channels), _MAX_BLOCK_CHANNELS)
    block_x = min(max(_ELEMENTS // block_c, 16), triton.next_power_of_2(out_width))
    grid = (n * out_height, triton.cdiv(out_width, block_x), triton.cdiv(channels, block_c))
    nothing = features  # an address for the arguments that are not read
    with torch.cuda.device(out.device) if out.is_cuda else nullcontext():
        _warp_kernel[grid](
            features,
            field,
            nothing if scale is None else scale,
            nothing if shift is None else shift,
            nothing if index_y is None else index_y,
            nothing if index_x is None else index_x,
            out,
            height,
            width,
            channels,
            out_height,
            out_width,
            *field.shape[1:3],
            *features.stride()[:3],
            *field.stride()[:3],
            *affine_strides,
            *out.stride()[:3],
            AFFINE=scale is not None,
            TABLE=index_y is not None,
            ACTIVATION=activation,
            ALIGN=align,
            BLOCK_X=block_x,
            BLOCK_C=block_c,
        )
