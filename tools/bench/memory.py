"""What a training step holds in memory."""

import ctypes
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import nn


def bytes_of(modules: Iterable[nn.Module]) -> int:
    """Of all weights and buffers, a shared one counted once."""
    tensors = {id(t): t for module in modules for t in (*module.parameters(), *module.buffers())}
    return sum(t.nbytes for t in tensors.values())


def peak_over(step: Callable[[], object], device: str) -> int:
    """How far memory rises in a step above what was held before it, in bytes. On a CPU: resident memory, by Linux's own
    high-water mark, which is reset first."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return torch.cuda.max_memory_allocated() - before
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    step()
    return _status("VmHWM") - before


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))
