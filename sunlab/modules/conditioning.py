"""The prompts of a batch, encoded now or ahead."""

from typing import Any

import torch

from sunlab.types import Conditioning, Samples


def positive_of(base: Any, samples: Samples) -> Conditioning:
    """The embeddings of `samples.prompts`: those stored with the samples, where they are; a dropped prompt's by the base.

    Args:
        base: a `BaseModel`, whose text encoder does not change.
        samples: B of them.
    """
    if samples.tokens is None:
        return base.encode(samples.prompts)
    empty = base.encode([""])
    dropped = torch.tensor([not prompt for prompt in samples.prompts], device=empty.tokens.device)
    tokens = torch.where(dropped[:, None, None], empty.tokens, samples.tokens.to(empty.tokens))
    if samples.pooled is None or empty.pooled is None:
        return Conditioning(tokens, None, empty.added)
    return Conditioning(tokens, torch.where(dropped[:, None], empty.pooled, samples.pooled.to(empty.pooled)), empty.added)
