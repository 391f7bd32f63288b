"""A base from a diffusers folder."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

from sunlab.backbones.sd.families import family_tokenizer
from sunlab.backbones.sd.parts import Parts
from sunlab.backbones.weight_files import reading, require_all, require_whole, variant_of, weights_of
from sunlab.errors import ConfigError, DataError

NETWORKS = {"unet": ("UNet2DConditionModel",), "vae": ("AutoencoderKL", "AutoencoderTiny")}
ENCODERS = {"text_encoder": "CLIPTextModel", "text_encoder_2": "CLIPTextModelWithProjection"}


def read_folder(folder: Path, *, fresh: Collection[str] = (), dtype: torch.dtype, weights: bool = True) -> Parts:
    """The parts in a folder.

    Args:
        folder: with model_index.json.
        fresh: parts that start at random weights; `text_encoder` means all of them.
        dtype: of the weights.
        weights: False: everything starts at random, no weights are looked at, and there are no tokenizers.

    Raises:
        ConfigError: a model of another kind, no safetensors, or pickled weights alone.
        DataError: weights that are damaged or do not fit their configuration.
    """
    index = read_json(folder / "model_index.json")
    names = [name for name in ENCODERS if index.get(name, [None])[0]]
    check_index(index, names, folder)
    every = (*NETWORKS, *names)
    random = set(every) if not weights else {n for n in every if n.removesuffix("_2") in fresh}
    files = {name: weights_of(folder, name) for name in every if name not in random}  # before the first is read
    require_whole([file for part in files.values() for file in part])
    networks = {name: network(folder, index[name][1], name, files.get(name), dtype) for name in NETWORKS}
    texts = []
    for name in names:
        tokenizer = family_tokenizer(folder / name.replace("text_encoder", "tokenizer")) if weights else None
        texts.append((tokenizer, encoder(folder, name, files.get(name), dtype)))
    scheduler = read_json(folder / "scheduler" / "scheduler_config.json")
    return Parts(networks["unet"], networks["vae"], tuple(texts), scheduler, index, folder, files)


def read_json(file: Path) -> dict[str, Any]:
    """Raises `DataError` for a file that is no JSON object."""
    try:
        read = json.loads(file.read_text())
    except ValueError as error:
        raise DataError(f"{file}: no JSON: {error}") from None
    if not isinstance(read, dict):
        raise DataError(f"{file}: expected a JSON object, got {type(read).__name__}")
    return read


def check_index(index: dict[str, Any], encoders: list[str], folder: Path) -> None:
    """Raise `ConfigError` for a pipeline that is not of Stable Diffusion's text-to-image families."""
    for name, known in NETWORKS.items():
        kind = (index.get(name) or [None, None])[1]
        if kind not in known:
            raise ConfigError(f"{folder}: its {name} is {kind}; known: {', '.join(known)} (SD 1.x, SD 2.x, SDXL)")
    if "text_encoder" not in encoders:
        raise ConfigError(f"{folder}: {index.get('_class_name')} has no text_encoder; a text-to-image base is needed")


def network(folder: Path, kind: str, name: str, files: tuple[Path, ...] | None, dtype: torch.dtype) -> Any:
    """diffusers' model of the class `kind`; without files at random weights."""
    import diffusers

    cls = getattr(diffusers, kind)
    if files is None:
        return cls.from_config(cls.load_config(folder / name))
    with reading(str(folder / name)):
        model, info = cls.from_pretrained(
            folder / name, torch_dtype=dtype, use_safetensors=True, variant=variant_of(files), output_loading_info=True
        )
    require_all(list(info["missing_keys"]), str(folder / name))
    return model


def encoder(folder: Path, name: str, files: tuple[Path, ...] | None, dtype: torch.dtype) -> Any:
    """transformers' text model; without files at random weights."""
    import transformers

    cls = getattr(transformers, ENCODERS[name])
    if files is None:
        return cls._from_config(transformers.CLIPTextConfig.from_pretrained(folder / name), **attention())
    with reading(str(folder / name)):
        model, info = cls.from_pretrained(
            folder / name, dtype=dtype, use_safetensors=True, variant=variant_of(files), output_loading_info=True,
            **attention(),
        )  # fmt: skip
    require_all(list(info["missing_keys"]), str(folder / name))
    return model


def attention() -> dict[str, str]:
    """On CPUs in bfloat16 the fused kernel's backward takes twice the time of plain matrix products."""
    return {} if torch.cuda.is_available() else {"attn_implementation": "eager"}
