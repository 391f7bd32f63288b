"""Measure whether a lab base draws what held-out captions name, and the distance to their artwork. Background, size, emoji,
how often a picture finds its caption among the others, the unbiased kernel distance to the held-out pictures, and how much
of what it names a negative prompt keeps out, over the guidance scale w:

python tools/measure_base.py BASE --w 1 2 3 5 --count 128 --control 64 --picture grid.png
"""

import argparse
from collections.abc import Iterator
from functools import partial
from math import log
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
from sunlab.lab import ASSETS
from sunlab.lab.classifier import WEIGHTS, Classifier, Seen, judge, load_classifier, share, truth
from sunlab.lab.control import LabControl
from sunlab.pipelines.draw import Request, draw, with_guidance
from sunlab.pipelines.picture import grid_image, save_png
from sunlab.solvers import Sampler
from sunlab.solvers.dpmpp_2m import DPMpp2M


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", help="a diffusers folder, or emoji-sd")
    parser.add_argument("--split", default="test", help="train, test (held-out combinations) or unseen")
    parser.add_argument("--shards", type=Path, default=ASSETS / "emoji/noto", help="folder of the captions")
    parser.add_argument("--classifier", default=WEIGHTS, help="of tools/train_classifier.py, which prints its own accuracy")
    parser.add_argument("--w", type=float, nargs="+", default=[4.0])
    parser.add_argument("--count", type=int, default=128, help="captions, in the order of the shards")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--control", type=int, default=0, help="pictures of each kind to measure negative prompts with")
    parser.add_argument("--picture", type=Path, help="write the first pictures of the last w")
    arguments = parser.parse_args()
    quiet()
    base = load_base(arguments.base).freeze()
    classifier = load_classifier(arguments.classifier)
    source = Shards(urls=[str(arguments.shards / f"{arguments.split}-*.tar.gz")])
    samples = list(source.read(seed=arguments.seed, epoch=0, start=0, stop=arguments.count))
    seeds = range(arguments.seed, arguments.seed + len(samples))
    request = Request([s.prompt for s in samples], [""] * len(samples), seeds)
    path = base.backbone.path
    sampling = Sampler(DPMpp2M(path), grid(arguments.steps, path=path))
    print(
        f"{len(samples)} captions of split {arguments.split}, {arguments.steps}-step DPM-Solver++, chance of an emoji ",
        end="",
    )
    print(f"{1 / len(classifier.labels['emoji']):.1%}; each share is of the captions that state the attribute")
    see = EXTRACTORS.build("effnet_lite0")
    artwork = torch.stack([s.image for s in samples if s.image is not None]).float() / 255
    art = torch.cat([see(part) for part in artwork.split(32)])
    for w in arguments.w:
        drawn = draw(base, sampling, with_guidance(base), request, w=w)
        kid = 1000 * float(unbiased_mmd2(torch.cat([see(part) for part in drawn.images.split(32)]), art))
        right = f"{accuracy(samples, judge(classifier, drawn.images))}, {retrieval(classifier, samples, drawn.images)}"
        print(f"w {w:g}: {right}; KID x 1000 to the artwork, by {see.label}: {kid:.2f}", flush=True)
        if arguments.control:
            guided = partial(_images, base, sampling, w)
            control = LabControl(pictures=arguments.control)
            for found in control.measure("CFG", guided, control.questions(guided)):
                print(f"w {w:g}: {found.sentence}", flush=True)
    if arguments.picture is not None:
        shown = drawn.images[:30]
        save_png(grid_image(list(shown.split(10)), labels=[], zoom=2), arguments.picture)


def accuracy(samples: list[Sample], seen: list[Seen]) -> str:
    """Shares right, of the captions that mention each."""
    pairs = [(truth(s), o, s.record["attributes"]["mentioned"]) for s, o in zip(samples, seen, strict=True)]
    background = share([fact["background"] == o.background for fact, o, told in pairs if "background" in told])
    size = share([fact["size"] == o.size for fact, o, told in pairs if "size" in told])
    named = [(fact["emoji"], o) for fact, o, told in pairs if "name" in told]
    first = share([name == o.emoji for name, o in named])
    five = share([name in o.nearest for name, o in named])
    return f"background {background:.1%}, size {size:.1%}, emoji top-1 {first:.1%}, top-5 {five:.1%}"


def retrieval(classifier: Classifier, samples: list[Sample], images: Tensor, most: int = 5) -> str:
    """How often a picture's caption is among the `most` that fit it best, of all distinct captions. A caption fits by the
    judge's log-probabilities, above chance, of what it states."""
    captions = {s.prompt: (truth(s), s.record["attributes"]["mentioned"]) for s in samples}
    with torch.no_grad():
        told = {head: x.log_softmax(1) + log(x.shape[1]) for head, x in classifier(images).items()}
    fits = torch.stack([sum(_fit(told, classifier, *fact), torch.zeros(len(images))) for fact in captions.values()], 1)
    nearest, names = fits.topk(most).indices, list(captions)
    hits = [s.prompt in [names[i] for i in row] for s, row in zip(samples, nearest.tolist(), strict=True)]
    return f"caption among the {most} nearest of {len(names)} {share(hits):.1%} (chance {most / len(names):.1%})"


def _fit(told: dict[str, Tensor], classifier: Classifier, fact: dict[str, str], mentioned: list[str]) -> Iterator[Tensor]:
    for head, logs in told.items():
        if ("name" if head == "emoji" else head) in mentioned:
            yield logs[:, classifier.labels[head].index(fact[head])]


def _images(base: BaseModel, sampling: Sampler, w: float, request: Request) -> Tensor:
    return draw(base, sampling, with_guidance(base), request, w=w).images


if __name__ == "__main__":
    main()
