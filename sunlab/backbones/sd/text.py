"""CLIP's text models as text encoders."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sunlab.backbones.cut_prompts import CutPrompts
from sunlab.backbones.save import save_part
from sunlab.backbones.text import TextEncoder
from sunlab.transfer import sent
from sunlab.types import Conditioning


class CLIPEncoder(TextEncoder):
    """One or several of transformers' CLIP text models, each with its tokenizer."""

    def __init__(self, *, memory: int = 256):
        super().__init__(memory=memory)
        self._cut = CutPrompts()

    @abstractmethod
    def parts(self) -> Iterator[tuple[Any, nn.Module]]:
        """(tokenizer, model) of each encoder, in the order of diffusers' folders `text_encoder`, `text_encoder_2`."""

    def tokenize(self, prompts: Sequence[str]) -> tuple[list[Tensor], Tensor]:
        """Token ids (B, L) int64 for each of `parts`, padded and truncated, and which tokens are no padding (B, L) bool.
        Warns of what is cut, once a prompt."""
        ids, words, full = [], torch.zeros((), dtype=torch.bool), dict[str, Any]()
        for tokenizer, _ in self.parts():
            length = int(tokenizer.model_max_length)
            rows = tokenizer(list(prompts), padding="max_length", truncation=True, max_length=length, return_tensors="pt")
            ids.append(rows.input_ids)
            words = words | rows.attention_mask.bool()
            for prompt, last in zip(prompts, rows.attention_mask[:, -1].tolist(), strict=True):
                if last:  # no padding: it fills the length, or exceeds it
                    full.setdefault(prompt, tokenizer)
        for prompt, tokenizer in full.items():
            self._cut.check(tokenizer, prompt)
        return ids, words

    def save(self, folder: Path, *, dtype: torch.dtype) -> None:
        for number, (tokenizer, model) in enumerate(self.parts()):
            end = f"_{number + 1}" if number else ""
            tokenizer.save_pretrained(folder / f"tokenizer{end}")
            # transformers loads in the type that is stated here, diffusers loads its own parts in float32
            save_part(model, folder / f"text_encoder{end}", dtype, {"dtype": "float32"})


class CLIPText(CLIPEncoder):
    """CLIP's text model, as Stable Diffusion 1.x and 2.x use it: the last hidden states of padded prompts.

    Args:
        tokenizer: CLIPTokenizer.
        model: CLIPTextModel; that of SD 2.x has left out its last layer already.
    """

    folders: ClassVar[tuple[str, ...]] = ("text_encoder", "tokenizer")

    def __init__(self, tokenizer: Any, model: nn.Module, *, memory: int = 256):
        super().__init__(memory=memory)
        self.tokenizer = tokenizer
        self.model: Any = model

    def parts(self) -> Iterator[tuple[Any, nn.Module]]:
        yield self.tokenizer, self.model

    def forward(self, prompts: Sequence[str]) -> Conditioning:
        (ids,), words = self.tokenize(prompts)
        device = self.model.device
        return Conditioning(self.model(sent(ids, device)).last_hidden_state, words=sent(words, device))
