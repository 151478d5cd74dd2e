"""The full state of a run in one safetensors file: every tensor by name, every number as JSON in its header."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from fastreenact.errors import WeightsError

FORMAT = "fastreenact-training-1"
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # what Adam keeps for a parameter


def save_state(
    path: Path, nets: Mapping[str, nn.Module], optimizers: Mapping[str, torch.optim.Adam], numbers: Mapping[str, Any]
) -> None:
    """Write the state, whole or not at all.

    Args:
        path: replaced if it is there.
        nets: name -> network; all parameters and buffers are kept.
        optimizers: name of a network in `nets` -> its Adam; the moments are kept, settings are the caller's.
        numbers: what JSON can hold.
    """
    tensors = {f"{name}/{key}": value for name, net in nets.items() for key, value in net.state_dict().items()}
    for name, optimizer in optimizers.items():
        for key, parameter in nets[name].named_parameters():
            for moment, value in optimizer.state.get(parameter, {}).items():
                tensors[f"{name}.adam/{key}/{moment}"] = value
    # safetensors takes one memory layout, and that is not channels-last.
    tensors = {key: value.detach().to("cpu").contiguous() for key, value in tensors.items()}
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(save(tensors, {"format": FORMAT, "numbers": json.dumps(dict(numbers))}))
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def read_numbers(path: Path) -> dict[str, Any]:
    """The JSON of a state file.

    Raises:
        WeightsError: the file is missing, damaged or something else.
    """
    if not path.is_file():
        raise WeightsError(f"{path} is missing: there is no run to resume")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        numbers = json.loads(metadata["numbers"]) if metadata.get("format") == FORMAT else None
    except (SafetensorError, OSError, UnicodeError, KeyError, json.JSONDecodeError) as error:
        raise WeightsError(f"{path} is not a readable state of a training run ({error})") from error
    if not isinstance(numbers, dict):
        raise WeightsError(f"{path} is not the state of a training run of this version")
    return numbers


def load_state(path: Path, nets: Mapping[str, nn.Module], optimizers: Mapping[str, torch.optim.Adam]) -> None:
    """Put a state back in place, whatever device and memory layout the networks have.

    Raises:
        WeightsError: the file is damaged, or its tensors are not those of the networks.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  a method, not a dict
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is not a readable state of a training run ({error})") from error
    with torch.no_grad():
        for name, net in nets.items():
            for key, value in net.state_dict().items():
                value.copy_(_take(path, tensors, f"{name}/{key}", value))
        for name, optimizer in optimizers.items():
            for key, parameter in nets[name].named_parameters():
                _load_moments(path, tensors, f"{name}.adam/{key}", parameter, optimizer)
    if tensors:
        raise WeightsError(f"{path} holds what this run has no place for: {min(tensors)}")


def _load_moments(
    path: Path, tensors: dict[str, Tensor], prefix: str, parameter: nn.Parameter, optimizer: torch.optim.Adam
) -> None:
    """Adam's memory of one parameter; none is stored before its first step."""
    if f"{prefix}/step" not in tensors:
        optimizer.state.pop(parameter, None)
        return
    state = {}
    for moment in _MOMENTS:
        # The fused Adam counts steps on the parameter's device; zeros_like keeps its memory layout.
        wanted = parameter.new_zeros(()) if moment == "step" else torch.zeros_like(parameter)
        state[moment] = wanted.detach().copy_(_take(path, tensors, f"{prefix}/{moment}", wanted))
    optimizer.state[parameter] = state


def _take(path: Path, tensors: dict[str, Tensor], key: str, like: Tensor) -> Tensor:
    """One tensor out of the file's."""
    value = tensors.pop(key, None)
    if value is None or value.shape != like.shape:
        found = "is missing" if value is None else f"is {list(value.shape)}"
        raise WeightsError(f"{path}: {key} {found}, need {list(like.shape)}")
    return value
