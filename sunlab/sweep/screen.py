"""The states of a sweep's runs, as a table on the terminal."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from sunlab.files import read_json
from sunlab.sweep.folder import run_folder, runs_of, unique
from sunlab.sweep.grid import Run
from sunlab.sweep.record import RunState
from sunlab.sweep.survey import Standing

COLOURS = {
    RunState.DONE: "green",
    RunState.RUNNING: "cyan",
    RunState.REQUEUED: "yellow",
    RunState.STOPPED: "yellow",
    RunState.FAILED: "red",
    RunState.SKIPPED: "magenta",
    RunState.CANCELLED: "magenta",
}
Looked = tuple[list[Run], dict[str, Standing]]


def watch(look: Callable[[], Looked], folder: Path, *, every: float | None = None) -> None:
    """Print the table; with `every`, again after so many seconds until no run is under way."""
    console = Console()
    if every is None:
        console.print(screen(look(), folder))
        return
    with Live(console=console, auto_refresh=False) as live:
        while True:
            looked = look()
            live.update(screen(looked, folder), refresh=True)
            if not any(standing.under_way for standing in looked[1].values()):
                return
            time.sleep(every)


def screen(looked: Looked, folder: Path) -> Table:
    runs, standings = looked
    states = [standing.state for standing in standings.values()]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    table = Table(box=box.SIMPLE, title=f"{folder}: {counts}", title_justify="left")
    table.add_column("run")
    table.add_column("folder", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("try", justify="right")
    table.add_column("time", justify="right", no_wrap=True)
    table.add_column("result or error")
    for run in unique(runs):
        standing = standings[run.id]
        status = standing.status
        colour = COLOURS.get(standing.state, "default")
        table.add_row(
            escape(run.name),
            run.id,
            f"[{colour}]{standing.state}[/]",
            str(status.attempt) if status else "",
            _time(standing),
            escape(numbers(run_folder(folder, run)) if standing.state is RunState.DONE else standing.error),
        )
    table.caption = f"logs: {runs_of(folder)}/FOLDER/log.txt"
    table.caption_justify = "left"
    return table


def numbers(place: Path) -> str:
    """The first distance of each variant on the first base; without an evaluation, the cost of the training."""
    found = read_json(place / "metrics.json") or {}
    bases: Sequence[Mapping[str, Any]] = (found.get("evaluation") or {}).get("bases", ())
    rows = [row for row in bases[0]["rows"] if not row["reference"]] if bases else []
    parts = []
    for row in rows:
        name, value = next(iter(row["values"].items()), ("", None))
        if value is not None and value["value"] is not None:
            parts.append(f"{row['name']}: {name} {value['value']:.4g}")
    if not parts and found.get("training"):
        parts = [f"{found['training']['steps']} steps in {found['training']['seconds']:.0f} s"]
    return "; ".join(parts)


def _time(standing: Standing) -> str:
    status = standing.status
    if status is None:
        return ""
    end = status.ended if status.ended is not None else time.time() if standing.state is RunState.RUNNING else None
    if end is None:
        return ""
    minutes, seconds = divmod(int(end - status.started), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
