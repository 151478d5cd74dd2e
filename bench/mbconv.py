"""mbconv: every inverted residual of Face2Face^rho's decoder, against the same block in PyTorch, eager and compiled.

python bench/mbconv.py [--quick] [--device cuda] [--no-compile]
"""

import copy
from collections.abc import Iterator
from functools import partial
from typing import Any

import timing
import torch
import torch.nn.functional as F
from gmac import calls
from torch import Tensor

from fastreenact import ops
from fastreenact.fuse import algebra
from fastreenact.models.blocks import InvertedResidual
from fastreenact.models.face2face_rho.networks import random_face2face_rho

DOUBLED = "de_up_block3.1.0.0"  # sees its input enlarged by nearest; the block after it is bench/tail.py's
CORNER = 64  # px of the output that are compared with the block in float64, which takes long for all


def block_case(
    block: Any, side: int, dtype: torch.dtype, device: str, *, doubled: bool, half_sums: bool = False
) -> timing.Case:
    """One block for outputs of side x side."""
    weights = ops.pack_mbconv(algebra.inverted_residual(block), dtype, device, half_sums=half_sums)
    channels_in, hidden, channels_out = weights.spec[:3]
    seen, upsample = (-(-side // 2), (side, side)) if doubled else (side, None)
    packed = sum(x.numel() * x.element_size() for x in vars(weights).values() if isinstance(x, Tensor))
    moved = (seen**2 * channels_in + side**2 * channels_out) * dtype.itemsize + packed
    take = timing.rotate(lambda: torch.randn(1, seen, seen, channels_in, device=device).to(dtype), moved)
    out = torch.empty(1, side, side, channels_out, dtype=dtype, device=device)
    plain, exact = copy.deepcopy(block).to(device, dtype), copy.deepcopy(block).to(device, torch.float64)

    def see(x: Tensor) -> Tensor:
        y = x.permute(0, 3, 1, 2)
        return F.interpolate(y, scale_factor=2, mode="nearest")[..., :side, :side] if doubled else y

    name = f"{channels_in} - {hidden} - {channels_out}, {side} x {side}" + (", doubled" if doubled else "")
    x = take()
    shown = ops.mbconv(x, weights, upsample=upsample)[:, :CORNER, :CORNER]
    part = x[:, : CORNER + 1, : CORNER + 1].double()
    expected = exact(see(part)).permute(0, 2, 3, 1)[:, :CORNER, :CORNER]
    timing.need_close(f"{name} {dtype}", shown, expected, slack=3.0 if half_sums else 1.5)
    ours = partial(ops.mbconv, weights=weights, upsample=upsample, out=out)
    case = {"what": name, "dtype": str(dtype).removeprefix("torch.") + (", half sums" if half_sums else "")}
    count = weights.multiplications(side, side, doubled)
    return timing.Case(case, lambda: ours(take()), lambda x: plain(see(x)), lambda: (take(),), moved, count)


def cases(sizes: tuple[int, ...], device: str) -> Iterator[timing.Case]:
    """Every block of the decoder but the last, at these sizes of the picture."""
    renderer = random_face2face_rho().renderer.requires_grad_(False)
    for size in sizes:
        for call in calls(size, (InvertedResidual,)):
            name = call.name.removeprefix("renderer.")
            if "de_up_block3.2" in name:
                continue
            for dtype in (torch.float32, torch.bfloat16 if device == "cpu" else torch.float16):
                block = renderer.get_submodule(name)
                yield block_case(block, call.output[-1], dtype, device, doubled=name == DOUBLED)
                if dtype == torch.float16:
                    yield block_case(block, call.output[-1], dtype, device, doubled=name == DOUBLED, half_sums=True)


@torch.inference_mode()
def main() -> None:
    options = timing.arguments(__doc__)
    device = options.device
    torch.manual_seed(0)
    copy_rate = timing.copy_gb_per_s(device)
    rows = timing.rows(cases((256,) if options.quick else (256, 512, 1440), device), options, copy_rate)
    notes = (
        "Channels in - hidden - out. Eager: the plain block, BatchNorm and all, channels-last. MB: the input, the "
        f"output and the weights once; the copy moves {copy_rate:.0f} GB/s."
    )
    timing.report("mbconv", f"mbconv on the {device.upper()}", ["what", "dtype"], rows, [notes], options)


if __name__ == "__main__":
    main()
