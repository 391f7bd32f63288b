"""The alignment "clip_score": CLIP's own opinion of picture and prompt, from a local folder of transformers."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from sunlab.evaluation.alignment import ALIGNMENTS, Alignment
from sunlab.evaluation.clip import CLIP, clip_folder


@ALIGNMENTS.register("clip_score")
class CLIPScore(Alignment):
    """100 max(cos(picture, prompt), 0) of CLIP's embeddings (Hessel et al. 2021, scaled by 100 as torchmetrics does).

    Prompts are cut at the tokenizer's 77 tokens. torchmetrics 1.9's own does not work with transformers 5, whose models
    answer with an object where it expects a tensor.

    Args:
        folder: of transformers' CLIPModel with safetensors weights and its tokenizer, openai/clip-vit-base-patch16 for
            instance; scores of different models do not compare.
    """

    def __init__(self, *, folder: str):
        self.folder = folder
        self._pictures = CLIP(folder=folder)

    @torch.no_grad()
    def __call__(self, images: Tensor, prompts: Sequence[str]) -> dict[str, Tensor]:
        tokenizer, network = self._text
        tokens = tokenizer(list(prompts), padding=True, truncation=True, max_length=77, return_tensors="pt")
        seen = self._pictures(images)
        said = network.to(images.device)(**tokens.to(images.device)).text_embeds
        said = said / said.norm(dim=-1, keepdim=True)
        return {"clip_score": 100 * (seen * said).sum(1).clamp(min=0).double().cpu()}

    @cached_property
    def _text(self) -> tuple[Any, Any]:
        from transformers import CLIPTextModelWithProjection, CLIPTokenizer

        folder = clip_folder(self.folder, "evaluate.alignment.folder", "config.json", "tokenizer_config.json")
        network = CLIPTextModelWithProjection.from_pretrained(folder, local_files_only=True, use_safetensors=True)
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True), network.requires_grad_(False).eval()
