"""The command line: what it writes, what it says, and how it ends."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

av = pytest.importorskip("av", reason="PyAV is not installed")

from clips import make_clip, ramp, tone, true_times  # noqa: E402
from fakes import FakeEngine, a_template, fake_tracking  # noqa: E402

import fastreenact  # noqa: E402
from fastreenact import engine as engine_module  # noqa: E402
from fastreenact.app import animate as animate_module  # noqa: E402
from fastreenact.app.cli import main  # noqa: E402
from fastreenact.media import read_image, write_image  # noqa: E402


@pytest.fixture
def engines(monkeypatch):
    """Put the fakes in place; gives the list of engines that the command made."""
    made = []

    def make(source, **options):
        made.append(FakeEngine(source, **{key: value for key, value in options.items() if key != "size"}))
        made[-1].options["size"] = options["size"]
        return made[-1]

    monkeypatch.setattr(engine_module, "Engine", make)
    monkeypatch.setattr(animate_module, "_track_frames", fake_tracking)
    return made


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A portrait and a driver in the current folder."""
    monkeypatch.chdir(tmp_path)
    write_image("face.png", ramp(40, 40))
    make_clip(Path("drive.mp4"), sound=tone(0.8))
    return tmp_path


def error_of(capsys):
    """The one line on stderr."""
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("fastreenact: error: ")
    assert captured.out == ""
    return lines[0].removeprefix("fastreenact: error: ")


def run(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "fastreenact", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **options,
    )


def test_a_face_that_no_frame_shows_is_said(engines, folder, capsys, monkeypatch):
    make_clip(Path("dark.mp4"), frames=[np.zeros((48, 64, 3), np.uint8)] * 5, pts=list(range(5)))
    assert main(["track", "dark.mp4", "--face", "2"]) == 1
    assert error_of(capsys) == (
        "dark.mp4: face 2 was asked for, but so many were not found in any of its 5 frames; "
        "give a smaller number, or none for the largest"
    )


def test_faces_that_are_asked_for(engines, folder, monkeypatch):
    trackers = []
    monkeypatch.setattr(
        animate_module,
        "_track_frames",
        lambda frames, tracker, saw: trackers.append(tracker) or fake_tracking(frames, tracker),
    )
    assert main(["animate", "face.png", "drive.mp4", "--face", "3", "--driver-face", "2"]) == 0
    assert engines[0].options["face"] == 3
    assert main(["track", "drive.mp4", "--face", "4"]) == 0
    assert [tracker.face for tracker in trackers] == [2, 4]


def test_animate_default_name(engines, folder, capsys):
    assert main(["animate", "face.png", "drive.mp4"]) == 0
    assert len(true_times(folder / "face--drive.mp4")) == 20
    captured = capsys.readouterr()
    assert captured.out.startswith("face--drive.mp4: 20 frames in ")
    assert captured.out.endswith("fps) with fake\n")
    assert captured.err == ""
    np.testing.assert_array_equal(engines[0].source, ramp(40, 40))
    assert engines[0].options == {
        "model": None,
        "weights": None,
        "size": None,
        "device": None,
        "dtype": None,
        "motion": "relative",
        "strength": 1.0,
        "region": "all",
        "paste": False,
        "smooth": True,
        "face": None,
    }


def test_animate_options(engines, folder):
    options = (
        "-o o.mkv --size 256 --model face2face-rho --weights w.safetensors --device cpu --dtype bfloat16 "
        "--motion absolute --strength 0.5 --region lips --paste --side-by-side --trim 0.2:0.6 --quality high "
        "--template-out t.safetensors --no-sound --no-smooth"
    )
    assert main(["animate", "face.png", "drive.mp4", *options.split()]) == 0
    assert engines[0].options == {
        "model": "face2face-rho",
        "weights": Path("w.safetensors"),
        "size": 256,
        "device": "cpu",
        "dtype": "bfloat16",
        "motion": "absolute",
        "strength": 0.5,
        "region": "lips",
        "paste": True,
        "smooth": False,
        "face": None,
    }
    assert len(true_times(folder / "o.mkv")) == 10
    assert main(["animate", "face.png", "t.safetensors", "-o", "again.mp4"]) == 0
    assert len(true_times(folder / "again.mp4")) == 10


def test_animate_into_a_folder_and_by_a_picture(engines, folder):
    (folder / "out").mkdir()
    write_image("smile.png", ramp(20, 20))
    assert main(["animate", "face.png", "drive.mp4", "-o", "out"]) == 0
    assert main(["animate", "face.png", "smile.png", "-o", "out"]) == 0
    assert main(["track", "drive.mp4", "-o", "out"]) == 0
    assert sorted(os.listdir("out")) == ["drive.safetensors", "face--drive.mp4", "face--smile.png"]
    assert read_image("out/face--smile.png").shape == (32, 48, 3)


def test_force(engines, folder, capsys):
    Path("o.mp4").write_bytes(b"precious")
    assert main(["animate", "face.png", "drive.mp4", "-o", "o.mp4"]) == 1
    assert error_of(capsys) == "o.mp4 exists already: choose another name, or overwrite it with force (--force)"
    assert engines == []
    assert main(["animate", "face.png", "drive.mp4", "-o", "o.mp4", "--force"]) == 0
    assert len(true_times(folder / "o.mp4")) == 20


def test_notes_on_stderr(engines, folder, monkeypatch, capsys):
    monkeypatch.setattr(FakeEngine, "__init__", _odd_engine(FakeEngine.__init__))
    assert main(["animate", "face.png", "drive.mp4"]) == 0
    assert capsys.readouterr().err == "fastreenact: note: 47 x 33 padded to 48 x 34: H.264 needs even sides\n"


def _odd_engine(init):
    return lambda self, source=None, **options: init(self, source, size=(33, 47), **options)


def test_bad_inputs(engines, folder, capfd):
    """One line each, whatever the libraries under us write to stderr themselves."""
    Path("text.png").write_text("no picture")
    Path("junk.mp4").write_bytes(b"no video" * 100)
    Path("empty.mp4").write_bytes(b"")
    Path("t.safetensors").write_bytes(b"\x80\x04junk")
    Path("cut.png").write_bytes(Path("face.png").read_bytes()[:100])
    Path("bomb.ppm").write_bytes(b"P6 20000 20000 255\n")
    for name, count in (("black.mp4", 3), ("cut.mkv", 20)):
        make_clip(Path(name), frames=[np.zeros((48, 64, 3), np.uint8)] * count, pts=list(range(count)))
    os.truncate("cut.mkv", 900)
    make_clip(Path("wide.mkv"), frames=[np.zeros((16, 8400, 3), np.uint8)], pts=[0])
    make_clip(Path("still.mkv"), frames=[np.zeros((48, 64, 3), np.uint8)], pts=[0])
    with av.open("song.m4a", "w") as song, av.open("drive.mp4") as clip:
        track = song.add_stream_from_template(clip.streams.audio[0])
        for packet in clip.demux(audio=0):
            if packet.dts is not None:
                packet.stream = track
                song.mux(packet)
    write_image("smile.png", ramp(20, 20))
    os.mkdir("folder")
    os.mkfifo("pipe.mp4")
    cases = [
        (["none.png", "drive.mp4"], "none.png: no such file"),
        (["text.png", "drive.mp4"], "text.png cannot be read as a picture (not a picture format known here): save or"),
        (["cut.png", "drive.mp4"], "cut.png cannot be read as a picture (image file is truncated): save or copy it"),
        (["bomb.ppm", "drive.mp4"], "bomb.ppm has 20000 x 20000 pixels, more than the limit of 200 million: make it"),
        (["drive.mp4", "drive.mp4"], "drive.mp4 cannot be read as a picture (not a picture format known here)"),
        (["folder", "drive.mp4"], "folder is a folder, not a picture"),
        (["pipe.mp4", "drive.mp4"], "pipe.mp4 is a device or a pipe, not a picture"),
        (["face.png", "none.mp4"], "none.mp4: no such file"),
        (["face.png", "junk.mp4"], "junk.mp4 cannot be read as a video (Invalid data found when processing input): if"),
        (["face.png", "empty.mp4"], "empty.mp4 cannot be read as a video"),
        (["face.png", "cut.mkv"], "cut.mkv"),
        (["face.png", "cut.png"], "cut.png cannot be read as a picture"),
        (["face.png", "wide.mkv"], "wide.mkv is 8400 x 16 pixels; the limit is 8192 a side: scale it down"),
        (["face.png", "song.m4a"], "song.m4a has no video stream (only sound): name a video"),
        (["face.png", "folder"], "folder is a folder, not a video"),
        (["face.png", "pipe.mp4"], "pipe.mp4 is a device or a pipe, not a video"),
        (["face.png", "t.safetensors"], "is a pickle or a zip archive"),
        (["face.png", "black.mp4"], "black.mp4: no face found in any of its 3 frames"),
        (["face.png", "still.mkv"], "still.mkv: no face found"),
        (["face.png", "smile.png", "-o", "o.mp4"], "smile.png is a picture, so o.mp4 would hold one frame: name"),
        (["face.png", "drive.mp4", "-o", "no/o.mp4"], "the folder of o.mp4 does not exist"),
        (["face.png", "drive.mp4", "-o", "o.avi"], "choose one of these endings"),
        (["face.png", "drive.mp4", "-o", "drive.mp4", "--force"], "drive.mp4 is the driver itself"),
        (["face.png", "drive.mp4", "-o", "face.png", "--force"], "face.png is the portrait itself"),
        (["face.png", "drive.mp4", "--trim", "7:"], "no frame between 7 s and its end"),
    ]
    before = sorted(os.listdir())
    for arguments, words in cases:
        assert main(["animate", *arguments]) == 1, arguments
        assert words in error_of(capfd), arguments
    assert sorted(os.listdir()) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "arguments are required: COMMAND"),
        (["anima"], "invalid choice"),
        (["animate", "a"], "required: DRIVER"),
        (["animate", "a", "b", "--size", "63"], "'63' is not a whole number from 64 to 2048"),
        (["animate", "a", "b", "--size", "2049"], "64 to 2048"),
        (["animate", "a", "b", "--size", "x"], "64 to 2048"),
        (["animate", "a", "b", "--trim", "3"], "is not START:END"),
        (["animate", "a", "b", "--trim", "3:2"], "is not START:END"),
        (["animate", "a", "b", "--trim", "-1:2"], "is not START:END|expected one argument"),
        (["animate", "a", "b", "--trim", "nan:"], "is not START:END"),
        (["animate", "a", "b", "--quality", "best"], "low, medium, high"),
        (["animate", "a", "b", "--motion", "x"], "invalid choice"),
        (["animate", "a", "b", "--region", "nose"], "invalid choice"),
        (["animate", "a", "b", "--face", "0"], "'0' is not a whole number from 1 to 99"),
        (["animate", "a", "b", "--strength", "x"], "invalid float"),
        (["animate", "a", "b", "--dtype", "int8"], "invalid choice"),
        (["bench", "--frames", "0"], "1 to 1000000"),
        (["track"], "required: VIDEO"),
        (["convert", "a"], "required: MOTION"),
    ],
)
def test_wrong_usage(arguments, words, capsys):
    assert main(arguments) == 2
    text = error_of(capsys)
    assert any(word in text for word in words.split("|"))
    assert text.endswith("--help)")


def test_engine_errors_are_one_line(engines, folder, monkeypatch, capsys):
    for error, words in (
        (ValueError("size is 3;\n give more"), "size is 3; give more"),
        (fastreenact.WeightsError("w is damaged"), "w is damaged"),
        (ModuleNotFoundError("No module named 'mediapipe'", name="mediapipe"), "pip install 'fastreenact[track]'"),
        (MemoryError(), "not enough memory"),
        (PermissionError(13, "Permission denied", "/a/b.mp4"), "b.mp4: Permission denied"),
        (KeyError("x"), "this should not happen"),
    ):

        def fail(*_, error=error, **__):
            raise error

        monkeypatch.setattr(engine_module, "Engine", fail)
        assert main(["animate", "face.png", "drive.mp4"]) == 1
        assert words in error_of(capsys)


def test_traceback_only_when_asked(engines, folder, monkeypatch, capsys):
    assert main(["animate", "none.png", "drive.mp4", "-vv"]) == 1
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.setenv("FASTREENACT_DEBUG", "1")
    assert main(["animate", "none.png", "drive.mp4"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_ctrl_c(engines, folder, monkeypatch, capsys):
    Path("o.mp4").write_bytes(b"precious")
    monkeypatch.setattr(FakeEngine, "__init__", _stopping_engine(FakeEngine.__init__))
    assert main(["animate", "face.png", "drive.mp4", "-o", "o.mp4", "--force"]) == 130
    assert capsys.readouterr().err == "fastreenact: stopped after 7 of 20 frames; they are in o.part.mp4\n"
    assert Path("o.mp4").read_bytes() == b"precious"
    assert len(true_times(folder / "o.part.mp4")) == 7


def _stopping_engine(init):
    return lambda self, source=None, **options: init(self, source, stop_at=7, **options)


def cut_drivers(folder):
    """Clips with their index first, in fragments or none, as (file, where their frames' packets end at the latest)."""
    noise = list(np.random.default_rng(0).integers(20, 255, (50, 48, 64, 3), dtype=np.uint8))
    common = {"frames": noise, "pts": list(range(50)), "sound": tone(2)}
    fragments = {"options": {"g": "10", "bf": "0"}, "container_options": {"movflags": "frag_keyframe+delay_moov"}}
    webm = {"codec": "libvpx", "sound_codec": "libopus", "options": {"deadline": "realtime", "g": "10"}}
    for name, more in {
        "first.mp4": {"container_options": {"movflags": "faststart"}},
        "fragments.mp4": fragments,
        "c.mkv": {"options": {"g": "10"}},
        "c.webm": webm,
    }.items():
        clip = make_clip(folder / name, **common, **more)
        with av.open(str(clip)) as container:
            # 16: Matroska's block begins before the packet
            yield clip, [packet.pos + packet.size + 16 for packet in container.demux(video=0) if packet.size]


@pytest.mark.row("V3", "a driver cut anywhere: all frames before the cut, a warning, exit 3; without index, an error")
def test_cut_driver_exits_with_3(engines, folder, capsys, row):
    cuts = lost = unsaid = 0
    for clip, ends in cut_drivers(folder):
        data, first = clip.read_bytes(), ends[5]  # so much FFmpeg wants to see of a file in fragments
        for cut in np.linspace(first, ends[-1] - 17, row.amount(4, 100)).astype(int).tolist():
            Path(f"cut{clip.suffix}").write_bytes(data[:cut])
            Path("o.mp4").unlink(missing_ok=True)
            code = main(["animate", "face.png", f"cut{clip.suffix}", "-o", "o.mp4"])
            said = capsys.readouterr().err
            cuts += 1
            lost += max(0, sum(end <= cut for end in ends) - len(true_times(Path("o.mp4"))))
            unsaid += code != 3 or f"fastreenact: note: cut{clip.suffix} is damaged (" not in said
    data, slowest = Path("drive.mp4").read_bytes(), 0.0
    for cut in (60, data.index(b"moov") // 2, data.index(b"moov") + 100):
        Path("d.mp4").write_bytes(data[:cut])
        start = time.process_time()
        assert main(["animate", "face.png", "d.mp4", "-o", "none.mp4"]) == 1
        slowest = max(slowest, time.process_time() - start)
        assert re.fullmatch("d.mp4 is cut short, (before|within) its index: get it anew", error_of(capsys))
    row.measured(
        f"4 containers, {cuts} cuts: {lost} frames lost, {unsaid} not said; without index an error in "
        f"{1000 * slowest:.0f} ms"
    )
    assert lost == 0
    assert unsaid == 0
    assert slowest <= 1
    assert not Path("none.mp4").exists()


def test_damaged_driver_exits_with_3(engines, folder, capsys):
    noise = np.random.default_rng(0).integers(20, 255, (50, 48, 64, 3), dtype=np.uint8)
    clip = make_clip(folder / "d.mp4", frames=list(noise), pts=list(range(50)), options={"g": "10"})
    data = bytearray(clip.read_bytes())
    data[len(data) // 3 : len(data) // 3 + 3000] = bytes(3000)
    Path("d.mp4").write_bytes(data)
    assert main(["animate", "face.png", "d.mp4"]) == 3
    assert "note: d.mp4 is damaged" in capsys.readouterr().err
    assert len(true_times(folder / "face--d.mp4")) > 20


HOSTILE = ["two\nlines", "quote'\"`$(x)", "sm\N{GRINNING FACE}le", "\udcff\udcfe", "-dash", "a:b%03d", "e" * 243]


@pytest.mark.row("S5", "the same names on the command line: animated, and said in one line")
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_file_names(row, engines, folder, name, capsysbinary):
    row.measured(f"{len(HOSTILE)} of {len(HOSTILE)} names")
    os.rename("face.png", f"{name}.png")
    os.rename("drive.mp4", f"{name}.mp4")
    before = set(os.listdir())
    assert main(["animate", "--", f"{name}.png", f"{name}.mp4"]) == 0
    (out,) = set(os.listdir()) - before
    assert len(true_times(Path(out))) == 20
    assert capsysbinary.readouterr().out.count(b"\n") == 1
    assert main(["track", "--", f"{name}.mp4"]) == 0
    assert main(["animate", "--", f"{name}.png", f"{name}.mp4"]) == 1  # it exists: the name is in the message
    assert capsysbinary.readouterr().err.count(b"\n") == 1


def test_track(engines, folder, capsys):
    assert main(["track", "drive.mp4", "--trim", ":0.4"]) == 0
    assert capsys.readouterr().out.startswith("drive.safetensors: 10 frames in ")
    assert main(["track", "drive.mp4"]) == 1
    assert "exists already" in error_of(capsys)
    assert main(["track", "drive.safetensors", "-o", "x.safetensors"]) == 1
    assert "template already" in error_of(capsys)


def test_convert_passes_its_arguments(monkeypatch, capsys):
    from fastreenact.models import convert as convert_module

    calls = []
    monkeypatch.setattr(convert_module, "convert", lambda _, paths, out, **k: calls.append(((*paths, out), k)))
    assert main(["convert", "r.pth", "m.pth", "-o", "w.safetensors", "--size", "256", "--force"]) == 0
    assert calls == [((Path("r.pth"), Path("m.pth"), Path("w.safetensors")), {"size": 256, "force": True})]
    assert capsys.readouterr().out == "w.safetensors: converted\n"


def test_convert_error(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["convert", "r.pth", "m.pth"]) == 1
    assert "r.pth" in error_of(capsys)


def test_demo_and_doctor_are_called(monkeypatch, tmp_path):
    from fastreenact.app import demo, doctor

    asked = []
    monkeypatch.setattr(demo, "main", lambda folder: asked.append(folder) or 0)
    monkeypatch.setattr(doctor, "main", lambda: asked.append("doctor") or 1)
    assert main(["demo", "-o", str(tmp_path)]) == 0
    assert main(["doctor"]) == 1
    assert asked == [tmp_path, "doctor"]


def test_bench_table(engines, folder, monkeypatch, capsys):
    monkeypatch.setattr(FakeEngine, "timings", {"track": 1.5, "fit": 0.5}, raising=False)
    monkeypatch.setattr(FakeEngine, "dtype", "float32", raising=False)
    monkeypatch.setattr(FakeEngine, "device", "cpu", raising=False)
    assert main(["bench", "--source", "face.png", "--frames", "5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "fake, 48 x 32, float32, cpu, 5 frames"
    assert [text.split()[0] for text in lines[2:5]] == ["track", "fit", "whole"]
    assert lines[2].split()[1] == "1.50"
    assert lines[-1].endswith("frames per second")


def test_version_and_help(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"fastreenact {fastreenact.__version__}\n"
    for command in ("animate", "track", "evaluate", "train", "demo", "doctor", "convert", "bench"):
        assert main([command, "--help"]) == 0
        assert command in capsys.readouterr().out


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from fastreenact.app.cli import main; code = main(['animate', '--help']); "
        "heavy = {'torch', 'numpy', 'av', 'PIL', 'triton', 'cupy', 'mediapipe'} & set(sys.modules); "
        "sys.exit(code or len(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_from_outside(tmp_path):
    """Exit code and one line on stderr as a shell sees them; standard output that cannot show the name."""
    done = run("animate", "no\nne.png", "none.mp4", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "fastreenact: error: none.mp4: no such file\n"
    a_template(tmp_path / "t.safetensors", [0, 0.1])
    done = run(
        "track",
        "t.safetensors",
        "-o",
        "\N{GRINNING FACE}.safetensors",
        cwd=tmp_path,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1


def test_closed_pipe():
    reader, writer = os.pipe()
    os.close(reader)
    code = (
        "from fastreenact.app import cli, doctor; doctor.main = lambda: print('x' * 100000) or 0; "
        "import sys; sys.exit(cli.main(['doctor']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60, check=False
    )
    os.close(writer)
    assert done.returncode == 141
    assert done.stderr == ""
