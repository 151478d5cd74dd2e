"""Fill docs/weights.md: evaluate the weights that ship, and draw how they were trained.

    python docs/write_weights.py CLIP... --runs RUN... [--heads 48] [--every 6]

CLIP: videos that no training has seen. RUN: folders of `fastreenact train`, in the order in which they were made.
Writes the tables between the marks in docs/weights.md, and docs/weights-heads.jpg and docs/weights-curves.png.
"""

import argparse
import json
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from fastreenact.evaluation.activations import Excess, clip_draw, known_ranges, leave_ranges
from fastreenact.evaluation.clips import Faces, read_clip
from fastreenact.evaluation.report import Evaluation
from fastreenact.evaluation.run import evaluate
from fastreenact.face.track.tracker import Tracker
from fastreenact.models import shipped_weights
from fastreenact.models.refined_warp.weights import load_refined_warp
from fastreenact.training.data.heads import HeadPairs

DOCS = Path(__file__).resolve().parent
DRAWS = 64  # of generated heads, four pairs each: what training saw
LAYERS = 3  # that are named
CURVES = {"reconstruction": (200, 60, 40), "warp": (40, 110, 200)}
WIDTH, HEIGHT, MARGIN = 900, 260, 44
SMOOTH = 100  # steps


def activations(clips: list[Path], every: int) -> str:
    """How far activations on the clips, and on other heads, leave what 256 pairs of generated heads have."""
    model = load_refined_warp(shipped_weights())
    size = int(model.metadata["size"])
    known = known_ranges(model, (HeadPairs(size).draw(np.random.default_rng((1, i))) for i in range(DRAWS)))
    lines = ["| pictures | layers outside | values outside | furthest |", "| --- | --- | --- | --- |"]

    def row(name: str, found: list[Excess]) -> str:
        outside = [layer for layer in found if layer.furthest > 0]
        worst = ", ".join(f"{layer.layer} {100 * layer.furthest:.0f} %" for layer in outside[:LAYERS])
        share = 1e6 * max((layer.share for layer in found), default=0.0)
        return f"| {name} | {len(outside)} of {len(found)} | at most {share:.0f} in a million | {worst or 'none'} |"

    with Tracker() as tracker:
        faces = Faces(tracker, 256)
        for clip in clips:
            read = read_clip(clip, clip.stem, faces, every)
            lines.append(row(clip.stem, leave_ranges(known, [clip_draw(read, faces, model)])))
    others = (HeadPairs(size, first=500_000).draw(np.random.default_rng((2, i))) for i in range(DRAWS // 4))
    lines.append(row(f"{DRAWS} pairs of other heads", leave_ranges(known, others)))
    return "\n".join(lines)


def curves(runs: Iterable[Path], out: Path) -> None:
    """Losses over the steps, a panel each, on a logarithmic scale; a line where a run ends."""
    found: dict[str, list[tuple[int, float]]] = {name: [] for name in CURVES}
    ends, start = [], 0
    for run in runs:
        step = 0
        for line in (run / "losses.jsonl").read_text(encoding="ascii").splitlines():
            values = json.loads(line)
            step = values["step"] + 1
            for name, curve in found.items():
                if name in values:
                    curve.append((start + step, values[name]))
        start += step
        ends.append(start)
    picture = Image.new("RGB", (WIDTH, HEIGHT * len(CURVES)), "white")
    draw = ImageDraw.Draw(picture)
    for place, (name, colour) in enumerate(CURVES.items()):
        top = place * HEIGHT
        steps, values = (np.array(column, float) for column in zip(*found[name], strict=True))
        count = min(SMOOTH, len(values))
        values = np.convolve(values, np.ones(count) / count, "valid")
        steps = steps[count - 1 :]
        low, high = np.log(values.min()) - 0.02, np.log(values.max()) + 0.02
        x = MARGIN + steps / start * (WIDTH - 2 * MARGIN)
        y = top + HEIGHT - MARGIN - (np.log(values) - low) / (high - low) * (HEIGHT - 2 * MARGIN)
        for end in ends[:-1]:
            at = MARGIN + end / start * (WIDTH - 2 * MARGIN)
            draw.line([(at, top + MARGIN), (at, top + HEIGHT - MARGIN)], fill=(200, 200, 200))
        draw.line(list(zip(x.tolist(), y.tolist(), strict=True)), fill=colour, width=2)
        draw.rectangle([MARGIN, top + MARGIN, WIDTH - MARGIN, top + HEIGHT - MARGIN], outline=(120, 120, 120))
        title = f"{name}, mean of {count} steps: {values[0]:.3g} to {values[-1]:.3g}"
        draw.text((MARGIN, top + 24), title, fill="black")
        draw.text((MARGIN, top + HEIGHT - MARGIN + 6), "0", fill="black")
        draw.text((WIDTH - MARGIN - 40, top + HEIGHT - MARGIN + 6), f"{start} steps", fill="black")
    picture.save(out, optimize=True)


def sheet(result: Evaluation, out: Path) -> None:
    """The contact sheets of generated heads, self above cross, at half their size."""
    pictures = [Image.open(path).convert("RGB") for path in result.sheets if path.name.startswith("heads-")]
    whole = Image.new("RGB", (max(p.width for p in pictures), sum(p.height for p in pictures)), "white")
    top = 0
    for picture in pictures:
        whole.paste(picture, (0, top))
        top += picture.height
    whole.resize((whole.width // 2, whole.height // 2), Image.Resampling.BOX).save(out, quality=85)


def fill(text: str, mark: str, content: str) -> str:
    """`text` with what stands between the marks replaced."""
    pattern = re.compile(rf"(<!-- {mark} -->\n).*?(<!-- /{mark} -->)", re.DOTALL)
    if not pattern.search(text):
        raise SystemExit(f"docs/weights.md has no marks {mark}")
    return pattern.sub(lambda m: f"{m[1]}\n{content}\n\n{m[2]}", text)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path, nargs="+")
    parser.add_argument("--runs", type=Path, nargs="+", required=True)
    parser.add_argument("--heads", type=int, default=48)
    parser.add_argument("--every", type=int, default=6)
    options = parser.parse_args()
    curves(options.runs, DOCS / "weights-curves.png")
    with tempfile.TemporaryDirectory() as folder:
        result = evaluate(options.clips, folder, heads=options.heads, every=options.every)
        sheet(result, DOCS / "weights-heads.jpg")
    report = result.text.split("\n\n", 1)[1].strip().replace("\n## ", "\n### ")  # without its title
    card = (DOCS / "weights.md").read_text(encoding="utf-8")
    card = fill(card, "tables", report)
    card = fill(card, "activations", activations(options.clips, options.every))
    (DOCS / "weights.md").write_text(card, encoding="utf-8")


if __name__ == "__main__":
    main()
