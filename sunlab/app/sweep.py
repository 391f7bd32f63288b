"""The composition root of `sunlab sweep`: plan, launch, look, stop. Torch is loaded by what runs, not by what looks."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sunlab.config.write import flow
from sunlab.distributed.signals import Signals
from sunlab.errors import ConfigError
from sunlab.files import hold
from sunlab.sweep.attempt import attempt
from sunlab.sweep.folder import (
    Handle,
    jobs_of,
    read_handle,
    read_launcher,
    read_plan,
    run_folder,
    runs_of,
    unique,
    write_handle,
    write_plan,
)
from sunlab.sweep.grid import Run, plan
from sunlab.sweep.launchers import LAUNCHERS, Launcher, Queued
from sunlab.sweep.spec import Sweep
from sunlab.sweep.survey import Standing, survey

Tell = Callable[[str], None]


def start(sweep: Sweep, tell: Tell = print) -> Path:
    """Write the plan and launch what was not started yet, or was interrupted. What is done, runs, waits or failed stays.

    Returns:
        The sweep's folder: at once with a scheduler, when all has ended with the local launcher.

    Raises:
        ConfigError: a wrong configuration, by the group that asks for it; or another process is at work in the folder.
    """
    launcher = build_launcher(sweep.launcher)
    runs = plan(sweep)
    with hold(sweep.folder):
        write_plan(sweep, runs)
        _launch(sweep.folder, launcher, sweep.launcher, again=("pending", "stopped", "skipped", "cancelled"), tell=tell)
    return sweep.folder


def script(sweep: Sweep) -> str:
    """What `start` would run, were nothing done yet. Writes nothing."""
    return build_launcher(sweep.launcher).script(jobs_of(sweep.folder, plan(sweep)))


def resume(folder: Path, *, launcher: str | None = None, tell: Tell = print) -> None:
    """Launch what is missing, interrupted or failed, and nothing else. Args: launcher, in the place of the last one."""
    spec = read_launcher(folder)
    if launcher is not None and launcher != _name(spec):
        spec = launcher
    with hold(folder):
        again = ("pending", "stopped", "skipped", "cancelled", "failed")
        _launch(folder, build_launcher(spec), spec, again=again, tell=tell)


def look(folder: Path) -> tuple[list[Run], dict[str, Standing]]:
    """The plan's runs, and how each identity stands; by the runs' own words alone where no scheduler answers here."""
    runs = read_plan(folder)
    try:
        known = _known(folder, runs)
    except ConfigError as error:
        print(f"{error}\nwhat follows is what the runs say of themselves", file=sys.stderr)
        known = {}
    return runs, survey(folder, runs, known)


def cancel(folder: Path) -> list[Standing]:
    """Stop what runs and forget what waits. Those that were."""
    _, standings = look(folder)
    concerned = {id: s for id, s in standings.items() if s.state in ("running", "requeued") or s.queued}
    for spec, handles in _handles(folder, [s.run for s in concerned.values()]):
        build_launcher(spec).cancel({id: handle.handle for id, handle in handles.items()})
    return list(concerned.values())


def run(folder: Path, *, ready: Callable[[], None] = lambda: None) -> None:
    """One attempt at one run: what every launcher starts. Raises as `attempt`. Args: ready, called when all is imported."""

    def work(asked: Run, place: Path, signals: Signals) -> None:
        from sunlab.app.sweep_run import work

        ready()
        work(asked, place, signals)

    def assist(asked: Run, place: Path, signals: Signals) -> None:
        from sunlab.app.sweep_run import assist

        ready()
        assist(asked, place, signals)

    attempt(folder, work, assist)


def build_launcher(spec: Any) -> Launcher:
    return LAUNCHERS.build(spec, key="launcher")


def _launch(folder: Path, launcher: Launcher, spec: Any, *, again: Sequence[str], tell: Tell) -> None:
    runs = read_plan(folder)
    standings = survey(folder, runs, _known(folder, runs))
    going = {id for id, s in standings.items() if s.state == "done" or s.state == "running" or s.queued}
    wanted: list[Run] = []
    for run in unique(runs):  # parents first: a child goes where all that it needs goes or is done
        if run.id not in going and standings[run.id].state in again and going.issuperset(run.needs):
            wanted.append(run)
            going.add(run.id)
    waiting = [s.run for s in standings.values() if s.queued]
    earlier = {id: one.handle for _, handles in _handles(folder, waiting, only=spec) for id, one in handles.items()}
    if not wanted:
        tell("nothing to start")
        return
    tell(f"{len(wanted)} of {len(standings)} runs to do, in {folder}")
    names = {run.id: run.name for run in wanted}
    for id, handle in launcher.submit(jobs_of(folder, wanted), earlier):
        write_handle(runs_of(folder) / id, spec, handle)
        tell(f"{names[id]}: {_name(spec)} {handle}, log {runs_of(folder) / id / 'log.txt'}")


def _known(folder: Path, runs: Sequence[Run]) -> Mapping[str, Queued]:
    """What schedulers say. That they have no such job counts only where this user queued it: some tell others nothing."""
    found: dict[str, Queued] = {}
    for spec, handles in _handles(folder, unique(runs)):
        states = build_launcher(spec).states({id: handle.handle for id, handle in handles.items()})
        found |= {id: state for id, state in states.items() if state != "gone" or handles[id].mine}
    return found


def _handles(folder: Path, runs: Sequence[Run], *, only: Any = None) -> list[tuple[Any, dict[str, Handle]]]:
    """Handles by run, grouped by the launcher that gave them. Args: only, the launcher whose handles are wanted."""
    groups: dict[str, tuple[Any, dict[str, Handle]]] = {}
    for run in runs:
        found = read_handle(run_folder(folder, run))
        if found is not None and (only is None or _name(found.launcher) == _name(only)):
            groups.setdefault(flow(found.launcher), (found.launcher, {}))[1][run.id] = found
    return list(groups.values())


def _name(spec: Any) -> str:
    name = spec.get("name") if isinstance(spec, Mapping) else spec
    if not isinstance(name, str):
        raise ConfigError(f"launcher: expected a name, or a mapping with `name`, got {spec!r}")
    return name
