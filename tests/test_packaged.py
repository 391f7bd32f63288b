"""Short names of packaged files."""

from pathlib import Path

import pytest

from sunlab import packaged
from sunlab.data.urls import expand
from sunlab.lab import ASSETS


def test_the_labs_files_are_found_by_name() -> None:
    assert packaged.asset("emoji-sd") == ASSETS / "emoji-sd"
    assert expand("emoji/noto/test-*.tar.gz") == sorted((ASSETS / "emoji" / "noto").glob("test-*.tar.gz"))


def test_a_plugin_adds_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packaged, "_added", [])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.tar").touch()
    assert packaged.asset("mine") == Path("mine")
    packaged.add(tmp_path)
    assert packaged.asset("mine") == tmp_path / "mine"
    assert expand("mine/*.tar") == [tmp_path / "mine" / "a.tar"]


def test_a_file_that_exists_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "emoji-sd").mkdir()
    monkeypatch.chdir(tmp_path)
    assert packaged.asset("emoji-sd") == Path("emoji-sd")


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotADirectoryError, match="nowhere"):
        packaged.add(tmp_path / "nowhere")


def test_an_installed_package_adds_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry point of the group, as an installed distribution has it."""
    (tmp_path / "stylish.py").write_text(f"ASSETS = {str(tmp_path / 'files')!r}\n")
    (tmp_path / "files" / "style").mkdir(parents=True)
    facts = tmp_path / "stylish-1.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: stylish\nVersion: 1\n")
    (facts / "entry_points.txt").write_text("[sunlab.assets]\nstylish = stylish:ASSETS\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    packaged._installed.cache_clear()
    try:
        assert packaged.asset("style") == tmp_path / "files" / "style"
    finally:
        packaged._installed.cache_clear()
