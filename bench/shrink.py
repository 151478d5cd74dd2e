"""shrink: ours against the same arithmetic in PyTorch, eager and compiled.

python bench/shrink.py [--quick] [--device cuda] [--no-compile]
"""

from typing import Any

import timing
import torch
from torch import Tensor

from fastreenact import ops

SIDE = 128  # of what the networks see


def shrink_case(size: int, share: float, samples: int, dtype: torch.dtype) -> timing.Case:
    """One picture."""
    box = (size / 2, size / 2, share * size)
    read = 3 * min(round(share * size), 2 * samples * SIDE) ** 2
    moved = read + 3 * SIDE * SIDE * dtype.itemsize
    take = timing.rotate(lambda: torch.randint(0, 256, (size, size, 3), dtype=torch.uint8), 3 * size * size)
    options: dict[str, Any] = {"samples": samples, "dtype": dtype}

    def ours() -> Tensor:
        return ops.shrink(take(), box, SIDE, **options)

    def eager(picture: Tensor) -> Tensor:
        return ops.shrink_reference(picture, box, SIDE, **options)

    picture = take()
    exact = ops.shrink_reference(picture, box, SIDE, samples=samples, dtype=torch.float64)
    timing.need_close(f"{size} {share} {dtype}", ops.shrink(picture, box, SIDE, **options), exact)
    case = {
        "what": f"{round(share * size)} in {size} x {size} to {SIDE}, {samples} x {samples} samples",
        "dtype": str(dtype).removeprefix("torch."),
    }
    return timing.Case(case, ours, eager, lambda: (take(),), moved)


@torch.inference_mode()
def main() -> None:
    options, device, copy_rate = timing.begin(__doc__)
    cases = (
        shrink_case(size, share, samples, dtype)
        for size in ((256,) if options.quick else (256, 512, 1440))
        for share, samples in ((1.0, 2), (0.6, 1 if size == 256 else 2))
        for dtype in (torch.float32, torch.bfloat16 if device == "cpu" else torch.float16)
    )
    rows = timing.rows(cases, options, copy_rate)
    notes = [f"MB: the pixels that samples lie between, and the result; the copy moves {copy_rate:.0f} GB/s."]
    timing.report("shrink", f"shrink {timing.WHERE[device]}", ["what", "dtype"], rows, notes, options)


if __name__ == "__main__":
    main()
