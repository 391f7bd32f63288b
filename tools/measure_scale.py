"""Measure which guidance scale w the pictures of an adapter at scale lambda are nearest to. The claim to test is
w = 1 + lambda (w_train - 1).

Each scale draws the same pairs of held-out captions and random negative prompts, from the same seeds, as the teacher does
at each w of a grid. Distances are means over the pairs, of features and of pixels; the nearest w is the lowest point of the
grid, refined by the parabola through it and its neighbours. Few steps move it too, so beside each scale stands the base with
guidance at the claimed w in as many steps, and the first row is the base without adapter and guidance. Negative control is
the share of what the teacher at w_train suppresses:

python tools/measure_scale.py emoji-sd emoji/sun_msc.safetensors --scales 0 0.5 1 1.5 2 --w 1 1.5 2 3 4 5 7 --count 64
"""

import argparse
from collections.abc import Sequence
from functools import partial
from random import Random

import torch
from torch import Tensor

from sunlab.adapters.strength import Strength
from sunlab.backbones.base import BaseModel
from sunlab.backbones.pretrained import load_base, quiet
from sunlab.data.negatives import NEGATIVES, Pool
from sunlab.data.shards import Shards
from sunlab.diffusion.grid import grid
from sunlab.draws import keyed_seed
from sunlab.evaluation.base import EXTRACTORS
from sunlab.evaluation.control import Questions
from sunlab.evaluation.pairs import random_pairs
from sunlab.export import load_adapter
from sunlab.lab.control import LabControl
from sunlab.packaged import asset
from sunlab.pipelines.draw import Bind, Request, draw, with_adapter, with_guidance
from sunlab.solvers import SOLVERS, Sampler


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", help="emoji-sd, or the folder of a fine-tune")
    parser.add_argument("adapter", help="its file, or one inside the package")
    parser.add_argument("--scales", type=float, nargs="+", default=[0.0, 0.5, 1.0, 1.5, 2.0])
    parser.add_argument("--w", type=float, nargs="+", default=[1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0], help="of the teacher")
    parser.add_argument("--count", type=int, default=64, help="pairs")
    parser.add_argument("--control", type=int, default=32, help="pictures of each kind of the negative control")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--teacher-steps", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    quiet()
    base = load_base(given.base).freeze()
    adapter, header = load_adapter(asset(given.adapter), base.backbone)
    trained = sum(header["guidance"]) / 2
    pairs = request(given.count, given.seed)
    path = base.backbone.path
    solver = SOLVERS.build("dpmpp_2m", path)
    teacher = Sampler(solver, grid(given.teacher_steps, path=path))
    few = Sampler(
        SOLVERS.build(header.get("solver", "ddim"), path), grid(given.steps, shift=header.get("shift", 1.0), path=path)
    )
    guided = with_guidance(base)
    see = EXTRACTORS.build("effnet_lite0")
    references = [seen(see, drawn(base, teacher, guided, w, pairs)) for w in given.w]
    control = LabControl(pictures=given.control)
    before = partial(drawn, base, teacher, guided, trained)
    questions = control.questions(before)
    suppressed = suppression(control, before, questions)
    print(
        f"{given.base}, {given.adapter}, trained at w = {trained:g}; {given.count} pairs, {given.control} pictures of each"
    )
    print(f"kind of negative control, seed {given.seed}; {given.steps} steps; CFG suppresses {text(suppressed)}", flush=True)
    rows: list[tuple[str, Bind, float, float]] = [("no adapter, w = 1", guided, 1.0, 1.0)]
    for scale in given.scales:
        claimed = 1 + scale * (trained - 1)
        rows.append((f"scale {scale:g}", with_adapter(base, adapter, Strength(scale)), trained, claimed))
        if claimed != 1:
            rows.append((f"no adapter, w = {claimed:g}", guided, claimed, claimed))
    print("| row | claimed w | nearest w, features | nearest w, pixels | distance there | to w_train | control |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, bind, w, claimed in rows:
        pictures = partial(drawn, base, few, bind, w)
        measured = seen(see, pictures(pairs))
        features = [float((measured[0] - other[0]).square().sum(1).sqrt().mean()) for other in references]
        pixels = [float((measured[1] - other[1]).square().flatten(1).mean(1).sqrt().mean()) for other in references]
        shares = suppression(control, pictures, questions)
        relative = {key: value / suppressed[key] for key, value in shares.items() if suppressed[key]}
        at_trained = f"{features[given.w.index(trained)]:.2f}" if trained in given.w else "–"
        print(
            f"| {name} | {claimed:g} | {nearest(given.w, features):.2f} | {nearest(given.w, pixels):.2f} | "
            f"{min(features):.2f} | {at_trained} | {text(relative)} |",
            flush=True,
        )


def request(count: int, seed: int) -> Request:
    """Pairs of held-out captions and the lab's negative prompts, as `sunlab evaluate` draws them."""
    prompts = Shards(urls=["emoji/noto/test-*.tar.gz"]).prompts(1_000_000)
    negatives, pool = NEGATIVES.build("lab"), Pool(prompts)

    def negative(random: Random, prompt: str) -> str:
        return negatives(random, prompt, pool)

    return random_pairs(prompts, negative, count, seed=keyed_seed(seed, "scale"))


def drawn(base: BaseModel, sampling: Sampler, bind: Bind, w: float, pairs: Request) -> Tensor:
    """Pictures (N, 3, H, W) in [0, 1]."""
    return draw(base, sampling, bind, pairs, w=w).images


def seen(see: object, images: Tensor) -> tuple[Tensor, Tensor]:
    """Features (N, D) of the pictures, and the pictures."""
    return torch.cat([see(part) for part in images.split(32)]), images  # type: ignore[operator]


def suppression(control: LabControl, pictures: object, questions: Questions) -> dict[str, float]:
    """By attribute, the share of what would be shown that negative prompts keep out."""
    return {found.attribute: found.suppressed for found in control.measure("", pictures, questions)}  # type: ignore[arg-type]


def nearest(grid_of_w: Sequence[float], distances: Sequence[float]) -> float:
    """The w of the lowest distance: the vertex of the parabola through the lowest point and its neighbours; an end of the
    grid stays as it is."""
    low = min(range(len(distances)), key=lambda i: distances[i])
    if low in (0, len(distances) - 1):
        return grid_of_w[low]
    (x0, x1, x2), (y0, y1, y2) = grid_of_w[low - 1 : low + 2], distances[low - 1 : low + 2]
    left, right = (x1 - x0) * (y1 - y2), (x1 - x2) * (y1 - y0)
    return x1 - 0.5 * ((x1 - x0) * left - (x1 - x2) * right) / (left - right)


def text(shares: dict[str, float]) -> str:
    return ", ".join(f"{name} {share:.2f}" for name, share in shares.items())


if __name__ == "__main__":
    main()
