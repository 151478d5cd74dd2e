"""`fastreenact evaluate`."""

import argparse
import sys
from pathlib import Path

from fastreenact.app.cli.arguments import Parser, add_engine, by_name, count
from fastreenact.app.cli.messages import complain, say


def add(p: Parser) -> None:
    """Its arguments."""
    p.description = (
        "Reenact clips from their own first frame, and generated heads, and compare with what they really "
        "show: tables and sheets."
    )
    p.add_argument("clips", type=Path, nargs="*", metavar="CLIP", help="videos with one face each")
    p.add_argument(
        "--heads",
        type=count,
        default=0,
        metavar="N",
        help="so many generated heads: self- and cross-reenactment, steadiness, other sizes",
    )
    p.add_argument("-o", "--out", type=Path, default=Path("evaluation"), metavar="FOLDER", help="default: evaluation")
    p.add_argument(
        "--cross",
        type=Path,
        nargs="+",
        default=[],
        metavar="PORTRAIT",
        help="also give every clip's motion to these portraits",
    )
    p.add_argument("--every", type=count, default=6, metavar="N", help="take every Nth frame (default 6)")
    add_engine(p, "side of the pictures compared, 64 to 2048 (default 256)")
    for name, network in (("lpips", "LPIPS"), ("fid", "Inception-v3"), ("csim", "ArcFace")):
        p.add_argument(f"--{name}", type=Path, metavar="FILE", help=f"measure it with these weights of {network}")
    p.add_argument("--force", action="store_true", help="overwrite an earlier evaluation")
    p.set_defaults(run=_run, size=256)


def _run(args: argparse.Namespace) -> int:
    from fastreenact.evaluation.run import evaluate
    from fastreenact.progress import ProgressLine

    with ProgressLine(sys.stderr) as progress:
        result = evaluate(**by_name(args), progress=progress)
    say(result.text)
    for line in result.skipped:
        complain(line, kind="note: ")
    return 0
