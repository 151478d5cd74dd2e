"""The GPU's `grid_sample_3d`: channels-last volumes sampled trilinearly, summed over the depth in the same pass."""

import math
from contextlib import nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastreenact.kernels.channels_last import addresses
from fastreenact.kernels.warp import position

_BYTES = 4096  # of output of one program: two accesses for each thread of its four warps; four take 200 registers
_SUM_BYTES = 2048  # a sum has a depth's worth fewer outputs: smaller programs, so that there are enough of them
_MAX_BLOCK_C = 128


@triton.jit
def _tap(coordinate, size, BORDER: tl.constexpr, ALIGN_CORNERS: tl.constexpr):
    """Lower tap of a coordinate as int64, the weight of the upper one, and whether the coordinate is finite."""
    middle = 0.5 * size - 0.5
    low, weight = position(coordinate, middle if ALIGN_CORNERS else 0.5 * size, middle)
    if BORDER:
        # before the first centre all weight is on the first voxel, after the last one on the last
        weight = tl.where((low < 0) | (low >= size - 1), 0.0, weight)
        low = tl.minimum(tl.maximum(low, 0.0), size - 1.0)
    return low.to(tl.int64), weight, tl.abs(coordinate) < float("inf")  # false for NaN


@triton.jit
def _taps(grid, mask, stride_c, depth, height, width, BORDER: tl.constexpr, ALIGN_CORNERS: tl.constexpr):
    """Lower taps and weights of the upper ones along x, y and z, and which points are to be sampled at all."""
    x = tl.load(grid, mask=mask, other=0.0)
    y = tl.load(grid + stride_c, mask=mask, other=0.0)
    z = tl.load(grid + 2 * stride_c, mask=mask, other=0.0)
    left, weight_x, finite_x = _tap(x, width, BORDER, ALIGN_CORNERS)
    top, weight_y, finite_y = _tap(y, height, BORDER, ALIGN_CORNERS)
    front, weight_z, finite_z = _tap(z, depth, BORDER, ALIGN_CORNERS)
    if not BORDER:  # the position does not say it where one voxel is all of an axis and its centre both ends
        mask = mask & finite_x & finite_y & finite_z
    return left, top, front, weight_x, weight_y, weight_z, mask


@triton.jit
def _sample(
    volume_ptr,
    left,
    top,
    front,
    weight_x,
    weight_y,
    weight_z,
    mask,
    depth,
    height,
    width,
    stride_z,
    stride_y,
    stride_x,
    channel,
    in_channels,
    ALIGN: tl.constexpr,
):
    """[points, channels] float32: sum over the eight voxels around each point, of which none outside is read."""
    first = front * stride_z + top * stride_y + left * stride_x
    value = tl.zeros([first.shape[0], channel.shape[0]], dtype=tl.float32)
    for dz in tl.static_range(2):
        in_z = mask & (front + dz >= 0) & (front + dz < depth)
        z_weight = weight_z if dz == 1 else 1.0 - weight_z
        for dy in tl.static_range(2):
            in_y = in_z & (top + dy >= 0) & (top + dy < height)
            y_weight = z_weight * (weight_y if dy == 1 else 1.0 - weight_y)
            for dx in tl.static_range(2):
                inside = in_y & (left + dx >= 0) & (left + dx < width)
                weight = y_weight * (weight_x if dx == 1 else 1.0 - weight_x)
                corner = first + dz * stride_z + dy * stride_y + dx * stride_x
                corner = addresses(volume_ptr, corner, channel[None, :], ALIGN)
                voxel = tl.load(corner, mask=inside[:, None] & in_channels[None, :], other=0)
                value += weight[:, None] * voxel.to(tl.float32)
    return value


@triton.jit
def _grid_sample_3d_kernel(
    volume_ptr,  # [N, D, H, W, C]
    grid_ptr,  # [N, d, h, w, 3] float32
    out_ptr,  # [N, d, h, w, C], or [N, h, w, C] with SUM
    depth,
    height,
    width,
    channels,
    out_depth,
    out_height,
    out_width,
    stride_volume_n,
    stride_volume_z,
    stride_volume_y,
    stride_volume_x,
    stride_grid_n,
    stride_grid_z,
    stride_grid_y,
    stride_grid_x,
    stride_grid_c,
    stride_out_n,
    stride_out_z,
    stride_out_y,
    stride_out_x,
    SUM: tl.constexpr,
    BORDER: tl.constexpr,
    ALIGN_CORNERS: tl.constexpr,
    ALIGN: tl.constexpr,  # divides channels, strides and addresses: that many channels make one memory access
    BLOCK_X: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """One program: BLOCK_X output voxels of one row; all their channels, or with SUM BLOCK_C of them."""
    row = tl.program_id(0).to(tl.int64)
    y = row % out_height
    n = row // out_height
    z = 0
    if not SUM:
        z = n % out_depth
        n = n // out_depth
    x = tl.program_id(1).to(tl.int64) * BLOCK_X + tl.arange(0, BLOCK_X)
    in_row = x < out_width
    volume = volume_ptr + n * stride_volume_n
    grid = grid_ptr + n * stride_grid_n + z * stride_grid_z + y * stride_grid_y + x * stride_grid_x
    out = n * stride_out_n + z * stride_out_z + y * stride_out_y + x * stride_out_x

    if SUM:
        channel = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
        in_channels = channel // ALIGN < channels // ALIGN  # constant over ALIGN channels: accesses stay whole
        value = tl.zeros([BLOCK_X, BLOCK_C], dtype=tl.float32)
        for _ in range(out_depth):
            left, top, front, weight_x, weight_y, weight_z, mask = _taps(
                grid, in_row, stride_grid_c, depth, height, width, BORDER, ALIGN_CORNERS
            )
            value += _sample(
                volume,
                left,
                top,
                front,
                weight_x,
                weight_y,
                weight_z,
                mask,
                depth,
                height,
                width,
                stride_volume_z,
                stride_volume_y,
                stride_volume_x,
                channel,
                in_channels,
                ALIGN,
            )
            grid += stride_grid_z
        to = addresses(out_ptr, out, channel[None, :], ALIGN)
        tl.store(to, value.to(out_ptr.dtype.element_ty), mask=in_row[:, None] & in_channels[None, :])
    else:
        left, top, front, weight_x, weight_y, weight_z, inside = _taps(
            grid, in_row, stride_grid_c, depth, height, width, BORDER, ALIGN_CORNERS
        )
        for block in range(0, channels, BLOCK_C):
            channel = block + tl.arange(0, BLOCK_C)
            in_channels = channel // ALIGN < channels // ALIGN
            value = _sample(
                volume,
                left,
                top,
                front,
                weight_x,
                weight_y,
                weight_z,
                inside,
                depth,
                height,
                width,
                stride_volume_z,
                stride_volume_y,
                stride_volume_x,
                channel,
                in_channels,
                ALIGN,
            )
            to = addresses(out_ptr, out, channel[None, :], ALIGN)
            tl.store(to, value.to(out_ptr.dtype.element_ty), mask=in_row[:, None] & in_channels[None, :])


def grid_sample_3d(volume: Tensor, grid: Tensor, out: Tensor, *, border: bool, align_corners: bool) -> None:
    """Launch the kernel on the current stream; `fastreenact.ops.grid_sample_3d` checks and says what they mean.

    Args:
        volume: [N, D, H, W, C] float32, float16 or bfloat16, channels contiguous.
        grid: [N, d, h, w, 3] float32.
        out: [N, d, h, w, C], or [N, h, w, C] for the sum over d, of the volume's dtype, channels contiguous.
        border: outside is the nearest voxel instead of zero.
        align_corners: -1 and 1 are the centres of the outer voxels instead of their faces.
    """
    if out.numel() == 0:
        return
    n, *sizes, channels = volume.shape
    out_depth, out_height, out_width = grid.shape[1:4]
    sum_depth = out.dim() == 4
    volume_strides, out_strides = volume.stride()[:4], out.stride()[:-1]
    if sum_depth:
        out_strides = (out_strides[0], 0, *out_strides[1:])
    together = [tensor.data_ptr() // tensor.element_size() for tensor in (volume, out)]
    blocks = _blocks(channels, volume.element_size(), out_width, sum_depth)
    rows = n * out_height * (1 if sum_depth else out_depth)
    blocks_c = triton.cdiv(channels, blocks["BLOCK_C"]) if sum_depth else 1
    launches = (rows, triton.cdiv(out_width, blocks["BLOCK_X"]), blocks_c)
    with torch.cuda.device(out.device) if out.is_cuda else nullcontext():
        _grid_sample_3d_kernel[launches](
            volume,
            grid,
            out,
            *sizes,
            channels,
            out_depth,
            out_height,
            out_width,
            *volume_strides,
            *grid.stride(),
            *out_strides,
            SUM=sum_depth,
            BORDER=border,
            ALIGN_CORNERS=align_corners,
            ALIGN=math.gcd(16 // volume.element_size(), channels, *together, *volume_strides, *out_strides),
            **blocks,
        )


def _blocks(channels: int, element_size: int, out_width: int, sum_depth: bool) -> dict[str, int]:
    """Voxels and channels of one program."""
    # 32 channels are whole sectors of memory in every dtype; more only where none of them is idle
    block_c = min(triton.next_power_of_2(channels), max(32, math.gcd(channels, _MAX_BLOCK_C)))
    block_x = max((_SUM_BYTES if sum_depth else _BYTES) // element_size // block_c, 1)
    return {"BLOCK_X": min(block_x, triton.next_power_of_2(out_width)), "BLOCK_C": block_c}
