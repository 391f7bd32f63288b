"""Looking at shards: what decodes, what does not and why, of what size it is, and what filters would drop."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from sunlab.data.opened import BadSample
from sunlab.data.remote import is_remote
from sunlab.data.selection import PROBE_SHARDS, Dropped, Named, look
from sunlab.data.shards import Shards
from sunlab.errors import DataError

NAMED = 20  # bad samples that a report names


@dataclass
class Report:
    """What `examine` saw.

    Attributes:
        examined, ok: samples.
        reasons: samples by why they cannot be decoded ("undecodable image", "missing caption", "bad json", ...).
        bad: the first bad samples: shard, key, what is wrong.
        sizes: samples by image size (height, width).
        latents: samples by the shape of a latent (C, h, w).
        captions: samples by the length of the caption in characters.
        repeated: keys seen more than once; their draws would be alike.
        stopped: why reading ended early (a damaged shard), or None.
    """

    examined: int = 0
    ok: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    bad: list[tuple[str, str, str]] = field(default_factory=list)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    latents: Counter[tuple[int, ...]] = field(default_factory=Counter)
    captions: Counter[int] = field(default_factory=Counter)
    repeated: list[str] = field(default_factory=list)
    stopped: str | None = None

    @property
    def healthy(self) -> bool:
        return self.ok == self.examined and not self.repeated and self.stopped is None


def few_of(source: Shards) -> list[str]:
    """The shards to look at: of remote ones that no manifest lists `PROBE_SHARDS` at random, because counting the samples of
    a shard fetches it as a whole; else all."""
    urls = list(source.streamed.urls)
    if source.order == "exact" or len(urls) <= PROBE_SHARDS or not any(map(is_remote, urls)):
        return urls
    return Random(0).sample(urls, PROBE_SHARDS)


def examine(source: Shards, samples: int, *, seed: int = 0) -> Report:
    """Decode `samples` samples (at most all) of randomly ordered shards, past the bad ones."""
    report, keys = Report(), Counter[str]()
    try:
        for item in source.attempts(seed=seed, epoch=0, start=0, stop=min(samples, len(source))):
            report.examined += 1
            if isinstance(item, BadSample):
                report.reasons[item.reason] += 1
                if len(report.bad) < NAMED:
                    report.bad.append((item.shard, item.key, str(item)))
                continue
            report.ok += 1
            keys[item.key] += 1
            report.captions[len(item.prompt)] += 1
            if item.image is not None:
                report.sizes[item.image.shape[1], item.image.shape[2]] += 1
            if item.latent is not None:
                report.latents[tuple(item.latent.shape)] += 1
    except DataError as error:
        report.stopped = str(error)
    report.repeated = [key for key, count in keys.items() if count > 1]
    return report


def examine_filters(source: Shards, filters: Named, samples: int) -> Dropped:
    """What the filters do with the first `samples` samples, evenly from all shards."""
    dropped = Dropped()
    share = max(1, -(-samples // len(source.whole)))
    shards = source.whole[:: max(1, len(source.whole) * share // samples)] if samples else source.whole
    for shard in shards:
        for _ in look(shard, filters, source.remote, dropped, share, lenient=True):
            pass
    return dropped


def bucket_sizes(source: Shards) -> Sequence[tuple[tuple[int, int], int]]:
    """Width and height of each bucket, and its samples."""
    framings = [(part.reading.decoder.framing, len(part)) for part in source.parts() if hasattr(part, "reading")]
    return [((framing.width, framing.height), count) for framing, count in framings if framing is not None]
