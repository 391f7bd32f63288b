"""The last checkpoint of a run of `tiny_config`, the comparison of two, and the plug-in that kills a run."""

from pathlib import Path
from typing import Any

import torch

KILL = str(Path(__file__).parent / "plugins" / "kill.py")
"""Registers the callback `kill_of_the_tests` with the parameters `after` (a step) and `rank`."""


def saved(folder: Path) -> dict[str, Any]:
    """What the last checkpoint of the run in `folder` holds."""
    return torch.load(folder / "tiny" / "checkpoints" / "last.ckpt", weights_only=True)


def equal(a: Any, b: Any) -> bool:
    """Whether two states, nested as checkpoints are, are equal to the bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b
