"""`sunlab config`: the resolved, checked configuration and where each value came from; or a JSON Schema of what it takes."""

import argparse
from typing import Any

from sunlab.cli.configured import add_plugin, load


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser("config", help="show a configuration, resolved", description=__doc__)
    parser.add_argument("config", nargs="?", metavar="CONFIG", help="a YAML file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="over the file; further files may stand here")
    parser.add_argument(
        "--json-schema",
        nargs="?",
        const="run",
        choices=("run", "sweep"),
        help="print the JSON Schema of configurations, or of sweep files, for editors",
    )
    add_plugin(parser)
    parser.set_defaults(run=run, parser=parser)


def run(args: argparse.Namespace) -> int:
    words = [word for word in (args.config, *args.overrides) if word is not None]
    if args.json_schema:
        from sunlab.app.json_schema import json_schema

        if words:
            args.parser.error(f"--json-schema describes every configuration; leave {words[0]!r} out")
        print(json_schema(args.json_schema, plugins=args.plugin))
        return 0
    args.config = [word for word in words if "=" not in word]
    args.overrides = [word for word in words if "=" in word]
    if not args.config:
        args.parser.error("give a YAML file, or --json-schema")
    print(load(args).to_yaml(origins=True), end="")
    return 0
