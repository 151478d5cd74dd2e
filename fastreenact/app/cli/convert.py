"""`fastreenact convert`."""

import argparse
from pathlib import Path

from fastreenact.app.cli.arguments import Parser, size
from fastreenact.app.cli.messages import say


def add(p: Parser) -> None:
    """Its arguments."""
    p.add_argument("rendering", type=Path, metavar="RENDERING", help="the rendering module's .pth")
    p.add_argument("motion", type=Path, metavar="MOTION", help="the motion module's .pth")
    p.add_argument(
        "-o",
        "--out",
        type=Path,
        default=Path("face2face_rho.safetensors"),
        metavar="OUT",
        help="default: face2face_rho.safetensors in this folder",
    )
    p.add_argument(
        "--size", type=size, default=512, metavar="S", help="the size that the weights were trained for (default 512)"
    )
    p.add_argument("--force", action="store_true", help="overwrite an existing file")
    p.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from fastreenact.models.face2face_rho.convert import convert

    convert(args.rendering, args.motion, args.out, size=args.size, force=args.force)
    say(f"{args.out}: converted")
    return 0
