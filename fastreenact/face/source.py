"""The portrait's face: found in a single picture, and fitted once."""

import contextlib
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastreenact.errors import NoFaceError
from fastreenact.face.crop import Box, crop_box
from fastreenact.face.driver import Keypoints, are_landmarks
from fastreenact.face.keypoints import from_any
from fastreenact.face.morphable.fit import fit, fit_shape
from fastreenact.face.morphable.model import MorphableModel, default_model
from fastreenact.face.track.tracker import Landmarks, Tracker


class SourceFace(NamedTuple):
    """A portrait's face."""

    keypoints_px: Keypoints  # as tracked, px of the portrait
    box: Box  # around it, px
    shape: NDArray[np.float32]  # [50]
    expression: NDArray[np.float32]  # [51]
    pose: NDArray[np.float32]  # [6], normalised to the box
    keypoints: Keypoints  # [72, 2] the model's own, normalised to the box: where a driver at rest leaves them
    points: NDArray[np.float32]  # as the tracker gave them, px: [478, 3] from the built-in one

    @property
    def tracked(self) -> Keypoints:
        """[72, 2] the tracked keypoints, normalised to the box; off from `keypoints` by the error of the fit."""
        return self.box.normalise(self.keypoints_px)


def locate_face(picture: NDArray[np.uint8], tracker: Any = None, face: int | None = None) -> NDArray[np.float32]:
    """The landmarks of a face in a single picture.

    Args:
        picture: uint8 [H, W, 3] RGB.
        tracker: a `Tracker` (its `find` is used), your own with `find`, or a callable as for `Driver`; None makes one.
        face: which one, from 1, counted from the left; needs a tracker with `find_all`. None: the largest.

    Returns:
        float32 px as the tracker gives them: [478, 3] from the built-in one.

    Raises:
        NoFaceError: no face, or not so many, with what to do.
        ValueError: not such a picture, a face that is no number from 1, a tracker that finds one face only.
    """
    if face is not None and (not isinstance(face, int) or face < 1):
        raise ValueError(f"face: got {face!r}, need a number from 1 (counted from the left) or None (largest)")
    with contextlib.ExitStack() as stack:
        if tracker is None:
            tracker = stack.enter_context(Tracker())
        if face is None:
            found = getattr(tracker, "find", tracker)(picture)
        else:
            found = _one_of(tracker, picture, face)
    if found is None:
        raise NoFaceError(
            "no face found in the source picture; take one where the face looks towards the camera, is lit, not "
            "covered and not smaller than about a tenth of the picture (crop it if need be)"
        )
    return np.asarray(found.points, np.float32)


def _one_of(tracker: Any, picture: NDArray[np.uint8], face: int) -> Landmarks | None:
    """The face of that number, from the left; None if there is no face at all."""
    if not hasattr(tracker, "find_all"):
        raise ValueError(f"face: got {face}, but this tracker finds one face only (it has no find_all); leave face out")
    found: list[Landmarks] = tracker.find_all(picture)
    if 0 < len(found) < face:
        places = ", ".join("({:.0f}, {:.0f})".format(*one.points[:, :2].mean(axis=0)) for one in found)
        raise NoFaceError(
            f"face {face} was asked for, but only {len(found)} can be found in the source picture, from the left at "
            f"{places} px; give a number up to {len(found)}, or crop the picture to the face"
        )
    return found[face - 1] if found else None


def fit_source(
    source: Any, *, model: MorphableModel | None = None, tracker: Any = None, face: int | None = None
) -> SourceFace:
    """Find and fit a portrait's face.

    Args:
        source: uint8 [H, W, 3] RGB; or its landmarks, float [N, 2 or 3] px with N = 72, 68, 468 or 478.
        model: the face model; None is the built-in one.
        tracker, face: as `locate_face`.

    Returns:
        Its box, shape, expression, pose and keypoints.

    Raises:
        NoFaceError: no face, or not so many.
        ValueError: neither such a picture nor such landmarks; as `locate_face`.
    """
    model = model or default_model()
    points = np.asarray(source, np.float32) if are_landmarks(source) else locate_face(source, tracker, face)
    keypoints = from_any(points)
    box = crop_box(keypoints)
    seen = box.normalise(keypoints)
    shape = fit_shape(model, seen[None])
    result = fit(model, seen, shape, None)
    own = model.project(shape, result.expression, result.pose)
    return SourceFace(keypoints, box, shape, result.expression, result.pose, own, points)
