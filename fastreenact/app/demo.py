"""The demo: a public-domain photograph moved by the motion template that ships with the package."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fastreenact.face.crop import Box, crop
from fastreenact.face.morphable.expressions import EXPRESSION_NAMES
from fastreenact.face.motion import MotionClip

if TYPE_CHECKING:
    from fastreenact.engine import Engine

TEMPLATE = Path(__file__).parents[1] / "data" / "demo.safetensors"
FPS = 25
SECONDS = 4.2

# Times (s) of the frames on the contact sheet, and what is asked of the face there.
SHEET = (
    (0.0, "at rest"),
    (0.60, "turn"),
    (1.10, "and back"),
    (1.65, "nod"),
    (2.05, "look up"),
    (2.60, "smile"),
    (2.90, "blink"),
    (3.25, "talk: ah"),
    (3.47, "talk: oo"),
    (3.70, "talk: ah"),
)


def _pulse(t: np.ndarray, start: float, peak: float, end: float) -> np.ndarray:
    """0 outside (start, end), 1 at peak, with a smooth rise and fall (raised cosine); times in seconds."""
    rise = 0.5 - 0.5 * np.cos(np.pi * np.clip((t - start) / (peak - start), 0, 1))
    fall = 0.5 + 0.5 * np.cos(np.pi * np.clip((t - peak) / (end - peak), 0, 1))
    return rise * fall


def _hold(t: np.ndarray, start: float, full: float, release: float, end: float) -> np.ndarray:
    """Like `_pulse`, at 1 from full to release."""
    return np.minimum(_pulse(t, start, full, 1e9), _pulse(t, -1e9, release, end))


def build_template() -> MotionClip:
    """The motion template of the demo: turn, nod, smile, blink, talk; ends where it begins, so that it loops.

    Returns:
        A clip of `SECONDS` at `FPS`: pose [T, 6] about a frontal head of the usual size, expression [T, 51].
    """
    t = np.arange(round(SECONDS * FPS)) / FPS
    pose = np.zeros((len(t), 6), np.float32)
    pose[:, 1] = 0.38 * _pulse(t, 0.15, 0.60, 0.95) - 0.38 * _pulse(t, 0.75, 1.10, 1.50)
    pose[:, 0] = 0.20 * _pulse(t, 1.35, 1.65, 1.85) - 0.13 * _pulse(t, 1.75, 2.05, 2.35)
    pose[:, 2] = 0.06 * _pulse(t, 2.2, 2.7, 3.1) - 0.05 * _pulse(t, 2.9, 3.5, 4.1)
    pose[:, 0] += 0.04 * np.sin(2 * np.pi * 2.2 * t) * _hold(t, 3.0, 3.2, 3.8, 4.1)
    pose[:, 5] = 1.0
    expression = np.zeros((len(t), len(EXPRESSION_NAMES)), np.float32)

    def move(names: str, weight: np.ndarray) -> None:
        for name in names.split():
            expression[:, EXPRESSION_NAMES.index(name)] += weight.astype(np.float32)

    blink = _pulse(t, 0.62, 0.72, 0.86) + _pulse(t, 1.82, 1.92, 2.06) + _pulse(t, 2.74, 2.90, 3.06)
    move("eyeBlinkLeft eyeBlinkRight", blink)
    smile = _hold(t, 2.10, 2.45, 2.80, 3.15)
    move("mouthSmileLeft mouthSmileRight", 0.85 * smile)
    move("cheekSquintLeft cheekSquintRight eyeSquintLeft eyeSquintRight", 0.35 * smile)
    brows = 0.45 * _pulse(t, 1.75, 2.10, 2.45) + 0.3 * _pulse(t, 3.05, 3.3, 3.6)
    move("browInnerUp browOuterUpLeft browOuterUpRight", brows)
    # Four syllables: open, rounded, open, closed.
    jaw = 0.55 * _pulse(t, 3.08, 3.25, 3.40) + 0.30 * _pulse(t, 3.33, 3.47, 3.58) + 0.60 * _pulse(t, 3.54, 3.70, 3.88)
    move("jawOpen", jaw)
    move("mouthFunnel", 0.65 * _pulse(t, 3.33, 3.47, 3.60))
    move("mouthPucker", 0.35 * _pulse(t, 3.33, 3.47, 3.60))
    move("mouthStretchLeft mouthStretchRight", 0.35 * _pulse(t, 3.80, 3.92, 4.08))
    move("mouthLowerDownLeft mouthLowerDownRight", 0.25 * _pulse(t, 3.54, 3.70, 3.88))
    return MotionClip(pose=pose, expression=expression, time=t, confidence=np.ones(len(t), np.float32))


def load_template() -> MotionClip:
    """The template as it ships."""
    return MotionClip.load(TEMPLATE)


def portrait() -> np.ndarray:
    """uint8 [512, 512, 3]: NASA's portrait of Eileen Collins, public domain, from the installed scikit-image."""
    try:
        from skimage import data
    except ImportError as error:
        raise ImportError("the demo's photograph comes with scikit-image; run `pip install scikit-image`") from error
    picture: np.ndarray = data.astronaut()
    return picture


def run(folder: str | Path = ".", *, force: bool = True) -> tuple[Path, Path]:
    """Write demo.mp4 and the contact sheet demo.png into `folder`, and give their paths."""
    from fastreenact.engine import Engine
    from fastreenact.media import write_image

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    video, sheet = folder / "demo.mp4", folder / "demo.png"
    clip = load_template()
    with Engine(portrait()) as engine:
        engine.animate(TEMPLATE, video, force=force)
        engine.reset()
        write_image(sheet, contact_sheet(engine, clip), force=force)
    return video, sheet


def contact_sheet(engine: "Engine", clip: MotionClip, columns: int = 5, side: int = 280) -> np.ndarray:
    """The head in the frames of `SHEET`, in rows, each with its time and what is asked of it; uint8 [H, W, 3]."""
    from PIL import Image, ImageDraw

    label = 20
    sheet = Image.new("RGB", (columns * side, -(-len(SHEET) // columns) * (side + label)), "white")
    draw = ImageDraw.Draw(sheet)
    place = {int(np.abs(clip.time - t).argmin()): k for k, (t, _) in enumerate(SHEET)}
    height, width = engine.output_size
    size = min(1.3 * engine.face_box.size, height, width)
    cx, cy, _ = engine.face_box
    head = Box(float(np.clip(cx, size / 2, width - size / 2)), float(np.clip(cy, size / 2, height - size / 2)), size)
    engine.use_reference(clip[0])
    for i in range(len(clip)):
        frame = engine.step(clip[i])
        if i in place:
            x, y = place[i] % columns * side, place[i] // columns * (side + label)
            sheet.paste(Image.fromarray(crop(frame, head, side)), (x, y + label))
            draw.text((x + 6, y + 4), f"{SHEET[place[i]][0]:.2f} s  {SHEET[place[i]][1]}", fill="black")
    engine.use_reference(None)
    return np.asarray(sheet)


def main(folder: str | Path = ".") -> int:
    """`fastreenact demo`: write both files and say where they are."""
    video, sheet = run(folder)
    sys.stdout.write(f"{video}: the demo's portrait, animated\n{sheet}: its contact sheet\n")
    return 0
