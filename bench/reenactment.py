"""How close do reenacted clips come to the real ones: the unmoved source, a plain thin-plate spline, the landmark warp.

    python bench/reenactment.py [--quick] [--videos DIR] [--clips d0 d3] [--sheets DIR]

Self-reenactment on real clips, absolute motion: the source is the first frame, the driver every n-th frame after it.
The protocol was chosen so that the unmoved source gives what is known of it on these clips:

* crop: a square around the first frame's 478 points, side twice the taller side of their bounding box, at 256 px, for
  the whole clip; the picture's edge is repeated where the square leaves it;
* keypoints: MediaPipe's face mesh on each 256 px frame by itself (static mode), mapped to the 72 keypoints;
* AKD: tracked again on the output; mean absolute difference of both coordinates over the 68 keypoints that are also
  points of the 68-point layout, px; frames where the output shows no face are counted as lost;
* PSNR face: inside the convex hull of the driver's 72 keypoints; background: outside it, the hull dilated by 16 px; at
  most 60 dB in a frame;
* SSIM: over the whole picture in colour (window 7); background: its map's mean. The metrics are those of
  fastreenact/evaluation/metrics.py.

The clips lie outside of the repository (../shared/data/videos); without them or MediaPipe nothing is measured.
"""

import argparse
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import timing
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from fastreenact.evaluation.metrics import AKD_POINTS, akd_px, face_mask, psnr, ssim
from fastreenact.face.crop import Box
from fastreenact.face.keypoints import from_mediapipe
from fastreenact.face.morphable import fit
from fastreenact.face.morphable.model import default_model
from fastreenact.models.landmark_warp.warp import LandmarkWarp
from fastreenact.timings import StageTimer

VIDEOS = Path(__file__).resolve().parents[2] / "shared" / "data" / "videos"
SIZE = 256
CLIPS = ("d0", "d3", "d18", "d20")
TARGETS = {  # measured before this code was written, by a protocol known only in part: AKD px, face PSNR dB, SSIM
    "unmoved": {
        "d0": (2.03, 25.9, 0.904), "d3": (9.18, 17.8, 0.711), "d18": (2.39, 27.7, 0.888), "d20": (33.6, 13.7, 0.271),
    },
    "tps": {
        "d0": (1.56, 24.8, 0.837), "d3": (1.59, 23.8, 0.767), "d18": (1.40, 27.7, 0.840), "d20": (1.57, 22.8, 0.440),
    },
}  # fmt: skip

Frame = NDArray[np.uint8]
Points = NDArray[np.float32]
Method = Callable[[int], Frame]


def tracker() -> Callable[[Frame], Points | None]:
    """MediaPipe's face mesh, every picture by itself: 478 points px [478, 2], or None."""
    os.environ.setdefault("GLOG_minloglevel", "3")
    import mediapipe

    mesh = mediapipe.solutions.face_mesh.FaceMesh(static_image_mode=True, max_num_faces=1, refine_landmarks=True)

    def track(frame: Frame) -> Points | None:
        faces = mesh.process(frame).multi_face_landmarks
        if not faces:
            return None
        return np.array([(p.x * frame.shape[1], p.y * frame.shape[0]) for p in faces[0].landmark], np.float32)

    return track


def read_frames(path: Path, every: int) -> list[Frame]:
    """Every n-th frame of a video, RGB."""
    import av

    with av.open(str(path)) as container:
        return [f.to_ndarray(format="rgb24") for i, f in enumerate(container.decode(video=0)) if i % every == 0]


def cut(frame: Frame, box: Box) -> Frame:
    """The box at SIZE, the picture's edge repeated outside."""
    x0, y0 = round(box.cx - box.size / 2), round(box.cy - box.size / 2)
    side = round(box.size)
    x = np.clip(np.arange(x0, x0 + side), 0, frame.shape[1] - 1)
    y = np.clip(np.arange(y0, y0 + side), 0, frame.shape[0] - 1)
    how = Image.Resampling.BOX if side > SIZE else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(frame[y[:, None], x]).resize((SIZE, SIZE), how))


class Clip:
    """A clip cut to its first face: frames and their true keypoints."""

    def __init__(self, path: Path, every: int, track: Callable[[Frame], Points | None]) -> None:
        frames = read_frames(path, every)
        first = track(frames[0])
        if first is None:
            raise SystemExit(f"{path}: no face in the first frame")
        low, high = first.min(axis=0), first.max(axis=0)
        middle = (low + high) / 2
        box = Box(float(middle[0]), float(middle[1]), 2.0 * float((high - low).max()))
        self.name, self.frames, self.keypoints = path.stem, [], []
        for frame in frames:
            small = cut(frame, box)
            found = track(small)
            if found is not None:
                self.frames.append(small)
                self.keypoints.append(from_mediapipe(found))


def plain_tps(clip: Clip) -> Method:
    """The baseline: a thin-plate spline through the 68 keypoints and 16 points of the border, which stay."""
    edge = np.linspace(0, SIZE, 5)
    border = np.array([(x, y) for x in edge for y in edge if x in (0, SIZE) or y in (0, SIZE)])
    source = np.concatenate((clip.keypoints[0][AKD_POINTS], border))
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    grid = np.stack((x, y), axis=-1).reshape(-1, 2)

    def kernel(a: Any, b: Any) -> Any:
        square = ((a[:, None] - b[None]) ** 2).sum(axis=-1) / SIZE**2
        return square * np.log(square + 1e-12)

    def render(i: int) -> Frame:
        at = np.concatenate((clip.keypoints[i][AKD_POINTS], border))
        n = len(at)
        system = np.zeros((n + 3, n + 3))
        system[:n, :n], system[:n, n], system[:n, n + 1 :] = kernel(at, at), 1.0, at / SIZE
        system[n:, :n] = system[:n, n:].T
        weights = np.linalg.lstsq(system, np.concatenate((source, np.zeros((3, 2)))), rcond=None)[0]
        read = kernel(grid, at) @ weights[:n] + weights[n] + grid / SIZE @ weights[n + 1 :]
        return bilinear(clip.frames[0], read.reshape(SIZE, SIZE, 2))

    return render


def bilinear(image: Frame, at: Any) -> Frame:
    """Read `image` at pixels `at` [h, w, 2], its edge repeated outside."""
    height, width = image.shape[:2]
    x, y = np.clip(at[..., 0] - 0.5, 0, width - 1), np.clip(at[..., 1] - 0.5, 0, height - 1)
    i, j = np.minimum(x.astype(int), width - 2), np.minimum(y.astype(int), height - 2)
    fx, fy = (x - i)[..., None], (y - j)[..., None]
    top = image[j, i] * (1 - fx) + image[j, i + 1] * fx
    low = image[j + 1, i] * (1 - fx) + image[j + 1, i + 1] * fx
    return (top * (1 - fy) + low * fy + 0.5).astype(np.uint8)


def fitted(clip: Clip) -> tuple[list[Any], list[Points], list[Any]]:
    """What the face model makes of a clip: tracked keypoints, its own keypoints, poses; normalised units."""
    model, box = default_model(), Box.whole(SIZE)
    seen = [box.normalise(k[:, :2]) for k in clip.keypoints]
    shape = fit.fit_shape(model, np.stack(seen[:30]))
    fits = [fit.fit(model, k, shape, None) for k in seen]
    return seen, [model.project(shape, f.expression, f.pose) for f in fits], [f.pose for f in fits]


def drive(clip: Clip, keypoints: list[Any], poses: list[Any]) -> Method:
    """The landmark warp with the first frame as its portrait."""
    renderer = LandmarkWarp(SIZE, SIZE)
    state = renderer.encode(clip.frames[0], keypoints[0], poses[0], Box.whole(SIZE))
    return lambda i: renderer.drive(state, keypoints[i], poses[i]).numpy()


def warp_tracked(clip: Clip) -> Method:
    """Driven by the tracked points themselves; poses from the fit."""
    seen, _, poses = fitted(clip)
    return drive(clip, seen, poses)


def warp_fitted(clip: Clip) -> Method:
    """Driven as the engine drives it: the model's keypoints, off by what they are off in the portrait; no smoothing."""
    seen, own, poses = fitted(clip)
    return drive(clip, [k + (seen[0] - own[0]) for k in own], poses)


METHODS: dict[str, Callable[[Clip], Method]] = {
    "unmoved": lambda clip: lambda i: clip.frames[0],
    "tps": plain_tps,
    "landmark-warp, tracked points": warp_tracked,
    "landmark-warp, fitted model": warp_fitted,
}


def measure(clip: Clip, method: Method, track: Callable[[Frame], Points | None]) -> dict[str, float]:
    """Means over the driver's frames."""
    rows, lost = [], 0
    for i in range(1, len(clip.frames)):
        got, wanted, points = method(i), clip.frames[i], clip.keypoints[i][:, :2]
        face, outside = face_mask(points, SIZE, SIZE), ~face_mask(points, SIZE, SIZE, 16.0)
        found = track(got)
        lost += found is None
        akd = np.nan if found is None else akd_px(from_mediapipe(found), clip.keypoints[i])
        rows.append(
            (
                akd,
                min(60.0, psnr(got, wanted, face)),
                ssim(got, wanted),
                min(60.0, psnr(got, wanted, outside)),
                ssim(got, wanted, outside),
            )
        )
    names = ("akd_px", "psnr_face_db", "ssim", "psnr_background_db", "ssim_background")
    means = np.nanmean(rows, axis=0).round(4).tolist()
    return dict(zip(names, means, strict=True)) | {"lost": lost, "frames": len(rows)}


def sheet(clip: Clip, methods: dict[str, Method], path: Path, columns: int = 8) -> None:
    """A contact sheet: the real frames above what each method made of the first."""
    chosen = np.linspace(0, len(clip.frames) - 1, columns).astype(int)
    rows = [np.concatenate([clip.frames[i] for i in chosen], axis=1)]
    rows += [np.concatenate([method(int(i)) for i in chosen], axis=1) for method in methods.values()]
    picture = Image.fromarray(np.concatenate(rows))
    draw = ImageDraw.Draw(picture)
    for row, name in enumerate(("driver", *methods)):
        draw.text((4, row * SIZE + 4), name, fill=(255, 255, 0), stroke_width=1, stroke_fill=(0, 0, 0))
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


COLUMNS = ["clip", "method", "AKD px", "PSNR face dB", "SSIM", "PSNR background dB", "SSIM background", "lost"]


def row(clip: str, method: str, m: dict[str, float]) -> dict[str, Any]:
    """A line of the table, the known numbers in brackets."""
    cells = [f"{m['akd_px']:.2f}", f"{m['psnr_face_db']:.1f}", f"{m['ssim']:.3f}"]
    known = TARGETS.get(method, {}).get(clip)
    if known:
        cells = [f"{cell} ({value})" for cell, value in zip(cells, known, strict=True)]
    cells += [f"{m['psnr_background_db']:.1f}", f"{m['ssim_background']:.3f}", f"{m['lost']:.0f} of {m['frames']:.0f}"]
    return dict(zip(COLUMNS, [clip, method, *cells], strict=True))


def times(clip: Clip, sizes: tuple[int, ...] = (256, 512, 1024, 1440)) -> str:
    """Markdown: milliseconds of one frame of the landmark warp by stage, on the clip's first frame scaled up."""
    seen, _, poses = fitted(clip)
    lines = []
    for size in sizes:
        renderer, box = LandmarkWarp(size, size), Box.whole(size)
        portrait = np.asarray(Image.fromarray(clip.frames[0]).resize((size, size), Image.Resampling.BICUBIC))
        state = renderer.encode(portrait, seen[0], poses[0], box)
        out, timer, found = torch.empty((size, size, 3), dtype=torch.uint8), StageTimer(torch.device("cpu")), []
        for i in range(120):
            timer.start()
            renderer.drive(state, seen[i % len(seen)], poses[i % len(seen)], out=out, timer=timer)
            found.append(list(timer.finish().values()))
        stages = np.array(found[20:])
        whole = np.quantile(stages.sum(axis=1), (0.2, 0.5, 0.8))
        parts = [f"{value:.2f}" for value in np.median(stages, axis=0)]
        lines.append([f"{size} x {size}", f"{whole[1]:.2f}", f"{whole[0]:.2f} - {whole[2]:.2f}", *parts])
    names = ["landmark-warp", "frame ms", "p20 - p80", "motion", "warp", "deliver"]
    return timing.table(lines, names)


def main() -> int:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer frames: a look, not a result")
    parser.add_argument("--videos", type=Path, default=VIDEOS, help="folder with the clips")
    parser.add_argument("--clips", nargs="+", default=CLIPS)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--sheets", type=Path, help="folder for contact sheets")
    options = parser.parse_args()
    if not options.videos.is_dir() or importlib.util.find_spec("mediapipe") is None:
        print(f"reenactment: no clips in {options.videos}, or no MediaPipe: nothing measured")
        return 0
    every = 24 if options.quick else 6
    track, rows, frames = tracker(), [], "no clip"
    for name in options.clips:
        clip = Clip(options.videos / f"{name}.mp4", every, track)
        methods = {m: METHODS[m](clip) for m in options.methods}
        rows += [row(name, m, measure(clip, render, track)) for m, render in methods.items()]
        if options.sheets:
            sheet(clip, methods, options.sheets / f"{name}.png")
        frames = times(clip)
    notes = [(__doc__ or "").split("\n\n", 2)[2].strip(), f"Every {every}th frame.", frames]
    print(timing.table(rows, COLUMNS), frames, sep="\n\n")
    complete = list(options.methods) == list(METHODS) and list(options.clips) == list(CLIPS) and not options.quick
    if complete:
        title = "Self-reenactment of real clips (known numbers in brackets)"
        payload = {"title": title, "columns": COLUMNS, "rows": rows, "notes": notes}
        print(f"wrote {timing.write('reenactment', payload)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
