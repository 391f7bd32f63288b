"""Values of a configuration that depend on the machine: `auto` until a run starts, then what the run computes with."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sunlab.config.load import LoadedConfig
from sunlab.config.read import read_file

AUTO = "auto"
KEYS = (("trainer", "precision"), ("model", "dtype"))


def automatic(tree: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Which of `KEYS` are `auto` in a configuration's tree."""
    return [(section, key) for section, key in KEYS if (tree.get(section) or {}).get(key) == AUTO]


def recorded(tree: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """`tree` with each `auto` replaced by what a run recorded in its config.yaml; `auto` stays where there is no record."""
    found = read_file(file) if file.is_file() else {}
    values = {place: (found.get(place[0]) or {}).get(place[1], AUTO) for place in automatic(tree)}
    return _with(tree, values)


def resolved(loaded: LoadedConfig, values: Mapping[tuple[str, str], str]) -> LoadedConfig:
    """The configuration with `values` by section and key, also in what is written to files."""
    config, saved = loaded.config, _with(loaded.saved, values)
    if ("trainer", "precision") in values:
        config = replace(config, trainer={**config.trainer, "precision": values["trainer", "precision"]})
    if ("model", "dtype") in values:
        config = replace(config, model=replace(config.model, dtype=values["model", "dtype"]))  # type: ignore[arg-type]
    return replace(loaded, config=config, saved=saved)


def _with(tree: Mapping[str, Any], values: Mapping[tuple[str, str], str]) -> dict[str, Any]:
    changed = dict(tree)
    for (section, key), value in values.items():
        changed[section] = {**changed[section], key: value}
    return changed
