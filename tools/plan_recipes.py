"""The table of docs/recipes.md: hours and cost of storing trajectories and of training SUN on them, from stated assumptions.

python tools/plan_recipes.py                          # every published model, as docs/recipes.md shows it
python tools/plan_recipes.py --tflops 120 --price 1.5 # a GPU that sustains 120 TFLOP/s, at 1.5 an hour

Counted here: the work of one network evaluation of one sample (by torch, on shapes without data), the parameters and the
memory that `sunlab fit --dry-run` estimates, and the configuration's network evaluations. Assumed: --tflops, what one GPU
sustains; --price of its hour; --count trajectories. Text encoding, decoding, loading and communication are left out.
"""

import argparse
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from sunlab.app.compose import base_options, settle
from sunlab.app.dry_run import SAMPLES, Plan, plan
from sunlab.backbones.pretrained import outline_base
from sunlab.config.load import LoadedConfig, load_config

HEAD = (
    "| base | latents | TFLOP an evaluation | GB a rank, at samples | trajectories, GPU hours | training, GPU hours | cost |"
)


def recipes() -> list[Path]:
    """The configurations that train SUN on a published model: `sun_msc.yaml` of each folder that states `model.family`."""
    found = sorted(Path("configs").glob("*/sun_msc.yaml"))
    return [file for file in found if load_config([file]).config.model.family is not None]


def flop(loaded: LoadedConfig) -> float:
    """Of one evaluation of the network, for one sample."""
    config = settle(loaded, "cpu", training=True).config
    backbone = outline_base(config.model.base, **base_options(config)).backbone.to("meta")
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as work:
        backbone.predict(torch.empty(1, *backbone.sample_shape), torch.empty(1), backbone.blank(1))
    return float(work.get_total_flops())


def evaluations(loaded: LoadedConfig, needs: Plan, count: int) -> tuple[float, float]:
    """Those of storing the trajectories, and of the training; a backward pass is two, recomputing for it another one."""
    config = loaded.config
    assert needs.nfe is not None
    one, samples = needs.nfe, needs.steps * needs.batch
    recomputed = one.backward / SAMPLES if config.model.backbone.get("gradient_checkpointing") else 0.0
    return 2.0 * count * config.teacher.steps, samples * (one.equivalents / SAMPLES + recomputed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=50_000, help="trajectories to store (default 50,000)")
    parser.add_argument(
        "--tflops", type=float, default=300.0, help="that one GPU sustains (default 300: an H100 in bfloat16)"
    )
    parser.add_argument("--price", type=float, default=3.0, help="of a GPU's hour (default 3 USD)")
    parser.add_argument(
        "--recipes", nargs="+", metavar="NAME", help="folders of configs/ (default: all with a published model)"
    )
    args = parser.parse_args()
    print(HEAD)
    print("|---" * (HEAD.count("|") - 1) + "|")
    for file in recipes() if args.recipes is None else [Path(f"configs/{name}/sun_msc.yaml") for name in args.recipes]:
        loaded = load_config([file])
        needs, work = plan(loaded), flop(loaded)
        stored, trained = (each * work / args.tflops / 3.6e15 for each in evaluations(loaded, needs, args.count))
        memory = f"{needs.memory.total / 1e9:.0f} at {needs.micro}" if needs.memory is not None else ""
        latents = needs.base.split("latents ")[1].split("]")[0] + "]"
        name, cost = file.parent.name, (stored + trained) * args.price
        print(
            f"| `{name}` | {latents} | {work / 1e12:.2f} | {memory} | {stored:.1f} | {trained:.1f} | {cost:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
