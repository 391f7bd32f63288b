"""A base from a diffusers folder."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from sunlab.backbones.files import read_json
from sunlab.backbones.sd.parts import Parts
from sunlab.backbones.sd.tokenizer import read_tokenizer
from sunlab.backbones.weight_files import reading, require_all, require_whole, variant_of, weights_of

NETWORKS = {"unet": ("UNet2DConditionModel",), "vae": ("AutoencoderKL", "AutoencoderTiny")}
ENCODERS = {"text_encoder": "CLIPTextModel", "text_encoder_2": "CLIPTextModelWithProjection"}


def read_folder(folder: Path, *, fresh: Collection[str] = (), dtype: torch.dtype, weights: bool = True) -> Parts:
    """The parts in a folder.

    Args:
        folder: with a model_index.json of a known family.
        fresh: parts that start at random weights; `text_encoder` means all of them.
        dtype: of the weights.
        weights: False: everything starts at random, no weights are looked at, and there are no tokenizers.

    Raises:
        ConfigError: no safetensors, or pickled weights alone.
        DataError: weights that are damaged or do not fit their configuration.
    """
    index = read_json(folder / "model_index.json")
    names = [name for name in ENCODERS if (index.get(name) or [None])[0]]
    every = (*NETWORKS, *names)
    random = set(every) if not weights else {n for n in every if n.removesuffix("_2") in fresh}
    files = {name: weights_of(folder, name) for name in every if name not in random}  # before the first is read
    require_whole([file for part in files.values() for file in part])
    networks = {name: network(folder, index[name][1], name, files.get(name), dtype) for name in NETWORKS}
    texts = []
    for name in names:
        tokenizer = read_tokenizer(folder / name.replace("text_encoder", "tokenizer")) if weights else None
        texts.append((tokenizer, encoder(folder, name, files.get(name), dtype)))
    scheduler = read_json(folder / "scheduler" / "scheduler_config.json")
    return Parts(networks["unet"], networks["vae"], tuple(texts), scheduler, index, folder, files)


def index_mismatch(index: Mapping[str, Any], encoders: Sequence[str]) -> str | None:
    """Why a model_index.json is not of a text-to-image pipeline with a U-Net and these text encoders; None if it is."""
    for name, known in NETWORKS.items():
        kind = (index.get(name) or [None, None])[1]
        if kind not in known:
            return f"its {name} is {kind}; known: {', '.join(known)}"
    found = [name for name in ENCODERS if (index.get(name) or [None])[0]]
    if missing := [name for name in encoders if name not in found]:
        return f"{index.get('_class_name')} has no {missing[0]}"
    if extra := [name for name in found if name not in encoders]:
        return f"it has a {extra[0]}"
    return None


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
