"""Weights in the order in which the lanes of a warp multiply them: csrc/mma.h, packed_index."""

import torch
from torch import Tensor

_BLOCK = 16  # outputs and inputs of one block


def pack_fragments(weight: Tensor, dtype: torch.dtype, device: torch.device | str) -> Tensor:
    """Pack a matrix for csrc/mma.h: blocks of 16 outputs by 16 inputs, zeros beyond the edges.

    Args:
        weight: [N, K] float64 (outputs, inputs), rounded to `dtype` once, here.
        dtype: float32, float16 or bfloat16.
        device: where the result lies.

    Returns:
        [ceil(N / 16), ceil(K / 16), 256] in `dtype`. Of 16 bits: for lane 4 g + t the weights of outputs g and g + 8,
        inputs 2 t, 2 t + 1, 2 t + 8, 2 t + 9 side by side. float32: [16 inputs][16 outputs].

    Raises:
        TypeError: another dtype.
        ValueError: not a matrix.
    """
    if dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise TypeError(f"dtype: got {dtype}, needs float32, float16 or bfloat16")
    if weight.dim() != 2:
        raise ValueError(f"weight: got shape {list(weight.shape)}, needs [N, K]")
    n, k = (-(-size // _BLOCK) for size in weight.shape)
    padded = weight.new_zeros(n * _BLOCK, k * _BLOCK)
    padded[: weight.shape[0], : weight.shape[1]] = weight
    if dtype == torch.float32:
        blocks = padded.view(n, _BLOCK, k, _BLOCK).permute(0, 2, 3, 1)
    else:  # tile, g, and register, t, which of two: to g, t, tile, register, which
        blocks = padded.view(n, 2, 8, k, 2, 4, 2).permute(0, 3, 2, 5, 1, 4, 6)
    return blocks.reshape(n, k, _BLOCK * _BLOCK).to(device=device, dtype=dtype)


def unpack_fragments(packed: Tensor, n: int, k: int) -> Tensor:
    """The [N, K] weights that `pack_fragments` packed."""
    blocks_n, blocks_k = packed.shape[:2]
    if packed.dtype == torch.float32:
        matrix = packed.view(blocks_n, blocks_k, _BLOCK, _BLOCK).permute(0, 3, 1, 2)
    else:
        matrix = packed.view(blocks_n, blocks_k, 8, 4, 2, 2, 2).permute(0, 4, 2, 1, 5, 3, 6)
    return matrix.reshape(blocks_n * _BLOCK, blocks_k * _BLOCK)[:n, :k]
