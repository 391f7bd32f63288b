"""The contract of a launcher, as far as nothing is started."""

from pathlib import Path
from typing import ClassVar

from sunlab.sweep.launchers import Job
from sunlab.testing.component import ComponentContract

NEVER = Path("a folder that is not there")


class LauncherContract(ComponentContract):
    """A launcher shows what it would start, and touches nothing doing so."""

    kind: ClassVar[str] = "launchers"

    def jobs(self) -> list[Job]:
        names = ("a", "b")
        return [Job(name, f"{name}, seed 0", NEVER / "runs" / name, (), {"accelerator": "cpu"}) for name in names]

    def test_the_script_shows_every_run_and_touches_nothing(self) -> None:
        script = self.build().script(self.jobs())
        assert all(str(job.folder) in script for job in self.jobs())
        assert not NEVER.exists()

    def test_no_runs_no_handles(self) -> None:
        assert dict(self.build().submit([], {})) == {}
        assert not NEVER.exists()
