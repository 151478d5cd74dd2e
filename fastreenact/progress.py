"""Progress lines of a terminal, drawn by tqdm: stage, frames, rate, time left. On any other stream they are silent."""

import threading
from types import TracebackType
from typing import Any, TextIO

from tqdm import tqdm

_BAR = "{desc:<7} [{bar:24}] {n}/{total}  {rate_noinv:.1f} fps  {left} left"
_COUNT = "{desc:<7} {n} frames  {rate_noinv:.1f} fps"


class Line(tqdm):
    """tqdm without its thread and its lock over processes; says nothing where `stream` is no terminal."""

    monitor_interval = 0
    _lock = threading.RLock()

    def __init__(self, stream: TextIO, **options: Any) -> None:
        # The size is given, since some terminals say they have no rows, and tqdm then draws nothing.
        super().__init__(file=stream, disable=None, miniters=0, ncols=80, nrows=20, **options)

    def show(self, done: int, last: bool) -> None:
        """Draw it when it is time to; the last one in any case."""
        if not self.update(done - self.n) and last:
            self.refresh()


class ProgressLine:
    """Called as (stage, done, total or None); draws over one line, and wipes it when it is left."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._stage = stream, ""
        self._line: _Frames | None = None

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        if self._line is None or self._stage != stage:
            self.close()
            self._stage = stage
            self._line = _Frames(self._stream, desc=stage, initial=done - 1, leave=False)
        self._line.total = total
        self._line.show(done, done == total)

    def close(self) -> None:
        """Wipe the line."""
        if self._line is not None:
            self._line.close()

    def __enter__(self) -> "ProgressLine":
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()


class _Frames(Line):
    def __str__(self) -> str:
        seconds = max(self.format_dict["elapsed"], 1e-6)
        return line(self.desc, self.n, self.total, (self.n - self.initial) / seconds)


def line(stage: str, done: int, total: int | None, rate: float) -> str:
    """The text of the line: `render  [####----]  120/354  41.2 fps  0:06 left`."""
    known = total is not None and done <= total  # the number of frames is an estimate, and may be wrong
    left = round((total - done) / rate) if known and total and rate > 0 else 0
    text: str = tqdm.format_meter(
        done,
        total,
        0,
        prefix=stage,
        ascii="-#",
        rate=rate,
        bar_format=_BAR if known else _COUNT,
        left=f"{left // 60}:{left % 60:02d}",
    )
    return text
