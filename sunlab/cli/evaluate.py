"""`sunlab evaluate`: how near do accelerated variants come to the teacher, at what cost? Pictures, numbers, one report."""

import argparse
from typing import Any

from sunlab.cli.configured import add_config, load
from sunlab.cli.quiet import quiet


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser("evaluate", help="compare pictures before and after acceleration", description=__doc__)
    add_config(parser)
    parser.add_argument(
        "--matrix", action="store_true", help="cross variants, steps and bases; exit 1 where a cell misses its bar"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    loaded = load(args)
    from sunlab.app.evaluate import evaluate

    if not args.debug:
        quiet()
    folder = evaluate(loaded, matrix=args.matrix)
    print(f"wrote {folder}: report.html, report.md, report.json, grids and pictures")
    return 0
