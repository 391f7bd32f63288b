"""`sunlab convert`: pickled weights to safetensors, without running any code in them."""

import argparse
from typing import Any


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser("convert", help="pickled weights to safetensors, safely", description=__doc__)
    parser.add_argument("file", metavar="FILE", help="a .ckpt, .bin or .pt file of torch's")
    parser.add_argument("--out", metavar="FILE", help="a .safetensors file (default: beside it)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from sunlab.backbones.convert import convert

    print(convert(args.file, args.out))
    return 0
