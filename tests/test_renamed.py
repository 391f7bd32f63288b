"""Former names are errors that say the new name; the new names exist."""

import importlib
import re

import pytest

import sunlab
from sunlab.config.load import load_config
from sunlab.config.shape import ROOT
from sunlab.errors import ConfigError
from sunlab.registries import registry_of
from sunlab.renamed import COMPONENTS, KEYS, MODULES, NAMES
from sunlab.sweep.spec import load_sweep


@pytest.mark.parametrize("former", MODULES)
def test_a_moved_module_says_where_it_is(former):
    with pytest.raises(ModuleNotFoundError, match=rf"{re.escape(former)} was moved: use {re.escape(MODULES[former])}"):
        importlib.import_module(former)


@pytest.mark.parametrize("former", NAMES)
def test_a_renamed_class_says_its_new_name(former):
    module, _, name = former.rpartition(".")
    with pytest.raises(ImportError, match=re.escape(NAMES[former])):
        getattr(importlib.import_module(module), name)


@pytest.mark.parametrize("told", [*MODULES.values(), *NAMES.values()])
def test_the_new_name_exists(told):
    for name in re.findall(r"sunlab(?:\.\w+)+", told):
        module, _, attribute = name.rpartition(".")
        try:
            importlib.import_module(name)
        except ModuleNotFoundError:
            assert hasattr(importlib.import_module(module), attribute), name


def test_an_unknown_name_is_no_renamed_one():
    with pytest.raises(AttributeError):
        _ = sunlab.nothing
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'sunlab\.nothing'"):
        importlib.import_module("sunlab.nothing")
    assert not hasattr(importlib.import_module("sunlab.losses"), "nothing")


@pytest.mark.parametrize("former", KEYS)
def test_a_former_key_says_its_new_name(former):
    with pytest.raises(ConfigError, match=re.escape(f"override: {former}: is now {KEYS[former]}")):
        load_config([], [f"{former}=3"])
    shape = ROOT
    for part in former.split("."):
        shape = shape and shape.child(part)
    assert shape is None, "the key is in use"


def test_a_sweep_file_too(tmp_path):
    (tmp_path / "sweep.yaml").write_text("config: [x.yaml]\nbudget: {passes: 3}\n")
    with pytest.raises(ConfigError, match=r"sweep\.yaml: budget\.passes: is now budget\.nfe"):
        load_sweep([tmp_path / "sweep.yaml"])


@pytest.mark.parametrize(("kind", "former"), COMPONENTS)
def test_a_former_component_says_its_new_name(kind, former):
    assert former not in registry_of(kind) and COMPONENTS[kind, former].split()[0] in registry_of(kind)
    key = {"backbones": "model.backbone", "sources": "data.source", "losses": "loss"}[kind]
    with pytest.raises(ConfigError, match=re.escape(f"{key}.name: {former!r} is now {COMPONENTS[kind, former]}")):
        load_config([], [f"{key}={former}"])
