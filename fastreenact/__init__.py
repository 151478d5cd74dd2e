"""One-shot face reenactment in real time: a portrait and a driving face give the animated portrait."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from fastreenact.app.animate import animate
    from fastreenact.engine import Engine
    from fastreenact.errors import FastreenactError, MediaError, NoFaceError, WeightsError
    from fastreenact.face.morphable.model import MorphableModel
    from fastreenact.face.motion import Motion, MotionClip

__all__ = [
    "Engine",
    "FastreenactError",
    "MediaError",
    "MorphableModel",
    "Motion",
    "MotionClip",
    "NoFaceError",
    "WeightsError",
    "animate",
]

_HOME = {
    "Engine": "fastreenact.engine",
    "animate": "fastreenact.app.animate",
    "FastreenactError": "fastreenact.errors",
    "MediaError": "fastreenact.errors",
    "MorphableModel": "fastreenact.face.morphable.model",
    "Motion": "fastreenact.face.motion",
    "MotionClip": "fastreenact.face.motion",
    "NoFaceError": "fastreenact.errors",
    "WeightsError": "fastreenact.errors",
}


def __getattr__(name: str) -> Any:
    """Import a public name at its first use, so that `import fastreenact` stays quick."""
    if name not in _HOME:
        raise AttributeError(f"module 'fastreenact' has no attribute '{name}'")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
