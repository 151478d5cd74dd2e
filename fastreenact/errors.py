"""The exceptions a caller may want to catch; everything else is a ValueError or TypeError naming the argument."""


class FastreenactError(Exception):
    """Base of the package's own exceptions: the message says what to do."""


class NoFaceError(FastreenactError):
    """No face was found where one is needed."""


class MediaError(FastreenactError):
    """A picture or video could not be read or written."""


class WeightsError(FastreenactError):
    """A weights file is missing, damaged or of another model."""
