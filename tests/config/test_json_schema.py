"""The JSON Schema says of a file what `load_config` says of it, as far as one file alone can be judged."""

import json
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from sunlab.app.json_schema import json_schema
from sunlab.cli.main import main
from sunlab.config.load import load_config
from sunlab.errors import ConfigError
from sunlab.registries import KINDS, registry_of

CONFIGS = Path(__file__).parents[2] / "configs"
SHIPPED = sorted(CONFIGS.rglob("*.yaml"))


@pytest.fixture(scope="module")
def validators():
    schemas = {files: json.loads(json_schema(files)) for files in ("run", "sweep")}
    for schema in schemas.values():
        Draft202012Validator.check_schema(schema)
    return {files: Draft202012Validator(schema) for files, schema in schemas.items()}


def of(path: Path) -> str:
    return "sweep" if path.parent.name == "ablation" else "run"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.relative_to(CONFIGS).as_posix())
def test_every_shipped_file_is_valid_and_with_a_misspelt_key_is_not(path, validators):
    tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    validators[of(path)].validate(tree)
    for key in tree:
        wrong = {("" if k != key else "x") + k: v for k, v in tree.items()}
        (error,) = validators[of(path)].iter_errors(wrong)
        assert f"x{key}" in error.message


@pytest.mark.parametrize("path", [path for path in SHIPPED if of(path) == "run"], ids=lambda path: path.stem)
def test_a_resolved_configuration_is_valid_too(path, validators):
    validators["run"].validate(yaml.safe_load(load_config([path]).to_yaml()))


@pytest.mark.parametrize(
    "text",
    [
        "loss: msc",
        "loss: {name: msc, segments: 3}",
        "loss: {segments: 3}",
        "loss: {name: msc, segments: null}",
        "seed: ${data.workers}",
        "optimizer: {lr: 1e-4, betas: [0.9, 0.99]}",
        "callbacks: [throughput, {name: ema, decay: 0.5}]",
        "data: {source: {name: shards, urls: [a.tar], filters: [{name: aesthetic, min: 6}]}}",
        "trainer:",
        "trainer: {max_steps: 3, logger: false, precision: bf16-mixed}",
        "evaluate: {variants: [{name: a, steps: 2, solver: lcm}]}",
        "{task: student, adapter: null}",
    ],
)
def test_what_loads_is_valid(text, tmp_path, validators):
    (tmp_path / "good.yaml").write_text(text)
    load_config([tmp_path / "good.yaml"])
    validators["run"].validate(yaml.safe_load(text))


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("losss: msc", "$"),
        ("seed: one", "$.seed"),
        ("seed: true", "$.seed"),
        ("data: {bach_size: 3}", "$.data"),
        ("data: 3", "$.data"),
        ("loss: mcs", "$.loss"),
        ("loss: null", "$.loss"),
        ("loss: {name: msc, segmets: 3}", "$.loss"),
        ("loss: {name: msc, segments: many}", "$.loss"),
        ("loss: {name: cfg, segments: 3}", "$.loss"),
        ("task: adaptor", "$.task"),
        ("model: {fresh: [unett]}", "$.model.fresh"),
        ("callbacks: ema", "$.callbacks"),
        ("callbacks: [emma]", "$.callbacks[0]"),
        ("optimizer: {betas: [0.9]}", "$.optimizer.betas"),
        ("trainer: {max_stepz: 3}", "$.trainer"),
        ("trainer: {max_steps: many}", "$.trainer.max_steps"),
        ("trainer: {callbacks: [x]}", "$.trainer"),
        ("plugins: mine.py", "$.plugins"),
        ("evaluate: {variants: [{step: 3}]}", "$.evaluate.variants[0]"),
    ],
)
def test_what_is_refused_is_invalid_at_the_same_key(text, place, tmp_path, validators):
    (tmp_path / "wrong.yaml").write_text(text)
    with pytest.raises(ConfigError):
        load_config([tmp_path / "wrong.yaml"])
    assert [error.json_path for error in validators["run"].iter_errors(yaml.safe_load(text))] == [place]


def test_a_parameter_may_hold_components_of_another_kind(validators):
    def source(*filters):
        return {"data": {"source": {"name": "shards", "urls": ["a.tar"], "filters": list(filters)}}}

    assert validators["run"].is_valid(source({"name": "aesthetic", "min": 6}))
    assert not validators["run"].is_valid(source({"name": "aesthetik", "min": 6}))
    assert not validators["run"].is_valid(source({"name": "aesthetic", "mini": 6}))


def test_every_component_is_there_with_its_parameters(validators):
    definitions = validators["run"].schema["$defs"]
    for kind in KINDS:
        described = {o["properties"]["name"]["const"]: o for o in definitions[kind]["anyOf"] if "required" in o}
        assert sorted(described) == registry_of(kind).names()
        for name, schema in described.items():
            assert schema["properties"].keys() == {"name", *registry_of(kind).get(name).parameters}


def test_every_key_of_a_section_has_a_description(validators):
    def undescribed(schema: dict, path: str) -> list[str]:
        found = []
        for name, inner in schema["properties"].items():
            found += [] if "description" in inner or path == "" else [f"{path}.{name}"]
            found += undescribed(inner, f"{path}.{name}") if "properties" in inner and name != "trainer" else []
        return found

    assert undescribed(validators["run"].schema, "") == []


def test_the_command_prints_it_with_a_plugins_components(tmp_path, capsys):
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        "from sunlab.losses import LOSSES, Loss\n\n\n@LOSSES.register('in_the_schema')\nclass Mine(Loss):\n"
        '    """A loss of the test."""\n\n    def __init__(self, *, much: int = 2):\n        pass\n\n'
        "    def __call__(self, *_):\n        pass\n"
    )
    try:
        assert main(["config", "--json-schema", "--plugin", str(plugin)]) == 0
        validator = Draft202012Validator(json.loads(capsys.readouterr().out))
    finally:
        from sunlab.losses import LOSSES

        LOSSES._entries.pop("in_the_schema", None)
    assert validator.is_valid({"loss": {"name": "in_the_schema", "much": 3}})
    assert not validator.is_valid({"loss": {"name": "in_the_schema", "much": "x"}})
