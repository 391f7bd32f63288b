"""Looking at shards: what decodes, what does not and why, of what size it is, and what filters would drop."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from random import Random

from sunlab.data.cursor import Request, Tally
from sunlab.data.exact import Exact
from sunlab.data.filters.base import Dropped, Named
from sunlab.data.passes import PROBE_SHARDS, look
from sunlab.data.sample import BadSample
from sunlab.data.shards import Shards
from sunlab.data.tar import Unread
from sunlab.errors import DataError

NAMED = 20  # bad samples that a report names


@dataclass
class Report:
    """What `examine` saw.

    Attributes:
        ok: samples that were decoded.
        reasons: samples by why they cannot be decoded ("undecodable image", "missing caption", "bad json", ...).
        bad: the first bad samples: shard, key, what is wrong.
        sizes: samples by image size (height, width).
        latents: samples by the shape of a latent (C, h, w).
        captions: samples by the length of the caption in characters.
        repeated: keys seen more than once; their draws would be alike.
        stopped: why reading ended early (a damaged shard), or None.
        unread: members that are not read because of their names.
    """

    ok: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    bad: list[tuple[str, str, str]] = field(default_factory=list)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    latents: Counter[tuple[int, ...]] = field(default_factory=Counter)
    captions: Counter[int] = field(default_factory=Counter)
    repeated: list[str] = field(default_factory=list)
    stopped: str | None = None
    unread: Unread = field(default_factory=Unread)

    @property
    def examined(self) -> int:
        """Samples."""
        return self.ok + self.reasons.total()

    @property
    def healthy(self) -> bool:
        return self.ok == self.examined and not self.repeated and self.stopped is None


def few_of(source: Shards) -> list[str]:
    """The shards to look at: all counted ones, of others a few at random."""
    urls = list(source.stream.urls)
    return urls if source.order == "exact" else Random(0).sample(urls, min(PROBE_SHARDS, len(urls)))


def examine(source: Shards, samples: int, *, seed: int = 0) -> Report:
    """Decode `samples` samples (at most all) of the shards to look at, in random order, past the bad ones."""
    report, keys, tally = Report(), Counter[str](), Tally()

    def bad(error: BadSample) -> None:
        report.reasons[error.reason] += 1
        if len(report.bad) < NAMED:
            report.bad.append((error.shard, error.key, str(error)))

    try:
        request = Request(seed=seed, stream=0, passes=1, bad=bad, tally=tally, last="decode")
        if source.order == "exact":
            items = source.exact.pipeline(**vars(request))
        else:
            items = replace(source.stream, urls=few_of(source), filters=()).pipeline(request)
        for item in islice(items, max(0, samples)):
            sample = item["sample"]
            report.ok += 1
            keys[sample.key] += 1
            report.captions[len(sample.prompt)] += 1
            if sample.image is not None:
                report.sizes[sample.image.shape[1], sample.image.shape[2]] += 1
            if sample.latent is not None:
                report.latents[tuple(sample.latent.shape)] += 1
            if report.examined >= samples:
                break
    except DataError as error:
        report.stopped = str(error)
    report.repeated = [key for key, count in keys.items() if count > 1]
    report.unread = source.unread if source.order == "exact" else tally.unread
    return report


def examine_filters(source: Shards, filters: Named, samples: int) -> Dropped:
    """What the filters do with `samples` samples: of counted shards evenly from all, else from a few at random."""
    dropped = Dropped()
    if source.order == "exact":
        whole = source.counts[0]
        share = max(1, -(-samples // len(whole)))
        for shard in whole[:: max(1, len(whole) * share // samples)] if samples else whole:
            for _ in look(shard, filters, source.remote, dropped, share, lenient=True):
                pass
        return dropped
    some = few_of(source)
    for url in some:
        for _ in source.stream.look(url, filters, dropped, max(1, -(-samples // len(some)))):
            pass
    return dropped


def bucket_sizes(source: Shards) -> Sequence[tuple[tuple[int, int], int]]:
    """Width and height of each bucket, and its samples."""
    framings = [(part.stream.decoder.framing, len(part)) for part in source.parts() if isinstance(part, Exact)]
    return [((framing.width, framing.height), count) for framing, count in framings if framing is not None]
