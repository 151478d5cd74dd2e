"""The official checkpoint pair, as one safetensors file.

`torch.load` unpickles, so it happens in a process of its own (this module run by Python) with `weights_only=True`,
and nowhere else; what that process writes is read back and checked like any weights file.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

from fastreenact.errors import WeightsError

_TIME_LIMIT_S = 300
_MOST_BYTES = 512 << 20
_DEFAULT_SIZE = 512  # of the released weights


def convert(
    rendering: str | Path, motion: str | Path, out: str | Path, *, size: int = _DEFAULT_SIZE, force: bool = False
) -> Path:
    """Make a weights file of the official `*_rendering_net.pth` and `*_motion_net.pth`.

    Args:
        rendering, motion: the two checkpoints: bare state dicts.
        out: the file to write, ending in .safetensors.
        size: side that they were trained for, px.
        force: replace `out` where it exists.
    Returns:
        The path of the file.
    Raises:
        WeightsError: a file is missing, is no such checkpoint, or `out` exists; the message is one line.
    """
    paths = {"RENDERING": Path(rendering), "MOTION": Path(motion)}
    target = Path(out)
    for name, path in paths.items():
        if not path.is_file():
            raise WeightsError(f"{name}: {path} is not a file")
        if path.stat().st_size > _MOST_BYTES:
            raise WeightsError(
                f"{name}: {path} has {path.stat().st_size >> 20} MB, more than such a checkpoint can have"
            )
    if target.suffix != ".safetensors":
        raise WeightsError(f"OUT: {target} must end in .safetensors")
    if target.exists() and not force:
        raise WeightsError(f"OUT: {target} exists; --force replaces it")
    if not target.absolute().parent.is_dir():
        raise WeightsError(f"OUT: the folder {target.absolute().parent} does not exist")
    # Absolute paths: one that starts with a dash is no option.
    arguments = [str(p.absolute()) for p in (*paths.values(), target)]
    child = [sys.executable, "-m", "fastreenact.models.face2face_rho.convert", *arguments, str(size)]
    try:
        done = subprocess.run(child, capture_output=True, text=True, timeout=_TIME_LIMIT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise WeightsError(f"reading the checkpoints took more than {_TIME_LIMIT_S} s") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"the converter's process ended with code {done.returncode}"]
        raise WeightsError(lines[-1])
    return target


def _convert_here(rendering: Path, motion: Path, out: Path, size: str) -> None:
    """Load, check, write: runs in the child."""
    import torch

    from fastreenact.models.face2face_rho import MODEL
    from fastreenact.models.face2face_rho.networks import Face2FaceRho, MotionNet, RenderingNet
    from fastreenact.models.face2face_rho.weights import load_face2face_rho, save_face2face_rho

    # The pair says nothing of itself: its convention of the head pose is the official one.
    source = f"{rendering.name}, {motion.name}"
    metadata = {"model": MODEL.name, "size": size, "head_pose": "official", "source": source}
    model = Face2FaceRho(MotionNet(), RenderingNet(), metadata)
    for path, net in ((rendering, model.renderer), (motion, model.motion)):
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except OSError:
            raise
        except Exception as error:  # torch.load documents no closed set of errors for a hostile file
            # Never its own words: they advise to switch `weights_only` off.
            raise WeightsError(
                f"{path} is not a checkpoint of plain tensors ({type(error).__name__}): download it anew"
            ) from error
        _load(path, net, state)
    save_face2face_rho(model, out)
    load_face2face_rho(out)


def _load(path: Path, net: Any, state: Any) -> None:
    """Put a state dict into a network, or say in one line why it does not fit."""
    import torch

    expected = net.state_dict()
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise WeightsError(f"{path} is not a bare state dict of tensors")
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


def _child(arguments: list[str]) -> int:
    """Exit code; the error goes to stderr in one line."""
    rendering, motion, out, size = arguments
    try:
        _convert_here(Path(rendering), Path(motion), Path(out), size)
    except (WeightsError, ValueError, OSError) as error:
        sys.stderr.write(" ".join(str(error).split()) + "\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_child(sys.argv[1:]))
