"""Pose, expression and shape of the morphable model from 2-D keypoints.

Gauss-Newton on the keypoints' distances, with robust weights (outliers), weights per point (the tracker's outline
slides over the cheeks as the head turns) and priors on the coefficients. Expressions may leave 0..1, at a price.
"""

import functools
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from fastreenact.face.keypoints import COUNT
from fastreenact.face.morphable.expressions import EXPRESSION_NAMES, LID_MEET
from fastreenact.face.morphable.model import LID_BLINK, LOWER_LIDS, UPPER_LIDS, MorphableModel
from fastreenact.face.morphable.shape_modes import IDENTITY_MODES
from fastreenact.ops.fit_face import FaceTerms, Frames, fit_face, limited
from fastreenact.rotation import rotation_matrix, rotation_vector

Array = NDArray[np.float64]

MAX_SHAPE_FRAMES = 30  # a shape is fitted over at most so many frames, evenly taken

_E = len(EXPRESSION_NAMES)
_NOISE = 0.008  # of half the face's width: the tracker's noise and what the modes cannot draw
_OUTLIER = 4.0  # distances beyond so many times the noise count linearly (Huber)
_EXPRESSION_SIGMA = 0.5  # prior deviation of a coefficient
# Of those that hardly move the keypoints: they would take up what is left by going to extremes. And of those that close
# an eye: it is a blink first, because only that closes other people's eyes as far.
_OWN_SIGMA = {
    **dict.fromkeys(("eyeLookInLeft", "eyeLookOutLeft", "eyeLookInRight", "eyeLookOutRight"), 0.25),
    **dict.fromkeys(("jawForward", "cheekPuff", "eyeLookDownLeft", "eyeLookDownRight"), 0.25),
    **dict.fromkeys(("eyeSquintLeft", "eyeSquintRight", "cheekSquintLeft", "cheekSquintRight"), 0.35),
    **dict.fromkeys(("eyeBlinkLeft", "eyeBlinkRight"), 1.0),
}
_SLACK_SIGMA = 0.06  # prior deviation of what a coefficient is outside of 0..1
_LEAST_DOUBT = 0.003  # share of the priors that is left when the modes draw a face exactly
_STEPS, _STEPS_WARM, _STEPS_SHAPE = 12, 6, 14
_LOST = 0.05  # of half the face's width: a mean distance that says the start was of another face or scene
_ENOUGH = 2e-4  # a step that moves no parameter further (rad, coefficients) is the last


class Fit(NamedTuple):
    """What `fit` found."""

    pose: NDArray[np.float32]  # [6] rx, ry, rz (rad), tx, ty, scale (normalised units)
    expression: NDArray[np.float32]  # [51]
    error: float  # mean distance of model and keypoints, normalised units


class Start(Protocol):
    """Where a fit starts: a `Fit` or a `Motion`."""

    @property
    def pose(self) -> NDArray[np.float32]: ...

    @property
    def expression(self) -> NDArray[np.float32]: ...


def _point_weights() -> Array:
    """How far each keypoint is trusted, [72]."""
    weights = np.ones(COUNT)
    weights[:17] = 0.35
    weights[[0, 9, 1, 10]] = 0.25
    weights[36:72] = 1.3
    return weights


_WEIGHT = _point_weights()
_LIDS = np.stack((UPPER_LIDS, LOWER_LIDS, LID_BLINK)).astype(np.int32)
_STIFFNESS = np.array([_OWN_SIGMA.get(name, _EXPRESSION_SIGMA) ** -2 for name in EXPRESSION_NAMES])


class _Tables:
    """A model's tables, laid out for the solver."""

    def __init__(self, model: MorphableModel):
        self.mean = model.mean.astype(np.float64).T.copy()  # [3, 72]
        self.half_width = float(np.ptp(self.mean[0])) / 2.0
        self.shape = model.shape_basis.astype(np.float64).transpose(2, 0, 1).reshape(3, -1)  # [3, 50 * 72]
        self.shape_rows = model.shape_basis.astype(np.float64).transpose(0, 2, 1).reshape(IDENTITY_MODES, -1)
        self.terms = FaceTerms(
            model.linear_basis.astype(np.float64).transpose(0, 2, 1).copy(),
            _WEIGHT,
            _STIFFNESS,
            _LIDS,
            LID_MEET,
            _NOISE * self.half_width,
            _OUTLIER,
            _SLACK_SIGMA,
            _LEAST_DOUBT,
            _ENOUGH,
        )


@functools.lru_cache(maxsize=8)
def _tables(model: MorphableModel) -> _Tables:
    return _Tables(model)


def _start_pose(base: Array, keypoints: Array) -> tuple[Array, Array]:
    """Rotations [T, 3, 3] and cameras [T, 3] of the linear fit of a rigid face base [3, 72] to keypoints [T, 72, 2]."""
    weight = np.where(np.arange(COUNT) < 17, 0.3, 1.0) / COUNT
    weight = weight / weight.sum()
    centre, seen = base @ weight, np.einsum("tkd,k->td", keypoints, weight)
    centred = (base - centre[:, None]) * weight  # [3, 72]
    spread = centred @ (base - centre[:, None]).T
    affine = np.einsum("tkd,ck->tdc", keypoints, centred) @ np.linalg.inv(spread)
    affine[:, 1] *= -1.0  # y up
    u, s, v = np.linalg.svd(affine, full_matrices=False)
    rows = u @ v
    scale = np.maximum(s.mean(axis=1), 1e-6)
    rotation = np.concatenate([rows, np.cross(rows[:, 0], rows[:, 1])[:, None]], axis=1)
    shift = seen - scale[:, None] * (rows @ centre) * [1.0, -1.0]
    return rotation, np.concatenate([shift, scale[:, None]], axis=1)


def fit(model: MorphableModel, keypoints: Any, shape: Any, start: Start | None = None) -> Fit:
    """Pose and expression that bring the model onto the keypoints of one frame.

    min over pose, expression of sum_k w_k rho(|project(shape, expression, pose)_k - keypoints_k|) + priors

    Args:
        model: the face model.
        keypoints: [72, 2] float, x right, y down, normalised (-1 and 1 at the edges of the box).
        shape: [50] float, the person's shape (`fit_shape`).
        start: the fit or motion of the frame before, if any: fewer steps from there.

    Returns:
        Fit: pose, expression, mean distance in normalised units.

    Raises:
        ValueError: another shape of an argument, numbers that are not finite, or keypoints without extent.
    """
    points, tables = _keypoints(keypoints, (COUNT, 2)), _tables(model)
    base = tables.mean + (_vector("shape", shape, IDENTITY_MODES) @ tables.shape_rows).reshape(3, COUNT)
    if start is not None:
        pose, expression = _vector("start.pose", start.pose, 6), _vector("start.expression", start.expression, _E)
        if pose[5] > 0.0:
            warm = _settle(tables, base, points, rotation_matrix(pose[:3]), pose[3:], expression, _STEPS_WARM)
            if warm.error < _LOST * tables.half_width * warm.pose[5]:
                return warm
    (rotation,), (camera,) = _start_pose(base, points[None])
    return _settle(tables, base, points, rotation, camera, np.zeros(_E), _STEPS)


def _settle(
    tables: _Tables, base: Array, keypoints: Array, rotation: Array, camera: Array, expression: Array, steps: int
) -> Fit:
    """Fit one frame [72, 2] from a start."""
    target, rotation, camera, expression = (
        np.array(value, np.float64, order="C") for value in (keypoints.T, rotation, camera, expression)
    )
    base = np.ascontiguousarray(base)
    return _found(
        rotation, camera, expression, fit_face(tables.terms, base, target, rotation, camera, expression, steps)
    )


def _found(rotation: Array, camera: Array, expression: Array, residual: Array) -> Fit:
    pose = np.concatenate([rotation_vector(rotation), camera])
    error = float(np.hypot(residual[0], residual[1]).mean())
    return Fit(pose.astype(np.float32), expression.astype(np.float32), error)


def fit_shape(model: MorphableModel, keypoints: Any) -> NDArray[np.float32]:
    """The one shape that, with pose and expression of their own, brings the model onto all frames of a person.

    Args:
        model: the face model.
        keypoints: [T, 72, 2] float, T >= 1, normalised; of more than 30 frames, 30 evenly taken ones are used.

    Returns:
        [50] float32.

    Raises:
        ValueError: another shape, no frame, coordinates that are not finite, or a frame without extent.
    """
    points = _keypoints(keypoints, (None, COUNT, 2))
    if len(points) > MAX_SHAPE_FRAMES:
        points = points[np.linspace(0, len(points) - 1, MAX_SHAPE_FRAMES).round().astype(int)]
    tables, count = _tables(model), len(points)
    shape = np.zeros(IDENTITY_MODES)
    frames = Frames(tables.terms, points.transpose(0, 2, 1), *_start_pose(tables.mean, points), np.zeros((count, _E)))
    for _ in range(_STEPS_SHAPE):
        base = tables.mean + (shape @ tables.shape_rows).reshape(3, COUNT)
        turned, residual = frames.residuals(base)
        normal = frames.normal(turned, residual)
        moved = (frames.view() @ tables.shape).reshape(count, 2, IDENTITY_MODES, COUNT).swapaxes(1, 2)
        frames.close_lids(moved)
        heavy = (moved * normal.weight[:, None]).reshape(count, IDENTITY_MODES, -1)
        jacobian = moved.reshape(count, IDENTITY_MODES, -1).swapaxes(1, 2)
        cross = normal.weighted @ jacobian  # [T, 57, 50]
        # Each frame's own unknowns are eliminated (Schur complement), which leaves 50 equations for the shape.
        solved = np.linalg.solve(normal.curvature, np.concatenate([cross, normal.force[..., None]], axis=2))
        own = heavy @ np.concatenate([jacobian, residual.reshape(count, -1, 1)], axis=2)
        system = (own - cross.swapaxes(1, 2) @ solved).sum(axis=0)
        # What the modes cannot draw is the same in all frames: together they say no more than one would.
        system[:, :-1] += np.eye(IDENTITY_MODES) * count * normal.doubt
        system[:, -1] -= shape * count * normal.doubt
        shape_step = np.linalg.solve(system[:, :-1], system[:, -1])
        shape_step /= max(1.0, float(np.abs(shape_step).max()) / 2.0)
        shape = shape + shape_step
        step = limited(solved[..., -1] - solved[..., :-1] @ shape_step)
        frames.advance(step)
        if max(np.abs(step).max(), np.abs(shape_step).max()) < _ENOUGH:
            break
    return shape.astype(np.float32)


def _keypoints(value: Any, shape: tuple[int | None, ...]) -> Array:
    points = np.asarray(value, np.float64)
    wanted = ", ".join("T" if n is None else str(n) for n in shape)
    if points.ndim != len(shape) or any(n not in (None, m) for n, m in zip(shape, points.shape, strict=True)):
        raise ValueError(f"keypoints: got shape {points.shape}, need [{wanted}] in normalised coordinates")
    if not points.size:
        raise ValueError("keypoints: no frame to fit")
    if not np.isfinite(points).all():
        raise ValueError("keypoints: some coordinates are NaN or infinite; leave frames without a face out")
    if (np.ptp(points, axis=-2) < 1e-6).any():
        raise ValueError("keypoints: all points of a frame coincide or lie on a line; that is no face")
    return points


def _vector(name: str, value: Any, length: int) -> Array:
    vector = np.asarray(value, np.float64)
    if vector.shape != (length,) or not np.isfinite(vector).all():
        raise ValueError(f"{name}: got shape {vector.shape}, need [{length}] finite numbers")
    return vector
