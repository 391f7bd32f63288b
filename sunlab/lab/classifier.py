"""Emoji, background and size of a picture, from a small network that `tools/train_classifier.py` trains."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import interpolate

from sunlab.data.sample import Sample
from sunlab.errors import DataError
from sunlab.files import replacing
from sunlab.packaged import asset

SIDE = 64  # pixels: pictures of another size are resized
WEIGHTS = "emoji/classifier.safetensors"
FORMAT = "sunlab classifier 1"


class Classifier(nn.Module):
    """Six 3x3 convolutions, 2x2 mean pooling, and a linear head for each of name, background and size.

    Args:
        labels: the classes of each head.
        width: channels of the first convolution; the last has six times as many.
    """

    def __init__(self, labels: Mapping[str, Sequence[str]], width: int = 20):
        super().__init__()
        self.labels = {head: tuple(names) for head, names in labels.items()}
        self.width = width
        channels = (3, width, 2 * width, 4 * width, 4 * width, 6 * width)
        strides = (2, 2, 2, 1, 2)
        layers: list[nn.Module] = []
        for before, after, stride in zip(channels[:-1], channels[1:], strides, strict=True):
            conv = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
            layers += [conv, nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.heads = nn.ModuleDict({head: nn.Linear(24 * width, len(names)) for head, names in self.labels.items()})

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Logits (B, labels) of each head. Args: images, (B, 3, 64, 64) in [0, 1]."""
        seen = self.body(2 * images - 1)
        return {head: layer(seen) for head, layer in self.heads.items()}

    def save(self, file: Path) -> None:
        """Half-precision weights, and in the header the labels."""
        facts = {"format": FORMAT, "labels": json.dumps(self.labels), "width": str(self.width)}
        tensors = {k: v.half().contiguous() if v.is_floating_point() else v for k, v in self.state_dict().items()}
        with replacing(file) as temporary:
            save_file(tensors, temporary, metadata=facts)


def load_classifier(file: str | Path = WEIGHTS) -> Classifier:
    """A trained classifier, frozen. Args: file, a path, or a name inside the package.

    Raises:
        DataError: no such file, or not one of a classifier.
    """
    path = asset(file)
    try:
        with safe_open(path, "pt") as opened:
            facts = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        if facts.get("format") != FORMAT:
            raise ValueError(f"its header does not say {FORMAT!r}")
        network = Classifier(json.loads(facts["labels"]), int(facts["width"]))
        network.load_state_dict(tensors)
    except Exception as error:  # whatever a foreign file makes of these
        raise DataError(
            f"{path}: no classifier of the lab ({error}); train one: python tools/train_classifier.py --out FILE"
        ) from None
    return network.float().requires_grad_(False).eval()


@dataclass(frozen=True)
class Seen:
    """What was recognised.

    Attributes:
        emoji, background, size: the likeliest.
        nearest: names of the likeliest emoji, likeliest first.
    """

    emoji: str
    background: str
    size: str
    nearest: tuple[str, ...]


@torch.no_grad()
def judge(network: Classifier, images: Tensor, *, top: int = 5) -> list[Seen]:
    """What pictures (B, 3, H, W) in [0, 1] show."""
    sized = images.float().cpu()
    if sized.shape[-2:] != (SIDE, SIDE):
        sized = interpolate(sized, size=(SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)
    parts = [network(part) for part in sized.split(256)]
    best = {head: torch.cat([p[head] for p in parts]).topk(min(top, len(names))).indices.tolist()
            for head, names in network.labels.items()}  # fmt: skip
    said = {head: [[network.labels[head][i] for i in row] for row in rows] for head, rows in best.items()}
    rows = zip(said["emoji"], said["background"], said["size"], strict=True)
    return [Seen(emoji[0], background[0], size[0], tuple(emoji)) for emoji, background, size in rows]


def truth(sample: Sample) -> dict[str, str]:
    """What an emoji sample shows, by head."""
    drawn = sample.record["attributes"]
    return {"emoji": str(sample.record["name"]), "background": str(drawn["background"]), "size": str(drawn["size"])}


def share(right: Sequence[bool]) -> float:
    """The share that is right; NaN of none."""
    return sum(right) / len(right) if right else float("nan")
