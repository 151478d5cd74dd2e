"""The models, one folder each: what it says of itself, its plain networks, and the form that runs.

A new one is a folder and a line in `MODELS`; `fastreenact.models.protocol` says what it brings. Nothing heavy is
imported before a model is used.
"""

import os
from pathlib import Path
from typing import NamedTuple

from fastreenact.errors import WeightsError
from fastreenact.models import face2face_rho, landmark_warp, refined_warp
from fastreenact.models.protocol import Model

MODELS: dict[str, Model] = {m.name: m for m in (refined_warp.MODEL, face2face_rho.MODEL, landmark_warp.MODEL)}
DEFAULT = refined_warp.MODEL


class Choice(NamedTuple):
    """A model and its weights."""

    model: Model
    weights: object


def choose(name: str | None, weights: object) -> Choice:
    """The model and weights that a user means.

    Args:
        name: one of `MODELS`; None: the one that the weights are of, or the default.
        weights: path of a safetensors file, or a loaded model (which has `metadata`); None: those that ship with the
            model, if any.
    Raises:
        ValueError: an unknown model, or weights for one that has none.
        WeightsError: weights are missing, damaged, or of another model.
    """
    if name is not None and name not in MODELS:
        raise ValueError(f"model is {name!r}; there are {', '.join(MODELS)}")
    if weights is None:
        model = DEFAULT if name is None else MODELS[name]
        if model.weights == "asked for":
            raise WeightsError(f"model {model.name} needs weights, and none were given: {model.how_to_get}")
        return Choice(model, model.loader.load(shipped_weights(model)) if model.weights == "shipped" else None)
    if name is not None and MODELS[name].weights == "none":
        raise ValueError(f"weights were given, but the {name.replace('-', ' ')} has none; leave one of them out")
    path = Path(weights) if isinstance(weights, str | os.PathLike) else None
    model = _model_of(name, weights, path)
    return Choice(model, weights if path is None else model.loader.load(path))


def shipped_weights(model: Model = DEFAULT) -> Path:
    """The weights file that ships with a model, its sha256 checked. Raises WeightsError: it is missing or damaged."""
    from fastreenact.weights import shipped

    return shipped(*model.shipped)


def _model_of(name: str | None, weights: object, path: Path | None) -> Model:
    """Which model these weights are of."""
    if path is None:
        metadata: dict[str, str] = getattr(weights, "metadata", {})
    else:
        from fastreenact.weights import read_metadata

        metadata = read_metadata(path)
    where = "these weights" if path is None else str(path)
    found = next((m for m in MODELS.values() if m.wrote(metadata)), None)
    if found is None:
        raise WeightsError(f"{where} are for the model {metadata.get('model')!r}; there are {', '.join(MODELS)}")
    if name is not None and found.name != name:
        raise WeightsError(f"{where} are of the model {found.name}, not of {name}: leave model out, or take others")
    return found
