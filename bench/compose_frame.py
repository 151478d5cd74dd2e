"""compose_frame: ours against the same arithmetic in PyTorch, eager and compiled.

python bench/compose_frame.py [--quick] [--device cuda] [--no-compile]
"""

import timing
import torch
from torch import Tensor

from fastreenact import ops
from fastreenact.models.refined_warp.networks import MOST_GAIN

SIDE = 256  # of what the networks give


def frame_case(size: int, share: float, fade: float, dtype: torch.dtype) -> timing.Case:
    """One picture."""
    box = (size / 2, size / 2, share * size)
    covered = round(share * size) ** 2
    moved = SIDE * SIDE * 4 * dtype.itemsize + 2 * 3 * covered
    take = timing.rotate(lambda: (torch.randn(SIDE, SIDE, 4) * 0.1).to(dtype), moved)
    surface = torch.randint(0, 256, (size, size, 3), dtype=torch.uint8)
    options = {"most_gain": MOST_GAIN, "fade": fade}

    def ours() -> Tensor:
        return ops.compose_frame(take(), surface, box, **options)

    def eager(x: Tensor, base: Tensor) -> Tensor:
        return ops.compose_frame_reference(x, base, box, **options)

    raw = take()
    timing.need_close(
        f"{size} {share} {dtype}",
        ops.compose_frame(raw, surface.clone(), box, **options),
        ops.compose_frame_reference(raw.double(), surface.clone(), box, **options),
    )
    case = {
        "what": f"{SIDE} to {round(share * size)} in {size} x {size}" + (", faded in" if fade else ""),
        "dtype": str(dtype).removeprefix("torch."),
    }
    return timing.Case(case, ours, eager, lambda: (take(), surface), moved)


@torch.inference_mode()
def main() -> None:
    options, device, copy_rate = timing.begin(__doc__)
    cases = (
        frame_case(size, share, fade, dtype)
        for size in ((256,) if options.quick else (256, 512, 1440))
        for share, fade in ((1.0, 0.0), (0.6, 0.08))
        for dtype in (torch.float32, torch.bfloat16 if device == "cpu" else torch.float16)
    )
    rows = timing.rows(cases, options, copy_rate)
    notes = [
        f"MB: the maps read, the covered pixels read and written; the copy moves {copy_rate:.0f} GB/s.",
        "Activations, bilinear enlargement, gain, colour and fade in one pass, in place.",
    ]
    timing.report("compose_frame", f"compose_frame {timing.WHERE[device]}", ["what", "dtype"], rows, notes, options)


if __name__ == "__main__":
    main()
