"""tail: the decoder's last layers, against the same layers in PyTorch, eager and compiled.

python bench/tail.py [--quick] [--device cuda] [--no-compile]
"""

import copy
from functools import partial
from typing import Any

import timing
import torch
from torch import Tensor, nn

from fastreenact import ops
from fastreenact.fuse import algebra
from fastreenact.models.blocks import upsample_to
from fastreenact.models.face2face_rho.networks import random_face2face_rho

CORNER = 64  # px of the output that are compared with the layers in float64


def tail_case(renderer: Any, size: int, dtype: torch.dtype, device: str) -> timing.Case:
    """A picture of size x size."""
    block, last = renderer.de_up_block3[2], renderer.de_conv_block[0]
    weights = ops.pack_tail(algebra.tail(block[0][0], last), dtype, device)
    half = -(-size // 2)
    moved = (half**2 * 8 + size**2 * 3) * dtype.itemsize
    take = timing.rotate(lambda: torch.randn(1, half, half, 8, device=device).to(dtype), moved)
    out = torch.empty(1, size, size, 3, dtype=dtype, device=device)
    layers = nn.Sequential(block, last)
    plain, exact = copy.deepcopy(layers).to(device, dtype), copy.deepcopy(layers).to(device, torch.float64)

    def see(x: Tensor) -> Tensor:
        return upsample_to(x.permute(0, 3, 1, 2), size, size)

    x = take()
    part = x[:, : CORNER // 2 + 1, : CORNER // 2 + 1].double()
    expected = exact(see(part)).permute(0, 2, 3, 1)[:, :CORNER, :CORNER]
    shown = ops.tail(x, weights, (size, size))[:, :CORNER, :CORNER]
    timing.need_close(f"{size} {dtype}", shown, expected, slack=1.5)
    case = {"what": f"{size} x {size}", "dtype": str(dtype).removeprefix("torch.")}
    ours = partial(ops.tail, weights=weights, size=(size, size), out=out)
    count = weights.multiplications(size, size)
    return timing.Case(case, lambda: ours(take()), lambda x: plain(see(x)), lambda: (take(),), moved, count)


@torch.inference_mode()
def main() -> None:
    options = timing.arguments(__doc__)
    device = options.device
    torch.manual_seed(0)
    copy_rate = timing.copy_gb_per_s(device)
    renderer = random_face2face_rho().renderer.requires_grad_(False)
    cases = (
        tail_case(renderer, size, dtype, device)
        for size in ((256,) if options.quick else (256, 512, 1440))
        for dtype in (torch.float32, torch.bfloat16 if device == "cpu" else torch.float16)
    )
    rows = timing.rows(cases, options, copy_rate)
    notes = (
        "Eager: nearest x2, depthwise 3x3, 1x1 and 3x3 with BatchNorms and ReLU, channels-last. MB: the map and the "
        f"picture once; the copy moves {copy_rate:.0f} GB/s."
    )
    timing.report("tail", f"tail on the {device.upper()}", ["what", "dtype"], rows, [notes], options)


if __name__ == "__main__":
    main()
