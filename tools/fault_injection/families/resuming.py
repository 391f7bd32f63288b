"""Going on: on other numbers of ranks, and from a damaged checkpoint."""

from fault_injection.families.kills import STEPS, compare
from fault_injection.trial import Seen, trial
from fault_injection.world import World
from sunlab.data.ledger import NAME, audit, steps_of


@trial(
    "faults", "17 resume on 2, 1, then 4 ranks; an indivisible batch", "the global order goes on exactly; 78 for the batch"
)
def other_ranks(world: World, seen: Seen) -> None:
    unbroken, _ = world.unbroken()
    config = world.config("ranks", world.clean(), **world.several)
    folder = world.run_folder(config)
    first = world.fit(config, "--time-limit", "0s", ranks=2)
    seen.check(first.codes[0] == 75, f"2 ranks: {first.codes}: {first.log[-400:]}")
    second = world.fit(config, "--time-limit", "0s", "--resume", "last", ranks=1)
    seen.check(second.codes == [75], f"1 rank: {second.codes}: {second.log[-400:]}")
    for ranks, batch in ((3, "no multiple"), (2, "data.batch_size=9")):
        words = [] if ranks == 3 else [batch]
        wrong = world.fit(config, "--resume", "last", *words, ranks=ranks)
        seen.check(set(wrong.codes) == {78} and wrong.clean, f"{ranks} ranks {words}: {wrong.codes}: {wrong.log[-400:]}")
    last = world.fit(config, "--resume", "last", ranks=4)
    if seen.check(last.codes == [0] * 4 and last.clean, f"4 ranks: {last.codes}: {last.log[-400:]}"):
        found = audit(folder / NAME)
        seen.check(found.exact and found.steps == STEPS and found.readers == {1, 2, 4}, f"ledger: {found}")
        seen.check(steps_of(folder / NAME) == steps_of(unbroken / NAME), "the steps have other samples")


@trial(
    "faults", "18 flipped bits in the newest checkpoint", "goes on from the one before, says so, ends with the same bytes"
)
def damaged(world: World, seen: Seen) -> None:
    unbroken, _ = world.unbroken()
    random = world.random("damaged")
    config = world.config("damaged", world.clean(), **world.several)
    folder = world.run_folder(config)
    begun = world.fit(config, "trainer.max_steps=7", "run.checkpoint_every=3", ranks=2)
    seen.check(begun.codes == [0, 0], f"begun: {begun.codes}: {begun.log[-400:]}")
    newest = folder / "checkpoints" / "last.ckpt"
    data = bytearray(newest.read_bytes())
    for _ in range(3):
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    newest.write_bytes(data)
    outcome = world.fit(config, "--resume", "last", ranks=2)
    said = outcome.logs[0]
    seen.check("last.ckpt is damaged" in said and "last.previous.ckpt" in said, f"it did not say so: {said[-400:]}")
    if seen.check(outcome.codes == [0, 0], f"resumed: {outcome.codes}: {outcome.log[-400:]}"):
        compare(seen, folder, unbroken, "damaged")
