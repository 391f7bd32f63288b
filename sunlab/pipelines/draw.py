"""Prompts -> pictures: the sampling loop of sunlab's own, for teacher and student alike."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sunlab.adapters import Adapter
from sunlab.adapters.strength import Strength
from sunlab.backbones import Backbone
from sunlab.backbones.base import BaseModel
from sunlab.diffusion.guidance import NetworkEvaluations, guided
from sunlab.diffusion.prediction import Denoiser, Prediction
from sunlab.draws import starting_noise
from sunlab.solvers import Sampler
from sunlab.types import Conditioning

Bind = Callable[[Conditioning, Conditioning, Tensor, NetworkEvaluations], Denoiser]
"""(positive, negative, guidance, counter) -> a denoiser bound to them."""


def with_guidance(base: BaseModel) -> Bind:
    """The base under classifier-free guidance, NFE 2 an evaluation."""

    def bind(positive: Conditioning, negative: Conditioning, w: Tensor, nfe: NetworkEvaluations) -> Denoiser:
        one_pass = bool((w == 1).all())  # once for all steps of these pictures
        return guided(base.backbone, positive, negative, w, one_pass=one_pass, nfe=nfe)

    return bind


def with_adapter(base: BaseModel, adapter: Adapter, strength: Strength | None = None) -> Bind:
    """The base with the adapter on, one pass an evaluation.

    Args:
        strength: of the adapter; None: as trained.
    """
    strength = (strength or Strength()).check(adapter)

    def bind(positive: Conditioning, negative: Conditioning, w: Tensor, nfe: NetworkEvaluations) -> Denoiser:
        state = strength.on(adapter.state(positive, negative, w))

        def denoise(x: Tensor, t: Tensor) -> Prediction:
            nfe.student += len(x)
            return base.backbone(x, t, positive, state)

        return denoise

    return bind


def with_backbone(backbone: Backbone) -> Bind:
    """One pass an evaluation of a network in which negative prompts and guidance have no effect."""

    def bind(positive: Conditioning, negative: Conditioning, w: Tensor, nfe: NetworkEvaluations) -> Denoiser:
        def denoise(x: Tensor, t: Tensor) -> Prediction:
            nfe.student += len(x)
            return backbone(x, t, positive)

        return denoise

    return bind


@dataclass(frozen=True)
class Request:
    """Pictures to draw: prompts, negative prompts and seeds, one of each a picture."""

    prompts: Sequence[str]
    negatives: Sequence[str]
    seeds: Sequence[int]

    def __len__(self) -> int:
        return len(self.prompts)

    def part(self, start: int, stop: int) -> "Request":
        return Request(self.prompts[start:stop], self.negatives[start:stop], self.seeds[start:stop])

    def chosen(self, places: Sequence[int]) -> "Request":
        prompts, negatives = [self.prompts[i] for i in places], [self.negatives[i] for i in places]
        return Request(prompts, negatives, [self.seeds[i] for i in places])


@dataclass(frozen=True)
class Drawn:
    """What was drawn, and what it cost.

    Attributes:
        images: (B, 3, H, W) in [0, 1].
        latents: (B, C, h, w).
        nfe: NFE a picture.
        seconds: a picture, text encoder and decoder included.
    """

    images: Tensor
    latents: Tensor
    nfe: float
    seconds: float


@torch.no_grad()
def draw(base: BaseModel, sampling: Sampler, bind: Bind, request: Request, *, w: float, batch: int = 64) -> Drawn:
    """Draw the pictures of a request.

    Args:
        bind: makes the denoiser: `with_guidance` for a base, `with_adapter` for an adapter.
        w: the guidance scale.
        batch: pictures at a time.
    """
    images, latents, started, nfe = [], [], time.perf_counter(), NetworkEvaluations()
    for start in range(0, len(request), batch):
        part = request.part(start, start + batch)
        scale = torch.full((len(part),), float(w), device=base.device)
        inner = bind(base.encode(part.prompts), base.encode(part.negatives, negative=True), scale, nfe)
        noise = starting_noise(part.seeds, base.backbone.sample_shape).to(base.device)
        x = sampling.solver.solve(inner, noise, sampling.times)
        latents.append(x)
        images.append(base.autoencoder.decode(x))
    seconds = time.perf_counter() - started
    n = max(len(request), 1)
    return Drawn(torch.cat(images), torch.cat(latents), nfe.equivalents / n, seconds / n)
