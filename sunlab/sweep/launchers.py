"""The contract of a launcher."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from registry import Registry


class Launcher(ABC):
    """Starts runs somewhere. All that is run is `sunlab fit --config FILE`."""

    @abstractmethod
    def launch(self, configs: Sequence[Path], arguments: Sequence[str] = ()) -> list[int]:
        """Run every configuration and wait for all of them.

        Args:
            configs: one file a run; each gives its own `run.name`, or has a file name of its own.
            arguments: further arguments of `sunlab fit` for every run, such as `--resume last`.

        Returns:
            The exit code of each run, in the order of `configs`. One that fails does not stop the others.
        """


LAUNCHERS: Registry[Launcher] = Registry(
    "launcher",
    base=Launcher,
    entry_points="sunlab.launchers",
    plugs=("sunlab.sweep.local",),
)
