"""Inject the faults of a shared cluster into real trainings (kills, cut and altered files, full disks) and check that
nothing is lost; docs/fault_injection.md describes each trial.

python tools/inject_faults.py --quick
python tools/inject_faults.py --only kills --kills 100 --json report.json
"""

import argparse
import sys
from pathlib import Path

from rich.console import Console

from fault_injection.report import show, to_json, write
from fault_injection.run import run_trials, timed
from fault_injection.trial import Result
from sunlab.cli.main import main as sunlab
from sunlab.errors import SunlabError


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the short form: at most 3 minutes on 2 cores")
    parser.add_argument("--kills", type=int, metavar="N", help="SIGKILLs at random times (30, quick: 6; 100 for a night)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of everything that is drawn (default 0)")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="a family, or a trial's first word")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report there too")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="work in this folder, and leave everything there")
    return parser.parse_args()


def main() -> int:
    args = parse()
    console = Console()

    def tell(result: Result) -> None:
        console.print(f"{'pass' if result.passed else 'FAIL'}  {result.seconds:7.1f} s  {result.name}", highlight=False)

    def do() -> list[Result]:
        return run_trials(
            sunlab, seed=args.seed, quick=args.quick, kills=args.kills, only=args.only, folder=args.keep, tell=tell
        )

    try:
        results, seconds = timed(do)
    except SunlabError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    report = to_json(results, seed=args.seed, quick=args.quick, seconds=seconds)
    if args.json:
        write(args.json, report)
    show(console, results)
    failed = [result for result in results if not result.passed]
    for result in failed:
        print(f"FAIL  {result.name}:", *result.wrong, sep="\n  ")
    print(f"{len(results) - len(failed)} of {len(results)} trials as expected, seed {args.seed}, {seconds:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
