"""Interrupted runs: killed, or stopped by the clock, and resumed to the same weights as an unbroken one."""

import csv
import signal
from pathlib import Path

import pytest
from checkpoints import KILL, equal, saved

from fault_injection.apart import apart
from sunlab.cli.main import main
from sunlab.files import hold

EMA = "{name: ema, decay: 0.9}"
GATHERED = "{name: loss_by_time, every: 6}"  # its windows are cut by every kind of end below


def fit(config, folder: Path, *words: object) -> int:
    return main(["fit", "--config", str(config), f"run.dir={folder}", "run.checkpoint_every=5", *map(str, words)])


def state(folder: Path) -> dict:
    """What the run's last checkpoint says of its weights, optimizer, schedule, averages, data and passes."""
    found = saved(folder)
    averages = [v for k, v in found["callbacks"].items() if k.startswith("EMA")]
    kept = {k: found[k] for k in ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "nfe") if k in found}
    return {**kept, "ema": averages, "data": found["DataModule"]}


def exported(folder: Path) -> bytes:
    return (folder / "tiny" / "export" / "adapter.safetensors").read_bytes()


def curve(folder: Path) -> dict[str, list[tuple[str, str]]]:
    """All that was logged, each with its step."""
    with (folder / "tiny" / "csv" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    logged = {name: [(row["step"], row[name]) for row in rows if row[name]] for name in rows[0]}
    assert {"epoch", "loss", "loss_by_time/0.75-1.00"} < logged.keys()
    return logged


@pytest.fixture(scope="module")
def unbroken(tiny_config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    assert fit(tiny_config, folder, "trainer.max_steps=16", f"callbacks=[{EMA}, {GATHERED}]") == 0
    return folder


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_killed_and_resumed(unbroken, tiny_config, tmp_path):
    """Over 48 samples, batches of 8: killed in the third epoch, five steps' checkpoints, three steps lost."""
    callbacks = f"callbacks=[{EMA}, {GATHERED}, {{name: kill_of_the_tests, after: 13}}]"
    words = "--plugin", KILL, "trainer.max_steps=16", callbacks
    assert apart(lambda: fit(tiny_config, tmp_path, *words)) == {}  # killed: it returns nothing
    assert state(tmp_path)["global_step"] == 10
    assert fit(tiny_config, tmp_path, "trainer.max_steps=16", f"callbacks=[{EMA}, {GATHERED}]", "--resume", "last") == 0
    assert equal(state(tmp_path), state(unbroken))
    assert exported(tmp_path) == exported(unbroken)
    assert curve(tmp_path) == curve(unbroken)


def test_slices(unbroken, tiny_config, tmp_path, capsys):
    """A time limit that is over at once trains one step a slice."""
    words = "trainer.max_steps=16", f"callbacks=[{EMA}, {GATHERED}]"
    assert fit(tiny_config, tmp_path, *words, "--time-limit", "0s") == 75
    assert "step 1; go on with --resume last" in capsys.readouterr().err
    assert not (tmp_path / "tiny" / "export").exists()
    for _ in range(2):
        assert fit(tiny_config, tmp_path, *words, "--time-limit", "0s", "--resume", "last") == 75
    assert state(tmp_path)["global_step"] == 3
    assert fit(tiny_config, tmp_path, *words, "--time-limit", "1h", "--resume", "last") == 0
    assert equal(state(tmp_path), state(unbroken))
    assert exported(tmp_path) == exported(unbroken)
    assert curve(tmp_path) == curve(unbroken)


SIGNALLED = """
import os, signal
from lightning.pytorch.callbacks import Callback
from sunlab.callbacks.base import CALLBACKS

@CALLBACKS.register("signal_of_the_test")
class Signal(Callback):
    \"\"\"As Slurm sends before the time limit, once in each attempt, in the midst of a step.\"\"\"
    def __init__(self):
        self.first = None
    def on_before_optimizer_step(self, trainer, *_):
        self.first = trainer.global_step if self.first is None else self.first
        if trainer.global_step == self.first + 3:
            os.kill(os.getpid(), signal.SIGUSR1)
"""


def test_three_preemptions_in_a_row_change_nothing(unbroken, tiny_config, tmp_path, capsys):
    """Each attempt runs the very same command, as a requeued job does; it is told to stop within its fourth step."""
    (tmp_path / "tell.py").write_text(SIGNALLED)
    words = "--plugin", tmp_path / "tell.py", f"callbacks=[{EMA}, {GATHERED}, signal_of_the_test]", "trainer.max_steps=16"
    former = signal.getsignal(signal.SIGUSR1)
    for attempt in range(1, 4):
        assert fit(tiny_config, tmp_path, *words, "--resume", "auto") == 75
        assert f"stopped by SIGUSR1 at step {4 * attempt}; go on with --resume last" in capsys.readouterr().err
        assert state(tmp_path)["global_step"] == 4 * attempt
    assert fit(tiny_config, tmp_path, *words, "--resume", "auto") == 0, "a signal within the last step changes nothing"
    assert signal.getsignal(signal.SIGUSR1) == former
    assert equal(state(tmp_path), state(unbroken))
    assert exported(tmp_path) == exported(unbroken)
    assert curve(tmp_path) == curve(unbroken)


TASKS = {
    "autoencoder": ["task=autoencoder"],
    "teacher": ["task=teacher", "data.caption_dropout=0.2"],
    "lora": ["task=student", "adapter={name: lora, rank: 2}", "loss=cfg"],
    "copy": ["task=student", "adapter=null", "loss=cfg"],
}


@pytest.mark.parametrize("task", TASKS)
def test_every_task_resumes(task, tiny_config, tmp_path):
    """Also what is exported is the same, to the byte."""
    words = [*TASKS[task], "trainer.max_steps=3", f"callbacks=[{EMA}]"]
    assert fit(tiny_config, tmp_path / "a", *words) == 0
    assert fit(tiny_config, tmp_path / "b", *words, "--time-limit", "0s") == 75
    assert fit(tiny_config, tmp_path / "b", *words, "--resume", "last") == 0
    assert equal(state(tmp_path / "b"), state(tmp_path / "a"))
    exports = [tmp_path / run / "tiny" / "export" for run in "ab"]
    files = [{p.relative_to(e): p.read_bytes() for p in e.rglob("*.safetensors")} for e in exports]
    assert files[0] and files[0] == files[1]


def test_a_slice_ends_with_a_whole_step(tiny_config, tmp_path):
    """Also where the time is over between two micro-batches."""
    words = "trainer.max_steps=3", "trainer.accumulate_grad_batches=2"
    assert fit(tiny_config, tmp_path / "a", *words) == 0
    slices = [[], ["--resume", "last"], ["--resume", "last"]]
    codes = [fit(tiny_config, tmp_path / "b", *words, "--time-limit", "0s", *resume) for resume in slices]
    assert codes == [75, 75, 0]
    assert equal(state(tmp_path / "b")["state_dict"], state(tmp_path / "a")["state_dict"])


def test_resuming_another_config_is_refused(unbroken, tiny_config, capsys):
    words = "trainer.max_steps=17", "--resume", "last", f"callbacks=[{EMA}]"
    assert fit(tiny_config, unbroken, *words, "seed=1") == 78
    assert "seed" in capsys.readouterr().err
    assert fit(tiny_config, unbroken, *words, "adapter.extra_positive=false") == 78
    assert "does not fit this model" in capsys.readouterr().err


def test_nothing_to_resume(tiny_config, tmp_path, capsys):
    assert fit(tiny_config, tmp_path, "--resume", "last") == 78
    assert "start the run without --resume" in capsys.readouterr().err


def test_two_trainings_do_not_share_a_folder(tiny_config, tmp_path, capsys):
    with hold(tmp_path / "tiny", "training.lock"):
        assert fit(tiny_config, tmp_path, "trainer.max_steps=1") == 78
    assert f"{tmp_path / 'tiny'}: another process is at work here" in capsys.readouterr().err
    assert not (tmp_path / "tiny" / "config.yaml").exists()  # nothing of the other's was touched
