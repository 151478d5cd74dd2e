"""`fastreenact convert`."""

import argparse
from pathlib import Path

from fastreenact.app.cli.arguments import Parser, size
from fastreenact.app.cli.messages import say
from fastreenact.models import MODELS
from fastreenact.models.protocol import Official


def add(p: Parser) -> None:
    """Its arguments: the checkpoints of the one model that has such, or of the model that is named."""
    known = _official()
    first, *others = known
    if others:
        each = "; ".join(f"{name}: {' '.join(named for named, _ in one.checkpoints)}" for name, one in known.items())
        p.add_argument("checkpoints", type=Path, nargs="+", metavar="CHECKPOINT", help=each)
        p.add_argument(
            "--model", choices=tuple(known), default=first, help=f"whose checkpoints they are (default {first})"
        )
    else:
        for named, what in known[first].checkpoints:
            p.add_argument("checkpoints", type=Path, action="append", metavar=named, help=what)
        p.set_defaults(model=first)
    outs = " or ".join(one.out for one in known.values())
    p.add_argument("-o", "--out", type=Path, metavar="OUT", help=f"default: {outs} in this folder")
    sizes = " or ".join(dict.fromkeys(str(one.size) for one in known.values()))
    p.add_argument(
        "--size", type=size, metavar="S", help=f"the size that the weights were trained for (default {sizes})"
    )
    p.add_argument("--force", action="store_true", help="overwrite an existing file")
    p.set_defaults(run=_run)


def _official() -> dict[str, Official]:
    return {name: model.official for name, model in MODELS.items() if model.official is not None}


def _run(args: argparse.Namespace) -> int:
    from fastreenact.models.convert import convert

    chosen = _official()[args.model]
    out = Path(chosen.out) if args.out is None else args.out
    convert(chosen, args.checkpoints, out, size=args.size, force=args.force)
    say(f"{out}: converted")
    return 0
