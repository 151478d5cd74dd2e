"""Weights as the CPU's matrix products read them: panels of 16 output channels (csrc/gemm.h)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from fastreenact import _C

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
