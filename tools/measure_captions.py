"""How a lab base responds to captions: its error on held-out pictures with the right caption and with wrong ones:

python tools/measure_captions.py BASE --times 1 0.75 0.5 0.25
"""

import argparse
import random
import statistics
from collections.abc import Callable

import torch
from torch import Tensor

from emoji.captions import phrase
from sunlab.backbones.base import BaseModel
from sunlab.backbones.pretrained import load_base, quiet
from sunlab.data.sample import Sample
from sunlab.data.shards import Shards
from sunlab.lab import ASSETS
from sunlab.lab.classifier import truth


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", help="a diffusers folder, or emoji-sd")
    parser.add_argument("--split", default="test", help="train, test (held-out combinations) or unseen")
    parser.add_argument("--times", type=float, nargs="+", default=[1.0, 0.75, 0.5, 0.25])
    parser.add_argument("--seed", type=int, default=0, help="of the noise and of the wrong words")
    arguments = parser.parse_args()
    quiet()
    base = load_base(arguments.base).freeze()
    source = Shards(urls=[str(ASSETS / "emoji/noto" / f"{arguments.split}-*.tar.gz")])
    samples = list(source.read(seed=0, epoch=0, start=0, stop=len(source)))
    latents = base.autoencoder.encode(torch.stack([s.image for s in samples if s.image is not None]))
    print(f"{len(samples)} pictures of split {arguments.split}; squared error of v, and what another caption adds to it")
    print(f"{'time':>5}  {'right':>8}  " + "  ".join(f"{name:>18}" for name in list(CAPTIONS)[1:]))
    for time in arguments.times:
        errors = {
            name: _errors(base, latents, [caption(s, samples, arguments.seed) for s in samples], time, arguments.seed)
            for name, caption in CAPTIONS.items()
        }
        right = errors.pop("right")
        added = ("{:+.4f} +- {:.4f}".format(*_mean(error - right)) for error in errors.values())
        print(f"{time:>5}  {right.mean():8.4f}  " + "  ".join(f"{text:>18}" for text in added), flush=True)


@torch.no_grad()
def _errors(base: BaseModel, latents: Tensor, captions: list[str], time: float, seed: int) -> Tensor:
    path = base.backbone.path
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed))
    t = torch.full((len(latents),), time, dtype=torch.float64)
    alpha, sigma = (each.reshape(-1, 1, 1, 1) for each in path.alpha_sigma(t))
    prediction = base.backbone(path.add_noise(latents, noise, t), t, base.encode(captions))
    return (prediction.v - (alpha * noise - sigma * latents)).square().flatten(1).mean(1)


def _mean(values: Tensor) -> tuple[float, float]:
    """The mean and its standard error."""
    numbers = values.double().tolist()
    return statistics.mean(numbers), statistics.stdev(numbers) / len(numbers) ** 0.5


def _words(sample: Sample) -> tuple[str, str, str]:
    seen = truth(sample)
    return seen["emoji"], seen["background"], seen["size"]


def _caption(name: str, background: str, size: str) -> str:
    return f"{phrase(name, size)} on {phrase(background)} background"


def _wrong(which: int) -> Callable[[Sample, list[Sample], int], str]:
    """The full caption with one word of another sample's."""

    def caption(sample: Sample, samples: list[Sample], seed: int) -> str:
        words = list(_words(sample))
        others = sorted({_words(other)[which] for other in samples} - {words[which]})
        words[which] = random.Random(f"{seed} {sample.key} {which}").choice(others)
        return _caption(*words)

    return caption


CAPTIONS: dict[str, Callable[[Sample, list[Sample], int], str]] = {
    "right": lambda sample, samples, seed: _caption(*_words(sample)),
    "wrong name": _wrong(0),
    "wrong background": _wrong(1),
    "wrong size": _wrong(2),
    "empty": lambda sample, samples, seed: "",
}

if __name__ == "__main__":
    main()
