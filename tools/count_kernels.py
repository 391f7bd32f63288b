"""How many kernels a pass starts: the base, and SUN with a call for each prompt (CPU) and with one for all (GPU).

    python tools/count_kernels.py

A GPU computes a small batch faster than the host starts its kernels, so their number is what an adapter costs there. The
networks are of published structure with few channels and layers: the number a layer depends on neither. Views do not count.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bench.networks import twin
from gpu.bases import random_base
from gpu.families import prompts
from sunlab.adapters import joined
from sunlab.adapters.sun import SUN
from sunlab.diffusion.guidance import NetworkEvaluations
from sunlab.pipelines.draw import Bind, with_adapter, with_backbone

FAMILIES = ("sd15", "sdxl", "pixart_sigma", "sana_1600m", "sd35_medium")


class Kernels(TorchDispatchMode):
    """Counts operations that compute, by what they return: a view shares its memory with an argument."""

    count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        shared = any(each.alias_info is not None and not each.alias_info.is_write for each in function._schema.returns)
        self.count += not (shared or function is torch.ops.aten._unsafe_view.default)
        return out


@contextmanager
def together(on: bool) -> Iterator[None]:
    """Whether the prompts of a layer are one call, whatever the device."""
    before = joined.APART
    joined.APART = frozenset() if on else frozenset({"cpu"})
    try:
        yield
    finally:
        joined.APART = before


@torch.no_grad()
def kernels_of(family: str, *, normalise: bool, one_call: bool) -> tuple[int, int, int]:
    """Kernels of a plain pass and of one with SUN after the first, and the number of text-attention layers."""
    base, sun = random_base(family, "cpu", torch.float32, tiny=True), SUN(normalise=normalise)
    positive, negative, w = prompts(base, 1), prompts(base, 1), torch.full((1,), 4.0)
    x, t = torch.randn(1, *base.backbone.sample_shape), torch.full((1,), 0.5, dtype=torch.float64)

    def count(bind: Bind) -> int:
        denoise: Callable[..., object] = bind(positive, negative, w, NetworkEvaluations())
        denoise(x, t)
        with Kernels() as kernels:
            denoise(x, t)
        return kernels.count

    with together(one_call):
        plain, adapted = count(with_backbone(base.backbone)), count(with_adapter(twin(base, sun), sun))
    return plain, adapted, len(base.backbone.text_attention())


def main() -> None:
    print("kernels that SUN adds to a text-attention layer, in a pass after the first\n")
    print("| | normalised, a call each | normalised, one call | not normalised, a call each | not normalised, one call |")
    print("|---|---|---|---|---|")
    for family in FAMILIES:
        cells = []
        for normalise in (True, False):
            for one_call in (False, True):
                plain, adapted, layers = kernels_of(family, normalise=normalise, one_call=one_call)
                cells.append(f"{(adapted - plain) / layers:g}")
        print(f"| {family} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
