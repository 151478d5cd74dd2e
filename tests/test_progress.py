"""The progress line: what it says, where it is drawn, and that it is wiped."""

from fastreenact.progress import ProgressLine, line


class _Terminal:
    """What a terminal stream needs to have."""

    def __init__(self, tty):
        self.tty, self.text = tty, ""

    def isatty(self):
        return self.tty

    def write(self, text):
        self.text += text

    def flush(self):
        return None


def test_progress_line():
    assert line("render", 120, 354, 41.23) == "render  [########----------------] 120/354  41.2 fps  0:06 left"
    assert line("track", 12, None, 41.23) == "track   12 frames  41.2 fps"
    assert line("track", 13, 12, 1.0) == "track   13 frames  1.0 fps"  # an estimate may be wrong
    shown, silent = _Terminal(True), _Terminal(False)
    for terminal in (shown, silent):
        progress = ProgressLine(terminal)
        for stage in ("track", "render"):
            for done in range(1, 4):
                progress(stage, done, 3)
        progress.close()
    assert "track   [########################] 3/3" in shown.text
    assert shown.text.rsplit("\r", 2)[1].strip() == ""
    assert silent.text == ""
