"""How much faster few steps are: side by side in one run, paired, medians and the range over the rounds.

    python tools/bench_sampling.py                                    # emoji-sd, whole loops
    python tools/bench_sampling.py --base random-sd15 --passes        # full size on a CPU: single evaluations, multiplied
    python tools/bench_sampling.py --base random-sd15 --dtype bfloat16 --compile   # on a GPU

`random-sd15` is a folder of tools/make_random_base.py: time depends on the shapes, not on the weights' values. All adapters
are untrained for the same reason. Printed beside the results: the limits set by the U-Net evaluations.
"""

import argparse
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from bench.networks import fused, tiny_decoder, twin
from bench.timing import Clock, goal, machine, paired, ratios, summary
from sunlab.adapters import Adapter
from sunlab.adapters.lora import LoRA
from sunlab.adapters.sun import SUN
from sunlab.backbones.base import BaseModel
from sunlab.backbones.pretrained import load_base, quiet
from sunlab.diffusion.grid import grid
from sunlab.diffusion.guidance import NetworkEvaluations
from sunlab.memory import keep_freed_memory
from sunlab.pipelines.draw import Bind, with_adapter, with_backbone, with_guidance
from sunlab.solvers.ddim import DDIM
from sunlab.solvers.dpmpp_2m import DPMpp2M
from sunlab.solvers.lcm import LCM

GUIDED, PLAIN = "DPM-Solver++, 25 steps, CFG", "4 plain passes, no adapter"
SUN4, RAW4 = "SUN, 4 steps", "SUN, not normalised, 4 steps"
UNFUSED, FUSED = "LCM-LoRA, 4 steps", "LCM-LoRA, 4 steps, fused"
STEPS = {GUIDED: 25, SUN4: 4, RAW4: 4, PLAIN: 4, UNFUSED: 4, FUSED: 4}
PROMPT, NEGATIVE = "a large koala on a red background", "blue"


def binds(
    base: BaseModel, wanted: Sequence[str], *, compile_network: Callable[[nn.Module], object] | None = None
) -> dict[str, Bind]:
    """How each case evaluates its network; `compile_network` prepares each of them."""

    def adapted(adapter: Adapter) -> Callable[[], tuple[BaseModel, Callable[[BaseModel], Bind]]]:
        return lambda: (twin(base, adapter), lambda model: with_adapter(model, adapter))

    made: dict[str, Callable[[], tuple[BaseModel, Callable[[BaseModel], Bind]]]] = {
        GUIDED: lambda: (twin(base), with_guidance),
        PLAIN: lambda: (twin(base), lambda model: with_backbone(model.backbone)),
        SUN4: adapted(SUN()),
        RAW4: adapted(SUN(normalise=False)),
        UNFUSED: adapted(LoRA()),
        FUSED: lambda: (fused(base), lambda model: with_backbone(model.backbone)),
    }
    found = {}
    for name in wanted:
        model, bind = made[name]()
        if compile_network is not None:
            compile_network(model.backbone.unet)
        found[name] = bind(model)
    return found


def loops(base: BaseModel, bound: dict[str, Bind], batch: int, *, single: bool) -> dict[str, Callable[[], object]]:
    """Case -> its U-Net loop for `batch` pictures; with `single`, one pass of it, the prompts' keys and values known."""
    path = base.backbone.path
    solvers = {GUIDED: DPMpp2M(path), UNFUSED: LCM(path), FUSED: LCM(path)}
    positive, negative = base.encode([PROMPT] * batch), base.encode([NEGATIVE] * batch)
    x = torch.randn(batch, *base.backbone.sample_shape, device=base.device)
    w, t = torch.full((batch,), 3.0, device=base.device), torch.ones(batch, dtype=torch.float64, device=base.device)

    def loop(name: str) -> Callable[[], object]:
        times = grid(STEPS[name], path=path)
        solver = solvers.get(name, DDIM(path))
        if single:
            denoise = bound[name](positive, negative, w, NetworkEvaluations())
            return lambda: denoise(x, t)
        return lambda: solver.solve(bound[name](positive, negative, w, NetworkEvaluations()), x, times)

    return {name: loop(name) for name in bound}


def parts(base: BaseModel, batch: int) -> dict[str, Callable[[], object]]:
    """What surrounds the loop, for `batch` pictures."""
    latents = torch.randn(batch, *base.backbone.sample_shape, device=base.device)
    full: Any = base.autoencoder.vae
    tiny: Any = tiny_decoder(base.autoencoder.factor, full.dtype, str(base.device))
    return {
        "text": lambda: base.text([PROMPT] * batch + [NEGATIVE] * batch),
        "full decoder": lambda: full.decode(latents.to(full.dtype)),
        "tiny decoder": lambda: tiny.decode(latents.to(full.dtype)),
    }


def rate(base: BaseModel, clock: Clock) -> float:
    """FLOP/s of a matrix product on this device, in the base's type: the best of ten."""
    n = 8192 if base.device.type == "cuda" else 2048
    a = torch.randn(n, n, device=base.device).to(base.backbone.unet.dtype)
    return 2 * n**3 / min(paired({"product": lambda: a @ a}, 10, clock)["product"])


def flops_of(run: Callable[[], object]) -> int:
    """Of matrix products, convolutions and attention; torch leaves out its attention kernel for CPUs."""
    on_cpu: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    known = {on_cpu: lambda query, key, value, *_, **__: sdpa_flop_count(query, key, value)}
    with FlopCounterMode(display=False, custom_mapping=known) as counter:
        run()
    return counter.get_total_flops()


@torch.no_grad()
def measure(base: BaseModel, bound: dict[str, Bind], batch: int, rounds: int, *, single: bool, clock: Clock) -> None:
    """One table, and the limits and goals below it."""
    cases = loops(base, bound, batch, single=single)
    seconds = paired(cases, rounds, clock)
    loop = {name: [s * (STEPS[name] if single else 1) / batch for s in seconds[name]] for name in bound}
    rest = {name: median(s) / batch for name, s in paired(parts(base, batch), max(rounds // 3, 1), clock).items()}
    around = {name: rest["text"] + rest[name] for name in ("full decoder", "tiny decoder")}
    whole = {k: {n: [a + more for a in loop[n]] for n in bound} for k, more in around.items()}
    made = "one pass, multiplied by the steps" if single else "measured whole"
    print(f"\n### batch {batch}, N = {rounds} rounds, {made}\n")
    print("| | U-Net loop, s a picture | speed-up | picture, full decoder | speed-up | picture, tiny decoder | speed-up |")
    print("|---|---|---|---|---|---|---|")
    for name in bound:
        cells = [f"{summary(table[name])} | {summary(ratios(table[GUIDED], table[name]), 2)}" for table in
                 (loop, *whole.values())]  # fmt: skip
        print(f"| {name} | {' | '.join(cells)} |")
    print("\nOnce a picture, the same in every row: " + ", ".join(f"{name} {s:.3f} s" for name, s in rest.items()))
    by_time = median(ratios(loop[GUIDED], loop[PLAIN]))
    print(f"\nLimits: {25 * 2 / 4:.1f}x by count; {by_time:.2f}x by time, 25 passes of both prompts over 4 of one; "
          "7.5x a whole SD 1.5 picture with its full decoder, by arithmetic")  # fmt: skip
    for label, table in (("U-Net loop", loop), *whole.items()):
        share = median(ratios(table[PLAIN], table[SUN4]))
        print(goal(f"SUN's share of the measured limit, {label}", share, 0.95))
    print(goal("a SUN pass over a plain one", median(ratios(loop[SUN4], loop[PLAIN])), 1.02, at_least=False))
    print(f"  round by round: {summary(ratios(loop[SUN4], loop[PLAIN]), 4)}")
    print(goal("speed-up of the U-Net loop", median(ratios(loop[GUIDED], loop[SUN4])), 10))
    print(goal("speed-up of the picture, tiny decoder",
               median(ratios(whole["tiny decoder"][GUIDED], whole["tiny decoder"][SUN4])), 10))  # fmt: skip
    one = loops(base, {n: bound[n] for n in (PLAIN, SUN4)}, batch, single=True)
    plain, first, later = (flops_of(one[n]) for n in (PLAIN, SUN4, SUN4))  # the first computes the prompts' keys and values
    print(f"- by count of operations four SUN passes are {(first + 3 * later) / (4 * plain):.4f} of four plain ones (GFLOP: "
          f"{first / 1e9:.1f} the first, {later / 1e9:.1f} each later one, {plain / 1e9:.1f} a plain one)")  # fmt: skip
    flops, peak = later if single else first + 3 * later, rate(base, clock)
    print(f"- floor of {'a SUN pass' if single else 'four SUN passes'}: {flops / peak:.3f} s at {peak / 1e9:.0f} GFLOP/s, a "
          f"matrix product here; measured {median(seconds[SUN4]):.3f} s")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="emoji-sd", help="a folder, or the name of a model inside the package")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument(
        "--passes", action="store_true", help="time single U-Net evaluations and multiply: for full size on a CPU"
    )
    parser.add_argument("--cases", nargs="+", default=list(STEPS), choices=list(STEPS))
    parser.add_argument("--compile", action="store_true", help="torch.compile of every U-Net")
    told = parser.parse_args()
    quiet()
    keep_freed_memory()  # as sunlab's commands do
    torch.manual_seed(0)
    if told.device == "cpu":
        torch.set_num_threads(1)
    base = load_base(told.base, dtype=getattr(torch, told.dtype)).freeze().to(told.device)
    print(f"## {told.base}, {told.dtype}{', compiled' if told.compile else ''}: {machine(told.device)}")
    needed = list(dict.fromkeys([GUIDED, PLAIN, SUN4, *told.cases]))
    bound = binds(base, needed, compile_network=nn.Module.compile if told.compile else None)
    for batch in told.batch:
        measure(base, bound, batch, told.rounds, single=told.passes, clock=Clock(told.device))


if __name__ == "__main__":
    main()
