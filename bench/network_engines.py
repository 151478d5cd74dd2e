"""Other engines on Face2Face^rho's online step, where installed: ONNX Runtime and OpenVINO, from one export."""

import importlib.util
import logging
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastreenact.models.face2face_rho import Face2FaceRho, Features


class Step(nn.Module):
    """Motion, warp and decode as one function of tensors."""

    def __init__(self, model: Face2FaceRho, size: int):
        super().__init__()
        self.motion, self.renderer, self.size = model.motion, model.renderer, size

    def forward(
        self, small: Tensor, middle: Tensor, large: Tensor, f1: Tensor, f2: Tensor, f3: Tensor, f4: Tensor, pose: Tensor
    ) -> Tensor:
        """The picture, [1, 3, S, S]."""
        field = self.motion(small, middle, large)[2]
        return self.renderer.decode(Features(f1, f2, f3, f4, (self.size, self.size)), field, pose)


def others(model: Face2FaceRho, size: int, inputs: tuple[Tensor, ...], threads: int) -> dict[str, Callable[[], Any]]:
    """Engine -> its step on `inputs` (those of `Step`), giving the picture as NumPy; empty without the packages."""
    if not all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript")):
        return {}
    runs: dict[str, Callable[[], Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "step.onnx"
        _export(Step(model, size).eval(), inputs, path)
        if importlib.util.find_spec("onnxruntime"):
            runs["ONNX Runtime, float32"] = _onnx_runtime(path, inputs, threads)
        if importlib.util.find_spec("openvino"):
            for precision in ("f32", "bf16"):
                name = {"f32": "float32", "bf16": "bfloat16"}[precision]
                runs[f"OpenVINO, {name}"] = _openvino(path, inputs, threads, precision)
    return runs


def _export(step: nn.Module, inputs: tuple[Tensor, ...], path: Path) -> None:
    """ONNX of `step`, its progress lines kept off the screen."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(step, inputs, path, dynamo=True, external_data=False, verbose=False)


def _onnx_runtime(path: Path, inputs: tuple[Tensor, ...], threads: int) -> Callable[[], Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Its threads would go on spinning into the next engine's run.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feed = {node.name: value.numpy() for node, value in zip(session.get_inputs(), inputs, strict=True)}
    return lambda: session.run(None, feed)[0]


def _openvino(path: Path, inputs: tuple[Tensor, ...], threads: int, precision: str) -> Callable[[], Any]:
    import openvino

    options = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    request = openvino.Core().compile_model(str(path), "CPU", options).create_infer_request()
    feed = [value.numpy() for value in inputs]

    def run() -> np.ndarray:
        return next(iter(request.infer(feed).values()))

    return run
