"""Frames of a camera as they come: the newest is always the next one, and a camera that is lost is opened again."""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any

log = logging.getLogger("fastreenact")

_RETRY_S = 0.5  # between two attempts to open a lost camera


class LatestFrames:
    """Reads a camera in a thread of its own, and gives its newest frame whenever one is asked for.

    While a frame is animated one more waits, and a newer one takes its place: what is shown is never older than a step.

        with LatestFrames(open_camera) as frames:
            for frame, seconds in frames:
                show(engine.step(frame, time=seconds))
    """

    def __init__(self, source: Callable[[], Iterable[Any]]):
        """
        Args:
            source: opens the camera and gives its frames, each an array of its own; called in the thread, and again
                half a second after the frames ended or an error was raised. Where reading may hang, it has to time out.
        """
        self._source = source
        self._changed = threading.Condition()
        self._waiting: tuple[Any, float] | None = None
        self._error: Exception | None = None  # of the first time, when nothing has come yet
        self._closed = threading.Event()
        self._began = time.monotonic()
        self.dropped = 0
        """How many frames were replaced by newer ones before anybody asked."""
        self._thread = threading.Thread(target=self._read, name="fastreenact-live", daemon=True)
        self._thread.start()

    def __iter__(self) -> "LatestFrames":
        return self

    def __next__(self) -> tuple[Any, float]:
        """The newest frame, waited for, and when it came, in seconds.

        Raises:
            StopIteration: `close` was called. What the source raised, if it could not be opened at first.
        """
        with self._changed:
            while self._waiting is None:
                if self._closed.is_set():
                    raise StopIteration
                if self._error is not None:
                    raise self._error
                self._changed.wait()
            newest, self._waiting = self._waiting, None
            return newest

    def close(self) -> None:
        """Stop; whoever waits for a frame is let go. The thread ends with the frame that it is reading."""
        with self._changed:
            self._closed.set()
            self._waiting = None
            self._changed.notify_all()

    def __enter__(self) -> "LatestFrames":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self) -> None:
        """The thread: open, read, and open again."""
        came = lost = False
        while not self._closed.is_set():
            reason = "no more frames"
            try:
                for frame in self._source():
                    if self._closed.is_set():
                        return
                    if lost:
                        log.warning("the camera is back")
                    came, lost = True, False
                    self._put(frame)
            except Exception as error:  # whatever the camera's library raises: it is said, and tried again
                reason = str(error) or type(error).__name__
                if not came:
                    with self._changed:
                        self._error = error
                        self._changed.notify_all()
                    return
            if not lost and not self._closed.is_set():
                log.warning("the camera is lost (%s): opening it again", reason)
            lost = True
            self._closed.wait(_RETRY_S)

    def _put(self, frame: Any) -> None:
        with self._changed:
            self.dropped += self._waiting is not None
            self._waiting = frame, time.monotonic() - self._began
            self._changed.notify_all()
