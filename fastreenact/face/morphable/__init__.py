"""The morphable face model: its modes, and how it is fitted to keypoints."""

from fastreenact.face.morphable.expressions import EXPRESSION_NAMES
from fastreenact.face.morphable.model import MorphableModel, default_model

__all__ = ["EXPRESSION_NAMES", "MorphableModel", "default_model"]
