"""One engine on one size of the online step, in a process of its own, which times frames when told to.

    python bench/network_engines.py ENGINE DTYPE SIZE DEVICE FOLDER

FOLDER is from network_case.py. Speaks JSON lines over stdin and stdout: what loading and the first frame took, the
picture being left as FOLDER/picture-ENGINE-DTYPE.npy; then, for every {"frames": n}, their milliseconds; when stdin
ends, its memory, and for ours the stages.
"""

import ctypes
import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

# A step that returns when it is done, and its picture [1, 3, S, S] in (-1, 1).
Engine = tuple[Callable[[], Any], Callable[[], np.ndarray]]
LAST_RUNS = 5  # frames that the stages are measured over


def threads() -> int:
    """As many as PyTorch takes."""
    return int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))


def onnx_runtime(dtype: str, size: int, device: str, folder: Path) -> Engine:
    """ONNX Runtime, on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads()
    session = onnxruntime.InferenceSession(str(folder / "step.onnx"), options, providers=["CPUExecutionProvider"])
    inputs = np.load(folder / "inputs.npz")
    feed = {node.name: inputs[node.name] for node in session.get_inputs()}

    def run() -> np.ndarray:
        picture: np.ndarray = session.run(None, feed)[0]
        return picture

    return run, run


def openvino(dtype: str, size: int, device: str, folder: Path) -> Engine:
    """OpenVINO, on the CPU, in the precision asked for."""
    import openvino

    precision = {"float32": "f32", "bfloat16": "bf16"}[dtype]
    options = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads(), "PERFORMANCE_HINT": "LATENCY"}
    request = openvino.Core().compile_model(str(folder / "step.onnx"), "CPU", options).create_infer_request()
    inputs = np.load(folder / "inputs.npz")
    feed = {name: inputs[name] for name in inputs.files}

    def run() -> np.ndarray:
        picture: np.ndarray = next(iter(request.infer(feed).values()))
        return picture

    return run, run


def eager(dtype: str, size: int, device: str, folder: Path, **compiled: Any) -> Engine:
    """The plain networks in PyTorch, through torch.compile where `compiled` has its options."""
    import torch
    from network_case import INPUTS, Step

    from fastreenact.models.face2face_rho.networks import random_face2face_rho

    kind = getattr(torch, dtype)
    stored = np.load(folder / "inputs.npz")
    step: Any = Step(random_face2face_rho(), size).eval().requires_grad_(False).to(device, kind)
    inputs = [torch.from_numpy(stored[name]).to(device, kind) for name in INPUTS]
    if device == "cuda":
        torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32 = True, False
        step = step.to(memory_format=torch.channels_last)
        inputs = [x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x for x in inputs]
    if compiled:
        step = torch.compile(step, **compiled)

    def run() -> Any:
        # Not inference_mode: what torch.compile folds at load time has to be ordinary tensors.
        with torch.no_grad():
            y = step(*inputs)
        if device == "cuda":
            torch.cuda.synchronize()
        return y

    return run, lambda: run().float().cpu().numpy()


def torch_compile(dtype: str, size: int, device: str, folder: Path) -> Engine:
    """torch.compile: with constant weights on the CPU, max-autotune with CUDA graphs on a GPU."""
    if device == "cuda":
        return eager(dtype, size, device, folder, mode="max-autotune", fullgraph=True)
    return eager(dtype, size, device, folder, options={"freezing": True}, fullgraph=True)


class Stages:
    """A timer as the engine's: stage -> milliseconds, added up."""

    def __init__(self) -> None:
        self.ms: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a block."""
        begin = time.perf_counter()
        yield
        self.add(name, (time.perf_counter() - begin) * 1e3)

    def add(self, name: str, ms: float) -> None:
        """Count what was timed elsewhere."""
        self.ms[name] = self.ms.get(name, 0.0) + ms


def ours(dtype: str, size: int, device: str, folder: Path) -> Engine:
    """The inference form from keypoints to a uint8 frame, which is more than the others do."""
    import torch
    from network_case import Portraits

    from fastreenact.models.face2face_rho.inference import fuse
    from fastreenact.models.face2face_rho.networks import random_face2face_rho
    from fastreenact.timings import NO_TIMER

    faces = Portraits(size)
    fused = fuse(random_face2face_rho(), size, getattr(torch, dtype), device)
    state = fused.encode(faces.image, faces.points[0], faces.poses[0])
    driver = faces.points[1], faces.poses[1]
    out = torch.empty(size, size, 3, dtype=torch.uint8, device=device)

    def run(timer: Stages | None = None) -> None:
        fused.drive(state, *driver, out=out, timer=NO_TIMER if timer is None else timer)
        if device == "cuda":
            torch.cuda.synchronize()

    def picture() -> np.ndarray:
        with torch.inference_mode():
            image = fused.step(state, *driver).permute(0, 3, 1, 2).float().tanh().cpu().numpy()
        return np.ascontiguousarray(image)

    return run, picture


# Engine -> what it imports, which is not counted as its memory, and how it is loaded.
ENGINES: dict[str, tuple[tuple[str, ...], Callable[[str, int, str, Path], Engine]]] = {
    "eager PyTorch": (("torch", "network_case"), eager),
    "torch.compile": (("torch._inductor.compile_fx", "network_case"), torch_compile),
    "ONNX Runtime": (("onnxruntime",), onnx_runtime),
    "OpenVINO": (("openvino",), openvino),
    "ours": (("network_case", "fastreenact.models.face2face_rho.inference"), ours),
}


def resident_mb(peak: bool) -> float:
    """Memory of this process that is resident, now or at most since `forget_peak`."""
    words = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines())
    return int(words["VmHWM" if peak else "VmRSS"].split()[0]) * 1024 / 1e6


def forget_peak(device: str) -> None:
    """Give free memory back to the system, and let the peak start from here."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    if device == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats()


def memory_mb(device: str, before: float) -> float:
    """Most memory since `forget_peak`: resident, less `before`; on a GPU what PyTorch reserved of its memory."""
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_reserved() / 1e6
    return resident_mb(peak=True) - before


def frames_ms(run: Callable[[], Any], count: int) -> list[float]:
    """Milliseconds of `count` frames, after two that warm the caches again."""
    times = []
    for _ in range(count + 2):
        begin = time.perf_counter()
        run()
        times.append((time.perf_counter() - begin) * 1e3)
    return times[2:]


def work(engine: str, dtype: str, size: int, device: str, folder: Path, say: Callable[[Any], None]) -> None:
    """See the module."""
    modules, load = ENGINES[engine]
    for module in modules:
        importlib.import_module(module)
    before = resident_mb(peak=False)
    begin = time.perf_counter()
    run, picture = load(dtype, size, device, folder)
    loaded = time.perf_counter()
    run()
    first = time.perf_counter()
    np.save(folder / f"picture-{engine}-{dtype}.npy", picture())
    warm = frames_ms(run, 3)
    say({"load_s": loaded - begin, "first_ms": (first - loaded) * 1e3, "warm_ms": sorted(warm)[1]})
    forget_peak(device)
    for line in sys.stdin:
        say(frames_ms(run, json.loads(line)["frames"]))
    memory = memory_mb(device, before)
    stages: dict[str, float] = {}
    if engine == "ours" and device == "cpu":
        timer = Stages()
        for _ in range(LAST_RUNS):
            run(timer)
        stages = {name: ms / LAST_RUNS for name, ms in timer.ms.items()}
    say({"memory_mb": memory, "stages": stages})


def main() -> None:
    engine, dtype, size, device, folder = sys.argv[1:]
    # What libraries print must not get between our lines.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as lines:
        os.dup2(2, 1)

        def say(words: Any) -> None:
            print(json.dumps(words), file=lines, flush=True)

        work(engine, dtype, int(size), device, Path(folder), say)


if __name__ == "__main__":
    main()
