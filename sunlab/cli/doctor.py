"""`sunlab doctor data`: decode some samples of shards and say what does not decode, and why, and what filters drop."""

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from sunlab.cli.numbers import amount

if TYPE_CHECKING:
    from sunlab.data.doctor import Report
    from sunlab.data.selection import Dropped


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
    data.add_argument("--plan", action="store_true", help="print the stages of the pipeline, and read nothing")
    data.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from sunlab.data.doctor import bucket_sizes, examine, examine_filters
    from sunlab.data.shards import Shards, build_filters
    from sunlab.errors import DataError

    given = source_of(args)
    if args.plan:
        return show_plan(given)
    filters = build_filters(given.pop("filters", None))
    source = Shards(**{**given, "on_error": "quarantine"})
    report = examine(source, args.samples)
    table = Table(box=box.SIMPLE, show_header=False)
    if source.unread:
        table.add_row("not read", escape(str(source.unread)))
    for name, value in rows(report):
        table.add_row(name, escape(value))
    for (width, height), count in bucket_sizes(source) if source.choices else ():
        table.add_row(f"bucket {width}x{height}", f"{count:,}")
    table.add_row("verified", escape("every sample against its digest" if source.indexed else source.notice() or "no"))
    console = Console()
    console.print(table)
    if filters:
        dropped = examine_filters(source, filters, args.filtered)
        console.print(filter_table(dropped, [name for name, _ in filters]))
        if not dropped.kept:
            raise DataError(f"the filters drop every sample that was looked at:\n{dropped.table(filters)}")
    if report.stopped:
        raise DataError(f"reading stopped at what would stop a training: {report.stopped}")
    if not report.ok:
        raise DataError(f"nothing could be decoded of {', '.join(source.urls)}")
    return 0


def show_plan(given: dict[str, Any]) -> int:
    """Print the stages of the stream over the shards, in their order."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from sunlab.data.base import Pool
    from sunlab.data.negatives import Empty
    from sunlab.data.prompts import PromptDraws
    from sunlab.data.shards import Shards

    source = Shards(**given)
    table = Table("stage", "what it does", box=box.SIMPLE)
    for name, summary in source.pipeline(draws=PromptDraws(Empty(), Pool()), batch=1).plan():
        table.add_row(name, escape(summary))
    console = Console()
    console.print(f"{len(source.streamed.urls):,} shards; training reads them in the order '{source.order}'")
    console.print(table)
    return 0


def source_of(args: argparse.Namespace) -> dict[str, Any]:
    """The parameters of the source "shards" that the arguments mean. Raises `ConfigError`."""
    from sunlab.errors import ConfigError

    if bool(args.shards) == bool(args.config):
        raise ConfigError("doctor data: name shards, or a configuration with --config")
    given: dict[str, Any] = {"urls": args.shards}
    if args.config:
        from sunlab.config.load import load_config

        source = load_config(args.config, []).config.data.source
        given = dict(source) if isinstance(source, dict) else {"name": source}
        if given.pop("name") != "shards":
            raise ConfigError("doctor data: the configuration's data.source is not shards")
    if args.filter:
        from sunlab.config.read import read_override

        given["filters"] = [read_override(f"filter={text}")[1] for text in args.filter]
    return given


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
