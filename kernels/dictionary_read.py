"""The GPU's `dictionary_read`: each program reads the whole dictionary once for its rows, softmax as it goes."""

from contextlib import nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

_LOG2_E = 1.4426950408889634
_BLOCK_M = 64  # rows of a program: 256 programs for the largest map of LD-Net at 256
_BLOCK_R = 64
_STAGES = 2  # in float32 80 KB of shared memory; three take 128, and sm_86 and sm_120 have 99
_MAX_BLOCK_C = 128


@triton.jit
def _dictionary_read_kernel(
    q_ptr,  # [N, M, K]
    u_ptr,  # [R, K]
    v_ptr,  # [N or 1, R, C]
    out_ptr,  # [N, M, C]
    scale,  # times log2(e)
    rows,
    entries,
    key,
    channels,
    stride_q_n,
    stride_q_m,
    stride_u_r,
    stride_v_n,
    stride_v_r,
    stride_out_n,
    stride_out_m,
    WIDEN: tl.constexpr,  # multiply in float32: the interpreter has no bfloat16
    BLOCK_M: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """One program: BLOCK_M rows of one sample, BLOCK_C of their values' channels."""
    n = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    k = tl.arange(0, BLOCK_K)
    channel = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    in_rows = (row < rows)[:, None]
    in_channels = (channel < channels)[None, :]
    q = tl.load(
        q_ptr + n * stride_q_n + row[:, None] * stride_q_m + k[None, :], mask=in_rows & (k < key)[None, :], other=0.0
    )
    if WIDEN:
        q = q.to(tl.float32)

    most = tl.full([BLOCK_M], float("-inf"), dtype=tl.float32)
    total = tl.zeros([BLOCK_M], dtype=tl.float32)
    value = tl.zeros([BLOCK_M, BLOCK_C], dtype=tl.float32)
    for first in range(0, entries, BLOCK_R):
        entry = first + tl.arange(0, BLOCK_R)
        at = entry.to(tl.int64)
        present = entry < entries
        u = tl.load(
            u_ptr + at[None, :] * stride_u_r + k[:, None], mask=(k < key)[:, None] & present[None, :], other=0.0
        )
        v = tl.load(
            v_ptr + n * stride_v_n + at[:, None] * stride_v_r + channel[None, :],
            mask=present[:, None] & in_channels,
            other=0.0,
        )
        if WIDEN:
            u = u.to(tl.float32)
            v = v.to(tl.float32)
        score = tl.dot(q, u, input_precision="ieee") * scale
        score = tl.where(present[None, :], score, float("-inf"))
        now = tl.maximum(most, tl.max(score, 1))
        fade = tl.exp2(most - now)
        weight = tl.exp2(score - now[:, None])
        total = total * fade + tl.sum(weight, 1)
        value = value * fade[:, None] + tl.dot(weight.to(v.dtype), v, input_precision="ieee")
        most = now

    out = out_ptr + n * stride_out_n + row[:, None] * stride_out_m + channel[None, :]
    tl.store(out, (value / total[:, None]).to(out_ptr.dtype.element_ty), mask=in_rows & in_channels)


def dictionary_read(q: Tensor, u: Tensor, v: Tensor, out: Tensor, *, scale: float = 1.0) -> None:
    """Launch the kernel on the current stream; `fastreenact.ops.dictionary_read` checks and explains the arguments.

    Args:
        q: [N, M, K] float32, float16 or bfloat16, last axis contiguous, K at most 64.
        u: [R, K] of the same dtype, last axis contiguous.
        v: [N or 1, R, C] of the same dtype, last axis contiguous.
        out: [N, M, C] of the same dtype, last axis contiguous.
        scale: factor on the scores.
    """
    if out.numel() == 0:
        return
    n, rows, key = q.shape
    entries, channels = v.shape[1:]
    block_c = min(max(triton.next_power_of_2(channels), 16), _MAX_BLOCK_C)
    grid = (triton.cdiv(rows, _BLOCK_M), n, triton.cdiv(channels, block_c))
    with torch.cuda.device(out.device) if out.is_cuda else nullcontext():
        _dictionary_read_kernel[grid](
            q,
            u,
            v,
            out,
            scale * _LOG2_E,
            rows,
            entries,
            key,
            channels,
            *q.stride()[:2],
            u.stride(0),
            0 if v.shape[0] == 1 else v.stride(0),
            v.stride(1),
            *out.stride()[:2],
            WIDEN=not out.is_cuda and q.dtype == torch.bfloat16,
            BLOCK_M=_BLOCK_M,
            BLOCK_R=_BLOCK_R,
            BLOCK_K=max(triton.next_power_of_2(key), 16),
            BLOCK_C=block_c,
            num_warps=8 if q.dtype == torch.float32 else 4,
            num_stages=_STAGES,
        )
