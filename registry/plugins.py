"""Plugins: Python files or modules that the user names, and entry points of installed packages.

Only the command line and the user's own configuration can name a plugin; nothing downloaded can.
"""

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

from registry.errors import RegistryError

API_VERSION = "1.0"


@dataclass(frozen=True)
class BrokenPlugin:
    """An installed plugin that could not be imported: shown by `sunlab list`, never fatal."""

    name: str
    group: str
    traceback: str


_loaded_groups: set[str] = set()
_broken: list[BrokenPlugin] = []


def broken_plugins() -> tuple[BrokenPlugin, ...]:
    return tuple(_broken)


def load_plugins(names: Iterable[str]) -> list[ModuleType]:
    return [load_plugin(name) for name in names]


def load_plugin(name: str) -> ModuleType:
    """Import `my_losses.py` (a path) or `my_pkg.mod` (a module). Raises `RegistryError` with the plugin's own
    traceback where the import fails."""
    try:
        module = _from_file(Path(name)) if name.endswith(".py") else importlib.import_module(name)
    except RegistryError:
        raise
    except Exception as error:
        if isinstance(error.__cause__ or error, RegistryError):
            raise
        if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}.") and not name.endswith(".py"):
            remedy = "name a file that ends in .py, or a module of an installed package"
            raise RegistryError(f"plugin {name!r}: there is no module {error.name!r}; {remedy}") from None
        raise RegistryError(f"plugin {name!r} cannot be imported:\n{traceback.format_exc(limit=-3)}") from error
    check_api(getattr(module, "SUNLAB_REGISTRY_API", API_VERSION), name)
    return module


def check_api(wanted: str, name: str) -> None:
    """Refuse a plugin written for another major or a newer minor version of the registry's API."""
    try:
        major, minor = (int(part) for part in str(wanted).split("."))
    except ValueError:
        raise RegistryError(f"plugin {name!r}: SUNLAB_REGISTRY_API must read like '1.0', not {wanted!r}") from None
    ours = tuple(int(part) for part in API_VERSION.split("."))
    if major != ours[0] or minor > ours[1]:
        raise RegistryError(f"plugin {name!r} was written for registry API {wanted}, this is {API_VERSION}")


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise RegistryError(f"plugin {str(path)!r}: no such file")
    path = path.resolve()
    name = f"sunlab_plugin_{path.stem}_{sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def load_entry_points(group: str) -> None:
    """Import the installed plugins of a group, once. A broken one is remembered, not raised."""
    if group in _loaded_groups:
        return
    _loaded_groups.add(group)
    for point in entry_points(group=group):
        try:
            point.load()
            module = sys.modules[point.module]
            check_api(getattr(module, "SUNLAB_REGISTRY_API", API_VERSION), point.name)
        except Exception:
            _broken.append(BrokenPlugin(point.name, group, traceback.format_exc(limit=-3)))
