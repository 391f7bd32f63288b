"""An SD 3 base from a diffusers folder."""

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

NETWORKS = {"transformer": "SD3Transformer2DModel", "vae": "AutoencoderKL"}
CLIPS = dict.fromkeys(("text_encoder", "text_encoder_2"), "CLIPTextModelWithProjection")
T5 = "text_encoder_3"
ENCODERS = {**CLIPS, T5: "T5EncoderModel"}
TIED = {"encoder.embed_tokens.weight", "shared.weight"}
"""T5's embedding under two names, of which a file holds one."""


@dataclass(frozen=True)
class Parts:
    """diffusers' and transformers' models.

    Attributes:
        transformer, vae: the models.
        clips: (tokenizer, model) of the two CLIPs; the tokenizer is None where only shapes were asked for.
        t5: likewise, or None.
        scheduler: its configuration.
        index: model_index.json.
        folder: where the configurations are.
        weights: part -> the files with its weights; none for one that starts at random.
    """

    transformer: Any
    vae: Any
    clips: tuple[tuple[Any, Any], ...]
    t5: tuple[Any, Any] | None
    scheduler: Mapping[str, Any]
    index: Mapping[str, Any]
    folder: Path
    weights: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)


def index_mismatch(files: Files) -> str | None:
    """Why a model_index.json is not of SD 3; None if it is."""
    if reason := file_mismatch(files):
        return reason
    index = files.index
    for name, known in {**NETWORKS, **ENCODERS}.items():
        kind = (index.get(name) or [None, None])[1]
        if kind != known and not (name == T5 and kind is None):
            return f"its {name} is {kind}, not {known}"
    return None


def read_folder(
    files: Files, *, fresh: Collection[str] = (), dtype: torch.dtype, weights: bool = True, t5: bool = True
) -> Parts:
    """The parts in a folder.

    Args:
        files: that `index_mismatch` accepts; of a single file, the rest is in the folder of its configurations.
        fresh: parts that start at random weights; `text_encoder` means all of them.
        dtype: of the weights.
        weights: False: everything starts at random, no weights are looked at, and there are no tokenizers.
        t5: False: leave T5 out.

    Raises:
        ConfigError: no safetensors, or pickled weights alone.
        DataError: weights that are damaged or do not fit their configuration.
    """
    folder = files.configurations or files.place
    index = read_json(folder / "model_index.json")
    names = [*CLIPS, *([T5] if t5 and (index.get(T5) or [None, None])[1] else [])]
    every = (*NETWORKS, *names)
    new = {name for name in every if name.removesuffix("_2").removesuffix("_3") in fresh}
    found = weights_of_parts(files, folder, every, fresh=new, weights=weights)
    texts = {}
    for name in names:
        words = folder / name.replace("text_encoder", "tokenizer")
        read = read_t5_tokenizer if name == T5 else read_tokenizer
        texts[name] = (read(words) if weights else None, encoder(folder, name, found.get(name), dtype))
    return Parts(
        transformer=transformer(files, folder, NETWORKS["transformer"], found.get("transformer"), dtype),
        vae=network(folder, NETWORKS["vae"], "vae", found.get("vae"), dtype),
        clips=tuple(texts[name] for name in CLIPS),
        t5=texts.get(T5),
        scheduler=read_json(folder / "scheduler" / "scheduler_config.json"),
        index=index,
        folder=folder,
        weights=found,
    )


def encoder(folder: Path, name: str, files: tuple[Path, ...] | None, dtype: torch.dtype) -> Any:
    """transformers' text model; without files at random weights."""
    import transformers

    cls, place = getattr(transformers, ENCODERS[name]), folder / name
    settings = attention() if name in CLIPS else {}
    if files is None:
        return cls._from_config(cls.config_class.from_pretrained(place), **settings)
    with reading(str(place)):
        model, info = cls.from_pretrained(
            place, dtype=dtype, use_safetensors=True, variant=variant_of(files), output_loading_info=True, **settings
        )
    missing = set(info["missing_keys"])
    require_all(sorted(missing - TIED if missing < TIED else missing), str(place))
    return model


def read_t5_tokenizer(folder: Path) -> Any:
    """T5's tokenizer. Raises `DataError` if the folder has none."""
    from transformers import AutoTokenizer

    with reading(str(folder)):
        try:
            return AutoTokenizer.from_pretrained(folder)
        except OSError as error:
            raise ValueError(f"no tokenizer: {error}") from None
