"""The CUDA sources compile for every architecture: by NVRTC (no device needed), and by nvcc where it is installed."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import HAS_GPU
from host_emulation import GpuCall, gpu_call

from fastreenact import _C
from fastreenact.ops import nvrtc
from fastreenact.ops.compose_frame import _COMPOSE_FRAME
from fastreenact.ops.mbconv import _MBCONV
from fastreenact.ops.rasterize_landmarks import _RASTERIZE_ALL
from fastreenact.ops.tail import _TAIL
from fastreenact.ops.to_frame import _TO_FRAME

ARCHITECTURES = [75, 80, 86, 89, 90, 100, 120]
# Of templates.
INSTANCES = {
    "conv": [f"conv_kernel<{(2 + tile) % 3}, {tile}>" for tile in range(4)],  # nvcc compiles the others
    "tail": [f"tail_kernel<{dtype}>" for dtype in range(3)],
    "mbconv": [
        f"mbconv_{kind}_kernel<{numbers}>"
        for kind in ("narrow", "wide", "expand", "project")
        for numbers in ("0, false", "1, false", "2, false", "2, true")
    ],
}
SOURCES = sorted(path.stem for path in nvrtc.source_folder().glob("*.cu"))


def test_source_is_self_contained():
    text = nvrtc.source("to_frame")
    assert '#include "' not in text
    assert text.count("struct ToFrameParams {") == 1
    assert "#pragma once" not in text


def test_missing_sources_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr(nvrtc, "__file__", str(tmp_path / "fastreenact" / "ops" / "nvrtc.py"))
    with pytest.raises(FileNotFoundError, match="the CUDA sources are missing"):
        nvrtc.source_folder()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", SOURCES)
def test_nvrtc_compiles(name, architecture):
    compiler = pytest.importorskip("cupy_backends.cuda.libs.nvrtc", reason="CuPy is not installed")
    try:
        compiler.getVersion()
    except Exception as error:  # the library itself is missing: CuPy's own exception type differs by version
        pytest.skip(f"CuPy finds no NVRTC: {error}")
    program = compiler.createProgram(nvrtc.source(name), f"{name}.cu", (), ())
    instances = [nvrtc.expression(kernel) for kernel in INSTANCES.get(name, ())]
    for instance in instances:
        compiler.addNameExpression(program, instance)
    options = (f"-arch=sm_{architecture}", "-std=c++17")
    try:
        compiler.compileProgram(program, options)
    except compiler.NVRTCError as error:
        pytest.fail(f"{error}\n{compiler.getProgramLog(program)}")
    assert "warning" not in compiler.getProgramLog(program)
    machine_code = compiler.getCUBIN(program)
    kernels = [compiler.getLoweredName(program, instance) for instance in instances]
    compiler.destroyProgram(program)
    for kernel in kernels or [f"{name}_kernel"]:
        assert kernel.encode() in machine_code


@pytest.mark.parametrize("name", SOURCES)
def test_nvcc_compiles_without_spills(name, tmp_path):
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("nvcc is not installed")
    targets = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in ARCHITECTURES]
    strict = ["--Werror", "all-warnings", "-Xcompiler", "-Wall", "-Xptxas", "--warn-on-spills"]
    command = [
        nvcc,
        "-std=c++17",
        "-O3",
        f"-I{nvrtc.source_folder()}",
        *strict,
        *targets,
        "-c",
        str(nvrtc.source_folder() / f"{name}.cu"),
    ]
    done = subprocess.run([*command, "-o", str(tmp_path / f"{name}.o")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def numbers_in(packed: bytes, header: str, struct: str, fields: str, tmp_path: Path) -> dict[str, float]:
    """The fields of a packed struct of csrc, read by a C++ program."""
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("no C++ compiler is installed")
    prints = "".join(
        f'std::printf("%.17g ", double({"uintptr_t(p." + field[1:] + ")" if field[0] == "*" else "p." + field}));'
        for field in fields.split()
    )
    code, program, file = tmp_path / "fields.cpp", tmp_path / "fields", tmp_path / "packed"
    file.write_bytes(packed)
    code.write_text(
        f'#include <cstdio>\n#include "{header}"\n'
        f'int main() {{ fastreenact::{struct} p; std::FILE* f = std::fopen("{file}", "rb");'
        f" if (std::fread(&p, 1, sizeof p, f) != sizeof p || std::fgetc(f) != EOF) return 1; {prints} }}\n"
    )
    subprocess.run([compiler, "-std=c++17", f"-I{nvrtc.source_folder()}", str(code), "-o", str(program)], check=True)
    found = map(float, subprocess.run([program], capture_output=True, check=True).stdout.split())
    return dict(zip(fields.split(), found, strict=True))


@pytest.fixture
def launches(monkeypatch):
    """What would be launched, and on which stream: no device is needed."""
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    calls = []

    class Stream:
        def __init__(self, address):
            calls.append(address)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            return None

    monkeypatch.setattr(cupy.cuda, "ExternalStream", Stream)
    monkeypatch.setattr(nvrtc, "_kernel", lambda *name: lambda *launch, **_: calls.append((*name, *launch)))
    return calls


def to_frame_call(n: int) -> GpuCall:
    image = torch.empty(1).expand(n, 3, 70_000, 257)
    out = torch.empty(n, 70_000, 264, 3, dtype=torch.uint8)[:, :, :257]
    flag = torch.zeros(1, dtype=torch.int32)
    return gpu_call(_TO_FRAME, image=image, layout="nchw", tanh=True, out=out, flag=flag)


def test_to_frame_launch_packs_every_field(launches, tmp_path):
    call = to_frame_call(2)
    nvrtc.launch("to_frame", call.launches(), 99)
    assert launches[0] == 99
    name, kernel, grid, block, (packed,) = launches[1]
    assert (name, kernel, grid, block) == ("to_frame", "to_frame_kernel", (2, 32 * 1024, 1), (64, 4))
    assert isinstance(packed, np.ndarray)
    assert packed.size == 1
    fields = "*image *out *flag n height width image_stride_n image_stride_c image_stride_y image_stride_x"
    fields += " out_stride_n out_stride_y out_stride_x dtype apply_tanh"
    found = numbers_in(packed.tobytes(), "to_frame.h", "ToFrameParams", fields, tmp_path)
    sizes = [2, 70_000, 257, 0, 0, 0, 0, 70_000 * 792, 792, 3, 0, 1]
    assert list(found.values()) == pytest.approx([*call.addresses, *sizes], rel=1e-12)
    nvrtc.launch("to_frame", to_frame_call(0).launches(), 99)
    assert len(launches) == 2


def test_compose_frame_launch_packs_every_field(launches, tmp_path):
    raw = torch.empty(16, 48, 8, dtype=torch.float16)[:, :16, :4]
    surface = torch.empty(140_000, 264, 3, dtype=torch.uint8)[:, :257]
    flag = torch.zeros(1, dtype=torch.int32)
    box = [100.0, 50_000.0, 3_000_000.0]
    call = gpu_call(_COMPOSE_FRAME, raw=raw, surface=surface, box=box, most_gain=1.5, fade=0.25, flag=flag)
    nvrtc.launch("compose_frame", call.launches(), 99)
    assert launches[0] == 99
    name, kernel, grid, block, (packed,) = launches[1]
    assert (name, kernel, grid, block) == ("compose_frame", "compose_frame_kernel", (5, 32 * 1024, 1), (64, 4))
    fields = "*raw *surface *flag n picture_width picture_height side raw_stride_y raw_stride_x surface_stride"
    fields += " left top width height"
    fields += " centre_x centre_y size fade gain_scale gain_shift gain_middle dtype"
    found = numbers_in(packed.tobytes(), "compose_frame.h", "ComposeFrameParams", fields, tmp_path)
    numbers = [1, 257, 140_000, 16, 384, 8, 792, 0, 0, 257, 140_000, *box, 0.25, 0.75, -0.25, np.log(0.5), 2]
    assert list(found.values()) == pytest.approx([*call.addresses[:3], *numbers], rel=1e-7)


def test_rasterize_landmarks_launch_packs_what_the_extension_says(launches):
    keypoints = torch.zeros(3, 72, 2)
    outs = [torch.empty(3, size, size, 3, dtype=torch.uint8) for size in (16, 32, 360)]
    drawn = dict(zip(("out_small", "out_middle", "out_large"), outs, strict=True))
    nvrtc.launch("rasterize_landmarks", gpu_call(_RASTERIZE_ALL, keypoints=keypoints, **drawn).launches(), 99)
    assert launches[0] == 99
    name, kernel, grid, block, (packed,) = launches[1]
    # 360 rows in tiles of 11
    assert (name, kernel, grid, block) == ("rasterize_landmarks", "rasterize_landmarks_kernel", (33, 3, 3), (256, 1))
    assert packed.tobytes()[:8] == keypoints.data_ptr().to_bytes(8, "little")
    drawn = {name: out[:0] for name, out in drawn.items()}
    nvrtc.launch("rasterize_landmarks", gpu_call(_RASTERIZE_ALL, keypoints=keypoints[:0], **drawn).launches(), 99)
    assert len(launches) == 2


def mbconv_call(outputs: int, n: int = 2) -> GpuCall:
    names = ("expand", "expand_bias", "depthwise", "depthwise_bias", "project", "project_bias")
    x, out = (torch.empty(n, 9, 17, channels, dtype=torch.float16) for channels in (8, outputs))
    some = dict.fromkeys(names, torch.empty(1))
    return gpu_call(_MBCONV, 75, x=x, spec=[8, 48, outputs, 2, 1, 0, 1], out=out, **some)


def test_mbconv_launches_what_the_extension_says(launches):
    call = mbconv_call(100)
    nvrtc.launch("mbconv", call.launches(), 99)
    assert launches[0::2] == [99, 99]
    expand, project = launches[1::2]
    # 306 pixels in blocks of 64; 9 x 17 outputs in tiles of 8 x 8
    assert expand[:4] == ("mbconv", "mbconv_expand_kernel<2, true>", (5, 1, 1), (256, 1))
    assert project[:4] == ("mbconv", "mbconv_project_kernel<2, true>", (2 * 2 * 3, 1, 1), (256, 1))
    assert expand[4][0].tobytes()[:8] == call.addresses[0].to_bytes(8, "little")
    nvrtc.launch("mbconv", mbconv_call(64).launches(), 99)
    assert launches[5][1] == "mbconv_wide_kernel<2, true>"
    nvrtc.launch("mbconv", mbconv_call(100, 0).launches(), 99)
    assert len(launches) == 6


@pytest.mark.skipif(not _C.WITH_CUDA or HAS_GPU, reason="for an extension with CUDA kernels, where no device is")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_nvcc_has_compiled_what_is_launched(dtype):
    """By name: without a device CUDA itself refuses, not our table of kernels."""
    numbers = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}[dtype]
    x, out = (torch.empty(1, 8, 8, channels, dtype=dtype) for channels in (8, 3))
    names = ("depthwise", "depthwise_bias", "packed", "bias")
    tail = dict.fromkeys(names, torch.empty(1)) | {"spec": [3, numbers], "size": [8, 8]}
    frame = torch.empty(1, 8, 8, 3, dtype=torch.uint8)
    calls = [
        gpu_call(_TAIL, x=x, out=out, **tail),
        gpu_call(_TO_FRAME, image=out, layout="nhwc", tanh=False, out=frame),
        gpu_call(_COMPOSE_FRAME, raw=x[0, ..., :4], surface=frame[0], box=[4.0, 4.0, 8.0], most_gain=1.5, fade=0.0),
        mbconv_call(100),
        mbconv_call(64),
        mbconv_call(8),
    ]
    for call in calls:
        with pytest.raises(RuntimeError, match="CUDA says"):
            call.call.launch(0, call.workspace.data_ptr(), *call.addresses)
