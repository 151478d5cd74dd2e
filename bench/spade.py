"""spade: ours against the same arithmetic in PyTorch, eager and compiled.

python bench/spade.py [--quick] [--device cuda] [--no-compile]
"""

from functools import partial

import timing
import torch
from torch import Tensor

from fastreenact import ops

# Decoder layers of Face2Face^rho: channels and the divisor of the size.
LAYERS = ((280, 16), (168, 8), (52, 4))
TABLE = 80  # 5 positions in each of 16 cells


def spade_case(size: int, channels: int, divisor: int, dtype: torch.dtype) -> timing.Case:
    """One layer."""
    side = -(-size // divisor)
    rows = min(side, TABLE)
    index = (torch.arange(side) * rows // side).int()
    long = index.long()
    table = torch.randn(1, rows, rows, 2 * channels).to(dtype)
    gamma, beta = table[..., :channels], table[..., channels:]
    moved = (2 * side * side * channels + table.numel()) * dtype.itemsize
    take = timing.rotate(lambda: torch.randn(1, side, side, channels).to(dtype), moved)
    out = torch.empty(1, side, side, channels, dtype=dtype)

    def eager(x: Tensor) -> Tensor:
        spread = table[:, long[:, None], long]
        return torch.addcmul(spread[..., channels:], x, spread[..., :channels]).relu_()

    x = take()
    timing.need_close(
        f"{channels} x {side} x {side} {dtype}",
        ops.spade(x, gamma, beta, index, index),
        ops.spade_reference(x.double(), gamma.double(), beta.double(), index, index),
    )
    case = {"what": f"{channels} x {side} x {side}", "dtype": str(dtype).removeprefix("torch.")}
    ours = partial(ops.spade, gamma_table=gamma, beta_table=beta, index_y=index, index_x=index, out=out)
    return timing.Case(case, lambda: ours(take()), eager, lambda: (take(),), moved)


@torch.inference_mode()
def main() -> None:
    options, device, copy_rate = timing.begin(__doc__)
    cases = (
        spade_case(size, channels, divisor, dtype)
        for size in ((256,) if options.quick else (256, 512, 1440))
        for channels, divisor in LAYERS
        for dtype in (torch.float32, torch.bfloat16 if device == "cpu" else torch.float16)
    )
    rows = timing.rows(cases, options, copy_rate)
    notes = (
        "Statistics folded into the tables. Eager: index, multiply-add, ReLU, channels-last. MB: x, y and the tables "
        f"once; the copy moves {copy_rate:.0f} GB/s."
    )
    timing.report("spade", f"spade {timing.WHERE[device]}", ["what", "dtype"], rows, [notes], options)


if __name__ == "__main__":
    main()
