"""One YAML file or one `key=value` override -> plain values, interpolations still text."""

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from registry import suggestion
from sunlab.config.shipped import shipped
from sunlab.config.written import as_written
from sunlab.errors import ConfigError
from sunlab.packaged import CONFIG, asset

LAUNCHER = "launcher"  # the section whose values a scheduler reads, which has its own notation of times and numbers


def read_file(path: Path) -> dict[str, Any]:
    """The mapping that a YAML file, or `@NAME` of a packaged one, holds. The loader is a safe one: `!!python` tags are
    refused."""
    path = asset(path) if str(path).startswith(CONFIG) else path
    if str(path).startswith(CONFIG):
        raise ConfigError(f"no packaged configuration {str(path)!r}; {suggestion(str(path), shipped())}")
    if path.is_dir():
        raise ConfigError(f"{path}: a folder, not a YAML file; {_neighbours(path / 'x')}")
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; {_neighbours(path)}")
    try:
        loaded = OmegaConf.load(path)
    except (YAMLError, OmegaConfBaseException, ValueError) as error:  # no UTF-8; a number of 5,000 digits
        raise ConfigError(f"{path}: not a configuration: {_one_line(error)}") from None
    values: Any = OmegaConf.to_container(loaded, resolve=False)
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: a configuration is a mapping of keys to values, this file holds a list")
    _require_text_keys(values, str(path))
    if LAUNCHER in values:
        values[LAUNCHER] = as_written(values, path.read_text(encoding="utf-8"))[LAUNCHER]
    return values


def name_of(file: str | Path) -> str:
    """What a run or a sweep is named after its first file."""
    return Path(file).stem.removeprefix(CONFIG)


def read_override(text: str) -> tuple[str, Any]:
    """`data.batch_size=64` as ("data.batch_size", 64); the value is read as YAML."""
    key, equals, value = text.partition("=")
    if not equals or not key or not all(part.replace("_", "a").isalnum() for part in key.split(".")):
        raise ConfigError(f"override: expected key=value, such as data.batch_size=64, got {text!r}")
    try:
        node = OmegaConf.from_dotlist([f"value={value}"])
        read = OmegaConf.to_container(node, resolve=False)["value"]  # type: ignore[index, call-overload]
        return key, as_written(read, value) if key.split(".")[0] == LAUNCHER else read
    except (YAMLError, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(f"override: {key}: not a YAML value: {value!r}: {_one_line(error)}") from None


def _require_text_keys(values: Mapping[Any, Any], where: str) -> None:
    for key, value in values.items():
        if not isinstance(key, str):
            raise ConfigError(f"{where}: {key!r}: a key must be text")
        if isinstance(value, Mapping):
            _require_text_keys(value, where)


def _neighbours(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f"nor is there a folder {str(folder)!r} in {Path.cwd()}"
    files = sorted(p.name for p in folder.iterdir() if p.suffix in (".yaml", ".yml"))
    near = get_close_matches(path.name, files, n=1, cutoff=0.5)
    question = f"did you mean {str(folder / near[0])!r}? " if near else ""
    return f"{question}{str(folder)!r} holds: {', '.join(files) or 'no YAML file'}"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
