"""`${a.b}` is resolved; the environment only where the configuration opts in, and its values stay unseen."""

import traceback

import pytest
from omegaconf import OmegaConf

from sunlab.config.load import load_config
from sunlab.errors import ConfigError

SECRET = "hunter2-of-the-test"


@pytest.fixture
def load(tmp_path, monkeypatch):
    monkeypatch.setenv("SUNLAB_TEST_SECRET", SECRET)

    def load(text: str, *overrides: str):
        path = tmp_path / "tiny.yaml"
        path.write_text(text)
        return load_config([path], overrides)

    return load


def test_other_keys_are_resolved(load):
    loaded = load("seed: 3\ndata: {workers: '${seed}', streams: 3, batch_size: 3}\nrun: {name: 'run-${seed}'}\n")
    assert (loaded.config.data.workers, loaded.config.run.name) == (3, "run-3")
    assert "${" not in loaded.to_yaml()


def test_a_whole_plug_may_be_another(load):
    loaded = load("teacher: {solver: {name: ddim}}\nstudent: {solver: '${teacher.solver}'}\n")
    assert loaded.config.student.solver == loaded.config.teacher.solver
    assert loaded.origins["student.solver.name"].endswith("tiny.yaml")


@pytest.mark.parametrize(
    "text",
    [
        "${oc.env:SUNLAB_TEST_SECRET}",
        "a-${oc.env:SUNLAB_TEST_SECRET,x}",
        "${oc.select:seed}",
        "${oc.decode:'1'}",
        "${${task}:x}",
    ],
)
def test_resolvers_are_refused(load, text):
    with pytest.raises(ConfigError, match=r"tiny.yaml: run.dir: the resolver .* is refused"):
        load(f'run: {{dir: "{text}"}}\n')


def test_a_custom_resolver_is_refused_even_with_the_opt_in(load):
    OmegaConf.register_resolver("sunlab_test", lambda: 3)
    try:
        with pytest.raises(ConfigError, match="the resolver 'sunlab_test' is refused"):
            load("allow_env: true\nseed: ${sunlab_test:}\n")
    finally:
        OmegaConf.clear_resolver("sunlab_test")


def test_the_opt_in_cannot_be_an_interpolation(load):
    with pytest.raises(ConfigError, match="refused"):
        load("allow_env: ${oc.env:SUNLAB_TEST_SECRET}\n")


ENV = "allow_env: true\nrun: {dir: '/x/${oc.env:SUNLAB_TEST_SECRET}'}\n"


def test_an_environment_value_is_used_but_never_written(load, tmp_path):
    loaded = load(
        ENV + "data: {cache: '${run.dir}', source: {name: shards, urls: ['${oc.env:SUNLAB_TEST_SECRET}/a.tar']}}\n"
    )
    assert loaded.config.run.dir == loaded.config.data.cache == f"/x/{SECRET}"
    assert loaded.config.data.source["urls"] == [f"{SECRET}/a.tar"]
    for shown in (loaded.to_yaml(), loaded.to_yaml(origins=True), repr(loaded), str(loaded.saved)):
        assert SECRET not in shown
    again = load(loaded.to_yaml())
    assert again.config == loaded.config and again.to_yaml() == loaded.to_yaml()


@pytest.mark.parametrize(
    "wrong",
    [
        "seed: ${oc.env:SUNLAB_TEST_SECRET}",
        "loss: {name: '${oc.env:SUNLAB_TEST_SECRET}'}",
        "plugins: ['${run.dir}']",
        "loss: {name: msc, states: '${oc.env:SUNLAB_TEST_SECRET}'}",
        "model: {dtype: '${run.dir}'}",
    ],
)
def test_messages_do_not_show_it(load, wrong):
    with pytest.raises(ConfigError) as caught:
        load(f"{ENV}{wrong}\n")
    assert SECRET not in str(caught.value) and "<environment>" in str(caught.value)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "text", ["seed: ${no.such}", "allow_env: true\nseed: ${oc.env:SUNLAB_TEST_NOT_SET}", "seed: ${seed}"]
)
def test_what_cannot_be_resolved_is_a_configuration_error(load, text):
    with pytest.raises(ConfigError):
        load(text + "\n")


def test_escaped_text_stays_text(load):
    loaded = load("run: {dir: '\\${x}'}\n")
    assert loaded.config.run.dir == "${x}"
    assert load(loaded.to_yaml()).config.run.dir == "${x}"
