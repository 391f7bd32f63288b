"""`sunlab submit`: queue one run on a Slurm cluster."""

import argparse
from typing import Any

from sunlab.cli.configured import add_config, load

OPTION = "launcher."


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser("submit", help="queue one run on a Slurm cluster", description=__doc__)
    add_config(parser)
    parser.add_argument(
        "--cluster",
        metavar="FILE",
        help="YAML with the cluster's `launcher:`, such as partition and account; launcher.partition=gpu overrides it",
    )
    parser.add_argument("--dry-run", action="store_true", help="check everything and print the script, queue nothing")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    options = launcher_options(args)
    loaded = load(args)
    from sunlab.app.submit import prepare, submit

    submission = prepare(loaded, options)
    if args.dry_run:
        print(submission.launcher.script([submission.job]), end="")
        return 0
    handle, new = submit(submission)
    print(f"{submission.job.name}: job {handle}{'' if new else ' waits or runs already'}, log {submission.job.log}")
    return 0


def launcher_options(args: argparse.Namespace) -> dict[str, Any]:
    """The launcher's options from the file and the command line, which are removed from `args.overrides`."""
    from pathlib import Path

    from sunlab.config.read import read_file, read_override
    from sunlab.errors import ConfigError

    options: dict[str, Any] = {}
    if args.cluster is not None:
        found = read_file(Path(args.cluster))
        if set(found) != {"launcher"} or not isinstance(found["launcher"], dict):
            raise ConfigError(
                f"{args.cluster}: expected one section, launcher: {{partition: ..., ...}}, got {sorted(found)}"
            )
        options = dict(found["launcher"])
    mine = [word for word in args.overrides if word.startswith(OPTION)]
    args.overrides = [word for word in args.overrides if word not in mine]
    for key, value in map(read_override, mine):
        head, _, rest = key.removeprefix(OPTION).partition(".")
        options[head] = {**options.get(head, {}), rest: value} if rest else value
    return options
