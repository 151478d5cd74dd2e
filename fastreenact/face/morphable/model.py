"""The morphable face model at the 72 keypoints: a mean face, identity modes, expression modes, a camera.

x = mean + shape . shape_basis + expression . expression_basis, seen in weak perspective, with one exception that lets
an expression be anybody's: a blink closes the eyes that it finds, however wide they are.
"""

import functools
import os
import zipfile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastreenact.errors import WeightsError
from fastreenact.face.keypoints import COUNT, MIRROR
from fastreenact.face.morphable.expressions import EXPRESSION_NAMES, LID_MEET, expression_modes
from fastreenact.face.morphable.shape_modes import IDENTITY_MODES, identity_modes
from fastreenact.rotation import rotation_matrix

__all__ = ["EXPRESSION_NAMES", "MIRROR", "MorphableModel", "default_model"]

# The mean face: image-left half and midline; the other half is its mirror image. Unit: half the width of the face; x
# right, y up, z towards the viewer, the origin between the ears, about which a head turns. Measured by us: MediaPipe
# face mesh 0.10.21 on calm frames of four clips and on eleven pictures (painted and photographed), mapped to the
# keypoints, aligned in 3-D, averaged, made symmetric, lips closed. Depth is the tracker's; structure from motion on the
# one clip that turns far enough (yaw -22 to 17 degrees) gives the same depths times 1.03.
_MEAN_LEFT: dict[int, tuple[float, float, float]] = {
    0: (-0.999, 0.363, -0.003), 1: (-1.001, 0.110, -0.007), 2: (-0.984, -0.098, -0.025),
    3: (-0.931, -0.364, 0.088), 4: (-0.845, -0.620, 0.123), 5: (-0.689, -0.838, 0.313),
    6: (-0.498, -1.050, 0.416), 7: (-0.286, -1.175, 0.587), 8: (0.000, -1.230, 0.664),
    17: (-0.754, 0.653, 0.711), 18: (-0.661, 0.693, 0.791), 19: (-0.500, 0.709, 0.883),
    20: (-0.358, 0.698, 0.936), 21: (-0.204, 0.680, 0.969), 27: (0.000, 0.444, 0.948),
    28: (0.000, 0.279, 1.043), 29: (0.000, 0.104, 1.173), 30: (0.000, -0.100, 1.266),
    31: (-0.217, -0.246, 0.941), 32: (-0.120, -0.270, 0.985), 33: (0.000, -0.286, 1.008),
    36: (-0.641, 0.394, 0.623), 37: (-0.571, 0.431, 0.705), 38: (-0.475, 0.453, 0.742),
    39: (-0.363, 0.441, 0.738), 40: (-0.261, 0.375, 0.705), 41: (-0.345, 0.357, 0.723),
    42: (-0.448, 0.345, 0.724), 43: (-0.546, 0.353, 0.689), 52: (-0.354, -0.609, 0.723),
    53: (-0.078, -0.495, 0.992), 54: (-0.237, -0.536, 0.903), 55: (-0.326, -0.607, 0.749),
    56: (-0.175, -0.599, 0.860), 62: (0.000, -0.509, 1.001), 63: (0.000, -0.606, 0.911),
    67: (-0.191, -0.609, 0.847), 68: (-0.234, -0.702, 0.853), 69: (-0.128, -0.745, 0.900),
    70: (0.000, -0.618, 0.908), 71: (0.000, -0.761, 0.914),
}  # fmt: skip

Array = NDArray[np.float32]

# Points of the lids that meet, image left then right, and the expression that closes each pair.
UPPER_LIDS, LOWER_LIDS = np.array([37, 38, 39, 45, 46, 47]), np.array([43, 42, 41, 51, 50, 49])
LID_BLINK = np.array([EXPRESSION_NAMES.index(f"eyeBlink{side}") for side in ("Right", "Left")]).repeat(3)


# The lips across the mouth: inner edges that meet, then for each lip point how far it gives way at each of the three.
_UPPER_INNER, _LOWER_INNER = np.array([56, 63, 61]), np.array([67, 70, 64])
_UPPER_LIP, _LOWER_LIP = np.array([54, 53, 62, 58, 59, 56, 63, 61]), np.array([68, 69, 71, 66, 65, 67, 70, 64])
_GIVE = np.array([[0.7, 0.5, 0, 0, 0, 1, 0, 0], [0, 0.5, 1, 0.5, 0, 0, 1, 0], [0, 0, 0, 0.5, 0.7, 0, 0, 1]], np.float32)


def close_lids(coordinates: NDArray[Any], closing: NDArray[Any]) -> NDArray[Any]:
    """Bring the lids together, in place: a share `closing` of the way between them.

    Args:
        coordinates: [..., 72] of points, or of anything linear in them.
        closing: [..., 6] at most 1, for each pair of lid points.

    Returns:
        [..., 6] how far apart the lids were.
    """
    gap = coordinates[..., UPPER_LIDS] - coordinates[..., LOWER_LIDS]
    moved = closing * gap
    coordinates[..., UPPER_LIDS] += (LID_MEET - 1.0) * moved
    coordinates[..., LOWER_LIDS] += LID_MEET * moved
    return gap


def _mean_face() -> NDArray[np.float64]:
    mean = np.zeros((COUNT, 3))
    for point, (x, y, z) in _MEAN_LEFT.items():
        mean[MIRROR[point]] = (-x, y, z)
        mean[point] = (x, y, z)
    return mean


class MorphableModel:
    """A linear face model at the 72 keypoints.

    Attributes:
        mean: [72, 3] float32; x right, y up, z towards the viewer.
        shape_basis: [50, 72, 3] float32; a coefficient of 1 is about one standard deviation.
        expression_basis: [51, 72, 3] float32, in the order of EXPRESSION_NAMES; 1 is the full expression.
        linear_basis: expression_basis without what the blinks do to the lids, which depends on the eye.
        mirror: [72] the keypoint on the other side of the face.
    """

    mirror = MIRROR

    def __init__(self, mean: Any, shape_basis: Any, expression_basis: Any):
        """Args as the attributes; any float dtype.

        Raises:
            ValueError: a shape that is not as above, or values that are not finite.
        """
        self.mean: Array = _checked("mean", mean, (COUNT, 3))
        self.shape_basis: Array = _checked("shape_basis", shape_basis, (IDENTITY_MODES, COUNT, 3))
        self.expression_basis: Array = _checked("expression_basis", expression_basis, (len(EXPRESSION_NAMES), COUNT, 3))
        self._flat_shape = self.shape_basis.reshape(IDENTITY_MODES, -1)
        self.linear_basis = self.expression_basis.copy()
        for lids in (UPPER_LIDS, LOWER_LIDS):
            self.linear_basis[LID_BLINK, lids] = 0.0
        self._flat_expression = self.linear_basis.reshape(len(EXPRESSION_NAMES), -1)

    def points(self, shape: Any, expression: Any, *, lips_meet: bool = False) -> Array:
        """The face in the head's own frame.

        mean + shape . shape_basis + expression . linear_basis, then the lids closed by the share of the blinks

        Args:
            shape: [..., 50] float.
            expression: [..., 51] float; leading dimensions broadcast. A blink above 1 counts as 1.
            lips_meet: lips that would cross give way to each other. For an expression taken from somebody else, who may
                close a mouth that is closed already; fits are of the linear model.

        Returns:
            [..., 72, 3] float32.

        Raises:
            ValueError: another length of `shape` or `expression`.
        """
        s = _last("shape", shape, IDENTITY_MODES) @ self._flat_shape
        coefficients = _last("expression", expression, len(EXPRESSION_NAMES))
        moved = s + coefficients @ self._flat_expression
        points = moved.reshape(*moved.shape[:-1], COUNT, 3) + self.mean
        close_lids(np.swapaxes(points, -1, -2), np.minimum(coefficients[..., None, LID_BLINK], 1.0))
        if lips_meet:
            crossed = np.minimum(points[..., _UPPER_INNER, 1] - points[..., _LOWER_INNER, 1], 0.0)
            points[..., _UPPER_LIP, 1] -= crossed / 2.0 @ _GIVE
            points[..., _LOWER_LIP, 1] += crossed / 2.0 @ _GIVE
        return points

    def project(self, shape: Any, expression: Any, pose: Any, *, lips_meet: bool = False) -> Array:
        """The face as the camera sees it (weak perspective).

        u = scale (R X)_x + tx, v = -scale (R X)_y + ty, R = Rodrigues(rx, ry, rz)

        Args:
            shape: [..., 50] float.
            expression: [..., 51] float.
            pose: [..., 6] float: rx, ry, rz in rad, tx, ty, scale in normalised units of the box.
            lips_meet: as in `points`.

        Returns:
            [..., 72, 2] float32, x right, y down, -1 and 1 at the edges of the box.

        Raises:
            ValueError: another length of an argument.
        """
        camera = _last("pose", pose, 6)
        seen = (rotation_matrix(camera[..., :3])[..., :2, :] * [[1.0], [-1.0]]).astype(np.float32)
        turned = self.points(shape, expression, lips_meet=lips_meet) @ np.swapaxes(seen, -1, -2)
        return np.asarray(turned * camera[..., None, 5:6] + camera[..., None, 3:5], np.float32)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the three tables to an .npz that `load` reads."""
        with open(path, "wb") as file:
            np.savez(file, mean=self.mean, shape_basis=self.shape_basis, expression_basis=self.expression_basis)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "MorphableModel":
        """Another model (FLAME, BFM, ...) sliced to the keypoints, from an .npz; nothing is unpickled.

        Args:
            path: .npz with float arrays mean [72, 3], shape_basis [50, 72, 3], expression_basis [51, 72, 3] in the axes
                of the attributes, in any unit. Fewer modes are padded with zeros by whoever writes the file.

        Raises:
            FileNotFoundError: no such file.
            WeightsError: not such an .npz; the message says what is wrong with it.
        """
        names = ("mean", "shape_basis", "expression_basis")
        try:
            archive = np.load(path, allow_pickle=False)
        except (ValueError, EOFError, zipfile.BadZipFile) as error:
            raise WeightsError(f"{os.fspath(path)}: not an .npz ({error}); write one with numpy.savez") from error
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise WeightsError(f"{os.fspath(path)}: a single array, need an .npz with {', '.join(names)}")
        with archive:
            missing = [name for name in names if name not in archive.files]
            if missing:
                raise WeightsError(f"{os.fspath(path)}: lacks {', '.join(missing)}; need {', '.join(names)}")
            try:
                return cls(*(archive[name] for name in names))
            except (ValueError, zipfile.BadZipFile) as error:
                raise WeightsError(f"{os.fspath(path)}: {error}") from error


@functools.cache
def default_model() -> MorphableModel:
    """The built-in model; the same object every time, its arrays read-only."""
    mean = _mean_face()
    model = MorphableModel(mean, identity_modes(mean), expression_modes(mean))
    for array in (model.mean, model.shape_basis, model.expression_basis, model.linear_basis):
        array.setflags(write=False)
    return model


def _checked(name: str, value: Any, shape: tuple[int, ...]) -> Array:
    array = np.asarray(value)
    if array.dtype.kind != "f":
        raise ValueError(f"{name}: got dtype {array.dtype}, need a float array")
    if array.shape != shape:
        raise ValueError(f"{name}: got shape {array.shape}, need {shape}")
    array = np.ascontiguousarray(array, np.float32)
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: some values are NaN or infinite")
    return array


def _last(name: str, value: Any, length: int) -> Array:
    array = np.asarray(value, np.float32)
    if array.ndim == 0 or array.shape[-1] != length:
        raise ValueError(f"{name}: got shape {array.shape}, need [..., {length}]")
    return array
