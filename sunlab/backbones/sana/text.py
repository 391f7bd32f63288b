"""Prompts -> Gemma-2's embeddings, as SANA uses them (arXiv 2410.10629, section 3.1)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from sunlab.backbones.cut_prompts import CutPrompts
from sunlab.backbones.save import save_part
from sunlab.backbones.text import TextEncoder
from sunlab.transfer import sent
from sunlab.types import Conditioning

LENGTH = 300
"""Tokens of a prompt, padding included."""
INSTRUCTION = "\n".join((
    "Given a user prompt, generate an 'Enhanced prompt' that provides detailed visual descriptions suitable for image "
    "generation. Evaluate the level of detail in the user prompt:",
    "- If the prompt is simple, focus on adding specifics about colors, shapes, sizes, textures, and spatial relationships "
    "to create vivid and concrete scenes.",
    "- If the prompt is already detailed, refine and enhance the existing details slightly without overcomplicating.",
    "Here are examples of how to transform or refine prompts:",
    "- User Prompt: A cat sleeping -> Enhanced: A small, fluffy white cat curled up in a round shape, sleeping peacefully "
    "on a warm sunny windowsill, surrounded by pots of blooming red flowers.",
    "- User Prompt: A busy city street -> Enhanced: A bustling city street scene at dusk, featuring glowing street lamps, "
    "a diverse crowd of people in colorful clothing, and a double-decker bus passing by towering glass skyscrapers.",
    "Please generate only the enhanced description for the prompt below and avoid including any additional commentary or "
    "evaluations:",
    "User Prompt: ",
))  # fmt: skip
"""The instruction that SANA's authors put before every prompt, but not before negative prompts."""


class GemmaText(TextEncoder):
    """The last hidden states of Gemma-2 with a mask of the padding. Prompts are lower-cased, as in diffusers' pipeline.

    A prompt follows `INSTRUCTION`; of the hidden states the first and the last 299 are kept, so that the instruction acts
    through the prompt's own states alone.

    Args:
        tokenizer: of transformers, a GemmaTokenizer.
        model: Gemma2Model.
    """

    folders: ClassVar[tuple[str, ...]] = ("text_encoder", "tokenizer")
    separate_negatives: ClassVar[bool] = True

    def __init__(self, tokenizer: Any, model: nn.Module, *, memory: int = 256):
        super().__init__(memory=memory)
        self.tokenizer = tokenizer
        self.model: Any = model
        self._cut = CutPrompts()

    def forward(self, prompts: Sequence[str]) -> Conditioning:
        before = len(self.tokenizer.encode(INSTRUCTION))
        return self._encode(prompts, INSTRUCTION, before + LENGTH - 2)

    def encode_negative(self, prompts: Sequence[str]) -> Conditioning:
        return self._encode(prompts, "", LENGTH)

    def _encode(self, prompts: Sequence[str], instruction: str, length: int) -> Conditioning:
        rows = self.tokenizer(
            [instruction + prompt.lower().strip() for prompt in prompts],
            padding="max_length", padding_side="right", truncation=True, max_length=length, return_tensors="pt",
        )  # fmt: skip
        for prompt, last in zip(prompts, rows.attention_mask[:, -1].tolist(), strict=True):
            if last:  # no padding: it fills the length, or exceeds it
                self._cut.check(self.tokenizer, prompt.lower().strip(), LENGTH - bool(instruction))
        mask = sent(rows.attention_mask, self.model.device)
        hidden = self.model(sent(rows.input_ids, self.model.device), attention_mask=mask)[0]
        kept = sent(torch.tensor([0, *range(length - LENGTH + 1, length)]), mask.device)
        return Conditioning(hidden[:, kept], mask=mask[:, kept].bool())

    def save(self, folder: Path, *, dtype: torch.dtype) -> None:
        self.tokenizer.save_pretrained(folder / "tokenizer")
        # transformers loads in the type that is stated here, diffusers loads its own parts in float32
        save_part(self.model, folder / "text_encoder", dtype, {"dtype": "float32"})
