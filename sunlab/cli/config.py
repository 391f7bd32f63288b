"""`sunlab config`: the resolved, checked configuration and where each value came from."""

import argparse
from typing import Any

from sunlab.cli.configured import add_plugin, load


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser("config", help="show a configuration, resolved", description=__doc__)
    parser.add_argument("config", nargs=1, metavar="CONFIG", help="a YAML file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="over the file; further files may stand here")
    add_plugin(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    args.config += [word for word in args.overrides if "=" not in word]
    args.overrides = [word for word in args.overrides if "=" in word]
    print(load(args).to_yaml(origins=True), end="")
    return 0
