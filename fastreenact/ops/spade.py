"""spade: normalise, scale and shift by tables read through an index per row and column, activate."""

from typing import Any

import torch
from torch import Tensor

from fastreenact.ops import checks
from fastreenact.ops.define import Op, Out

_ACTIVATIONS = tuple(checks.ACTIVATIONS)


def spade(
    x: Tensor,
    gamma_table: Tensor,
    beta_table: Tensor,
    index_y: Tensor,
    index_x: Tensor,
    *,
    mean: Tensor | None = None,
    inv_std: Tensor | None = None,
    activation: str | None = "relu",
    out: Tensor | None = None,
) -> Tensor:
    """Modulate normalised features by per-pixel, per-channel tables.

    y = act((x - mean) * inv_std * (1 + gamma[index_y, index_x]) + beta[index_y, index_x]), or, when `mean` and
    `inv_std` are None (folded into the tables), y = act(x * gamma[index_y, index_x] + beta[index_y, index_x]).

    Args:
        x: [N, H, W, C] float32, bfloat16 or float16 (GPU only), channels contiguous, other strides free; or half of
            that, [N, ceil(H / 2), ceil(W / 2), C], to be doubled by nearest first.
        gamma_table, beta_table: [N or 1, Ty, Tx, C] float32 or the dtype of x, channels contiguous. Folded, gamma_table
            is the whole factor (1 + gamma) * inv_std and beta_table is beta - mean * (1 + gamma) * inv_std.
        index_y, index_x: int32 [H] and [W]: the row and column of the tables that each row and column of the
            output reads; their lengths are the output's size.
        mean, inv_std: float32 [C], both or neither.
        activation: None, "relu" or "tanh".
        out: [N, H, W, C] of the dtype of x to write into: x itself if it is as large, or memory of its own.

    Returns:
        [N, H, W, C] of the dtype of x: `out` if given. Arithmetic is float32 inside.

    Raises:
        TypeError: an argument is no tensor or has a dtype that is not listed.
        ValueError: a shape, stride, device, index or word that does not fit; an input requires grad.

    Source: Park et al. 2019, SPADE; Face2Face^rho, Sec. 3.2 (BatchNorm statistics, pose as the condition).
    """
    checks.need_choice("activation", activation, _ACTIVATIONS)
    rest = (gamma_table, beta_table, index_y, index_x, mean, inv_std, activation)
    if out is not x:
        return _SPADE(x, *rest, out=out)
    _SPADE_INPLACE.into(x, *rest)
    return x


def spade_reference(
    x: Tensor,
    gamma_table: Tensor,
    beta_table: Tensor,
    index_y: Tensor,
    index_x: Tensor,
    *,
    mean: Tensor | None = None,
    inv_std: Tensor | None = None,
    activation: str | None = "relu",
    out: Tensor | None = None,
) -> Tensor:
    """What `spade` means, in plain PyTorch: any device, float64 too, with gradients."""
    work = torch.float64 if x.dtype == torch.float64 else torch.float32
    if _is_half(x, index_y, index_x):
        x = x.repeat_interleave(2, 1).repeat_interleave(2, 2)[:, : len(index_y), : len(index_x)]
    gamma, beta = (t[:, index_y.long()[:, None], index_x.long()].to(work) for t in (gamma_table, beta_table))
    if mean is None or inv_std is None:
        y = x.to(work) * gamma + beta
    else:
        y = (x.to(work) - mean.to(work)) * inv_std.to(work) * (1 + gamma) + beta
    if activation is not None:
        y = y.relu() if activation == "relu" else y.tanh()
    return y.to(x.dtype) if out is None else out.copy_(y)


def _check(a: Any) -> Out:
    """Raise what `spade` raises for tensors."""
    x, gamma_table, beta_table, index_y, index_x, mean, inv_std, _ = a[:8]
    out = _out(a)
    checks.need_forward_only(
        "spade", x=x, gamma_table=gamma_table, beta_table=beta_table, mean=mean, inv_std=inv_std, out=out
    )
    checks.need_activation_dtype("x", x)
    checks.need_shape("x", x, (None, None, None, None), "[N, H, W, C]")
    checks.need_channels_last("x", x)
    half = _is_half(x, index_y, index_x)
    n, channels = x.shape[0], x.shape[3]
    height, width = (len(index_y), len(index_x)) if half else x.shape[1:3]
    checks.need_same_device(
        x,
        gamma_table=gamma_table,
        beta_table=beta_table,
        index_y=index_y,
        index_x=index_x,
        mean=mean,
        inv_std=inv_std,
        out=out,
    )
    for name, table in (("gamma_table", gamma_table), ("beta_table", beta_table)):
        checks.need_dtype(name, table, (torch.float32, x.dtype))
        pictures = 1 if table.dim() == 4 and table.shape[0] == 1 else n
        checks.need_shape(name, table, (pictures, None, None, channels), "[N or 1, Ty, Tx, C]")
        checks.need_channels_last(name, table)
    if gamma_table.shape[1:] != beta_table.shape[1:] or gamma_table.dtype != beta_table.dtype:
        raise ValueError(
            f"beta_table: got {list(beta_table.shape)} {beta_table.dtype}, needs shape and dtype of gamma_table, "
            f"{list(gamma_table.shape)} {gamma_table.dtype}"
        )
    for name, index, length in (("index_y", index_y, height), ("index_x", index_x, width)):
        checks.need_dtype(name, index, (torch.int32,))
        checks.need_shape(name, index, (length,), "one entry for each row or column of x, or of x doubled")
        checks.need_contiguous(name, index)
    if (mean is None) != (inv_std is None):
        raise ValueError("mean, inv_std: got only one of them, needs both, or neither when they are folded in")
    for name, statistic in (("mean", mean), ("inv_std", inv_std)):
        if statistic is not None:
            checks.need_dtype(name, statistic, (torch.float32,))
            checks.need_shape(name, statistic, (channels,), "[C]")
            checks.need_channels_last(name, statistic)
    if out is not None:
        checks.need_dtype("out", out, (x.dtype,))
        checks.need_shape("out", out, (n, height, width, channels), "[N, H, W, C]")
        checks.need_writable("out", out)
    return Out((n, height, width, channels))


def _is_half(x: Tensor, index_y: Tensor, index_x: Tensor) -> bool:
    """Whether x is to be doubled: the indices are longer than it."""
    if x.dim() != 4 or index_y.dim() != 1 or index_x.dim() != 1:
        return False
    lengths, sides = (len(index_y), len(index_x)), tuple(x.shape[1:3])
    return lengths != sides and sides == tuple(-(-length // 2) for length in lengths)


def _out(a: Any) -> Tensor | None:
    """What is written: x itself in place."""
    out: Tensor | None = a[8] if len(a) > 8 else a.x
    return out


def _words(a: Any) -> dict[str, Any]:
    return {"activation": checks.ACTIVATIONS[a.activation]}


def _triton(a: Any) -> None:
    from fastreenact.kernels.spade import spade as launch

    launch(*a[:5], _out(a), mean=a.mean, inv_std=a.inv_std, **_words(a))


def _fallback(a: Any) -> None:
    spade_reference(*a[:5], mean=a.mean, inv_std=a.inv_std, activation=a.activation, out=_out(a))


_SPADE = Op(spade, _check, numbers=_words, triton=_triton, fallback=_fallback, may_alias=("x",))
_SPADE_INPLACE = Op(
    spade,
    _check,
    name="spade_",
    outs=(),
    mutates=("x",),
    kernel="spade",
    numbers=_words,
    views=lambda a, given: {**given, "out": a.x},
    triton=_triton,
    fallback=_fallback,
)
