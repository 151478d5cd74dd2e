"""Every Triton kernel compiles for tensors of one value: Triton then compiles all numbers in."""

import pytest
from triton_case import compile_offline

pytest.importorskip("triton", reason="Triton is not installed")

ONE_TILE = {"ALIGN": 1, "BLOCK_P": 1, "BLOCK_C": 1}
PIXEL = {"ALIGN": 1, "BLOCK_X": 1, "BLOCK_C": 1}
AFFINE = {"HAS_SCALE": True, "HAS_SHIFT": True}
REPEATS = {"REPEAT_Z": 1, "REPEAT_Y": 1, "REPEAT_X": 1}
WARP = {**AFFINE, "SOURCE_INDEX": True, "TABLE": True, "ACTIVATION": 1, **PIXEL}
# module, kernel, constants
KERNELS = [
    (
        "dictionary_read",
        "_dictionary_read_kernel",
        {"WIDEN": False, "BLOCK_M": 64, "BLOCK_R": 64, "BLOCK_K": 16, "BLOCK_C": 16},
    ),
    ("grid_sample_3d", "_grid_sample_3d_kernel", {"SUM": False, "BORDER": False, "ALIGN_CORNERS": False, **PIXEL}),
    ("grid_sample_3d", "_grid_sample_3d_kernel", {"SUM": True, "BORDER": True, "ALIGN_CORNERS": True, **PIXEL}),
    ("norm_act", "_sums_kernel", {"FLAT": False, **ONE_TILE}),
    ("norm_act", "_factors_kernel", {**AFFINE, "MEMBERS": 1, "BLOCK_M": 1, "BLOCK_S": 1}),
    ("norm_act", "_sweep_kernel", {"HAS_RESIDUAL": True, "ACTIVATION": 3, "FLAT": False, **REPEATS, **ONE_TILE}),
    ("spade", "_spade_kernel", {"CHANNELS": 1, "FOLDED": False, "HALF": 0, "ACTIVATION": 2, "ALIGN": 1, "BLOCK": 1}),
    ("warp", "_warp_kernel", {"BORDER": False, "FIELD_BILINEAR": False, **WARP}),
    ("warp", "_warp_kernel", {"BORDER": True, "FIELD_BILINEAR": True, **WARP}),
]
POINTERS = {"index_y_ptr": "i32", "index_x_ptr": "i32", "pictures_ptr": "i32", "numbers": "1"}
POINTERS |= {"scale": "fp32", "eps": "fp32"}


@pytest.mark.parametrize(("module", "kernel", "constants"), KERNELS, ids=str)
def test_kernel_of_one_value_compiles(module, kernel, constants, tmp_path):
    compile_offline(f"fastreenact.kernels.{module}", kernel, {"one": (POINTERS, constants)}, tmp_path, [80])
    assert (tmp_path / "80-one.ptx").stat().st_size > 0
