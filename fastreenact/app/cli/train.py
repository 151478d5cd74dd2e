"""`fastreenact train`."""

import argparse
import sys
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

from fastreenact.app.cli.arguments import Parser, add_device, by_name, called, count, whole
from fastreenact.app.cli.messages import complain, say
from fastreenact.errors import printable
from fastreenact.training.schedule import TrainConfig


def add(p: Parser) -> None:
    """Its arguments."""
    p.description = (
        f"Train the networks of {called(lambda model: model.target)} on one or several kinds of data. "
        "Ctrl-C saves the state; --resume goes on from it."
    )
    p.add_argument(
        "--heads",
        type=count,
        nargs="?",
        const=100_000,
        metavar="N",
        help="generated heads, of N people (default 100000)",
    )
    p.add_argument("--photos", type=Path, metavar="FOLDER", help="portraits, each made a head that moves")
    p.add_argument("--videos", type=Path, metavar="FOLDER", help="videos of any people; tracked at the first start")
    p.add_argument(
        "--data", type=Path, metavar="FOLDER", help="the official VoxCeleb layout: list.txt and a folder for each video"
    )
    p.add_argument(
        "--shares",
        type=_shares,
        metavar="KIND=X,...",
        help="how often each kind is drawn, such as heads=1,videos=3; default: all alike",
    )
    p.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="of the run: state, weights, losses and sample sheets"
    )
    p.add_argument(
        "--resume", action="store_true", help="go on with the run in --out, with its settings where none are given"
    )
    p.add_argument(
        "--from",
        dest="initial",
        type=Path,
        metavar="FILE",
        help="weights (.safetensors) to begin with; default: begin from nothing",
    )
    for setting in fields(TrainConfig):
        if setting.name == "bf16":  # in the help after what is learned, before how
            p.add_argument(
                "--vgg",
                type=Path,
                metavar="FILE",
                help="VGG-19 weights (.safetensors) for the reconstruction loss; default: one that needs none",
            )
        if setting.metadata:
            _add_setting(p, setting)
    add_device(p)
    p.set_defaults(run=_run)


def _add_setting(p: Parser, setting: Field[Any]) -> None:
    """An argument for a field of `TrainConfig`; None where it is not given, so that a resumed run keeps its own."""
    words = dict(setting.metadata)
    if "whole" in words:
        words["type"] = whole(*words.pop("whole"))
    elif isinstance(setting.default, float):
        words["type"] = float
    p.add_argument("--" + setting.name.replace("_", "-"), default=None, **words)


def _shares(text: str) -> dict[str, float]:
    try:
        return {name: float(share) for name, share in (part.split("=") for part in text.split(","))}
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not KIND=X,... such as heads=1,videos=3") from None


def _run(args: argparse.Namespace) -> int:
    from fastreenact.training.command import SKIPPED, train

    result = train(**by_name(args), stream=sys.stderr, sheet_every=args.save_every)
    if result is None:  # the first process tells
        return 0
    say(f"{printable(str(result.weights))}: {result.step} of {result.steps} steps")
    if result.skipped:
        complain(
            f"{result.skipped} files or folders of the data were skipped: {SKIPPED} beside the weights says why",
            kind="note: ",
        )
    if result.step < result.steps:
        complain("stopped; --resume goes on from here", kind="")
        return 130
    return 0
