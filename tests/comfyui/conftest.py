"""The node package as `sunlab comfyui install` writes it, imported beside a fake of ComfyUI."""

import importlib.util
import sys

import pytest
from fake_comfyui import modules

from sunlab.comfyui.install import NAME, install


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory):
    (folder := tmp_path_factory.mktemp("models") / "sun").mkdir()
    return folder.parent


@pytest.fixture(scope="session")
def nodes(models_dir, tmp_path_factory):
    """The installed package."""
    folder = tmp_path_factory.mktemp("custom_nodes")
    install(folder)
    with pytest.MonkeyPatch.context() as patch:
        for name, module in modules(models_dir).items():
            patch.setitem(sys.modules, name, module)
        spec = importlib.util.spec_from_file_location(NAME, folder / NAME / "__init__.py")
        package = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, NAME, package)
        spec.loader.exec_module(package)
        yield package
        for name in [name for name in sys.modules if name.startswith(f"{NAME}.")]:
            del sys.modules[name]
