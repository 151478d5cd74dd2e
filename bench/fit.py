"""Accuracy and speed of the face model's fit: on keypoints that the model made, and on tracked clips where they exist.

    python bench/fit.py [--quick]

Runs on one core. The clips lie outside of the repository (../shared/data/videos); without them, or without MediaPipe,
only the model's own keypoints are measured.
"""

import argparse
import importlib.util
import os
import sys
import time
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import numpy as np  # noqa: E402  the thread count is read at import
import timing  # noqa: E402

from fastreenact.face.crop import crop_box  # noqa: E402
from fastreenact.face.keypoints import EYES, LIPS, from_mediapipe  # noqa: E402
from fastreenact.face.morphable.fit import fit, fit_shape  # noqa: E402
from fastreenact.face.morphable.model import default_model  # noqa: E402
from fastreenact.rotation import rotation_matrix, rotation_vector  # noqa: E402

CLIPS = Path(__file__).resolve().parents[2] / "shared" / "data" / "videos"
PX = 128  # pixels of a 256 crop per normalised unit
PARTS = {
    "outline": tuple(range(17)),
    "brows": tuple(range(17, 27)),
    "nose": tuple(range(27, 36)),
    "eyes": EYES,
    "lips": LIPS,
}
MOST_DEGREES, MOST_PX = 1.0, 0.3  # on the model's own keypoints


def random_faces(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One person's shape [50], `count` poses [count, 6] turned by up to 40 degrees, expressions [count, 51]."""
    shape = np.clip(rng.normal(size=50), -2, 2)
    axis = rng.normal(size=(count, 3))
    turn = axis / np.linalg.norm(axis, axis=1, keepdims=True) * np.deg2rad(rng.uniform(0, 40, (count, 1)))
    pose = np.concatenate([turn, rng.uniform(-0.2, 0.2, (count, 2)), rng.uniform(0.35, 0.55, (count, 1))], axis=1)
    expression = rng.uniform(0, 1, (count, 51)) * (rng.uniform(size=(count, 51)) < 0.12)
    return shape, pose, expression


def own_keypoints(people: int, fitted: bool) -> tuple[float, float]:
    """Largest rotation error (degrees) and mean keypoint error of a frame (px at 256) over people x 20 frames."""
    model, rng = default_model(), np.random.default_rng(0)
    degrees, px = 0.0, 0.0
    for _ in range(people):
        shape, pose, expression = random_faces(rng, 20)
        keypoints = model.project(shape, expression, pose)
        used = fit_shape(model, keypoints) if fitted else shape
        for wanted, seen in zip(pose, keypoints, strict=True):
            found = fit(model, seen, used)
            difference = rotation_matrix(wanted[:3]) @ rotation_matrix(found.pose[:3]).T
            degrees = max(degrees, float(np.rad2deg(np.linalg.norm(rotation_vector(difference)))))
            px = max(px, found.error * PX)
    return degrees, px


def tracked(path: Path) -> np.ndarray:
    """Keypoints [T, 72, 2] of a clip in the box of its first face."""
    import av

    from fastreenact.face.track.tracker import Tracker

    tracker, found = Tracker(), []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            landmarks = tracker(frame.to_ndarray(format="rgb24"))
            if landmarks is not None:
                found.append(from_mediapipe(landmarks.points)[:, :2])
    return crop_box(found[0]).normalise(np.stack(found))


def jerk(keypoints: np.ndarray) -> float:
    """Mean second difference over time, px at 256."""
    return float(np.linalg.norm(np.diff(keypoints, 2, axis=0), axis=-1).mean() * PX)


def clip_row(name: str, keypoints: np.ndarray) -> dict[str, object]:
    """Errors, jitter and milliseconds on one clip; the shape is fitted on its first 30 frames."""
    model = default_model()
    begin = time.perf_counter()
    shape = fit_shape(model, keypoints[:30])
    shape_ms = (time.perf_counter() - begin) * 1e3
    start, fits, ms = None, [], []
    for seen in keypoints:
        begin = time.perf_counter()
        start = fit(model, seen, shape, start)
        ms.append((time.perf_counter() - begin) * 1e3)
        fits.append(start)
    drawn = model.project(shape, np.stack([f.expression for f in fits]), np.stack([f.pose for f in fits]))
    distance = np.linalg.norm(drawn - keypoints, axis=-1) * PX
    moved = np.linalg.norm((drawn - drawn[0]) - (keypoints - keypoints[0]), axis=-1) * PX
    return {
        "clip": name,
        "frames": len(keypoints),
        "error": float(distance.mean()),
        "error of motion": float(moved.mean()),
        **{part: float(distance[:, points].mean()) for part, points in PARTS.items()},
        "jitter": jerk(drawn),
        "tracker's jitter": jerk(keypoints),
        "fit ms p50": float(np.median(ms)),
        "p20": float(np.percentile(ms, 20)),
        "p80": float(np.percentile(ms, 80)),
        "shape ms": shape_ms,
    }


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--quick", action="store_true", help="fewer people and two clips; writes nothing")
    options = arguments.parse_args()
    people = 3 if options.quick else 20
    notes = []
    for label, fitted in (("the shape known", False), ("the shape fitted on the same 20 frames", True)):
        degrees, px = own_keypoints(people, fitted)
        if degrees > MOST_DEGREES or px > MOST_PX:
            print(f"own keypoints, {label}: {degrees:.2f} degrees, {px:.2f} px: too far off", file=sys.stderr)
            return 1
        notes.append(
            f"On keypoints of the model itself ({people} people, 20 frames each, turned by up to 40 degrees), {label}: "
            f"rotation within {degrees:.3f} degrees, keypoints within {px:.3f} px at 256."
        )
    notes.append(
        "Below: distance of fitted and tracked keypoints in px of a 256 crop. `error of motion` compares their "
        "movement since the first frame; jitter is the mean second difference over time; one core, no GPU."
    )
    clips = (
        sorted(CLIPS.glob("*.mp4"), key=lambda path: (len(path.stem), path.stem))
        if importlib.util.find_spec("mediapipe")
        else []
    )
    rows = [clip_row(path.stem, tracked(path)) for path in (clips[:2] if options.quick else clips)]
    columns = list(rows[0]) if rows else ["clip"]
    print("\n\n".join([*notes, timing.table(rows, columns)]))
    if not options.quick:
        timing.write("fit", {"title": "Fit of the face model", "columns": columns, "rows": rows, "notes": notes})
    return 0


if __name__ == "__main__":
    sys.exit(main())
