"""Face2Face^rho's online step (motion, warp, decode): ours, eager PyTorch, and other engines where installed.

    python bench/network.py [--quick] [--full]

Weights are random, sizes real. Closeness comes first: no time is printed where ours is not what the plain form makes.
`--full` adds 1440 (motion network at 1472), which takes minutes.
"""

import argparse
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import timing
import torch
from network_engines import others

from fastreenact import ops
from fastreenact.models.face2face_rho import motion_inputs, random_face2face_rho
from fastreenact.models.fuse_face2face_rho import FusedFace2FaceRho, fuse
from fastreenact.models.head_pose import head_pose_input

# Relative L2 of the picture: float32 as for a whole network; bfloat16 as measured on random weights (0.027), doubled.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 5e-2}
NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
STAGES = ("motion", "warp", "decode")


@dataclass
class Case:
    """One size: inputs, and the plain network's step."""

    size: int
    model: Any = field(default_factory=random_face2face_rho)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(0)
        coarse = torch.from_numpy(rng.uniform(0, 255, (1, 3, 9, 9)))
        smooth = torch.nn.functional.interpolate(coarse, size=(self.size, self.size), mode="bilinear")
        self.image = smooth.to(torch.uint8)[0].permute(1, 2, 0).contiguous()
        self.faces = [rng.uniform(-0.8, 0.8, (72, 2)).astype(np.float32) for _ in range(2)]
        self.poses = [np.array([0.1 * i, -0.1, 0.05, 0, 0, 0.35], np.float32) for i in range(2)]
        side = -(-self.size // 64) * 64
        drawings = [
            [ops.rasterize_landmarks(torch.from_numpy(p)[None], side // k, i) for i, k in enumerate((16, 8, 4))]
            for p in self.faces
        ]
        pictures = [[d.permute(0, 3, 1, 2).float() * (2 / 255) - 1 for d in three] for three in drawings]
        x = self.image.permute(2, 0, 1)[None].float() * (2 / 255) - 1
        source, self.driver_pose = (
            torch.from_numpy(head_pose_input(pose, points, self.model.metadata))[None]
            for pose, points in zip(self.poses, self.faces, strict=True)
        )
        with torch.inference_mode():
            self.inputs = motion_inputs(x, *pictures)
            self.features = self.model.renderer.encode(x, source)

    @torch.inference_mode()
    def eager(self) -> torch.Tensor:
        """The plain network's step, float32."""
        motion = self.model.motion(*self.inputs)[2]
        return self.model.renderer.decode(self.features, motion, self.driver_pose)


class Ours:
    """The inference form's step on the same inputs, and its picture in (-1, 1)."""

    def __init__(self, case: Case, dtype: torch.dtype):
        self.fused: FusedFace2FaceRho = fuse(case.model, case.size, dtype)
        self.state = self.fused.encode(case.image, case.faces[0], case.poses[0])
        self.driver = case.faces[1], case.poses[1]
        self.ms: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Any:
        """The engine's timer, adding up over runs."""
        begin = time.perf_counter()
        yield
        self.ms[name] = self.ms.get(name, 0.0) + (time.perf_counter() - begin) * 1e3

    @torch.inference_mode()
    def __call__(self) -> torch.Tensor:
        return self.fused.step(self.state, *self.driver, timer=self)

    def picture(self) -> torch.Tensor:
        """[1, 3, S, S] float32."""
        return self().permute(0, 3, 1, 2).float().tanh()


def bench(size: int, repeats: int) -> list[dict[str, Any]]:
    """Rows of one size; raises where ours is not close."""
    case = Case(size)
    expected = case.eager()
    runs: dict[str, Any] = {"eager PyTorch, float32": case.eager}
    errors = {"eager PyTorch, float32": 0.0}

    def admit(name: str, run: Any, picture: torch.Tensor, tolerance: float) -> None:
        error = float((picture - expected).norm() / expected.norm())
        if not error <= tolerance:
            raise ValueError(f"{size}, {name}: relative L2 error {error:.2g} is over {tolerance:.0e}")
        runs[name], errors[name] = run, error

    for dtype, name in NAMES.items():
        ours = Ours(case, dtype)
        admit(f"ours, {name}", ours, ours.picture(), TOLERANCE[dtype])
    inputs = (*case.inputs, *case.features[:4], case.driver_pose)
    for name, run in others(case.model, size, inputs, torch.get_num_threads()).items():
        admit(name, run, torch.from_numpy(run()), TOLERANCE[torch.bfloat16])
    timed = timing.measure(runs, repeats, max_seconds=40.0, inner=1)
    return [row(size, name, run, timed, errors[name], repeats) for name, run in runs.items()]


def row(
    size: int, name: str, run: Any, timed: dict[str, dict[str, float]], error: float, repeats: int
) -> dict[str, Any]:
    """One line of the table; for ours the stages too, from runs of their own."""
    split = {}
    if isinstance(run, Ours):
        run.ms.clear()
        for _ in range(repeats):
            run()
        split = {stage: run.ms[stage] / repeats for stage in STAGES}
    t, base = timed[name], timed["eager PyTorch, float32"]["median_ms"]
    times = {"ms": t["median_ms"], "p20": t["p20_ms"], "p80": t["p80_ms"], "times eager": base / t["median_ms"]}
    return {"size": size, "network": name, **times, "relative L2": error, **split}


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--quick", action="store_true", help="256 only, fewer repeats; writes nothing")
    arguments.add_argument("--full", action="store_true", help="1440 too")
    options = arguments.parse_args()
    sizes = [256] if options.quick else [256, 512, *([1440] if options.full else [])]
    rows: list[dict[str, Any]] = []
    try:
        for size in sizes:
            rows += bench(size, 7 if options.quick or size > 512 else 30)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    columns = ["size", "network", "ms", "p20", "p80", "times eager", "relative L2", *STAGES]
    print(timing.table(rows, columns))
    if not options.quick:
        notes = (
            "Motion, warp and decode of one frame, random weights. `relative L2` is the distance from eager's picture."
        )
        payload = {"title": "Face2Face^rho, the online step", "columns": columns, "rows": rows, "notes": notes}
        timing.write("network", payload)
    return 0


if __name__ == "__main__":
    sys.exit(main())
