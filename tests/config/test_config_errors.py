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
    ("text", "key", "parts"),
    [
        ("losss: msc\n", "losss", ["'loss'"]),
        ("data: {bach_size: 3}\n", "data.bach_size", ["'batch_size'", "streams"]),
        ("loss: {name: msc, segmets: 3}\n", "loss.segmets", ["'msc'", "'segments'"]),
        ("loss: mcs\n", "loss.name", ["'mcs'", "'msc'", "sunlab list losses"]),
        ("loss: null\n", "loss", ["name", "None"]),
        ("loss: {name: msc, segments: many}\n", "loss.segments", ["int | null", "'many'"]),
        ("task: adaptor\n", "task.name", ["'adaptor'", "'adapter'", "student"]),
        ("model: {fresh: [unett]}\n", "model.fresh", ["list", "'unett'"]),
        ("seed: one\n", "seed", ["int", "'one'"]),
        ("data: 3\n", "data", ["section", "batch_size", "3"]),
        ("callbacks: [emma]\n", "callbacks.0.name", ["'emma'", "'ema'"]),
        ("callbacks: ema\n", "callbacks", ["list", "'ema'"]),
        ("trainer: {max_stepz: 3}\n", "trainer.max_stepz", ["lightning.Trainer", "'max_steps'"]),
        ("trainer: {max_steps: many}\n", "trainer.max_steps", ["int", "'many'"]),
        ("trainer: {callbacks: [x]}\n", "trainer.callbacks", ["`callbacks:`"]),
        ("trainer: {logger: tensorboard}\n", "trainer.logger", ["bool", "'tensorboard'"]),
        ("trainer: {precision: bf17}\n", "trainer.precision", ["'bf16-mixed'", "'bf17'"]),
        ("trainer: {precision: bf16-true}\n", "trainer.precision", ["bf16-mixed", "'bf16-true'", "model.dtype"]),
        ("plugins: mine.py\n", "plugins", ["list", "'mine.py'"]),
        ("plugins: [none.py]\n", "plugins", ["'none.py'", "no such file"]),
        ("data: {batch_size: 33}\n", "data.batch_size", ["33", "data.streams = 8"]),
        ("data: {workers: 3}\n", "data.streams", ["8", "= 3"]),
        ("data: {workers: 2}\ntrainer: {devices: 8}\n", "data.streams", ["8", "= 16"]),
        ("data: {streams: 0}\n", "data.streams", ["at least 1", "0"]),
        ("teacher: {steps: 25}\n", "teacher.steps", ["25", "student.steps = 4"]),
        ("teacher: {guidance: [5, 2]}\n", "teacher.guidance", ["[w]", "[low, high]", "[5.0, 2.0]"]),
        ("teacher: {guidance: []}\n", "teacher.guidance", ["[w]", "[low, high]", "[]"]),
        ("adapter: null\n", "adapter", ["'adapter'", "task: student"]),
        ("optimizer: {schedule: cosine}\ntrainer: {max_steps: -1}\n", "optimizer.schedule", ["cosine", "trainer.max_steps"]),
        ("run: {name: ../x}\n", "run.name", ["run.dir", "'../x'"]),
        ("steps: 3\n", "steps", ["'teacher.steps' or 'student.steps'"]),
        ("lr: 3\n", "lr", ["'optimizer.lr'", "adapter,"]),
        ("model: {lr: 3}\n", "model.lr", ["'optimizer.lr'", "backbone,"]),
        ("seed: -3\n", "seed", ["0 ...", "-3"]),
        ("optimizer: {betas: [2, 3]}\n", "optimizer.betas", ["[0, 1)", "[2.0, 3.0]"]),
        ("optimizer: {lr: .nan}\n", "optimizer.lr", ["finite", "nan"]),
        ("evaluate: {guidance: .inf}\n", "evaluate.guidance", ["finite", "inf"]),
    ],
)
def test_a_wrong_value_names_file_key_value_and_remedy(refused, text, key, parts):
    message = refused(text)
    assert re.search(rf"^(\S*wrong\.yaml|default): {re.escape(key)}: ", message), message  # default: of the two, not given
    assert all(part in message for part in parts), message


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        pytest.param(f"seed: {'9' * 5000}\n", ["limit"], id="a number of 5,000 digits"),
        ("seed: ???\n", ["seed"]),
        ("3: 4\n", ["wrong.yaml", "3", "text"]),
        ("- 1\n", ["wrong.yaml", "mapping", "list"]),
        ("a: [\n", ["a configuration"]),
        ("seed: 1\nseed: 2\n", ["duplicate key"]),
    ],
)
def test_a_file_that_is_no_configuration(refused, text, parts):
    message = refused(text)
    assert all(part in message for part in parts), message


@pytest.mark.parametrize("text", ["a: !!python/object/apply:os.system ['x']\n", "a: !!python/name:os.system ''\n"])
def test_python_tags_are_refused(refused, text):
    assert "could not determine a constructor" in refused(text)


@pytest.mark.parametrize(
    ("override", "key", "parts"),
    [
        ("loss.segmets=3", "loss.segmets", ["'msc'", "'segments'"]),
        ("loss=mcs", "loss.name", ["'mcs'", "'msc'"]),
        ("seed", "expected key=value", ["'seed'"]),
        ("--seed=3", "expected key=value", ["'--seed=3'"]),
        ("seed=[1", "seed", ["YAML", "'[1'"]),
        ("seed=!!python/name:os.system ''", "seed", ["YAML"]),
        ("callbacks.3.decay=1", "callbacks.3", ["empty list"]),
        ("evaluate.variants.0.steps=1", "evaluate.variants.0", ["empty list"]),
        ("evaluate.variants={a: 1}", "evaluate.variants", ["list of sections", "{'a': 1}"]),
    ],
)
def test_a_wrong_override_names_key_and_remedy(refused, override, key, parts):
    message = refused("loss: msc\n", override)
    assert f"override: {key}" in message and all(part in message for part in parts), message


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


def test_cheap_checks_come_before_heavy_imports(tmp_path):
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
