"""`sunlab comfyui install`: a package that needs no sunlab, and the files that its nodes refuse."""

import ast
import sys

import pytest
import torch
from adapter_files import write
from fake_comfyui import NAME_OF_LAYERS
from safetensors.torch import save_file

from sunlab.adapters import sun, sun_w
from sunlab.adapters.base import ADAPTERS
from sunlab.cli.main import main
from sunlab.comfyui.install import NAME, install
from sunlab.errors import ConfigError
from sunlab.export import header
from sunlab.solvers.base import SOLVERS

LAYERS = dict.fromkeys(NAME_OF_LAYERS.values(), (8, 6, 2))
ALLOWED = {"comfy", "folder_paths", "torch", "safetensors", *sys.stdlib_module_names}


def imports(source):
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module


def test_the_package_imports_torch_safetensors_and_comfyui_alone(tmp_path):
    files = install(tmp_path)
    assert {path.name for path in files} >= {"__init__.py", "seal.py", "sun_four_steps.json"}
    found = {name.partition(".")[0] for path in files if path.suffix == ".py" for name in imports(path.read_text("utf-8"))}
    assert found <= ALLOWED and "sunlab" not in found


def test_the_command_and_a_second_install(tmp_path, capsys):
    assert main(["comfyui", "install", str(tmp_path)]) == 0
    assert str(tmp_path / NAME) in capsys.readouterr().out
    old, own = tmp_path / NAME / "former.py", tmp_path / NAME / "notes.txt"
    old.write_text("raise AssertionError")
    own.write_text("mine")
    files = install(tmp_path)
    assert not old.exists() and own.read_text() == "mine" and all(path.is_file() for path in files)


def test_places_that_are_refused(tmp_path, capsys):
    with pytest.raises(ConfigError, match="no such folder"):
        install(tmp_path / "absent")
    (tmp_path / "ComfyUI" / "custom_nodes").mkdir(parents=True)
    with pytest.raises(ConfigError, match="custom_nodes"):
        install(tmp_path / "ComfyUI")
    foreign = tmp_path / NAME
    foreign.mkdir()
    (foreign / "__init__.py").write_text("NODE_CLASS_MAPPINGS = {}")
    with pytest.raises(ConfigError, match="not written by sunlab"):
        install(tmp_path)
    assert main(["comfyui", "install", str(tmp_path / "absent")]) == 78
    assert "custom_nodes" in capsys.readouterr().err


def test_the_package_states_what_sunlab_does(nodes):
    """Its tables cannot be imported from sunlab: the format, the tensors of SUN's adapters, their kinds, the solvers."""
    reader, loader = (sys.modules[f"{nodes.__name__}.{name}"] for name in ("adapter", "loader"))
    assert reader.FORMAT == header.FORMAT
    named = {f"{branch}.{part}": name.removesuffix(".weight") for name, (branch, part) in reader.PARTS.items()}
    ours = {place.removesuffix(".weight"): name.removesuffix(".weight") for place, name in sun.NAMES.items()}
    assert named == {**ours, "steering.curve": sun_w.NAME}
    assert {*reader.KINDS, *reader.REMEDIES} <= {*ADAPTERS.names()}
    assert {*loader.SAMPLERS} <= {*SOLVERS.names()}


@pytest.fixture
def load(nodes, models_dir):
    def read(name):
        return nodes.NODE_CLASS_MAPPINGS["SunlabLoadAdapter"]().load(name)

    return read


@pytest.fixture
def error(nodes):
    return sys.modules[f"{nodes.__name__}.errors"].DataError


def test_damage_is_found(load, error, models_dir):
    path = models_dir / "sun" / "damaged.safetensors"
    write(path, LAYERS)
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    for position in (start - 3000, start + 5, len(data) - 1):  # the table and header, the tensors
        changed = bytearray(data)
        changed[position] ^= 1
        path.write_bytes(changed)
        with pytest.raises(error, match=r"damaged\.safetensors"):
            load(path.name)
    path.write_bytes(data)
    assert load(path.name)[1] == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "lora"}, r"--layout kohya.*LoraLoaderModelOnly"),
        ({"kind": "sun_lora"}, r"sunlab\.plug"),
        ({"kind": "nag"}, r"sun and sun_w.*sunlab\.plug"),
        ({"format": 3}, "format 3"),
        ({"guidance": [1.0]}, "guidance"),
        ({"steps": 0}, "steps"),
        ({"base": {"family": "sd1"}}, "base"),
        ({"spec": {"scale": False}}, "tensors that its header states"),
        ({"without": ["_alpha"]}, "tensors that its header states"),
    ],
)
def test_files_that_are_refused(load, error, models_dir, changes, message):
    write(models_dir / "sun" / "refused.safetensors", LAYERS, **changes)
    with pytest.raises(error, match=message):
        load("refused.safetensors")


def test_files_of_other_programs_are_refused(load, error, models_dir):
    path = models_dir / "sun" / "other.safetensors"
    save_file({"1.to_k_neg.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(error, match="--layout sunlab"):
        load(path.name)
    torch.save({}, path)
    with pytest.raises(error, match="pickle"):
        load(path.name)
    with pytest.raises(error, match="no such file"):
        load("absent.safetensors")


def test_values_that_are_not_finite_are_refused(load, error, models_dir):
    path = models_dir / "sun" / "infinite.safetensors"
    write(path, LAYERS, seed=0, dtype=torch.float16)
    from sunlab.export.seal import pack, unpack

    tensors, header = unpack(path.read_bytes(), "")
    name = next(iter(tensors))
    tensors[name] = torch.full_like(tensors[name], torch.inf)
    path.write_bytes(pack(tensors, header))
    with pytest.raises(error, match=name):
        load(path.name)
