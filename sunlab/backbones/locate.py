"""Where a base is: a folder, a file, a model inside the package, or one on the hub."""

import os
from pathlib import Path

from sunlab import hub
from sunlab.backbones.weight_files import PICKLED, refuse_pickle
from sunlab.errors import ConfigError
from sunlab.packaged import asset, folders

WANTED = ["model_index.json", "*/*.json", "*/merges.txt", "*/spiece.model", "*/tokenizer.model", "unet/*.safetensors",
          "transformer/*.safetensors", "vae/*.safetensors", "text_encoder*/*.safetensors"]  # fmt: skip
UNWANTED = ["safety_checker/*", "feature_extractor/*", "*.non_ema.*", "*flax*", "*onnx*", "*openvino*"]


def is_hub_id(base: str | Path) -> bool:
    """Whether `base` can only be a hub id, `owner/name`, also with `@revision` and `:file`: no such path is here."""
    return hub.parse(str(base)) is not None and not asset(base).exists()


def locate(base: str | Path) -> Path:
    """The folder or the file of a base; one on the hub is fetched first (weights in safetensors alone).

    Raises:
        ConfigError: there is none of that name, it is pickled, or no diffusers model.
        StorageError: a hub id that is not in the cache and cannot be fetched.
    """
    require_given(base)
    place = asset(base)
    if place.is_file():
        refuse_pickle([place], f"model.base: {base}")
        if place.suffix.lower() == ".safetensors":
            return place
    elif (place / "model_index.json").is_file():
        return place
    elif is_hub_id(base):
        return fetch(str(base))
    found = [p for p in sorted(place.glob("*")) if p.suffix in (".safetensors", *PICKLED)] if place.is_dir() else []
    hint = f"; in that folder there is {found[0]}" if found else ""
    raise ConfigError(
        f"model.base: {str(base)!r} is neither a diffusers folder (with model_index.json), nor a .safetensors file, nor a "
        f"hub id (owner/name), nor one of the models inside the package: {', '.join(packaged_bases())}{hint}"
    )


def require_given(base: str | Path) -> None:
    """Raise `ConfigError`, saying what to name, where `base` is empty."""
    if not str(base):
        raise ConfigError(
            "model.base is not given: name a diffusers folder, a .safetensors file, a hub id (owner/name) or one of the "
            f"models inside the package: {', '.join(packaged_bases())}"
        )


def packaged_bases() -> list[str]:
    """Names of the models inside installed packages."""
    return sorted(path.parent.name for folder in folders() for path in folder.glob("*/model_index.json"))


def fetch(name: str) -> Path:
    """A model of the hub, from the usual cache or the network, without what is not read."""
    place = hub.parse(name)
    assert place is not None
    key = f"model.base: {name}"
    return hub.fetch_file(place, key) if place.file else hub.fetch_folder(place, key, wanted=WANTED, unwanted=UNWANTED)


def quiet(*, online: bool = False) -> None:
    """Keep the hub libraries from looking for a network that a run does not need, and from logging.

    Args:
        online: the base is on the hub, so the network is needed, unless HF_HUB_OFFLINE says otherwise.
    """
    if not online:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for logging in (diffusers_logging, transformers_logging):
        logging.set_verbosity_error()
        logging.disable_progress_bar()
