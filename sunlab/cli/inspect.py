"""`sunlab inspect`: the header of an adapter file, after every check that needs no base."""

import argparse
from collections.abc import Mapping
from typing import Any


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser("inspect", help="what an adapter file holds", description=__doc__)
    parser.add_argument("file", metavar="FILE", help="an adapter, ours or in the authors' layout")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    import json

    from sunlab.export import read_adapter
    from sunlab.export.convert import named_by_layer

    file = read_adapter(args.file)
    header = named_by_layer(file).header
    count = sum(tensor.numel() for tensor in file.tensors.values())
    print(f"{file.path}: layout {file.layout}, {len(file.tensors)} tensors, {count:,} parameters, all checks passed\n")
    if file.layout == "published":
        print("the file has no header: the base follows from its shapes, the rest from the authors' documentation")
        print("sunlab.plug(pipe, FILE, compat=True) draws with the arithmetic of the authors' released code\n")
    for name, value in header.items():
        print(f"{name:<16} {value if isinstance(value, str) else json.dumps(value)}")
    print()
    for line in table(file.tensors):
        print(line)
    return 0


def table(tensors: Mapping[str, Any]) -> list[str]:
    """A line for each ending of a name: how many tensors, their type and shapes, numbers in all."""
    groups: dict[str, list[Any]] = {}
    for name, tensor in tensors.items():
        parts = name.split(".")
        ending = ".".join(parts[-2:] if parts[-1] in ("weight", "bias") else parts[-1:])
        groups.setdefault(ending, []).append(tensor)
    lines = []
    for ending, group in sorted(groups.items()):
        shapes = sorted({tuple(tensor.shape) for tensor in group})
        shown = ", ".join("x".join(map(str, shape)) or "scalar" for shape in shapes[:6])
        shown += ", ..." if len(shapes) > 6 else ""
        dtype = str(group[0].dtype).removeprefix("torch.")
        lines.append(f"{ending:<28} {len(group):>4} x {dtype:<8} {sum(t.numel() for t in group):>12,}  {shown}")
    return lines
