"""The alignment "lab": share of pictures with the emoji, background and size that their captions name."""

import re
from collections.abc import Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor

from sunlab.evaluation.base import ALIGNMENTS, Alignment
from sunlab.lab.classifier import WEIGHTS, Classifier, judge, load_classifier


@ALIGNMENTS.register("lab")
class Lab(Alignment):
    """Shares of pictures that show what is named, by the lab's classifier: emoji (first, first five), background, size.

    Args:
        classifier: a file of `tools/train_classifier.py`, which prints its own accuracy.
    """

    def __init__(self, *, classifier: str = WEIGHTS):
        self.classifier = classifier

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> dict[str, Tensor]:
        found: dict[str, list[float]] = {"emoji_top1": [], "emoji_top5": [], "background": [], "size": []}
        for seen, prompt in zip(judge(self._network, images), prompts, strict=True):
            asked = named_in(prompt, self._network.labels)
            emoji = asked.get("emoji")
            found["emoji_top1"].append(_right(emoji, [seen.emoji]))
            found["emoji_top5"].append(_right(emoji, seen.nearest))
            for head in ("background", "size"):
                found[head].append(_right(asked.get(head), [getattr(seen, head)]))
        return {name: torch.tensor(values, dtype=torch.float64) for name, values in found.items()}

    @cached_property
    def _network(self) -> Classifier:
        return load_classifier(self.classifier)


def named_in(prompt: str, labels: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Which label of each head a caption of the lab names: "a small red apple on a green background" names the emoji
    "red apple", the size "small" and the background "green". Of several emoji the last one counts: keywords stand before the
    name. What it does not name is left out."""
    text = f" {' '.join(re.findall(r'[a-z0-9-]+', prompt.lower()))} "
    colours = [name for name in labels["background"] if f" {name} background " in text]
    text = text.replace(f" {colours[0]} background ", " ") if colours else text
    emoji = sorted((name for name in labels["emoji"] if f" {name} " in text), key=lambda n: (_end(text, n), len(n)))
    sizes = [name for name in labels["size"] if f" {name} " in text]
    named = {"emoji": emoji[-1:], "background": colours, "size": sizes}
    return {head: names[0] for head, names in named.items() if names}


def _end(text: str, name: str) -> int:
    return text.rfind(f" {name} ") + len(name)


def _right(asked: str | None, shown: Sequence[str]) -> float:
    return float("nan") if asked is None else float(asked in shown)
