"""Prompts -> embeddings with a mask, by T5 or another text model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sunlab.backbones.cut_prompts import CutPrompts
from sunlab.backbones.save import save_part
from sunlab.backbones.text import TextEncoder
from sunlab.transfer import sent
from sunlab.types import Conditioning


class PixArtText(TextEncoder):
    """The last hidden states of padded prompts. The padding is masked, in the text model and in the transformer.

    Args:
        tokenizer: of transformers.
        model: T5EncoderModel; small models of the class may have a CLIPTextModel.
        length: tokens of a padded prompt.
        size: height and width in pixels of the pictures to draw, for transformers that take them (PixArt-alpha at 1024
            pixels); None: for others.
    """

    folders: ClassVar[tuple[str, ...]] = ("text_encoder", "tokenizer")

    def __init__(
        self, tokenizer: Any, model: nn.Module, *, length: int, size: tuple[int, int] | None = None, memory: int = 256
    ):
        super().__init__(memory=memory)
        self.tokenizer, self.length, self.size = tokenizer, length, size
        self.model: Any = model
        self._cut = CutPrompts()

    def forward(self, prompts: Sequence[str]) -> Conditioning:
        rows = self.tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=self.length, return_tensors="pt"
        )
        mask = rows.attention_mask
        for prompt, last in zip(prompts, mask[:, -1].tolist(), strict=True):
            if last:  # no padding: it fills the length, or exceeds it
                self._cut.check(self.tokenizer, prompt, self.length)
        device = self.model.device
        mask = sent(mask, device)
        tokens = self.model(sent(rows.input_ids, device), attention_mask=mask)[0]
        return self.framed(Conditioning(tokens, mask=mask.bool()), None)

    def framed(self, conditioning: Conditioning, crops: Tensor | None) -> Conditioning:
        """With `resolution` (B, 2), height and width in pixels, and `aspect_ratio` (B, 1), where the transformer takes
        them."""
        if self.size is None:
            return conditioning
        device, count = conditioning.tokens.device, len(conditioning)
        sizes = torch.tensor([self.size], dtype=torch.float32).expand(count, 2) if crops is None else crops[:, 4:].float()
        added = {"resolution": sent(sizes, device), "aspect_ratio": sent(sizes[:, :1] / sizes[:, 1:], device)}
        return Conditioning(conditioning.tokens, conditioning.pooled, added, conditioning.mask)

    def save(self, folder: Path, *, dtype: torch.dtype) -> None:
        self.tokenizer.save_pretrained(folder / "tokenizer")
        # transformers loads in the type that is stated here, diffusers loads its own parts in float32
        save_part(self.model, folder / "text_encoder", dtype, {"dtype": "float32"})
