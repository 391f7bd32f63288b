"""The use cases of `sunlab sweep`: start, resume, look, cancel, run. Only `run` imports torch."""

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
from sunlab.sweep.launchers import LAUNCHERS, Launcher
from sunlab.sweep.record import RunState
from sunlab.sweep.spec import Sweep
from sunlab.sweep.survey import Standing, survey

Tell = Callable[[str], None]


def start(sweep: Sweep, tell: Tell = print) -> Path:
    """Write the plan and launch the runs that have not started or were interrupted (`RunState.may_start`).

    Returns:
        The sweep's folder. With a scheduler at once, with the local launcher after the last run.

    Raises:
        ConfigError: an invalid configuration, with the name of its group; or another process uses the folder.
    """
    launcher = build_launcher(sweep.launcher)
    runs = plan(sweep)
    with hold(sweep.folder):
        write_plan(sweep, runs)
        _launch(sweep.folder, launcher, sweep.launcher, failed=False, tell=tell)
    return sweep.folder


def script(sweep: Sweep) -> str:
    """What `start` would run in an empty folder. Writes nothing."""
    return build_launcher(sweep.launcher).script(jobs_of(sweep.folder, plan(sweep)))


def resume(folder: Path, *, launcher: str | None = None, tell: Tell = print) -> None:
    """Launch the runs that have not started, were interrupted or failed. Args: launcher, instead of the last one."""
    spec = read_launcher(folder)
    if launcher is not None and launcher != _name(spec):
        spec = launcher
    with hold(folder):
        _launch(folder, build_launcher(spec), spec, failed=True, tell=tell)


def look(folder: Path) -> tuple[list[Run], dict[str, Standing]]:
    """The plan's runs, and the standing of each identity; from `status.json` alone if no scheduler answers."""
    runs = read_plan(folder)
    try:
        known = _known(folder, runs)
    except ConfigError as error:
        print(f"{error}\nthe states below are from status.json alone", file=sys.stderr)
        known = {}
    return runs, survey(folder, runs, known)


def cancel(folder: Path) -> list[Standing]:
    """Stop running runs and remove waiting ones from the queue. Returns both."""
    _, standings = look(folder)
    concerned = {id: s for id, s in standings.items() if s.under_way}
    for spec, handles in _handles(folder, [s.run for s in concerned.values()]):
        build_launcher(spec).cancel({id: handle.handle for id, handle in handles.items()})
    return list(concerned.values())


def run(folder: Path, *, ready: Callable[[], None] = lambda: None) -> None:
    """One attempt at one run: what every launcher starts. Raises as `attempt`. Args: ready, called after the imports."""

    def work(entry: Run, place: Path, signals: Signals) -> None:
        from sunlab.app.sweep_run import work

        ready()
        work(entry, place, signals)

    def assist(entry: Run, place: Path, signals: Signals) -> None:
        from sunlab.app.sweep_run import assist

        ready()
        assist(entry, place, signals)

    attempt(folder, work, assist)


def build_launcher(spec: Any) -> Launcher:
    return LAUNCHERS.build(spec, key="launcher")


def _launch(folder: Path, launcher: Launcher, spec: Any, *, failed: bool, tell: Tell) -> None:
    """Launch the runs that may start. Args: failed, also those that failed."""
    runs = read_plan(folder)
    standings = survey(folder, runs, _known(folder, runs))
    going = {id for id, s in standings.items() if s.queued or s.state in (RunState.DONE, RunState.RUNNING)}
    wanted: list[Run] = []
    for run in unique(runs):  # parents first: a child starts if all that it needs are done or under way
        state = standings[run.id].state
        may_start = state.may_start or (failed and state is RunState.FAILED)
        if run.id not in going and may_start and going.issuperset(run.needs):
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


def _known(folder: Path, runs: Sequence[Run]) -> Mapping[str, RunState]:
    """The states that schedulers report. GONE counts only for this user's jobs: some schedulers hide those of others."""
    found: dict[str, RunState] = {}
    for spec, handles in _handles(folder, unique(runs)):
        states = build_launcher(spec).states({id: handle.handle for id, handle in handles.items()})
        found |= {id: RunState(s) for id, s in states.items() if s != RunState.GONE or handles[id].mine}
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
