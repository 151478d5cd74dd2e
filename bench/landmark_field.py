"""The landmark warp's placement of a frame: our compiled parts against the same arithmetic in NumPy.

python bench/landmark_field.py [--quick]
"""

import argparse

import numpy as np
import timing

from fastreenact.face.crop import Box
from fastreenact.face.morphable.model import default_model
from fastreenact.models.landmark_warp.field import Controls
from fastreenact.models.landmark_warp.head import follow
from fastreenact.models.landmark_warp.warp import LandmarkWarp
from fastreenact.ops import landmark_field_reference

MOST_PX = 2e-4  # error of the field, as a share of the picture's side: float32 sums that cancel
REST = np.array((0.0, 0.0, 0.0, 0.0, 0.0, 0.45), np.float32)


def motions(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints [count, 72, 2] and poses [count, 6] of a face that talks and looks about."""
    rng = np.random.default_rng(0)
    expression = rng.uniform(0, 1, (count, 51)) * (rng.uniform(size=(count, 51)) < 0.2)
    pose = REST + rng.uniform(-1, 1, (count, 6)) * (0.2, 0.3, 0.15, 0.05, 0.05, 0.02)
    return default_model().project(np.zeros(50), expression, pose), pose


def field_rows(size: int, quick: bool) -> list[dict[str, object]]:
    """The field alone, and all of a frame's placement, of one portrait that fills a picture of size x size."""
    renderer, box = LandmarkWarp(size, size), Box.whole(size)
    portrait = np.random.default_rng(1).integers(0, 256, (size, size, 3), dtype=np.uint8)
    state = renderer.encode(portrait, default_model().project(np.zeros(50), np.zeros(51), REST), REST, box)
    keypoints, poses = motions(16)
    controls = []
    for points, pose in zip(keypoints, poses, strict=True):
        rigid, held = follow(state.head, box.denormalise(points).astype(np.float64), pose)
        controls.append(Controls(state.head, held, rigid))
    grid, side = state.grid, -(-size // state.grid.step)
    nodes, turn = np.zeros((side, side, 2), np.float32), {"next": 0}
    for each in controls[:4]:
        error = np.abs(grid.field(each)[0] - landmark_field_reference(grid.inputs(each))).max() / 2
        print(f"{size}: greatest error {error * size:.2g} px")
        if error > MOST_PX:
            raise SystemExit(f"{size}: not close to its reference, no time is printed")

    def following() -> int:
        turn["next"] = (turn["next"] + 1) % len(controls)
        return turn["next"]

    def plain() -> None:
        landmark_field_reference(grid.inputs(controls[following()]))

    def placement() -> None:
        i = following()
        renderer.place(state, keypoints[i], poses[i], nodes)

    times = timing.measure(
        {"field": lambda: grid.draw(controls[following()], nodes), "NumPy": plain, "placement": placement},
        9 if quick else 40,
        max_seconds=3.0,
    )
    return [
        {
            "picture": f"{size} x {size}",
            "nodes": f"{side} x {side}",
            "field ms": round(times["field"]["median_ms"], 3),
            "p20 - p80": f"{times['field']['p20_ms']:.3g} - {times['field']['p80_ms']:.3g}",
            "NumPy ms": round(times["NumPy"]["median_ms"], 2),
            "faster": f"{times['NumPy']['median_ms'] / times['field']['median_ms']:.1f} x",
            "all of a placement ms": round(times["placement"]["median_ms"], 3),
        }
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one size, few repeats: a look, not a result")
    quick = parser.parse_args().quick
    rows = [row for size in ((256,) if quick else (256, 512, 1440)) for row in field_rows(size, quick)]
    notes = [
        "Field: the splines solved, evaluated at the nodes that move, joined along lids and lips.",
        "NumPy: its reference, in float64.",
        "A placement: with the rigid motion, the control points, and the layers of eyes and mouth.",
    ]
    columns = list(rows[0])
    print(timing.table(rows, columns))
    if not quick:
        title = "Placing the landmark warp on the CPU"
        path = timing.write("landmark_field", {"title": title, "columns": columns, "rows": rows, "notes": notes})
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
