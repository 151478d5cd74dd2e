"""One output against what it should show: pixels, what is tracked in it again, what networks of the user's say."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastreenact.evaluation import metrics
from fastreenact.evaluation.clips import Faces, Keypoints, Picture
from fastreenact.evaluation.learned import Learned
from fastreenact.evaluation.metrics import Mask
from fastreenact.evaluation.report import Row
from fastreenact.face.morphable.fit import Fit
from fastreenact.face.motion import Motion

PIXELS = ("psnr_db", "psnr_face_db", "ssim", "ssim_face")
TRACKED = ("akd_px", "ard_deg", "geodesic_deg", "expression_percent")
ACROSS = TRACKED[1:]  # what can be said without a true image
_MOST_DB = 60.0  # a frame counts at most so much, so that equal pictures (inf) do not swallow the mean


class Truth(NamedTuple):
    """What an output should show."""

    picture: Picture | None  # [S, S, 3]; None: nobody knows, as in cross-reenactment of real people
    mask: Mask | None  # [S, S] the face in it
    keypoints: Keypoints | None  # [72, 2] px, where the output is driven to; None: where it is tracked
    points: Keypoints | None  # [72, 2] px, tracked in `picture`; None: not known
    shape: NDArray[np.float32] | None  # [50] with which the output is fitted
    motion: Motion | Fit | None  # the pose and expression wanted; None: not tracked


class Sample(NamedTuple):
    """One output, measured."""

    values: dict[str, float]  # NaN: could not be measured
    lost: bool = False  # the output shows no face
    features: NDArray[np.float64] | None = None  # [2048] of Inception-v3


class Judge:
    """Measures outputs of one size."""

    def __init__(self, faces: Faces | None, learned: Learned):
        """
        Args:
            faces: tracks and fits; None: only pictures are compared.
            learned: networks of the user's; may be empty.
        """
        self.faces, self.learned = faces, learned

    def sample(self, got: Picture, truth: Truth, identity: NDArray[np.float64] | None) -> Sample:
        """Everything that can be said of an output.

        Args:
            got: uint8 [S, S, 3].
            truth: of the same size.
            identity: [512] the portrait's, as `Learned.identity` gives it; None: not compared.
        """
        values: dict[str, float] = {}
        if truth.picture is not None:
            values = pixels(got, truth.picture, truth.mask) | self.learned.compare(got, truth.picture)
        found = None if self.faces is None else self.faces(got)
        values |= self.tracked(found, truth)
        if identity is not None:
            values["csim"] = self.learned.likeness(got, found if truth.keypoints is None else truth.keypoints, identity)
        return Sample(values, found is None and truth.motion is not None, self.learned.features(got))

    def tracked(self, found: Keypoints | None, truth: Truth) -> dict[str, float]:
        """TRACKED, or ACROSS without a true image, of keypoints; nothing without a tracker, NaN for a lost face."""
        if self.faces is None:
            return {}
        values = dict.fromkeys(ACROSS if truth.picture is None else TRACKED, float("nan"))
        if found is None or truth.motion is None or truth.shape is None:
            return values
        got = self.faces.fit(found, truth.shape)
        if truth.points is not None:
            values["akd_px"] = metrics.akd_px(found, truth.points)
        return values | {
            "ard_deg": metrics.ard_deg(got.pose, truth.motion.pose),
            "geodesic_deg": metrics.geodesic_deg(got.pose, truth.motion.pose),
            "expression_percent": metrics.expression_distance(
                self.faces.model, got.expression, truth.motion.expression
            ),
        }


def pixels(got: Picture, true: Picture, mask: Mask | None) -> dict[str, float]:
    """PIXELS: at most 60 dB each."""
    return {
        "psnr_db": min(_MOST_DB, metrics.psnr(got, true)),
        "psnr_face_db": min(_MOST_DB, metrics.psnr(got, true, mask)),
        "ssim": metrics.ssim(got, true),
        "ssim_face": metrics.ssim(got, true, mask),
    }


def row(names: Sequence[str | None], samples: Sequence[Sample], wanted: Sequence[Any] = ()) -> Row:
    """Means over the outputs that could be measured.

    Args:
        names: test, clip, portrait, method and part of the row.
        samples: at least one.
        wanted: [2048] each, Inception's features of the true pictures; none: no FID.
    """
    means: dict[str, float | None] = {}
    for name in samples[0].values:
        known = [s.values[name] for s in samples if not np.isnan(s.values[name])]
        means[name] = float(np.mean(known)) if known else None
    features = [s.features for s in samples if s.features is not None]
    if len(features) > 1 and len(wanted) > 1:
        means["fid"] = metrics.frechet(np.stack(features), np.stack(list(wanted)))
    test, clip, portrait, method, part = names
    lost = sum(s.lost for s in samples) if "ard_deg" in samples[0].values else None
    return Row(str(test), str(clip), portrait, str(method), str(part), len(samples), lost, means)
