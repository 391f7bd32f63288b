"""A run that is killed, and the comparison of checkpoints of two processes."""

import pytest
import torch

KILL = """
import os, signal
from lightning.pytorch.callbacks import Callback
from sunlab.callbacks.base import CALLBACKS

@CALLBACKS.register("kill_in_turns")
class Kill(Callback):
    \"\"\"As `kill -9` from outside, after a step.\"\"\"
    def __init__(self, *, after: int):
        self.after = after
    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.after:
            os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope="session")
def kill(tmp_path_factory):
    """A plug-in's file with the callback `kill_in_turns`; one file, since a name may be registered from one place alone."""
    file = tmp_path_factory.mktemp("kill") / "kill.py"
    file.write_text(KILL)
    return str(file)


@pytest.fixture(scope="session")
def equal():
    """Whether two states are equal to the bit, nested as checkpoints are."""

    def compare(a, b):
        if isinstance(a, torch.Tensor):
            return torch.equal(a, b)
        if isinstance(a, dict):
            return a.keys() == b.keys() and all(compare(a[k], b[k]) for k in a)
        if isinstance(a, (list, tuple)):
            return len(a) == len(b) and all(map(compare, a, b))
        return a == b

    return compare
