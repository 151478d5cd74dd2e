"""The GPU's `norm_act`: sums of many blocks of pixels, factors of each group from them, one sweep that normalises."""

import math
from collections.abc import Sequence
from contextlib import nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastreenact.kernels.channels_last import activate, addresses

_ELEMENTS = 2048  # values of one tile: 16 for each thread of its four warps
_MAX_BLOCK_C = 128
_PROGRAMS = 1024  # of the sums: more make more partial sums to read again
_MAX_STEPS = 32  # tiles of one program of the sums: the first gives the centre, so it must be some of the data


@triton.jit
def _at(pointer, pixel, channel, height, width, stride_z, stride_y, stride_x, FLAT: tl.constexpr, ALIGN: tl.constexpr):
    """Addresses of the channels of a sample's pixels, counted through depth, rows and columns."""
    if FLAT:
        at = pixel.to(tl.int64) * stride_x
    else:
        line = pixel // width
        z = line // height
        at = z.to(tl.int64) * stride_z + (line - z * height).to(tl.int64) * stride_y
        at += (pixel - line * width).to(tl.int64) * stride_x
    return addresses(pointer, at, channel[None, :], ALIGN)


@triton.jit
def _sums_kernel(
    x_ptr,  # [N, D, H, W, C]
    sums_ptr,  # [N, splits, 3, C] float32: a centre near the mean, sums of x - centre and of its square
    pixels,  # D * H * W
    height,
    width,
    channels,
    splits,
    steps,
    stride_x_n,
    stride_x_z,
    stride_x_y,
    stride_x_x,
    FLAT: tl.constexpr,  # pixels lie at equal distances
    ALIGN: tl.constexpr,  # divides the channels, every stride and every address: so many channels are one access
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """One program: `steps` tiles of BLOCK_P pixels of one sample, BLOCK_C of their channels."""
    program = tl.program_id(0)
    n = (program // splits).to(tl.int64)
    split = program % splits
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    in_channels = channel // ALIGN < channels // ALIGN
    first = split * steps * BLOCK_P + tl.arange(0, BLOCK_P)
    x_ptr += n * stride_x_n

    inside = first < pixels
    at = _at(x_ptr, first, channel, height, width, stride_x_z, stride_x_y, stride_x_x, FLAT, ALIGN)
    value = tl.load(at, mask=inside[:, None] & in_channels[None, :], other=0.0).to(tl.float32)
    centre = tl.sum(value, 0) / tl.sum(inside.to(tl.float32), 0)

    total = tl.zeros([BLOCK_P, BLOCK_C], dtype=tl.float32)
    squares = tl.zeros([BLOCK_P, BLOCK_C], dtype=tl.float32)
    for step in range(steps):
        pixel = first + step * BLOCK_P
        inside = pixel < pixels
        mask = inside[:, None] & in_channels[None, :]
        at = _at(x_ptr, pixel, channel, height, width, stride_x_z, stride_x_y, stride_x_x, FLAT, ALIGN)
        value = tl.load(at, mask=mask, other=0.0).to(tl.float32)
        value = tl.where(mask, value - centre[None, :], 0.0)
        total += value
        squares += value * value

    sums_ptr += program.to(tl.int64) * 3 * channels
    mask = channel < channels
    tl.store(sums_ptr + channel, centre, mask=mask)
    tl.store(sums_ptr + channels + channel, tl.sum(total, 0), mask=mask)
    tl.store(sums_ptr + 2 * channels + channel, tl.sum(squares, 0), mask=mask)


@triton.jit
def _moved(sums, index, members, channels, split_pixels, pixels, BLOCK_M: tl.constexpr, BLOCK_S: tl.constexpr):
    """Tile `index` of a group's partial sums: its three values, pixels of each, and where they are real."""
    chunks = tl.cdiv(members, BLOCK_M)
    split = index // chunks * BLOCK_S + tl.arange(0, BLOCK_S)
    member = index % chunks * BLOCK_M + tl.arange(0, BLOCK_M)
    count = tl.minimum(pixels - split * split_pixels, split_pixels)
    mask = (count > 0)[:, None] & (member < members)[None, :]
    at = sums + split.to(tl.int64)[:, None] * 3 * channels + member[None, :]
    centre = tl.load(at, mask=mask, other=0.0)
    total = tl.load(at + channels, mask=mask, other=0.0)
    squares = tl.load(at + 2 * channels, mask=mask, other=0.0)
    return centre, total, squares, tl.maximum(count, 0).to(tl.float32)[:, None], mask


@triton.jit
def _factors_kernel(
    sums_ptr,  # [N, splits, 3, C] float32
    scale_ptr,  # [N or 1, C]; not read without HAS_SCALE
    shift_ptr,
    factors_ptr,  # [N, 3, C] float32: y = (x - centre) * factor + summand
    pixels,
    channels,
    splits,
    split_pixels,
    eps,
    stride_scale_n,
    stride_shift_n,
    HAS_SCALE: tl.constexpr,
    HAS_SHIFT: tl.constexpr,
    MEMBERS: tl.constexpr,  # channels of a group
    BLOCK_M: tl.constexpr,
    BLOCK_S: tl.constexpr,
):
    """One program: one group of one sample."""
    n = tl.program_id(0).to(tl.int64)
    group = tl.program_id(1)
    sums = sums_ptr + n * splits * 3 * channels + group * MEMBERS
    tiles = tl.cdiv(splits, BLOCK_S) * tl.cdiv(MEMBERS, BLOCK_M)
    elements = 1.0 * MEMBERS * pixels
    base = tl.load(sums)  # means are differences from it, so a large one costs no digits
    moved = tl.zeros([BLOCK_S, BLOCK_M], dtype=tl.float32)
    for i in range(tiles):
        centre, total, squares, count, mask = _moved(sums, i, MEMBERS, channels, split_pixels, pixels, BLOCK_M, BLOCK_S)
        moved += tl.where(mask, total + count * (centre - base), 0.0)
    mean = tl.sum(tl.sum(moved, 1), 0) / elements
    spread = tl.zeros([BLOCK_S, BLOCK_M], dtype=tl.float32)
    for i in range(tiles):
        centre, total, squares, count, mask = _moved(sums, i, MEMBERS, channels, split_pixels, pixels, BLOCK_M, BLOCK_S)
        away = (centre - base) - mean
        spread += tl.where(mask, squares + away * (2.0 * total + count * away), 0.0)
    variance = tl.sum(tl.sum(spread, 1), 0) / elements
    variance = tl.where(variance < 0.0, 0.0, variance)  # NaN stays NaN
    inv_std = 1.0 / tl.sqrt(variance + eps)
    centre = base + mean
    rest = mean - (centre - base)  # what the rounding left of the mean

    factors_ptr += n * 3 * channels
    for first in range(0, MEMBERS, BLOCK_M):
        member = first + tl.arange(0, BLOCK_M)
        mask = member < MEMBERS
        channel = group * MEMBERS + member
        factor = tl.full([BLOCK_M], 1.0, dtype=tl.float32) * inv_std
        summand = tl.zeros([BLOCK_M], dtype=tl.float32)
        if HAS_SCALE:
            factor *= tl.load(scale_ptr + n * stride_scale_n + channel, mask=mask, other=0.0).to(tl.float32)
        if HAS_SHIFT:
            summand += tl.load(shift_ptr + n * stride_shift_n + channel, mask=mask, other=0.0).to(tl.float32)
        tl.store(factors_ptr + channel, tl.zeros([BLOCK_M], dtype=tl.float32) + centre, mask=mask)
        tl.store(factors_ptr + channels + channel, factor, mask=mask)
        tl.store(factors_ptr + 2 * channels + channel, summand - rest * factor, mask=mask)


@triton.jit
def _sweep_kernel(
    x_ptr,  # [N, D, H, W, C]
    residual_ptr,  # the same; not read without HAS_RESIDUAL
    factors_ptr,  # [N, 3, C] float32
    out_ptr,  # [N, D * REPEAT_Z, H * REPEAT_Y, W * REPEAT_X, C]
    pixels,
    height,
    width,
    channels,
    blocks,
    stride_x_n,
    stride_x_z,
    stride_x_y,
    stride_x_x,
    stride_residual_n,
    stride_residual_z,
    stride_residual_y,
    stride_residual_x,
    stride_out_n,
    stride_out_z,
    stride_out_y,
    stride_out_x,
    HAS_RESIDUAL: tl.constexpr,
    ACTIVATION: tl.constexpr,  # 0 none, 1 ReLU, 3 leaky ReLU
    REPEAT_Z: tl.constexpr,
    REPEAT_Y: tl.constexpr,
    REPEAT_X: tl.constexpr,
    FLAT: tl.constexpr,  # pixels of x, residual and out lie at equal distances, and none is repeated
    ALIGN: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """One program: BLOCK_P input pixels of one sample, BLOCK_C of their channels."""
    program = tl.program_id(0)
    n = (program // blocks).to(tl.int64)
    pixel = program % blocks * BLOCK_P + tl.arange(0, BLOCK_P)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    in_channels = channel // ALIGN < channels // ALIGN
    mask = (pixel < pixels)[:, None] & in_channels[None, :]
    factors = factors_ptr + n * 3 * channels + channel
    centre = tl.load(factors, mask=in_channels, other=0.0)
    factor = tl.load(factors + channels, mask=in_channels, other=0.0)
    summand = tl.load(factors + 2 * channels, mask=in_channels, other=0.0)

    x_ptr += n * stride_x_n
    at = _at(x_ptr, pixel, channel, height, width, stride_x_z, stride_x_y, stride_x_x, FLAT, ALIGN)
    value = tl.load(at, mask=mask, other=0.0).to(tl.float32)
    value = (value - centre[None, :]) * factor[None, :] + summand[None, :]
    if HAS_RESIDUAL:
        residual_ptr += n * stride_residual_n
        at = _at(
            residual_ptr,
            pixel,
            channel,
            height,
            width,
            stride_residual_z,
            stride_residual_y,
            stride_residual_x,
            FLAT,
            ALIGN,
        )
        value += tl.load(at, mask=mask, other=0.0).to(tl.float32)
    result = activate(value, ACTIVATION).to(out_ptr.dtype.element_ty)

    out_ptr += n * stride_out_n
    for z in tl.static_range(REPEAT_Z):
        for y in tl.static_range(REPEAT_Y):
            for x in tl.static_range(REPEAT_X):
                at = _at(
                    out_ptr + (z * stride_out_z + y * stride_out_y + x * stride_out_x),
                    pixel,
                    channel,
                    height,
                    width,
                    REPEAT_Z * stride_out_z,
                    REPEAT_Y * stride_out_y,
                    REPEAT_X * stride_out_x,
                    FLAT,
                    ALIGN,
                )
                tl.store(at, result, mask=mask)


def _volume(tensor: Tensor) -> Tensor:
    """[N, H, W, C] as [N, 1, H, W, C]."""
    return tensor if tensor.dim() == 5 else tensor.unsqueeze(1)


def _flat(tensor: Tensor) -> bool:
    """Whether the pixels of a sample lie at equal distances."""
    _, depth, height, width, _ = tensor.shape
    _, z, y, x, _ = tensor.stride()
    return (height == 1 or y == width * x) and (depth == 1 or z == height * width * x)


def norm_act(
    x: Tensor,
    out: Tensor,
    groups: int,
    *,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    residual: Tensor | None = None,
    activation: int = 0,
    upsample: Sequence[int] | None = None,
    eps: float = 1e-5,
) -> None:
    """Launch the kernels on the current stream; `fastreenact.ops.norm_act` checks the arguments and says what they are.

    Args:
        x: [N, H, W, C] or [N, D, H, W, C] float32, float16 or bfloat16, channels contiguous.
        out: the same times `upsample`, of the dtype of x, channels contiguous.
        groups: divides C.
        scale, shift: [C] or [N, C], channels contiguous.
        residual: of the shape and dtype of x, channels contiguous.
        activation: 0 none, 1 ReLU, 3 leaky ReLU.
        upsample: 1 or 2 for each spatial axis.
        eps: added to the variance.
    """
    if out.numel() == 0:
        return
    repeat = (1,) * (5 - x.dim()) + tuple(upsample or (1,) * (x.dim() - 2))
    x, out = _volume(x), _volume(out)
    residual = None if residual is None else _volume(residual)
    n, depth, height, width, channels = x.shape
    pixels, members = depth * height * width, channels // groups
    if pixels > 2**30:
        raise ValueError(f"x: got {pixels} pixels in a sample, the GPU's kernel counts up to {2**30}; take parts of it")
    moved = [tensor for tensor in (x, residual, out) if tensor is not None]
    added = (0,) * 4 if residual is None else residual.stride()[:4]
    strides = {"x": x.stride()[:4], "residual": added, "out": out.stride()[:4]}
    starts = (tensor.data_ptr() // tensor.element_size() for tensor in moved)
    align = math.gcd(16 // x.element_size(), channels, *starts, *(s for four in strides.values() for s in four))
    block_c = min(triton.next_power_of_2(channels), _MAX_BLOCK_C)
    block_p = min(max(_ELEMENTS // block_c, 16), triton.next_power_of_2(pixels))
    tiles, columns = triton.cdiv(pixels, block_p), triton.cdiv(channels, block_c)
    steps = min(triton.cdiv(tiles * n * columns, _PROGRAMS), _MAX_STEPS, tiles)
    splits = triton.cdiv(tiles, steps)
    sums = x.new_empty((n, splits, 3, channels), dtype=torch.float32)
    factors = x.new_empty((n, 3, channels), dtype=torch.float32)
    block_m = min(triton.next_power_of_2(members), _MAX_BLOCK_C)
    row_stride = [0 if t is None or t.dim() == 1 else t.stride(0) for t in (scale, shift)]
    tile = {"ALIGN": align, "BLOCK_P": block_p, "BLOCK_C": block_c}
    flat = all(map(_flat, moved)) and repeat == (1, 1, 1)
    with torch.cuda.device(out.device) if out.is_cuda else nullcontext():
        _sums_kernel[(n * splits, columns)](
            x, sums, pixels, height, width, channels, splits, steps, *strides["x"], FLAT=_flat(x), **tile
        )
        _factors_kernel[(n, groups)](
            sums,
            x if scale is None else scale,
            x if shift is None else shift,
            factors,
            pixels,
            channels,
            splits,
            steps * block_p,
            eps,
            *row_stride,
            HAS_SCALE=scale is not None,
            HAS_SHIFT=shift is not None,
            MEMBERS=members,
            BLOCK_M=block_m,
            BLOCK_S=min(_ELEMENTS // block_m, triton.next_power_of_2(splits)),
        )
        _sweep_kernel[(n * tiles, columns)](
            x,
            x if residual is None else residual,
            factors,
            out,
            pixels,
            height,
            width,
            channels,
            tiles,
            *strides["x"],
            *strides["residual"],
            *strides["out"],
            HAS_RESIDUAL=residual is not None,
            ACTIVATION=activation,
            REPEAT_Z=repeat[0],
            REPEAT_Y=repeat[1],
            REPEAT_X=repeat[2],
            FLAT=flat,
            **tile,
        )
