"""shrink: ours against the same arithmetic in eager PyTorch.

    python bench/shrink.py [--quick]
"""

import argparse
from typing import Any

import timing
import torch
from torch import Tensor

from fastreenact import ops

SIDE = 128  # of what the networks see


def shrink_case(size: int, share: float, samples: int, dtype: torch.dtype) -> tuple[dict[str, Any], Any, Any, int]:
    """One picture: its description, ours and eager as functions of no argument, bytes."""
    box = (size / 2, size / 2, share * size)
    read = 3 * min(round(share * size), 2 * samples * SIDE) ** 2
    moved = read + 3 * SIDE * SIDE * dtype.itemsize
    take = timing.rotate(lambda: torch.randint(0, 256, (size, size, 3), dtype=torch.uint8), 3 * size * size)
    options = {"samples": samples, "dtype": dtype}

    def ours() -> Tensor:
        return ops.shrink(take(), box, SIDE, **options)

    def eager() -> Tensor:
        return ops.shrink_reference(take(), box, SIDE, **options)

    picture = take()
    exact = ops.shrink_reference(picture, box, SIDE, samples=samples, dtype=torch.float64)
    timing.need_close(f"{size} {share} {dtype}", ops.shrink(picture, box, SIDE, **options), exact)
    case = {
        "what": f"{round(share * size)} in {size} x {size} to {SIDE}, {samples} x {samples} samples",
        "dtype": str(dtype).removeprefix("torch."),
    }
    return case, ours, eager, moved


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one size, few repeats: a look, not a result")
    quick = parser.parse_args().quick
    torch.manual_seed(0)
    copy_rate = timing.copy_gb_per_s()
    rows = []
    for size in (256,) if quick else (256, 512, 1440):
        for share, samples in ((1.0, 2), (0.6, 1 if size == 256 else 2)):
            for dtype in (torch.float32, torch.bfloat16):
                case, ours, eager, moved = shrink_case(size, share, samples, dtype)
                times = timing.measure({"ours": ours, "eager": eager}, 9 if quick else 25, max_seconds=1.0)
                rows.append(timing.row(case, times, moved, copy_rate))
    notes = [f"MB: the pixels that samples lie between, and the result; the copy moves {copy_rate:.0f} GB/s."]
    timing.report("shrink", "shrink on the CPU", ["what", "dtype"], rows, notes)


if __name__ == "__main__":
    main()
