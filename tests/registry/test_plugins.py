"""Plugins by file, by module and by entry point; broken ones."""

import subprocess
import sys
from uuid import uuid4

import pytest

from registry import API_VERSION, Registry, RegistryError, broken_plugins, load_plugin, load_plugins


def test_by_file_once(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("VALUE = object()\n")
    assert load_plugin(str(path)) is load_plugins([str(path)])[0]


def test_by_module(tmp_path, monkeypatch):
    name = f"plug_{uuid4().hex}"
    (tmp_path / f"{name}.py").write_text("VALUE = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert load_plugin(name).VALUE == 3


def test_missing(tmp_path):
    with pytest.raises(RegistryError, match="no such file"):
        load_plugin(str(tmp_path / "none.py"))
    with pytest.raises(RegistryError, match="there is no module 'no_such_module_at_all'"):
        load_plugin("no_such_module_at_all")
    needy = tmp_path / "needy.py"
    needy.write_text("import no_such_module_at_all\n")
    with pytest.raises(RegistryError, match=r"(?s)cannot be imported.*needy\.py.*No module named"):
        load_plugin(str(needy))


def test_broken_shows_its_own_traceback_and_may_be_mended(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text("def f():\n    return 1 / 0\n\nf()\n")
    with pytest.raises(RegistryError, match=r"(?s)cannot be imported.*broken\.py.*line 2.*ZeroDivisionError"):
        load_plugin(str(path))
    path.write_text("VALUE = 1\n")
    assert load_plugin(str(path)).VALUE == 1


MAJOR, MINOR = (int(part) for part in API_VERSION.split("."))


@pytest.mark.parametrize(
    ("wanted", "fits"),
    [
        (API_VERSION, True),
        (f"{MAJOR + 1}.0", False),
        (f"{MAJOR}.{MINOR + 1}", False),
        ("new", False),
    ],
)
def test_states_the_version_of_the_api(tmp_path, wanted, fits):
    path = tmp_path / "versioned.py"
    path.write_text(f"SUNLAB_REGISTRY_API = {wanted!r}\n")
    if fits:
        load_plugin(str(path))
    else:
        with pytest.raises(RegistryError, match=r"registry API|must read like"):
            load_plugin(str(path))


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Pretends that a package with an entry point is installed; returns the registry that it registers in."""

    def install(source: str) -> Registry:
        package, group = f"dist_{uuid4().hex}", f"sunlab.test.{uuid4().hex}"
        (tmp_path / f"{package}.py").write_text(source)
        info = tmp_path / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{group}]\nfar = {package}\n")
        monkeypatch.syspath_prepend(tmp_path)
        registry: Registry = Registry("thing", base=object, entry_points=group)
        monkeypatch.setattr(sys.modules[__name__], "THINGS", registry, raising=False)
        monkeypatch.setitem(sys.modules, "things_of_the_test", sys.modules[__name__])
        return registry

    return install


def test_entry_point(installed):
    things = installed(
        "from things_of_the_test import THINGS\n\n@THINGS.register('far')\nclass Far:\n    '''From afar.'''\n"
    )
    assert things.names() == ["far"]
    assert things.get("far").summary == "From afar."


def test_a_broken_entry_point_is_remembered_not_raised(installed):
    things = installed("raise RuntimeError('what a pity')\n")
    assert things.names() == []
    broken = [plugin for plugin in broken_plugins() if plugin.group == things.entry_points]
    assert [plugin.name for plugin in broken] == ["far"]
    assert "what a pity" in broken[0].traceback


def test_an_entry_point_for_another_api_is_broken(installed):
    things = installed("SUNLAB_REGISTRY_API = '99.0'\n")
    things.names()
    assert any(p.group == things.entry_points and "registry API 99.0" in p.traceback for p in broken_plugins())


def test_the_registry_imports_neither_torch_nor_sunlab():
    code = "import sys, registry; print(sorted(m for m in ('torch', 'sunlab', 'lightning') if m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
