"""warp: ours against F.grid_sample and the element-wise operations after it, in PyTorch, eager and compiled.

python bench/warp.py [--quick] [--device cuda] [--no-compile]
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import timing
import torch
import torch.nn.functional as F
from torch import Tensor

from fastreenact import ops

# Feature maps of Face2Face^rho: channels by the divisor of the size; the field is at a quarter of it.
MAPS = {4: 28, 8: 72, 16: 280}


def field_of(height: int, width: int, bend: float) -> Tensor:
    """A head's field [1, height, width, 2]: smooth, off the identity by `bend`, out of the picture here and there."""
    y, x = ((torch.arange(n) + 0.5) * 2 / n - 1 for n in (height, width))
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), 2)[None]
    coarse = (torch.rand(1, 2, 5, 5) * 2 - 1) * bend
    moved = F.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=False)
    return (grid + moved.permute(0, 2, 3, 1)).contiguous()


def feature_case(size: int, divisor: int, dtype: torch.dtype, epilogue: bool) -> timing.Case:
    """One feature map."""
    channels, side = MAPS[divisor], -(-size // divisor)
    field = field_of(-(-size // 4), -(-size // 4), 0.2)
    index = (torch.arange(side) * 16 // side).int()
    long = index.long()
    table = torch.randn(1, 16, 16, 2 * channels).to(dtype)
    scale, shift = table[..., :channels], table[..., channels:]
    affine = {"scale": scale, "shift": shift, "index_y": index, "index_x": index, "activation": "relu"}
    options = affine if epilogue else {}
    moved = 2 * side * side * channels * dtype.itemsize + field.numel() * 4
    take = timing.rotate(lambda: torch.randn(1, side, side, channels).to(dtype), moved)
    take_nchw = timing.rotate(lambda: torch.randn(1, channels, side, side).to(dtype), moved)
    out = torch.empty(1, side, side, channels, dtype=dtype)

    def eager(x: Tensor) -> Tensor:
        grid = field if field.shape[1] == side else F.interpolate(field.permute(0, 3, 1, 2), side).permute(0, 2, 3, 1)
        y = F.grid_sample(x, grid.to(dtype), align_corners=False)
        if not epilogue:
            return y
        spread = table.permute(0, 3, 1, 2)[:, :, long[:, None], long]
        return torch.addcmul(spread[:, channels:], y, spread[:, :channels]).relu_()

    features = take()
    in_float64 = {k: v.double() if isinstance(v, Tensor) and v.is_floating_point() else v for k, v in options.items()}
    name = f"{channels} x {side} x {side}"
    timing.need_close(
        f"{name} {dtype}",
        ops.warp(features, field, **options),
        ops.warp_reference(features.double(), field.double(), **in_float64),
    )
    case = {"what": name + (", SPADE, ReLU" if epilogue else ""), "dtype": str(dtype).removeprefix("torch.")}
    ours = partial(ops.warp, field=field, out=out, **options)
    return timing.Case(case, lambda: ours(take()), eager, lambda: (take_nchw(),), moved)


def picture_case(size: int, dtype: torch.dtype, coarse: int) -> timing.Case:
    """A whole RGB portrait under a coarse field, as the landmark warp samples it."""
    field = field_of(coarse, coarse, 0.1)
    image = torch.randint(0, 256, (1, size, size, 3), dtype=torch.uint8).to(dtype)
    planes = image.permute(0, 3, 1, 2).float().contiguous()
    options: dict[str, Any] = {"padding": "border", "field_resize": "bilinear"}
    out = torch.empty_like(image)
    timing.need_close(
        f"picture {size} {dtype}",
        ops.warp(image, field, **options),
        ops.warp_reference(image if dtype == torch.uint8 else image.double(), field.double(), **options),
    )

    def eager(x: Tensor) -> Tensor:
        grid = F.interpolate(field.permute(0, 3, 1, 2), (size, size), mode="bilinear").permute(0, 2, 3, 1)
        y = F.grid_sample(x, grid, padding_mode="border", align_corners=False)
        return y.add_(0.5).to(torch.uint8) if dtype == torch.uint8 else y

    case = {"what": f"picture {size} x {size}, field {coarse} x {coarse}", "dtype": str(dtype).removeprefix("torch.")}
    ours = partial(ops.warp, image, field, out=out, **options)
    return timing.Case(case, ours, eager, lambda: (planes,), 2 * image.numel() * dtype.itemsize)


def cases(quick: bool, floats: tuple[torch.dtype, ...]) -> Iterator[timing.Case]:
    """The lines of the table."""
    for size in (256,) if quick else (256, 512, 1440):
        for divisor in MAPS:
            for dtype in floats:
                for epilogue in (False, True):
                    yield feature_case(size, divisor, dtype, epilogue)
    for dtype in (torch.float32, torch.uint8):
        yield picture_case(512 if quick else 1440, dtype, 90)


@torch.inference_mode()
def main() -> None:
    options, device, copy_rate = timing.begin(__doc__)
    floats = (torch.float32, torch.bfloat16 if device == "cpu" else torch.float16)
    rows = timing.rows(cases(options.quick, floats), options, copy_rate)
    notes = (
        "Field values smooth and partly outside. Eager: F.grid_sample on contiguous NCHW, its fastest layout, then the "
        "table look-up, multiply-add and ReLU; ours does all in one pass. MB: read once, written once, field included; "
        f"the copy moves {copy_rate:.0f} GB/s."
    )
    timing.report("warp", f"warp {timing.WHERE[device]}", ["what", "dtype"], rows, [notes], options)


if __name__ == "__main__":
    main()
