"""MediaPipe's two face landmark nets behind one interface, with their native log lines kept off the user's screen."""

import contextlib
import os
import re
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fastreenact.errors import FastreenactError

Points = NDArray[np.float32]  # [478, 3] px; z in the same unit, towards the viewer negative (MediaPipe's sign)
Picture = NDArray[np.uint8]  # [H, W, 3] RGB

# Least score of a detection. A picture is searched in 40 views, so each has to be surer than a frame of a video: at 0.5
# a coffee cup passes for a face, at 0.7 it does not, and every portrait tried is still found.
_SURE_VIDEO, _SURE_STILL = 0.5, 0.7

# What the native libraries write to stderr: glog and absl lines (errors are let through), TFLite's greeting.
_NATIVE_LINE = re.compile(rb"[IW]\d{4,8} \d|INFO: Created TensorFlow|WARNING: All log messages before absl|$")
_stderr_lock = threading.Lock()


class Backend(Protocol):
    """A face landmark net: called with a picture, gives every face's points."""

    def __call__(self, picture: Picture) -> list[Points]: ...

    close: Callable[[], object]


_MESH_GRAPH = "modules/face_landmark/face_landmark_front_cpu.binarypb"  # in MediaPipe's package
_MESH_OUTPUT = "multi_face_landmarks"
_DETECTION = "facedetectionshortrangecpu__facedetectionshortrange__facedetection__TensorsToDetectionsCalculator"

# How protobuf writes one landmark of the mesh: five bytes that are always the same, three little-endian floats.
_LANDMARK_BYTES = 17
_TAG_AT, _TAGS = np.array([0, 1, 2, 7, 12]), np.array([0x0A, 0x0F, 0x0D, 0x15, 0x1D], np.uint8)
_FLOATS_AT = np.setdiff1d(np.arange(_LANDMARK_BYTES), _TAG_AT)


class Mesh:
    """MediaPipe's face mesh with irises."""

    def __init__(self, video: bool, faces: int):
        self._mediapipe = mediapipe = import_mediapipe("solutions")
        self._time_us = 0
        self._mesh = mediapipe.solutions.face_mesh.SolutionBase(
            graph_config=_mesh_graph(mediapipe),
            side_inputs={"num_faces": faces, "with_attention": True, "use_prev_landmarks": video},
            calculator_params={f"{_DETECTION}.min_score_thresh": _SURE_VIDEO if video else _SURE_STILL},
            outputs=[_MESH_OUTPUT],
        )
        self.close = _closer(self, self._mesh)

    def __call__(self, picture: Picture) -> list[Points]:
        self._time_us += 33_333  # only its rising matters
        found = _run_mesh(self._mediapipe, self._mesh, picture, self._time_us)
        return [_in_pixels(mesh_points(face), picture) for face in found]


class TaskFile:
    """MediaPipe's Tasks API with a face landmarker that the user names."""

    def __init__(self, path: str, video: bool, faces: int):
        self._mediapipe = mediapipe = import_mediapipe("tasks")
        vision = mediapipe.tasks.vision
        mode = vision.RunningMode.VIDEO if video else vision.RunningMode.IMAGE
        options = vision.FaceLandmarkerOptions(
            base_options=mediapipe.tasks.BaseOptions(model_asset_path=path), running_mode=mode, num_faces=faces
        )
        try:
            self._landmarker = vision.FaceLandmarker.create_from_options(options)
        except (RuntimeError, ValueError) as error:
            raise FastreenactError(f"{path}: MediaPipe cannot load this as a face landmarker: {error}") from error
        self.close = _closer(self, self._landmarker)
        self._time_ms: int | None = 0 if video else None

    def __call__(self, picture: Picture) -> list[Points]:
        image = self._mediapipe.Image(image_format=self._mediapipe.ImageFormat.SRGB, data=picture)
        if self._time_ms is None:
            result = self._landmarker.detect(image)
        else:
            self._time_ms += 33  # only its rising matters
            result = self._landmarker.detect_for_video(image, self._time_ms)
        return [_in_pixels(_one_by_one(face), picture) for face in result.face_landmarks]


def _closer(backend: Backend, net: Any) -> Callable[[], object]:
    """Closes `net` once: when called, or when `backend` is forgotten, for MediaPipe itself keeps a net for ever."""
    close = weakref.finalize(backend, _close_here, net, os.getpid())
    close.atexit = False  # the process's end takes all
    return close


def _close_here(net: Any, process: int) -> None:
    if os.getpid() == process:  # a forked child would wait for threads that it does not have
        net.close()


def _mesh_graph(mediapipe: ModuleType) -> Any:
    """The face mesh's graph, on the thread that calls it.

    Threads of its own would hand each picture to and fro between the processors: 0.1 to 0.2 ms of 2.
    """
    from mediapipe.framework.calculator_pb2 import CalculatorGraphConfig

    graph = CalculatorGraphConfig.FromString((Path(str(mediapipe.__file__)).parent / _MESH_GRAPH).read_bytes())
    graph.executor.add(type="ApplicationThreadExecutor")
    return graph


def _run_mesh(mediapipe: ModuleType, mesh: Any, picture: Picture, time_us: int) -> list[Any]:
    """The landmark lists of the faces in a picture: what `mesh.process` does, without the 0.2 ms that it takes for it.

    It makes a class for the results of every picture, which in time also has to be collected.
    """
    image = mediapipe.packet_creator.create_image_frame(picture, image_format=mediapipe.ImageFormat.SRGB)
    mesh._graph_outputs.clear()
    mesh._graph.add_packet_to_input_stream(stream="image", packet=image.at(time_us))
    mesh._graph.wait_until_idle()
    found = mesh._graph_outputs.get(_MESH_OUTPUT)
    faces: list[Any] = [] if found is None or found.is_empty() else mediapipe.packet_getter.get_proto_list(found)
    return faces


def mesh_points(face: Any) -> Points:
    """[N, 3] of a `NormalizedLandmarkList`, in its own unit.

    Read from what protobuf would send where every landmark is of 17 bytes as the mesh's are: a tenth of the time that
    they take one by one.
    """
    message = np.frombuffer(face.SerializeToString(), np.uint8)
    if len(message) == _LANDMARK_BYTES * len(face.landmark):
        rows = message.reshape(-1, _LANDMARK_BYTES)
        if (rows[:, _TAG_AT] == _TAGS).all():
            return rows.take(_FLOATS_AT, axis=1).view("<f4")
    return _one_by_one(face.landmark)


def _one_by_one(landmarks: Any) -> Points:
    return np.array([(p.x, p.y, p.z) for p in landmarks], np.float32)


def _in_pixels(points: Points, picture: Picture) -> Points:
    height, width = picture.shape[:2]
    return points * np.array((width, height, width), np.float32)


def import_mediapipe(part: str) -> ModuleType:
    """MediaPipe, imported at its first use (0.4 s, half of it Matplotlib, which it pulls in for its drawings)."""
    try:
        import mediapipe
    except ImportError as error:
        raise FastreenactError(
            f"face tracking needs MediaPipe, which cannot be imported ({error}); install it with "
            "`pip install --no-deps -r requirements/track.txt`, or give landmarks or a motion template"
        ) from error
    if not hasattr(mediapipe, part):
        raise FastreenactError(
            f"MediaPipe {getattr(mediapipe, '__version__', '?')} has no `{part}`; install 0.10.21 with "
            "`pip install --no-deps -r requirements/track.txt`, or name a .task file for the Tasks API"
        )
    return mediapipe


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Keep the log lines of native libraries off stderr; whatever else is written there meanwhile comes out afterwards.

    The native code writes to file descriptor 2 itself and heeds no environment variable, so the descriptor is turned
    away and back; one thread at a time, and back on every way out.
    """
    with _stderr_lock, contextlib.ExitStack() as stack:
        try:
            saved = os.dup(2)
        except OSError:  # a process without stderr has nothing to keep quiet
            yield
            return
        stack.callback(os.close, saved)
        caught = stack.enter_context(tempfile.TemporaryFile())
        _flush_stderr()
        os.dup2(caught.fileno(), 2)
        try:
            yield
        finally:
            _flush_stderr()
            os.dup2(saved, 2)
            caught.seek(0)
            for line in caught:
                if not _NATIVE_LINE.match(line):
                    os.write(2, line)


def _flush_stderr() -> None:
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()
