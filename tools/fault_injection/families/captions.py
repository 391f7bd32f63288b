"""Captions that are missing, broken, empty or enormous."""

from fault_injection.samples import picture_sample, write_shard
from fault_injection.trial import Seen, trial
from fault_injection.world import World, make_index
from sunlab.data.sample import BadSample
from sunlab.data.shards import Shards

LONG = 1_000_000  # bytes


@trial(
    "faults",
    "5 captions: missing, bad UTF-8, empty, 1 MB",
    "the first two named and left out; the others trained on or named",
)
def captions(world: World, seen: Seen) -> None:
    folder = world.place("captions")
    samples = [dict(picture_sample(number)) for number in range(24)]
    del samples[3]["txt"]
    samples[5]["txt"] = b"a caf\xe9 in latin-1"
    samples[7]["txt"] = b""
    samples[9]["txt"] = b"word " * (LONG // 5)
    keys = [sample["__key__"].decode() for sample in samples]
    path = write_shard(folder / "0.tar", samples)
    make_index(folder)
    source = Shards(urls=[str(path)], shuffle=0)
    bad: dict[str, BadSample] = {}
    for _ in source.pipeline(stream=0, passes=1, bad=lambda error: bad.update({error.key: error})):
        pass
    for number in (3, 5):
        error = bad.get(keys[number])
        seen.check(error is not None and path.name in str(error), f"sample {number}: {error}")
    seen.check(bad.keys() <= {keys[3], keys[5], keys[9]}, f"others were refused: {sorted(bad)}")
    config = world.config("captions", [path], data__source__on_error="quarantine")
    outcome = world.fit(config, ranks=2)
    seen.check(outcome.codes == [0, 0] and outcome.clean, f"{outcome.codes}: {outcome.log[-400:]}")
    lines = (world.run_folder(config) / "quarantine.jsonl").read_text().splitlines()
    seen.check(len(lines) == len(bad), f"quarantined: {len(lines)}, bad: {len(bad)}")
    seen.count(left_out=len(lines))
