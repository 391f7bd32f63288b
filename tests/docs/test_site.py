"""The docs site: every page is in the navigation, README's links resolve, and the reference holds every public name."""

import re
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest
import yaml

import registry
import sunlab
import sunlab.testing
from sunlab.registries import KINDS, registry_of

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def pages(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    return [page for entry in nav for page in pages(list(entry.values()) if isinstance(entry, dict) else entry)]


def test_every_page_is_in_the_navigation():
    listed = pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert sorted(listed) == sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))


def test_the_readmes_links_are_there():
    links = re.findall(r"\]\(([^)#]+)", (ROOT / "README.md").read_text())
    missing = [link for link in links if not link.startswith("http") and not (ROOT / link).exists()]
    assert links and missing == []


def test_the_readme_is_short():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 100  # one screen and a half, rendered


@pytest.mark.slow
def test_the_site_builds_strictly_and_holds_every_public_name(tmp_path):
    pytest.importorskip("mkdocstrings", reason="pip install 'sunlab[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    names = inventory(tmp_path / "objects.inv")
    assert sorted(public() - names) == []
    shown = (tmp_path / "reference" / "components" / "index.html").read_text()
    entries = [registry_of(kind).get(name) for kind in KINDS for name in registry_of(kind).names()]
    shipped = [entry for entry in entries if entry.factory.__module__.startswith("sunlab.")]
    names = {entry.name for entry in shipped if not entry.factory.__module__.startswith("sunlab.testing")}
    assert names and [name for name in names if f"<code>{name}</code>" not in shown] == []


def inventory(file: Path) -> set[str]:
    """The names that the built reference documents, from Sphinx's inventory format."""
    packed = file.read_bytes().split(b"\n", 4)[4]
    return {line.split(" ", 1)[0] for line in zlib.decompress(packed).decode().splitlines()}


def public() -> set[str]:
    """By the module that defines them: what sunlab, its contracts, the registry's package and the registries export."""
    exported = [getattr(package, name) for package in (sunlab, sunlab.testing, registry) for name in package.__all__]
    components = [registry_of(kind).get(name).factory for kind in KINDS for name in registry_of(kind).names()]
    defined = [value for value in (*exported, *components) if hasattr(value, "__qualname__")]
    own = [value for value in defined if value.__module__.split(".")[0] in ("sunlab", "registry")]
    registries = {f"{module}.{name}" for module, name in KINDS.values()}
    return {f"{value.__module__}.{value.__qualname__}" for value in own} | registries
