"""fit_face: pose and expression of the face model on one frame's keypoints, by Gauss-Newton."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastreenact import _C
from fastreenact.rotation import rotation_matrix

Array = NDArray[np.float64]

POINTS, MODES = 72, 51  # kFacePoints, kFaceModes of csrc/fit_face.h


class FaceTerms(NamedTuple):
    """What a fit minimises; arrays are float64 and contiguous."""

    modes: Array  # [51, 3, 72] the expressions, without what the blinks do to the lids
    trust: Array  # [72] weight of each keypoint
    stiffness: Array  # [51] of the priors on the expressions
    lids: NDArray[np.int32]  # [3, 6] upper lid, lower lid, the expression that closes the pair
    meet: float  # where lids meet: share of the opening above the lower one
    noise: float  # of the keypoints at scale 1
    outlier: float  # distances beyond so many times the noise count linearly (Huber)
    slack: float  # prior deviation of what a coefficient is outside of 0 to 1
    least_doubt: float  # share of the priors that is left when the modes draw a face exactly
    enough: float  # a step that moves no unknown further (rad, coefficients) is the last


def fit_face(
    terms: FaceTerms, base: Array, target: Array, rotation: Array, camera: Array, expression: Array, steps: int
) -> Array:
    """Fit one frame from a start; float64 arrays, contiguous.

    Args:
        terms: what is minimised.
        base: [3, 72] the face at rest, x right, y up, z towards the viewer.
        target: [2, 72] keypoints, y down.
        rotation: [3, 3], camera: [3] tx, ty, scale, expression: [51]; in: the start, out: what was found.
        steps: at most.

    Returns:
        [2, 72] keypoints less the model's.

    Raises:
        TypeError: an array of another type or shape, or that is not contiguous.
    """
    residual = np.empty((2, POINTS))
    _C.fit_face(
        **terms._asdict(),
        base=base,
        target=target,
        rotation=rotation,
        camera=camera,
        expression=expression,
        steps=steps,
        residual=residual,
    )
    return residual


def fit_face_reference(
    terms: FaceTerms, base: Array, target: Array, rotation: Array, camera: Array, expression: Array, steps: int
) -> Array:
    """What `fit_face` means, in NumPy."""
    frames = Frames(terms, target[None], rotation[None], camera[None].copy(), expression[None])
    for _ in range(steps):
        normal = frames.normal(*frames.residuals(base))
        step = limited(np.linalg.solve(normal.curvature, normal.force[..., None])[..., 0].astype(np.float64))
        frames.advance(step)
        if np.abs(step).max() < terms.enough:
            break
    rotation[:], camera[:], expression[:] = frames.rotation[0], frames.camera[0], frames.expression[0]
    return frames.residuals(base)[1][0]


class Normal(NamedTuple):
    """Normal equations of the unknowns of each frame."""

    curvature: Array  # [T, 57, 57]
    force: Array  # [T, 57] downhill
    weighted: Array  # [T, 57, 144] the Jacobian times the weights
    weight: Array  # [T, 1, 72] of the keypoints
    doubt: float  # share of the prior that holds


class Frames:
    """The unknowns of T frames and the linearisation around them."""

    def __init__(self, terms: FaceTerms, target: Array, rotation: Array, camera: Array, expression: Array):
        self.terms = terms
        self.target = target  # [T, 2, 72]
        self.rotation = rotation  # [T, 3, 3]
        self.camera = camera  # [T, 3] tx, ty, scale
        self.expression = expression  # [T, 51]
        self.jacobian = np.zeros((len(target), 6 + MODES, 2, POINTS))
        self.jacobian[:, 3, 0] = self.jacobian[:, 4, 1] = 1.0

    def residuals(self, base: Array) -> tuple[Array, Array]:
        """Turned points [T, 3, 72] and target minus projection [T, 2, 72]; base [3, 72] is the face at rest."""
        points = base + (self.expression @ self.terms.modes.reshape(MODES, -1)).reshape(-1, 3, POINTS)
        self.lid_gap = self.close_lids(points)  # [T, 3, 6]
        turned = self.rotation @ points
        scale = self.camera[:, 2, None]
        residual = self.target - self.camera[:, :2, None]
        residual[:, 0] -= scale * turned[:, 0]
        residual[:, 1] += scale * turned[:, 1]
        return turned, residual

    def close_lids(self, coordinates: Array) -> Array:
        """Bring the lids of points [T, .., 72], or of anything linear in them, together as far as the expressions do,
        in place; not only up to where they meet, where the slope would end. Gives how far apart they were."""
        upper, lower, blink = self.terms.lids
        closing = self.expression[:, blink].reshape(len(coordinates), *[1] * (coordinates.ndim - 2), -1)
        gap: Array = coordinates[..., upper] - coordinates[..., lower]
        coordinates[..., upper] += (self.terms.meet - 1.0) * (closing * gap)
        coordinates[..., lower] += self.terms.meet * (closing * gap)
        return gap

    def view(self) -> Array:
        """Scaled projection [T, 2, 3]: what a displacement of a point does to its image."""
        view = self.rotation[:, :2] * self.camera[:, 2, None, None]
        view[:, 1] *= -1.0
        return view

    def linearise(self, turned: Array) -> Array:
        """d projection / d (turn 3, move 2, log scale, expression 51), [T, 57, 2, 72]."""
        j, scaled = self.jacobian, self.camera[:, 2, None, None] * turned
        j[:, 0, 1] = scaled[:, 2]
        j[:, 1, 0] = scaled[:, 2]
        j[:, 2, 0], j[:, 2, 1] = -scaled[:, 1], -scaled[:, 0]
        j[:, 5, 0], j[:, 5, 1] = scaled[:, 0], -scaled[:, 1]
        moved = self.view() @ self.terms.modes.transpose(1, 0, 2).reshape(3, -1)  # [T, 2, 51 * 72]
        j[:, 6:] = moved.reshape(-1, 2, MODES, POINTS).transpose(0, 2, 1, 3)
        self.close_lids(j[:, 6:])
        upper, lower, blink = self.terms.lids
        gap = (self.view() @ self.lid_gap).swapaxes(1, 2)  # [T, 6, 2]
        j[:, 6 + blink, :, upper] += ((self.terms.meet - 1.0) * gap).swapaxes(0, 1)
        j[:, 6 + blink, :, lower] += (self.terms.meet * gap).swapaxes(0, 1)
        return j

    def advance(self, step: Array) -> None:
        """Apply a step [T, 57]."""
        self.rotation = rotation_matrix(step[:, :3]) @ self.rotation
        self.camera = self.camera + np.pad(step[:, 3:5], ((0, 0), (0, 1)))
        self.camera[:, 2] *= np.exp(np.clip(step[:, 5], -0.7, 0.7))
        self.expression = self.expression + step[:, 6:]

    def weights(self, residual: Array) -> Array:
        """Weight of each keypoint in the sum of squares, [T, 1, 72]: its trust, the noise, and Huber's for outliers."""
        terms, sigma = self.terms, self.terms.noise * self.camera[:, 2, None]
        distance = np.sqrt(residual[:, 0] ** 2 + residual[:, 1] ** 2) / sigma
        return (terms.trust / sigma**2 * np.minimum(1.0, terms.outlier / np.maximum(distance, 1e-9)))[:, None]

    def normal(self, turned: Array, residual: Array) -> Normal:
        """The normal equations of data and prior, around here."""
        terms, count = self.terms, len(residual)
        jacobian, weight = self.linearise(turned), self.weights(residual)
        weighted = (jacobian * weight[:, None]).reshape(count, 6 + MODES, -1)
        curvature = weighted @ jacobian.reshape(count, 6 + MODES, -1).swapaxes(1, 2)
        force = (weighted @ residual.reshape(count, -1, 1))[..., 0]
        # Mean square of the distances in units of the noise. Far below 1 the modes draw this face, and the data decide.
        doubt = min(1.0, max(terms.least_doubt, 4.0 * float((weight * residual**2).mean())))
        e = self.expression
        inside = np.clip(e, 0.0, 1.0)
        force[:, 6:] += (inside - e) / terms.slack**2 - doubt * terms.stiffness * e
        diagonal = np.arange(6, 6 + MODES)
        curvature[:, diagonal, diagonal] += (e != inside) / terms.slack**2 + doubt * terms.stiffness
        return Normal(curvature, force, weighted, weight, doubt)


def limited(step: Array) -> Array:
    """The step [T, 57] shortened where it turns by more than 0.5 rad or moves a coefficient by more than 1."""
    largest = np.maximum(np.abs(step[:, :3]).max(axis=1) / 0.5, np.abs(step[:, 6:]).max(axis=1))
    return step / np.maximum(1.0, largest)[:, None]
