"""A PixArt base from a diffusers folder."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from sunlab.backbones.files import Files, read_json
from sunlab.backbones.sd.folder import attention, network
from sunlab.backbones.sd.tokenizer import read_tokenizer
from sunlab.backbones.transformer_file import file_mismatch, transformer, weights_of_parts
from sunlab.backbones.weight_files import reading, require_all, variant_of

KINDS = {
    "transformer": ("PixArtTransformer2DModel",),
    "vae": ("AutoencoderKL", "AutoencoderTiny"),
    "text_encoder": ("T5EncoderModel", "CLIPTextModel"),
}
LENGTHS = {"PixArtAlphaPipeline": 120, "PixArtSigmaPipeline": 300}
"""Tokens of a padded prompt, by the pipeline that a base is of (`max_sequence_length`)."""


@dataclass(frozen=True)
class Parts:
    """diffusers' and transformers' models.

    Attributes:
        transformer, vae, text_encoder, tokenizer: the models; the tokenizer is None where only shapes were asked for.
        length: tokens of a padded prompt.
        scheduler: its configuration.
        index: model_index.json.
        folder: where the configurations are.
        weights: part -> the files with its weights; none for one that starts at random.
    """

    transformer: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    length: int
    scheduler: Mapping[str, Any]
    index: Mapping[str, Any]
    folder: Path
    weights: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)


def index_mismatch(files: Files) -> str | None:
    """Why the files are not of a PixArt pipeline in diffusers' layout; None if they are."""
    if reason := file_mismatch(files):
        return reason
    for name, known in KINDS.items():
        kind = (files.index.get(name) or [None, None])[1]
        if kind not in known:
            return f"its {name} is {kind}; known: {', '.join(known)}"
    return None


def read_folder(files: Files, *, fresh: Collection[str] = (), dtype: torch.dtype, weights: bool = True) -> Parts:
    """The parts in a folder.

    Args:
        files: that `index_mismatch` accepts; of a single file, the rest is in the folder of its configurations.
        fresh: parts that start at random weights.
        dtype: of the weights.
        weights: False: everything starts at random, no weights are looked at, and there is no tokenizer.

    Raises:
        ConfigError: no safetensors, or pickled weights alone.
        DataError: weights that are damaged or do not fit their configuration.
    """
    folder = files.configurations or files.place
    index = read_json(folder / "model_index.json")
    found = weights_of_parts(files, folder, KINDS, fresh=fresh, weights=weights)
    kinds = {name: index[name][1] for name in KINDS}
    return Parts(
        transformer=transformer(files, folder, kinds["transformer"], found.get("transformer"), dtype),
        vae=network(folder, kinds["vae"], "vae", found.get("vae"), dtype),
        text_encoder=encoder(folder, kinds["text_encoder"], found.get("text_encoder"), dtype),
        tokenizer=tokenizer(folder / "tokenizer", kinds["text_encoder"]) if weights else None,
        length=length(folder, index),
        scheduler=read_json(folder / "scheduler" / "scheduler_config.json"),
        index=index,
        folder=folder,
        weights=found,
    )


def length(folder: Path, index: Mapping[str, Any]) -> int:
    """Tokens of a padded prompt: those of the pipeline, or fewer if the tokenizer takes fewer."""
    settings = folder / "tokenizer" / "tokenizer_config.json"
    most = read_json(settings).get("model_max_length") if settings.is_file() else None
    usual = LENGTHS.get(index.get("_class_name", ""), 300)
    return usual if most is None else min(int(most), usual)


def encoder(folder: Path, kind: str, files: tuple[Path, ...] | None, dtype: torch.dtype) -> Any:
    """transformers' text model; without files at random weights."""
    import transformers

    cls, place = getattr(transformers, kind), folder / "text_encoder"
    settings = attention() if kind == "CLIPTextModel" else {}
    if files is None:
        return cls._from_config(cls.config_class.from_pretrained(place), **settings)
    with reading(str(place)):
        model, info = cls.from_pretrained(
            place, dtype=dtype, use_safetensors=True, variant=variant_of(files), output_loading_info=True, **settings
        )
    require_all([name for name in info["missing_keys"] if name != "encoder.embed_tokens.weight"], str(place))  # T5 ties it
    return model


def tokenizer(folder: Path, kind: str) -> Any:
    """The tokenizer of a folder. Raises `ConfigError` through transformers' own errors if it has none."""
    if kind == "CLIPTextModel":
        return read_tokenizer(folder)
    from transformers import AutoTokenizer

    with reading(str(folder)):
        return AutoTokenizer.from_pretrained(folder)
