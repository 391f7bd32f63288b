"""Prompts -> SDXL's embeddings (arXiv 2307.01952, sections 2.1 and 2.2)."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from sunlab.encoders.text import TextEncoder, token_ids
from sunlab.types import Conditioning


class CLIPTextPair(TextEncoder):
    """Two CLIP text models: both penultimate hidden states beside each other, and the second one's pooled embedding.

    Args:
        tokenizers: of the two.
        models: CLIPTextModel and CLIPTextModelWithProjection.
        size: height and width in pixels of the pictures to draw. The U-Net is told that this is the size both before and
            after cropping, and that nothing was cropped, (H, W, 0, 0, H, W): what diffusers' pipeline says by default, and
            so what an adapter should be trained under.
        zero_empty: the empty prompt has embeddings of zeros, as in diffusers' pipeline where no negative prompt is given
            (`force_zeros_for_empty_prompt` of model_index.json).
    """

    def __init__(
        self,
        tokenizers: Sequence[Any],
        models: Sequence[nn.Module],
        *,
        size: tuple[int, int],
        zero_empty: bool = True,
        memory: int = 256,
    ):
        super().__init__(memory=memory)
        self.tokenizers, self.zero_empty = tuple(tokenizers), zero_empty
        self.model = nn.ModuleList(models)
        self.time_ids = (*size, 0, 0, *size)

    def parts(self) -> Iterator[tuple[Any, nn.Module]]:
        yield from zip(self.tokenizers, self.model, strict=True)

    def forward(self, prompts: Sequence[str]) -> Conditioning:
        device, hidden, pooled = self.model[0].device, [], None
        for tokenizer, model in self.parts():
            output = model(token_ids(tokenizer, prompts).to(device), output_hidden_states=True)
            hidden.append(output.hidden_states[-2])
            pooled = output[0]
        tokens = torch.cat(hidden, dim=-1)
        assert pooled is not None
        if self.zero_empty:
            empty = torch.tensor([not prompt for prompt in prompts], device=device)
            tokens = tokens.masked_fill(empty[:, None, None], 0)
            pooled = pooled.masked_fill(empty[:, None], 0)
        time_ids = torch.tensor([self.time_ids] * len(prompts), dtype=torch.float32, device=device)
        return Conditioning(tokens, pooled, {"time_ids": time_ids})
