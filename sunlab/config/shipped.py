"""sunlab's own configurations, which a wheel holds too: their names, and a copy of them."""

from collections.abc import Mapping
from pathlib import Path
from shutil import copytree

from sunlab.errors import ConfigError
from sunlab.packaged import CONFIG, configs


def shipped() -> Mapping[str, str]:
    """`@NAME` of each -> its first comment, or nothing."""
    root = configs()
    return {
        CONFIG + file.relative_to(root).with_suffix("").as_posix(): _summary(file) for file in sorted(root.rglob("*.yaml"))
    }


def copy_shipped(folder: str | Path) -> list[Path]:
    """Copy all of them, with the files that they name, into `folder`. Returns the YAML files.

    Raises:
        ConfigError: one of the files is there already; nothing is written.
    """
    root, folder = configs(), Path(folder)
    there = [
        name for name in sorted(p.relative_to(root) for p in root.rglob("*") if p.is_file()) if (folder / name).exists()
    ]
    if there or (folder.exists() and not folder.is_dir()):
        raise ConfigError(f"--copy: {folder / there[0] if there else folder} is there already; choose another folder")
    copytree(root, folder, dirs_exist_ok=True)
    return sorted(folder.rglob("*.yaml"))


def _summary(file: Path) -> str:
    first = file.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""
