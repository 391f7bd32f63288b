"""A long run over many shards: does memory grow, does anything wait?"""

import json

from fault_injection.trial import Seen, trial
from fault_injection.world import World
from sunlab.data.ledger import NAME, audit

GROWTH = 50.0  # MiB of resident memory, of a rank and its workers, after warm-up
WAIT = 60.0  # seconds that a rank may wait for a batch


@trial(
    "load",
    "2 ranks x 2 workers, 2 epochs",
    f"resident memory grows by at most {GROWTH:.0f} MiB after warm-up, no wait over {WAIT:.0f} s",
)
def load(world: World, seen: Seen) -> None:
    shards, samples = (20, 100) if world.quick else (200, 1000)
    batch = 100 if world.quick else 500
    urls = world.shards("load", (samples,) * shards)
    steps = 2 * shards * samples // batch
    config = world.config(
        "load",
        urls,
        data__workers=2,
        data__batch_size=batch,
        data__source__shuffle=1000,
        task="autoencoder",
        callbacks=[{"name": "inject_gauge"}],
        trainer__max_steps=steps,
        run__checkpoint_every=steps // 4,
    )
    outcome = world.fit(config, ranks=2, seconds=3600)
    if not seen.check(outcome.codes == [0, 0] and outcome.clean, f"{outcome.codes}: {outcome.log[-500:]}"):
        return
    found = audit(world.run_folder(config) / NAME)
    seen.check(found.exact and found.samples == 2 * shards * samples, f"ledger: {found}")
    for rank in (0, 1):
        gauge = json.loads((world.run_folder(config) / f"gauge-{rank}.json").read_text())
        seen.check(gauge["grown"] <= GROWTH, f"rank {rank} grew by {gauge['grown']:.1f} MiB: {gauge['resident']}")
        seen.check(gauge["longest_wait"] <= WAIT, f"rank {rank} waited {gauge['longest_wait']:.1f} s")
        seen.count(
            **{f"rank{rank}_grown_MiB": round(gauge["grown"], 1), f"rank{rank}_wait_s": round(gauge["longest_wait"], 2)}
        )
    seen.count(samples=found.samples, seconds=round(outcome.seconds, 1))
