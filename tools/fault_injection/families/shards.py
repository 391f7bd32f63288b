"""Shards that are cut, altered, gone, or hold a key twice; and more readers than shards."""

import shutil
from pathlib import Path

from fault_injection.families.bytes import altered
from fault_injection.samples import picture_sample, write_shard
from fault_injection.trial import Seen, trial
from fault_injection.world import World, make_index
from sunlab.data.indexing import index_all
from sunlab.data.ledger import NAME, audit
from sunlab.data.manifest import Manifests, shards_of
from sunlab.data.remote import Remote
from sunlab.data.shards import Shards
from sunlab.errors import SunlabError


def _copy(world: World, name: str) -> list[Path]:
    """The clean shards, for harm."""
    folder = world.folder / name
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(world.clean()[0].parent, folder)
    return sorted(folder.glob("*.tar"))


def _refused(world: World, seen: Seen, name: str, shards: list[Path], named: str, codes: tuple[int, ...] = (65,)) -> None:
    outcome = world.fit(world.config(name, shards, **world.several), ranks=2)
    seen.check(set(outcome.codes) <= set(codes), f"{name}: {outcome.codes}: {outcome.log[-400:]}")
    seen.check(named in outcome.log and "internal error" not in outcome.log, f"{name}: not named: {outcome.log[-400:]}")
    seen.check(outcome.clean, f"{name}: {outcome.orphans}, {outcome.leaked}")


def _borne(world: World, seen: Seen, name: str, shards: list[Path], lost: int) -> None:
    """With on_error=quarantine the run goes through, and exactly `lost` samples are written down."""
    config = world.config(name, shards, **world.several, data__source__on_error="quarantine")
    outcome, folder = world.fit(config, ranks=2), world.run_folder(config)
    if seen.check(outcome.codes == [0, 0] and outcome.clean, f"{name}: {outcome.codes}: {outcome.log[-400:]}"):
        lines = (folder / "quarantine.jsonl").read_text().splitlines()
        right = len(lines) == lost and all("altered bytes" in line for line in lines)
        seen.check(right, f"{name}: {len(lines)} written down, {lost} lost: {lines[:2]}")


@trial(
    "faults",
    "1 a cut shard",
    "65 on every rank, the shard named; with on_error=quarantine trained on, exactly the lost samples left out",
)
def cut(world: World, seen: Seen) -> None:
    shards = _copy(world, "cut")
    data, index = shards[1].read_bytes(), shards_of([str(shards[1])], Manifests(Remote()))[0].read_index(Remote())
    assert index is not None
    lost = world.random("cut").randrange(1, len(index))
    shards[1].write_bytes(data[: world.random("cut", "at").randrange(*index.offsets[-lost - 2 : -lost].tolist())])
    _refused(world, seen, "cut", shards, shards[1].name)
    _borne(world, seen, "cut-quarantined", shards, lost + 1)


@trial(
    "faults",
    "2 a flipped bit",
    "65 on every rank, the shard named; with on_error=quarantine trained on, one sample left out",
)
def flipped(world: World, seen: Seen) -> None:
    shards = _copy(world, "flipped")
    data = bytearray(shards[2].read_bytes())
    place = data.index(b"picture number", world.random("flipped").randrange(len(data) // 2))
    data[place] ^= 1
    shards[2].write_bytes(data)
    _refused(world, seen, "flipped", shards, shards[2].name)
    _borne(world, seen, "flip-quarantined", shards, 1)


@trial("faults", "2b bits flipped in mid-epoch", "the rank that meets one first ends all with 65; nothing left behind")
def flipped_later(world: World, seen: Seen) -> None:
    shards = _copy(world, "flipped-later")
    values = {**world.several, "callbacks": [{"name": "inject_pace"}], "trainer__max_steps": 100_000}
    config = world.config("flipped-later", shards, **values)
    job = world.start(config, ranks=2)
    seen.check(job.reach(world.run_folder(config) / "step-0", 2), "the run did not begin")
    data, place = shards[0].read_bytes(), 0
    with shards[0].open("r+b") as file:  # in its place, so that whoever has it open sees it
        while (place := data.find(b"picture number", place + 1)) > 0:
            file.seek(place)
            file.write(b"P")
    outcome = job.end()
    seen.check(set(outcome.codes) == {65}, f"{outcome.codes}: {outcome.log[-400:]}")
    seen.check(all(shards[0].name in log and "altered bytes" in log for log in outcome.logs), f"told: {outcome.log[-400:]}")
    seen.check(outcome.clean, f"{outcome.orphans}, {outcome.leaked}")


@trial("faults", "3 shards deleted in mid-epoch", "65 or 74, the shard named; nothing left behind")
def deleted(world: World, seen: Seen) -> None:
    shards = _copy(world, "deleted")
    values = {**world.several, "callbacks": [{"name": "inject_pace"}], "trainer__max_steps": 100_000}
    config = world.config("deleted", shards, **values)
    job = world.start(config, ranks=2)
    seen.check(job.reach(world.run_folder(config) / "step-0", 2), "the run did not begin")
    for shard in shards:
        shard.unlink()
    outcome = job.end()
    seen.check(set(outcome.codes) <= {65, 74}, f"{outcome.codes}: {outcome.log[-400:]}")
    seen.check(any(shard.name in outcome.log for shard in shards), f"not named: {outcome.log[-400:]}")
    seen.check(outcome.clean, f"{outcome.orphans}, {outcome.leaked}")
    shards = _copy(world, "deleted")
    shards[1].unlink()
    try:
        Shards(urls=[str(shards[0].parent / "*.tar")])
        seen.check(False, "gone before the start: taken for a shorter set")
    except SunlabError as error:
        seen.check(error.exit_code == 65 and shards[1].name in str(error), f"gone before the start: {error}")


@trial("faults", "4 a duplicate key, near and far", "refused with the key named, before training")
def duplicates(world: World, seen: Seen) -> None:
    samples = [picture_sample(number) for number in range(12)]
    cases = {
        "near": [[*samples[:3], samples[2], *samples[3:]]],
        "far in the shard": [[*samples, samples[0]]],
        "in another shard": [samples[:6], [*samples[6:], samples[1]]],
    }
    for name, parts in cases.items():
        for indexed in ("counted", "indexed", "apart"):
            folder = world.place(f"duplicate/{name}/{indexed}")
            for number, part in enumerate(parts):
                write_shard(folder / f"{number}.tar", part)
            case, key = f"{name}, {indexed}", "0000000"
            try:
                if indexed == "indexed":
                    make_index(folder)
                for path in sorted(folder.glob("*.tar")) if indexed == "apart" else ():
                    index_all([path])
                Shards(urls=[str(folder / "*.tar")], order="exact")
                seen.check(False, f"{case}: taken")
            except SunlabError as error:
                seen.check(error.exit_code == 65 and key in str(error), f"{case}: {error}")


@trial("faults", "6 3 shards on 2 ranks x 2 workers, 1 shard on 2 ranks", "equal steps on every rank, the ledger exact")
def uneven(world: World, seen: Seen) -> None:
    one = world.shards("one", (40,))
    for name, shards, workers in (("three", world.clean(), 2), ("one", one, 0)):
        config = world.config(f"uneven-{name}", shards, data__workers=workers)
        outcome, folder = world.fit(config, ranks=2), world.run_folder(config)
        if seen.check(outcome.codes == [0, 0] and outcome.clean, f"{name}: {outcome.codes}: {outcome.log[-400:]}"):
            found = audit(folder / NAME)
            seen.check(found.exact and found.steps == 12 and found.samples == 96, f"{name}: {found}")


@trial("faults", "11 100 bad samples in a row", "65 as it comes; quarantined, exactly 100 are written down and 150 remain")
def bad_in_a_row(world: World, seen: Seen) -> None:
    folder = world.place("bad-in-a-row")
    samples = [dict(picture_sample(number)) for number in range(250)]
    for sample in samples[70:170]:
        sample["png"] = sample["png"][:40]
    write_shard(folder / "0.tar", samples)
    make_index(folder)
    source = Shards(urls=[str(folder / "0.tar")], shuffle=0)
    try:
        list(source.read(seed=0, epoch=0, start=0, stop=250))
        seen.check(False, "it was read")
    except SunlabError as error:
        seen.check(error.exit_code == 65 and "0.tar" in str(error), str(error))
    source = Shards(urls=[str(folder / "0.tar")], shuffle=0, on_error="quarantine")
    source.quarantine_in(folder)
    read = list(source.read(seed=0, epoch=0, start=0, stop=250))
    lines = (folder / "quarantine.jsonl").read_text().splitlines()
    good = [sample for sample in read if "(for " not in sample.key]
    seen.check(len(lines) == 100 and len(read) == 250 and len(good) == 150, f"{len(lines)} lines, {len(good)} good")
    seen.check(not altered(good, samples), "others than the bad ones were altered")
    seen.count(quarantined=len(lines))
