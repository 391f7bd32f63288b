"""The prompts of a batch as conditioning, encoded now or ahead."""

from typing import Any

import torch
from torch import Tensor

from sunlab.errors import DataError
from sunlab.transfer import sent
from sunlab.types import Conditioning, Samples


def positive_of(base: Any, samples: Samples) -> Conditioning:
    """The embeddings of `samples.prompts`, stored ones where the samples have them, with the samples' crops.

    Args:
        base: a base model whose text encoder is frozen.
        samples: B of them; a dropped prompt ("") is encoded by the base.

    Raises:
        DataError: stored embeddings without the pooled part or the mask that the base needs.
    """
    given = base.encode(samples.prompts, exact=True) if samples.tokens is None else _stored(base, samples)
    return base.text.framed(given, samples.crops)


def negative_of(base: Any, samples: Samples) -> Conditioning:
    """The embeddings of `samples.negatives`, with the samples' crops: both passes of guidance are of one picture."""
    return base.text.framed(base.encode(samples.negatives, negative=True, exact=True), samples.crops)


def _stored(base: Any, samples: Samples) -> Conditioning:
    assert samples.tokens is not None
    empty = base.encode([""])
    dropped = sent(torch.tensor([not prompt for prompt in samples.prompts]), empty.tokens.device)

    def merged(name: str, rows: Tensor | None) -> Tensor | None:
        """The samples' own, and of dropped prompts those of the empty one."""
        of_empty: Tensor | None = getattr(empty, name)
        if of_empty is None or (rows is None and name == "words"):  # which older files do not have
            return None
        if rows is None:
            raise DataError(
                f"data.source: its stored embeddings have no `{name}`, which this base needs; run `sunlab data precompute` "
                "with this base"
            )
        return torch.where(dropped.view(-1, *[1] * (rows.dim() - 1)), of_empty, rows.to(of_empty))

    tokens = merged("tokens", samples.tokens)
    assert tokens is not None
    pooled, mask, words = (merged(name, getattr(samples, name)) for name in ("pooled", "mask", "words"))
    return Conditioning(tokens, pooled, mask=mask, words=words)
