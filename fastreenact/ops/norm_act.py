"""norm_act: group, instance or adaptive normalisation, affine, residual, activation and nearest x2 in one op."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastreenact.ops import checks
from fastreenact.ops.define import Op, Out, named

_ACTIVATIONS = {None: 0, "relu": 1, "leaky_relu": 3}  # numbers of csrc/substrate/common.h
LEAKY_SLOPE = 0.2


def norm_act(
    x: Tensor,
    groups: int,
    *,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    residual: Tensor | None = None,
    activation: str | None = None,
    upsample: Sequence[int] | None = None,
    eps: float = 1e-5,
    out: Tensor | None = None,
) -> Tensor:
    """Normalise each group of channels of each sample to mean 0 and variance 1; scale, shift, activate, enlarge.

    y = act((x - mean) / sqrt(variance + eps) * scale + shift + residual), each element repeated `upsample` times along
    its axes; mean and variance (divided by the number of elements) are of one sample and the C / groups channels of one
    group.

    Args:
        x: [N, H, W, C] or [N, D, H, W, C] float32, bfloat16 or float16 (GPU only), channels contiguous, other strides
            free.
        groups: divides C; C is instance normalisation, 1 takes a whole sample.
        scale, shift: factor and summand, float32 or the dtype of x, channels contiguous: [C], or [N, C] for adaptive
            normalisation (the whole factor: 1 + gamma where a network predicts gamma). A missing one is 1 or 0.
        residual: of the shape and dtype of x, channels contiguous; added before the activation.
        activation: None, "relu" or "leaky_relu" (slope 0.2).
        upsample: 1 or 2 for each spatial axis, (H, W) or (D, H, W): nearest, so 2 repeats. None is 1 for all.
        eps: added to the variance.
        out: [N, (D,) H, W, C] times `upsample`, of the dtype of x, to write into, for example a channel slice of a
            wider tensor. It must not overlap the inputs.

    Returns:
        [N, (D,) H, W, C] times `upsample`, of the dtype of x: `out` if given. Statistics and arithmetic are float32 or
        wider inside; a large mean costs them nothing. A NaN or infinity makes its whole group NaN.

    Raises:
        TypeError: an argument is no tensor or has a dtype that is not listed.
        ValueError: a shape, stride, device, number or word that does not fit; an input requires grad.

    Source: Wu and He 2018, Group Normalization; Huang and Belongie 2017, AdaIN; MegaPortraits, appendix A.1.
    """
    checks.need_choice("activation", activation, tuple(_ACTIVATIONS))
    if isinstance(groups, bool) or not isinstance(groups, int):
        raise ValueError(f"groups: got {groups!r}, needs a whole number that divides the channels")
    checks.need_number("eps", eps)
    rest = (scale, shift, residual, activation, None if upsample is None else _factors(upsample), eps)
    return _NORM_ACT(x, groups, *rest, out=out)


def norm_act_reference(
    x: Tensor,
    groups: int,
    *,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    residual: Tensor | None = None,
    activation: str | None = None,
    upsample: Sequence[int] | None = None,
    eps: float = 1e-5,
    out: Tensor | None = None,
) -> Tensor:
    """What `norm_act` means, in plain PyTorch: any device, float64 too, with gradients."""
    work = torch.float64 if x.dtype == torch.float64 else torch.float32
    n, channels = x.shape[0], x.shape[-1]
    grouped = x.to(work).reshape(n, x.shape[1:-1].numel(), groups, channels // groups)
    variance, mean = torch.var_mean(grouped, dim=(1, 3), keepdim=True, correction=0)
    y = ((grouped - mean) * (variance + eps).rsqrt()).reshape(x.shape)
    for table, apply in ((scale, torch.mul), (shift, torch.add)):
        if table is not None:
            y = apply(y, table.to(work).reshape(-1, *[1] * (x.dim() - 2), channels))
    if residual is not None:
        y = y + residual.to(work)
    if activation is not None:
        y = y.relu() if activation == "relu" else F.leaky_relu(y, LEAKY_SLOPE)
    for axis, factor in enumerate(upsample or (), 1):
        y = y.repeat_interleave(factor, axis)
    return y.to(x.dtype) if out is None else out.copy_(y)


def _factors(upsample: Sequence[int]) -> list[int]:
    values = list(upsample) if isinstance(upsample, (tuple, list)) else []
    if not values or any(isinstance(v, bool) or v not in (1, 2) for v in values):
        raise ValueError(f"upsample: got {upsample!r}, needs 1 or 2 for each spatial axis")
    return values


def _check(a: Any) -> Out:
    """Raise what `norm_act` raises for tensors and numbers."""
    x, groups, scale, shift, residual, _, upsample, eps, out = a
    checks.need_forward_only("norm_act", x=x, scale=scale, shift=shift, residual=residual, out=out)
    checks.need_activation_dtype("x", x)
    if x.dim() != 5:
        checks.need_shape("x", x, (None,) * 4, "[N, H, W, C] or [N, D, H, W, C]")
    checks.need_channels_last("x", x)
    n, channels = x.shape[0], x.shape[-1]
    checks.need_same_device(x, scale=scale, shift=shift, residual=residual, out=out)
    if groups < 1 or channels % groups:
        raise ValueError(f"groups: got {groups}, needs a number that divides the {channels} channels")
    if not eps >= 0:
        raise ValueError(f"eps: got {eps}, needs a number of at least 0")
    for name, table in (("scale", scale), ("shift", shift)):
        if table is not None:
            checks.need_dtype(name, table, (torch.float32, x.dtype))
            if table.dim() == 1:
                checks.need_shape(name, table, (channels,), "[C]")
            else:
                checks.need_shape(name, table, (n, channels), "[N, C]")
            checks.need_channels_last(name, table)
    if scale is not None and shift is not None and scale.dtype != shift.dtype:
        raise ValueError(f"shift: got {shift.dtype}, needs the dtype of scale, {scale.dtype}")
    if residual is not None:
        checks.need_dtype("residual", residual, (x.dtype,))
        checks.need_shape("residual", residual, tuple(x.shape), "the shape of x")
        checks.need_channels_last("residual", residual)
    factors = [1] * (x.dim() - 2) if upsample is None else upsample
    if len(factors) != x.dim() - 2:
        raise ValueError(f"upsample: got {len(factors)} numbers, needs one for each of the {x.dim() - 2} spatial axes")
    space = (size * factor for size, factor in zip(x.shape[1:-1], factors, strict=True))
    shape = (n, *space, channels)
    if out is not None:
        checks.need_dtype("out", out, (x.dtype,))
        checks.need_shape("out", out, shape, "the shape of x times upsample")
        checks.need_writable("out", out)
    return Out(shape)


def _triton(a: Any) -> None:
    from fastreenact.kernels.norm_act import norm_act as launch

    launch(a.x, a.out, a.groups, **(named(a, 2, 8) | {"activation": _ACTIVATIONS[a.activation]}))


_NORM_ACT = Op(
    norm_act,
    _check,
    numbers=lambda a: {"groups": a.groups, "eps": a.eps, "activation": _ACTIVATIONS[a.activation]},
    triton=_triton,
    fallback=lambda a: norm_act_reference(a.x, a.groups, **named(a, 2)),
)
