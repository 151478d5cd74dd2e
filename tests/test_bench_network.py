"""bench/network.py times engines in processes of their own, and only where their pictures agree."""

import subprocess
import sys
from types import SimpleNamespace

import network
import numpy as np
import pytest

PAIR = [("eager PyTorch", "float32"), ("ours", "float32")]


def test_engines_take_turns_and_agree():
    rows = network.measure(64, "cpu", PAIR, rounds=2, frames=6, seconds=1.0)
    assert [row["network"] for row in rows] == ["eager PyTorch, float32", "ours, float32"]
    for row in rows:
        assert row["frames"] == 6
        assert 0 < row["ms"] <= row["p99"] < 1e4
        assert row["first frame ms"] > 0
        assert row["relative L2"] <= network.TOLERANCE["float32"]
    assert rows[0]["times eager"] == 1
    assert rows[1]["ahead"] == rows[1]["times eager"]
    assert {"motion", "warp", "decode"} <= set(rows[1]["stages"])


def test_comparison_is_within_a_precision():
    names = ("eager PyTorch, float32", "OpenVINO, float32", "OpenVINO, bfloat16", "ours, bfloat16")
    rows = network.compare([{"network": name, "ms": ms} for name, ms in zip(names, (40, 12, 7, 5), strict=True)])
    assert [row["times eager"] for row in rows] == [1, 40 / 12, 40 / 7, 8]
    assert [row.get("ahead") for row in rows] == [None, None, None, 7 / 5]


@pytest.mark.parametrize(("dtype", "off"), [("float32", 1e-4), ("bfloat16", 0.1), ("float32", np.nan)])
def test_no_time_of_a_wrong_picture(dtype, off):
    expected = np.ones((1, 3, 8, 8), np.float32)
    right = SimpleNamespace(name="ours", dtype=dtype, picture=expected * (1 + 1e-6))
    assert network.need_close(right, expected) < 1e-5
    wrong = SimpleNamespace(name="ours", dtype=dtype, picture=expected * (1 + off))
    with pytest.raises(RuntimeError, match="ours: relative L2 error"):
        network.need_close(wrong, expected)


def test_a_worker_that_dies_is_said(tmp_path):
    with pytest.raises(RuntimeError, match="ours, float32: the process ended with exit code 1"):
        network.Worker("ours", "float32", 63, "cpu", tmp_path)  # no such size


def test_engines_end_with_the_block():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    worker = network.Worker.__new__(network.Worker)
    worker.process = process
    with pytest.raises(KeyError), network.Workers([worker]):
        raise KeyError
    assert process.poll() is not None


def test_what_is_not_installed_is_left_out(monkeypatch):
    monkeypatch.setattr(network, "PACKAGES", {"OpenVINO": ("no_such_package",)})
    assert ("OpenVINO", "float32") not in network.installed("cpu")
    assert ("ours", "bfloat16") in network.installed("cpu")
    assert ("ours", "float16") in network.installed("cuda")
