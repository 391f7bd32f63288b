"""`sunlab sample`: draw a grid of pictures, with an adapter or without."""

import argparse
from typing import Any

from sunlab.cli.numbers import amount, finite


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser("sample", help="draw a grid of pictures", description=__doc__)
    parser.add_argument("--prompt", action="append", required=True, metavar="TEXT", help="repeatable: a row each")
    parser.add_argument(
        "--negative",
        action="append",
        default=[],
        metavar="TEXT",
        help="negative prompt: one for all, or one for each prompt",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the first picture (default 0)")
    parser.add_argument("--count", type=amount, default=4, help="pictures a prompt (default 4)")
    parser.add_argument("--steps", type=amount, default=4, help="solver steps (default 4)")
    parser.add_argument(
        "--base",
        required=True,
        metavar="FOLDER",
        help="a diffusers folder, a .safetensors file, a hub id, or a model inside the package",
    )
    parser.add_argument(
        "--adapter", metavar="FILE", help="safetensors, or a hub id; without it: the base with classifier-free guidance"
    )
    parser.add_argument("--guidance", type=finite, metavar="W", help="guidance scale (default: the adapter's, or 3)")
    parser.add_argument("--solver", metavar="NAME", help="default: the adapter's, or dpmpp_2m; see `sunlab list solvers`")
    parser.add_argument("--out", default="grid.png", metavar="PNG", help="(default grid.png)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from sunlab.app.sample import sample_grid
    from sunlab.errors import ConfigError

    if len(args.negative) not in (0, 1, len(args.prompt)):
        raise ConfigError(f"--negative: give one, or one for each of {len(args.prompt)} prompts; got {len(args.negative)}")
    negatives = args.negative * len(args.prompt) if len(args.negative) == 1 else args.negative or [""] * len(args.prompt)
    sample_grid(
        prompts=args.prompt,
        negatives=negatives,
        seed=args.seed,
        count=args.count,
        steps=args.steps,
        base=args.base,
        adapter=args.adapter,
        guidance=args.guidance,
        solver=args.solver,
        out=args.out,
    )
    print(args.out)
    return 0
