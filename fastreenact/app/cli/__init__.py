"""The command line. Nothing heavy is imported before the arguments are known to be good."""

import argparse
import logging
import os
import signal
import sys
import threading
import traceback
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import fastreenact
from fastreenact.errors import FastreenactError
from fastreenact.models import DEFAULT, MODELS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fastreenact.app.animate import AnimateResult
    from fastreenact.engine import Engine
    from fastreenact.face.track.tracker import Tracker
    from fastreenact.progress import ProgressLine

_HANDLER = "fastreenact-command-line"
_DAMAGED = 3  # exit code: the driver broke off; what came before is written


class _Parser(argparse.ArgumentParser):
    """One line for an error, as for every other error of this program."""

    def error(self, message: str) -> NoReturn:
        _complain(f"{message} (see {self.prog} --help)")
        raise SystemExit(2)


def calm_threads() -> None:
    """Let PyTorch's threads spin only briefly before they sleep; takes effect if torch is not imported yet.

    By default they spin for milliseconds and keep each other from the processor whenever another program wants it too.
    Step of Face2Face^rho, float32 at 256 on 2 cores: 19.7 ms instead of 18.0 alone, but 41 instead of 92 beside two
    busy programs (asleep at once: 26.8 and 57).
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def main(argv: list[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: the arguments without the program's name; None: the process's own.

    Returns:
        Exit code: 0; 1 error; 2 wrong usage; 3 the driver is damaged, what came before is written; 130 Ctrl-C or
        SIGTERM; 141 the reader of the output has gone.
    """
    calm_threads()
    if threading.current_thread() is not threading.main_thread():  # no other may say what signals do
        return _run(argv)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # a service that stops us is Ctrl-C
    try:
        return _run(argv)
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)  # None: of C code, not to be had back


def _run(argv: list[str] | None) -> int:
    arguments = sys.argv[1:] if argv is None else argv
    debug = bool(os.environ.get("FASTREENACT_DEBUG"))
    try:
        args = _parser().parse_args(arguments)
        debug = debug or args.verbose >= 2
        _set_up_logging(args.verbose)
        code: int = args.run(args)
        sys.stdout.flush()
        return code
    except SystemExit as done:  # argparse's way out
        return done.code if isinstance(done.code, int) else 1
    except KeyboardInterrupt as stop:
        _complain(str(stop) or "stopped", kind="")
        return 130
    except BrokenPipeError:
        # The reader of our output has gone; keep Python from complaining once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:  # the one place where an error becomes a line for the user
        if debug:
            traceback.print_exc()
        _complain(_one_line(error))
        return 1


def _parser() -> _Parser:
    parser = _Parser(
        prog="fastreenact",
        description="One portrait, one driving face, one animated portrait.",
        epilog="A file name that begins with a dash is given after --, or as ./-name.",
    )
    parser.add_argument("--version", action="version", version=f"fastreenact {fastreenact.__version__}")
    common = _Parser(add_help=False)
    common.add_argument("-v", "--verbose", action="count", default=0, help="say more; twice: with tracebacks")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)
    _add_animate(commands, common)
    _add_track(commands, common)
    _add_evaluate(commands, common)
    _add_train(commands, common)
    _add_small(commands, common)
    return parser


def _add_animate(commands: "argparse._SubParsersAction[_Parser]", common: _Parser) -> None:
    p = commands.add_parser(
        "animate",
        parents=[common],
        help="animate a portrait with a video, picture or template",
        description="Write the animated portrait: the driver's frames, times and sound.",
    )
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
        "--face",
        type=_face,
        metavar="N",
        help="which face of the portrait, counted from the left; default: the largest",
    )
    p.add_argument(
        "--driver-face",
        type=_face,
        metavar="N",
        help="which face of the driver, counted from the left where it first shows so many",
    )
    _add_engine(p)
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
    p.add_argument("--trim", type=_trim, metavar="START:END", help="seconds of the driver; either may be left out")
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
    p.set_defaults(run=_animate)


def _add_track(commands: "argparse._SubParsersAction[_Parser]", common: _Parser) -> None:
    p = commands.add_parser(
        "track",
        parents=[common],
        help="save the motion of a face in a video as a template",
        description="Track the face in a video and save its motion for `animate`.",
    )
    p.add_argument("driver", type=Path, metavar="VIDEO", help="video or picture")
    p.add_argument("-o", "--out", type=Path, metavar="OUT", help="default: VIDEO.safetensors in this folder")
    p.add_argument(
        "--face",
        type=_face,
        metavar="N",
        help="which face, counted from the left where there are first so many; default: the largest",
    )
    p.add_argument("--trim", type=_trim, metavar="START:END", help="seconds to use; either may be left out")
    p.add_argument("--force", action="store_true", help="overwrite an existing file")
    p.set_defaults(run=_track)


def _add_evaluate(commands: "argparse._SubParsersAction[_Parser]", common: _Parser) -> None:
    p = commands.add_parser(
        "evaluate",
        parents=[common],
        help="measure a model on clips or generated heads, beside the landmark warp",
        description="Reenact clips from their own first frame, and generated heads, and compare with what they really "
        "show: tables and sheets.",
    )
    p.add_argument("clips", type=Path, nargs="*", metavar="CLIP", help="videos with one face each")
    p.add_argument(
        "--heads",
        type=_frames,
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
    p.add_argument("--every", type=_frames, default=6, metavar="N", help="take every Nth frame (default 6)")
    _add_engine(p, "side of the pictures compared, 64 to 2048 (default 256)")
    for name, network in (("lpips", "LPIPS"), ("fid", "Inception-v3"), ("csim", "ArcFace")):
        p.add_argument(f"--{name}", type=Path, metavar="FILE", help=f"measure it with these weights of {network}")
    p.add_argument("--force", action="store_true", help="overwrite an earlier evaluation")
    p.set_defaults(run=_evaluate, size=256)


def _add_train(commands: "argparse._SubParsersAction[_Parser]", common: _Parser) -> None:
    p = commands.add_parser(
        "train",
        parents=[common],
        help="train Face2Face^rho on generated heads, photographs or videos",
        description="Train the networks of Face2Face^rho on one or several kinds of data. Ctrl-C saves the state; "
        "--resume goes on from it.",
    )
    p.add_argument(
        "--heads",
        type=_frames,
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
    p.add_argument("--size", type=_size, metavar="S", help="side of the pictures, 64 to 2048 (default 256)")
    p.add_argument(
        "--motion-size",
        type=_size,
        metavar="M",
        help="side for which the motion network sees landmarks, a multiple of 64 (default 256)",
    )
    p.add_argument(
        "--base",
        action=argparse.BooleanOptionalAction,
        help="draw over the landmark warp (default), or from nothing, as published",
    )
    p.add_argument("--steps", type=_steps, metavar="N", help="length of the whole run (default 380000)")
    p.add_argument("--batch", type=_frames, metavar="N", help="pairs in a step (default 6)")
    p.add_argument("--learning-rate", type=float, metavar="X", help="default 2e-4")
    p.add_argument("--warm-up", type=_steps, metavar="N", help="steps over which it rises to that (default 0)")
    p.add_argument("--ema", type=float, metavar="X", help="decay of the averaged weights (default 0.999)")
    p.add_argument(
        "--reuse",
        type=_frames,
        metavar="N",
        help="steps for each new batch of data; the others take recent ones again (default 1)",
    )
    p.add_argument(
        "--renderer-from",
        type=_steps,
        metavar="N",
        help="step at which the renderer joins; before, the motion network learns alone (default 0)",
    )
    p.add_argument(
        "--discriminator-from", type=_steps, metavar="N", help="step at which the discriminator joins (default 0)"
    )
    p.add_argument(
        "--vgg",
        type=Path,
        metavar="FILE",
        help="VGG-19 weights (.safetensors) for the reconstruction loss; default: one that needs none",
    )
    p.add_argument("--bf16", action="store_true", default=None, help="renderer and discriminator in bfloat16")
    p.add_argument("--save-every", type=_frames, metavar="N", help="steps between two states on disk (default 1000)")
    p.add_argument("--device", metavar="D", help="cpu, cuda, cuda:1, ...; default: the GPU where there is one")
    p.set_defaults(run=_train)


def _add_small(commands: "argparse._SubParsersAction[_Parser]", common: _Parser) -> None:
    p = commands.add_parser("demo", parents=[common], help="animate a photograph that comes with scikit-image")
    p.add_argument("-o", "--out", type=Path, default=Path("."), metavar="FOLDER", help="default: this folder")
    p.set_defaults(run=_demo)

    p = commands.add_parser("doctor", parents=[common], help="say what runs on this machine, and why not")
    p.set_defaults(run=_doctor)

    p = commands.add_parser("convert", parents=[common], help="official Face2Face^rho checkpoints to safetensors")
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
        "--size", type=_size, default=512, metavar="S", help="the size that the weights were trained for (default 512)"
    )
    p.add_argument("--force", action="store_true", help="overwrite an existing file")
    p.set_defaults(run=_convert)

    p = commands.add_parser("bench", parents=[common], help="time the stages of a frame on this machine")
    p.add_argument("--source", type=Path, metavar="PICTURE", help="portrait and driver; default: the demo's photograph")
    _add_engine(p)
    p.add_argument("--frames", type=_frames, default=100, metavar="N", help="timed frames (default 100)")
    p.set_defaults(run=_bench)


def _add_engine(
    p: argparse.ArgumentParser,
    size_help: str = "side of the frames, 64 to 2048; default: that of the weights, or of the portrait",
) -> None:
    p.add_argument("--size", type=_size, metavar="S", help=size_help)
    p.add_argument("--model", choices=tuple(MODELS), help=f"default: that of the weights, or {DEFAULT.name}")
    p.add_argument("--weights", type=Path, metavar="FILE", help="safetensors file; default: those of the package")
    p.add_argument("--device", metavar="D", help="cpu, cuda, cuda:1, ...; default: the GPU where there is one")
    p.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), help="default: float32 on a CPU, float16 on a GPU"
    )


def _trim(text: str) -> tuple[float | None, float | None]:
    start, colon, end = text.partition(":")
    try:
        span = float(start) if start else None, float(end) if end else None
    except ValueError:
        span, colon = (None, None), ""
    if not colon or not 0 <= (span[0] or 0) < (float("inf") if span[1] is None else span[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is not START:END in seconds, such as 1.5:4, 2: or :10")
    return span


def _size(text: str) -> int:
    if not text.isdecimal() or not 64 <= int(text) <= 2048:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 64 to 2048")
    return int(text)


def _quality(text: str) -> int:
    from fastreenact.media.write import crf_of

    try:
        return crf_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _frames(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1_000_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to 1000000")
    return int(text)


def _face(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 99:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to 99")
    return int(text)


def _steps(text: str) -> int:
    if not text.isdecimal() or int(text) > 1_000_000_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to 1000000000")
    return int(text)


def _shares(text: str) -> dict[str, float]:
    try:
        return {name: float(share) for name, share in (part.split("=") for part in text.split(","))}
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not KIND=X,... such as heads=1,videos=3") from None


def _animate(args: argparse.Namespace) -> int:
    from fastreenact.app import animate
    from fastreenact.media import read_image

    name = animate.default_out(args.source, args.driver)
    out = name if args.out is None else args.out / name if args.out.is_dir() else args.out
    animate.check_paths(args.driver, out, args.template_out, force=args.force, source=args.source)
    source = read_image(args.source)  # before the engine: a bad picture is said at once
    progress = _progress()
    try:
        with _engine(
            args,
            source,
            motion=args.motion,
            strength=args.strength,
            region=args.region,
            paste=args.paste,
            smooth=not args.no_smooth,
            face=args.face,
        ) as engine:
            result = animate.animate(
                engine,
                args.driver,
                out,
                side_by_side=args.side_by_side,
                trim=args.trim,
                quality=args.quality,
                template_out=args.template_out,
                sound=not args.no_sound,
                force=args.force,
                progress=progress,
                tracker=_tracker(args.driver_face),
            )
            model = engine.model
    finally:
        progress.close()
    _report(result, f" with {model}")
    return _DAMAGED if result.damaged else 0


def _track(args: argparse.Namespace) -> int:
    from fastreenact.app import animate
    from fastreenact.media.files import fit_name

    name = fit_name(args.driver.stem, ".safetensors")
    out = Path(name) if args.out is None else args.out / name if args.out.is_dir() else args.out
    progress = _progress()
    try:
        result = animate.track(
            args.driver, out, trim=args.trim, force=args.force, progress=progress, tracker=_tracker(args.face)
        )
    finally:
        progress.close()
    _report(result, "")
    return _DAMAGED if result.damaged else 0


def _evaluate(args: argparse.Namespace) -> int:
    from fastreenact.evaluation.run import evaluate

    progress = _progress()
    try:
        result = evaluate(
            args.clips,
            args.out,
            heads=args.heads,
            cross=args.cross,
            model=args.model,
            weights=args.weights,
            size=args.size,
            every=args.every,
            device=args.device,
            dtype=args.dtype,
            lpips=args.lpips,
            fid=args.fid,
            csim=args.csim,
            force=args.force,
            progress=progress,
        )
    finally:
        progress.close()
    _say(result.text)
    for line in result.skipped:
        _complain(line, kind="note: ")
    return 0


def _train(args: argparse.Namespace) -> int:
    from fastreenact.training.command import SKIPPED, train

    result = train(
        args.out,
        resume=args.resume,
        stream=sys.stderr,
        heads=args.heads,
        photos=args.photos,
        videos=args.videos,
        data=args.data,
        shares=args.shares,
        vgg=args.vgg,
        initial=args.initial,
        device=args.device,
        size=args.size,
        motion_size=args.motion_size,
        base=args.base,
        steps=args.steps,
        batch=args.batch,
        learning_rate=args.learning_rate,
        warm_up=args.warm_up,
        ema=args.ema,
        bf16=args.bf16,
        reuse=args.reuse,
        renderer_from=args.renderer_from,
        discriminator_from=args.discriminator_from,
        save_every=args.save_every,
        sheet_every=args.save_every,
    )
    if result is None:  # the first process tells
        return 0
    _say(f"{_printable(str(result.weights))}: {result.step} of {result.steps} steps")
    if result.skipped:
        _complain(
            f"{result.skipped} files or folders of the data were skipped: {SKIPPED} beside the weights says why",
            kind="note: ",
        )
    if result.step < result.steps:
        _complain("stopped; --resume goes on from here", kind="")
        return 130
    return 0


def _demo(args: argparse.Namespace) -> int:
    from fastreenact.app import demo

    return demo.main(args.out)


def _doctor(args: argparse.Namespace) -> int:
    from fastreenact.app import doctor

    return doctor.main()


def _convert(args: argparse.Namespace) -> int:
    from fastreenact.models.face2face_rho.convert import convert

    convert(args.rendering, args.motion, args.out, size=args.size, force=args.force)
    _say(f"{args.out}: converted")
    return 0


def _bench(args: argparse.Namespace) -> int:
    from fastreenact.app import demo, speed
    from fastreenact.media import read_image

    picture = demo.portrait() if args.source is None else read_image(args.source)
    with _engine(args, picture) as engine:
        height, width = engine.output_size
        dtype = str(engine.dtype).removeprefix("torch.")
        _say(f"{engine.model}, {width} x {height}, {dtype}, {engine.device}, {args.frames} frames")
        _say(speed.table(speed.measure(engine, picture, args.frames)))
    return 0


def _engine(args: argparse.Namespace, source: "NDArray[np.uint8]", **options: Any) -> "Engine":
    from fastreenact.engine import Engine

    return Engine(
        source, model=args.model, weights=args.weights, size=args.size, device=args.device, dtype=args.dtype, **options
    )


def _tracker(face: int | None) -> "Tracker | None":
    """For a driver of whom one face was asked for."""
    if face is None:
        return None
    from fastreenact.face.track.tracker import Tracker

    return Tracker(face=face)


def _progress() -> "ProgressLine":
    from fastreenact.progress import ProgressLine

    return ProgressLine(sys.stderr)


def _report(result: "AnimateResult", how: str) -> None:
    """The plain last line, then what a user should know."""
    plural = "frame" if result.frames == 1 else "frames"
    rate = result.frames / max(result.seconds, 1e-9)
    _say(f"{_printable(str(result.path))}: {result.frames} {plural} in {result.seconds:.1f} s ({rate:.1f} fps){how}")
    for note in result.notes:
        _complain(note, kind="note: ")


def _say(text: str) -> None:
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding))


def _complain(text: str, kind: str = "error: ") -> None:
    """One line on stderr, whatever is in the text."""
    try:
        print(f"fastreenact: {kind}{_printable(text)}", file=sys.stderr)
    except BrokenPipeError:
        logging.raiseExceptions = False


def _printable(text: str) -> str:
    """Control characters and undecodable bytes as escapes, so that a hostile file name stays on one line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, ModuleNotFoundError) and text.startswith("No module named"):
        return f"{error.name} is not installed: pip install {_PACKAGES.get(error.name or '', error.name)}"
    if isinstance(error, FastreenactError | ValueError | ImportError | RuntimeError) and text:
        return text
    if isinstance(error, OSError) and error.filename is not None:
        return f"{Path(os.fsdecode(error.filename)).name}: {error.strerror}"
    if isinstance(error, MemoryError):
        return "not enough memory: choose a smaller --size or a smaller portrait"
    return f"{type(error).__name__}: {text} (this should not happen; FASTREENACT_DEBUG=1 shows where)"


_PACKAGES = {"av": "av", "PIL": "pillow", "mediapipe": "'fastreenact[track]'", "skimage": "scikit-image"}


def _set_up_logging(verbosity: int) -> None:
    warnings.filterwarnings("ignore", module="PIL")  # its remarks on damaged metadata help nobody
    log = logging.getLogger("fastreenact")
    log.setLevel((logging.WARNING, logging.INFO, logging.DEBUG)[min(verbosity, 2)])
    for old in [handler for handler in log.handlers if handler.name == _HANDLER]:
        log.removeHandler(old)
    handler = logging.StreamHandler()
    handler.name = _HANDLER
    handler.setFormatter(logging.Formatter("fastreenact: %(message)s"))
    log.addHandler(handler)
