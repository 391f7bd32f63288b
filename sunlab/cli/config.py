"""`sunlab config`: the resolved, checked configuration and where each value came from; a JSON Schema of what it takes; or
the packaged configurations, by name or as files."""

import argparse
from typing import Any

from sunlab.cli.configured import add_plugin, load


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser("config", help="show a configuration, resolved", description=__doc__)
    parser.add_argument("config", nargs="?", metavar="CONFIG", help="a YAML file, or @NAME")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="over the file; further files may stand here")
    parser.add_argument(
        "--json-schema",
        nargs="?",
        const="run",
        choices=("run", "sweep"),
        help="print the JSON Schema of configurations, or of sweep files, for editors",
    )
    parser.add_argument("--list", action="store_true", help="print the names of the packaged configurations")
    parser.add_argument("--copy", metavar="DIR", help="copy the packaged configurations into a folder")
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
    if args.list or args.copy:
        if words:
            args.parser.error(f"--list and --copy take all packaged configurations; leave {words[0]!r} out")
        return run_shipped(args.copy)
    args.config = [word for word in words if "=" not in word]
    args.overrides = [word for word in words if "=" in word]
    if not args.config:
        args.parser.error("give a YAML file, @NAME of a packaged one, --list, --copy or --json-schema")
    print(load(args).to_yaml(origins=True), end="")
    return 0


def run_shipped(folder: str | None) -> int:
    from sunlab.config.shipped import copy_shipped, shipped

    if folder is not None:
        print(f"copied {len(copy_shipped(folder))} configurations to {folder}")
        return 0
    known = shipped()
    width = max(map(len, known))
    for name, summary in known.items():
        print(f"{name:<{width}}  {summary}")
    return 0
