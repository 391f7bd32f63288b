"""How many samples at a time fit a GPU, by the estimate of `sunlab fit --dry-run`: a row for each configuration.

    python tools/plan_memory.py                                       # SUN on every published model
    python tools/plan_memory.py configs/sd15/sun_msc.yaml configs/sdxl/sun_msc.yaml
    python tools/plan_memory.py --memory 16 48 configs/sd15/lcm_lora.yaml optimizer.bits=8

Words with `=` override the configurations.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from plan_recipes import recipes
from sunlab.app.dry_run import plan
from sunlab.config.load import load_config
from sunlab.modules.footprint import Footprint

FREE = 0.9  # of a card's memory: the rest is for kernels' workspaces, CUDA itself and the allocator's losses
ONE_RANK = [
    "data.streams=1",
    "data.workers=0",
    "trainer.devices=1",
    "trainer.num_nodes=1",
    "trainer.accumulate_grad_batches=1",
]


def memory_of(file: Path, words: Sequence[str], batch: int) -> Footprint:
    """The estimate with `batch` samples at a time."""
    memory = plan(load_config([file], [*words, *ONE_RANK, f"data.batch_size={batch}"])).memory
    assert memory is not None, f"{file}: its task trains no denoising network"
    return memory


def largest_batch(one: Footprint, four: Footprint, gigabytes: float) -> int:
    """The most samples at a time that fit; 0: not even one.

    Args:
        one, four: the estimates with one sample and with four; memory grows evenly between and beyond.
        gigabytes: of the card, in GiB.
    """
    each = (four.step - one.step) / 3
    left = FREE * gigabytes * 2**30 - one.total
    return 0 if left < 0 else 1 + int(left / each)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="CONFIG or KEY=VALUE")
    parser.add_argument("--memory", nargs="+", type=float, default=[12, 24, 80], help="of the cards, in GB")
    given = parser.parse_args()
    files = [Path(word) for word in given.words if "=" not in word] or recipes()
    words = [word for word in given.words if "=" in word]
    print(
        "| configuration | weights and optimizer, GB | a sample more, GB | "
        + " | ".join(f"{m:g} GB" for m in given.memory)
        + " |"
    )
    print("|---|---|---|" + "---|" * len(given.memory))
    for file in files:
        one, four = memory_of(file, words, 1), memory_of(file, words, 4)
        fit = " | ".join(f"{n}" if (n := largest_batch(one, four, m)) else "no" for m in given.memory)
        each = (four.step - one.step) / 3
        print(f"| {file} | {(one.total - one.step) / 1e9:.1f} | {each / 1e9:.2f} | {fit} |", flush=True)


if __name__ == "__main__":
    main()
