"""Weights of a 3x3 convolution for Winograd's F(2x2, 3x3), which the CPU's conv multiplies by (csrc/conv.cpp)."""

import torch
from torch import Tensor

_FILTER = ((1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.0, 1.0))


def transformed(weight: Tensor) -> Tensor:
    """[Cout, 3, 3, Cin] -> [16, Cout, Cin]: along both axes by the 4x3 matrix of the algorithm.

    Source: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, 2016, section 4.1.
    """
    matrix = torch.tensor(_FILTER, dtype=weight.dtype)
    return torch.einsum("iy,jx,oyxc->ijoc", matrix, matrix, weight).flatten(0, 1)
