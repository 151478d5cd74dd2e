"""Any folder of videos as training data: tracked once, then read from a cache."""

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError

from fastreenact.errors import FastreenactError, MediaError
from fastreenact.face.track.tracker import Tracker
from fastreenact.media.files import fit_name
from fastreenact.models.face2face_rho.head_pose import head_pose_input
from fastreenact.training.data.batches import Draw, Frame, broken_summary, checked_size
from fastreenact.training.data.face_mask import face_mask
from fastreenact.training.data.video_cache import Contents, Stored, identity, read_contents, read_frames, write_entry
from fastreenact.training.data.video_shots import LEAST_FRAMES, read_shots

CACHE = "fastreenact-cache"
SUFFIXES = (
    ".3gp",
    ".avi",
    ".flv",
    ".m2ts",
    ".m4v",
    ".mkv",
    ".mov",
    ".mp4",
    ".mpeg",
    ".mpg",
    ".mts",
    ".ogv",
    ".ts",
    ".webm",
    ".wmv",
)
_PER_VIDEO = 60  # draws of each video in what counts as one pass, as of each person elsewhere
_DRIVERS = LEAST_FRAMES - 1  # of a draw, at most
_DRAWS = 100  # damaged entries in a row before the cache counts as unusable

Progress = Callable[[str, int, int | None], None]


class _Video(NamedTuple):
    name: str
    entry: Path
    ends: NDArray[np.intp]  # of the shots, in frames


class VideoFolder:
    """Videos of any people as `fastreenact.training.data.batches.Dataset`.

    At the first start every video in the folder and below it is tracked and divided into shots: stretches without a
    cut in which one face stays in the box that the engine would cut around its first look. Each shot has a face shape
    of its own, for the next may show somebody else. A draw is frames of one shot.

    Keypoints are those that the engine would have with the source frame as portrait: the source's as tracked; a
    driver's are the face model's under the driver's motion, plus what the source's are off from the model's.

    The cache has one file a video, with the frames cut out as JPEG: ten a second, 1500 at most. At 256 px a frame takes
    about 16 kB, a minute of video 10 MB, a video 25 MB at most; at 512 px three times that. A video that changed
    (name, size, time) and a file that is damaged are done anew. Between runs the cache may be deleted.

    Attributes:
        size: S, side of the pictures, px.
        metadata: the convention of the head poses: "official" as in the other data sets, so that a network can be
            trained with several at once.
        broken: video, by its path in the folder -> what of it was skipped, and why.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        size: int = 256,
        *,
        cache: str | os.PathLike[str] | None = None,
        tracker: Any = None,
        progress: Progress | None = None,
    ):
        """Track what is not in the cache. May be interrupted: the next start goes on with the video that was not done.

        Args:
            root: the folder.
            size: S, 64 to 2048.
            cache: a folder, made where there is none; None: `fastreenact-cache` in `root`.
            tracker: a `Tracker`, or a callable that gives `Landmarks` or None; None makes a `Tracker`.
            progress: called as ("video 3/20", frames read, frames in all or None) while videos are tracked.

        Raises:
            MediaError: no folder, no video in it that can be used, or the cache cannot be written.
            FastreenactError: MediaPipe is missing. ValueError: a size out of range.
        """
        self.size = checked_size(size)
        self.metadata: Mapping[str, str] = {"head_pose": "official"}
        self.broken: dict[str, str] = {}
        self._lock = threading.Lock()
        self._gone: set[str] = set()  # names of the videos whose entry was found damaged
        self._root = Path(root)
        paths = self._paths()
        self._cache = _folder(self._root / CACHE if cache is None else Path(cache))
        with contextlib.ExitStack() as stack:
            if tracker is None:
                tracker = stack.enter_context(Tracker())  # loads nothing before its first frame
            made = [
                self._video(path, tracker, progress and partial(progress, f"video {number}/{len(paths)}"))
                for number, path in enumerate(paths, 1)
            ]
        self._videos = [video for video in made if video is not None]
        if not self._videos:
            raise MediaError(
                f"{self._root}: no video in it can be used ({broken_summary(self)}); give clips of a second or more in "
                f"which a face with hair and neck is at least {size // 2} px large"
            )

    def __len__(self) -> int:
        """60 draws a video."""
        return _PER_VIDEO * len(self._videos)

    def draw(self, rng: np.random.Generator) -> Draw:
        """A random frame of a random video as source, one to four others of its shot as drivers.

        Raises:
            FastreenactError: a hundred draws in a row met damaged files of the cache.
        """
        for _ in range(_DRAWS):
            video = self._videos[rng.integers(len(self._videos))]
            source = int(rng.integers(video.ends[-1]))
            shot = int(np.searchsorted(video.ends, source, side="right"))
            start = int(video.ends[shot - 1]) if shot else 0
            others = np.delete(np.arange(start, video.ends[shot]), source - start)
            drivers = rng.choice(others, rng.integers(1, _DRIVERS + 1), replace=False)
            stored = self._read(video, [source, *drivers.tolist()])
            if stored is not None:
                offset = stored[0].tracked - stored[0].keypoints
                first, *moved = [self._frame(frame, offset) for frame in stored]
                return Draw(first, moved)
        raise FastreenactError(
            f"{_DRAWS} draws in a row met damaged files in {self._cache} ({broken_summary(self)}): start again, which "
            "makes them anew"
        )

    def _paths(self) -> list[Path]:
        if not self._root.is_dir():
            raise MediaError(f"{self._root} is not a folder: name one that holds videos")
        paths = [path for path in self._root.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()]
        # What begins with a dot beside a video is some system's note about it.
        paths = sorted(path for path in paths if not path.name.startswith("."))
        if not paths:
            raise MediaError(f"{self._root} holds no video ({', '.join(SUFFIXES)}): name another folder")
        return paths

    def _video(self, path: Path, tracker: Any, progress: Callable[[int, int | None], None] | None) -> _Video | None:
        """A video out of the cache, tracked first where it is not in it; None and a note in `broken` if unusable."""
        name = os.fsencode(path.relative_to(self._root)).decode("utf-8", "backslashreplace")
        mark = hashlib.sha256(name.encode()).hexdigest()[:16]
        entry = self._cache / fit_name(path.stem, f"-{mark}-{self.size}.safetensors")
        try:
            of = identity(name, path, self.size)
            contents, shots = read_contents(entry, of), None
            if contents is None:
                shots, left_out = read_shots(path, self.size, tracker, progress)
                contents = Contents([len(shot.jpegs) for shot in shots], left_out)
        except (MediaError, OSError, ValueError) as error:
            self.broken[name] = " ".join(str(error).split())
            return None
        if shots is not None:
            write_entry(entry, of, shots, contents.left_out)
        if contents.left_out:
            self.broken[name] = contents.left_out
        return _Video(name, entry, np.cumsum(contents.shots, dtype=np.intp)) if contents.shots else None

    def _read(self, video: _Video, frames: list[int]) -> list[Stored] | None:
        """Frames of a video; None and a note in `broken` where its entry is damaged, which is then taken away."""
        with self._lock:
            if video.name in self._gone:
                return None
        try:
            return read_frames(video.entry, frames)
        except (OSError, ValueError, SafetensorError) as error:
            with self._lock:
                self._gone.add(video.name)
                self.broken[video.name] = f"its file in the cache is damaged ({error}); the next start makes it anew"
            with contextlib.suppress(OSError):
                video.entry.unlink(missing_ok=True)
            return None

    def _frame(self, stored: Stored, offset: NDArray[np.float32]) -> Frame:
        keypoints = stored.keypoints + offset
        head_pose = head_pose_input(stored.pose, keypoints, self.metadata)
        return Frame(stored.image, keypoints, stored.pose, head_pose, face_mask(keypoints, stored.pose, self.size))


def _folder(path: Path) -> Path:
    """The folder of the cache, made if need be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MediaError(f"{path} cannot be made ({error.strerror}): name another folder for the cache") from error
    return path
