"""`sunlab doctor data`: decode some samples of shards; report samples that do not decode, and what filters drop."""

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from sunlab.cli.numbers import amount

if TYPE_CHECKING:
    from sunlab.data.doctor import Report
    from sunlab.data.filters.base import Dropped
    from sunlab.data.shards import Shards


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser("doctor", help="look for what is wrong", description="Look for what is wrong.")
    patients = parser.add_subparsers(title="what to look at", metavar="WHAT", required=True)
    data = patients.add_parser("data", help="shards, and the filters over them", description=__doc__)
    data.add_argument("shards", nargs="*", metavar="SHARDS", help="tar files, or patterns of them")
    data.add_argument("--config", action="append", metavar="FILE", help="look at its data.source instead")
    data.add_argument(
        "--filter",
        action="append",
        default=[],
        metavar="F",
        help="as in a configuration, repeatable: '{name: aesthetic, min: 6, missing: drop}'",
    )
    data.add_argument("--samples", type=amount, default=200, metavar="N", help="how many to decode (default 200)")
    data.add_argument("--filtered", type=amount, default=10_000, metavar="N", help="how many to filter (default 10000)")
    data.add_argument("--all", action="store_true", help="count the samples of all shards, also of those without a manifest")
    data.add_argument("--plan", action="store_true", help="print the stages of the pipeline, and read nothing")
    data.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from sunlab.app.doctor import examine_data, plan_of
    from sunlab.config.read import read_override
    from sunlab.data.doctor import bucket_sizes, few_of
    from sunlab.errors import DataError

    overrides = [read_override(f"filter={text}")[1] for text in args.filter]
    if args.plan:
        show_plan(plan_of(args.shards, configs=args.config or (), filters=overrides))
        return 0
    found = examine_data(
        args.shards,
        configs=args.config or (),
        filters=overrides,
        samples=args.samples,
        filtered=args.filtered,
        every=args.all,
    )
    source = found.source
    table = Table(box=box.SIMPLE, show_header=False)
    counted = f"{len(source):,} samples" if source.order == "exact" else "their samples are not counted (--all counts them)"
    table.add_row("shards", f"{len(few_of(source)):,} of {len(source.stream.urls):,}, {counted}")
    if found.report.unread:
        table.add_row("not read", escape(str(found.report.unread)))
    for name, value in rows(found.report):
        table.add_row(name, escape(value))
    for (width, height), count in bucket_sizes(source) if source.choices else ():
        table.add_row(f"bucket {width}x{height}", f"{count:,}")
    table.add_row("verified", escape("every sample against its digest" if source.indexed else source.notice() or "no"))
    console = Console()
    console.print(table)
    if found.dropped is not None:
        console.print(filter_table(found.dropped, [name for name, _ in found.filters]))
    if problem := found.problem():
        raise DataError(problem)
    return 0


def show_plan(source: "Shards") -> None:
    """Print the stages of the stream over the shards, in their order."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("stage", "what it does", box=box.SIMPLE)
    for name, summary in source.plan():
        table.add_row(name, escape(summary))
    console = Console()
    console.print(f"{len(source.stream.urls):,} shards; training reads them in the order '{source.order}'")
    console.print(table)


def filter_table(dropped: "Dropped", names: list[str]) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE, title=f"{dropped.kept:,} of {dropped.seen:,} samples kept", title_justify="left")
    for column in ("filter", "dropped first", "alone would drop", "value missing"):
        table.add_column(column, justify="left" if column == "filter" else "right")
    for name in names:
        table.add_row(name, *(f"{counter[name]:,}" for counter in (dropped.first, dropped.alone, dropped.missing)))
    return table


def rows(report: "Report") -> Iterator[tuple[str, str]]:
    """The lines of a report."""
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
