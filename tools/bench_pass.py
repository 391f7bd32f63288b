"""What SUN costs in one pass of a family's network at full size: random weights, paired rounds, medians and ranges.

    python tools/bench_pass.py --family pixart_sigma
    python tools/bench_pass.py --family sd35_medium --depth 2 --rounds 3

Time depends on shapes alone. `--depth` keeps so many blocks, all of full width, where the whole network does not fit the
memory or the time. No text encoder is built: prompts are random embeddings of the family's length, of which `--words` are no
padding.
"""

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from bench.timing import Clock, goal, machine, paired, ratios, summary
from sunlab.adapters import ADAPTERS, Adapter
from sunlab.adapters.strength import Strength
from sunlab.backbones import Backbone
from sunlab.backbones.pretrained import configurations, outline_base, quiet
from sunlab.memory import keep_freed_memory
from sunlab.types import Conditioning

GOALS = {"sd3": 1.03, "sd35_medium": 1.03}
USUAL = 1.02
PLAIN, GUIDED, SUN, FIRST = "plain pass", "guided pass, both prompts", "SUN pass", "SUN pass, the first of a picture"


def outline(family: str, depth: int | None) -> tuple[Backbone, int]:
    """The network on the meta device, of `depth` blocks where given, and how many it has whole."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / family
        shutil.copytree(configurations(family), copy)
        file = copy / "transformer" / "config.json"
        config = json.loads(file.read_text())
        blocks = config["num_layers"]
        if depth is not None:
            config["num_layers"] = depth
            if dual := config.get("dual_attention_layers"):
                config["dual_attention_layers"] = list(range(round(len(dual) * depth / blocks)))
        file.write_text(json.dumps(config))
        return outline_base(copy).backbone, blocks


def filled(backbone: Backbone, dtype: torch.dtype, device: str) -> Backbone:
    """With random weights and buffers."""
    backbone = backbone.to_empty(device=device).to(dtype)
    with torch.no_grad():
        for tensor in (*backbone.parameters(), *backbone.buffers()):
            if tensor.is_floating_point():
                tensor.normal_(std=0.02)
    return backbone.requires_grad_(False).eval()


def prompts(backbone: Backbone, words: int, device: str) -> Conditioning:
    """Random embeddings of one prompt; in joint attention each text encoder has `words` of them."""
    with torch.device(device):
        blank = backbone.blank(1)
        tokens = torch.randn(blank.tokens.shape, dtype=blank.tokens.dtype)
        place = torch.arange(tokens.shape[1])[None]
    if backbone.masked:
        return replace(blank, tokens=tokens, mask=place < words)
    return replace(blank, tokens=tokens, words=(place < words) | ((place >= 77) & (place < 77 + words)))


def cases(backbone: Backbone, adapter: Adapter, words: int, device: str) -> dict[str, Callable[[], Tensor]]:
    """One pass for one picture each; in all but the first the prompts' keys and values are known."""
    positive, negative = prompts(backbone, words, device), prompts(backbone, words, device)
    both = Conditioning.cat([positive, negative])
    x, t = torch.randn(1, *backbone.sample_shape, device=device), torch.full((1,), 0.7, dtype=torch.float64, device=device)

    def state() -> Any:
        return Strength().on(adapter.state(positive, negative, torch.full((1,), 3.0, device=device)))

    known = state()
    return {
        PLAIN: lambda: backbone.predict(x, t, positive),
        SUN: lambda: backbone.predict(x, t, positive, known),
        FIRST: lambda: backbone.predict(x, t, positive, state()),
        GUIDED: lambda: backbone.predict(torch.cat([x, x]), torch.cat([t, t]), both),
    }


@torch.no_grad()
def measure(family: str, depth: int | None, words: int, dtype: torch.dtype, device: str, rounds: int) -> None:
    whole, blocks = outline(family, None)
    meant = ADAPTERS.build("sun")
    meant.attach(whole)
    trained = sum(tensor.numel() for tensor in meant.tensors().values())
    network = filled(outline(family, depth)[0], dtype, device)
    adapter = ADAPTERS.build("sun")
    adapter.attach(network)
    clock, runs = Clock(device), cases(network, adapter, words, device)
    guided = {GUIDED: runs.pop(GUIDED)}  # of which the limit alone depends: once
    seconds = paired(runs, rounds, clock)
    share = trained / sum(p.numel() for p in whole.parameters())
    kept = f"{depth or blocks} of {blocks} blocks, {str(dtype)[6:]}, {words} words"
    print(f"## {family}, {kept}, N = {rounds}: {machine(device)}\n")
    print(f"SUN: {trained:,} parameters, {share:.1%} of the network's; {2 * trained:,} bytes in float16")
    print("\n| | s |\n|---|---|")
    for name, values in seconds.items():
        print(f"| {name} | {summary(values)} |")
    over = ratios(seconds[SUN], seconds[PLAIN])
    print(f"\nround by round: {summary(over, 4)}")
    print(goal("a SUN pass over a plain one", median(over), GOALS.get(family, USUAL), at_least=False))
    shares = [4 * p / (f + 3 * s) for p, f, s in zip(seconds[PLAIN], seconds[FIRST], seconds[SUN], strict=True)]
    started = clock()
    guided[GUIDED]()
    limit = 25 * (clock() - started) / (4 * median(seconds[PLAIN]))
    print(goal(f"four SUN passes against 25 guided ones, share of the limit of {limit:.2f}x", median(shares), 0.95))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", required=True, help="pixart_sigma, sana_600m, sana_1600m, sd35_medium, ...")
    parser.add_argument("--depth", type=int, help="blocks to keep; left out: all")
    parser.add_argument("--words", type=int, default=20)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=5)
    told = parser.parse_args()
    quiet()
    keep_freed_memory()
    torch.manual_seed(0)
    if told.device == "cpu":
        torch.set_num_threads(1)
    measure(told.family, told.depth, told.words, getattr(torch, told.dtype), told.device, told.rounds)


if __name__ == "__main__":
    main()
