"""What every op asks of its arguments, with messages that name the argument, what it got and what it needs."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

# Numbers of csrc/substrate/common.h.
DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.uint8: 3}
DTYPE_OF = {number: dtype for dtype, number in DTYPES.items()}
ACTIVATIONS = {None: 0, "relu": 1, "tanh": 2}


def need_tensor(name: str, value: object) -> None:
    """TypeError unless `value` is a dense tensor."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: got {type(value).__name__}, needs a torch.Tensor")
    if value.layout is not torch.strided:
        raise TypeError(f"{name}: got a tensor of layout {value.layout}, needs a dense one; call .to_dense()")


def need_packed(name: str, value: object, kind: type, pack: str) -> None:
    """TypeError unless `value` is the `kind` of weights that the function `pack` makes."""
    if not isinstance(value, kind):
        raise TypeError(f"{name}: got {type(value).__name__}, needs {kind.__name__} made by {pack}")


def need_whole(name: str, value: object, least: int, most: int) -> None:
    """ValueError unless `value` is a whole number in the range."""
    if isinstance(value, bool) or not isinstance(value, (int, torch.SymInt)) or not least <= value <= most:
        raise ValueError(f"{name}: got {value!r}, needs a whole number from {least} to {most}")


def need_size(name: str, value: object) -> list[int]:
    """Height and width; ValueError unless `value` is two whole numbers of at least 0."""
    values = list(value) if isinstance(value, (tuple, list)) else []
    if len(values) != 2 or any(isinstance(v, bool) or not isinstance(v, (int, torch.SymInt)) or v < 0 for v in values):
        raise ValueError(f"{name}: got {value!r}, needs two whole numbers (height, width), neither negative")
    return values


def need_number(name: str, value: object) -> None:
    """ValueError unless `value` is a finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < float("inf"):
        raise ValueError(f"{name}: got {value!r}, needs a finite number")


def need_choice(name: str, value: object, choices: tuple[str | None, ...]) -> None:
    """ValueError unless `value` is one of `choices`."""
    if not (value is None or isinstance(value, str)) or value not in choices:
        raise ValueError(f"{name}: got {value!r}, needs one of {', '.join(map(repr, choices))}")


def need_forward_only(op: str, **tensors: Tensor | None) -> None:
    """ValueError when a gradient would be expected through an op that has none."""
    if not torch.is_grad_enabled():
        return
    for name, tensor in tensors.items():
        if tensor is not None and tensor.requires_grad:
            raise ValueError(
                f"{name}: requires grad, but {op} is forward only; detach() it, work under torch.no_grad(), "
                f"or use {op}_reference, which has a gradient"
            )


def need_no_gradient(op: str, **tensors: Tensor | None) -> None:
    """ValueError when a gradient would be expected through an op that has none, nor a reference with one."""
    for name, tensor in tensors.items():
        if tensor is not None and tensor.requires_grad and torch.is_grad_enabled():
            raise ValueError(
                f"{name}: requires grad, but {op} has no gradient; detach() it or work under torch.no_grad()"
            )


def need_dtype(name: str, tensor: Tensor, dtypes: tuple[torch.dtype, ...]) -> None:
    """TypeError unless the dtype is one of `dtypes`."""
    if tensor.dtype not in dtypes:
        wanted = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        raise TypeError(f"{name}: got {str(tensor.dtype).removeprefix('torch.')}, needs {wanted}")


def need_activation_dtype(name: str, tensor: Tensor, also: tuple[torch.dtype, ...] = ()) -> None:
    """TypeError unless it is float32 or bfloat16 (or float16 on a GPU), or one of `also`."""
    on_gpu = (torch.float16,) if tensor.device.type != "cpu" else ()
    need_dtype(name, tensor, (torch.float32, torch.bfloat16, *on_gpu, *also))


def need_shape(name: str, tensor: Tensor, shape: tuple[int | None, ...], words: str) -> None:
    """ValueError unless the shape fits; None fits any size."""
    if tensor.dim() != len(shape) or any(
        want is not None and got != want for got, want in zip(tensor.shape, shape, strict=True)
    ):
        numbers = ", ".join("any" if want is None else str(want) for want in shape)
        raise ValueError(f"{name}: got shape {list(tensor.shape)}, needs {words} = [{numbers}]")


def need_channels_last(name: str, tensor: Tensor) -> None:
    """ValueError unless the last axis is contiguous."""
    if tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
        raise ValueError(
            f"{name}: got strides {list(tensor.stride())}, needs the last axis (channels) contiguous; "
            "permute an NCHW tensor in channels_last memory, or call .contiguous()"
        )


def need_contiguous(name: str, tensor: Tensor) -> None:
    """ValueError unless the tensor is contiguous."""
    if not tensor.is_contiguous():
        raise ValueError(
            f"{name}: got strides {list(tensor.stride())} for shape {list(tensor.shape)}, needs a contiguous tensor; "
            "call .contiguous()"
        )


def need_same_device(like: Tensor, **tensors: Tensor | None) -> None:
    """ValueError when a tensor lies elsewhere than `like`."""
    for name, tensor in tensors.items():
        if tensor is not None and tensor.device != like.device:
            raise ValueError(f"{name}: got device {tensor.device}, needs {like.device} like the first argument")


def need_writable(name: str, out: Tensor) -> None:
    """ValueError when two elements of an [N, .., C] `out` share memory, or its axes are permuted."""
    need_channels_last(name, out)
    extent = out.shape[-1]
    for axis in range(out.dim() - 2, -1, -1):
        size, stride = out.shape[axis], out.stride(axis)
        if size > 1:
            if stride < extent:
                raise ValueError(
                    f"{name}: got strides {list(out.stride())} for shape {list(out.shape)}, needs rows and pixels in "
                    "order and apart; pass a contiguous [N, .., C] tensor or a channel slice of one"
                )
            extent += (size - 1) * stride


def need_pictures(name: str, pictures: Tensor) -> None:
    """TypeError or ValueError unless they are uint8 [H, W, 3] or [N, H, W, 3], packed pixels in rows that lie apart."""
    need_dtype(name, pictures, (torch.uint8,))
    if pictures.dim() == 4:
        need_shape(name, pictures, (None, None, None, 3), "[N, H, W, 3]")
    else:
        need_shape(name, pictures, (None, None, 3), "[H, W, 3]")
    (height, width), (stride_y, stride_x, stride_c) = pictures.shape[-3:-1], pictures.stride()[-3:]
    if stride_c != 1 or (width > 1 and stride_x != 3) or (height > 1 and stride_y < 3 * width):
        raise ValueError(f"{name}: got strides {list(pictures.stride())}, needs packed pixels in rows that lie apart")


def need_box(box: Sequence[float] | None, boxes: Tensor | None, like: Tensor) -> None:
    """ValueError unless there is either one square for all, or a table of one for each of [N, ..] pictures."""
    if boxes is None:
        if box is None or len(box) != 3 or not all(map(math.isfinite, box)) or box[2] <= 0:
            got = None if box is None else list(box)
            raise ValueError(f"box: got {got}, needs centre x, centre y and a side of more than 0, in px")
        return
    if box is not None:
        raise ValueError("box: got one beside `boxes`, needs one of them")
    need_dtype("boxes", boxes, (torch.float64,))
    need_shape("boxes", boxes, (like.shape[0] if like.dim() == 4 else 1, 4), "[N, 4]")
    need_contiguous("boxes", boxes)
    need_same_device(like, boxes=boxes)


def need_flag(like: Tensor, flag: Tensor) -> None:
    """TypeError or ValueError unless `flag` is an int32 [1] on the device of `like`."""
    need_dtype("flag", flag, (torch.int32,))
    need_shape("flag", flag, (1,), "[1]")
    need_same_device(like, flag=flag)


def need_apart(name: str, out: Tensor, other_name: str, other: Tensor, *, same_allowed: bool = False) -> None:
    """ValueError when `out` overlaps `other`. Slices of different channels of one tensor do not."""
    if out.numel() == 0 or other.numel() == 0:
        return
    first, second = out.data_ptr(), other.data_ptr()
    if first + extent(out) <= second or second + extent(other) <= first:
        return
    if out.dtype == other.dtype and out.dim() == other.dim() and out.stride() == other.stride():
        if first == second and same_allowed and out.shape == other.shape:
            return
        low, high = (out, other) if first <= second else (other, out)
        gap = abs(first - second) // out.element_size()
        if low.shape[-1] <= gap and gap + high.shape[-1] <= out.stride(-2):
            return
    raise ValueError(f"{name}: shares memory with {other_name}, needs memory of its own")


def extent(tensor: Tensor) -> int:
    """Bytes from the first element to the end of the last."""
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return (last + 1) * tensor.element_size()


def broadcast_strides(tensor: Tensor | None) -> tuple[int, ...]:
    """Strides of an [N, H, W, C] tensor, 0 along axes of size 1, which then serve any size; all 0 for nothing."""
    if tensor is None:
        return (0, 0, 0, 0)
    return tuple(0 if size == 1 else stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
