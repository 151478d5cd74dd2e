"""The GPU's `spade`: one pass over channels-last features, tables gathered by an index per row and column."""

import math
from contextlib import nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastreenact.kernels.channels_last import activate, addresses
from fastreenact.ops.checks import broadcast_strides

_MAX_BLOCK = 256  # accesses of one program: two for each thread of its four warps, four spill on sm_75


@triton.jit
def _spade_kernel(
    x_ptr,  # [N, H, W, C], or where HALF [N, ceil(H / 2), ceil(W / 2), C]
    gamma_ptr,  # [N or 1, Ty, Tx, C]
    beta_ptr,
    index_y_ptr,  # [H] int32, rows of the tables
    index_x_ptr,  # [W] int32
    mean_ptr,  # [C] float32; not read where FOLDED
    inv_std_ptr,
    out_ptr,  # [N, H, W, C], may be x
    height,
    width,
    stride_x_n,
    stride_x_y,
    stride_x_x,
    stride_gamma_n,
    stride_gamma_y,
    stride_gamma_x,
    stride_beta_n,
    stride_beta_y,
    stride_beta_x,
    stride_out_n,
    stride_out_y,
    stride_out_x,
    CHANNELS: tl.constexpr,
    FOLDED: tl.constexpr,
    HALF: tl.constexpr,  # 1: x is doubled by nearest
    ACTIVATION: tl.constexpr,
    ALIGN: tl.constexpr,  # divides the channels, every stride and every address: so many channels are one access
    BLOCK: tl.constexpr,  # accesses of one program
):
    """One program: BLOCK accesses of ALIGN channels each, one after the other in one row of one picture."""
    program = tl.program_id(0).to(tl.int64)
    n = program // height
    y = program - n * height
    access = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    column = access // (CHANNELS // ALIGN)
    first = (access - column * (CHANNELS // ALIGN)) * ALIGN
    in_row = column < width
    mask = in_row[:, None]
    channel = first[:, None] + tl.arange(0, ALIGN)[None, :]

    table_y = tl.load(index_y_ptr + y).to(tl.int64)
    table_x = tl.load(index_x_ptr + column, mask=in_row, other=0).to(tl.int64)
    column = column.to(tl.int64)
    x = n * stride_x_n + (y >> HALF) * stride_x_y + (column >> HALF) * stride_x_x
    gamma = n * stride_gamma_n + table_y * stride_gamma_y + table_x * stride_gamma_x
    beta = n * stride_beta_n + table_y * stride_beta_y + table_x * stride_beta_x
    out = n * stride_out_n + y * stride_out_y + column * stride_out_x

    value = tl.load(addresses(x_ptr, x, channel, ALIGN), mask=mask, other=0).to(tl.float32)
    factor = tl.load(addresses(gamma_ptr, gamma, channel, ALIGN), mask=mask, other=0).to(tl.float32)
    summand = tl.load(addresses(beta_ptr, beta, channel, ALIGN), mask=mask, other=0).to(tl.float32)
    if not FOLDED:
        value -= tl.load(mean_ptr + channel, mask=mask, other=0)
        value *= tl.load(inv_std_ptr + channel, mask=mask, other=0)
        factor += 1.0
    value = activate(value * factor + summand, ACTIVATION)
    tl.store(addresses(out_ptr, out, channel, ALIGN), value.to(out_ptr.dtype.element_ty), mask=mask)


def spade(
    x: Tensor,
    gamma_table: Tensor,
    beta_table: Tensor,
    index_y: Tensor,
    index_x: Tensor,
    out: Tensor,
    *,
    mean: Tensor | None = None,
    inv_std: Tensor | None = None,
    activation: int = 0,
) -> None:
    """Launch the kernel on the current stream; `fastreenact.ops.spade` checks the arguments and says what they mean.

    Args:
        x: [N, H, W, C] float32, float16 or bfloat16, channels contiguous, or half of that in height and width.
        gamma_table, beta_table: [N or 1, Ty, Tx, C], channels contiguous.
        index_y, index_x: [H] and [W] int32, contiguous.
        out: [N, H, W, C] of the dtype of x, channels contiguous; x itself, or memory of its own.
        mean, inv_std: [C] float32, or None where they are folded into the tables.
        activation: 0 none, 1 ReLU, 2 tanh.
    """
    if out.numel() == 0:
        return
    n, height, width, channels = out.shape
    moved = (x, gamma_table, beta_table, out)
    strides = [stride for tensor in moved for stride in broadcast_strides(tensor)[:3]]
    addresses = (tensor.data_ptr() // tensor.element_size() for tensor in moved)
    align = math.gcd(16 // x.element_size(), channels, *strides, *addresses)
    accesses = width * channels // align
    block = min(_MAX_BLOCK, triton.next_power_of_2(accesses))
    grid = (n * height, triton.cdiv(accesses, block))
    with torch.cuda.device(out.device) if out.is_cuda else nullcontext():
        _spade_kernel[grid](
            x,
            gamma_table,
            beta_table,
            index_y,
            index_x,
            x if mean is None else mean,  # an address for what is not read
            x if inv_std is None else inv_std,
            out,
            height,
            width,
            *strides,
            CHANNELS=channels,
            FOLDED=mean is None,
            HALF=int(x.shape[1:3] != out.shape[1:3]),
            ACTIVATION=activation,
            ALIGN=align,
            BLOCK=block,
        )
