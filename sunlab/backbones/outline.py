"""A base's shapes without its weights, on the meta device: what a run needs can be told before anything is fetched."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from sunlab.backbones.locate import is_hub_id, locate
from sunlab.backbones.pretrained import BaseModel, wrap
from sunlab.backbones.sd.families import family_folder
from sunlab.backbones.sd.folder import read_folder
from sunlab.backbones.sd.single_file import describe_file
from sunlab.backbones.weight_files import refuse_pickle
from sunlab.errors import ConfigError


def outline_base(
    base: str | Path, *, family: str | None = None, dtype: torch.dtype = torch.float32, **options: Any
) -> BaseModel:
    """A base whose parameters have shapes and types, and no values.

    Args:
        base, options: see `load_base`. Where `base` is not there, or on the hub, the family's configuration is taken.
        family: its family, where it is not there to tell.

    Raises:
        ConfigError: a base that is not there, and no family; pickled weights.
    """
    folder, scheduler = configurations(base, family)
    with torch.device("meta"):
        parts = read_folder(folder, dtype=dtype, weights=False)
    parts = replace(parts, scheduler={**parts.scheduler, **scheduler})
    return cast(wrap(parts, **options), dtype)


def configurations(base: str | Path, family: str | None) -> tuple[Path, dict[str, Any]]:
    """The folder that describes the base, and what a single file says of its scheduler over that."""
    refuse_pickle([Path(base)], f"model.base: {base}")  # it would not load either, whatever its family
    if not is_hub_id(base):
        try:
            place = locate(base)
        except ConfigError:
            if family is None:
                raise
        else:
            if place.is_dir():
                return place, {}
            described = describe_file(place, family)
            return described.folder, described.scheduler
    if family is None:
        raise ConfigError(
            f"model.family: say which (sd15, sd21, sd21_base, sdxl), so that {base!r} is known without its weights"
        )
    return family_folder(family), {}


def cast(base: BaseModel, dtype: torch.dtype) -> BaseModel:
    for part in (base.backbone, base.autoencoder, base.text):
        part.to(dtype)
    return base
