"""to_frame: the network's image in (-1, 1) to 8-bit RGB rows."""

import torch
from torch import Tensor

from fastreenact import _C
from fastreenact.ops import checks
from fastreenact.ops.define import cuda_kernels, register


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
    checks.need_tensor("image", image)
    checks.need_choice("layout", layout, ("nchw", "nhwc"))
    if out is None:
        if flag is not None:
            raise ValueError("flag: got one without `out`, needs both")
        return _to_frame(image, layout, bool(tanh))
    checks.need_tensor("out", out)
    if flag is not None:
        checks.need_tensor("flag", flag)
    _to_frame_out(image, layout, bool(tanh), out, flag)
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


def _check(image: Tensor, layout: str, out: Tensor | None, flag: Tensor | None = None) -> tuple[int, int, int, int]:
    """Raise what `to_frame` raises for tensors; gives the output shape."""
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
    return shape


def _run(image: Tensor, layout: str, tanh: bool, out: Tensor, flag: Tensor | None = None) -> None:
    if out.numel() == 0:
        return
    n, height, width, _ = out.shape
    stride = image.stride()
    stride_c, stride_y, stride_x = stride[1:] if layout == "nchw" else (stride[3], stride[1], stride[2])
    params = {
        "image": image.data_ptr(),
        "out": out.data_ptr(),
        "flag": 0 if flag is None else flag.data_ptr(),
        "n": n,
        "height": height,
        "width": width,
        "image_stride_n": stride[0],
        "image_stride_c": stride_c,
        "image_stride_y": stride_y,
        "image_stride_x": stride_x,
        "out_stride_n": out.stride(0),
        "out_stride_y": out.stride(1),
        "out_stride_x": out.stride(2),
        "dtype": checks.DTYPES[image.dtype],
        "apply_tanh": tanh,
    }
    if image.device.type == "cpu":
        checks.need_apart("out", out, "image", image)
        if flag is not None:
            checks.need_apart("flag", flag, "image", image)
            checks.need_apart("flag", flag, "out", out)
        _C.to_frame(**params)
        return
    kernels = cuda_kernels()
    if kernels is None:
        to_frame_reference(image, layout=layout, tanh=tanh, out=out, flag=flag)
        return
    with torch.cuda.device(image.device):
        kernels.to_frame_cuda(**params, stream=torch.cuda.current_stream().cuda_stream)


def _implementation(image: Tensor, layout: str, tanh: bool) -> Tensor:
    out = image.new_empty(_check(image, layout, None), dtype=torch.uint8)
    _run(image, layout, tanh, out)
    return out


def _implementation_out(image: Tensor, layout: str, tanh: bool, out: Tensor, flag: Tensor | None) -> None:
    _check(image, layout, out, flag)
    _run(image, layout, tanh, out, flag)


def _fake(image: Tensor, layout: str, tanh: bool) -> Tensor:
    return image.new_empty(_check(image, layout, None), dtype=torch.uint8)


def _fake_out(image: Tensor, layout: str, tanh: bool, out: Tensor, flag: Tensor | None) -> None:
    _check(image, layout, out, flag)


_to_frame = register("to_frame(Tensor image, str layout, bool tanh) -> Tensor", _implementation, _fake)
_to_frame_out = register(
    "to_frame_out(Tensor image, str layout, bool tanh, Tensor(a!) out, Tensor(b!)? flag) -> ()",
    _implementation_out,
    _fake_out,
)
