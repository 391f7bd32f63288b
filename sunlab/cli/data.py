"""`sunlab data`: make data that training reads."""

import argparse
from typing import Any

from sunlab.cli.configured import add_config, load


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser("data", help="make data that training reads", description=__doc__)
    makers = parser.add_subparsers(title="what to make", metavar="WHAT", required=True)
    trajectories = makers.add_parser("trajectories", help="a bank of the teacher's trajectories")
    add_config(trajectories)
    trajectories.add_argument("--out", required=True, metavar="DIR", help="folder of the bank")
    trajectories.add_argument("--count", required=True, type=int, metavar="N", help="trajectories")
    trajectories.add_argument("--shard-size", type=int, default=256, metavar="N", help="trajectories a file (default 256)")
    trajectories.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    loaded = load(args)
    from sunlab.build import make_bank

    make_bank(loaded, out=args.out, count=args.count, shard_size=args.shard_size)
    return 0
