"""`sunlab torture`: do to a training what a shared cluster does, and see that nothing is lost."""

import argparse
from pathlib import Path
from typing import Any


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser("torture", help="kill, cut and corrupt on purpose; what was lost", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the short form: at most 3 minutes on 2 cores")
    parser.add_argument("--kills", type=int, metavar="N", help="SIGKILLs at random times (30, quick: 6; 100 for a night)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of everything that is drawn (default 0)")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="a family, or a trial's first word")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report there too")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="work in this folder, and leave everything there")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from rich.console import Console

    from sunlab.cli.main import main
    from sunlab.torture.report import show, to_json, write
    from sunlab.torture.run import timed, torture
    from sunlab.torture.trial import Result

    console = Console()

    def tell(result: Result) -> None:
        console.print(f"{'pass' if result.passed else 'FAIL'}  {result.seconds:7.1f} s  {result.name}", highlight=False)

    def do() -> list[Result]:
        return torture(main, seed=args.seed, quick=args.quick, kills=args.kills, only=args.only, folder=args.keep, tell=tell)

    results, seconds = timed(do)
    report = to_json(results, seed=args.seed, quick=args.quick, seconds=seconds)
    if args.json:
        write(args.json, report)
    show(console, results)
    failed = [result.name for result in results if not result.passed]
    print(f"{len(results) - len(failed)} of {len(results)} trials as expected, seed {args.seed}, {seconds:.0f} s")
    return 1 if failed else 0
