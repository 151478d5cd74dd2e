"""The exceptions a caller may want to catch; everything else is a ValueError or TypeError naming the argument."""


class FastreenactError(Exception):
    """Base of the package's own exceptions: the message says what to do."""


class NoFaceError(FastreenactError):
    """No face was found where one is needed."""


class MediaError(FastreenactError):
    """A picture or video could not be read or written."""


class WeightsError(FastreenactError):
    """A weights file is missing, damaged or of another model."""


def printable(text: str) -> str:
    """Control characters and undecodable bytes as escapes, so that a hostile file name stays on one line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
