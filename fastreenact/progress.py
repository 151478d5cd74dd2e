"""A progress line for a terminal: stage, frames, rate, time left."""

from time import perf_counter
from typing import TextIO

_INTERVAL_S = 0.1  # between two updates of the line
_BAR = 24  # characters


class ProgressLine:
    """Called as (stage, done, total or None); draws over one line of a terminal, and nothing anywhere else."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._on = stream.isatty()
        self._stage = ""
        self._started = self._drawn = 0.0
        self._width = 0

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        if not self._on:
            return
        now = perf_counter()
        if stage != self._stage:
            self._stage, self._started, self._drawn, self._first = stage, now, 0.0, done - 1
        if now - self._drawn < _INTERVAL_S and done != total:
            return
        self._drawn = now
        rate = (done - self._first) / max(now - self._started, 1e-6)
        text = line(stage, done, total, rate)
        self._stream.write("\r" + text.ljust(self._width))
        self._stream.flush()
        self._width = len(text)

    def close(self) -> None:
        """Wipe the line."""
        if self._on and self._width:
            self._stream.write("\r" + " " * self._width + "\r")
            self._stream.flush()
            self._width = 0


def line(stage: str, done: int, total: int | None, rate: float) -> str:
    """The text of the line: `render  [####----]  120/354  41.2 fps  0:06 left`."""
    if not total or done > total:  # the number of frames is an estimate, and may be wrong
        return f"{stage:<7} {done} frames  {rate:.1f} fps"
    filled = round(_BAR * done / total)
    left = round((total - done) / rate) if rate > 0 else 0
    return (
        f"{stage:<7} [{'#' * filled}{'-' * (_BAR - filled)}] {done}/{total}  {rate:.1f} fps  "
        f"{left // 60}:{left % 60:02d} left"
    )
