"""Files inside installed packages, found by short names such as the name of a model.

A plug-in adds a folder of its own with `add`, or, once installed, with an entry point of the group `sunlab.assets` that
names a path: `mine = "my_package:ASSETS"`. `@NAME` is a configuration of sunlab's own, or a folder of them.
"""

from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from pkgutil import resolve_name

GROUP = "sunlab.assets"
CONFIG = "@"  # begins the name of a packaged configuration
_built_in = ["sunlab.lab:ASSETS"]  # as entry points name them
_added: list[Path] = []


def add(folder: str | Path) -> None:
    """Make what is in `folder` available by its name. Folders that were added earlier take precedence.

    Raises:
        NotADirectoryError: `folder` is not a directory.
    """
    path = Path(folder).resolve()
    if not path.is_dir():
        raise NotADirectoryError(f"{folder}: packaged assets need a directory")
    if path not in _added:
        _added.append(path)


def folders() -> list[Path]:
    """The folders in which short names are looked up, in order of precedence."""
    return [*_installed(), *_added]


def configs() -> Path:
    """The folder of sunlab's own configurations: inside an installed package, at the top of a checkout."""
    package = Path(__file__).parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def asset(path: str | Path) -> Path:
    """`path` if it exists, else the packaged file or folder of that name. Returns `path` itself if there is none."""
    given = Path(path)
    if str(given).startswith(CONFIG):
        inside = configs() / str(given).removeprefix(CONFIG)
        return next((place for place in (inside, inside.with_name(f"{inside.name}.yaml")) if place.exists()), given)
    if given.exists() or given.is_absolute():
        return given
    return next((folder / given for folder in folders() if (folder / given).exists()), given)


@cache
def _installed() -> tuple[Path, ...]:
    named = [*_built_in, *(point.value for point in sorted(entry_points(group=GROUP)))]
    return tuple(Path(resolve_name(name)) for name in named)
