"""A SANA base from a diffusers folder."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sunlab.backbones.files import Files, read_json
from sunlab.backbones.sd.folder import network
from sunlab.backbones.transformer_file import file_mismatch, transformer, weights_of_parts
from sunlab.backbones.weight_files import reading, require_all, variant_of
from sunlab.errors import ConfigError

KINDS = {"transformer": "SanaTransformer2DModel", "vae": "AutoencoderDC", "text_encoder": "Gemma2Model"}


@dataclass(frozen=True)
class Parts:
    """diffusers' and transformers' models.

    Attributes:
        transformer, vae, text_encoder, tokenizer: the models; the tokenizer is None where only shapes were needed.
        scheduler: its configuration.
        index: model_index.json.
        weights: part -> the files with its weights; none for one that starts at random.
    """

    transformer: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    scheduler: Mapping[str, Any]
    index: Mapping[str, Any]
    weights: Mapping[str, tuple[Path, ...]]


def index_mismatch(files: Files) -> str | None:
    """Why the files are not of a SANA pipeline in diffusers' layout; None if they are."""
    if reason := file_mismatch(files):
        return reason
    for name, known in KINDS.items():
        kind = (files.index.get(name) or [None, None])[1]
        if kind != known:
            return f"its {name} is {kind}, not {known}"
    if "Sprint" in str(files.index.get("_class_name")):
        return "SANA-Sprint is distilled already: its guidance is an input of the network and it takes no negative prompt"
    return None


def read_folder(files: Files, *, fresh: Collection[str] = (), dtype: torch.dtype, weights: bool = True) -> Parts:
    """The parts in a folder.

    Args:
        files: that `index_mismatch` accepts; of a single file, the rest is in the folder of its configurations.
        fresh: parts that start at random weights.
        dtype: of the weights.
        weights: False: everything starts at random, no weights are looked at, and there is no tokenizer.

    Raises:
        ConfigError: no safetensors, pickled weights alone, or no tokenizer.
        DataError: weights that are damaged or do not fit their configuration.
    """
    folder = files.configurations or files.place
    found = weights_of_parts(files, folder, KINDS, fresh=fresh, weights=weights)
    return Parts(
        transformer=transformer(files, folder, KINDS["transformer"], found.get("transformer"), dtype),
        vae=network(folder, KINDS["vae"], "vae", found.get("vae"), dtype),
        text_encoder=text_encoder(folder / "text_encoder", found.get("text_encoder"), dtype),
        tokenizer=tokenizer(folder / "tokenizer") if weights else None,
        scheduler=read_json(folder / "scheduler" / "scheduler_config.json"),
        index=read_json(folder / "model_index.json"),
        weights=found,
    )


def text_encoder(folder: Path, files: tuple[Path, ...] | None, dtype: torch.dtype) -> Any:
    """Gemma-2; without files at random weights."""
    from transformers import Gemma2Config, Gemma2Model

    if files is None:
        return Gemma2Model._from_config(Gemma2Config.from_pretrained(folder))
    with reading(str(folder)):
        model, info = Gemma2Model.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, variant=variant_of(files), output_loading_info=True
        )
    require_all(list(info["missing_keys"]), str(folder))
    return model


def tokenizer(folder: Path) -> Any:
    """Gemma's tokenizer. Raises `ConfigError` if the folder has none."""
    from transformers import GemmaTokenizer

    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        raise ConfigError(f"{folder} holds no tokenizer: neither tokenizer.json nor tokenizer.model; fetch the model again")
    with reading(str(folder)):
        return GemmaTokenizer.from_pretrained(folder)
