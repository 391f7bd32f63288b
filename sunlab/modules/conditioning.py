"""The prompts of a batch as conditioning, encoded now or ahead."""

from typing import Any

import torch

from sunlab.errors import DataError
from sunlab.transfer import sent
from sunlab.types import Conditioning, Samples


def positive_of(base: Any, samples: Samples) -> Conditioning:
    """The embeddings of `samples.prompts`, stored ones where the samples have them, with the samples' crops.

    Args:
        base: a base model whose text encoder is frozen.
        samples: B of them; a dropped prompt ("") is encoded by the base.

    Raises:
        DataError: stored embeddings without the pooled part that the base needs.
    """
    given = base.encode(samples.prompts) if samples.tokens is None else _stored(base, samples)
    return base.text.framed(given, samples.crops)


def negative_of(base: Any, samples: Samples) -> Conditioning:
    """The embeddings of `samples.negatives`, with the samples' crops: both passes of guidance are of one picture."""
    return base.text.framed(base.encode(samples.negatives, negative=True), samples.crops)


def _stored(base: Any, samples: Samples) -> Conditioning:
    assert samples.tokens is not None
    empty = base.encode([""])
    dropped = sent(torch.tensor([not prompt for prompt in samples.prompts]), empty.tokens.device)
    tokens = torch.where(dropped[:, None, None], empty.tokens, samples.tokens.to(empty.tokens))
    if empty.pooled is None:
        return Conditioning(tokens)
    if samples.pooled is None:
        raise DataError(
            "data.source: its stored embeddings have no pooled part, which this base needs; run `sunlab data precompute` "
            "with this base"
        )
    return Conditioning(tokens, torch.where(dropped[:, None], empty.pooled, samples.pooled.to(empty.pooled)))
