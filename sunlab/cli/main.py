"""The entry point: parse, call one command, turn errors into a few lines and an exit code."""

import argparse
import sys
import traceback
from collections.abc import Sequence

from sunlab import __version__
from sunlab.cli import (
    comfyui,
    config,
    convert,
    data,
    demo,
    doctor,
    evaluate,
    export,
    fit,
    inspect,
    push,
    sample,
    submit,
    sweep,
)
from sunlab.cli import list as list_command
from sunlab.cli.quiet import brief_warnings
from sunlab.distributed.ranks import leaves_last, prefix
from sunlab.errors import INTERNAL, INTERRUPTED, Preempted, exit_code, message
from sunlab.threads import share_processors

COMMANDS = (
    fit,
    submit,
    sample,
    evaluate,
    sweep,
    export,
    push,
    convert,
    inspect,
    list_command,
    config,
    doctor,
    data,
    comfyui,
    demo,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0; 78 wrong configuration; 65 bad data; 74 a file cannot be read or written; 75 preempted (of several ranks,
        the first; the others 0); 71 a rank or loader worker died; 130 interrupted; 70 a bug of sunlab's.
        Wrong arguments end in argparse's own exit with 2.
    """
    share_processors()  # before torch is imported
    args = parse(argv)
    try:
        with brief_warnings(not args.debug):
            return args.run(args)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except Preempted as stopped:
        if not leaves_last():
            return 0
        print(stopped, file=sys.stderr)
        return Preempted.exit_code
    except Exception as error:
        if args.debug:
            traceback.print_exc()
        code = exit_code(error)
        if code is None:
            kind = type(error).__name__
            print(f"{prefix()}internal error: {kind}: {error}\nplease report it with what --debug shows", file=sys.stderr)
            return INTERNAL
        print(f"{prefix()}error: {message(error)}", file=sys.stderr)
        return code


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Allow overrides anywhere among the options, which argparse alone does not."""
    parser = build_parser()
    args, rest = parser.parse_known_args(argv)
    strange = [word for word in rest if word.startswith("-") or not hasattr(args, "overrides")]
    if strange:
        parser.error(f"unrecognized arguments: {' '.join(strange)}")
    if rest:
        args.overrides = [*args.overrides, *rest]
    return args


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sunlab", description="A laboratory for few-step diffusion adapters.")
    parser.add_argument("--version", action="version", version=f"sunlab {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add(subparsers)
    for final in _final(parser):
        final.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show tracebacks")
    return parser


def _final(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """The parsers of commands that have no commands below them."""
    nested = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    if not nested:
        return [parser]
    return [final for action in nested for child in action.choices.values() for final in _final(child)]
