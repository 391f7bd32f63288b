"""The negative prompt of *Apply SUN*: its tokens, and where, when and how strongly each entry acts.

At cfg 1 ComfyUI does not evaluate the negative prompt, so these nodes take a CONDITIONING of their own. They read of an
entry what ComfyUI's sampler reads: mask, area, strength, range of the sampling, and whether it is the default elsewhere.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from .errors import DataError

PLACED = ("mask", "area", "default")
TIMED = ("start_percent", "end_percent", "clip_start_percent", "clip_end_percent")


@dataclass(frozen=True)
class Entry:
    """One entry of a CONDITIONING.

    Attributes:
        tokens: (n, L, d), n of any size: it is repeated over the batch.
        options: as ComfyUI's nodes set them.
        sigmas: it acts at sigmas from the first down to the second.
    """

    tokens: Tensor
    options: Mapping[str, Any]
    sigmas: tuple[float, float] | None

    def acts(self, sigma: Tensor | None) -> bool:
        if self.sigmas is None or sigma is None:
            return True
        start, end = self.sigmas
        return end <= float(sigma.flatten()[0]) <= start

    def weight(self, latent: Sequence[int], grid: tuple[int, int], device: torch.device) -> Tensor:
        """How strongly it acts at each position, float32, (m, h w, 1), or (1, 1, 1) for everywhere alike.

        Args:
            latent: (H, W) of the latent that is denoised.
            grid: (h, w) of the layer.
        """
        strength = float(self.options.get("strength", 1.0))
        weight = torch.full((1, 1, 1, 1), strength, device=device)
        if (mask := self.options.get("mask")) is not None:
            mask = mask.to(device, torch.float32).reshape(-1, 1, *mask.shape[-2:])
            weight = weight * interpolate(mask, grid, mode="area") * float(self.options.get("mask_strength", 1.0))
        if (area := self.options.get("area")) is not None:
            weight = weight * interpolate(_inside(area, latent, device), grid, mode="area")
        return weight.flatten(2).transpose(1, 2)


def _inside(area: Sequence[Any], latent: Sequence[int], device: torch.device) -> Tensor:
    """1 inside the area, 0 outside (1, 1, H, W). area: (h, w, y, x) in latent pixels, or "percentage" and four fractions."""
    if area[0] == "percentage":
        area = [round(part * size) for part, size in zip(area[1:], (*latent, *latent), strict=True)]
    height, width, y, x = area
    inside = torch.zeros(1, 1, *latent, device=device)
    inside[..., y : y + max(1, height), x : x + max(1, width)] = 1
    return inside


class Negative:
    """The entries of a CONDITIONING.

    Args:
        conditioning: of ComfyUI, a list of (tokens (n, L, d), options).
        sampling: the model's `model_sampling`.
        width: d of the model.

    Raises:
        DataError: no entry, or tokens of another width.
    """

    def __init__(self, conditioning: Sequence[Sequence[Any]], sampling: Any, width: int):
        if not conditioning:
            raise DataError("Apply SUN: the negative conditioning is empty; connect a CLIPTextEncode, its text may be empty")
        for tokens, _ in conditioning:
            if tokens is None or tokens.ndim != 3 or tokens.shape[-1] != width:
                shape = None if tokens is None else tuple(tokens.shape)
                raise DataError(
                    f"Apply SUN: the negative conditioning has the shape {shape}, this model reads prompts of the width "
                    f"{width}; encode it with the CLIP of the same checkpoint"
                )
        self.entries = [Entry(tokens, options, _range(options, sampling)) for tokens, options in conditioning]
        options = self.entries[0].options
        self.plain = len(self.entries) == 1 and all(options.get(key) is None for key in ("strength", "mask", "area"))

    def active(self, options: Mapping[str, Any]) -> list[int]:
        """The entries that act in this pass, by index; options: `extra_options` of a patch."""
        return [i for i, entry in enumerate(self.entries) if entry.acts(options.get("sigmas"))]

    def weights(
        self, active: Sequence[int], options: Mapping[str, Any], positions: int, device: torch.device
    ) -> list[Tensor]:
        """A weight (m, P or 1, 1) for each active entry. They add up to 1 at most; to less where no entry acts fully."""
        if self.plain:
            return [torch.ones(1, 1, 1, device=device) for _ in active]
        placed = any(self.entries[i].options.get(key) is not None for i in active for key in PLACED)
        latent = options["original_shape"][-2:] if placed else (1, 1)
        grid = _grid(options, positions) if placed else (1, 1)
        found = [self.entries[i].weight(latent, grid, device) for i in active]
        rest = [self.entries[i].options.get("default") is not None for i in active]
        total = sum((w for w, default in zip(found, rest, strict=True) if not default), torch.zeros(1, 1, 1, device=device))
        if any(rest):  # acts where the others do not
            share = (1 - total).clamp(min=0) / sum(rest)
            return [share if default else w / total.clamp(min=1) for w, default in zip(found, rest, strict=True)]
        return [w / total.clamp(min=1) for w in found]


def _range(options: Mapping[str, Any], sampling: Any) -> tuple[float, float] | None:
    if not any(key in options for key in TIMED):
        return None
    start = max(options.get("clip_start_percent", 0.0), options.get("start_percent", 0.0))
    end = min(options.get("clip_end_percent", 1.0), options.get("end_percent", 1.0))
    return float(sampling.percent_to_sigma(start)), float(sampling.percent_to_sigma(end))


def _grid(options: Mapping[str, Any], positions: int) -> tuple[int, int]:
    """(h, w) of a layer with so many positions. Raises `DataError` where nothing states it."""
    if (shape := options.get("activations_shape")) is not None and shape[-2] * shape[-1] == positions:
        return shape[-2], shape[-1]
    height, width = options["original_shape"][-2:]
    while height * width > positions:
        height, width = -(-height // 2), -(-width // 2)
    if height * width != positions:
        raise DataError(
            f"Apply SUN: a layer of {positions} positions does not fit the latent {tuple(options['original_shape'][-2:])}, "
            "so a mask or area of the negative prompt cannot be placed; remove it, or the node that changes the layer's size"
        )
    return height, width
