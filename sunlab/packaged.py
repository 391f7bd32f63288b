"""Files inside installed packages, found by short names such as the name of a model.

A plug-in adds a folder of its own with `add`, or, once installed, with an entry point of the group `sunlab.assets` that
names a path: `mine = "my_package:ASSETS"`.
"""

from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from pkgutil import resolve_name

GROUP = "sunlab.assets"
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


def asset(path: str | Path) -> Path:
    """`path` if it exists, else the packaged file or folder of that name. Returns `path` itself if there is none."""
    given = Path(path)
    if given.exists() or given.is_absolute():
        return given
    return next((folder / given for folder in folders() if (folder / given).exists()), given)


@cache
def _installed() -> tuple[Path, ...]:
    named = [*_built_in, *(point.value for point in sorted(entry_points(group=GROUP)))]
    return tuple(Path(resolve_name(name)) for name in named)
