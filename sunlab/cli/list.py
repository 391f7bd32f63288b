"""`sunlab list`: the components there are, their parameters, and where it is defined."""

import argparse
from typing import TYPE_CHECKING, Any

from sunlab.cli.configured import add_plugin

if TYPE_CHECKING:
    from registry import Registry


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser("list", help="show the components", description=__doc__)
    parser.add_argument("kind", nargs="?", help="losses, solvers, adapters, ...")
    parser.add_argument("name", nargs="?", help="one component: its documentation and parameters")
    add_plugin(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from registry import broken_plugins, load_plugins, suggestion
    from sunlab.errors import ConfigError
    from sunlab.registries import KINDS, registry_of

    load_plugins(args.plugin)
    if args.kind and args.kind not in KINDS:
        raise ConfigError(f"no kind {args.kind!r}; {suggestion(args.kind, KINDS)}")
    if args.name:
        _one(registry_of(args.kind), args.name)
    elif args.kind:
        _table(args.kind, registry_of(args.kind))
    else:
        for kind in KINDS:
            print(f"{kind:<12} {', '.join(registry_of(kind).names())}")
    for broken in broken_plugins():
        if not args.kind or broken.group == registry_of(args.kind).entry_points:
            print(f"\nbroken plugin {broken.name!r} of {broken.group}:\n{broken.traceback}")
    return 0


def _table(kind: str, registry: "Registry") -> None:
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE, title=kind, title_justify="left")
    table.add_column("name", no_wrap=True)
    table.add_column("what it is")
    for name in registry.names():
        table.add_row(name, escape(registry.get(name).summary))
    Console().print(table)


def _one(registry: "Registry", name: str) -> None:
    import inspect

    entry = registry.get(name)
    print(f"{registry.kind} {name}  ({entry.where})\n")
    said = inspect.getdoc(entry.factory) or "(no documentation)"
    for base in getattr(entry.factory, "__mro__", ())[1:]:
        if f"see `{base.__name__}`" in said:  # where it documents inherited parameters
            said += f"\n\n{base.__name__}: {inspect.getdoc(base)}"
    print(said)
    print("\nparameters:")
    for parameter in entry.parameters.values():
        print(f"  {parameter}{'  (required)' if parameter.required else ''}")
    if not entry.parameters:
        print("  none")
