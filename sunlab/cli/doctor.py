"""`sunlab doctor data`: decode some samples of shards and say what does not decode, and why."""

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sunlab.data.doctor import Report


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser("doctor", help="look for what is wrong", description="Look for what is wrong.")
    patients = parser.add_subparsers(title="what to look at", metavar="WHAT", required=True)
    data = patients.add_parser("data", help="shards", description=__doc__)
    data.add_argument("shards", nargs="+", metavar="SHARDS", help="tar files, or patterns of them")
    data.add_argument("--samples", type=int, default=200, metavar="N", help="how many to decode (default 200)")
    data.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from sunlab.data.doctor import examine
    from sunlab.data.shards import Shards
    from sunlab.errors import DataError

    report = examine(Shards(urls=args.shards, on_error="skip"), args.samples)
    table = Table(box=box.SIMPLE, show_header=False)
    for name, value in rows(report):
        table.add_row(name, escape(value))
    Console().print(table)
    if not report.ok:
        raise DataError(f"nothing could be decoded of {', '.join(args.shards)}")
    return 0


def rows(report: "Report") -> Iterator[tuple[str, str]]:
    """What a report says, a line each."""
    yield "examined", f"{report.examined} samples"
    yield "decoded", str(report.ok)
    for reason, count in report.reasons.most_common():
        yield f"  dropped: {reason}", str(count)
    for size, count in report.sizes.most_common(5):
        yield "image size", f"{size[0]}x{size[1]}: {count}"
    for shape, count in report.latents.most_common(5):
        yield "latent", f"{'x'.join(map(str, shape))}: {count}"
    if report.captions:
        lengths = sorted(report.captions.elements())
        yield "caption length", f"{lengths[0]} to {lengths[-1]} characters, median {lengths[len(lengths) // 2]}"
    yield "repeated keys", ", ".join(report.repeated[:5]) or "none"
    for shard, key, message in report.bad:
        yield "bad", message if key in message else f"{shard}: {key}: {message}"
    if report.stopped:
        yield "stopped early", report.stopped
