"""`fastreenact doctor`: what runs here, what does not, and what to do about it."""

import importlib.metadata
import importlib.util
import os
import platform
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import fastreenact

_ENCODERS = ("libx264", "libx265", "libsvtav1", "h264_nvenc", "hevc_nvenc")


class Check(NamedTuple):
    """One line of the report."""

    name: str
    status: str  # "ok": works; "off": optional and not here; "missing": `animate` does not run without it
    found: str
    advice: str = ""  # what to do, where something can be done


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _package() -> Check:
    system = f"{platform.system()} {platform.machine()}"
    found = f"fastreenact {fastreenact.__version__}, Python {platform.python_version()}, {system}"
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return Check("package", "ok", found, "built and tested on Linux x86-64 only")
    return Check("package", "ok", found)


def _extension() -> Check:
    try:
        from fastreenact import _C
    except ImportError as error:
        advice = "make build, or pip install . with a C++17 compiler"
        return Check("extension", "missing", f"fastreenact._C: {error}", advice)
    if _C.WITH_CUDA:
        return Check("extension", "ok", f"CPU and CUDA kernels (sm {_C.CUDA_ARCHITECTURES})")
    return Check("extension", "ok", "CPU kernels (built without nvcc)")


def _instruction_set() -> Check:
    from fastreenact import _C

    built = ", ".join(name if here else f"{name} (not on this processor)" for name, here in _C.isas().items())
    try:
        used = _C.isa()
    except ValueError as error:
        return Check("instructions", "missing", str(error), f"unset FASTREENACT_ISA, or set it to one of: {built}")
    forced = " (forced by FASTREENACT_ISA)" if os.environ.get("FASTREENACT_ISA") else ""
    return Check("instructions", "ok", f"{used}{forced}; built in: {built}")


def _threads() -> Check:
    from fastreenact import _C

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Check("threads", "ok", f"{_C.num_threads()} on {usable} processors (FASTREENACT_NUM_THREADS sets it)")


def _torch() -> Check:
    if _version("torch") is None:
        return Check("torch", "missing", "PyTorch is not installed", "pip install torch==2.13.0")
    import torch

    return Check("torch", "ok", f"{torch.__version__}, {torch.get_num_threads()} threads")


def _gpu() -> Check:
    if _version("torch") is None:
        return Check("GPU", "off", "unknown without PyTorch")
    import torch

    if torch.version.cuda is None:
        return Check("GPU", "off", "this PyTorch is a CPU build", "install PyTorch with CUDA to use a GPU")
    if not torch.cuda.is_available():
        return Check("GPU", "off", f"PyTorch is for CUDA {torch.version.cuda}, but finds no device", "check nvidia-smi")
    lines = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        capability = f"sm_{properties.major}{properties.minor}"
        lines.append(f"{properties.name} ({capability}, {properties.total_memory / 2**30:.0f} GiB)")
    advice = ""
    if torch.cuda.get_device_capability() < (7, 5):
        advice = "GPUs before sm_75 (Turing) are not supported: pass device='cpu'"
    return Check("GPU", "ok", f"CUDA {torch.version.cuda}: {', '.join(lines)}", advice)


def _kernels() -> Check:
    """What a GPU would run, by the same rules as `ops.define.cuda_kernels` and `has_triton`."""
    from fastreenact import _C

    triton = "Triton's" if importlib.util.find_spec("triton") is not None else "PyTorch's for what Triton would do"
    if _C.WITH_CUDA:
        return Check("kernels", "ok", f"for a GPU: the extension's, and {triton}")
    if importlib.util.find_spec("cupy") is not None:
        return Check("kernels", "ok", f"for a GPU: the extension's, as CuPy compiles them at first use, and {triton}")
    advice = "on a machine with a GPU: pip install cupy-cuda13x, or build the extension where nvcc is on the PATH"
    return Check("kernels", "off", "for a GPU: PyTorch's own, without a graph", advice)


def _triton() -> Check:
    version = _version("triton")
    if version is None:
        return Check("Triton", "off", "not installed", "on a machine with a GPU: pip install 'fastreenact[gpu]'")
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    return Check("Triton", "ok", f"{version}{' (TRITON_INTERPRET=1: kernels are interpreted)' if interpreted else ''}")


def _cupy() -> Check:
    if importlib.util.find_spec("cupy") is None:
        return Check("CuPy", "off", "not installed")
    import cupy
    from cupy_backends.cuda.libs import nvrtc

    major, minor = nvrtc.getVersion()
    return Check("CuPy", "ok", f"{cupy.__version__}, NVRTC {major}.{minor}")


def _tracker() -> Check:
    version = _version("mediapipe")
    if version is None:
        return Check(
            "tracker", "missing", "MediaPipe is not installed", "pip install --no-deps -r requirements/track.txt"
        )
    import mediapipe

    if not hasattr(mediapipe, "solutions"):
        advice = "pip install --no-deps mediapipe==0.10.21, or name a .task file (docs/tracking.md)"
        return Check("tracker", "missing", f"MediaPipe {version} comes without the face mesh", advice)
    return Check("tracker", "ok", f"MediaPipe {version}, face mesh")


def _codecs() -> Check:
    if _version("av") is None:
        return Check("codecs", "missing", "PyAV is not installed", "pip install av")
    import av
    import av.codec

    have = [name for name in _ENCODERS if name in av.codec.codecs_available]
    found = f"PyAV {av.__version__}; encoders built in: {', '.join(have) or 'none of ours'}"
    if "libx264" not in have:
        return Check("codecs", "missing", found, "pip install av from PyPI: its wheel has libx264")
    return Check("codecs", "ok", found)


def _weights() -> Check:
    from fastreenact.errors import WeightsError
    from fastreenact.models import shipped_weights

    try:
        return Check("weights", "ok", str(shipped_weights()))
    except WeightsError as error:
        return Check("weights", "missing", str(error), "install the package again, or name a file with --weights")


_CHECKS: tuple[Callable[[], Check], ...] = (
    _package,
    _extension,
    _instruction_set,
    _threads,
    _torch,
    _gpu,
    _kernels,
    _triton,
    _cupy,
    _tracker,
    _codecs,
    _weights,
)


def checks() -> list[Check]:
    """Run every check; one that fails in an unforeseen way becomes a line that says how."""
    found = []
    for check in _CHECKS:
        try:
            found.append(check())
        except Exception as error:  # a broken installation breaks in any way; the report is there to show it
            name = check.__name__.strip("_").replace("_", " ")
            found.append(Check(name, "broken", f"{type(error).__name__}: {error}".splitlines()[0]))
    return found


def report(found: list[Check] | None = None) -> str:
    """The report as text, one line per check, and one more where something can be done."""
    lines = []
    for check in checks() if found is None else found:
        lines.append(f"{check.status:8}{check.name:14}{check.found}")
        if check.advice:
            lines.append(f"{'':22}-> {check.advice}")
    return "\n".join(lines)


def main(arguments: Any = None) -> int:
    """Print the report; 0 where `animate` can run, 1 where something that it needs is missing or broken."""
    found = checks()
    print(report(found))
    missing = [check.name for check in found if check.status in ("missing", "broken")]
    if missing:
        print(f"not all is well here: {', '.join(missing)}", file=sys.stderr)
    return 1 if missing else 0
