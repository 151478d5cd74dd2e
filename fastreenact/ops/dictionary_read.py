"""dictionary_read: each row asks a small dictionary and gets the mean of its values, weighted by a softmax."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastreenact.ops import checks
from fastreenact.ops.define import Op, Out

_MAX_KEY = 64  # elements of a key with which the GPU's kernel, in float32, fits every shared memory from sm_80 on


def dictionary_read(q: Tensor, u: Tensor, v: Tensor, *, scale: float = 1.0, out: Tensor | None = None) -> Tensor:
    """Read a dictionary of keys `u` and values `v` with the queries `q`.

    out[n, m] = sum_r softmax_r(scale * q[n, m] . u[r]) v[n, r]

    Args:
        q: queries [N, M, K] float32, bfloat16 or float16 (GPU only), last axis contiguous: pixels of N feature maps.
        u: keys [R, K] of the dtype of q, last axis contiguous.
        v: values [N or 1, R, C] of the dtype of q, last axis contiguous.
        scale: factor on the scores; LD-Net has none.
        out: [N, M, C] of the dtype of q to write into, for example a channel slice of a wider tensor. It must not
            overlap the inputs.

    Returns:
        [N, M, C] of the dtype of q: `out` if given. Scores, softmax and sums are float32 inside; the weights may be
        rounded to the dtype of v before they meet it.

    Raises:
        TypeError: an argument is no tensor or has a dtype that is not listed.
        ValueError: a shape, stride, device or number that does not fit; an input requires grad.

    Source: One-Shot Identity-Preserving Portrait Reenactment (arXiv 2004.12452), eq. 9.
    """
    checks.need_number("scale", scale)
    return _DICTIONARY_READ(q, u, v, scale, out=out)


def dictionary_read_reference(
    q: Tensor, u: Tensor, v: Tensor, *, scale: float = 1.0, out: Tensor | None = None
) -> Tensor:
    """What `dictionary_read` means, in plain PyTorch: any device, float64 too, with gradients."""
    work = torch.float64 if q.dtype == torch.float64 else torch.float32
    weights = torch.softmax(scale * (q.to(work) @ u.to(work).T), -1)
    y = (weights @ v.to(work)).to(q.dtype)
    return y if out is None else out.copy_(y)


def _check(a: Any) -> Out:
    """Raise what `dictionary_read` raises for tensors and numbers."""
    q, u, v, _, out = a
    checks.need_forward_only("dictionary_read", q=q, u=u, v=v, out=out)
    checks.need_activation_dtype("q", q)
    checks.need_shape("q", q, (None, None, None), "[N, M, K]")
    n, rows, key = q.shape
    checks.need_shape("u", u, (None, key), "[R, K]")
    samples = 1 if v.dim() == 3 and v.shape[0] == 1 else n
    checks.need_shape("v", v, (samples, u.shape[0], None), "[N or 1, R, C]")
    checks.need_same_device(q, u=u, v=v, out=out)
    for name, tensor in (("q", q), ("u", u), ("v", v)):
        checks.need_dtype(name, tensor, (q.dtype,))
        checks.need_channels_last(name, tensor)
    if u.numel() == 0:
        raise ValueError(f"u: got shape {list(u.shape)}, needs at least one key of at least one element")
    shape = (n, rows, v.shape[2])
    if out is not None:
        checks.need_dtype("out", out, (q.dtype,))
        checks.need_shape("out", out, shape, "[N, M, C]")
        checks.need_writable("out", out)
    return Out(shape)


def _attend(q: Tensor, u: Tensor, v: Tensor, scale: float, out: Tensor) -> None:
    """PyTorch's attention."""
    keys, values = u[None, None].expand(len(q), -1, -1, -1), v[:, None].expand(len(q), -1, -1, -1)
    out.copy_(F.scaled_dot_product_attention(q[:, None], keys, values, scale=scale)[:, 0])


def _has_tensor_cores(device: torch.device) -> bool:
    """Whether Triton's dot uses them: from sm_80 on."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device) >= (8, 0)


def _triton(a: Any) -> None:
    """Our kernel; or PyTorch's attention, which has tensor cores on sm_75 and takes keys of any size."""
    if not _has_tensor_cores(a.q.device) or a.q.shape[2] > _MAX_KEY:
        _attend(*a)
        return
    from fastreenact.kernels.dictionary_read import dictionary_read as launch

    launch(a.q, a.u, a.v, a.out, scale=a.scale)


_DICTIONARY_READ = Op(
    dictionary_read, _check, numbers=lambda a: {"scale": a.scale}, triton=_triton, fallback=lambda a: _attend(*a)
)
