"""The lab's measurable attribute: which of its background colours does a picture have?"""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor


def palette(manifest: Path) -> dict[str, tuple[int, int, int]]:
    """Background names and colours of an emoji shard folder's manifest."""
    colours = json.loads(manifest.read_text())["backgrounds"]
    return {name: tuple(rgb) for name, rgb in colours.items()}


def background_of(images: Tensor, colours: Mapping[str, tuple[int, int, int]], *, rim: int = 3) -> list[str]:
    """The palette colour nearest to the mean of each picture's rim.

    Args:
        images: (B, 3, H, W) in [0, 1].
        rim: its width in pixels; the artwork leaves it free.
    """
    mask = torch.ones(images.shape[2:], dtype=torch.bool)
    mask[rim:-rim, rim:-rim] = False
    mean = images.cpu()[:, :, mask].mean(2)
    names = list(colours)
    table = torch.tensor([colours[name] for name in names]) / 255
    nearest = (mean[:, None] - table).square().sum(2).argmin(1)
    return [names[i] for i in nearest.tolist()]
