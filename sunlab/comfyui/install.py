"""Write the node package into a folder of ComfyUI's custom nodes."""

from importlib.resources import files
from pathlib import Path

import sunlab
from sunlab.errors import ConfigError
from sunlab.files import write_text

NAME = "comfyui_sunlab"
MARK = "# Written by `sunlab comfyui install`"
COPIED = {"seal.py": ("export", "seal.py")}
"""File of the package -> the file of sunlab that it is a copy of."""
IMPORT = "from sunlab.errors import", "from .errors import"


def install(custom_nodes: str | Path) -> list[Path]:
    """Write `comfyui_sunlab` into `custom_nodes`, in place of an older one.

    Returns:
        The files.

    Raises:
        ConfigError: no such folder, ComfyUI's own folder instead of `custom_nodes`, or a package of that name of another
            origin in it.
        StorageError: a file cannot be written.
    """
    place = Path(custom_nodes)
    if (place / "custom_nodes").is_dir():
        raise ConfigError(f"{place} is ComfyUI's own folder; give {place / 'custom_nodes'}")
    if not place.is_dir():
        raise ConfigError(f"{place}: no such folder; give the folder custom_nodes of a ComfyUI")
    target = place / NAME
    if target.exists() and not _ours(target):
        raise ConfigError(f"{target} exists and was not written by sunlab; move it away first")
    package = sources()
    written = [target / name for name in package]
    for path, text in zip(written, package.values(), strict=True):
        write_text(path, text)
    for old in {*target.glob("*.py")} - {*written}:
        old.unlink()
    return written


def sources() -> dict[str, str]:
    """The package: path in it -> text. `__init__.py` comes last, so that half a package cannot be imported."""
    root = files("sunlab")
    nodes = root / "comfyui" / "nodes"
    names = [item.name for item in nodes.iterdir() if item.name.endswith(".py")]
    texts = {name: (nodes / name).read_text("utf-8") for name in sorted(names, reverse=True)}
    for name, parts in COPIED.items():
        texts[name] = root.joinpath(*parts).read_text("utf-8").replace(*IMPORT)
    marked = {name: f"{MARK} of sunlab {sunlab.__version__}; do not edit.\n{text}" for name, text in texts.items()}
    workflows = nodes / "example_workflows"
    examples = {f"{workflows.name}/{item.name}": item.read_text("utf-8") for item in workflows.iterdir()}
    return {**examples, **marked}


def _ours(folder: Path) -> bool:
    first = folder / "__init__.py"
    return first.is_file() and first.read_text(encoding="utf-8", errors="replace").startswith(MARK)
