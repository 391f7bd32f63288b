"""Prompts -> SD 3's embeddings (arXiv 2403.03206, section 4)."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from sunlab.backbones.save import save_part
from sunlab.backbones.sd.text import CLIPEncoder
from sunlab.transfer import sent
from sunlab.types import Conditioning


class SD3Text(CLIPEncoder):
    """Two CLIP text models and an optional T5.

    The tokens are the CLIPs' penultimate hidden states beside each other, padded with zeros to the transformer's text width,
    then T5's hidden states. The pooled embedding is that of both CLIPs. T5 and the transformer attend to T5's padding: SD 3
    was trained without a mask. Without T5 its tokens are zeros, as in diffusers' pipeline.

    Args:
        clips: (tokenizer, CLIPTextModelWithProjection) of the two.
        t5: (tokenizer, T5EncoderModel), or None.
        width: d of the tokens.
        length: of T5's padded prompts.
    """

    folders: ClassVar[tuple[str, ...]] = (
        "text_encoder", "text_encoder_2", "text_encoder_3", "tokenizer", "tokenizer_2", "tokenizer_3"
    )  # fmt: skip

    def __init__(
        self,
        clips: Sequence[tuple[Any, nn.Module]],
        t5: tuple[Any, nn.Module] | None,
        *,
        width: int,
        length: int,
        memory: int = 256,
    ):
        super().__init__(memory=memory)
        self.tokenizers = [tokenizer for tokenizer, _ in clips]
        self.t5_tokenizer: Any = None if t5 is None else t5[0]
        self.width, self.length = width, length
        self.model: Any = nn.ModuleList([model for _, model in (*clips, *([] if t5 is None else [t5]))])

    @property
    def t5(self) -> Any:
        """The T5 encoder, or None."""
        return self.model[2] if len(self.model) > 2 else None

    def parts(self) -> Iterator[tuple[Any, nn.Module]]:
        yield from zip(self.tokenizers, self.model, strict=False)

    def forward(self, prompts: Sequence[str]) -> Conditioning:
        device = self.model[0].device
        tokenized, words = self.tokenize(prompts)
        pairs = zip(tokenized, self.parts(), strict=True)
        outputs = [model(sent(ids, device), output_hidden_states=True) for ids, (_, model) in pairs]
        clip = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
        clip = pad(clip, (0, self.width - clip.shape[-1]))
        pooled = torch.cat([output.text_embeds for output in outputs], dim=-1)
        states, known = self._t5_states(prompts, clip)
        words = torch.cat([sent(words, device), known.to(device)], dim=1)
        return Conditioning(torch.cat([clip, states], dim=1), pooled, words=words)

    def _t5_states(self, prompts: Sequence[str], like: Tensor) -> tuple[Tensor, Tensor]:
        """The hidden states (B, length, d), and which of them are words (B, length)."""
        if self.t5 is None:
            words = torch.zeros(len(prompts), self.length, dtype=torch.bool)
            return like.new_zeros(len(prompts), self.length, self.width), words
        rows = self.t5_tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=self.length, return_tensors="pt"
        )
        states: Tensor = self.t5(sent(rows.input_ids, self.t5.device)).last_hidden_state
        return states.to(like), rows.attention_mask.bool()

    def save(self, folder: Path, *, dtype: torch.dtype) -> None:
        super().save(folder, dtype=dtype)
        if self.t5 is not None:
            self.t5_tokenizer.save_pretrained(folder / "tokenizer_3")
            save_part(self.t5, folder / "text_encoder_3", dtype, {"dtype": "float32"})
