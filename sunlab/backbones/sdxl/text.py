"""Prompts -> SDXL's embeddings (arXiv 2307.01952, sections 2.1 and 2.2)."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sunlab.backbones.sd.text import CLIPEncoder
from sunlab.transfer import sent
from sunlab.types import Conditioning


class CLIPTextPair(CLIPEncoder):
    """Two CLIP text models: both penultimate hidden states beside each other, and the second one's pooled embedding.

    Args:
        tokenizers: of the two.
        models: CLIPTextModel and CLIPTextModelWithProjection.
        size: height and width in pixels of the pictures to draw. Without crops `time_ids` are (H, W, 0, 0, H, W), as in
            diffusers' pipeline by default.
        zero_empty: the empty prompt has embeddings of zeros, as in diffusers' pipeline where no negative prompt is given
            (`force_zeros_for_empty_prompt` of model_index.json).
    """

    folders: ClassVar[tuple[str, ...]] = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")

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
        self.model: Any = nn.ModuleList(models)
        self.time_ids = (*size, 0, 0, *size)

    def parts(self) -> Iterator[tuple[Any, nn.Module]]:
        yield from zip(self.tokenizers, self.model, strict=True)

    def forward(self, prompts: Sequence[str]) -> Conditioning:
        device, hidden, pooled = self.model[0].device, [], None
        tokenized, words = self.tokenize(prompts)
        for ids, model in zip(tokenized, self.model, strict=True):
            output = model(sent(ids, device), output_hidden_states=True)
            hidden.append(output.hidden_states[-2])
            pooled = output[0]
        tokens = torch.cat(hidden, dim=-1)
        assert pooled is not None
        if self.zero_empty:
            empty = sent(torch.tensor([not prompt for prompt in prompts]), device)
            tokens = tokens.masked_fill(empty[:, None, None], 0)
            pooled = pooled.masked_fill(empty[:, None], 0)
        return self.framed(Conditioning(tokens, pooled, words=sent(words, device)), None)

    def framed(self, conditioning: Conditioning, crops: Tensor | None) -> Conditioning:
        """With `time_ids` (B, 6): original height and width, top and left of the crop, its height and width."""
        rows = torch.tensor([self.time_ids] * len(conditioning)) if crops is None else crops
        return replace(conditioning, added={"time_ids": sent(rows.float(), conditioning.tokens.device)})
