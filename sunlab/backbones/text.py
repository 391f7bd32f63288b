"""Prompts -> embeddings."""

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sunlab.backbones.cut_prompts import CutPrompts
from sunlab.types import Conditioning


class TextEncoder(nn.Module, ABC):
    """What a base makes of a prompt.

    Args:
        memory: embeddings remembered while the models are frozen, in MiB; the least recently used are forgotten.

    Attributes:
        model: the network or networks, whose parameters these are.
    """

    model: Any

    def __init__(self, *, memory: int = 256):
        super().__init__()
        self._memory: OrderedDict[str, Conditioning] = OrderedDict()
        self._limit = memory * 2**20
        self._cut = CutPrompts()

    @abstractmethod
    def forward(self, prompts: Sequence[str]) -> Conditioning:
        """Embeddings (B, L, d), with gradient where the model is trained."""

    @abstractmethod
    def parts(self) -> Iterator[tuple[Any, nn.Module]]:
        """(tokenizer, model) of each encoder, in the order of diffusers' folders `text_encoder`, `text_encoder_2`."""

    def tokenize(self, prompts: Sequence[str]) -> list[Tensor]:
        """Token ids (B, L) int64 for each of `parts`, padded and truncated. Warns of what is cut, once a prompt."""
        ids, full = [], dict[str, Any]()
        for tokenizer, _ in self.parts():
            length = int(tokenizer.model_max_length)
            rows = tokenizer(list(prompts), padding="max_length", truncation=True, max_length=length, return_tensors="pt")
            ids.append(rows.input_ids)
            for prompt, last in zip(prompts, rows.attention_mask[:, -1].tolist(), strict=True):
                if last:  # no padding: it fills the length, or exceeds it
                    full.setdefault(prompt, tokenizer)
        for prompt, tokenizer in full.items():
            self._cut.check(tokenizer, prompt)
        return ids

    def framed(self, conditioning: Conditioning, crops: Tensor | None) -> Conditioning:
        """The conditioning with what the network is told of its training pictures.

        Args:
            crops: (B, 6), see `Samples.crops`; None: pictures of the size to draw, uncropped.
        """
        return conditioning

    def forget(self) -> None:
        """Drop all remembered embeddings, for a model that has changed."""
        self._memory.clear()

    @torch.no_grad()
    def remembered(self, prompts: Sequence[str]) -> Conditioning:
        """The same without gradient, each distinct prompt encoded once. Only for a model that does not change."""
        new = [p for p in dict.fromkeys(prompts) if p not in self._memory]
        if new:
            encoded = self(new)
            for row, prompt in enumerate(new):
                self._memory[prompt] = encoded[row : row + 1].map(torch.clone)
        for prompt in prompts:
            self._memory.move_to_end(prompt)
        rows = Conditioning.cat([self._memory[p] for p in prompts])
        size = sum(tensor[0].nbytes for tensor in (rows.tokens, rows.pooled) if tensor is not None)
        while len(self._memory) * size > self._limit:
            self._memory.popitem(last=False)
        return rows


class CLIPText(TextEncoder):
    """CLIP's text model, as Stable Diffusion 1.x and 2.x use it: the last hidden states of padded prompts.

    Args:
        tokenizer: CLIPTokenizer.
        model: CLIPTextModel; that of SD 2.x has left out its last layer already.
    """

    def __init__(self, tokenizer: Any, model: nn.Module, *, memory: int = 256):
        super().__init__(memory=memory)
        self.tokenizer = tokenizer
        self.model = model

    def parts(self) -> Iterator[tuple[Any, nn.Module]]:
        yield self.tokenizer, self.model

    def forward(self, prompts: Sequence[str]) -> Conditioning:
        (ids,) = self.tokenize(prompts)
        return Conditioning(self.model(ids.to(self.model.device)).last_hidden_state)
