"""Measure the strength of a style fine-tune of a lab base, and whether it draws its style. Kernel distances between what it
draws for held-out captions, what the base draws for them from the same seeds, and the artwork of that style; and, of the
captions that leave nothing open (emoji, background and size), the pixel distance to the very picture that the style has for
them:

python tools/measure_style.py emoji-sd runs/twemoji/export --shards data/emoji/twemoji --picture twemoji.png
python tools/measure_style.py emoji-sd emoji-sd --lora runs/twemoji-lora/export/pytorch_lora_weights.safetensors \
    --shards data/emoji/twemoji
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from sunlab.backbones.base import BaseModel
from sunlab.backbones.pretrained import load_base, quiet
from sunlab.data.sample import Sample
from sunlab.data.shards import Shards
from sunlab.diffusion.grid import grid
from sunlab.evaluation.base import EXTRACTORS
from sunlab.evaluation.sets import unbiased_mmd2
from sunlab.pipelines.draw import Request, draw, with_guidance
from sunlab.pipelines.picture import grid_image, save_png
from sunlab.solvers import Sampler
from sunlab.solvers.dpmpp_2m import DPMpp2M


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", help="a diffusers folder, or emoji-sd")
    parser.add_argument("fine_tune", help="the folder of a fine-tune of its U-Net")
    parser.add_argument("--lora", type=Path, help="a style LoRA to fuse into the fine-tune")
    parser.add_argument("--shards", type=Path, required=True, help="folder of the style's own data")
    parser.add_argument("--split", default="test", help="train, test (held-out combinations) or unseen")
    parser.add_argument("--w", type=float, default=2.0)
    parser.add_argument("--count", type=int, default=128, help="captions, in the order of the shards")
    parser.add_argument("--picture", type=Path, help="write the first ten: artwork, base, fine-tune")
    arguments = parser.parse_args()
    quiet()
    source = Shards(urls=[str(arguments.shards / f"{arguments.split}-*.tar.gz")])
    samples = list(source.read(seed=0, epoch=0, start=0, stop=arguments.count))
    artwork = torch.stack([s.image for s in samples if s.image is not None]).float() / 255
    base, fine = load_base(arguments.base).freeze(), load_base(arguments.fine_tune).freeze()
    if arguments.lora is not None:
        fine.backbone.unet.load_lora_adapter(arguments.lora.parent, weight_name=arguments.lora.name, prefix="unet")
        fine.backbone.unet.fuse_lora()
        fine.backbone.unet.unload_lora()
    before, after = (drawn(model, samples, arguments.w) for model in (base, fine))
    see = EXTRACTORS.build("effnet_lite0")
    art, old, new = (torch.cat([see(part) for part in images.split(32)]) for images in (artwork, before, after))
    print(f"{len(samples)} captions of split {arguments.split}, w = {arguments.w:g}; unbiased KID x 1000 of {see.label}")
    print(f"|delta theta| / |theta| {moved(base, fine):.4f}")
    print(
        f"fine-tune to base {kid(new, old):.2f}, to its style's artwork {kid(new, art):.2f}; base to it {kid(old, art):.2f}"
    )
    named = [i for i, s in enumerate(samples) if {"name", "background", "size"} <= set(s.record["attributes"]["mentioned"])]
    fine_off, base_off = (float(rmse(images[named], artwork[named]).mean()) for images in (after, before))
    nearer = float((rmse(after[named], artwork[named]) < rmse(before[named], artwork[named])).float().mean())
    print(
        f"{len(named)} captions that name all: pixel RMSE to the style's picture, fine-tune {fine_off:.4f}, "
        f"base {base_off:.4f}; the fine-tune is nearer in {nearer:.0%}"
    )
    if arguments.picture is not None:
        rows = [images[:10] for images in (artwork, before, after)]
        labels = ["the style's artwork", "base", "fine-tune"]
        save_png(grid_image(rows, labels=labels, captions=[s.prompt for s in samples[:10]], zoom=2), arguments.picture)


def drawn(model: BaseModel, samples: list[Sample], w: float) -> Tensor:
    """25-step DPM-Solver++ with guidance, a seed a caption."""
    path = model.backbone.path
    sampling = Sampler(DPMpp2M(path), grid(25, path=path))
    request = Request([s.prompt for s in samples], [""] * len(samples), range(len(samples)))
    return draw(model, sampling, with_guidance(model), request, w=w).images


def rmse(first: Tensor, second: Tensor) -> Tensor:
    """(N, 3, H, W) in [0, 1] twice -> (N,)."""
    return (first - second).square().flatten(1).mean(1).sqrt()


def kid(first: Tensor, second: Tensor) -> float:
    return 1000 * float(unbiased_mmd2(first, second))


def moved(base: BaseModel, fine: BaseModel) -> float:
    """|theta - theta_0| / |theta_0| of the U-Nets."""
    start, end = base.backbone.unet.state_dict(), fine.backbone.unet.state_dict()
    change = sum(float((end[k] - start[k]).double().square().sum()) for k in start)
    return (change / sum(float(v.double().square().sum()) for v in start.values())) ** 0.5


if __name__ == "__main__":
    main()
