"""rasterize_landmarks: ours against OpenCV drawing the same, the three drawings of one frame.

    python bench/rasterize_landmarks.py [--quick] [--device cuda]

PyTorch has nothing that draws lines, so there is neither an eager form nor one to compile. On a GPU the other way is
OpenCV and a copy of its pictures to the device.
"""

from itertools import pairwise

import cv2
import numpy as np
import timing
import torch

from fastreenact import ops
from fastreenact.ops.rasterize_landmarks import COLOURS, LAYOUTS

DIVISORS = (16, 8, 4)


def with_opencv(keypoints: np.ndarray, size: int, layout: int) -> np.ndarray:
    """The drawing as the released code makes it."""
    picture = np.zeros((size, size, 3), np.uint8)
    pixels = ((keypoints + 1) / 2 * (size - 1)).astype(int).tolist()
    for part, colour in COLOURS.items():
        for line in LAYOUTS[layout].get(part, ()):
            if len(line) == 1:
                cv2.circle(picture, pixels[line[0]], 1, colour, cv2.FILLED, cv2.LINE_4)
            for a, b in pairwise(line):
                cv2.line(picture, pixels[a], pixels[b], colour, 1, cv2.LINE_4)
    return picture


def drawings_case(size: int, device: str) -> timing.Case:
    """The three drawings of a frame at one size of the picture."""
    keypoints = torch.rand(1, 72, 2, device="cpu") * 2.2 - 1.1
    points, there = keypoints[0].numpy(), keypoints.to(device)
    sides = [-(-size // 64) * 64 // divisor for divisor in DIVISORS]
    outs = [torch.empty(1, side, side, 3, dtype=torch.uint8, device=device) for side in sides]

    def ours() -> None:
        ops.rasterize_landmarks_all(there, sides, outs=outs)

    def others() -> list[torch.Tensor]:
        pictures = [with_opencv(points, side, layout) for layout, side in enumerate(sides)]
        return [torch.from_numpy(picture).to(device) for picture in pictures]  # to the CPU: no copy

    ours()
    for out, picture in zip(outs, others(), strict=True):
        if not torch.equal(out[0], picture):
            raise SystemExit(f"{size}: not the pixels that OpenCV draws, no time is printed")
    what = {"what": f"drawings of S = {size}: {sides}"}
    return timing.Case(what, ours, others, tuple, sum(out.numel() for out in outs))


@torch.inference_mode()
def main() -> None:
    options = timing.arguments(__doc__)
    device = options.device
    torch.manual_seed(0)
    copy_rate = timing.copy_gb_per_s(device)
    rows = []
    for size in (256,) if options.quick else (256, 512, 1440):
        case = drawings_case(size, device)
        times = timing.measure({"ours": case.ours, "eager": case.eager}, 9 if options.quick else 25, max_seconds=3.0)
        if device == "cuda":  # ours without the launching; what works on the host cannot be in a graph
            times["ours"] = timing.measure_gpu({"ours": case.ours}, max_seconds=3.0)["ours"]
        rows.append(timing.row(case.what, times, case.moved, copy_rate))
    notes = ['All three drawings of a frame, every pixel equal. The column "eager" is OpenCV, called from Python.']
    if device == "cuda":
        notes.append("OpenCV's time holds the copy of its drawings to the device.")
    title = f"rasterize_landmarks {timing.WHERE[device]}"
    timing.report("rasterize_landmarks", title, ["what"], rows, notes, options)


if __name__ == "__main__":
    main()
