"""`sunlab data`: index shards, and make data that training reads."""

import argparse
from pathlib import Path
from typing import Any

from sunlab.cli.configured import add_config, load
from sunlab.cli.numbers import amount


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser("data", help="make data that training reads", description=__doc__)
    makers = parser.add_subparsers(title="what to make", metavar="WHAT", required=True)
    trajectories = makers.add_parser("trajectories", help="a dataset of the teacher's trajectories")
    add_config(trajectories)
    trajectories.add_argument("--out", required=True, metavar="DIR", help="folder of the files")
    trajectories.add_argument("--count", required=True, type=amount, metavar="N", help="trajectories")
    trajectories.add_argument("--shard-size", type=amount, default=256, metavar="N", help="in a file (default 256)")
    trajectories.add_argument(
        "--predictions",
        action="store_true",
        help="store the guided prediction at each state too, for loss.offset and cfg: twice the size, no more passes",
    )
    trajectories.set_defaults(run=run)
    index = makers.add_parser(
        "index", help="a manifest of shards and their digests, by which training verifies every sample"
    )
    index.add_argument("shards", nargs="+", metavar="SHARDS", help="tar files on this machine, or patterns of them")
    index.add_argument("--workers", type=amount, default=1, metavar="N", help="processes (default 1)")
    index.add_argument("--missing", action="store_true", help="only shards that no manifest lists yet: goes on")
    index.set_defaults(run=run_index)
    latents = makers.add_parser("precompute", help="latents and prompt embeddings of the data, by the base's encoders")
    add_config(latents)
    latents.add_argument("--out", required=True, metavar="DIR", help="folder of the shards; what is there is kept")
    latents.add_argument("--shard-size", type=amount, default=1024, metavar="N", help="samples a shard (default 1024)")
    latents.add_argument("--batch", type=amount, default=32, metavar="N", help="samples encoded at once (default 32)")
    latents.set_defaults(run=run_precompute)


def run_index(args: argparse.Namespace) -> int:
    from sunlab.app.index import index
    from sunlab.data.tar import Unread

    done = index(args.shards, workers=args.workers, missing=args.missing)
    print(f"indexed {sum(one.entry['samples'] for one in done):,} samples in {len(done)} shards")
    unread = Unread()
    for one in done:
        unread.add(one.entry.get("unread", {}))
    if unread:
        print(f"warning: {unread}")
    for folder in dict.fromkeys(one.path.parent for one in done):
        print(f"wrote {folder / 'manifest.json'}")
    return 0


def run_precompute(args: argparse.Namespace) -> int:
    loaded = load(args)
    from sunlab.app.latents import precompute
    from sunlab.data.precompute import missing

    done = precompute(loaded, out=args.out, shard_size=args.shard_size, batch=args.batch)
    left = missing(Path(args.out))
    print(f"encoded {done:,} samples; " + (f"{left} shards are left to other ranks" if left else "all shards are made"))
    print(f"train from them with data.source='{{name: latents, path: {args.out}}}'")
    return 0


def run(args: argparse.Namespace) -> int:
    loaded = load(args)
    from sunlab.app.trajectories import make_trajectories

    files = make_trajectories(
        loaded, out=args.out, count=args.count, shard_size=args.shard_size, predictions=args.predictions
    )
    print(f"{args.out}: {len(files)} files of trajectories, those that were there before among them")
    print(f"train from them with data.source='{{name: trajectories, path: {args.out}}}' and loss.states=teacher")
    return 0
