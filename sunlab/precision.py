"""The number format that a device computes in natively, and what `auto` means for `trainer.precision` and `model.dtype`.

bfloat16 is fast on GPUs since NVIDIA's Ampere and on CPUs with AVX-512 BF16, AMX or Arm BF16. Elsewhere it is emulated: a
matrix product took 70 times as long as in float32 on a CPU with AVX2 alone.
"""

import os
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch

AUTO = "auto"
SWITCH = "SUNLAB_NATIVE_BF16"
"""Environment variable: 0 treats this machine's CPU as one without native bfloat16, 1 as one with it."""
EXTENSIONS = {"avx512_bf16": "AVX-512 BF16", "amx_bf16": "AMX", "bf16": "Arm BF16"}
"""Flags of /proc/cpuinfo, by which the kernel names instructions that multiply bfloat16 numbers."""
BELOW = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI")
"""Values of ONEDNN_MAX_CPU_ISA that keep oneDNN from those instructions."""
CPUINFO = Path("/proc/cpuinfo")
SIZE = 256  # rows of the matrices whose product is timed


@dataclass(frozen=True)
class Native:
    """What a device computes natively.

    Attributes:
        bf16: whether bfloat16 is one of its formats.
        reason: the device and why, for people.
    """

    bf16: bool
    reason: str

    @property
    def precision(self) -> str:
        """Lightning's name of the precision to train in."""
        return "bf16-mixed" if self.bf16 else "32-true"

    @property
    def dtype(self) -> str:
        """The type of frozen weights, and the precision to draw in."""
        return "bfloat16" if self.bf16 else "float32"


def native(device: torch.device | str) -> Native:
    """What `device` computes natively.

    Args:
        device: of type cpu, cuda or any other; of any other, float32 is all that is assumed.
    """
    kind = torch.device(device).type
    if kind == "cpu":
        return _cpu()
    if kind != "cuda":
        return Native(False, f"bfloat16 is not used on {kind}")
    name = torch.cuda.get_device_name(device)
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return Native(True, f"{name} computes bfloat16 natively")
    return Native(False, f"{name} has no native bfloat16")


def _cpu() -> Native:
    switch, limit = os.environ.get(SWITCH), os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()
    if switch is not None:
        return Native(switch == "1", f"{SWITCH}={switch}")
    if limit in BELOW:
        return Native(False, f"ONEDNN_MAX_CPU_ISA={limit} has no native bfloat16")
    try:
        flags = set(CPUINFO.read_text().split())
    except OSError:
        flags = set()
    found = [name for flag, name in EXTENSIONS.items() if flag in flags]
    if found:
        return Native(True, f"this CPU has {' and '.join(found)}")
    return Native(False, "this CPU has no native bfloat16 (AVX-512 BF16, AMX or Arm BF16)")


def dtype_on(name: str, device: torch.device | str) -> torch.dtype:
    """The torch type of `float32`, `bfloat16`, `float16` or `auto` on `device`."""
    return getattr(torch, native(device).dtype if name == AUTO else name)


def warn_if_slow(value: str, device: torch.device | str, *, key: str) -> None:
    """Warn, with the measured cost, where `value` is a bfloat16 precision or type and `device` a CPU without it.

    Args:
        value: a precision of Lightning's or a type. `16-mixed` counts: on CPUs Lightning takes bfloat16 for it.
        key: the configuration's, for the message.
    """
    if torch.device(device).type != "cpu" or not (value.startswith(("bf16", "bfloat16")) or value == "16-mixed"):
        return
    found = native(device)
    if not found.bf16:
        warnings.warn(
            f"{key}={value}: {found.reason}; here a matrix product takes {slowdown():.1f} times as long in bfloat16 as in "
            f"float32. Set {key}={AUTO}, which takes {found.precision if 'precision' in key else found.dtype} here",
            stacklevel=2,
        )


def slowdown() -> float:
    """Time of a matrix product in bfloat16 on this CPU, in times of the same in float32."""
    seconds = []
    for dtype in (torch.float32, torch.bfloat16):
        a = torch.ones(SIZE, SIZE, dtype=dtype)
        best = float("inf")
        for _ in range(3):
            start = time.perf_counter()
            a @ a
            best = min(best, time.perf_counter() - start)
        seconds.append(best)
    return seconds[1] / seconds[0]
