"""`sunlab sweep`: many runs from one file, on this machine or on a cluster, and one table of their results.

sunlab sweep --config FILE [--launcher local|slurm] [--dry-run] [key=value ...]    start the runs that are not done
sunlab sweep status FOLDER [--watch SECONDS]    the state of each run, with its error or its numbers
sunlab sweep resume FOLDER     start runs that are missing, interrupted or failed
sunlab sweep cancel FOLDER     stop running runs and remove waiting ones from the queue
sunlab sweep collect FOLDER    write table.md, table.csv, table.json, plots and report.html of the runs that are done
"""

import argparse
from pathlib import Path
from typing import Any

ACTIONS = ("status", "resume", "cancel", "collect", "run")


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "sweep",
        help="many runs from one file: start, look, resume, collect",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", action="append", default=[], metavar="FILE", help="a sweep file; repeatable, later wins")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="overrides of all runs, or the sweep's own keys")
    parser.add_argument("--launcher", metavar="NAME", help="how runs are started; see `sunlab list launchers`")
    parser.add_argument("--dry-run", action="store_true", help="check every run and print what would be started")
    parser.add_argument("--watch", type=float, metavar="SECONDS", help="status: repeat until no run is under way")
    parser.add_argument(
        "--plugin",
        action="append",
        default=[],
        metavar="P",
        help="a file or module with a launcher; plug-ins of runs: `plugins:`",
    )
    parser.set_defaults(run=run, parser=parser)


def run(args: argparse.Namespace) -> int:
    if args.plugin:
        from registry import load_plugins

        load_plugins(args.plugin)
    if args.overrides and args.overrides[0] in ACTIONS:
        if len(args.overrides) != 2 or args.config:
            args.parser.error(f"expected: sunlab sweep {args.overrides[0]} FOLDER")
        return ACTION[args.overrides[0]](args, Path(args.overrides[1]))
    if not args.config:
        args.parser.error(f"give --config FILE to start a sweep, or one of {', '.join(ACTIONS)} and a sweep's folder")
    from sunlab.app.sweep import script, start
    from sunlab.sweep.spec import load_sweep

    sweep = load_sweep(args.config, args.overrides, launcher=args.launcher)
    if args.dry_run:
        print(script(sweep), end="")
        return 0
    return _report(start(sweep))


def _run(args: argparse.Namespace, folder: Path) -> int:
    from sunlab.app.sweep import run
    from sunlab.cli.quiet import quiet

    run(folder, ready=(lambda: None) if args.debug else quiet)
    return 0


def _resume(args: argparse.Namespace, folder: Path) -> int:
    from sunlab.app.sweep import resume

    resume(folder, launcher=args.launcher)
    return _report(folder)


def _status(args: argparse.Namespace, folder: Path) -> int:
    from sunlab.app.sweep import look
    from sunlab.sweep.screen import watch

    watch(lambda: look(folder), folder, every=args.watch)
    return 0


def _cancel(args: argparse.Namespace, folder: Path) -> int:
    from sunlab.app.sweep import cancel

    stopped = cancel(folder)
    for standing in stopped:
        print(f"{standing.run.name}: {standing.state}, cancelled")
    if not stopped:
        print("no run is running or queued")
    return 0


def _collect(args: argparse.Namespace, folder: Path) -> int:
    from sunlab.app.sweep import look
    from sunlab.sweep.collect import collect
    from sunlab.sweep.folder import read_baseline

    for path in collect(folder, *look(folder), baseline=read_baseline(folder)):
        print(f"wrote {path}")
    return 0


def _report(folder: Path) -> int:
    """Print the states. Returns 1 if a run failed."""
    from sunlab.app.sweep import look
    from sunlab.sweep.record import RunState
    from sunlab.sweep.screen import watch

    watch(lambda: look(folder), folder)
    _, standings = look(folder)
    states = {standing.state for standing in standings.values()}
    if any(state.is_error for state in states):
        print(f"next: read the logs of failed runs, then sunlab sweep resume {folder}")
        return 1
    print(f"next: sunlab sweep {'collect' if states == {RunState.DONE} else 'status'} {folder}")
    return 0


ACTION = {"run": _run, "status": _status, "resume": _resume, "cancel": _cancel, "collect": _collect}
