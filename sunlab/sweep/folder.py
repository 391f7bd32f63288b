"""The folder of a sweep: the plan, the run's entries and the handles of launchers."""

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from registry import suggestion
from sunlab.config.auto import recorded
from sunlab.config.write import dump
from sunlab.errors import ConfigError
from sunlab.files import read_json, write_json, write_text
from sunlab.sweep.grid import Run, resolved
from sunlab.sweep.launchers import Job
from sunlab.sweep.spec import Sweep

SAVED = tuple(f.name for f in fields(Run) if f.name != "tree")


def write_plan(sweep: Sweep, runs: Sequence[Run]) -> Path:
    """Write sweep.yaml, plan.json, each run's config.yaml and a link to its log. Files that a run wrote do not change.
    Returns the sweep's folder."""
    folder = sweep.folder
    home = runs_of(folder)
    named = folder / "logs"
    named.mkdir(parents=True, exist_ok=True)
    for run in runs:
        file = home / run.id / "config.yaml"
        text = dump(recorded(resolved(run, home.as_posix()), file))
        write_json(home / run.id / "run.json", {key: getattr(run, key) for key in SAVED})
        if not file.is_file() or file.read_text(encoding="utf-8") != text:
            write_text(file, text)
        with suppress(OSError):  # there already, or a file system without links
            (named / log_name(run)).symlink_to(f"../runs/{run.id}/log.txt")
    write_text(folder / "sweep.yaml", dump(sweep.plain()))
    front = {"launcher": sweep.launcher, "baseline": sweep.baseline}
    write_json(folder / "plan.json", {**front, "runs": [{k: getattr(r, k) for k in SAVED} for r in runs]})
    return folder


def read_plan(folder: Path) -> list[Run]:
    """The runs of a sweep. Raises `ConfigError` if the folder holds no sweep."""
    return [_run(saved) for saved in _plan(folder)["runs"]]


def read_run(folder: Path) -> Run:
    """The entry of a run's folder. Raises `ConfigError` if it is not a run's folder."""
    found = read_json(folder / "run.json")
    if found is None:
        raise ConfigError(f"{folder}: no run of a sweep here (no run.json)")
    return _run(found)


def read_launcher(folder: Path) -> Any:
    """The configuration of the launcher that last started the sweep."""
    return _plan(folder)["launcher"]


def read_baseline(folder: Path) -> str | None:
    """The row that the others are compared with."""
    found = _plan(folder)["baseline"]
    return None if found is None else str(found)


def runs_of(folder: Path) -> Path:
    return folder / "runs"


def run_folder(folder: Path, run: Run) -> Path:
    return runs_of(folder) / run.id


def unique(runs: Sequence[Run]) -> list[Run]:
    """Each identity once."""
    return list({run.id: run for run in reversed(runs)}.values())[::-1]


def log_name(run: Run) -> str:
    """The file name of a run's log in `logs/`: the run's name and the start of its identity."""
    plain = re.sub(r"[^\w ,.=+-]", "_", run.name)
    return f"{plain[:60]} ({run.id[:4]}).txt"


def jobs_of(folder: Path, runs: Sequence[Run]) -> list[Job]:
    """The jobs of a launcher, each identity once."""
    return [Job(r.id, r.name, run_folder(folder, r), r.needs, r.tree.get("trainer", {})) for r in unique(runs)]


@dataclass(frozen=True)
class Handle:
    """`handle.json` in a run's folder: the run's name in its launcher.

    Attributes:
        launcher: its name and options, as in a configuration.
        handle: the run's name in the launcher, such as a job number.
        mine: whether this user queued the run.
    """

    launcher: Any
    handle: str
    mine: bool = True


def read_handle(place: Path) -> Handle | None:
    """The handle in a run's folder; None if no launcher has queued it."""
    file = place / "handle.json"
    found = read_json(file)
    return None if found is None else Handle(found["launcher"], str(found["handle"]), file.stat().st_uid == os.getuid())


def write_handle(place: Path, launcher: Any, handle: str) -> None:
    write_json(place / "handle.json", {"launcher": launcher, "handle": handle})


def _run(saved: dict[str, Any]) -> Run:
    return Run(**{**saved, "needs": tuple(saved["needs"]), "do": tuple(saved["do"])})


def _plan(folder: Path) -> Any:
    found = read_json(folder / "plan.json")
    if found is None:
        near = [path.parent.name for path in folder.parent.glob("*/plan.json")] if folder.parent.is_dir() else []
        raise ConfigError(
            f"{folder}: no sweep here (no plan.json); {suggestion(folder.name, near, noun='sweeps beside it')}"
        )
    return found
