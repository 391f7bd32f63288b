"""`sunlab export`: write an adapter in another layout, with a model card beside it."""

import argparse
from typing import Any


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser("export", help="write an adapter in another layout", description=__doc__)
    parser.add_argument("adapter", metavar="ADAPTER", help="an adapter file, ours or in the authors' layout")
    parser.add_argument(
        "--layout",
        default="sunlab",
        metavar="NAME",
        help="sunlab (default); published: the SUN authors' layout; diffusers, kohya: LoRA students, as diffusers and the "
        "common user interfaces load them",
    )
    parser.add_argument("--out", required=True, metavar="FILE", help="a .safetensors file; README.md goes beside it")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from sunlab.export.convert import export_adapter

    for path in export_adapter(args.adapter, layout=args.layout, out=args.out):
        print(path)
    return 0
