"""What the report consists of, most valuable first, and what a part is given."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

import torch

from gpu.record import Goal, Report


@dataclass(frozen=True)
class Part:
    """A part of the report.

    Attributes:
        title: for people.
        module: of this package; its function `measure(bench)` measures.
        seconds: its share of eight minutes, about as long as it took on an H200 with 16 cores.
    """

    title: str
    module: str
    seconds: int


PARTS = {
    "tests": Part("The tests marked gpu", "device_tests", 110),
    "sampling": Part("Sampling at Stable Diffusion 1.5's size", "sampling", 140),
    "training": Part("Training at 512 pixels", "training", 55),
    "waits": Part("Synchronisations in training and sampling steps", "waits", 20),
    "idle": Part("Idle time of the GPU in training", "idle", 60),
    "families": Part("The larger families", "families", 35),
    "ranks": Part("One rank of DDP and of FSDP2", "ranks", 25),
    "quickstart": Part("The quickstart on emoji-sd", "quickstart", 35),
}


@dataclass(frozen=True)
class Bench:
    """What a part measures with.

    Attributes:
        part: its name.
        device: `cuda` or `cpu`.
        tiny: whether sizes and rounds are as small as they can be; the figures mean nothing then.
    """

    report: Report
    part: str
    device: str
    tiny: bool

    def figure(
        self, name: str, values: float | Sequence[float], unit: str = "", goal: Goal | None = None, note: str = ""
    ) -> None:
        """Add a figure to the report at once; see `Report.add`."""
        self.report.add(self.part, name, values, unit, goal, note)

    @property
    def dtype(self) -> torch.dtype:
        """Of the frozen weights."""
        return torch.float32 if self.device == "cpu" else torch.bfloat16

    def pick(self, full: int, tiny: int) -> int:
        """A size or a count of rounds."""
        return tiny if self.tiny else full


def measure(name: str, report: Report, device: str, *, tiny: bool) -> None:
    """Run a part in this process."""
    bench = Bench(report, name, device, tiny)
    report.set_state(name, "running")
    import_module(f"gpu.{PARTS[name].module}").measure(bench)
