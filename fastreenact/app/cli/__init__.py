"""The command line, a file per command, read when it is asked for.

Nothing heavy is imported before the arguments are known to be good.
"""

import logging
import os
import signal
import sys
import threading
import traceback
import warnings
from importlib import import_module

import fastreenact
from fastreenact.app.cli.arguments import Parser, called
from fastreenact.app.cli.messages import complain, one_line

_COMMANDS = {  # {} are what networks are called
    "animate": "animate a portrait with a video, picture or template",
    "track": "save the motion of a face in a video as a template",
    "evaluate": "measure a model on clips or generated heads, beside the landmark warp",
    "train": "train {trained} on generated heads, photographs or videos",
    "demo": "animate a photograph that comes with scikit-image",
    "doctor": "say what runs on this machine, and why not",
    "convert": "official {official} checkpoints to safetensors",
    "bench": "time the stages of a frame on this machine",
}
_HANDLER = "fastreenact-command-line"


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
        args = _parser(arguments).parse_args(arguments)
        debug = debug or args.verbose >= 2
        _set_up_logging(args.verbose)
        code: int = args.run(args)
        sys.stdout.flush()
        return code
    except SystemExit as done:  # argparse's way out
        return done.code if isinstance(done.code, int) else 1
    except KeyboardInterrupt as stop:
        complain(str(stop) or "stopped", kind="")
        return 130
    except BrokenPipeError:
        # The reader of our output has gone; keep Python from complaining once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:  # the one place where an error becomes a line for the user
        if debug:
            traceback.print_exc()
        complain(one_line(error))
        return 1


def _parser(arguments: list[str]) -> Parser:
    parser = Parser(
        prog="fastreenact",
        description="One portrait, one driving face, one animated portrait.",
        epilog="A file name that begins with a dash is given after --, or as ./-name.",
    )
    parser.add_argument("--version", action="version", version=f"fastreenact {fastreenact.__version__}")
    common = Parser(add_help=False)
    common.add_argument("-v", "--verbose", action="count", default=0, help="say more; twice: with tracebacks")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)
    networks = {"trained": called(lambda model: model.target), "official": called(lambda model: model.official)}
    for name, what in _COMMANDS.items():
        command = commands.add_parser(name, parents=[common], help=what.format_map(networks))
        if name in arguments:
            import_module(f"fastreenact.app.cli.{name}").add(command)
    return parser


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
