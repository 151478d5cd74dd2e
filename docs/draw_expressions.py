"""Draw docs/expressions.png: every expression of the built-in face model, from the front and turned by 50 degrees.

    python docs/draw_expressions.py [output.png]

Grey is the face at rest, coloured the expression at full strength, in the colours of the landmark images. mouthClose is
drawn on an open jaw, because closing the lips over it is what it means.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from fastreenact.face.keypoints import PARTS
from fastreenact.face.morphable.model import EXPRESSION_NAMES, default_model

CELL, COLUMNS, ZOOM = 170, 6, 3  # px of one view, expressions in a row, oversampling
FRONT, TURNED = (0.0, 0.0, 0.0), (0.0, np.deg2rad(50.0), 0.0)
COLOURS = {
    "left_eyebrow": (0, 0, 255),
    "right_eyebrow": (0, 160, 0),
    "left_eye": (255, 0, 0),
    "right_eye": (200, 170, 0),
    "nose_bridge": (255, 0, 255),
    "nostrils": (255, 0, 255),
    "outer_lips": (0, 150, 170),
    "inner_lips": (0, 150, 170),
    "contour": (90, 90, 90),
}
GREY = (205, 205, 205)


def strokes() -> list[tuple[str, tuple[int, ...]]]:
    """The polylines of a face with their names."""
    lines = {name: points for name, points in PARTS.items() if "contour" not in name}
    for name in ("left_eye", "right_eye", "outer_lips", "inner_lips"):
        lines[name] = (*lines[name], lines[name][0])
    lines["contour"] = PARTS["left_contour"] + PARTS["right_contour"][::-1]
    return list(lines.items())


def draw(canvas: ImageDraw.ImageDraw, corner: tuple[int, int], points: np.ndarray, colour: tuple | None) -> None:
    """One face in the cell whose top left is `corner`; points [72, 2] in -1..1."""
    px = (points + 1) / 2 * CELL * ZOOM + np.array(corner) * ZOOM
    for name, line in strokes():
        width = ZOOM if colour else ZOOM * 3 // 2
        canvas.line([tuple(px[k]) for k in line], fill=colour or COLOURS[name], width=width)


def pair(canvas: ImageDraw.ImageDraw, corner: tuple[int, int], title: str, expression: np.ndarray) -> None:
    """Front and turned view of one expression, side by side."""
    model, rest = default_model(), np.zeros(len(EXPRESSION_NAMES))
    for i, turn in enumerate((FRONT, TURNED)):
        pose = np.array((*turn, 0.0 if i == 0 else -0.45, -0.13, 0.72))
        place = (corner[0] + i * CELL, corner[1])
        for coefficients, colour in ((rest, GREY), (expression, None)):
            draw(canvas, place, model.project(np.zeros(50), coefficients, pose), colour)
    canvas.text((corner[0] * ZOOM + 12, corner[1] * ZOOM + 8), title, fill=(0, 0, 0), font_size=13 * ZOOM)


def main() -> None:
    """Write the picture."""
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("expressions.png")
    rows = -(-len(EXPRESSION_NAMES) // COLUMNS)
    picture = Image.new("RGB", (COLUMNS * 2 * CELL * ZOOM, rows * CELL * ZOOM), (255, 255, 255))
    canvas = ImageDraw.Draw(picture)
    for k, name in enumerate(EXPRESSION_NAMES):
        one = np.zeros(len(EXPRESSION_NAMES))
        one[k] = 1.0
        if name == "mouthClose":
            one[EXPRESSION_NAMES.index("jawOpen")] = 1.0
        pair(canvas, (k % COLUMNS * 2 * CELL, k // COLUMNS * CELL), name, one)
    small = picture.resize((picture.width // ZOOM, picture.height // ZOOM), Image.Resampling.BOX)
    small.quantize(64).save(out, optimize=True)


if __name__ == "__main__":
    main()
