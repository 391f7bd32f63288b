"""The models of a base from a diffusers folder, or its network from one file and the rest from a folder."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sunlab.backbones.files import Files, read_json
from sunlab.backbones.sd.tokenizer import read_tokenizer
from sunlab.backbones.transformer_file import read_transformer
from sunlab.backbones.weight_files import reading, require_all, require_whole, variant_of, weights_of
from sunlab.errors import ConfigError

Kinds = Mapping[str, tuple[str | None, ...]]
"""Part of a base, the denoising network first -> the classes that a family knows for it; None: it may be absent."""

TIED = {"encoder.embed_tokens.weight", "shared.weight"}
"""T5's embedding under two names, of which a file holds one."""
VOCABULARIES = ("tokenizer.json", "tokenizer.model", "spiece.model")


@dataclass(frozen=True)
class Parts:
    """The models of a base, before they are wrapped.

    Attributes:
        network, vae: diffusers' models.
        texts: (tokenizer, model) of each text encoder; the tokenizer is None where only shapes are requested.
        scheduler: its configuration.
        index: model_index.json.
        folder: where the configurations are.
        weights: part -> the files with its weights; none for one that starts at random.
    """

    network: Any
    vae: Any
    texts: tuple[tuple[Any, Any], ...]
    scheduler: Mapping[str, Any]
    index: Mapping[str, Any]
    folder: Path
    weights: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)


def index_mismatch(files: Files, kinds: Kinds) -> str | None:
    """Why model_index.json does not name these classes; None if it does."""
    if not files.index and files.single:
        return f"a single file holds its {next(iter(kinds))} alone; set model.family to a diffusers folder with the rest"
    if not files.index:
        return "no diffusers folder with model_index.json"
    for name, known in kinds.items():
        kind = class_of(files.index, name)
        names = ", ".join(filter(None, known))
        if kind is None and kind not in known:
            return f"it has no {name}; known: {names}"
        if kind not in known:
            remedy = f"put one of these into its folder {name} and into model_index.json, or choose another base"
            return f"its {name} is {kind}; known: {names}; {remedy}" if names else f"it has a {name}"
    return None


def class_of(index: Mapping[str, Any], name: str) -> str | None:
    """The class of a part in model_index.json; None without one."""
    kind: str | None = (index.get(name) or [None, None])[1]
    return kind


def read_folder(
    files: Files, kinds: Kinds, *, fresh: Collection[str] = (), dtype: torch.dtype, weights: bool = True
) -> Parts:
    """The parts in a folder.

    Args:
        files: that `index_mismatch` accepts; of a single file, the rest is in the folder of its configurations.
        kinds: the family's.
        fresh: parts that start at random weights; `text_encoder` means all of them.
        dtype: of the weights.
        weights: False: everything starts at random, no weights are looked at, and there are no tokenizers.

    Raises:
        ConfigError: no safetensors, pickled weights alone, or no tokenizer.
        DataError: weights that are damaged or do not fit their configuration.
    """
    folder = files.configurations or files.place
    index = read_json(folder / "model_index.json")
    classes = {name: kind for name in kinds if (kind := class_of(index, name)) is not None}
    first, *rest = classes
    read = [name for name in classes if weights and name.removesuffix("_2").removesuffix("_3") not in fresh]
    found = {name: (files.place,) if files.single and name == first else weights_of(folder, name) for name in read}
    require_whole([file for part in found.values() for file in part])  # before the first is read
    texts = []
    for name in (name for name in rest if name.startswith("text_encoder")):
        words = read_words(folder / name.replace("text_encoder", "tokenizer"), classes[name]) if weights else None
        texts.append((words, encoder(folder / name, classes[name], found.get(name), dtype)))
    if files.single and first in found:
        network = read_transformer(files, classes[first], dtype)
    else:
        network = model(folder / first, classes[first], found.get(first), dtype)
    return Parts(
        network=network,
        vae=model(folder / "vae", classes["vae"], found.get("vae"), dtype),
        texts=tuple(texts),
        scheduler=read_json(folder / "scheduler" / "scheduler_config.json"),
        index=index,
        folder=folder,
        weights=found,
    )


def model(folder: Path, kind: str, files: tuple[Path, ...] | None, dtype: torch.dtype) -> Any:
    """diffusers' model of the class `kind`; without files at random weights. Raises `ConfigError` if its configuration is of
    another class."""
    import diffusers

    stated = read_json(folder / "config.json").get("_class_name", kind) if folder.is_dir() else kind
    if stated != kind:
        raise ConfigError(
            f"{folder}/config.json is of {stated}, model_index.json beside it says {kind}; put the {kind} back, or name "
            f"{stated} there if the family takes it"
        )
    cls = getattr(diffusers, kind)
    if files is None:
        return nn.Module.to(cls.from_config(cls.load_config(folder)), dtype)
    with reading(str(folder)):
        read, info = cls.from_pretrained(
            folder, torch_dtype=dtype, use_safetensors=True, variant=variant_of(files), output_loading_info=True
        )
    require_all(list(info["missing_keys"]), str(folder))
    return read


def encoder(folder: Path, kind: str, files: tuple[Path, ...] | None, dtype: torch.dtype) -> Any:
    """transformers' text model of the class `kind`; without files at random weights."""
    import transformers

    cls: Any = getattr(transformers, kind)
    settings = attention() if kind.startswith("CLIP") else {}
    if files is None:
        return nn.Module.to(cls._from_config(cls.config_class.from_pretrained(folder), **settings), dtype)
    with reading(str(folder)):
        read, info = cls.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, variant=variant_of(files), output_loading_info=True, **settings
        )
    missing = set(info["missing_keys"])
    require_all(sorted(missing if missing >= TIED else missing - TIED), str(folder))
    return read


def attention() -> dict[str, str]:
    """On CPUs in bfloat16 the fused kernel's backward takes twice the time of plain matrix products."""
    return {} if torch.cuda.is_available() else {"attn_implementation": "eager"}


def read_words(folder: Path, kind: str) -> Any:
    """The tokenizer of a text encoder of the class `kind`. CLIP's vocabulary is inside the package; for another, raises
    `ConfigError` if the folder has none."""
    if kind.startswith("CLIP"):
        return read_tokenizer(folder)
    from transformers import AutoTokenizer

    if not any((folder / name).is_file() for name in VOCABULARIES):
        raise ConfigError(f"{folder} holds no tokenizer: none of {', '.join(VOCABULARIES)}; fetch the model again")
    with reading(str(folder)):
        return AutoTokenizer.from_pretrained(folder)
