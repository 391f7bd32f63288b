"""SIGKILLs of `sunlab data precompute`: what is made in the end is what an unbroken one makes."""

from pathlib import Path

from fault_injection.ranks import Job, start
from fault_injection.trial import Seen, trial
from fault_injection.world import World

SHARD = 8  # samples of the 56
VICTIMS = ([0, 1], [0], [1])


@trial(
    "kills",
    "SIGKILL of data precompute",
    "gone on with: every shard, index and manifest as of the unbroken one, to the byte",
)
def precompute(world: World, seen: Seen) -> None:
    config, random = world.config("precompute", world.clean()), world.random("precompute")

    def begin(folder: Path) -> Job:
        words = ["data", "precompute", "--config", str(config), "--out", str(folder), "--shard-size", str(SHARD)]
        return start(world.main, [*words, "--batch", "2"], ranks=2, folder=world.folder / "logs" / folder.name)

    unbroken = world.place("latents-unbroken")
    outcome = begin(unbroken).end()
    seen.check(outcome.codes == [0, 0], f"the unbroken one ended with {outcome.codes}: {outcome.log[-300:]}")
    kills, wanted = 0, world.choose(4, 20)
    while kills < wanted:
        folder, hits = world.place(f"latents-{kills}"), 0
        while hits < 3:  # of one folder
            job = begin(folder)
            ended = job.wait(random.uniform(0.2, 1.1) * outcome.seconds)
            job.kill(random.choice(VICTIMS))
            codes = job.end().codes
            hits += -9 in codes
            seen.check(set(codes) <= {0, -9}, f"{folder.name}: {codes} after a kill")
            if ended:
                break
        last = begin(folder).end()
        kills += hits
        seen.check(last.codes == [0, 0], f"{folder.name}: {last.codes}: {last.log[-300:]}")
        seen.check(_contents(folder) == _contents(unbroken), f"{folder.name}: differs from the unbroken one")
    seen.count(kills=kills)


def _contents(folder: Path) -> dict[str, bytes]:
    """Of every file but the lock's, temporary ones that were left behind among them."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}
