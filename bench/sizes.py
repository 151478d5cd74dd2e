"""Our online step of Face2Face^rho from 256 to 2048: time, time per pixel, memory and stages.

    python bench/sizes.py [--quick] [--device cuda]

Measured as bench/network.py does, closeness to the plain networks first.
"""

import argparse
import sys
import time
from typing import Any

import network
import timing

SIZES = (256, 384, 512, 768, 1024, 1440, 2048)
STAGES = ("rasterize", "motion", "warp", "decode", "deliver")
COLUMNS = ["size", "dtype", "frames", "ms", "p95", "p99", "ns per pixel", "memory MB", "first frame ms", *STAGES]


def per_pixel(row: dict[str, Any]) -> dict[str, Any]:
    """A row of bench/network.py as one of this table."""
    dtype = row["network"].rpartition(", ")[2]
    return row | row["stages"] | {"dtype": dtype, "ns per pixel": row["ms"] * 1e6 / row["size"] ** 2}


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--quick", action="store_true", help="256 and 512, fewer frames; writes nothing")
    arguments.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    options = arguments.parse_args()
    begin = time.perf_counter()
    runs = {"cpu": [("ours", "float32"), ("ours", "bfloat16")], "cuda": [("ours", "float16")]}[options.device]
    sizes, effort = SIZES, {"rounds": 5, "frames": 300, "seconds": 6.0}
    if options.quick:
        sizes, effort = SIZES[:3:2], {"rounds": 3, "frames": 30, "seconds": 2.0}
    rows: list[dict[str, Any]] = []
    try:
        for size in sizes:
            rows += map(per_pixel, network.measure(size, options.device, runs, **effort))
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    print(timing.table(rows, COLUMNS))
    print(f"took {time.perf_counter() - begin:.0f} s")
    if not options.quick:
        notes = (
            "From keypoints to a uint8 frame, the motion network at the rendering's size (the next "
            "multiple of 64). Stages in ms, from frames of their own. Columns as in the table of engines."
        )
        payload = {"title": "Ours from 256 to 2048, the online step", "columns": COLUMNS, "rows": rows, "notes": notes}
        plot = {"x": "size", "y": "ns per pixel", "series": "dtype"}
        timing.write("sizes", payload | {"plot": plot}, device=options.device)
    return 0


if __name__ == "__main__":
    sys.exit(main())
