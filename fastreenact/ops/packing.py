"""Weights in the orders in which kernels multiply them: fragments of a warp's lanes (csrc/substrate/mma.h), panels of
16 output channels (csrc/substrate/gemm.h), and Winograd's transform (csrc/conv.cpp)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from fastreenact import _C

_BLOCK = 16  # outputs and inputs of one block


def pack_fragments(weight: Tensor, dtype: torch.dtype, device: torch.device | str) -> Tensor:
    """Pack a matrix for csrc/substrate/mma.h: blocks of 16 outputs by 16 inputs, zeros beyond the edges.

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


PANEL = 16


def multiplies_pairs(dtype: torch.dtype) -> bool:
    """Whether weights of `dtype` are multiplied as pairs of bfloat16 here."""
    return dtype == torch.bfloat16 and _C.isa() == "avx512_bf16"


def panels(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """Weights [N, K] as the instruction set in use reads them, rounded to `dtype`, flat; what is padded is 0.

    float32 [N / 16][K][16], or, in pairs, bfloat16 [N / 16][K / 2][16][2] with an even K.
    """
    rounded = matrix.to(dtype)
    n, k = matrix.shape
    if multiplies_pairs(dtype):
        whole = F.pad(rounded, (0, k % 2, 0, -n % PANEL)).view(-(-n // PANEL), PANEL, -(-k // 2), 2)
        return whole.permute(0, 2, 1, 3).reshape(-1).contiguous()
    whole = F.pad(rounded.float(), (0, 0, 0, -n % PANEL)).view(-(-n // PANEL), PANEL, k)
    return whole.permute(0, 2, 1).reshape(-1).contiguous()


def padded(vector: Tensor) -> Tensor:
    """float32 [N] with zeros up to whole panels."""
    return F.pad(vector.float(), (0, -len(vector) % PANEL)).contiguous()


def depthwise_order(channels: int) -> Tensor:
    """The order in which the CPU's depthwise convolution leaves `channels` bfloat16 (csrc/mbconv.cpp): of each 32 first
    the even ones, then the odd ones."""
    order = torch.arange(channels)
    whole = channels // 32 * 32
    order[:whole] = order[:whole].view(-1, 16, 2).transpose(1, 2).reshape(-1)
    return order


_FILTER = ((1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.0, 1.0))


def transformed(weight: Tensor) -> Tensor:
    """[Cout, 3, 3, Cin] -> [16, Cout, Cin]: along both axes by the 4x3 matrix of the algorithm.

    Source: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, 2016, section 4.1.
    """
    matrix = torch.tensor(_FILTER, dtype=weight.dtype)
    return torch.einsum("iy,jx,oyxc->ijoc", matrix, matrix, weight).flatten(0, 1)
