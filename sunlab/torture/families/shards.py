"""Shards that are cut, altered, gone, or hold a key twice; and more readers than shards."""

import shutil
from pathlib import Path

from sunlab.data.ledger import NAME, audit
from sunlab.data.shards import Shards
from sunlab.errors import SunlabError
from sunlab.torture.families.bytes import altered
from sunlab.torture.samples import picture_sample, write_shard
from sunlab.torture.trial import Seen, trial
from sunlab.torture.world import World, make_index


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


@trial("faults", "1 a cut shard", "65 on every rank, the shard named; nothing left behind")
def cut(world: World, seen: Seen) -> None:
    shards = _copy(world, "cut")
    data = shards[1].read_bytes()
    shards[1].write_bytes(data[: world.random("cut").randrange(1, len(data))])
    _refused(world, seen, "cut", shards, shards[1].name)


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
    config = world.config("quarantined", shards, **world.several, data__source__on_error="quarantine")
    outcome, folder = world.fit(config, ranks=2), world.run_folder(config)
    if seen.check(outcome.codes == [0, 0] and outcome.clean, f"quarantine: {outcome.codes}: {outcome.log[-400:]}"):
        lines = (folder / "quarantine.jsonl").read_text().splitlines()
        seen.check(len(lines) == 1 and "altered bytes" in lines[0], f"quarantine: {lines}")


@trial("faults", "3 shards deleted in mid-epoch", "65 or 74, the shard named; nothing left behind")
def deleted(world: World, seen: Seen) -> None:
    shards = _copy(world, "deleted")
    values = {**world.several, "callbacks": [{"name": "torture_pace"}], "trainer__max_steps": 100_000}
    config = world.config("deleted", shards, **values)
    job = world.start(config, ranks=2)
    seen.check(job.reach(world.run_folder(config) / "step-0", 2), "the run did not begin")
    for shard in shards:
        shard.unlink()
    outcome = job.end()
    seen.check(set(outcome.codes) <= {65, 74}, f"{outcome.codes}: {outcome.log[-400:]}")
    seen.check(any(shard.name in outcome.log for shard in shards), f"not named: {outcome.log[-400:]}")
    seen.check(outcome.clean, f"{outcome.orphans}, {outcome.leaked}")


@trial("faults", "4 a duplicate key, near and far", "refused with the key named, before training")
def duplicates(world: World, seen: Seen) -> None:
    samples = [picture_sample(number) for number in range(12)]
    cases = {
        "near": [[*samples[:3], samples[2], *samples[3:]]],
        "far in the shard": [[*samples, samples[0]]],
        "in another shard": [samples[:6], [*samples[6:], samples[1]]],
    }
    for name, parts in cases.items():
        for indexed in (False, True):
            folder = world.place(f"duplicate/{name}/{indexed}")
            for number, part in enumerate(parts):
                write_shard(folder / f"{number}.tar", part)
            case, key = f"{name}, {'indexed' if indexed else 'counted'}", "0000000"
            try:
                if indexed:
                    make_index(folder)
                Shards(urls=[str(folder / "*.tar")])
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
