"""CLIP from a local folder of transformers: the extractor "clip" and the alignment "clip_score"."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sunlab.errors import ConfigError
from sunlab.evaluation.base import ALIGNMENTS, EXTRACTORS, Alignment, Extractor, prepared
from sunlab.hashing import files_hash

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # Radford et al. 2021


@EXTRACTORS.register("clip")
class CLIP(Extractor):
    """The projected picture embedding of a CLIP model, scaled to length 1.

    Args:
        folder: of transformers' CLIPModel with safetensors weights, openai/clip-vit-large-patch14 for instance.
    """

    label = "CLIP"

    def __init__(self, *, folder: str):
        self.folder = Path(folder)

    @property
    def width(self) -> int:  # type: ignore[override]
        return int(self._network.config.projection_dim)

    def identity(self) -> str:
        return f"{self.label} {files_hash(sorted(self._found().glob('*.safetensors')))}"

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        network = self._network.to(images.device)
        side = network.config.image_size
        embedded = network(pixel_values=prepared(images.float(), side=side, mean=MEAN, std=STD)).image_embeds
        return embedded / embedded.norm(dim=-1, keepdim=True)

    def _found(self) -> Path:
        return clip_folder(self.folder, "evaluate.extractor.folder", "config.json")

    @cached_property
    def _network(self) -> Any:
        from transformers import CLIPVisionModelWithProjection

        network = CLIPVisionModelWithProjection.from_pretrained(self._found(), local_files_only=True, use_safetensors=True)
        return network.requires_grad_(False).eval()


def clip_folder(folder: str | Path, key: str, *files: str) -> Path:
    """A folder of a CLIP model with these files and safetensors weights. Raises `ConfigError`, naming `key`, for another."""
    path = Path(folder)
    missing = [name for name in files if not (path / name).is_file()]
    if missing or not list(path.glob("*.safetensors")):
        raise ConfigError(
            f"{key}: {folder} holds no CLIP model ({', '.join(files)} and *.safetensors); "
            "download one: hf download openai/clip-vit-large-patch14 --local-dir FOLDER"
        )
    return path


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
        text = network.to(images.device)(**tokens.to(images.device)).text_embeds
        text = text / text.norm(dim=-1, keepdim=True)
        return {"clip_score": 100 * (seen * text).sum(1).clamp(min=0).double().cpu()}

    @cached_property
    def _text(self) -> tuple[Any, Any]:
        from transformers import CLIPTextModelWithProjection, CLIPTokenizer

        folder = clip_folder(self.folder, "evaluate.alignment.folder", "config.json", "tokenizer_config.json")
        network = CLIPTextModelWithProjection.from_pretrained(folder, local_files_only=True, use_safetensors=True)
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True), network.requires_grad_(False).eval()
