"""What is wrong, where, and what was meant; everything at once."""

import re
import subprocess
import sys

import pytest

from sunlab.config.load import load_config
from sunlab.errors import ConfigError


@pytest.fixture
def refused(tmp_path):
    def refused(text: str, *overrides: str) -> str:
        path = tmp_path / "wrong.yaml"
        path.write_text(text)
        with pytest.raises(ConfigError) as caught:
            load_config([path], overrides)
        assert caught.value.exit_code == 78
        return str(caught.value)

    return refused


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("losss: msc\n", "wrong.yaml: losss: no such key; did you mean 'loss'?"),
        ("data: {bach_size: 3}\n", "wrong.yaml: data.bach_size: no such key; did you mean 'batch_size'? data takes:"),
        (
            "loss: {name: msc, segmets: 3}\n",
            "wrong.yaml: loss.segmets: no such parameter of loss 'msc'; did you mean 'segments'?",
        ),
        ("loss: mcs\n", "wrong.yaml: loss.name: no loss 'mcs'; did you mean 'msc'?"),
        ("loss: null\n", "wrong.yaml: loss: expected a loss's name"),
        ("loss: {name: msc, segments: many}\n", "wrong.yaml: loss.segments: expected int | null, got 'many'"),
        ("task: adaptor\n", "wrong.yaml: task: no such value 'adaptor'; did you mean 'adapter'?"),
        ("model: {fresh: [unett]}\n", "wrong.yaml: model.fresh: expected list"),
        pytest.param(
            f"seed: {'9' * 5000}\n", "wrong.yaml: not a configuration: Exceeds the limit", id="a number of 5,000 digits"
        ),
        ("seed: one\n", "wrong.yaml: seed: expected int, got 'one'"),
        ("data: 3\n", "wrong.yaml: data: expected a section with source, batch_size"),
        ("callbacks: [emma]\n", "wrong.yaml: callbacks.0.name: no callback 'emma'; did you mean 'ema'?"),
        ("callbacks: ema\n", "wrong.yaml: callbacks: expected a list of callbacks"),
        (
            "trainer: {max_stepz: 3}\n",
            "wrong.yaml: trainer.max_stepz: lightning.Trainer takes no such argument; did you mean 'max_steps'?",
        ),
        ("trainer: {max_steps: many}\n", "wrong.yaml: trainer.max_steps: expected int, got 'many'"),
        ("trainer: {callbacks: [x]}\n", "wrong.yaml: trainer.callbacks: not taken here"),
        ("trainer: {logger: tensorboard}\n", "wrong.yaml: trainer.logger: expected bool | null, got 'tensorboard'"),
        ("trainer: {precision: bf17}\n", "wrong.yaml: trainer.precision: expected"),
        ("plugins: mine.py\n", "wrong.yaml: plugins: expected a list"),
        ("plugins: [none.py]\n", "wrong.yaml: plugins: plugin 'none.py': no such file"),
        ("seed: ???\n", "seed"),
        ("3: 4\n", "wrong.yaml: 3: a key must be text"),
        ("- 1\n", "a configuration is a mapping"),
        ("a: [\n", "wrong.yaml: not a configuration"),
        ("seed: 1\nseed: 2\n", "duplicate key"),
        ("data: {batch_size: 33}\n", "wrong.yaml: data.batch_size: 33 is no multiple of data.streams = 8"),
        ("data: {workers: 3}\n", "data.streams: 8 is no multiple of ranks x workers = 3"),
        ("data: {workers: 2}\ntrainer: {devices: 8}\n", "data.streams: 8 is no multiple of ranks x workers = 16"),
        ("data: {streams: 0}\n", "data.streams: must be at least 1"),
        ("teacher: {steps: 25}\n", "wrong.yaml: teacher.steps: 25 is no multiple of student.steps = 4"),
        ("teacher: {guidance: [5, 2]}\n", "teacher.guidance: expected [w], or [low, high]"),
        ("teacher: {guidance: []}\n", "teacher.guidance: expected [w], or [low, high]"),
        ("adapter: null\n", "wrong.yaml: adapter: task 'adapter' needs one"),
        ("optimizer: {schedule: cosine}\ntrainer: {max_steps: -1}\n", "cosine falls to zero at trainer.max_steps"),
        ("run: {name: ../x}\n", "run.name: is the name of one folder"),
        ("steps: 3\n", "wrong.yaml: steps: no such key; did you mean 'teacher.steps' or 'student.steps' or "),
        ("lr: 3\n", "wrong.yaml: lr: no such key; did you mean 'optimizer.lr'? a configuration takes: adapter,"),
        ("model: {lr: 3}\n", "wrong.yaml: model.lr: no such key; did you mean 'optimizer.lr'? model takes: backbone,"),
        ("seed: -3\n", "wrong.yaml: seed: must lie in 0 ..."),
        ("optimizer: {betas: [2, 3]}\n", "wrong.yaml: optimizer.betas: each must lie in [0, 1)"),
        ("optimizer: {lr: .nan}\n", "wrong.yaml: optimizer.lr: expected a finite number, got nan"),
        ("evaluate: {guidance: .inf}\n", "wrong.yaml: evaluate.guidance: expected a finite number, got inf"),
    ],
)
def test_a_wrong_file(refused, text, says):
    assert says in refused(text)


@pytest.mark.parametrize("text", ["a: !!python/object/apply:os.system ['x']\n", "a: !!python/name:os.system ''\n"])
def test_python_tags_are_refused(refused, text):
    assert "could not determine a constructor" in refused(text)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("loss.segmets=3", "override: loss.segmets: no such parameter of loss 'msc'; did you mean 'segments'?"),
        ("loss=mcs", "override: loss.name: no loss 'mcs'; did you mean 'msc'?"),
        ("seed", "expected key=value"),
        ("--seed=3", "expected key=value"),
        ("seed=[1", "override: seed: not a YAML value"),
        ("seed=!!python/name:os.system ''", "override: seed: not a YAML value"),
        ("callbacks.3.decay=1", "override: callbacks.3: no such item; callbacks is an empty list"),
        ("evaluate.variants.0.steps=1", "override: evaluate.variants.0: no such item; evaluate.variants is an empty list"),
        ("evaluate.variants={a: 1}", "override: evaluate.variants: expected a list of sections"),
    ],
)
def test_a_wrong_override(refused, override, says):
    assert says in refused("loss: msc\n", override)


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("seed: x\ndata: {bach_size: 3}\nteacher: {guidance: [.nan]}\n", ("seed", "data.bach_size", "teacher.guidance")),
        ("loss: mcs\nadapter: sunn\n", ("loss.name", "adapter.name")),
        ("callbacks: [emma]\nevaluate: {metrics: [kidd]}\n", ("callbacks.0.name", "evaluate.metrics.0.name")),
    ],
)
def test_everything_wrong_of_a_stage_is_told_at_once(refused, text, keys):
    assert all(key in refused(text) for key in keys)


def test_what_is_cheap_to_tell_does_not_wait_for_what_is_dear_to_import(tmp_path):
    program = tmp_path / "program.py"
    program.write_text("""
import sys
from sunlab.config.load import load_config
from sunlab.errors import ConfigError

for override, spared in (
    ("losss=msc", "torch"), ("teacher.steps=-1", "torch"), ("loss=mcs", "lightning"), ("loss=mcs", "torchmetrics")
):
    try:
        load_config([], [override, "callbacks=[ema]", "trainer.max_steps=3"])
    except ConfigError as error:
        assert spared not in sys.modules, f"{override} is told after {spared} is imported"
    else:
        raise AssertionError(f"{override} is taken")
""")
    done = subprocess.run([sys.executable, str(program)], text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_remedy_names_a_command(refused):
    assert re.search(r"`sunlab list losses msc`", refused("loss: {name: msc, segmets: 1}\n"))


def test_a_missing_file_names_its_neighbours(tmp_path):
    (tmp_path / "quickstart.yaml").touch()
    with pytest.raises(ConfigError, match=r"no such file; did you mean '.*quickstart.yaml'\?"):
        load_config([tmp_path / "quickstrat.yaml"])
    with pytest.raises(ConfigError, match="nor is there a folder"):
        load_config([tmp_path / "none" / "x.yaml"])
