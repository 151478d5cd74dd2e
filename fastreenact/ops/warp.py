"""warp: bilinear sampling of channels-last maps by a motion field, with an affine and an activation on the way out."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastreenact.ops import checks
from fastreenact.ops.define import Op, Out, Views, named

_ACTIVATIONS = tuple(checks.ACTIVATIONS)


def warp(
    features: Tensor,
    field: Tensor,
    *,
    source_index: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    index_y: Tensor | None = None,
    index_x: Tensor | None = None,
    activation: str | None = None,
    size: Sequence[int] | None = None,
    padding: str = "zeros",
    field_resize: str = "nearest",
    out: Tensor | None = None,
) -> Tensor:
    """Sample `features` where `field` points, bilinearly; then scale, shift and activate.

    out[n, y, x, c] = act(bilinear(features[a, :, :, c], field[n, y', x']) * scale[n, y, x, c] + shift[n, y, x, c])

    Args:
        features: [A, H, W, C] float32, bfloat16, float16 (GPU only) or uint8 (neither scale, shift nor activation then;
            rounded to nearest, halves up), channels contiguous, other strides free.
        field: [N, h, w, 2] float32, (x, y) in normalised coordinates: -1 and 1 are the outer pixel edges
            (align_corners=False). NaN counts as minus infinity, and infinite is outside.
        source_index: int32 [N] on the device of the features: a = source_index[n] is what output n samples, so that
            one number on the device chooses among resident pictures. On the CPU it must be in [0, A); on a GPU, where
            looking would wait for it, all of a picture that is not there is outside: zeros, whatever the padding. None:
            A is N, and a is n.
        scale, shift: factor and summand, float32 or the features' dtype: [C]; or [N or 1, Ho, Wo, C]; or tables
            [N or 1, Ty, Tx, C] with `index_y`, `index_x`, channels contiguous. A missing one is 1 or 0.
        index_y, index_x: int32 [Ho] and [Wo], the row and column of the tables that each output pixel reads: the affine
            of a folded `spade`.
        activation: None, "relu" or "tanh".
        size: (Ho, Wo) of the output; None is (H, W).
        padding: what lies outside: "zeros", or "border", which clamps coordinates to the outer pixel centres.
        field_resize: how the field gets from h x w to Ho x Wo: "nearest" takes sample floor(y * h / Ho); "bilinear"
            interpolates between sample centres (align_corners=False) and goes on linearly beyond the outer ones, so
            that an identity field stays the identity.
        out: [N, Ho, Wo, C] of the features' dtype to write into, for example a channel slice of a wider tensor. It must
            not overlap the inputs.

    Returns:
        [N, Ho, Wo, C] of the features' dtype: `out` if given. Coordinates are float64 and sums float32 inside.

    Raises:
        TypeError: an argument is no tensor or has a dtype that is not listed.
        ValueError: a shape, stride, device, index or word that does not fit; an input requires grad.

    Source: Face2Face^rho, Sec. 3.2.
    """
    checks.need_choice("activation", activation, _ACTIVATIONS)
    checks.need_choice("padding", padding, ("zeros", "border"))
    checks.need_choice("field_resize", field_resize, ("nearest", "bilinear"))
    if size is not None:
        size = checks.need_size("size", size)
    rest = (source_index, scale, shift, index_y, index_x, activation, size, padding, field_resize)
    return _WARP(features, field, *rest, out=out)


def warp_reference(
    features: Tensor,
    field: Tensor,
    *,
    source_index: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    index_y: Tensor | None = None,
    index_x: Tensor | None = None,
    activation: str | None = None,
    size: Sequence[int] | None = None,
    padding: str = "zeros",
    field_resize: str = "nearest",
    out: Tensor | None = None,
) -> Tensor:
    """What `warp` means, in plain PyTorch: any device, float64 too, with gradients."""
    height, width = features.shape[1:3]
    out_height, out_width = (height, width) if size is None else size
    work = torch.float64 if features.dtype == torch.float64 or field.dtype == torch.float64 else torch.float32
    grid = resize_field(field.to(work), out_height, out_width, field_resize)
    # Two pixels outside is as far as infinity, and NaN is minus infinity. No number comes from the host: a CUDA graph
    # can hold this.
    grid = grid.masked_fill(grid.isnan(), -float("inf"))
    far = (1 + 4 / max(width, 1), 1 + 4 / max(height, 1))
    grid = torch.stack([grid[..., axis].clamp(-far[axis], far[axis]) for axis in (0, 1)], -1)
    chosen = features if source_index is None else features[source_index.long().clamp(0, features.shape[0] - 1)]
    sampled = F.grid_sample(
        chosen.permute(0, 3, 1, 2).to(work), grid, mode="bilinear", padding_mode=padding, align_corners=False
    ).permute(0, 2, 3, 1)
    if source_index is not None:
        missing = (source_index < 0) | (source_index >= features.shape[0])
        sampled = sampled.masked_fill(missing[:, None, None, None], 0)
    for table, apply in ((scale, torch.mul), (shift, torch.add)):
        if table is not None:
            if index_y is not None and index_x is not None:
                table = table[:, index_y.long()[:, None], index_x.long()]
            sampled = apply(sampled, table.to(work))
    if activation is not None:
        sampled = sampled.relu() if activation == "relu" else sampled.tanh()
    if features.dtype == torch.uint8:
        sampled = (sampled + 0.5).floor().clamp(0, 255)
    sampled = sampled.to(features.dtype)
    return sampled.contiguous() if out is None else out.copy_(sampled)


def resize_field(field: Tensor, height: int, width: int, mode: str) -> Tensor:
    """[N, h, w, 2] -> [N, height, width, 2] as `warp` defines "nearest" and "bilinear"."""
    if tuple(field.shape[1:3]) == (height, width):
        return field
    for axis, wanted in ((1, height), (2, width)):
        present = field.shape[axis]
        position = torch.arange(wanted, device=field.device)
        if mode == "nearest":
            field = field.index_select(axis, position * present // wanted)
            continue
        at = (position.to(torch.float64) + 0.5) * (present / max(wanted, 1)) - 0.5
        low = at.floor().clamp(0, max(present - 2, 0)).long()
        high = (low + 1).clamp(max=present - 1)
        weight = (at - low).to(field.dtype) if present > 1 else torch.zeros_like(at, dtype=field.dtype)
        weight = weight.view(-1, 1, 1) if axis == 1 else weight.view(-1, 1)
        lower = field.index_select(axis, low)
        field = lower + weight * (field.index_select(axis, high) - lower)
    return field


def _check_index(name: str, index: Tensor, length: int, words: str) -> None:
    checks.need_dtype(name, index, (torch.int32,))
    checks.need_shape(name, index, (length,), words)
    checks.need_contiguous(name, index)


def _check_affine(
    features: Tensor,
    n: int,
    height: int,
    width: int,
    scale: Tensor | None,
    shift: Tensor | None,
    index_y: Tensor | None,
    index_x: Tensor | None,
) -> None:
    """Tables and indices fit the features and the output size."""
    if (index_y is None) != (index_x is None):
        raise ValueError("index_y, index_x: got only one of them, needs both or neither")
    if index_y is not None and index_x is not None:
        for name, index, length in (("index_y", index_y, height), ("index_x", index_x, width)):
            _check_index(name, index, length, "one entry for each output row or column")
        if scale is None and shift is None:
            raise ValueError("index_y, index_x: got them without scale and shift, which they index")
    for name, table in (("scale", scale), ("shift", shift)):
        if table is None:
            continue
        checks.need_dtype(name, table, (torch.float32, features.dtype))
        if table.dim() == 1 and index_y is None:
            checks.need_shape(name, table, (features.shape[3],), "[C]")
        else:
            rows, columns = (height, width) if index_y is None else (None, None)
            words = "[N, Ho, Wo, C]" if index_y is None else "[N, Ty, Tx, C]"
            count = table.shape[0] if table.dim() == 4 and table.shape[0] == 1 else n
            checks.need_shape(name, table, (count, rows, columns, features.shape[3]), words)
        checks.need_channels_last(name, table)
    if scale is not None and shift is not None and (scale.shape[1:] != shift.shape[1:] or scale.dtype != shift.dtype):
        raise ValueError(
            f"shift: got {list(shift.shape)} {shift.dtype}, needs shape and dtype of scale, "
            f"{list(scale.shape)} {scale.dtype}"
        )


def _check(a: Any) -> Out:
    """Raise what `warp` raises for tensors."""
    features, field, source_index, scale, shift, index_y, index_x, activation, size, _, _, out = a
    checks.need_forward_only("warp", features=features, field=field, scale=scale, shift=shift, out=out)
    checks.need_activation_dtype("features", features, (torch.uint8,))
    checks.need_dtype("field", field, (torch.float32,))
    checks.need_shape("features", features, (None, None, None, None), "[N or A, H, W, C]")
    checks.need_channels_last("features", features)
    n, height, width, channels = features.shape
    checks.need_shape("field", field, (n if source_index is None else None, None, None, 2), "[N, h, w, 2]")
    checks.need_same_device(
        features,
        field=field,
        source_index=source_index,
        scale=scale,
        shift=shift,
        index_y=index_y,
        index_x=index_x,
        out=out,
    )
    if source_index is not None:
        n = field.shape[0]
        _check_index("source_index", source_index, n, "one of features' pictures for each output")
    if size is not None:
        height, width = size
    shape = (n, height, width, channels)
    if height * width > 0 and (field.shape[1] == 0 or field.shape[2] == 0):
        raise ValueError(f"field: got shape {list(field.shape)}, needs at least one sample for an output of {shape}")
    if features.dtype == torch.uint8 and (scale is not None or shift is not None or activation is not None):
        raise ValueError("features: got uint8, needs float32 or bfloat16 where scale, shift or activation is given")
    _check_affine(features, n, height, width, scale, shift, index_y, index_x)
    if out is not None:
        checks.need_dtype("out", out, (features.dtype,))
        checks.need_shape("out", out, shape, "[N, Ho, Wo, C]")
        checks.need_writable("out", out)
    return Out(shape)


def _views(a: Any, given: Views) -> Views:
    """A missing factor or summand is one that changes nothing."""
    if a.scale is None and a.shift is not None:
        return given | {"scale": a.shift.new_ones(a.features.shape[3]).expand(a.shift.shape)}
    if a.shift is None and a.scale is not None:
        return given | {"shift": a.scale.new_zeros(a.features.shape[3]).expand(a.scale.shape)}
    return given


def _words(a: Any) -> dict[str, Any]:
    """The kernels' numbers."""
    return {
        "activation": checks.ACTIVATIONS[a.activation],
        "border": a.padding == "border",
        "field_bilinear": a.field_resize == "bilinear",
    }


def _triton(a: Any) -> None:
    from fastreenact.kernels.warp import warp as launch

    launch(a.features, a.field, a.out, **named(a, 2, 7), **_words(a))


_WARP = Op(
    warp,
    _check,
    numbers=_words,
    views=_views,
    triton=_triton,
    fallback=lambda a: warp_reference(a.features, a.field, **named(a, 2)),
)
