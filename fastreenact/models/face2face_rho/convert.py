"""The official checkpoint pair, as a weights file."""

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from fastreenact.errors import WeightsError
from fastreenact.models.convert import Checkpoint
from fastreenact.models.face2face_rho import MODEL
from fastreenact.models.face2face_rho.networks import Face2FaceRho, MotionNet, RenderingNet
from fastreenact.models.face2face_rho.weights import load_face2face_rho, save_face2face_rho


def write(checkpoints: Sequence[Checkpoint], out: Path, size: int) -> None:
    """See `fastreenact.models.convert.Converter`: `*_rendering_net.pth` and `*_motion_net.pth`."""
    # The pair says nothing of itself: its convention of the head pose is the official one.
    source = ", ".join(checkpoint.path.name for checkpoint in checkpoints)
    metadata = {"model": MODEL.name, "size": str(size), "head_pose": "official", "source": source}
    model = Face2FaceRho(MotionNet(), RenderingNet(), metadata)
    for checkpoint, net in zip(checkpoints, (model.renderer, model.motion), strict=True):
        _load(checkpoint, net)
    save_face2face_rho(model, out)
    load_face2face_rho(out)


def _load(checkpoint: Checkpoint, net: nn.Module) -> None:
    """Put a state dict into a network, or say in one line why it does not fit."""
    path, state = checkpoint
    expected = net.state_dict()
    missing, extra = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys(), key=str)
    if missing or extra:
        first = f"{missing[0]} is missing" if missing else f"{extra[0]!s:.80} does not belong"
        raise WeightsError(
            f"{path} is not the released {type(net).__name__}: {len(missing)} tensors missing, {len(extra)} too many "
            f"({first}); RENDERING comes before MOTION"
        )
    for name, want in expected.items():
        if state[name].shape != want.shape:
            raise WeightsError(f"{path}: {name} is {list(state[name].shape)}, need {list(want.shape)}")
    net.load_state_dict(state, strict=True)
