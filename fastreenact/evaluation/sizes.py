"""The same model at other sizes than its own: does it hold together?"""

import numpy as np

from fastreenact.evaluation.clips import Picture, Progress
from fastreenact.evaluation.heads import USUAL, Methods, encoded, head_case
from fastreenact.evaluation.judge import Sample, pixels, row
from fastreenact.evaluation.report import SELF_HEADS, SIZES, Row
from fastreenact.face.crop import Box, crop
from fastreenact.models.protocol import MOST_SIZE
from fastreenact.synth.heads.render import render

_SCALES = (1, 2, 4, 5.625)  # 256, 512, 1024 and 1440


def sizes_of(size: int) -> list[int]:
    """1, 2, 4 and 5.625 times `size`, as far as the models go."""
    return [round(scale * size) for scale in _SCALES if scale * size <= MOST_SIZE]


def judge_sizes(heads: int, size: int, methods: Methods, progress: Progress | None = None) -> list[Row]:
    """Self-reenactment of generated heads at several sizes, everything shrunk to the first and compared there.

    Args:
        heads: over so many, with two motions each, is averaged.
        size: the smallest side, px.
        methods: what is measured, beside the source unchanged.
        progress: called as (stage, sizes done, sizes).

    Returns:
        A row for each size and method.
    """
    cases = [head_case(index, size) for index in range(heads)]
    rows, sides = [], sizes_of(size)
    for done, side in enumerate(sides, 1):
        renderers, samples = methods.at(side), dict[str, list[Sample]]()
        for case in cases:
            known = case.source
            source = render(case.person, known.pose, known.expression, side, case.shot)
            driven = encoded(renderers, source)
            for target in case.targets:
                if (target.test, target.part) != (SELF_HEADS, USUAL):
                    continue
                true = render(case.person, target.true.pose, target.true.expression, side, case.shot)
                wanted = _shrunk(true.image, size)
                for name, drive in driven.items():
                    got = _shrunk(drive(true.keypoints, true.pose), size)
                    samples.setdefault(name, []).append(Sample(pixels(got, wanted, target.true.mask)))
        rows += [row((SIZES, f"{side} px", None, name, "all"), found) for name, found in samples.items()]
        if progress is not None:
            progress("sizes", done, len(sides))
    return rows


def _shrunk(picture: Picture, size: int) -> Picture:
    """A square picture at `size` px."""
    side = len(picture)
    return picture if side == size else np.ascontiguousarray(crop(picture, Box.whole(side), size))
