"""The metadata of a base's files, read before the weights; a family uses it to recognise its files."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import safe_open

from sunlab.backbones.weight_files import reading
from sunlab.errors import DataError


@dataclass(frozen=True)
class Files:
    """A diffusers folder, or a single .safetensors file.

    Attributes:
        place: the folder or the file.
        configurations: the folder with the configurations: `place` itself, for a file the one the user named, else None.
        index: model_index.json of that folder; empty without one.
        shapes: of a file's tensors by name.
        metadata: of a file.
    """

    place: Path
    configurations: Path | None
    index: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def single(self) -> bool:
        """Whether it is a single file."""
        return not self.place.is_dir()


def describe_files(place: Path, configurations: Path | None = None) -> Files:
    """Read the metadata of a base.

    Args:
        place: a diffusers folder or a single file.
        configurations: for a single file, a folder with the configurations of its family.

    Raises:
        DataError: a damaged file, or model_index.json is no JSON object.
    """
    if place.is_dir():
        return Files(place, place, read_json(place / "model_index.json"))
    with reading(str(place)), safe_open(place, "pt") as opened:
        shapes = {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
        metadata = opened.metadata() or {}
    index = {} if configurations is None else read_json(configurations / "model_index.json")
    return Files(place, configurations, index, shapes, metadata)


def read_json(file: Path) -> dict[str, Any]:
    """Raises `DataError` for a file that is no JSON object."""
    try:
        read = json.loads(file.read_text())
    except ValueError as error:
        raise DataError(f"{file}: no JSON: {error}") from None
    if not isinstance(read, dict):
        raise DataError(f"{file}: expected a JSON object, got {type(read).__name__}")
    return read
