"""A loss that owns a network: docs/critic.md's, trained, killed and resumed."""

import re
import signal
from pathlib import Path

import pytest
import torch
from checkpoints import KILL, equal, saved
from torch import nn

from registry import load_plugins
from sunlab.cli.main import main
from sunlab.errors import ConfigError
from sunlab.losses import Loss
from sunlab.modules.turns import Turns
from sunlab.testing import LossContract

ROOT = Path(__file__).parents[2]
EMA = "{name: ema, decay: 0.9}"
WORDS = (
    "loss={name: judged, critic_steps: 2}",
    "trainer.max_steps=8",
    "run.checkpoint_every=4",
    "trainer.gradient_clip_val=0.001",
)


@pytest.fixture(scope="module")
def critic(tmp_path_factory):
    block = re.search(r"```python\n(import torch.*?)```", (ROOT / "docs" / "critic.md").read_text(), re.S)
    file = tmp_path_factory.mktemp("plugin") / "my_critic.py"
    file.write_text(block[1])
    return file


def words(config, critic, folder, *more):
    return ["fit", "--config", str(config), "--plugin", str(critic), f"run.dir={folder}", *WORDS, *more]


def optimizers(state):
    """The states of the student's and of the networks'."""
    return state["optimizer_states"][0]["optimizers"]


@pytest.fixture(scope="module")
def unbroken(tiny_config, critic, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    assert main(words(tiny_config, critic, folder, f"callbacks=[{EMA}]", "loss.name=judged")) == 0
    return folder


def test_both_are_trained_in_turn(unbroken):
    """Eight batches: six of the critic, two of the student."""
    state = saved(unbroken)
    student, critic = optimizers(state)
    assert {int(s["step"]) for s in student["state"].values()} == {2}
    assert {int(s["step"]) for s in critic["state"].values()} == {6}
    assert state["global_step"] == 8
    assert {"loss.critic.0.weight", "loss.critic.2.bias"} <= state["state_dict"].keys()
    (average,) = [v for k, v in state["callbacks"].items() if k.startswith("EMA")]
    assert average["steps"] == 2 and not any("critic" in name for name in average["average"])


RESUMED = ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "nfe")


def test_stopped_and_resumed(unbroken, tiny_config, critic, tmp_path):
    """Between two steps of the critic, in one process."""
    given = words(tiny_config, critic, tmp_path, f"callbacks=[{EMA}]")
    assert main([*given, "--time-limit", "0s"]) == 75
    assert saved(tmp_path)["global_step"] == 1
    assert main([*given, "--resume", "last"]) == 0
    ours, theirs = saved(tmp_path), saved(unbroken)
    for key in RESUMED:
        assert equal(ours[key], theirs[key]), key


@pytest.mark.slow
def test_killed_and_resumed(unbroken, tiny_config, critic, sunlab_process, tmp_path):
    callbacks = f"callbacks=[{EMA}, {{name: kill_of_the_tests, after: 7}}]"
    done = sunlab_process(*words(tiny_config, critic, tmp_path, "--plugin", KILL, callbacks))
    assert done.returncode == -signal.SIGKILL
    assert saved(tmp_path)["global_step"] == 4
    assert main(words(tiny_config, critic, tmp_path, f"callbacks=[{EMA}]", "--resume", "last")) == 0
    ours, theirs = saved(tmp_path), saved(unbroken)
    for key in RESUMED:
        assert equal(ours[key], theirs[key]), key


def test_accumulated_micro_batches_train_as_whole_batches(unbroken, tiny_config, critic, tmp_path):
    """Whose turn it is counts by optimizer steps: two micro-batches each."""
    words_ = words(tiny_config, critic, tmp_path, f"callbacks=[{EMA}]", "trainer.accumulate_grad_batches=2")
    assert main(words_) == 0
    assert_same_training(tmp_path, unbroken)


@pytest.mark.slow
def test_two_processes_train_as_one(unbroken, tiny_config, critic, sunlab_process, tmp_path):
    ranks = "trainer.devices=2", "trainer.strategy=ddp"
    two = sunlab_process(*words(tiny_config, critic, tmp_path, f"callbacks=[{EMA}]", *ranks))
    assert two.returncode == 0, two.stderr
    assert_same_training(tmp_path, unbroken)


def assert_same_training(folder, other):
    ours, theirs = saved(folder), saved(other)
    assert ours["global_step"] == theirs["global_step"] and ours["nfe"] == theirs["nfe"]
    assert ours["state_dict"].keys() == theirs["state_dict"].keys()
    for name, tensor in theirs["state_dict"].items():
        torch.testing.assert_close(ours["state_dict"][name], tensor, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("override", "message"),
    [("loss.critic_steps=0", "give at least 1")],
)
def test_what_is_not_supported_is_refused(override, message, tiny_config, critic, tmp_path, capsys):
    assert main(words(tiny_config, critic, tmp_path, override)) == 78
    assert message in capsys.readouterr().err


def test_a_critic_without_gradients_for_the_student(tiny_config, critic, tmp_path):
    """Within the critic's turn the student's weights do not move: one step trains the critic alone."""
    assert main(words(tiny_config, critic, tmp_path, "trainer.max_steps=2", "callbacks=[]")) == 0
    student, _ = optimizers(saved(tmp_path))
    assert not student["state"]


BROKEN = """
import torch
from sunlab.losses import LOSSES
Judged = LOSSES.get("judged").factory

@LOSSES.register("broken")
class Broken(Judged):
    \"\"\"One batch of the network is not finite.\"\"\"
    calls = 0
    def critic_step(self, batch, student, teacher):
        self.calls += 1
        return super().critic_step(batch, student, teacher) * (torch.nan if self.calls == 2 else 1)
"""


def test_steps_that_are_not_finite_are_skipped(tiny_config, critic, tmp_path, capsys):
    (tmp_path / "broken.py").write_text(BROKEN)
    more = "--plugin", str(tmp_path / "broken.py"), "loss={name: broken, critic_steps: 2}", "trainer.max_steps=6"
    assert main(words(tiny_config, critic, tmp_path, *more)) == 0
    state = saved(tmp_path)
    student, network = optimizers(state)
    assert {int(s["step"]) for s in student["state"].values()} == {2}
    assert {int(s["step"]) for s in network["state"].values()} == {3} and state["global_step"] == 6
    assert "Skipped, 1 in a row, 1 in all" in capsys.readouterr().err


DIVERGED = (
    BROKEN.replace("broken", "diverged")
    .replace("Broken", "Diverged")
    .replace("torch.nan if self.calls == 2 else 1", "torch.inf if self.calls > 2 else 1")
)


def test_a_diverged_critic_ends_the_run(tiny_config, critic, tmp_path, capsys):
    """Although the student's steps between are finite; the weights of both and the checkpoint before are kept."""
    (tmp_path / "diverged.py").write_text(DIVERGED)
    more = "--plugin", str(tmp_path / "diverged.py"), "loss={name: diverged, critic_steps: 2}", "run.skip_limit=3"
    assert main(words(tiny_config, critic, tmp_path, *more)) == 65
    message = capsys.readouterr().err
    assert "of the loss's networks is not finite" in message and "critic_lr" in message and "skip_limit" in message
    state = saved(tmp_path)
    assert state["global_step"] == 4 and all(bool(tensor.isfinite().all()) for tensor in state["state_dict"].values())
    student, network = optimizers(state)
    assert {int(s["step"]) for s in network["state"].values()} == {2} and len(student["state"])


def test_gradients_are_clipped(unbroken, tiny_config, critic, tmp_path):
    free = ["trainer.gradient_clip_val=null", f"callbacks=[{EMA}]"]
    assert main(words(tiny_config, critic, tmp_path, *free)) == 0
    first, second = (optimizers(saved(folder))[1]["state"] for folder in (tmp_path, unbroken))
    assert any(not torch.equal(first[k]["exp_avg_sq"], second[k]["exp_avg_sq"]) for k in first)


def test_it_keeps_the_contract_of_a_loss(critic):
    load_plugins([str(critic)])
    contract = type("Contract", (LossContract,), {"component": "judged"})()
    contract.test_its_networks_learn_alone("flow")
    contract.test_a_sample_does_not_depend_on_its_batch("vp")
    with pytest.raises(pytest.skip.Exception, match="compare instead"):
        contract.test_the_given_distance_is_used()


def test_over_prompts_alone_it_names_what_it_needs(critic, tiny_config, tmp_path, capsys):
    (tmp_path / "prompts.txt").write_text("a pizza\n" * 16)
    source = f"data.source={{name: prompts, urls: ['{tmp_path / 'prompts.txt'}']}}"
    assert main(words(tiny_config, critic, tmp_path, "loss.name=judged", source)) == 78
    message = capsys.readouterr().err
    assert "loss: judged needs images or latents" in message and "data.source" in message and "another loss" in message


def test_networks_must_be_submodules():
    class Loose(Loss):
        def __call__(self, batch, student, teacher, distance): ...

        def networks(self):
            return [nn.Linear(1, 1)]

    with pytest.raises(ConfigError, match=r"torch\.nn\.Module"):
        Turns(Loose(), nn.Identity())


OURS = {
    "dmd": "loss={name: dmd, critic_steps: 2, gan: 0.1, fake: {name: lora, rank: 2}}",
    "pcm": "loss={name: pcm, critic_steps: 2, gan: 0.1, critic_lr: 1.0e-3}",
}


@pytest.mark.slow
@pytest.mark.parametrize("loss", OURS)
def test_a_killed_run_resumed_is_the_unbroken_one(loss, tiny_config, sunlab_process, tmp_path):
    """The student, the fake score, the discriminator, both optimizers and the counts of evaluations."""

    def run(folder, *more):
        plugin, steps = ("--plugin", KILL), ("trainer.max_steps=7", "run.checkpoint_every=2")
        return ["fit", "--config", str(tiny_config), *plugin, f"run.dir={folder}", OURS[loss], *steps, *more]

    assert main(run(tmp_path / "whole", f"callbacks=[{EMA}]")) == 0
    killed = sunlab_process(*run(tmp_path / "cut", f"callbacks=[{EMA}, {{name: kill_of_the_tests, after: 5}}]"))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert saved(tmp_path / "cut")["global_step"] == 4
    assert main(run(tmp_path / "cut", f"callbacks=[{EMA}]", "--resume", "last")) == 0
    ours, theirs = saved(tmp_path / "cut"), saved(tmp_path / "whole")
    assert any("discriminator" in name for name in ours["state_dict"])
    for key in RESUMED:
        assert equal(ours[key], theirs[key]), key
