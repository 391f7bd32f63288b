"""Files and overrides laid over each other, and where each value came from."""

import pytest

from sunlab.config.load import load_config
from sunlab.config.schema import Config
from sunlab.errors import ConfigError


@pytest.fixture
def write(tmp_path):
    def write(text: str, name: str = "tiny.yaml") -> str:
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return write


def test_defaults_alone_are_a_configuration():
    loaded = load_config([])
    assert isinstance(loaded.config, Config)
    assert loaded.config.loss["name"] == "msc" and "segments" in loaded.config.loss
    assert loaded.origins["loss.name"] == "default"
    assert loaded.origins["loss.segments"] == "component default"
    assert loaded.config.run.name == "run"


def test_later_files_win_and_overrides_win_over_files(write):
    first = write("seed: 1\ndata: {batch_size: 16, workers: 2}\noptimizer:\n  lr: 1e-4\n", "first.yaml")
    second = write("data: {batch_size: 64}\n", "second.yaml")
    loaded = load_config([first, second], ["seed=3", "trainer.max_steps=7"])
    config = loaded.config
    assert (config.data.batch_size, config.data.workers, config.seed, config.optimizer.lr) == (64, 2, 3, 1e-4)
    assert config.trainer == {"max_steps": 7}
    assert config.run.name == "first"
    origins = loaded.origins
    assert (origins["data.batch_size"], origins["data.workers"]) == (second, first)
    assert (origins["seed"], origins["trainer.max_steps"], origins["data.streams"]) == (
        "override",
        "override",
        "default",
    )


def test_the_runs_name_may_be_given(write):
    assert load_config([write("run: {name: mine}\n")]).config.run.name == "mine"
    assert load_config([write("seed: 1\n")], ["run.name=other"]).config.run.name == "other"


@pytest.mark.parametrize("text", ["loss: msc\n", "loss: {name: msc}\n", "loss:\n  substeps: 6\n"])
def test_a_plug_given_as_text_takes_parameters_from_overrides(write, text):
    loss = load_config([write(text)], ["loss.segments=3"]).config.loss
    assert (loss["name"], loss["segments"]) == ("msc", 3)


@pytest.mark.parametrize("override", ["loss=cfg", "loss.name=cfg", "loss={name: cfg}"])
def test_another_name_drops_the_former_parameters_in_overrides(write, override):
    loss = load_config([write("loss: {name: msc, segments: 3}\n")], [override]).config.loss
    assert loss["name"] == "cfg" and "segments" not in loss


@pytest.mark.parametrize("text", ["loss: cfg\n", "loss: {name: cfg}\n"])
def test_another_name_drops_the_former_parameters_in_files(write, text):
    files = [write("loss: {name: msc, segments: 3}\n"), write(text, "second.yaml")]
    assert "segments" not in load_config(files).config.loss


def test_the_same_name_keeps_them(write):
    files = [write("loss: {name: msc, segments: 3}\n"), write("loss: {name: msc, substeps: 2}\n", "second.yaml")]
    loaded = load_config(files, ["loss=msc"])
    assert (loaded.config.loss["segments"], loaded.config.loss["substeps"]) == (3, 2)
    assert loaded.origins["loss.segments"] == files[0]


def test_the_order_of_overrides_loses_nothing_silently(write):
    with pytest.raises(ConfigError, match=r"loss\.segments: no such parameter of loss 'cfg'"):
        load_config([write("loss: msc\n")], ["loss.segments=3", "loss=cfg"])


def test_callbacks_are_a_list_of_plugs_and_can_be_reached_by_index(write):
    files = [write("callbacks:\n  - {name: ema, decay: 0.9}\n  - throughput\n")]
    loaded = load_config(files, ["callbacks.0.decay=0.5", "callbacks.1.every=2"])
    assert [c["name"] for c in loaded.config.callbacks] == ["ema", "throughput"]
    assert (loaded.config.callbacks[0]["decay"], loaded.config.callbacks[1]["every"]) == (0.5, 2)
    assert loaded.origins["callbacks.0.decay"] == "override" and loaded.origins["callbacks.1.name"] == files[0]
    assert load_config(files, ["callbacks=[]"]).config.callbacks == []


def test_sections_in_a_list_can_be_reached_by_index(write):
    files = [write("evaluate:\n  variants:\n    - {name: a, steps: 2}\n    - {name: b, solver: {name: lcm, eta: 0.5}}\n")]
    loaded = load_config(files, ["evaluate.variants.0.steps=1", "evaluate.variants.1.solver.seed=3"])
    first, second = loaded.config.evaluate.variants
    assert (first.name, first.steps, second.name, second.solver["name"]) == ("a", 1, "b", "lcm")
    assert (second.solver["eta"], second.solver["seed"]) == (0.5, 3)
    assert loaded.origins["evaluate.variants.0.steps"] == "override"
    assert loaded.origins["evaluate.variants.0.name"] == files[0]
    with pytest.raises(ConfigError, match=r"override: evaluate.variants.2: no such item; .* has 2, counted from 0"):
        load_config(files, ["evaluate.variants.2.steps=1"])
    with pytest.raises(ConfigError, match=r"override: evaluate.variants.0.step: no such key"):
        load_config(files, ["evaluate.variants.0.step=1"])
    new = load_config(files, ["evaluate.variants.0.steps=1", "evaluate.variants=[{name: c}]"]).config.evaluate.variants
    assert [(v.name, v.steps) for v in new] == [("c", 1)]


def test_null_takes_an_optional_plug_away(write):
    assert load_config([write("task: student\n")], ["adapter=null"]).config.adapter is None


def test_an_empty_section_changes_nothing(write):
    assert load_config([write("trainer:\ndata:\n")]).config.data == load_config([]).config.data


def test_plugins_are_loaded_before_the_check_and_kept_for_the_rerun(write):
    plugin = write(
        "from sunlab.losses import LOSSES, Loss\n\n\n@LOSSES.register('of_the_test')\nclass Mine(Loss):\n"
        "    def __init__(self, *, much: int = 2):\n        pass\n\n    def __call__(self, *_):\n        pass\n",
        "mine.py",
    )
    loaded = load_config([write("loss: of_the_test\n")], plugins=[plugin])
    assert loaded.config.loss == {"name": "of_the_test", "much": 2}
    assert loaded.config.plugins == [plugin] and loaded.origins["plugins"] == "override"
    named = load_config([write(f"plugins: ['{plugin}']\nloss: of_the_test\n")], plugins=[plugin])
    assert named.config.plugins == [plugin]


def test_every_leaf_has_an_origin(write):
    loaded = load_config([write("loss: cfg\ncallbacks: [throughput]\n")], ["teacher.guidance=[2, 5]"])
    for line in loaded.to_yaml(origins=True).splitlines():
        assert line.endswith(":") or "  # " in line


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["loss=cfg", "teacher.guidance=[2, 5]", "optimizer.lr=1e-7", "data.cache='1e-3'"],
        [
            "adapter=lora",
            "callbacks=[throughput, {name: ema, decay: 0.5}]",
            "data.source={name: shards, urls: ['a b', 'c:d', 'yes']}",
        ],
        [
            "run.dir=${model.base}",
            "model.base='ä \"quoted\" # name'",
            "trainer={max_time: '00:00:10:00', logger: false}",
        ],
    ],
)
def test_the_resolved_yaml_loads_as_the_same_configuration(write, overrides):
    first = load_config([write("student: {steps: 2}\n")], overrides)
    again = load_config([write(first.to_yaml(), "again.yaml")])
    assert again.config == first.config
    assert again.to_yaml() == first.to_yaml()
