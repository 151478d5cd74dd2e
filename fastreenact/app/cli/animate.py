"""`fastreenact animate`."""

import argparse
import sys
from pathlib import Path

from fastreenact.app.cli.arguments import Parser, add_engine, engine, face, in_folder, tracker, trim
from fastreenact.app.cli.messages import report


def add(p: Parser) -> None:
    """Its arguments."""
    p.description = "Write the animated portrait: the driver's frames, times and sound."
    p.add_argument("source", type=Path, metavar="SOURCE", help="the portrait, a picture")
    p.add_argument(
        "driver",
        type=Path,
        metavar="DRIVER",
        help="a video, a picture (writes a picture) or a motion template (.safetensors)",
    )
    p.add_argument(
        "-o", "--out", type=Path, metavar="OUT", help="default: SOURCE--DRIVER.mp4 (.png for a picture) in this folder"
    )
    p.add_argument(
        "--face", type=face, metavar="N", help="which face of the portrait, counted from the left; default: the largest"
    )
    p.add_argument(
        "--driver-face",
        type=face,
        metavar="N",
        help="which face of the driver, counted from the left where it first shows so many",
    )
    add_engine(p)
    p.add_argument(
        "--motion",
        choices=("relative", "absolute"),
        default="relative",
        help="relative (default): move by how far the driver moves; absolute: copy the driver's pose",
    )
    p.add_argument("--strength", type=float, default=1.0, metavar="X", help="factor on the motion, 0 to 2 (default 1)")
    p.add_argument(
        "--region",
        choices=("all", "expression", "pose", "lips", "eyes"),
        default="all",
        help="what of the driver is used (default all)",
    )
    p.add_argument("--paste", action="store_true", help="paste the animated face back into the whole portrait")
    p.add_argument("--side-by-side", action="store_true", help="show portrait, driver and result in a row")
    p.add_argument("--trim", type=trim, metavar="START:END", help="seconds of the driver; either may be left out")
    p.add_argument(
        "--quality",
        type=_quality,
        default="medium",
        metavar="Q",
        help="low, medium (default), high, or a CRF from 0 to 51",
    )
    p.add_argument("--template-out", type=Path, metavar="FILE", help="also save the driver's motion (.safetensors)")
    p.add_argument("--no-sound", action="store_true", help="leave the driver's sound out")
    p.add_argument("--no-smooth", action="store_true", help="do not filter the motion over time")
    p.add_argument("--force", action="store_true", help="overwrite existing files")
    p.set_defaults(run=_run)


def _quality(text: str) -> int:
    from fastreenact.media.write import crf_of

    try:
        return crf_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _run(args: argparse.Namespace) -> int:
    from fastreenact.app import animate
    from fastreenact.media import read_image
    from fastreenact.progress import ProgressLine

    out = in_folder(args.out, animate.default_out(args.source, args.driver))
    animate.check_paths(args.driver, out, args.template_out, force=args.force, source=args.source)
    source = read_image(args.source)  # before the engine: a bad picture is said at once
    engine_options = {name: getattr(args, name) for name in ("motion", "strength", "region", "paste", "face")}
    with (
        ProgressLine(sys.stderr) as progress,
        engine(args, source, smooth=not args.no_smooth, **engine_options) as made,
    ):
        result = animate.animate(
            made,
            args.driver,
            out,
            side_by_side=args.side_by_side,
            trim=args.trim,
            quality=args.quality,
            template_out=args.template_out,
            sound=not args.no_sound,
            force=args.force,
            progress=progress,
            tracker=tracker(args.driver_face),
        )
        model = made.model
    return report(result, f" with {model}")
