"""What SUN's branches cost in the cross-attention layers of Stable Diffusion 1.5 at 64x64 latents, in several layouts.

    python tools/bench_attention.py --dtype bfloat16 --batch 1

Summed over the 16 layers, the projections of query and output included, the prompts' keys and values known: plain attention
(diffusers' processor), SUN as it is, and the attention of its three branches alone in the ways that it might be computed.
"""

import argparse
from collections.abc import Callable
from statistics import median

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from bench.timing import Clock, Times, machine, paired, ratios, summary
from sunlab.adapters.attention import Branch, SUNAttention
from sunlab.adapters.kernels import Tokens, attend
from sunlab.adapters.state import PassState
from sunlab.backbones.sd.attention import Extended
from sunlab.memory import keep_freed_memory
from sunlab.types import Conditioning

LAYERS = ((4096, 320, 5), (1024, 640, 5), (256, 1280, 5), (64, 1280, 1))  # positions, width, how many
HEADS, TEXT, TOKENS, BRANCHES = 8, 768, 77, 3


def fused(query: Tensor, key: Tensor, value: Tensor, axis: int | None = None) -> list[Tensor]:
    """torch's kernel, a call for each branch; or one call, the branches along the batch (0) or the heads (1), the query
    repeated. Key and value (branches, B, heads, L, c)."""
    if axis is None:
        return [_in_rows(scaled_dot_product_attention(query, k, v)) for k, v in zip(key, value, strict=True)]
    key, value = (torch.cat(list(part), axis) for part in (key, value))
    query = query.repeat(BRANCHES if axis == 0 else 1, BRANCHES if axis == 1 else 1, 1, 1)
    return [_in_rows(z) for z in scaled_dot_product_attention(query, key, value).chunk(BRANCHES, axis)]


def with_softmax(query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
    """Matrix products around torch's softmax."""
    scaled = query * query.shape[-1] ** -0.5
    return [_in_rows((scaled @ k.mT).softmax(-1) @ v) for k, v in zip(key, value, strict=True)]


def _in_rows(z: Tensor) -> Tensor:
    return z.transpose(1, 2).flatten(2)


def cases(positions: int, width: int, batch: int, device: str, dtype: torch.dtype) -> dict[str, Callable[[], object]]:
    """One layer."""
    attn = Attention(query_dim=width, cross_attention_dim=TEXT, heads=HEADS, dim_head=width // HEADS).to(device, dtype)
    make = {"normalise": True, "scale": True, "compat": False}
    sun = Extended(AttnProcessor2_0(), SUNAttention(*(Branch(TEXT, width, **make).to(device, dtype) for _ in range(2))))
    x = torch.randn(batch, positions, width, device=device, dtype=dtype)
    tokens, negative = torch.randn(2, batch, TOKENS, TEXT, device=device, dtype=dtype)
    inputs, plain = PassState.of(Conditioning(negative)), AttnProcessor2_0()
    query = x.view(batch, positions, HEADS, -1).transpose(1, 2).contiguous()
    key, value = torch.randn(2, BRANCHES, batch, TOKENS, width, device=device, dtype=dtype)
    key, value = (part.unflatten(-1, (HEADS, -1)).transpose(2, 3).contiguous() for part in (key, value))
    known = [Tokens.of(k, v) for k, v in zip(key, value, strict=True)]
    return {
        "plain layer": lambda: plain(attn, x, tokens),
        "SUN layer": lambda: sun(attn, x, tokens, sun=inputs),
        "three branches as SUN computes them": lambda: [attend(query, known[branch]) for branch in range(BRANCHES)],
        "fused kernel, a call each": lambda: fused(query, key, value),
        "fused kernel, along the batch": lambda: fused(query, key, value, 0),
        "fused kernel, along the heads": lambda: fused(query, key, value, 1),
        "products and softmax": lambda: with_softmax(query, key, value),
    }


@torch.no_grad()
def measure(batch: int, device: str, dtype: torch.dtype, rounds: int) -> Times:
    """Seconds of all layers together, by round."""
    total: dict[str, list[float]] = {}
    for positions, width, number in LAYERS:
        for name, seconds in paired(cases(positions, width, batch, device, dtype), rounds, Clock(device)).items():
            so_far = total.get(name, [0.0] * rounds)
            total[name] = [a + number * b for a, b in zip(so_far, seconds, strict=True)]
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, nargs="+", default=[1])
    parser.add_argument("--rounds", type=int, default=11)
    told = parser.parse_args()
    keep_freed_memory()
    torch.manual_seed(0)
    if told.device == "cpu":
        torch.set_num_threads(1)
    for batch in told.batch:
        seconds = measure(batch, told.device, getattr(torch, told.dtype), told.rounds)
        print(f"\n## {told.dtype}, batch {batch}, N = {told.rounds}: {machine(told.device)}\n\n| | ms |\n|---|---|")
        for name, values in seconds.items():
            print(f"| {name} | {summary([1e3 * s for s in values], 1)} |")
        extra = [1e3 * (a - b) for a, b in zip(seconds["SUN layer"], seconds["plain layer"], strict=True)]
        over = median(ratios(seconds["SUN layer"], seconds["plain layer"]))
        print(f"\nSUN adds {summary(extra, 1)} ms to a pass: {over:.2f}x its cross-attention layers")


if __name__ == "__main__":
    main()
