"""What an evaluation leaves behind: a Markdown table, the same as JSON, contact sheets."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastreenact.errors import MediaError
from fastreenact.media import write_image
from fastreenact.media.files import check_out, fit_name, shown, whole_file

_COLUMNS = {  # metric -> (heading, digits)
    "psnr_db": ("PSNR dB", 1),
    "psnr_face_db": ("PSNR face dB", 1),
    "ssim": ("SSIM", 3),
    "ssim_face": ("SSIM face", 3),
    "akd_px": ("AKD px", 2),
    "ard_deg": ("ARD °", 2),
    "geodesic_deg": ("geodesic °", 2),
    "expression_percent": ("expression %", 2),
    "levels": ("levels", 2),
    "levels_face": ("levels face", 2),
    "lpips": ("LPIPS", 3),
    "fid": ("FID", 1),
    "csim": ("CSIM", 3),
}
# The tests.
CLIPS, CROSS_CLIPS = "self-reenactment", "cross-reenactment"
SELF_HEADS, CROSS_HEADS = "generated heads, self-reenactment", "generated heads, cross-reenactment"
STEADY, SIZES = "steadiness", "sizes"
LARGEST = "largest motion"  # the part of a clip
_PARTS = {"all": "all frames", LARGEST: "the quarter of frames with the largest motion"}
_SHEET_COLUMNS = 8
_PROTOCOL = (
    "Absolute motion, no smoothing. PSNR and SSIM against the true frame, whole and in the face; AKD, ARD, geodesic "
    "angle and expression distance by tracking the output again, each picture by itself; lost: outputs without a face, "
    "left out of the tracked means. *True image, tracked again* is the tracker's noise: the true frame one pixel aside."
)
_NOTES = {  # test -> what stands under its heading
    SELF_HEADS: "Heads that no training has seen, driven by their own exact motions.",
    CROSS_HEADS: "The same portraits under somebody else's motions, with true images, since they can be drawn.",
    STEADY: "Levels of 255. Still driver: mean change from frame to frame, through fit, filter and retargeting, "
    "without and with noise of 0.3 px on the keypoints. Smooth motion: mean difference between the change from frame "
    "to frame and the true one.",
    SIZES: "Generated heads, their own motions; outputs and true images shrunk to the first size, compared there.",
}


@dataclass
class Row:
    """One method on one clip, or one portrait with a clip's motion, or on generated heads."""

    test: str  # what was done
    clip: str  # or heads, or a size
    portrait: str | None  # None: the clip's own
    method: str
    part: str  # of the frames: "all", "largest motion", ...
    frames: int
    lost: int | None  # frames in which the output shows no face; None: nobody looked
    metrics: dict[str, float | None]  # means; None: could not be measured


@dataclass
class Evaluation:
    """All that was found."""

    folder: Path
    size: int
    every: int
    model: str = ""
    rows: list[Row] = field(default_factory=list)
    faceless: dict[str, int] = field(default_factory=dict)  # clip -> true frames without a face, left out
    skipped: list[str] = field(default_factory=list)  # one line for each thing that could not be used
    sheets: list[Path] = field(default_factory=list)
    numbers: Sequence[Any] = ()  # `Number`s: what has to be reached

    @property
    def text(self) -> str:
        """The report as Markdown."""
        return markdown(self)


def check_folder(out: str | os.PathLike[str], sheets: Sequence[str], *, force: bool) -> Path:
    """The folder, made if need be.

    Raises:
        MediaError: it is a file, cannot be made, or holds one of the files to be written and `force` is False.
    """
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MediaError(f"{shown(folder)} cannot be used as a folder ({error.strerror or error})") from error
    for name in ("evaluation.md", "evaluation.json", *sheets):
        check_out(folder / name, force=force)
    return folder


def write(result: Evaluation, *, force: bool) -> None:
    """Write evaluation.md and evaluation.json into the folder.

    Raises:
        MediaError: a file exists and `force` is False, or cannot be written.
    """
    data = {
        "model": result.model,
        "size": result.size,
        "every": result.every,
        "rows": [vars(row) for row in result.rows],
        "numbers": [n._asdict() | {"reached": n.reached} for n in result.numbers],
        "frames_without_face": result.faceless,
        "skipped": result.skipped,
    }
    texts = {"evaluation.md": result.text, "evaluation.json": json.dumps(data, indent=1, allow_nan=False) + "\n"}
    for name, text in texts.items():
        try:
            with whole_file(result.folder / name, force=force) as part:
                part.write_text(text, encoding="utf-8")
        except OSError as error:
            raise MediaError(f"{name} cannot be written ({error.strerror or error})") from error


def markdown(result: Evaluation) -> str:
    """The report as Markdown."""
    text = [f"# Evaluation of {result.model} at {result.size} px", _PROTOCOL]
    if any(row.test == CLIPS for row in result.rows):
        text[1] += f" Of the clips, one frame in {result.every}."
    for test, part in dict.fromkeys((row.test, row.part) for row in result.rows):
        rows = [row for row in result.rows if (row.test, row.part) == (test, part)]
        first = rows[0] is next(row for row in result.rows if row.test == test)
        note = [_NOTES[test]] if first and test in _NOTES else []
        averaged = means(rows) if test in (CLIPS, CROSS_CLIPS) else []
        text += [f"## {test[0].upper()}{test[1:]}, {_PARTS.get(part, part)}", *note, table([*rows, *averaged])]
    if result.numbers:
        text += ["## What shipped weights have to reach", _numbers(result.numbers)]
    left_out = [f"{clip}: {count} frames without a face left out" for clip, count in result.faceless.items() if count]
    if left_out or result.skipped:
        text += ["## Left out", "\n".join(f"* {line}" for line in [*result.skipped, *left_out])]
    return "\n\n".join(text) + "\n"


def _numbers(numbers: Sequence[Any]) -> str:
    lines = ["| number | found | needed | reached |", "| --- | --- | --- | --- |"]
    for n in numbers:
        needed = f"{'at least' if n.least else 'at most'} {n.bound:.2f} {n.unit}".rstrip()
        lines.append(f"| {n.what} | {n.found:.2f} | {needed} | {'yes' if n.reached else 'no'} |".replace("\n", " "))
    return "\n".join(lines)


def means(rows: Sequence[Row]) -> list[Row]:
    """For each method the mean over the rows, each counting the same; none where every method has one row only."""
    methods = list(dict.fromkeys(row.method for row in rows))
    if len(rows) == len(methods):
        return []
    found = []
    for method in methods:
        mine = [row for row in rows if row.method == method]
        values: dict[str, float | None] = {}
        for name in mine[0].metrics:
            known = [value for value in (row.metrics[name] for row in mine) if value is not None]
            values[name] = float(np.mean(known)) if known else None
        frames, lost = sum(row.frames for row in mine), sum(row.lost or 0 for row in mine)
        found.append(Row(mine[0].test, "mean", None, method, mine[0].part, frames, lost, values))
    return found


def table(rows: Sequence[Row]) -> str:
    """Rows of one test as a Markdown table; columns are what any of them has."""
    names = [name for name in _COLUMNS if any(name in row.metrics for row in rows)]
    across, tracked = any(row.portrait is not None for row in rows), any(row.lost is not None for row in rows)
    heads = ["clip", *(["portrait"] if across else []), "method", *(_COLUMNS[n][0] for n in names)]
    heads.append("lost" if tracked else "frames")
    lines = [heads, ["---"] * len(heads)]
    for row in rows:
        cells = [row.clip, *([row.portrait or ""] if across else []), row.method]
        for name in names:
            value = row.metrics.get(name)
            cells.append("" if value is None else f"{value:.{_COLUMNS[name][1]}f}")
        cells.append(f"{row.lost or 0} of {row.frames}" if tracked else str(row.frames))
        lines.append([cell.replace("|", "\\|") for cell in cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def sheet_name(clip: str, portrait: str | None) -> str:
    """File name of the contact sheet of a clip, or of a portrait with a clip's motion."""
    return fit_name(clip if portrait is None else f"{clip}--{portrait}", ".png")


def sheet_places(count: int) -> list[int]:
    """Which of `count` frames a contact sheet shows: at most 8, evenly taken."""
    places = np.linspace(0, count - 1, min(count, _SHEET_COLUMNS)).round().astype(int)
    return [int(place) for place in np.unique(places)]


def sheet(rows: dict[str, list[NDArray[np.uint8]]], path: Path, *, force: bool) -> Path:
    """Write a contact sheet: for each name a row of pictures.

    Args:
        rows: name -> uint8 [size, size, 3] each, the same number of them in every row.
        path: .png.
        force: overwrite.

    Returns:
        `path`.

    Raises:
        MediaError: the file exists and `force` is False, or cannot be written.
    """
    from PIL import Image, ImageDraw

    picture = Image.fromarray(np.concatenate([np.concatenate(row, axis=1) for row in rows.values()]))
    draw, height = ImageDraw.Draw(picture), picture.height // len(rows)
    for place, name in enumerate(rows):
        label = (4, place * height + 4)
        draw.text(label, name, fill=(255, 255, 0), stroke_width=1, stroke_fill=(0, 0, 0))
    write_image(path, np.asarray(picture), force=force)
    return path
