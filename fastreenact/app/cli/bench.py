"""`fastreenact bench`."""

import argparse
from pathlib import Path

from fastreenact.app.cli.arguments import Parser, add_engine, count, engine
from fastreenact.app.cli.messages import say


def add(p: Parser) -> None:
    """Its arguments."""
    p.add_argument("--source", type=Path, metavar="PICTURE", help="portrait and driver; default: the demo's photograph")
    add_engine(p)
    p.add_argument("--frames", type=count, default=100, metavar="N", help="timed frames (default 100)")
    p.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from fastreenact.app import demo, speed
    from fastreenact.media import read_image

    picture = demo.portrait() if args.source is None else read_image(args.source)
    with engine(args, picture) as made:
        height, width = made.output_size
        dtype = str(made.dtype).removeprefix("torch.")
        say(f"{made.model}, {width} x {height}, {dtype}, {made.device}, {args.frames} frames")
        say(speed.table(speed.measure(made, picture, args.frames)))
    return 0
