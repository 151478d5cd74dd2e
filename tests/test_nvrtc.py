"""The CUDA sources compile for every architecture: by NVRTC (no device needed), and by nvcc where it is installed."""

import shutil
import subprocess

import numpy as np
import pytest

from fastreenact.ops import nvrtc

ARCHITECTURES = [75, 80, 86, 89, 90, 100, 120]
# Of templates.
INSTANCES = {
    "conv": [nvrtc.conv_kernel((2 + tile) % 3, tile) for tile in range(4)],  # nvcc compiles the others
    "tail": [nvrtc.tail_kernel(dtype) for dtype in range(3)],
    "mbconv": [
        nvrtc.mbconv_kernel(kernel, dtype, half_sums)
        for kernel in range(4)
        for dtype, half_sums in ((0, False), (1, False), (2, False), (2, True))
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
    for instance in INSTANCES.get(name, ()):
        compiler.addNameExpression(program, instance)
    options = (f"-arch=sm_{architecture}", "-std=c++17")
    try:
        compiler.compileProgram(program, options)
    except compiler.NVRTCError as error:
        pytest.fail(f"{error}\n{compiler.getProgramLog(program)}")
    assert "warning" not in compiler.getProgramLog(program)
    machine_code = compiler.getCUBIN(program)
    kernels = [compiler.getLoweredName(program, instance) for instance in INSTANCES.get(name, ())]
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


@pytest.mark.parametrize(
    ("record", "header", "struct"),
    [
        (nvrtc.TO_FRAME_PARAMS, "to_frame.h", "ToFrameParams"),
        (nvrtc.COMPOSE_FRAME_PARAMS, "compose_frame.h", "ComposeFrameParams"),
    ],
    ids=["to_frame", "compose_frame"],
)
def test_params_match_the_struct(record, header, struct, tmp_path):
    """The NumPy record has the fields, offsets and size of the C++ struct."""
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("no C++ compiler is installed")
    prints = "".join(f'std::printf("%zu ", offsetof(fastreenact::{struct}, {field}));' for field in record.names)
    code = tmp_path / "layout.cpp"
    code.write_text(
        f'#include <cstddef>\n#include <cstdio>\n#include "{header}"\n'
        f'int main() {{ {prints} std::printf("%zu", sizeof(fastreenact::{struct})); }}\n'
    )
    program = tmp_path / "layout"
    subprocess.run([compiler, "-std=c++17", f"-I{nvrtc.source_folder()}", str(code), "-o", str(program)], check=True)
    found = [int(word) for word in subprocess.run([program], capture_output=True, check=True).stdout.split()]
    assert found == [record.fields[name][1] for name in record.names] + [record.itemsize]


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


def test_to_frame_launch_packs_every_field(launches):
    params = {field: 7 + i for i, field in enumerate(nvrtc.TO_FRAME_PARAMS.names)}
    params |= {"n": 2, "height": 100_000, "width": 257}
    nvrtc.to_frame_cuda(stream=99, **params)
    assert launches[0] == 99
    name, kernel, grid, block, (packed,) = launches[1]
    assert (name, kernel, grid, block) == ("to_frame", "to_frame_kernel", (2, 32 * 1024), (64, 4))
    assert isinstance(packed, np.ndarray)
    assert packed.size == 1
    assert {field: int(packed[field]) for field in params} == params
    nvrtc.to_frame_cuda(stream=99, **(params | {"n": 0}))
    assert len(launches) == 2


def test_compose_frame_launch_packs_every_field(launches):
    params = {field: 7 + i for i, field in enumerate(nvrtc.COMPOSE_FRAME_PARAMS.names)}
    made = {"gain_scale": 0.75, "gain_shift": -0.25, "gain_middle": np.float32(np.log(0.5))}
    given = {field: value for field, value in params.items() if field not in made}
    given |= {"width": 257, "height": 1_000_000}
    nvrtc.compose_frame_cuda(stream=99, most_gain=1.5, **given)
    assert launches[0] == 99
    name, kernel, grid, block, (packed,) = launches[1]
    assert (name, kernel, grid, block) == ("compose_frame", "compose_frame_kernel", (5, 32 * 1024), (64, 4))
    assert {field: packed[field].item() for field in params} == params | given | made
    nvrtc.compose_frame_cuda(stream=99, most_gain=1.5, **(given | {"height": 0}))
    assert len(launches) == 2


def test_rasterize_landmarks_launch_packs_what_the_extension_says(launches):
    drawings = [(64 * i, (9, 8, 3), 1, 2, 7, size) for i, size in enumerate((16, 32, 360))]
    params = {"keypoints": 640, "keypoints_stride": (144, 2, 1), "n": 3, "drawings": drawings}
    nvrtc.rasterize_landmarks_cuda(stream=99, **params)
    assert launches[0] == 99
    name, grid, block, (packed,) = launches[1]
    # 360 rows in tiles of 11
    assert (name, grid, block) == ("rasterize_landmarks", (33, 3, 3), (256,))
    assert packed.tobytes()[:8] == (640).to_bytes(8, "little")
    nvrtc.rasterize_landmarks_cuda(stream=99, **(params | {"n": 0}))
    assert len(launches) == 2


def test_mbconv_launches_what_the_extension_says(launches):
    params = dict.fromkeys(("out", "expand", "expand_bias", "depthwise", "depthwise_bias", "project"), 1)
    params |= {"x": 640, "project_bias": 1, "workspace": 1, "hidden": 48, "dtype": 2, "half_sums": True, "stride": 1}
    params |= {"upsample": False, "residual": False, "architecture": 75, "x_shape": (2, 9, 17, 8)}
    params |= {"out_shape": (2, 9, 17, 100), "x_stride": (1, 1, 1, 1), "out_stride": (1, 1, 1, 1)}
    nvrtc.mbconv_cuda(stream=99, **params)
    assert launches[0::2] == [99, 99]
    expand, project = launches[1::2]
    # 306 pixels in blocks of 64; 9 x 17 outputs in tiles of 8 x 8
    assert expand[:4] == ("mbconv", "fastreenact::mbconv_expand_kernel<2, true>", (5, 1, 1), (256,))
    assert project[:4] == ("mbconv", "fastreenact::mbconv_project_kernel<2, true>", (2 * 2 * 3, 1, 1), (256,))
    assert expand[4][0].tobytes()[:8] == (640).to_bytes(8, "little")
    nvrtc.mbconv_cuda(stream=99, **(params | {"out_shape": (2, 9, 17, 64)}))
    assert launches[5][1] == "fastreenact::mbconv_wide_kernel<2, true>"
    nvrtc.mbconv_cuda(stream=99, **(params | {"x_shape": (0, 9, 17, 8)}))
    assert len(launches) == 6
