"""`fastreenact doctor`."""

import argparse

from fastreenact.app.cli.arguments import Parser


def add(p: Parser) -> None:
    """Its arguments."""
    p.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from fastreenact.app import doctor

    return doctor.main()
