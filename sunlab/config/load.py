"""Files and overrides -> a checked configuration. Nothing heavy is loaded before all of it is known to be right."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from registry import RegistryError, load_plugins
from sunlab.config.check import Check
from sunlab.config.interpolate import Resolved, resolve
from sunlab.config.merge import Draft
from sunlab.config.read import name_of, read_file, read_override
from sunlab.config.schema import Config
from sunlab.config.shape import chooses_component, leaves
from sunlab.config.write import dump
from sunlab.errors import ConfigError


@dataclass(frozen=True)
class LoadedConfig:
    """A checked configuration.

    Attributes:
        config: the values; every component is a mapping with `name` and all its parameters, defaults filled in.
        origins: dotted path of each leaf -> "default", a file, "override" or "component default".
        saved: plain values that may be written to files and that rerun the run: as `config`, but a value that the
            environment had a part in is the text of its interpolation.
    """

    config: Config = field(repr=False)  # may hold a secret from the environment
    origins: dict[str, str] = field(repr=False)
    saved: dict[str, Any] = field(repr=False)

    def to_yaml(self, *, origins: bool = False) -> str:
        """The resolved configuration, which reruns the run; with a comment on each leaf's origin on request."""
        return dump(self.saved, self.origins.__getitem__ if origins else None)


def load_config(files: Sequence[str | Path], overrides: Sequence[str] = (), *, plugins: Sequence[str] = ()) -> LoadedConfig:
    """Load and check a configuration.

    Args:
        files: YAML files, or `@NAME` of packaged ones; later ones win. The first one's name is the run's name unless
            `run.name` is given.
        overrides: `key=value`, over all files; those that choose a component come first, in whatever order they are given,
            so that `loss.segments=3 loss=cfg` asks `cfg` for `segments` and does not lose it silently.
        plugins: files or modules to import before the check, besides `plugins:` in the files. Relative paths start at
            the working directory.

    Raises:
        ConfigError: naming file, key, value and alternatives of everything that is wrong.
    """
    draft = Draft()
    for path in map(Path, files):
        draft.add(read_file(path), str(path))
    pairs = [read_override(text) for text in overrides]
    for key, value in sorted(pairs, key=lambda pair: not chooses_component(pair[0])):
        draft.override(key, value)
    if files and draft.origin("run.name") == "default":
        draft.add({"run": {"name": name_of(files[0])}}, f"name of {files[0]}")
    _add_plugins(draft, plugins)
    resolved = resolve(draft)
    return _checked(draft, resolved)


def _add_plugins(draft: Draft, plugins: Sequence[str]) -> None:
    named = draft.values["plugins"]
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
        raise ConfigError(f"{draft.origin('plugins')}: plugins: expected a list of files or modules, got {named!r}")
    further = [name for name in map(str, plugins) if name not in named]
    if further:
        draft.add({"plugins": [*named, *further]}, "override")


def _checked(draft: Draft, resolved: Resolved) -> LoadedConfig:
    try:
        load_plugins(resolved.values["plugins"])
    except RegistryError as error:
        raise ConfigError(resolved.hide(f"{draft.origin('plugins')}: plugins: {error}")) from None
    check = Check(draft.origin)
    config = check(resolved.values)
    if config is None:
        raise ConfigError(resolved.hide("\n".join(check.problems)))
    tree = asdict(config)
    origins = {path: draft.origin(path) for path, _ in leaves(tree)}
    defaulted = tuple(check.defaulted)
    origins.update({path: "component default" for path in origins if _within(path, defaulted)})
    return LoadedConfig(config, origins, resolved.writable(draft.values, deepcopy(tree)))


def _within(path: str, prefixes: tuple[str, ...]) -> bool:
    return any(path == prefix or path.startswith(f"{prefix}.") for prefix in prefixes)
