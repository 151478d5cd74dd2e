"""`fastreenact track`."""

import argparse
import sys
from pathlib import Path

from fastreenact.app.cli.arguments import Parser, face, in_folder, tracker, trim
from fastreenact.app.cli.messages import report


def add(p: Parser) -> None:
    """Its arguments."""
    p.description = "Track the face in a video and save its motion for `animate`."
    p.add_argument("driver", type=Path, metavar="VIDEO", help="video or picture")
    p.add_argument("-o", "--out", type=Path, metavar="OUT", help="default: VIDEO.safetensors in this folder")
    p.add_argument(
        "--face",
        type=face,
        metavar="N",
        help="which face, counted from the left where there are first so many; default: the largest",
    )
    p.add_argument("--trim", type=trim, metavar="START:END", help="seconds to use; either may be left out")
    p.add_argument("--force", action="store_true", help="overwrite an existing file")
    p.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from fastreenact.app.animate import track
    from fastreenact.media.files import fit_name
    from fastreenact.progress import ProgressLine

    out = in_folder(args.out, fit_name(args.driver.stem, ".safetensors"))
    with ProgressLine(sys.stderr) as progress:
        result = track(
            args.driver, out, trim=args.trim, force=args.force, progress=progress, tracker=tracker(args.face)
        )
    return report(result)
