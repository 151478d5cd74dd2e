"""What weights have to reach before they ship with the package, and whether they do."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from fastreenact.evaluation.heads import BASELINE, UNCHANGED, USUAL
from fastreenact.evaluation.report import CLIPS, CROSS_HEADS, LARGEST, SELF_HEADS, SIZES, STEADY, Row
from fastreenact.evaluation.steady import SMOOTH

_HEADS_DB = {SELF_HEADS: 26.0, CROSS_HEADS: 24.0}  # PSNR in the face
_HEADS_MORE_DB = 3.0  # than the landmark warp
_SSIM_LESS = 0.02  # than the better of both baselines
_LARGEST_MORE_DB = 1.5
_AKD_MORE_PX = 0.2
_ARD_DEG = 3.5
_SIZE_LESS_DB = 1.5  # than at the first size
_STILL_LEVELS = 0.5

Metrics = Mapping[str, float | None]


class Number(NamedTuple):
    """One of them."""

    what: str
    unit: str
    found: float
    bound: float
    least: bool  # the bound is the least that will do; False: the most

    @property
    def reached(self) -> bool:
        """Whether it will do."""
        return self.found >= self.bound if self.least else self.found <= self.bound


def numbers(rows: Sequence[Row], model: str) -> list[Number]:
    """All that can be judged from the rows of a learned model; none for the landmark warp, which is the bar.

    Args:
        rows: of an evaluation.
        model: the method that is judged.
    """
    if model == BASELINE:
        return []
    known = {(row.test, row.clip, row.part, row.method): row.metrics for row in rows if row.portrait is None}
    found: list[Number | None] = []
    first: Metrics | None = None  # of the first size
    size = ""
    for (test, clip, part, method), mine in known.items():
        if method != model:
            continue
        warp, still = (known.get((test, clip, part, name), {}) for name in (BASELINE, UNCHANGED))
        if test in _HEADS_DB and part == USUAL:
            found += _heads(test, mine, warp)
        elif test == CLIPS:
            found += _clip(f"{clip}, {part}", part, mine, warp, still)
        elif test == SIZES:
            if first is None:
                first, size = mine, clip
                continue
            bound = _plus(first["psnr_face_db"], -_SIZE_LESS_DB)
            found.append(_least(f"{clip}: face, {size} - {_SIZE_LESS_DB:g}", "dB", mine["psnr_face_db"], bound))
        elif test == STEADY and clip == SMOOTH:
            # In the face: around it the landmark warp bends the background, which is no bar.
            found.append(
                _most(
                    f"{clip}: flicker in the face, landmark-warp",
                    "levels",
                    mine["levels_face"],
                    warp.get("levels_face"),
                )
            )
        elif test == STEADY:
            found.append(_most(f"{clip}: mean change", "levels", mine["levels"], _STILL_LEVELS))
    return [number for number in found if number is not None]


def _heads(test: str, mine: Metrics, warp: Metrics) -> list[Number | None]:
    face = mine["psnr_face_db"]
    return [
        _least(f"{test}: face", "dB", face, _HEADS_DB[test]),
        _least(
            f"{test}: face, landmark-warp + {_HEADS_MORE_DB:g}",
            "dB",
            face,
            _plus(warp.get("psnr_face_db"), _HEADS_MORE_DB),
        ),
    ]


def _clip(where: str, part: str, mine: Metrics, warp: Metrics, still: Metrics) -> list[Number | None]:
    face = mine["psnr_face_db"]
    if part == LARGEST:
        bound = _plus(warp.get("psnr_face_db"), _LARGEST_MORE_DB)
        return [_least(f"{where}: face, landmark-warp + {_LARGEST_MORE_DB:g}", "dB", face, bound)]
    best = {
        name: max((m[name] or 0.0 for m in (warp, still) if name in m), default=None)
        for name in ("psnr_face_db", "ssim")
    }
    return [
        _least(f"{where}: face, better baseline", "dB", face, best["psnr_face_db"]),
        _least(f"{where}: SSIM, better baseline - {_SSIM_LESS:g}", "", mine["ssim"], _plus(best["ssim"], -_SSIM_LESS)),
        _most(
            f"{where}: AKD, landmark-warp + {_AKD_MORE_PX:g}",
            "px",
            mine.get("akd_px"),
            _plus(warp.get("akd_px"), _AKD_MORE_PX),
        ),
        _most(f"{where}: ARD", "°", mine.get("ard_deg"), _ARD_DEG),
    ]


def _least(what: str, unit: str, found: float | None, bound: float | None) -> Number | None:
    return None if found is None or bound is None else Number(what, unit, found, bound, True)


def _most(what: str, unit: str, found: float | None, bound: float | None) -> Number | None:
    return None if found is None or bound is None else Number(what, unit, found, bound, False)


def _plus(value: float | None, more: float) -> float | None:
    return None if value is None else value + more
