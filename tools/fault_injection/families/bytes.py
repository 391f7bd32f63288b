"""Random cuts and bit flips of shards, and of adapter files; checks that none is accepted."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from random import Random

import torch

from fault_injection.samples import Members, picture_sample, write_shard
from fault_injection.trial import Seen, trial
from fault_injection.world import World, make_index
from sunlab.data.decode import Decoder
from sunlab.data.sample import Raw, Sample
from sunlab.data.shards import Shards
from sunlab.errors import DataError, SunlabError
from sunlab.export import read_adapter
from sunlab.export.file import write_tensors

SAMPLES = 30
HEADER = {"adapter": {"name": "sun", "extra_positive": True}, "solver": "ddim", "times": [999, 499, -1],
          "guidance": [2.0, 4.0], "training": {"note": 'a "quoted" word, \\ and \u00e9'}}  # fmt: skip


def altered(read: Iterable[Sample], clean: Sequence[Members]) -> list[str]:
    """Keys of samples that are not, to the byte of picture, prompt and record, one of the clean ones."""
    known = {one.key: one for one in (_decoded(members) for members in clean)}
    wrong = []
    for sample in read:
        one = known.get(sample.key.partition(" (for ")[0])
        same = one is not None and (sample.prompt, dict(sample.record)) == (one.prompt, dict(one.record))
        if not same or one is None or sample.image is None or one.image is None or not torch.equal(sample.image, one.image):
            wrong.append(sample.key)
    return wrong


def _decoded(members: Members) -> Sample:
    raw = {suffix: data for suffix, data in members.items() if suffix != "__key__"}
    with suppress(DataError):
        return Decoder()(Raw(members["__key__"].decode(), raw), "clean", Random(0))
    return Sample(members["__key__"].decode(), "")


def _trial(world: World, seen: Seen, what: str, times: int) -> None:
    folder = world.place(f"bytes/{what}")
    clean = [picture_sample(number) for number in range(SAMPLES)]
    path = write_shard(folder / "00000.tar", clean)
    make_index(folder)
    data, random = path.read_bytes(), world.random(what)
    told = quarantined = harmless = silent = 0
    for number in range(times):
        path.write_bytes(_cut(data, random) if what == "cuts" else _flip(data, random))
        unlike = 0
        try:
            source = Shards(urls=[str(path)], shuffle=8)
            read = list(source.read(seed=0, epoch=0, start=0, stop=len(source)))
            whole = len(read) == SAMPLES and not altered(read, clean)
            harmless += whole
            silent += not seen.check(whole, f"{what} {number}: {len(read)} samples read, {altered(read, clean)[:3]} altered")
        except SunlabError as error:
            told += seen.check(
                error.exit_code == 65 and path.name in str(error), f"{what} {number}: {error.exit_code}: {error}"
            )
            unlike = 1
        ledger = folder / "quarantine.jsonl"
        ledger.unlink(missing_ok=True)
        try:
            source = Shards(urls=[str(path)], shuffle=8, on_error="quarantine")
            source.quarantine_in(folder)
            read = list(source.read(seed=0, epoch=0, start=0, stop=len(source)))
        except SunlabError as error:
            seen.check(error.exit_code == 65 and unlike == 1, f"{what} {number}, quarantine: {error}")
            continue
        left_out = len(ledger.read_text().splitlines()) if ledger.is_file() else 0
        good = [sample for sample in read if " (for " not in sample.key]
        right = len(read) == SAMPLES and len(good) == SAMPLES - left_out and not altered(read, clean)
        seen.check(right and (unlike == 1 or left_out == 0), f"{what} {number}: {left_out} left out, {len(good)} good")
        quarantined += left_out
    path.write_bytes(data)
    seen.count(times=times, told=told, harmless=harmless, silent=silent, samples_quarantined=quarantined)


@trial(
    "bytes",
    "cuts of a shard",
    "named shard with 65, or exactly the lost samples quarantined; never a sample altered or lost",
)
def cuts(world: World, seen: Seen) -> None:
    _trial(world, seen, "cuts", world.choose(60, 600))


@trial(
    "bytes",
    "bit flips in a shard",
    "named shard with 65, or exactly the altered sample quarantined; harmless only in padding",
)
def flips(world: World, seen: Seen) -> None:
    _trial(world, seen, "flips", world.choose(60, 600))


@trial("bytes", "mutated adapter files", "0 accepted; each refused with 65")
def adapters(world: World, seen: Seen) -> None:
    folder = world.place("bytes/adapters")
    generator = torch.Generator().manual_seed(world.seed)
    tensors = {f"down.{i}.to_k_neg.weight": torch.randn(8, 6, generator=generator) for i in range(4)}
    path = write_tensors(folder / "adapter.safetensors", tensors, HEADER, dtype=torch.float16)
    data, random, times = path.read_bytes(), world.random("adapters"), world.choose(500, 5000)
    accepted = 0
    for number in range(times):
        changed = _mutate(data, random)
        if changed == data:
            changed = data[:-1]
        path.write_bytes(changed)
        try:
            read_adapter(path)
            accepted += 1
            seen.check(False, f"mutation {number} was accepted")
        except DataError as error:
            seen.check(path.name in str(error), f"mutation {number}: not named: {error}")
    path.write_bytes(data)
    read_adapter(path)
    seen.count(times=times, accepted=accepted)


def _cut(data: bytes, random: Random) -> bytes:
    return data[: random.randrange(len(data))]


def _flip(data: bytes, random: Random) -> bytes:
    changed, place = bytearray(data), random.randrange(len(data))
    changed[place] ^= 1 << random.randrange(8)
    return bytes(changed)


def _mutate(data: bytes, random: Random) -> bytes:
    """A flip, a cut, bytes put in, taken out, exchanged, or blanks of the header written otherwise."""
    a, b = sorted(random.randrange(len(data)) for _ in range(2))
    head = 8 + int.from_bytes(data[:8], "little")
    match random.randrange(6):
        case 0:
            return _flip(data, random)
        case 1:
            return _cut(data, random)
        case 2:
            return data[:a] + random.randbytes(random.randint(1, 16)) + data[a:]
        case 3:
            return data[:a] + data[a + random.randint(1, 16) :]
        case 4:
            changed = bytearray(data)
            changed[a], changed[b] = changed[b], changed[a]
            return bytes(changed)
    blanks = [place for place in range(8, head) if data[place : place + 1] == b" "]
    place = random.choice(blanks)
    return data[:place] + random.choice((b"\t", b"\n", b"\r")) + data[place + 1 :]
