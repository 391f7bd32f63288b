"""Prompts -> embeddings."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sunlab.types import Conditioning


class TextEncoder(nn.Module):
    """CLIP's text model and tokenizer, as Stable Diffusion 1.x uses them: the last hidden states of padded prompts.

    Args:
        tokenizer: CLIPTokenizer.
        model: CLIPTextModel.
        memory: embeddings remembered while the model is frozen, in MiB; the least recently used are forgotten.
    """

    def __init__(self, tokenizer: Any, model: nn.Module, *, memory: int = 256):
        super().__init__()
        self.tokenizer = tokenizer
        self.model: Any = model
        self._memory: OrderedDict[str, Tensor] = OrderedDict()
        self._limit = memory * 2**20

    @property
    def length(self) -> int:
        """Tokens in a padded prompt."""
        return int(self.tokenizer.model_max_length)

    def tokens(self, prompts: Sequence[str]) -> Tensor:
        """Token ids (B, L), int64, padded and truncated."""
        return self.tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=self.length, return_tensors="pt"
        ).input_ids

    def forward(self, prompts: Sequence[str]) -> Conditioning:
        """Embeddings (B, L, d), with gradient where the model is trained."""
        ids = self.tokens(prompts).to(self.model.device)
        return Conditioning(self.model(ids).last_hidden_state)

    def forget(self) -> None:
        """Drop all remembered embeddings, for a model that has changed."""
        self._memory.clear()

    @torch.no_grad()
    def remembered(self, prompts: Sequence[str]) -> Conditioning:
        """The same without gradient, each distinct prompt encoded once. Only for a model that does not change."""
        new = [p for p in dict.fromkeys(prompts) if p not in self._memory]
        if new:
            for prompt, row in zip(new, self(new).tokens, strict=True):
                self._memory[prompt] = row
        for prompt in prompts:
            self._memory.move_to_end(prompt)
        tokens = torch.stack([self._memory[p] for p in prompts])
        while len(self._memory) * tokens[0].nbytes > self._limit:
            self._memory.popitem(last=False)
        return Conditioning(tokens)
