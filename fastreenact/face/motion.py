"""`Motion`, what a face does in one frame, and `MotionClip`, a motion template: many of them, saved as safetensors."""

import json
import math
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastreenact.errors import MediaError
from fastreenact.media.files import file_size, fit_name

POSE_SIZE, EXPRESSION_SIZE = 6, 51
FORMAT = "fastreenact-motion"
VERSION = "1"
_MAX_FRAMES = 4_000_000  # 37 hours at 30 fps, 0.9 GB: beyond it a file is damaged or hostile
_MAX_HEADER = 1 << 20  # bytes; ours is under 2 kB

# name in the file -> shape after the frame axis
_TENSORS: dict[str, tuple[str, tuple[int, ...]]] = {
    "pose": ("F32", (POSE_SIZE,)),
    "expression": ("F32", (EXPRESSION_SIZE,)),
    "time": ("F64", ()),
    "confidence": ("F32", ()),
}


@dataclass(frozen=True, slots=True)
class Motion:
    """What a face does in one frame.

    Raises:
        ValueError: a wrong shape, a value that is not finite, a scale <= 0, a confidence outside [0, 1].
    """

    pose: NDArray[np.float32]  # [6] rx, ry, rz (rotation vector, rad), tx, ty, scale (units of the box)
    expression: NDArray[np.float32]  # [51] coefficients in the order of EXPRESSION_NAMES
    time: float = 0.0  # s
    confidence: float = 1.0  # [0, 1]; 0 = no face in this frame

    def __post_init__(self) -> None:
        for name, size in (("pose", POSE_SIZE), ("expression", EXPRESSION_SIZE)):
            value = np.asarray(getattr(self, name), np.float32)
            if value.shape != (size,):
                raise ValueError(f"{name}: got shape {value.shape}, need [{size}]")
            if not math.isfinite(float(value.sum())):
                raise ValueError(f"{name}: some values are NaN or infinite; use Motion.missing() for no face")
            object.__setattr__(self, name, value)
        if self.pose[5] <= 0:
            raise ValueError(f"pose: scale (its sixth value) is {self.pose[5]:g}, need a positive number")
        if not math.isfinite(self.time):
            raise ValueError(f"time: got {self.time}, need seconds")
        if not 0 <= self.confidence <= 1:
            raise ValueError(f"confidence: got {self.confidence}, need 0 to 1")

    @property
    def found(self) -> bool:
        """Whether there was a face in the frame."""
        return self.confidence > 0

    @staticmethod
    def missing(time: float = 0.0) -> "Motion":
        """The motion of a frame without a face: zero pose at scale 1, confidence 0."""
        pose = np.zeros(POSE_SIZE, np.float32)
        pose[5] = 1
        return Motion(pose, np.zeros(EXPRESSION_SIZE, np.float32), time, 0.0)


@dataclass(frozen=True, slots=True)
class MotionClip:
    """A motion template: the motions of T frames, in the order of their times.

    Raises:
        ValueError: no frames, shapes that do not fit, a value that is not finite, times that do not rise.
    """

    pose: NDArray[np.float32]  # [T, 6]
    expression: NDArray[np.float32]  # [T, 51]
    time: NDArray[np.float64]  # [T] s, strictly rising
    confidence: NDArray[np.float32]  # [T], 0 = no face in that frame
    metadata: dict[str, str] = field(default_factory=dict)  # free text: fps, box, source, ...

    def __post_init__(self) -> None:
        for name, (kind, _) in _TENSORS.items():
            dtype = np.float32 if kind == "F32" else np.float64
            object.__setattr__(self, name, np.ascontiguousarray(getattr(self, name), dtype))
        frames = len(self.time) if self.time.ndim == 1 else 0
        if not 0 < frames <= _MAX_FRAMES:
            raise ValueError(f"time: got shape {self.time.shape}, need [T] with T from 1 to {_MAX_FRAMES}")
        for name, (_, tail) in _TENSORS.items():
            value = getattr(self, name)
            if value.shape != (frames, *tail):
                raise ValueError(f"{name}: got shape {value.shape}, need {[frames, *tail]}")
            if not np.isfinite(value).all():
                raise ValueError(f"{name}: some values are NaN or infinite")
        if (np.diff(self.time) <= 0).any():
            first = int(np.argmax(np.diff(self.time) <= 0))
            raise ValueError(f"time: frame {first + 1} is not after frame {first}; need strictly rising seconds")
        if (self.pose[:, 5] <= 0).any():
            raise ValueError("pose: scale (column 5) is not positive in every frame")
        if (self.confidence < 0).any() or (self.confidence > 1).any():
            raise ValueError("confidence: some values are outside 0 to 1")
        for key, text in self.metadata.items():
            if not isinstance(key, str) or not isinstance(text, str):
                raise ValueError(f"metadata: {key!r}: {text!r} is not text: text")

    def __len__(self) -> int:
        return len(self.time)

    def __getitem__(self, index: int) -> Motion:
        return Motion(self.pose[index], self.expression[index], float(self.time[index]), float(self.confidence[index]))

    def __iter__(self) -> Iterator[Motion]:
        return (self[i] for i in range(len(self)))

    @property
    def duration(self) -> float:
        """Seconds from the first frame to the end of the last, which lasts as long as the frames do on average."""
        span = float(self.time[-1] - self.time[0])
        return span * len(self) / (len(self) - 1) if len(self) > 1 else 0.0

    @staticmethod
    def from_motions(motions: Iterable[Motion], metadata: dict[str, str] | None = None) -> "MotionClip":
        """Join motions into a clip.

        Raises:
            ValueError: none, or times that do not rise.
        """
        kinds = [(name, np.float32 if kind == "F32" else np.float64, tail) for name, (kind, tail) in _TENSORS.items()]
        # one row of numbers a frame: a list of the motions themselves would be four times as large
        rows = np.fromiter(((m.pose, m.expression, m.time, m.confidence) for m in motions), np.dtype(kinds))
        if not len(rows):
            raise ValueError("motions: got none, need at least one frame")
        return MotionClip(**{name: rows[name] for name in _TENSORS}, metadata=dict(metadata or {}))

    def trim(self, start: float = 0.0, end: float | None = None) -> "MotionClip":
        """The frames with start <= time < end, with their times as they are.

        Args:
            start: s.
            end: s; None is the clip's end.

        Raises:
            ValueError: no frame lies in between.
        """
        keep = (self.time >= start) & (self.time < (math.inf if end is None else end))
        if not keep.any():
            raise ValueError(
                f"trim: no frame from {start:g} s to {'the end' if end is None else f'{end:g} s'}; "
                f"the clip runs from {self.time[0]:g} s to {self.time[-1]:g} s"
            )
        return MotionClip(
            self.pose[keep], self.expression[keep], self.time[keep], self.confidence[keep], dict(self.metadata)
        )

    def save(self, path: str | Path) -> None:
        """Write the clip as one safetensors file (replaced in one step, so never half written).

        Raises:
            MediaError: the file cannot be written.
        """
        from safetensors.numpy import save

        tensors = {name: getattr(self, name) for name in _TENSORS}
        data = save(tensors, metadata={**self.metadata, "format": FORMAT, "version": VERSION})
        path = Path(path)
        part = path.with_name(fit_name(path.name, ".part"))
        try:
            part.write_bytes(data)
            part.replace(path)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise MediaError(f"{path}: cannot write the motion template: {error.strerror}") from error

    @staticmethod
    def load(path: str | Path) -> "MotionClip":
        """Read a motion template; the header is checked before any number is read, and nothing is ever unpickled.

        Raises:
            MediaError: the file is missing, not a motion template, damaged, too large or of a newer version.
        """
        path = Path(path)
        metadata = _check_header(path)
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            tensors = load_file(path)
            return MotionClip(**{name: tensors[name] for name in _TENSORS}, metadata=metadata)
        except (SafetensorError, OSError, ValueError) as error:
            raise MediaError(f"{path}: this motion template is damaged ({error}); make it anew with `track`") from error


def _check_header(path: Path) -> dict[str, str]:
    """The metadata of a motion template whose header is in order."""
    try:
        size = file_size(path)
        with path.open("rb") as file:
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            raw = file.read(length) if 2 <= length <= min(_MAX_HEADER, size - 8) else b""
    except OSError as error:
        raise MediaError(f"{path}: cannot read the motion template: {error.strerror}") from error
    # The length of a safetensors header may begin with these bytes too; its text may not.
    if not raw.startswith(b"{") and (start[:1] == b"\x80" or start[:2] == b"PK"):
        raise MediaError(
            f"{path}: this is a pickle or a zip archive, which can run code when read, so it was not opened; "
            "make a motion template (.safetensors) from the driving video with `track`"
        )
    try:
        header = json.loads(raw)
        metadata = header.pop("__metadata__", {})
    except (ValueError, AttributeError, RecursionError):
        raise MediaError(f"{path}: not a safetensors file; need a motion template made with `track`") from None
    if not isinstance(metadata, dict) or metadata.pop("format", None) != FORMAT:
        raise MediaError(f"{path}: a safetensors file, but not a motion template; need one made with `track`")
    version = metadata.pop("version", None)
    if version != VERSION:
        raise MediaError(f"{path}: motion template of version {version}, this program reads {VERSION}; update it")
    _check_tensors(path, header)
    return metadata


def _check_tensors(path: Path, header: dict[str, Any]) -> None:
    """Names, types and shapes of the tensors, before one of them is read."""
    if set(header) != set(_TENSORS):
        raise MediaError(f"{path}: damaged motion template: has tensors {sorted(header)}, need {sorted(_TENSORS)}")
    frames = None
    for name, (kind, tail) in _TENSORS.items():
        entry = header[name]
        shape = entry.get("shape") if isinstance(entry, dict) else None
        if not isinstance(shape, list) or entry.get("dtype") != kind or tuple(shape[1:]) != tail or not shape:
            raise MediaError(f"{path}: damaged motion template: {name} is not {kind} {['T', *tail]}")
        frames = shape[0] if frames is None else frames
        if shape[0] != frames or not isinstance(frames, int) or not 0 < frames <= _MAX_FRAMES:
            raise MediaError(
                f"{path}: damaged motion template: {name} has {shape[0]} frames, need the same number "
                f"in each, 1 to {_MAX_FRAMES}"
            )
