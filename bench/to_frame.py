"""to_frame: ours against the same arithmetic in PyTorch, eager and compiled.

python bench/to_frame.py [--quick] [--device cuda] [--no-compile]
"""

from functools import partial

import timing
import torch
from torch import Tensor

from fastreenact import ops


def frame_case(size: int, layout: str, dtype: torch.dtype, tanh: bool) -> timing.Case:
    """One image."""
    sizes = (1, 3, size, size) if layout == "nchw" else (1, size, size, 3)
    moved = 3 * size * size * (dtype.itemsize + 1)
    take = timing.rotate(lambda: (torch.rand(sizes) * 2 - 1).to(dtype), moved)
    out = torch.empty(1, size, size, 3, dtype=torch.uint8)

    def eager(x: Tensor) -> Tensor:
        value = x.tanh() if tanh else x
        level = value.float().add(1).mul_(127.5).add_(0.5).clamp_(0, 255).to(torch.uint8)
        return level.permute(0, 2, 3, 1).contiguous() if layout == "nchw" else level

    image = take()
    timing.need_close(
        f"{size} {layout} {dtype}",
        ops.to_frame(image, layout=layout, tanh=tanh),
        ops.to_frame_reference(image.double(), layout=layout, tanh=tanh),
    )
    case = {
        "what": f"{size} x {size} {layout.upper()}" + (", tanh" if tanh else ""),
        "dtype": str(dtype).removeprefix("torch."),
    }
    ours = partial(ops.to_frame, layout=layout, tanh=tanh, out=out)
    return timing.Case(case, lambda: ours(take()), eager, lambda: (take(),), moved)


@torch.inference_mode()
def main() -> None:
    options, device, copy_rate = timing.begin(__doc__)
    cases = (
        frame_case(size, layout, dtype, tanh)
        for size in ((256,) if options.quick else (256, 512, 1440))
        for layout, tanh in (("nchw", False), ("nhwc", False), ("nhwc", True))
        for dtype in (torch.float32, torch.bfloat16 if device == "cpu" else torch.float16)
    )
    rows = timing.rows(cases, options, copy_rate)
    notes = [f"MB: the image read and the frame written; the copy moves {copy_rate:.0f} GB/s."]
    timing.report("to_frame", f"to_frame {timing.WHERE[device]}", ["what", "dtype"], rows, notes, options)


if __name__ == "__main__":
    main()
