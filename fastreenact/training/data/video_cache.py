"""One tracked video in one safetensors file: its frames as JPEG, what is known of each, and which video it was."""

import io
import json
import os
import tempfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from fastreenact.errors import MediaError
from fastreenact.face.morphable.model import default_model
from fastreenact.training.data.video_shots import LEAST_FRAMES, Shot

FORMAT = "fastreenact-video-1"
_POINTS = {"pose": (6,), "keypoints": (72, 2), "tracked": (72, 2)}  # [T, ...] float32; crc [T], end [T], jpeg [bytes]


class Contents(NamedTuple):
    """What an entry says of itself."""

    shots: list[int]  # frames of each; none: the video cannot be used
    left_out: str  # what of the video is not in it, and why


class Stored(NamedTuple):
    """One frame."""

    image: NDArray[np.uint8]  # [S, S, 3]
    pose: NDArray[np.float32]  # [6]
    keypoints: NDArray[np.float32]  # [72, 2] the fitted model's
    tracked: NDArray[np.float32]  # [72, 2] as the tracker sees them


def identity(name: str, path: Path, size: int) -> str:
    """What makes an entry that of a video: its name, size and time, the size of the pictures, the face model.

    Raises:
        OSError: the video is gone.
    """
    model, known = default_model(), path.stat()
    tables = (model.mean, model.shape_basis, model.expression_basis)
    fitted_with = zlib.crc32(b"".join(table.tobytes() for table in tables))
    return json.dumps([name, known.st_size, known.st_mtime_ns, size, fitted_with])


def read_contents(entry: Path, of: str) -> Contents | None:
    """What an entry holds; None where it is missing, damaged or not that of `identity`."""
    try:
        with safe_open(entry, framework="numpy") as file:
            metadata = file.metadata() or {}
            frames = file.get_slice("pose").get_shape()[0]
        if metadata["format"] != FORMAT or metadata["of"] != of:
            return None
        shots = json.loads(metadata["shots"])
        if sum(shots) != frames or any(count < LEAST_FRAMES for count in shots):
            return None
        return Contents(shots, metadata["left_out"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError):
        return None


def write_entry(entry: Path, of: str, shots: list[Shot], left_out: str) -> None:
    """Write an entry, whole or not at all, also when several processes do so at once.

    Raises:
        MediaError: it cannot be written.
    """
    jpegs = [jpeg for shot in shots for jpeg in shot.jpegs]
    tensors: dict[str, NDArray[Any]] = {
        name: np.concatenate([np.zeros((0, *tail), np.float32), *(getattr(shot, name) for shot in shots)])
        for name, tail in _POINTS.items()
    }
    rows = zip(jpegs, *(tensors[name] for name in _POINTS), strict=True)
    tensors["crc"] = np.array([_check(jpeg, *known) for jpeg, *known in rows], np.uint32)
    tensors["end"] = np.cumsum([len(jpeg) for jpeg in jpegs], dtype=np.int64)
    tensors["jpeg"] = np.frombuffer(b"".join(jpegs), np.uint8)
    counts = json.dumps([len(shot.jpegs) for shot in shots])
    data = save(tensors, {"format": FORMAT, "of": of, "shots": counts, "left_out": left_out})
    part = None
    try:
        with tempfile.NamedTemporaryFile(dir=entry.parent, suffix=".part", delete=False) as file:
            part = Path(file.name)
            file.write(data)
        os.replace(part, entry)
    except BaseException as error:
        if part is not None:
            part.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise MediaError(
            f"{entry.parent} cannot be written ({error.strerror or error}): make room, or name another folder for the "
            "cache"
        ) from error


def read_frames(entry: Path, frames: list[int]) -> list[Stored]:
    """Some frames of an entry.

    Raises:
        OSError, ValueError, SafetensorError: it is gone or damaged.
    """
    with safe_open(entry, framework="numpy") as file:
        ends, checks = file.get_tensor("end"), file.get_tensor("crc")
        jpegs, points = file.get_slice("jpeg"), [file.get_slice(name) for name in _POINTS]
        stored = []
        for frame in frames:
            start, end = int(ends[frame - 1]) if frame else 0, int(ends[frame])
            if not 0 <= start < end <= jpegs.get_shape()[0]:
                raise ValueError(f"frame {frame} is nowhere")
            jpeg = jpegs[start:end].tobytes()
            known = [table[frame : frame + 1][0] for table in points]
            if _check(jpeg, *known) != checks[frame]:
                raise ValueError(f"frame {frame} is not what was written")
            with Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as picture:
                stored.append(Stored(np.array(picture), *known))
    return stored


def _check(jpeg: bytes, *known: NDArray[np.float32]) -> int:
    """Checksum of a frame."""
    check = zlib.crc32(jpeg)
    for values in known:
        check = zlib.crc32(values.tobytes(), check)
    return check
