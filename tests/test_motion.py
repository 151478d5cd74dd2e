"""Motion and MotionClip: what they accept, and what a motion template file must be."""

import io
import json
import pickle
import struct

import numpy as np
import pytest

from fastreenact.errors import MediaError
from fastreenact.face.motion import Motion, MotionClip


def make_clip(frames=10, fps=25.0, **changes):
    rng = np.random.default_rng(0)
    pose = rng.normal(size=(frames, 6)).astype(np.float32)
    pose[:, 5] = 1 + np.abs(pose[:, 5])
    parts = {
        "pose": pose,
        "expression": rng.random((frames, 51), np.float32),
        "time": np.arange(frames) / fps,
        "confidence": np.ones(frames, np.float32),
        "metadata": {"fps": "25", "source": "clip.mp4"},
    }
    return MotionClip(**{**parts, **changes})


def write_template(path, header, body=b""):
    raw = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + body)


def test_clip_survives_save_and_load(tmp_path):
    clip = make_clip()
    clip.save(tmp_path / "a.safetensors")
    again = MotionClip.load(tmp_path / "a.safetensors")
    for name in ("pose", "expression", "time", "confidence"):
        np.testing.assert_array_equal(getattr(clip, name), getattr(again, name))
        assert getattr(clip, name).dtype == getattr(again, name).dtype
    assert again.metadata == clip.metadata
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_clip_is_a_sequence_of_motions():
    clip = make_clip()
    again = MotionClip.from_motions(clip, clip.metadata)
    assert len(again) == 10
    assert again[3].time == pytest.approx(0.12)
    np.testing.assert_array_equal(again.pose, clip.pose)
    assert again.duration == pytest.approx(0.4)


def test_clip_trims_by_time():
    part = make_clip().trim(0.08, 0.2)
    np.testing.assert_allclose(part.time, [0.08, 0.12, 0.16])
    assert len(make_clip().trim(0.3)) == 2
    with pytest.raises(ValueError, match=r"no frame from 9 s to the end; the clip runs from 0 s to 0.36 s"):
        make_clip().trim(9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pose": np.zeros(5)}, r"pose: got shape \(5,\), need \[6\]"),
        ({"expression": np.zeros((51, 1))}, "expression: got shape"),
        ({"expression": np.full(51, np.nan)}, "expression: some values are NaN or infinite; use Motion.missing"),
        ({"pose": np.array([0, 0, 0, np.inf, 0, 1])}, "pose: some values are NaN"),
        ({"pose": np.zeros(6)}, "scale .* is 0, need a positive number"),
        ({"time": float("nan")}, "time: got nan, need seconds"),
        ({"confidence": 1.5}, "confidence: got 1.5, need 0 to 1"),
    ],
)
def test_motion_refuses(change, message):
    parts = {"pose": np.array([0, 0, 0, 0, 0, 1.0]), "expression": np.zeros(51)}
    with pytest.raises(ValueError, match=message):
        Motion(**{**parts, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pose": np.ones((9, 6))}, r"pose: got shape \(9, 6\), need \[10, 6\]"),
        ({"time": np.zeros((10, 1))}, "time: got shape"),
        ({"time": np.zeros(10)}, "time: frame 1 is not after frame 0"),
        ({"expression": np.full((10, 51), np.inf)}, "expression: some values are NaN"),
        ({"pose": np.zeros((10, 6))}, "scale .* is not positive"),
        ({"confidence": np.full(10, 2.0)}, "confidence: some values are outside 0 to 1"),
        ({"metadata": {"fps": 25}}, "metadata: 'fps': 25 is not text"),
    ],
)
def test_clip_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        make_clip(**change)


def test_clip_of_no_motions_is_refused():
    with pytest.raises(ValueError, match="got none"):
        MotionClip.from_motions([])


class _Bomb:
    opened = False

    def __reduce__(self):
        return (setattr, (_Bomb, "opened", True))


def test_load_leaves_a_pickle_unopened(tmp_path):
    for name, protocol in (("new.pkl", 4), ("old.pkl", 0)):
        buffer = io.BytesIO()
        pickle.dump(_Bomb(), buffer, protocol)
        (tmp_path / name).write_bytes(buffer.getvalue())
        with pytest.raises(MediaError, match=r"not opened|not a safetensors file"):
            MotionClip.load(tmp_path / name)
    assert not _Bomb.opened


def test_load_refuses_other_files(tmp_path):
    path = tmp_path / "x.safetensors"
    with pytest.raises(MediaError, match="cannot read the motion template: No such file"):
        MotionClip.load(path)
    for data in (b"", b"hello", struct.pack("<Q", 1 << 60) + b"{}", b"\xff" * 200, b"[" * 9 + b"[" * 100_000):
        path.write_bytes(data)
        with pytest.raises(MediaError, match="not a safetensors file"):
            MotionClip.load(path)
    write_template(path, {})
    with pytest.raises(MediaError, match="but not a motion template"):
        MotionClip.load(path)
    write_template(path, {"__metadata__": {"format": "fastreenact-motion", "version": "9"}})
    with pytest.raises(MediaError, match="of version 9, this program reads 1"):
        MotionClip.load(path)


def _header(frames=4, **changes):
    header = {"__metadata__": {"format": "fastreenact-motion", "version": "1"}}
    offset = 0
    for name, kind, width, tail in (
        ("pose", "F32", 24, [6]),
        ("expression", "F32", 204, [51]),
        ("time", "F64", 8, []),
        ("confidence", "F32", 4, []),
    ):
        end = offset + width * frames
        header[name] = {"dtype": kind, "shape": [frames, *tail], "data_offsets": [offset, end]}
        offset = end
    return {**header, **changes}, offset


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, "has tensors"),
        ({"pose": {"dtype": "F16", "shape": [4, 6], "data_offsets": [0, 96]}}, "pose is not F32"),
        ({"pose": {"dtype": "F32", "shape": [4, 7], "data_offsets": [0, 96]}}, "pose is not F32"),
        ({"time": {"dtype": "F64", "shape": [], "data_offsets": [0, 96]}}, "time is not F64"),
        ({"time": 3}, "time is not F64"),
        ({"confidence": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}}, "confidence has 3 frames"),
    ],
)
def test_load_refuses_a_damaged_header(tmp_path, change, message):
    header, size = _header(**change)
    write_template(tmp_path / "x", header, bytes(size))
    with pytest.raises(MediaError, match=message):
        MotionClip.load(tmp_path / "x")


def test_load_refuses_a_giant_and_damaged_numbers(tmp_path):
    header, _ = _header(frames=10**12)
    write_template(tmp_path / "x", header)
    with pytest.raises(MediaError, match="pose has 1000000000000 frames, need the same"):
        MotionClip.load(tmp_path / "x")
    header, size = _header()
    write_template(tmp_path / "x", header, bytes(size))  # times do not rise, scales are 0
    with pytest.raises(MediaError, match=r"damaged .*make it anew"):
        MotionClip.load(tmp_path / "x")
    write_template(tmp_path / "x", header, bytes(size - 8))
    with pytest.raises(MediaError, match="damaged"):
        MotionClip.load(tmp_path / "x")


def test_save_says_what_went_wrong(tmp_path):
    with pytest.raises(MediaError, match="cannot write the motion template: No such file"):
        make_clip().save(tmp_path / "no" / "x.safetensors")
