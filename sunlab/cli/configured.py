"""The arguments that select a command's configuration."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sunlab.config.load import LoadedConfig


def add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", action="append", required=True, metavar="FILE", help="YAML, or @NAME; repeatable, later wins"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="over the files: loss=cfg optimizer.lr=1e-4")
    add_plugin(parser)


def add_plugin(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--plugin",
        action="append",
        default=[],
        metavar="P",
        help="my_losses.py or my_pkg.mod, imported first; repeatable",
    )


def load(args: argparse.Namespace) -> "LoadedConfig":
    from sunlab.config.load import load_config

    return load_config(args.config, args.overrides, plugins=args.plugin)
