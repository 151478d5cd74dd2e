"""Draw docs/heads.jpg: generated heads, 24 people and one person under eight motions.

python docs/draw_heads.py [output.jpg]
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from fastreenact.synth.heads.render import make_person, random_expression, random_pose, render

CELL, COLUMNS, ROWS = 160, 8, 3


def main() -> None:
    """Write the picture."""
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "heads.jpg"
    rng = np.random.default_rng(0)
    cells = []
    for seed in range(ROWS * COLUMNS):
        cells.append(render(make_person(seed), random_pose(rng, 0.7), random_expression(rng, 0.6), CELL, seed).image)
    for _ in range(COLUMNS):
        cells.append(render(make_person(108), random_pose(rng), random_expression(rng), CELL, 108).image)
    rows = [np.concatenate(cells[i : i + COLUMNS], axis=1) for i in range(0, len(cells), COLUMNS)]
    Image.fromarray(np.concatenate(rows)).save(out, quality=85)


if __name__ == "__main__":
    main()
