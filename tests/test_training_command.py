"""`fastreenact train` from a folder to weights, stopped by a signal and resumed."""

import io
import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from training_case import write_folder

from fastreenact.app.cli import main
from fastreenact.models.refined_warp.weights import load_refined_warp
from fastreenact.training import command
from fastreenact.training.loop import Progress, saved_config


@pytest.fixture
def out(tmp_path: Path) -> Iterator[Path]:
    """A folder for a run that does not stay: a full state has 215 MB."""
    yield tmp_path / "run"
    shutil.rmtree(tmp_path / "run", ignore_errors=True)


def test_train_stop_and_resume(tmp_path, out, monkeypatch, capsys):
    data = tmp_path / "data"
    write_folder(data, {"a#1": [1, 12, 25], "b#1": [3], "b#2": [4, 9]})
    arguments = ["train", "--data", str(data), "--heads", "1", "--shares", "data=2,heads=1", "--out", str(out)]
    arguments += ["--device", "cpu"]

    def interrupt(self: object, progress: Progress) -> None:
        if progress.step == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patched:
        patched.setattr(command._Line, "__call__", interrupt)
        sizes = ["--size", "64", "--motion-size", "64", "--steps", "2", "--batch", "2", "--discriminator-from", "2"]
        assert main([*arguments, *sizes, "--ema", "0.9", "--warm-up", "3"]) == 130
    assert signal.getsignal(signal.SIGTERM) is before
    said = capsys.readouterr()
    assert said.out.endswith("weights.safetensors: 1 of 2 steps\n")
    assert "1 files or folders of the data were skipped: skipped.txt" in said.err
    assert "stopped; --resume goes on from here" in said.err
    assert (out / "skipped.txt").read_text() == "data/b#1: has 1 usable frames, two are needed\n"

    assert main([*arguments, "--size", "64"]) == 1
    assert "holds a training run already" in capsys.readouterr().err
    assert main([*arguments, "--resume", "--no-base"]) == 1
    assert "began with base True, and has to go on with it" in capsys.readouterr().err

    assert main([*arguments, "--resume"]) == 0
    said = capsys.readouterr()
    assert said.out.endswith("weights.safetensors: 2 of 2 steps\n")
    assert "2/2" in said.err  # the last progress line
    config = saved_config(out)
    assert (config.size, config.motion_size, config.batch, config.discriminator_from) == (64, 64, 2, 2)
    assert (config.ema, config.warm_up, config.base) == (0.9, 3, True)
    assert [json.loads(line)["step"] for line in (out / "losses.jsonl").open()] == [0, 1]
    model = load_refined_warp(out / "weights.safetensors")
    assert model.metadata["head_pose"] == "official"
    assert model.metadata["model"] == "refined-warp"


def test_train_refuses(tmp_path, capsys):
    arguments = ["train", "--data", str(tmp_path), "--out", str(tmp_path / "run")]
    assert main(arguments) == 1
    assert "list.txt is missing" in capsys.readouterr().err
    assert main(["train", "--out", str(tmp_path / "run")]) == 1
    assert "nothing to train on: give --heads" in capsys.readouterr().err
    assert main([*arguments, "--photos", str(tmp_path)]) == 1
    assert "no photograph in it can be used" in capsys.readouterr().err
    assert main([*arguments, "--videos", str(tmp_path)]) == 1
    assert "holds no video" in capsys.readouterr().err
    assert main(["train", "--heads", "--shares", "data=1", "--out", str(tmp_path / "run")]) == 1
    assert "shares: data is not among the data (heads)" in capsys.readouterr().err
    assert main([*arguments, "--shares", "data"]) == 2
    assert "'data' is not KIND=X" in capsys.readouterr().err
    assert main([*arguments, "--resume"]) == 1
    assert "there is no run to resume" in capsys.readouterr().err
    assert main([*arguments, "--steps", "many"]) == 2
    assert "'many' is not a whole number" in capsys.readouterr().err
    assert main([*arguments, "--learning-rate", "nan"]) == 1
    assert "learning_rate must be above 0" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert main(["train", "--data", str(tmp_path), "--out", str(tmp_path / "file")]) == 1
    assert "is not a folder" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_progress_lines(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    progress = Progress(120, 1000, {"reconstruction": 3.2145, "warp": 0.02125, "field": 1.0}, 8.71, 3725.4)
    text = "120/1000  8.7 images/s  1:02:05 left  reconstruction 3.21  warp 0.0213"
    assert command.progress_text(progress) == text
    monkeypatch.setattr(command, "_ON_TERMINAL_S", 0.0)
    terminal = Terminal()
    line = command._Line(terminal)
    line(progress)
    line(progress._replace(step=9))
    line.close()
    shorter = "9" + text.removeprefix("120")
    written, row = terminal.getvalue(), ""
    assert f"\r{text}\r" in written
    assert written.endswith("\n")
    for part in written.rstrip("\n").split("\r"):
        row = part + row[len(part) :]
    assert row.rstrip(" ") == shorter  # nothing of the longer line stays
    unused = Terminal()
    command._Line(unused).close()
    assert unused.getvalue().strip("\r ") == ""
    file = io.StringIO()
    line = command._Line(file)
    line(progress)  # too early
    line(progress._replace(step=1000))
    line.close()
    assert file.getvalue() == "1000" + text[3:] + "\n"
