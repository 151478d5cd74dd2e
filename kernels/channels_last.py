"""What kernels over channels-last maps share: addresses whose alignment the compiler knows, and activations."""

import triton
import triton.language as tl


@triton.jit
def addresses(pointer, pixel, channel, ALIGN: tl.constexpr):
    """[pixels, channels] of them; the first of every ALIGN channels is a multiple of that many elements."""
    at = pointer + (pixel[:, None] + channel)
    if ALIGN > 1:  # the compiler fails at a hint about one address
        at = tl.multiple_of(at, [1, ALIGN * pointer.dtype.element_ty.primitive_bitwidth // 8])
    return at


@triton.jit
def activate(value, ACTIVATION: tl.constexpr):
    """0 none, 1 ReLU, 2 tanh, 3 leaky ReLU (csrc/substrate/common.h) of float32 values; NaN stays NaN."""
    if ACTIVATION == 1:
        value = tl.where(value < 0.0, 0.0, value)
    elif ACTIVATION == 2:
        value = tl.where(value > 20.0, 20.0, value)  # exp stays finite, and tanh(20) rounds to 1
        value = 1.0 - 2.0 / (tl.exp(2.0 * value) + 1.0)
    elif ACTIVATION == 3:
        value = tl.where(value < 0.0, 0.2 * value, value)
    return value
