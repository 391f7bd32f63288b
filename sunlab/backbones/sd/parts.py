"""The pieces that a base is loaded as, before they are wrapped."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Parts:
    """diffusers' and transformers' models.

    Attributes:
        unet, vae: the models.
        texts: (tokenizer, model) of each text encoder; the tokenizer is None if only shapes are requested.
        scheduler: its configuration.
        index: model_index.json.
        folder: where the configurations are.
        weights: part -> the files with its weights; none for one that starts at random.
    """

    unet: Any
    vae: Any
    texts: tuple[tuple[Any, Any], ...]
    scheduler: Mapping[str, Any]
    index: Mapping[str, Any]
    folder: Path
    weights: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
