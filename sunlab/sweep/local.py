"""Runs on this machine."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from sunlab.sweep.launchers import LAUNCHERS, Launcher


@LAUNCHERS.register("local")
class Local(Launcher):
    """One run after the other on this machine, each in a process of its own.

    Args:
        threads: CPU threads of each run; null leaves it to torch.
    """

    def __init__(self, *, threads: int | None = None):
        self.threads = threads

    def launch(self, configs: Sequence[Path], arguments: Sequence[str] = ()) -> list[int]:
        environment = dict(os.environ)
        if self.threads is not None:
            environment["OMP_NUM_THREADS"] = str(self.threads)
        codes = []
        for config in configs:
            command = [sys.executable, "-m", "sunlab", "fit", "--config", str(config), *arguments]
            codes.append(subprocess.run(command, env=environment, check=False).returncode)
        return codes
