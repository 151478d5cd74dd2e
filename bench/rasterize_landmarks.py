"""rasterize_landmarks: ours against OpenCV drawing the same, the three drawings of one frame.

    python bench/rasterize_landmarks.py [--quick]
"""

import argparse
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


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one size, few repeats: a look, not a result")
    quick = parser.parse_args().quick
    torch.manual_seed(0)
    keypoints = torch.rand(1, 72, 2) * 2.2 - 1.1
    points = keypoints[0].numpy()
    copy_rate = timing.copy_gb_per_s()
    rows = []
    for size in (256,) if quick else (256, 512, 1440):
        sides = [-(-size // 64) * 64 // divisor for divisor in DIVISORS]
        outs = [torch.empty(1, side, side, 3, dtype=torch.uint8) for side in sides]

        def ours(sides: list[int] = sides, outs: list[torch.Tensor] = outs) -> None:
            ops.rasterize_landmarks_all(keypoints, sides, outs=outs)

        def eager(sides: list[int] = sides) -> list[np.ndarray]:
            return [with_opencv(points, side, layout) for layout, side in enumerate(sides)]

        ours()
        for out, picture in zip(outs, eager(), strict=True):
            if not np.array_equal(out[0].numpy(), picture):
                raise SystemExit(f"{size}: not the pixels that OpenCV draws, no time is printed")
        times = timing.measure({"ours": ours, "eager": eager}, 9 if quick else 25, max_seconds=1.0)
        moved = sum(out.numel() for out in outs)
        rows.append(timing.row({"what": f"drawings of S = {size}: {sides}"}, times, moved, copy_rate))
    notes = ['All three drawings of a frame, every pixel equal. The column "eager" is OpenCV, called from Python.']
    timing.report("rasterize_landmarks", "rasterize_landmarks on the CPU", ["what"], rows, notes)


if __name__ == "__main__":
    main()
