"""F3, S2, S3, S4: weights and motion templates from strangers are read in full or refused in one line."""

import io
import json
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from op_calls import Draw
from safetensors.torch import save_file

from fastreenact import weights
from fastreenact.errors import MediaError, WeightsError
from fastreenact.face.morphable.model import MorphableModel
from fastreenact.face.motion import MotionClip
from fastreenact.models import DEFAULT, shipped_weights
from fastreenact.models.face2face_rho.networks import Face2FaceRho, random_face2face_rho
from fastreenact.models.face2face_rho.weights import load_face2face_rho
from fastreenact.weights import FORMAT

METADATA = {"format": FORMAT, "model": "face2face-rho", "size": "512", "head_pose": "official"}
LOADERS = {"weights": (load_face2face_rho, WeightsError), "template": (MotionClip.load, MediaError)}


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """A good file of each kind."""
    folder = tmp_path_factory.mktemp("originals")
    state = random_face2face_rho(5).state_dict()
    tensors = {k: v.half() for k, v in state.items() if not k.endswith("num_batches_tracked")}
    save_file(tensors, folder / "weights", METADATA)
    pose = np.tile(np.array([0, 0, 0, 0, 0, 1], np.float32), (40, 1))
    MotionClip(pose, np.zeros((40, 51)), np.arange(40) / 25, np.ones(40), {"fps": "25"}).save(folder / "template")
    return {name: folder / name for name in LOADERS}


@pytest.fixture
def draw(generator):
    return Draw(generator)


def mutations(path: Path, draw: Draw, count: int):
    """Change some bytes of a file in place, two times in three in its header; undone after each."""
    with path.open("r+b") as file:
        header = 8 + struct.unpack("<Q", file.read(8))[0]
        size = path.stat().st_size
        for i in range(count):
            before = []
            for _ in range(draw.one(1, 1, 2, 8)):
                at = draw.whole(0, (header if i % 3 else size) - 1)
                file.seek(at)
                before.append((at, file.read(1)))
                file.seek(at)
                file.write(bytes([draw.one(before[-1][1][0] ^ 1 << draw.whole(0, 7), draw.whole(0, 255))]))
            if i == count - 1:  # the last: a shorter file is not mended
                file.truncate(draw.whole(0, size - 1))
            file.flush()
            yield i
            for at, byte in reversed(before):
                file.seek(at)
                file.write(byte)


def is_sound(kind: str, found: object) -> bool:
    """What loaded is complete and finite."""
    if kind == "template":
        assert isinstance(found, MotionClip)
        return all(len(found) == len(part) and np.isfinite(part).all() for part in (found.pose, found.expression))
    assert isinstance(found, Face2FaceRho)
    return all(value.isfinite().all() for value in found.state_dict().values())


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.row("F3", "changed safetensors files: loaded whole and finite, or one error; no crash")
def test_changed_files(row, kind, originals, tmp_path, draw):
    load, refusal = LOADERS[kind]
    count, path, loaded, refused = row.amount(60, 5_000), tmp_path / "x.safetensors", 0, 0
    good = originals[kind].read_bytes()
    while loaded + refused < count:
        path.write_bytes(good)
        for _ in mutations(path, draw, min(count - loaded - refused, 30)):
            try:
                found = load(path)
            except refusal:
                refused += 1
            else:
                loaded += 1
                assert is_sound(kind, found)
    row.measured(f"{kind}: {count} files, {refused} refused, {loaded} loaded")
    assert refused > 0
    assert loaded > 0


def handmade(kind: str, good: bytes):
    """Files that a hand made wrong."""
    length = struct.unpack("<Q", good[:8])[0]
    header, data = json.loads(good[8 : 8 + length]), good[8 + length :]
    first = sorted(name for name in header if name != "__metadata__")[0]

    def with_header(text: str | bytes) -> bytes:
        raw = text.encode() if isinstance(text, str) else text
        return struct.pack("<Q", len(raw)) + raw + data

    def changed(**entry: object) -> bytes:
        return with_header(json.dumps(header | {first: header[first] | entry}))

    begin, end = header[first]["data_offsets"]
    yield "empty", b""
    yield "seven bytes", good[:7]
    yield "no header", struct.pack("<Q", 0) + data
    yield "a header of 2^63 bytes", struct.pack("<Q", 2**63) + good[8:]
    yield "a header longer than the file", struct.pack("<Q", len(good)) + good[8:]
    yield "lists in lists", with_header("[" * 50_000)
    yield "no JSON", with_header(b"{" + b"\xff" * 40)
    yield "a number for a header", with_header("7")
    yield "offsets that cross", changed(data_offsets=[end, begin])
    yield "offsets beyond the file", changed(data_offsets=[begin + len(data), end + len(data)])
    yield "negative offsets", changed(data_offsets=[-8, end])
    yield "offsets of 2^64", changed(data_offsets=[2**64, 2**64 + end - begin])
    yield "overlapping offsets", changed(data_offsets=[begin + 4, end + 4])
    yield "a shape of 2^124", changed(shape=[2**62, 2**62])
    yield "a negative shape", changed(shape=[-1])
    yield "a shape of words", changed(shape=["a"])
    yield "another dtype", changed(dtype="I64")
    yield "an unknown dtype", changed(dtype="F3")
    yield "metadata of numbers", with_header(json.dumps(header | {"__metadata__": {"format": 1}}))
    yield "metadata that is a list", with_header(json.dumps(header | {"__metadata__": ["format"]}))
    yield "no metadata", with_header(json.dumps({k: v for k, v in header.items() if k != "__metadata__"}))
    yield "bytes behind the end", good + b"\0" * 64
    yield "half of the data", good[: len(good) // 2]
    fill = b"\x00\x7c" if header[first]["dtype"] == "F16" else b"\x00\x00\x80\x7f"  # infinity
    yield "infinity", good[: 8 + length + begin] + fill + good[8 + length + begin + len(fill) :]


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.row("F3", "files made wrong by hand are refused")
def test_handmade_files(row, kind, originals, tmp_path):
    (load, refusal), count = LOADERS[kind], 0
    for words, data in handmade(kind, originals[kind].read_bytes()):
        path = tmp_path / "x.safetensors"
        path.write_bytes(data)
        with pytest.raises(refusal) as caught:
            load(path)
        assert "\n" not in str(caught.value), words
        count += 1
    row.measured(f"{kind}: {count} of {count} refused")


@pytest.mark.row("S4", "the shipped weights with bytes changed anywhere: never loaded, the sha256 differs")
def test_changed_shipped_weights_are_never_loaded(row, tmp_path, draw, monkeypatch):
    shipped = shipped_weights()
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / DEFAULT.shipped[0]
    monkeypatch.setattr(weights, "__file__", str(tmp_path / "weights.py"))
    count = row.amount(4, 1_000)
    size, data = shipped.stat().st_size, shipped.read_bytes()
    path.write_bytes(data)
    assert shipped_weights() == path
    with path.open("r+b") as file:
        for _ in range(count):
            at = draw.whole(0, size - 1)
            file.seek(at)
            file.write(bytes([data[at] ^ 1 << draw.whole(0, 7)]))
            file.flush()
            with pytest.raises(WeightsError, match=r"is damaged .its sha256 is another"):
                shipped_weights()
            file.seek(at)
            file.write(data[at : at + 1])
    row.measured(f"{count} files with one bit changed, all refused (there are no downloads)")


class Bomb:
    """Leaves a trace where it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return (open, (str(self.trace), "w"))


@pytest.mark.row("S2", "pickles as weights, template or face model: refused, nothing runs")
def test_pickles_run_nothing(row, tmp_path):
    trace, refused = tmp_path / "trace", 0
    zipped = io.BytesIO()
    torch.save(Bomb(trace), zipped)
    pickled_array = io.BytesIO()
    np.save(pickled_array, np.array([Bomb(trace)], object), allow_pickle=True)
    bombs = [pickle.dumps(Bomb(trace), protocol) for protocol in range(6)]
    bombs += [zipped.getvalue(), pickled_array.getvalue()]
    for suffix in (".pkl", ".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".npz", ""):
        for data in bombs:
            path = tmp_path / f"x{suffix}"
            path.write_bytes(data)
            for load, refusal in (*LOADERS.values(), (MorphableModel.load, WeightsError)):
                with pytest.raises(refusal):
                    load(path)
                refused += 1
    row.measured(f"{refused} calls refused, nothing run")
    assert not trace.exists()


NAMES = [
    "../x",
    "../../../../etc/passwd",
    "..",
    ".",
    "/",
    "//",
    "/etc/passwd",
    "/dev/null",
    "~/x",
    "~root/.ssh/id_rsa",
    "..\\..\\x",
    "C:\\x",
    "c:/x",
    "C:x",
    "\\\\host\\share\\x",
    "file:///etc/passwd",
    "CON",
    "NUL",
    "AUX.safetensors",
    "COM1",
    "x\0y",
    "\0",
    "",
    " ",
    "x\ny",
    "\r\n",
    "$(touch x)",
    "`touch x`",
    "%n%s",
    "-rf",
    "a/../../x",
    "motion_net.model1_3.bias\0",
    "motion_net.model1_3.bias ",
    "../motion_net.model1_3.bias",
    "__class__",
    "\u202e",
    "e" * 9999,
]


@pytest.mark.row("S3", "hostile names of tensors: refused, and nothing is written")
def test_hostile_tensor_names(row, originals, tmp_path):
    refused = 0
    for kind, (load, refusal) in LOADERS.items():
        good = originals[kind].read_bytes()
        length = struct.unpack("<Q", good[:8])[0]
        header, data = json.loads(good[8 : 8 + length]), good[8 + length :]
        first = next(name for name in header if name != "__metadata__")
        (tmp_path / kind).mkdir()
        path = tmp_path / kind / "x.safetensors"
        for name in NAMES:
            raw = json.dumps({name if key == first else key: value for key, value in header.items()}).encode()
            path.write_bytes(struct.pack("<Q", len(raw)) + raw + data)
            with pytest.raises(refusal) as caught:
                load(path)
            assert str(caught.value).isprintable(), name
            refused += 1
        assert os.listdir(tmp_path / kind) == ["x.safetensors"]
    row.measured(f"{refused} files with {len(NAMES)} names, all refused")


@pytest.mark.row("S3", "hostile paths to weights and templates: one error, no wait")
def test_hostile_paths(row, originals, tmp_path):
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "nowhere.safetensors").symlink_to(tmp_path / "none")
    (tmp_path / "round.safetensors").symlink_to(tmp_path / "round.safetensors")
    (tmp_path / "zero.safetensors").symlink_to("/dev/zero")
    paths = [str(tmp_path / name) for name in os.listdir(tmp_path)]
    paths += ["x\0y.safetensors", "", ".", "/", "..", "/dev/null", "/dev/zero", "e" * 5000, "/proc/self/mem"]
    refused = 0
    for load, refusal in LOADERS.values():
        for path in paths:
            with pytest.raises(refusal) as caught:
                load(path)
            assert "\n" not in str(caught.value)
            refused += 1
    # A link to a good file is the caller's own affair.
    (tmp_path / "good.safetensors").symlink_to(originals["template"])
    assert len(MotionClip.load(tmp_path / "good.safetensors")) == 40
    row.measured(f"{refused} of {refused} refused")
