"""What can be trained, one file per model."""

from importlib import import_module

from fastreenact.models import MODELS
from fastreenact.training.targets.target import Target

TARGETS: dict[str, Target] = {
    name: import_module(model.target).TARGET for name, model in MODELS.items() if model.target
}
