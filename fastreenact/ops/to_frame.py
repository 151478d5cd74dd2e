"""to_frame: the network's image in (-1, 1) to 8-bit RGB rows."""

from typing import Any

import torch
from torch import Tensor

from fastreenact.ops import checks
from fastreenact.ops.define import Op, Out, named


def to_frame(
    image: Tensor, *, layout: str = "nchw", tanh: bool = False, out: Tensor | None = None, flag: Tensor | None = None
) -> Tensor:
    """Turn an image in (-1, 1) into 8-bit rows, rounded to nearest.

    out = clamp(floor((v + 1) / 2 * 255 + 0.5), 0, 255), v = image or tanh(image); NaN gives 0

    Args:
        image: [N, 3, H, W] ("nchw") or [N, H, W, 3] ("nhwc"), float32, bfloat16 or float16 (GPU only), any strides.
        layout: "nchw" or "nhwc": the axis order of `image`.
        tanh: apply tanh first.
        out: uint8 [N, H, W, 3] to write into, channels contiguous.
        flag: int32 [1], with `out` only: becomes 1 if a value of `image` is infinite or NaN, and stays as it is if not.

    Returns:
        uint8 [N, H, W, 3]: `out` if given.

    Raises:
        TypeError: an argument is no tensor or has a dtype that is not listed.
        ValueError: a shape, stride, device or word that does not fit; an input requires grad.

    Source: the released code of Face2Face^rho, util/util.py, which truncates where this rounds.
    """
    checks.need_choice("layout", layout, ("nchw", "nhwc"))
    if flag is not None and out is None:
        raise ValueError("flag: got one without `out`, needs both")
    if out is None:
        return _TO_FRAME(image, layout, bool(tanh))
    _TO_FRAME.into(image, layout, bool(tanh), out, flag)
    return out


def to_frame_reference(
    image: Tensor, *, layout: str = "nchw", tanh: bool = False, out: Tensor | None = None, flag: Tensor | None = None
) -> Tensor:
    """What `to_frame` means, in plain PyTorch: any device, float64 too."""
    if flag is not None:
        flag.masked_fill_(~image.isfinite().all(), 1)
    value = image.permute(0, 2, 3, 1) if layout == "nchw" else image
    value = value.to(torch.promote_types(value.dtype, torch.float32))
    value = value.tanh() if tanh else value
    level = ((value + 1) / 2 * 255 + 0.5).floor().clamp(0, 255).nan_to_num(0.0).to(torch.uint8)
    return level.contiguous() if out is None else out.copy_(level)


def _check(a: Any) -> Out:
    """Raise what `to_frame` raises for tensors."""
    image, layout, _, out, flag = a
    checks.need_forward_only("to_frame", image=image)
    checks.need_activation_dtype("image", image)
    if layout == "nchw":
        checks.need_shape("image", image, (None, 3, None, None), "[N, 3, H, W]")
        n, _, height, width = image.shape
    else:
        checks.need_shape("image", image, (None, None, None, 3), "[N, H, W, 3]")
        n, height, width, _ = image.shape
    shape = (n, height, width, 3)
    if out is not None:
        checks.need_dtype("out", out, (torch.uint8,))
        checks.need_shape("out", out, shape, "[N, H, W, 3]")
        checks.need_same_device(image, out=out)
        checks.need_writable("out", out)
    if flag is not None:
        checks.need_flag(image, flag)
    return Out(shape, torch.uint8)


_TO_FRAME = Op(
    to_frame,
    _check,
    with_out=("flag",),
    mutates=("flag",),
    numbers=lambda a: {"channels_first": a.layout == "nchw", "tanh": a.tanh},
    cuda=True,
    fallback=lambda a: to_frame_reference(a.image, **named(a, 1)),
)
