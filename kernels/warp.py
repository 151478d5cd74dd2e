"""The GPU's `warp`: channels-last feature maps sampled bilinearly by one motion field, epilogue in the same pass."""

import math
from contextlib import nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastreenact.kernels.channels_last import activate, addresses
from fastreenact.ops.checks import broadcast_strides

_ELEMENTS = 2048  # output values of one program: 16 for each thread of its four warps
_MAX_BLOCK_C = 128
_MAX_BLOCK_X = 256  # two pixels a thread: four of them spill on sm_75


@triton.jit
def position(coordinate, half, middle):
    """Pixel position c * half + middle of a coordinate as whole part and fraction, NaN as minus infinity.

    In float32 alone it loses 4e-5 px at 720. Here c is taken apart at 2^-12: the coarse part times `half` (half the
    size, or of its distance between outer centres) is exact up to 4096 px, the rest is small, so the fraction is good
    to 1e-7 without float64.
    """
    limit = 1.0 + 2.0 / tl.maximum(half, 0.5)  # at least one pixel outside is as far as infinity
    coordinate = tl.where(coordinate > -limit, coordinate, -limit)  # false for NaN
    coordinate = tl.where(coordinate < limit, coordinate, limit)
    coarse = tl.floor(coordinate * 4096.0) * (1.0 / 4096.0)
    exact = coarse * half + middle
    rest = (coordinate - coarse) * half
    whole = tl.floor(exact + rest)
    return whole, (exact - whole) + rest


@triton.jit
def _field_index(position, present, wanted, BILINEAR: tl.constexpr):
    """Which field samples an output row or column reads, and the weight of the second: floor(i * present / wanted), or
    between sample centres. In whole numbers, so exact."""
    if BILINEAR:
        doubled = (2 * position + 1) * present - wanted  # twice `wanted` times the position among the samples
        low = tl.minimum(tl.maximum(doubled, 0) // (2 * wanted), tl.maximum(present - 2, 0))
        weight = (doubled - low * 2 * wanted).to(tl.float32) / (2.0 * wanted)
        return low, tl.minimum(low + 1, present - 1), weight
    else:  # Triton follows the code after a returning branch too
        low = position * present // wanted
        return low, low, 0.0


@triton.jit
def _field_value(field, row, next_row, weight_y, column, next_column, weight_x, mask, BILINEAR: tl.constexpr):
    """One coordinate of the field at the output pixels; the outer lines go on beyond the outer samples."""
    value = tl.load(field + row + column, mask=mask, other=0.0)
    if BILINEAR:
        # rows first, then columns: the order of the reference
        below = tl.load(field + next_row + column, mask=mask, other=0.0)
        right = tl.load(field + row + next_column, mask=mask, other=0.0)
        corner = tl.load(field + next_row + next_column, mask=mask, other=0.0)
        value += weight_y * (below - value)
        right += weight_y * (corner - right)
        value += weight_x * (right - value)
    return value


@triton.jit
def _warp_kernel(
    features_ptr,  # [A, H, W, C]
    field_ptr,  # [N, h, w, 2] float32
    source_index_ptr,  # [N] int32, the features' picture that each output samples; not read without SOURCE_INDEX
    scale_ptr,  # [.., C] by the strides below; not read without HAS_SCALE
    shift_ptr,
    index_y_ptr,  # [out H] int32, rows of the tables; not read without TABLE
    index_x_ptr,  # [out W] int32
    out_ptr,  # [N, out H, out W, C]
    sources,  # A
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
    stride_field_c,
    stride_scale_n,
    stride_scale_y,
    stride_scale_x,
    stride_shift_n,
    stride_shift_y,
    stride_shift_x,
    stride_out_n,
    stride_out_y,
    stride_out_x,
    SOURCE_INDEX: tl.constexpr,
    HAS_SCALE: tl.constexpr,
    HAS_SHIFT: tl.constexpr,
    TABLE: tl.constexpr,
    ACTIVATION: tl.constexpr,  # 0 none, 1 ReLU, 2 tanh
    BORDER: tl.constexpr,
    FIELD_BILINEAR: tl.constexpr,
    ALIGN: tl.constexpr,  # divides the channels, every stride and every address: so many channels are one access
    BLOCK_X: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """One program: BLOCK_X output pixels of one row of one picture, BLOCK_C of their channels."""
    program = tl.program_id(0).to(tl.int64)
    n = program // out_height
    y = program - n * out_height
    x = tl.program_id(1).to(tl.int64) * BLOCK_X + tl.arange(0, BLOCK_X)
    channel = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    in_row = x < out_width
    in_channels = channel // ALIGN < channels // ALIGN  # constant over ALIGN channels, so that accesses stay whole

    row, next_row, weight_y = _field_index(y, field_height, out_height, FIELD_BILINEAR)
    column, next_column, weight_x = _field_index(x, field_width, out_width, FIELD_BILINEAR)
    row *= stride_field_y
    next_row *= stride_field_y
    column *= stride_field_x
    next_column *= stride_field_x
    field = field_ptr + n * stride_field_n
    u = _field_value(field, row, next_row, weight_y, column, next_column, weight_x, in_row, FIELD_BILINEAR)
    field += stride_field_c
    v = _field_value(field, row, next_row, weight_y, column, next_column, weight_x, in_row, FIELD_BILINEAR)
    left, weight_right = position(u, 0.5 * width, 0.5 * width - 0.5)
    top, weight_bottom = position(v, 0.5 * height, 0.5 * height - 0.5)
    if BORDER:
        # before the first centre all weight is on the first pixel, after the last one on the last
        weight_right = tl.where((left < 0) | (left >= width - 1), 0.0, weight_right)
        weight_bottom = tl.where((top < 0) | (top >= height - 1), 0.0, weight_bottom)
        left = tl.minimum(tl.maximum(left, 0.0), width - 1.0)
        top = tl.minimum(tl.maximum(top, 0.0), height - 1.0)
    left = left.to(tl.int64)
    top = top.to(tl.int64)

    picture = n
    present = in_row
    if SOURCE_INDEX:
        picture = tl.load(source_index_ptr + n).to(tl.int64)
        present &= (picture >= 0) & (picture < sources)  # one that is not there is never read
    first = picture * stride_features_n + top * stride_features_y + left * stride_features_x
    value = tl.zeros([BLOCK_X, BLOCK_C], dtype=tl.float32)
    for dy in tl.static_range(2):
        for dx in tl.static_range(2):
            weight = weight_bottom if dy == 1 else 1.0 - weight_bottom
            weight *= weight_right if dx == 1 else 1.0 - weight_right
            inside = present & (top + dy >= 0) & (top + dy < height) & (left + dx >= 0) & (left + dx < width)
            corner = first + dy * stride_features_y + dx * stride_features_x
            corner = addresses(features_ptr, corner, channel[None, :], ALIGN)
            sample = tl.load(corner, mask=inside[:, None] & in_channels[None, :], other=0)
            value += weight[:, None] * sample.to(tl.float32)

    mask = in_row[:, None] & in_channels[None, :]
    table_y = y
    table_x = x
    if TABLE:
        table_y = tl.load(index_y_ptr + y).to(tl.int64)
        table_x = tl.load(index_x_ptr + x, mask=in_row, other=0).to(tl.int64)
    if HAS_SCALE:
        scale = n * stride_scale_n + table_y * stride_scale_y + table_x * stride_scale_x
        scale = addresses(scale_ptr, scale, channel[None, :], ALIGN)
        value *= tl.load(scale, mask=mask, other=0).to(tl.float32)
    if HAS_SHIFT:
        shift = n * stride_shift_n + table_y * stride_shift_y + table_x * stride_shift_x
        shift = addresses(shift_ptr, shift, channel[None, :], ALIGN)
        value += tl.load(shift, mask=mask, other=0).to(tl.float32)
    value = activate(value, ACTIVATION)
    if out_ptr.dtype.element_ty == tl.uint8:
        value = tl.floor(value + 0.5)  # between 0 and 255 as its inputs are

    out = n * stride_out_n + y * stride_out_y + x * stride_out_x
    tl.store(addresses(out_ptr, out, channel[None, :], ALIGN), value.to(out_ptr.dtype.element_ty), mask=mask)


def _table_strides(table: Tensor | None) -> tuple[int, ...]:
    """Strides of the first three axes of [C] or [N or 1, T, T, C]; 0 along an axis that is not there or has size 1."""
    return broadcast_strides(None if table is None or table.dim() == 1 else table)[:3]


def warp(
    features: Tensor,
    field: Tensor,
    out: Tensor,
    *,
    source_index: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    index_y: Tensor | None = None,
    index_x: Tensor | None = None,
    activation: int = 0,
    border: bool = False,
    field_bilinear: bool = False,
) -> None:
    """Launch the kernel on the current stream; `fastreenact.ops.warp` checks the arguments and says what they mean.

    Args:
        features: [A, H, W, C] float32, float16, bfloat16 or uint8, channels contiguous.
        field: [N, h, w, 2] float32.
        out: [N, out H, out W, C] of the features' dtype, channels contiguous.
        source_index: [N] int32, contiguous: the features' picture for each output; None is A = N, each its own.
        scale, shift: [C] or [N or 1, T, T, C], channels contiguous; T x T is out H x out W without indices.
        index_y, index_x: [out H] and [out W] int32, contiguous.
        activation: 0 none, 1 ReLU, 2 tanh.
        border: outside is the nearest pixel instead of zero.
        field_bilinear: the field is interpolated instead of taken at the nearest index.
    """
    if out.numel() == 0:
        return
    height, width, channels = features.shape[1:]
    n, out_height, out_width = out.shape[:3]
    strides = {
        "features": features.stride()[:3],
        "field": field.stride(),
        "scale": _table_strides(scale),
        "shift": _table_strides(shift),
        "out": out.stride()[:3],
    }
    moved = [tensor for tensor in (features, scale, shift, out) if tensor is not None]
    together = [tensor.data_ptr() // tensor.element_size() for tensor in moved]
    together += [*strides["features"], *strides["scale"], *strides["shift"], *strides["out"]]
    block_c = min(triton.next_power_of_2(channels), _MAX_BLOCK_C)
    block_x = min(max(_ELEMENTS // block_c, 16), _MAX_BLOCK_X, triton.next_power_of_2(out_width))
    grid = (n * out_height, triton.cdiv(out_width, block_x), triton.cdiv(channels, block_c))
    unread = features  # an address for what is not read
    with torch.cuda.device(out.device) if out.is_cuda else nullcontext():
        _warp_kernel[grid](
            features,
            field,
            unread if source_index is None else source_index,
            unread if scale is None else scale,
            unread if shift is None else shift,
            unread if index_y is None else index_y,
            unread if index_x is None else index_x,
            out,
            features.shape[0],
            height,
            width,
            channels,
            out_height,
            out_width,
            *field.shape[1:3],
            *strides["features"],
            *strides["field"],
            *strides["scale"],
            *strides["shift"],
            *strides["out"],
            SOURCE_INDEX=source_index is not None,
            HAS_SCALE=scale is not None,
            HAS_SHIFT=shift is not None,
            TABLE=index_y is not None,
            ACTIVATION=activation,
            BORDER=border,
            FIELD_BILINEAR=field_bilinear,
            ALIGN=math.gcd(16 // features.element_size(), channels, *together),
            BLOCK_X=block_x,
            BLOCK_C=block_c,
        )
