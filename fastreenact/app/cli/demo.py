"""`fastreenact demo`."""

import argparse
from pathlib import Path

from fastreenact.app.cli.arguments import Parser


def add(p: Parser) -> None:
    """Its arguments."""
    p.add_argument("-o", "--out", type=Path, default=Path("."), metavar="FOLDER", help="default: this folder")
    p.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from fastreenact.app import demo

    return demo.main(args.out)
