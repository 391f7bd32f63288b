"""From undecoded samples to batches: filters, pixels, prompts, and B samples at a time."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from random import Random
from typing import Any

from webdataset.filters import batched
from webdataset.filters import map as mapped
from webdataset.filters import select as selected

from sunlab.data.collate import collate
from sunlab.data.cursor import Request, Tally
from sunlab.data.decode import Decoder, facts_of
from sunlab.data.filters.base import PROBES, Dropped, Named
from sunlab.data.negatives import PromptDraws
from sunlab.data.quarantine import Patience
from sunlab.data.sample import BadSample, Item, Raw, Sample
from sunlab.data.stages.order import PASSES
from sunlab.data.tar import MEMBERS
from sunlab.draws import keyed_seed
from sunlab.errors import DataError
from sunlab.types import Samples

Function = Callable[[Iterator[Any]], Iterator[Any]]


def select(filters: Named, tally: Tally) -> Function:
    """`webdataset.filters.select` with our filters, counted. Where none of the first samples passes, it raises `DataError`
    with the table of what each filter dropped."""
    picture = any(one.picture for _, one in filters)
    first = Dropped()  # until one is kept: the tally is emptied from time to time
    begun: list[int] = []  # the passes of samples that were looked at

    def keeps(item: Item) -> bool:
        facts = facts_of(raw_of(item), picture=picture)
        if not first.kept:
            begun.append(item["__epoch__"])
            if first.seen >= PROBES[-1] or item["__epoch__"] >= begun[0] + PASSES:
                raise DataError(f"the filters drop every sample that was looked at:\n{first.table(filters)}")
            first.look(filters, facts, item["__url__"])
        return tally.dropped.look(filters, facts, item["__url__"])

    return _described(selected(keeps), "Keep samples by filters, counted.")


def decode(decoder: Decoder, prefix: Callable[[str], str], seed: int, bad: Patience, *, replacing: bool = False) -> Function:
    """Bytes -> a `Sample` under `sample`. Random crops and prompts are keyed by (seed, epoch, key); what its key begins with
    is given by `prefix` and the shard's URL.

    Bad samples are left out; with `replacing` the next good one, cropped to its shape, replaces each, so that groups of one
    shape stay whole.
    """

    def decoded(item: Item) -> Sample:
        key = prefix(item["__url__"]) + item["__key__"]
        ours, shape = decoder, item.get("__shape__")
        if shape is not None and decoder.framing is not None:
            ours = replace(decoder, framing=replace(decoder.framing, width=shape[0], height=shape[1]))
        random = Random(keyed_seed(seed, item["__epoch__"], key, "decode"))
        return ours(Raw(key, raw_of(item).members), item["__url__"], random)

    def stage(items: Iterator[Item]) -> Iterator[Item]:
        lost: list[Item] = []
        for item in items:
            try:
                sample = decoded(item)
            except BadSample as error:
                bad(error)
                lost += [item] if replacing else []
                continue
            bad.good()
            about = {name: value for name, value in item.items() if name.startswith("__")}
            for one in lost:
                place = {name: one[name] for name in ("__shape__", "__group__", "__cursor__")}
                again = decoded({**item, **place})
                yield {**about, **place, "sample": replace(again, key=f"{again.key} (for {one['__key__']})")}
            lost.clear()
            yield {**about, "sample": sample}

    return _described(stage, "Decode pictures, captions and json into a `Sample`.")


def finished(request: Request, *, passes: bool = False) -> list[tuple[str, Function]]:
    """The last stages of a pipeline: prompts and batches, where they are requested."""
    if request.draws is None:
        return []
    last = [("prompts", prompts(request.draws, passes=passes))]
    return last if request.batch is None else [*last, ("batch", batched(request.batch, collation_fn=joined, partial=False))]


def prompts(draws: PromptDraws, *, passes: bool) -> Function:
    """`webdataset.filters.map` that adds what is drawn for a sample (`drawn`). With `passes` the key distinguishes passes
    from here on: a stream does not wait for others before it begins its next pass."""

    def drawn(item: Item) -> Item:
        sample, epoch = item["sample"], item["__epoch__"]
        found = draws(sample, epoch, item.get("__pool__"))
        if epoch and passes:
            sample = replace(sample, key=f"{sample.key} (pass {epoch})")
        return {**item, "sample": sample, "drawn": found}

    return _described(mapped(drawn), "Draw the prompt or none, a negative prompt, and a seed.")


def _described(stage: Any, summary: str) -> Any:
    stage.summary = summary
    return stage


def joined(items: Sequence[Item]) -> Samples:
    return collate([item["sample"] for item in items], [item["drawn"] for item in items])


def raw_of(item: Item) -> Raw:
    return Raw(item["__key__"], {suffix: item[suffix] for suffix in item if suffix in MEMBERS})
