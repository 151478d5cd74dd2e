"""spade: ours against the same arithmetic in eager PyTorch.

    python bench/spade.py [--quick]
"""

import argparse
from typing import Any

import timing
import torch
from torch import Tensor

from fastreenact import ops

# Decoder layers of Face2Face^rho: channels and the divisor of the size.
LAYERS = ((280, 16), (168, 8), (52, 4))
TABLE = 80  # 5 positions in each of 16 cells


def spade_case(size: int, channels: int, divisor: int, dtype: torch.dtype) -> tuple[dict[str, Any], Any, Any, int]:
    """One layer: its description, ours and eager as functions of no argument, bytes."""
    side = -(-size // divisor)
    rows = min(side, TABLE)
    index = (torch.arange(side) * rows // side).int()
    long = index.long()
    table = torch.randn(1, rows, rows, 2 * channels).to(dtype)
    gamma, beta = table[..., :channels], table[..., channels:]
    moved = (2 * side * side * channels + table.numel()) * dtype.itemsize
    take = timing.rotate(lambda: torch.randn(1, side, side, channels).to(dtype), moved)
    out = torch.empty(1, side, side, channels, dtype=dtype)

    def eager() -> Tensor:
        spread = table[:, long[:, None], long]
        return torch.addcmul(spread[..., channels:], take(), spread[..., :channels]).relu_()

    x = take()
    timing.need_close(
        f"{channels} x {side} x {side} {dtype}", ops.spade(x, gamma, beta, index, index),
        ops.spade_reference(x.double(), gamma.double(), beta.double(), index, index),
    )  # fmt: skip
    case = {"what": f"{channels} x {side} x {side}", "dtype": str(dtype).removeprefix("torch.")}
    return case, lambda: ops.spade(take(), gamma, beta, index, index, out=out), eager, moved


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, few repeats: a look, not a result")
    quick = parser.parse_args().quick
    torch.manual_seed(0)
    copy_rate = timing.copy_gb_per_s()
    rows = []
    for size in (256,) if quick else (256, 512, 1440):
        for channels, divisor in LAYERS:
            for dtype in (torch.float32, torch.bfloat16):
                case, ours, eager, moved = spade_case(size, channels, divisor, dtype)
                times = timing.measure({"ours": ours, "eager": eager}, 9 if quick else 25, max_seconds=1.0)
                rows.append(timing.row(case, times, moved, copy_rate))
    notes = (
        "Statistics folded into the tables. Eager: index, multiply-add, ReLU, channels-last. MB: x, y and the tables "
        f"once; the copy moves {copy_rate:.0f} GB/s."
    )
    timing.report("spade", "spade on the CPU", ["what", "dtype"], rows, [notes])


if __name__ == "__main__":
    main()
