"""to_frame: ours against the same arithmetic in eager PyTorch.

    python bench/to_frame.py [--quick] [--device cuda]
"""

import argparse
from typing import Any

import timing
import torch
from torch import Tensor

from fastreenact import ops


def frame_case(size: int, layout: str, dtype: torch.dtype, tanh: bool) -> tuple[dict[str, Any], Any, Any, int]:
    """One image: its description, ours and eager as functions of no argument, bytes."""
    sizes = (1, 3, size, size) if layout == "nchw" else (1, size, size, 3)
    moved = 3 * size * size * (dtype.itemsize + 1)
    take = timing.rotate(lambda: (torch.rand(sizes) * 2 - 1).to(dtype), moved)
    out = torch.empty(1, size, size, 3, dtype=torch.uint8)

    def eager() -> Tensor:
        value = take().tanh() if tanh else take()
        level = value.float().add(1).mul_(127.5).add_(0.5).clamp_(0, 255).to(torch.uint8)
        return level.permute(0, 2, 3, 1).contiguous() if layout == "nchw" else level

    image = take()
    timing.need_close(
        f"{size} {layout} {dtype}", ops.to_frame(image, layout=layout, tanh=tanh),
        ops.to_frame_reference(image.double(), layout=layout, tanh=tanh),
    )  # fmt: skip
    case = {
        "what": f"{size} x {size} {layout.upper()}" + (", tanh" if tanh else ""),
        "dtype": str(dtype).removeprefix("torch."),
    }
    return case, lambda: ops.to_frame(take(), layout=layout, tanh=tanh, out=out), eager, moved


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, few repeats: a look, not a result")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    options = parser.parse_args()
    quick, device = options.quick, options.device
    measure = timing.measure if device == "cpu" else timing.measure_gpu
    torch.set_default_device(device)
    torch.manual_seed(0)
    copy_rate = timing.copy_gb_per_s(device)
    rows = []
    for size in (256,) if quick else (256, 512, 1440):
        for layout, tanh in (("nchw", False), ("nhwc", False), ("nhwc", True)):
            for dtype in (torch.float32, torch.bfloat16 if device == "cpu" else torch.float16):
                case, ours, eager, moved = frame_case(size, layout, dtype, tanh)
                times = measure({"ours": ours, "eager": eager}, 9 if quick else 25, max_seconds=1.0)
                rows.append(timing.row(case, times, moved, copy_rate))
    notes = [f"MB: the image read and the frame written; the copy moves {copy_rate:.0f} GB/s."]
    timing.report("to_frame", f"to_frame on the {device.upper()}", ["what", "dtype"], rows, notes, device=device)


if __name__ == "__main__":
    main()
