"""Activations of the GPU kernels, by the numbers of csrc/common.h."""

import triton
import triton.language as tl


@triton.jit
def activate(value, ACTIVATION: tl.constexpr):
    """0 none, 1 ReLU, 2 tanh, in float32; NaN stays NaN."""
    if ACTIVATION == 1:
        value = tl.where(value < 0.0, 0.0, value)
    elif ACTIVATION == 2:
        value = tl.where(value > 20.0, 20.0, value)  # exp stays finite, and tanh(20) rounds to 1
        value = 1.0 - 2.0 / (tl.exp(2.0 * value) + 1.0)
    return value
