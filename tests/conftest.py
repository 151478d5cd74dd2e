"""What all tests share: the tolerances, uninitialised memory that is NaN, seeds, the `shared` data."""

import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from reliability import pytest_addoption, pytest_configure, row  # noqa: F401  a plugin of hooks and a fixture
from torch import Tensor

HAS_GPU = torch.cuda.is_available()
if not HAS_GPU:
    os.environ["TRITON_INTERPRET"] = "1"  # before anything imports triton

# For parametrisations that hold on a GPU too.
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]

# For one op: greatest error as a share of the greatest value, and relative L2 error, against the reference in float64
# on the inputs as rounded.
TOLERANCES = {torch.float32: (1e-5, 1e-6), torch.float16: (2e-3, 1e-3), torch.bfloat16: (1.6e-2, 8e-3)}
# For a whole network in float32: the same two. Eager PyTorch itself is 2e-6 to 3e-6 (L2) from float64.
NETWORK_TOLERANCE = (1e-4, 1e-5)
# For a uint8 op: greatest difference in levels, and the share of values that may differ at all.
LEVELS, LEVEL_SHARE = 1, 1e-3
# For a final frame: the share of values within one level, and the greatest difference.
FRAME_SHARE, FRAME_LEVELS = 0.999, 2


def assert_close(actual: Tensor, expected: Tensor, tolerance: tuple[float, float] | None = None) -> None:
    """Both columns of the table hold for `actual`; its dtype says which row, unless `tolerance` is given."""
    assert actual.shape == expected.shape, f"shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    if actual.numel() == 0:
        return
    if actual.dtype == torch.uint8:
        difference = (actual.int() - expected.int()).abs()
        share = float((difference > 0).double().mean())
        assert difference.max() <= LEVELS, f"{int(difference.max())} levels"
        # One value may always differ: a small picture has fewer values than the share counts.
        assert share <= max(LEVEL_SHARE, 1 / actual.numel()), f"{share:.2%} of the values differ"
        return
    greatest, relative = tolerance or TOLERANCES[actual.dtype]
    actual64, expected64 = actual.double(), expected.double()
    assert torch.equal(actual64.isnan(), expected64.isnan()), "NaN in other places"
    error = (actual64 - expected64).nan_to_num(0.0)
    size = expected64.nan_to_num(0.0)
    assert error.abs().max() <= greatest * size.abs().max(), f"{error.abs().max():.3g} of {size.abs().max():.3g}"
    assert error.norm() <= relative * size.norm(), f"relative L2 {error.norm() / size.norm():.3g}"


def assert_frames_close(actual: Tensor, expected: Tensor) -> None:
    """Two final uint8 frames are the same to the eye and the table."""
    difference = (actual.int() - expected.int()).abs()
    assert difference.max() <= FRAME_LEVELS, f"{int(difference.max())} levels"
    assert (difference <= 1).double().mean() >= FRAME_SHARE, f"{(difference > 1).double().mean():.2%} beyond one level"


@pytest.fixture(autouse=True)
def _fixed_seeds_and_nan_memory():
    """Every test starts from the same random state, and reads NaN where nothing was written."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  for libraries that use the global state
    torch.manual_seed(0)
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(before)


@pytest.fixture
def generator() -> torch.Generator:
    """A seeded generator of its own for each test."""
    return torch.Generator().manual_seed(1)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of design texts, golden values and clips beside the repository; skips where it is not."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not (folder / "golden").is_dir():
        pytest.skip("needs ../shared (golden values, portraits, clips), which is not here")
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first, so that no process is left with one; tests marked `gpu` only where there is one."""
    slow = {item.path for item in items if "slow" in item.keywords}
    items.sort(key=lambda item: item.path not in slow)
    if HAS_GPU:
        return
    skip = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)
