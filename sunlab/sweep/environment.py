"""What a run ran on."""

import os
import platform
import socket
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import sunlab

SLURM = ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_RESTART_COUNT", "SLURM_JOB_PARTITION")


def environment(*, seed: int) -> dict[str, Any]:
    """Plain values for JSON. Of the environment's variables only Slurm's names of the job: others may be secrets."""
    return {
        "sunlab": sunlab.__version__,
        "commit": commit(Path(sunlab.__file__).parent),
        "seed": seed,
        "python": sys.version.split()[0],
        "machine": platform.platform(),
        "processors": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "accelerators": _accelerators(),
        "host": socket.gethostname(),
        "folder": str(Path.cwd()),
        "slurm": {name: os.environ[name] for name in SLURM if name in os.environ},
        "packages": dict(sorted((d.metadata["Name"], d.version) for d in distributions() if d.metadata["Name"])),
    }


def commit(folder: Path) -> str | None:
    """The git commit of the sources in `folder`, with `+changes` where files differ from it; None where there is no
    repository or no git."""
    git = ["git", "-C", str(folder)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=30)
        changes = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no", "."], capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return head.stdout.strip() + ("+changes" if changes.stdout.strip() else "")


def _accelerators() -> list[str]:
    import torch

    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
